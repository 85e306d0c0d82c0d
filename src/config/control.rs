//! `[control]`: where operators reach a running gatepost.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::text;
use crate::control::Token;
use crate::control::settings::{Settings, Socket};
use crate::control::token::{LEAST, MOST};

/// The longest path of a socket: the kernel's address has 108 bytes with its end, and it is made under a longer name.
const LONGEST: usize = 90;

/// How much of a token's file is read at the most.
const FILE_LIMIT: u64 = 64 << 10;

/// Reads the section; files that it names are looked for in `folder`.
pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Settings {
    let inspection = table.inspection();
    let socket = read_socket(table);
    let group = table.value("group", group);
    if let Some(group) = group.as_ref().filter(|_| socket == Socket::Off) {
        let wrong = Wrong::new("this has no effect: there is no socket", "take it out, or give `socket` a path");
        inspection.warning(group.span(), wrong);
    }
    let file = table.value("token_file", |value| text(value).map(PathBuf::from));
    let variable = table.value("token_env", variable);
    if let (Some(file), Some(_)) = (&file, &variable) {
        let wrong = Wrong::new("there are two places for one token", "keep either `token_file` or `token_env`");
        inspection.error(file.span(), wrong);
    }
    let token = match (file, variable) {
        (Some(file), _) => of_file(&file, folder, inspection),
        (None, Some(variable)) => of_variable(&variable, inspection),
        (None, None) => None,
    };
    Settings { socket, group: group.map(Spanned::into_inner), token }
}

/// Reads where the socket is, and nothing else of the section.
pub(super) fn read_socket(table: &mut Table<'_>) -> Socket {
    table.value("socket", socket).map_or(Socket::Provided, Spanned::into_inner)
}

fn socket(value: &DeValue<'_>) -> Result<Socket, Wrong> {
    let remedy = "write a full path, such as \"/run/gatepost/gatepost.sock\", or \"off\"";
    match text(value)? {
        "off" => Ok(Socket::Off),
        path if path.len() > LONGEST => Err(Wrong::new(
            format!("{} bytes are too long for a socket", path.len()),
            format!("keep it to {LONGEST} bytes"),
        )),
        path if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => Ok(Socket::At(path.into())),
        other => Err(Wrong::new(format!("{other:?} is no place for a socket"), remedy)),
    }
}

/// Whether this host has it is for those to say who open the socket.
fn group(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?;
    if name.is_empty() || name.contains([':', '/', ' ', '\0']) {
        let remedy = "write the name of a group of this host, such as \"mail\", or its number in quotes";
        return Err(Wrong::new(format!("{name:?} is no name of a group"), remedy));
    }
    Ok(name.to_owned())
}

fn variable(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?;
    if name.is_empty() || name.contains(['=', '\0']) {
        let remedy = "write the name of an environment variable, such as \"GATEPOST_TOKEN\"";
        return Err(Wrong::new(format!("{name:?} is no name of a variable"), remedy));
    }
    Ok(name.to_owned())
}

fn of_file(file: &Spanned<PathBuf>, folder: &Path, inspection: &Inspection) -> Option<Token> {
    let path = folder.join(file.get_ref());
    let read = || {
        use std::io::Read;
        let mut text = zeroize::Zeroizing::new(String::new());
        std::fs::File::open(&path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
        std::io::Result::Ok(text)
    };
    let text = match read() {
        Ok(text) => text,
        Err(error) => {
            let remedy = "make one (openssl rand -hex 24 > FILE) that gatepost can read and few others";
            inspection.error(file.span(), Wrong::new(format!("cannot read {}: {error}", path.display()), remedy));
            return None;
        }
    };
    accept(&text, &path.display().to_string(), file, inspection)
}

fn of_variable(variable: &Spanned<String>, inspection: &Inspection) -> Option<Token> {
    let name = variable.get_ref();
    let Ok(text) = std::env::var(name).map(zeroize::Zeroizing::new) else {
        let remedy = "set it where gatepost is started (EnvironmentFile= in its unit), or use `token_file`";
        inspection.error(variable.span(), Wrong::new(format!("the variable {name} is not set"), remedy));
        return None;
    };
    accept(&text, &format!("the variable {name}"), variable, inspection)
}

fn accept<T>(text: &str, place: &str, value: &Spanned<T>, inspection: &Inspection) -> Option<Token> {
    let token = Token::read(text);
    if token.is_err() {
        // Never the text itself.
        let cause = format!("what is in {place} is no token");
        let remedy =
            format!("it takes {LEAST} to {MOST} printable ASCII characters without blanks: openssl rand -hex 24");
        inspection.error(value.span(), Wrong::new(cause, remedy));
    }
    token.ok()
}

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

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const GATE: &str = "[[gate]]\nlisten = '127.0.0.1:0'\nbackend = '127.0.0.1:1'\n";

    fn settings(section: &str, folder: &Path) -> Result<(Settings, usize), String> {
        let text = format!("hostname = 'mx.example.org'\n{GATE}[control]\n{section}\n");
        let read = Config::parse(&text, &folder.join("f.toml").display().to_string());
        let read = read.map(|(config, warnings)| (config.control, warnings.problems().len()));
        read.map_err(|report| report.to_string())
    }

    #[test]
    fn the_section_is_read_and_what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "0123456789abcdef\n").unwrap();
        std::fs::write(dir.path().join("short"), "hunter2").unwrap();
        let token = Token::read("0123456789abcdef").ok();
        for (section, socket, group, token, warnings) in [
            ("", Socket::Provided, None, None, 0),
            ("socket = '/tmp/s'\ngroup = 'mail'", Socket::At("/tmp/s".into()), Some("mail"), None, 0),
            ("socket = 'off'\ngroup = '8'", Socket::Off, Some("8"), None, 1),
            ("token_file = 'token'", Socket::Provided, None, token, 0),
        ] {
            let expected = Settings { socket, group: group.map(str::to_owned), token };
            assert_eq!(settings(section, dir.path()), Ok((expected, warnings)), "{section}");
        }
        for (section, words) in [
            ("socket = 's'", "full path"),
            ("socket = '/run/'", "full path"),
            (&*format!("socket = '/{}'", "x".repeat(100)), "keep it to 90"),
            ("group = 'a b'", "name of a group"),
            ("token_file = 'absent'", "openssl rand"),
            ("token_file = 'short'", "16 to 256"),
            ("token_env = 'GATEPOST_NO_SUCH_VARIABLE'", "is not set"),
            ("token_env = ''", "environment variable"),
            ("token_file = 'token'\ntoken_env = 'PATH'", "keep either"),
            ("socked = '/tmp/s'", "socket"),
        ] {
            let report = settings(section, dir.path()).unwrap_err();
            assert!(report.contains(words), "{section}: {report}");
            assert!(!report.contains("hunter2"), "{report}");
        }
    }

    #[test]
    fn the_socket_is_found_in_a_file_with_problems() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.toml");
        assert_eq!(Config::socket(&file), Socket::Provided);
        std::fs::write(&file, "nonsense = 1\n[control]\nsocket = '/tmp/s'\ntoken_file = '/nowhere'\n").unwrap();
        assert_eq!(Config::socket(&file), Socket::At("/tmp/s".into()));
        std::fs::write(&file, "[control\n").unwrap();
        assert_eq!(Config::socket(&file), Socket::Provided);
    }
}

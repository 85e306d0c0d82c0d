//! `[shared]`: the store that several hosts share, and how it is reached.

use std::env;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{boolean, choice, count, expected, span, text};
use crate::ledger::shared::{Address, Kind, Secret, Settings, Tls};

/// The most that is read of a file with a password.
const PASSWORD_LIMIT: usize = 4096;

/// What stands behind the addresses, as a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KindWord {
    Single,
    Sentinel,
    Cluster,
}

/// Reads the keys of `[shared]`; files are looked for below `folder`. Nothing is shared if there is no such section.
/// `hostname` is the name of this host, unless another is given.
pub(super) fn read(table: &mut Table<'_>, folder: &Path, hostname: Option<&str>) -> Option<Settings> {
    let inspection = table.inspection();
    let place = table.span();
    let kind = table.value("kind", kind);
    let word = kind.as_ref().map_or(KindWord::Single, |kind| *kind.get_ref());
    let port = if word == KindWord::Sentinel { 26_379 } else { 6379 };
    let servers = table.list("servers", address(port));
    let master = table.value("master", name("a master's name"));
    let user = table.value("user", name("a user's name"));
    let password = password(table, folder);
    let tls = table.value("tls", boolean);
    let authority = table.value("tls_ca", |value| authority(value, folder));
    let database = table.value("database", count(0..=65_535));
    let prefix = table.value("prefix", prefix);
    let node = table.value("node", node);
    let deadline = table.value("deadline", span(Duration::from_millis(1)..=Duration::from_secs(5)));
    let queue = table.value("queue", count(100..=10_000_000));
    let place = place?;

    let is_given = table.items("servers") > 0;
    if !is_given {
        let remedy = "add servers = [\"10.0.0.1:6379\"], or take [shared] out";
        inspection.missing(
            Some(place.clone()),
            "servers",
            Wrong::new("[shared] without `servers` shares nothing", remedy),
        );
    }
    let servers: Vec<Spanned<Address>> = servers.map(Spanned::into_inner).unwrap_or_default();
    judge_servers(word, &servers, inspection);
    judge_master(word, kind.as_ref(), master.as_ref(), &place, inspection);
    if let Some(number) = database.as_ref().filter(|number| *number.get_ref() != 0 && word == KindWord::Cluster) {
        let wrong = Wrong::new("a cluster has no database but 0", "take `database` out");
        inspection.error(number.span(), wrong);
    }
    let speaks_tls = tls.as_ref().is_some_and(|tls| *tls.get_ref());
    if let Some(authority) = authority.as_ref().filter(|_| !speaks_tls) {
        let wrong = Wrong::new("this has no effect: TLS is not spoken", "add tls = true, or take it out");
        inspection.warning(authority.span(), wrong);
    }
    if let (Some(user), None) = (&user, &password) {
        let remedy =
            "add password_file = \"/etc/gatepost/shared.password\", or password_env with the name of a variable";
        inspection.error(user.span(), Wrong::new("a user needs a password", remedy));
    }
    let default = Settings::default();
    let value = |read: Option<Spanned<String>>, default: String| read.map_or(default, Spanned::into_inner);
    Some(Settings {
        kind: match word {
            KindWord::Single => Kind::Single,
            KindWord::Sentinel => Kind::Sentinel { master: value(master, String::new()) },
            KindWord::Cluster => Kind::Cluster,
        },
        servers: servers.into_iter().map(Spanned::into_inner).collect(),
        user: user.map(Spanned::into_inner),
        password: password.and_then(Spanned::into_inner),
        tls: speaks_tls.then(|| Tls { authority: authority.map(Spanned::into_inner) }),
        database: database.map_or(0, Spanned::into_inner),
        prefix: value(prefix, default.prefix),
        node: value(node, hostname.map_or(default.node, str::to_owned)),
        deadline: deadline.map_or(default.deadline, Spanned::into_inner),
        queue: queue.map_or(default.queue, Spanned::into_inner),
    })
}

fn judge_servers(kind: KindWord, servers: &[Spanned<Address>], inspection: &Inspection) {
    for server in servers {
        if matches!(server.get_ref(), Address::Unix(_)) && kind != KindWord::Single {
            let remedy = "write their addresses and ports: \"10.0.0.1:6379\"";
            inspection.error(server.span(), Wrong::new("sentinels and clusters are not reached by a socket", remedy));
        }
    }
    for (n, server) in servers.iter().enumerate() {
        if let Some(first) = servers.iter().take(n).find(|other| other.get_ref() == server.get_ref()) {
            let wrong = Wrong::new("this server is named twice", "take one of the two out");
            inspection.warning_with(server.span(), wrong, first.span(), "it is here already");
        }
    }
}

fn judge_master(
    word: KindWord,
    kind: Option<&Spanned<KindWord>>,
    master: Option<&Spanned<String>>,
    place: &Range<usize>,
    inspection: &Inspection,
) {
    match (word, master) {
        (KindWord::Sentinel, None) => {
            let remedy = "add master = \"mymaster\": the name in the sentinels' own file, behind `sentinel monitor`";
            let wrong = Wrong::new("sentinels have to be asked for a master by its name", remedy);
            inspection.error(kind.map_or(place.clone(), Spanned::span), wrong);
        }
        (KindWord::Single | KindWord::Cluster, Some(master)) => {
            let remedy = "set kind = \"sentinel\", or take it out";
            inspection.warning(master.span(), Wrong::new("this has no effect: no sentinel is asked", remedy));
        }
        _ => {}
    }
}

fn kind(value: &DeValue<'_>) -> Result<KindWord, Wrong> {
    const WORDS: &[(&str, KindWord)] =
        &[("single", KindWord::Single), ("sentinel", KindWord::Sentinel), ("cluster", KindWord::Cluster)];
    choice(WORDS, &[("standalone", "single"), ("replica", "sentinel"), ("sentinels", "sentinel")])(value)
}

/// An address with its port, or without if it is the usual one; or `unix:` and the path of a socket.
fn address(usual: u16) -> impl Fn(&DeValue<'_>) -> Result<Address, Wrong> {
    move |value| {
        let text = text(value)?;
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Address::Unix(path.into())),
                false => {
                    let remedy = "write its full path: \"unix:/run/valkey/valkey.sock\"";
                    Err(Wrong::new(format!("{text:?} is not the path of a socket"), remedy))
                }
            };
        }
        let wrong = || {
            let remedy =
                format!("write a name or an address and a port: \"10.0.0.1:{usual}\", \"[2001:db8::1]:{usual}\"");
            Wrong::new(format!("{text:?} is not the address of a server"), remedy)
        };
        if text.contains("://") {
            let remedy = format!("write the address alone, \"10.0.0.1:{usual}\"; user, password and tls are keys here");
            return Err(Wrong::new("this is a URL".to_owned(), remedy));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>() {
            return Ok(Address::Tcp(ip.to_string(), usual));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let port = if host == text { Some(usual) } else { port.parse().ok().filter(|port| *port != 0) };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let is_name = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        match port {
            Some(port) if is_address || is_name => Ok(Address::Tcp(host.to_owned(), port)),
            _ => Err(wrong()),
        }
    }
}

/// One word of printable ASCII.
fn name(what: &'static str) -> impl Fn(&DeValue<'_>) -> Result<String, Wrong> {
    move |value| {
        let text = text(value)?;
        let is_word = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let remedy = "write it as it is in the store: one word, up to 128 characters";
        if is_word { Ok(text.to_owned()) } else { Err(Wrong::new(format!("{text:?} is not {what}"), remedy)) }
    }
}

/// Keys begin with it, and are looked for by patterns.
fn prefix(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    let is_sound = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'));
    let remedy = "write up to 32 of a-z, A-Z, 0-9, `-`, `_`, `.` and `:`";
    if is_sound { Ok(text.to_owned()) } else { Err(Wrong::new(format!("{text:?} cannot begin keys"), remedy)) }
}

fn node(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    let is_sound = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let remedy = "write up to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`, such as the host's name";
    if is_sound { Ok(text.to_owned()) } else { Err(Wrong::new(format!("{text:?} is not the name of a host"), remedy)) }
}

fn authority(value: &DeValue<'_>, folder: &Path) -> Result<Vec<u8>, Wrong> {
    let path = folder.join(text(value)?);
    let remedy = "name a file with the certificate of the authority, in PEM";
    let bytes = fs::read(&path).map_err(|why| Wrong::new(format!("cannot read {}: {why}", path.display()), remedy))?;
    let has_one =
        bytes.windows(b"-----BEGIN CERTIFICATE-----".len()).any(|part| part == b"-----BEGIN CERTIFICATE-----");
    if has_one { Ok(bytes) } else { Err(Wrong::new(format!("there is no certificate in {}", path.display()), remedy)) }
}

/// The password, from a file or the environment. Something is there if one of the keys is, even if it cannot be had.
fn password(table: &mut Table<'_>, folder: &Path) -> Option<Spanned<Option<Secret>>> {
    let inspection = table.inspection();
    let from_file = table.value("password_file", |value| password_file(value, folder));
    let from_env = table.value("password_env", password_env);
    if let (Some(file), Some(variable)) = (&from_file, &from_env) {
        let wrong = Wrong::new("the password is given twice", "keep one of the two");
        inspection.error_with(variable.span(), wrong, file.span(), "it is here already");
    }
    let is_there = table.has("password_file") || table.has("password_env");
    let found = from_file.or(from_env).map(|found| Spanned::new(found.span(), Some(found.into_inner())));
    found.or_else(|| is_there.then(|| Spanned::new(0..0, None)))
}

fn password_file(value: &DeValue<'_>, folder: &Path) -> Result<Secret, Wrong> {
    let path = folder.join(text(value)?);
    let remedy = "name a file with the password, and nothing else, that gatepost may read";
    let wrong = |why: &dyn std::fmt::Display| Wrong::new(format!("{}: {why}", path.display()), remedy);
    let text = fs::read_to_string(&path).map_err(|why| wrong(&why))?;
    let text = zeroize::Zeroizing::new(text);
    // An editor ends the line.
    let password = text.trim_end_matches(['\r', '\n']);
    match password.len() {
        0 => Err(wrong(&"there is nothing in it")),
        length if length > PASSWORD_LIMIT || password.contains('\n') => Err(wrong(&"it holds more than a password")),
        _ => Ok(Secret::new(password.to_owned())),
    }
}

fn password_env(value: &DeValue<'_>) -> Result<Secret, Wrong> {
    let name = text(value)?;
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(expected("the name of a variable", value, "write its name alone: \"GATEPOST_SHARED_PASSWORD\""));
    }
    let remedy =
        "set it in the environment of gatepost (Environment= or LoadCredential= of its unit), or use password_file";
    match env::var(name) {
        Ok(password) if !password.is_empty() => Ok(Secret::new(password)),
        Ok(_) => Err(Wrong::new(format!("the variable {name:?} is empty"), remedy)),
        Err(why) => Err(Wrong::new(format!("the variable {name:?}: {why}"), remedy)),
    }
}

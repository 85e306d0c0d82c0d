//! Arrows point down: holds the sources to the layers of the design.
//!
//! Every path that a file names is looked at: what it imports with `use`, and what it names in passing. Comments, strings
//! and what is compiled for tests alone do not count. A violation says where it is, and which rule it breaks.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test: the sources are ours, and it may panic")]

use std::fmt;
use std::fs;
use std::path::Path;

const WORDS: &[&str] = &["smtp", "proxy_header", "addr", "time"];
const DECISIONS: &[&str] = &["screen", "policy"];
const HANDS: &[&str] = &["clock", "listener", "ledger", "dns", "dnsbl", "tls", "backend", "relay", "firewall", "lists"];
const TOP: &[&str] = &["config", "server", "admin", "control", "demo", "doctor", "replay", "cli"];

/// What may be known inside the words and the decisions: values, and nothing that happens.
const IMPURE: &[&str] = &[
    "tokio",
    "tracing",
    "mio",
    "socket2",
    "hickory_resolver",
    "axum",
    "prometheus",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
];

/// The modules that `module` may use, itself apart, and the rule that says so. None if the design has no place for it.
fn rule(module: &str) -> Option<(Vec<&'static str>, &'static str)> {
    let layers = |layers: &[&[&'static str]]| layers.concat();
    Some(match module {
        _ if WORDS.contains(&module) => (layers(&[WORDS]), "words use nothing of ours but words"),
        _ if DECISIONS.contains(&module) => (layers(&[WORDS, DECISIONS]), "decisions use only words, and one another"),
        "clock" => (layers(&[WORDS]), "the clock uses only words"),
        "backend" => {
            (layers(&[WORDS, DECISIONS, &["clock", "tls"]]), "the backend uses only words, decisions, clock and tls")
        }
        "dnsbl" => (layers(&[WORDS, DECISIONS, &["clock", "dns"]]), "dnsbl uses only words, decisions, clock and dns"),
        _ if HANDS.contains(&module) => {
            (layers(&[WORDS, DECISIONS, &["clock"]]), "hands use only words, decisions and clock, not one another")
        }
        "journal" | "metrics" => (
            layers(&[WORDS, DECISIONS, HANDS, &["journal", "metrics"]]),
            "journal and metrics use only words, decisions and the hands' types",
        ),
        "session" => (
            layers(&[WORDS, DECISIONS, HANDS, &["journal", "metrics"]]),
            "session uses what lies below, journal and metrics; not config, HTTP or the server",
        ),
        _ if TOP.contains(&module) => {
            (layers(&[WORDS, DECISIONS, HANDS, &["journal", "metrics", "session"], TOP]), "the top may use everything")
        }
        _ => return None,
    })
}

/// A rule that is broken.
struct Violation {
    file: String,
    line: usize,
    path: String,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}`: {}", self.file, self.line, self.path, self.rule)
    }
}

/// Looks at one file, whose path is relative to `src`.
fn check(file: &str, source: &str) -> Vec<Violation> {
    let place = module_path(file);
    let Some(module) = place.first() else { return Vec::new() };
    let violation = |line, path: &[String], rule: &str| Violation {
        file: format!("src/{file}"),
        line,
        path: path.join("::"),
        rule: rule.to_owned(),
    };
    let Some((may_use, layer)) = rule(module) else {
        return vec![violation(
            1,
            &place,
            "the module has no layer; give it one in tests/layering.rs and in the design",
        )];
    };
    let pure = WORDS.contains(&module.as_str()) || DECISIONS.contains(&module.as_str());
    let mut violations = Vec::new();
    for (line, path) in paths(&tokens(source)) {
        if let Some(other) = ours(&place, &path)
            && other != *module
            && !may_use.contains(&other.as_str())
            && rule(&other).is_some()
        {
            violations.push(violation(line, &path, &format!("{layer}; {module} may not use {other}")));
        }
        if pure && IMPURE.iter().any(|outer| names(&path, outer)) {
            violations.push(violation(
                line,
                &path,
                &format!("words and decisions are pure; {module} may not use this"),
            ));
        } else if names(&path, "std::time::SystemTime") && module != "clock" {
            violations.push(violation(line, &path, "wall time comes from the clock alone"));
        }
    }
    violations
}

/// Whether `path` names `outer`, something in it, or everything in something that it is in.
fn names(path: &[String], outer: &str) -> bool {
    let outer: Vec<&str> = outer.split("::").collect();
    let common = path.iter().zip(&outer).take_while(|(part, outer)| part == outer).count();
    common == outer.len() || common > 0 && common + 1 == path.len() && path.last().is_some_and(|last| last == "*")
}

/// The module of a file: `smtp/ehlo.rs` is `smtp::ehlo`. Empty for the roots of the crates.
fn module_path(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if matches!(stem, "lib" | "main") { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// Which of our modules a path leads to, if it leads to one: through `crate`, or through `super` past the root of its own.
fn ours(place: &[String], path: &[String]) -> Option<String> {
    match path.first()?.as_str() {
        "crate" | "gatepost" => path.get(1).cloned(),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            if up >= place.len() { path.get(up).cloned() } else { None }
        }
        _ => None,
    }
}

/// A piece of source that is neither blank nor comment nor string.
#[derive(Clone, PartialEq, Debug)]
enum Token {
    Word(String),
    /// `::`.
    Colons,
    Mark(char),
}

/// The tokens of `source`, with their lines, without items that are compiled for tests alone.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = source.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let from = at;
        match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => at = find(&chars, at, |rest| rest[0] == '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => {
                let mut depth = 0;
                loop {
                    match chars.get(at..at + 2) {
                        Some(['/', '*']) => (depth, at) = (depth + 1, at + 2),
                        Some(['*', '/']) => (depth, at) = (depth - 1, at + 2),
                        Some(_) => at += 1,
                        None => at = chars.len(),
                    }
                    if depth == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            '"' => at = end_of_string(&chars, at),
            '\'' => at = end_of_char(&chars, at),
            c if c.is_alphanumeric() || c == '_' => {
                at = find(&chars, at, |rest| !(rest[0].is_alphanumeric() || rest[0] == '_'));
                let word: String = chars[from..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
                if word.ends_with('r') && word.len() <= 2 && chars.get(at + hashes) == Some(&'"') {
                    let mut close = vec!['"'];
                    close.resize(hashes + 1, '#');
                    at = find(&chars, at + hashes + 1, |rest| rest.starts_with(&close)) + close.len();
                } else {
                    tokens.push((line, Token::Word(word)));
                }
            }
            ':' if chars.get(at + 1) == Some(&':') => {
                tokens.push((line, Token::Colons));
                at += 2;
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push((line, Token::Mark(c)));
                }
                at += 1;
            }
        }
        line += chars[from..at.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    without_tests(&tokens)
}

/// The first place from `at` on where `is_there`; the end if there is none.
fn find(chars: &[char], at: usize, is_there: impl Fn(&[char]) -> bool) -> usize {
    (at..chars.len()).find(|&n| is_there(&chars[n..])).unwrap_or(chars.len())
}

fn end_of_string(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while let Some(&c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Behind a character literal; behind the quote alone if it is a lifetime.
fn end_of_char(chars: &[char], quote: usize) -> usize {
    match chars.get(quote + 1) {
        Some('\\') => find(chars, quote + 3, |rest| rest[0] == '\'') + 1,
        Some(_) if chars.get(quote + 2) == Some(&'\'') => quote + 3,
        _ => quote + 1,
    }
}

/// Leaves out what follows `#[cfg(test)]`: further attributes, and an item to its `;` or its closing brace.
fn without_tests(tokens: &[(usize, Token)]) -> Vec<(usize, Token)> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let text = |token: &Token| match token {
        Token::Word(word) => word.clone(),
        Token::Colons => "::".into(),
        Token::Mark(mark) => mark.to_string(),
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let is_test = attribute
            .iter()
            .enumerate()
            .all(|(n, part)| tokens.get(at + n).is_some_and(|(_, token)| text(token) == *part));
        if !is_test {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += attribute.len();
        let mut depth = 0i32;
        while let Some((_, token)) = tokens.get(at) {
            at += 1;
            match token {
                Token::Mark('{' | '(' | '[') => depth += 1,
                Token::Mark(close @ ('}' | ')' | ']')) => {
                    depth -= 1;
                    if depth == 0 && *close == '}' {
                        break;
                    }
                }
                Token::Mark(';') if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

/// Every path of two parts or more, and everything that is imported, trees spread out.
fn paths(tokens: &[(usize, Token)]) -> Vec<(usize, Vec<String>)> {
    let (mut paths, mut at) = (Vec::new(), 0);
    while let Some((line, token)) = tokens.get(at) {
        match token {
            Token::Word(word) if word == "use" => at = tree(tokens, at + 1, &[], &mut paths),
            Token::Word(_) => {
                let mut path = Vec::new();
                while let Some((_, Token::Word(part))) = tokens.get(at) {
                    path.push(part.clone());
                    at += 1;
                    if tokens.get(at).is_some_and(|(_, token)| *token == Token::Colons) {
                        at += 1;
                    } else {
                        break;
                    }
                }
                if path.len() > 1 {
                    paths.push((*line, path));
                }
            }
            _ => at += 1,
        }
    }
    paths
}

/// Reads one branch of a `use` tree from `at` on, and returns the place behind it.
fn tree(tokens: &[(usize, Token)], mut at: usize, stem: &[String], paths: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut path = stem.to_vec();
    while let Some((line, token)) = tokens.get(at) {
        at += 1;
        match token {
            Token::Word(word) if word == "as" => at += 1,
            Token::Word(word) => path.push(word.clone()),
            Token::Mark('*') => path.push("*".into()),
            Token::Colons => {}
            Token::Mark('{') => loop {
                at = tree(tokens, at, &path, paths);
                match tokens.get(at) {
                    Some((_, Token::Mark(','))) => at += 1,
                    _ => return at + 1,
                }
            },
            _ => {
                if path.len() > stem.len() {
                    // `self` in a tree is the stem.
                    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                        path.pop();
                    }
                    paths.push((*line, path));
                }
                return at - 1;
            }
        }
    }
    at
}

fn check_folder(folder: &Path, root: &Path, violations: &mut Vec<Violation>, files: &mut usize) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check_folder(&path, root, violations, files);
        } else if path.extension().is_some_and(|ext| ext == "rs")
            && path.file_stem().is_some_and(|stem| stem != "tests")
        {
            let file = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            violations.extend(check(&file, &fs::read_to_string(&path).unwrap()));
            *files += 1;
        }
    }
}

#[test]
fn arrows_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut violations, mut files) = (Vec::new(), 0);
    check_folder(&root, &root, &mut violations, &mut files);
    assert!(files > 20, "only {files} files were looked at");
    let text: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(text.is_empty(), "\n{}\n", text.join("\n"));
}

#[test]
fn what_breaks_a_rule_is_found() {
    for (file, source, line, says) in [
        ("smtp/line.rs", "use crate::screen::Test;", 1, "smtp may not use screen"),
        ("smtp/line.rs", "\n\nuse crate::{addr, journal::{Visit}, time};", 3, "smtp may not use journal"),
        ("smtp/line.rs", "fn f() {\n    crate::session::run()\n}", 2, "smtp may not use session"),
        ("smtp/mod.rs", "use super::screen;", 1, "smtp may not use screen"),
        ("smtp/line.rs", "use super::super::screen::Test;", 1, "smtp may not use screen"),
        ("addr.rs", "use super::policy::access;", 1, "addr may not use policy"),
        ("smtp/line.rs", "use tokio::net::TcpStream;", 1, "smtp may not use this"),
        ("smtp/line.rs", "fn f() { tracing::info!(\"x\") }", 1, "smtp may not use this"),
        ("proxy_header.rs", "use std::net::{IpAddr, TcpStream};", 1, "proxy_header may not use this"),
        ("screen/mod.rs", "use std::{net::IpAddr, time::{Duration, Instant}};", 1, "screen may not use this"),
        ("screen/mod.rs", "use std::time::*;", 1, "screen may not use this"),
        ("policy/quota.rs", "let now = std::time::SystemTime::now();", 1, "policy may not use this"),
        ("policy/quota.rs", "use crate::clock::Clock;", 1, "policy may not use clock"),
        ("clock.rs", "use crate::screen::Test;", 1, "clock may not use screen"),
        ("ledger/mod.rs", "use crate::dnsbl;", 1, "ledger may not use dnsbl"),
        ("dns/mod.rs", "use crate::dnsbl;", 1, "dns may not use dnsbl"),
        ("backend/mod.rs", "use crate::dns;", 1, "backend may not use dns"),
        ("relay/mod.rs", "use crate::backend::Settings as Backend;", 1, "relay may not use backend"),
        ("backend/mod.rs", "use crate::session;", 1, "backend may not use session"),
        ("ledger/mod.rs", "use std::time::SystemTime;", 1, "wall time comes from the clock alone"),
        ("metrics/mod.rs", "use crate::session::Scene;", 1, "metrics may not use session"),
        ("journal/mod.rs", "pub use crate::config::Config;", 1, "journal may not use config"),
        ("session/mod.rs", "use crate::config;", 1, "session may not use config"),
        ("session/recall.rs", "use crate::admin::Readiness;", 1, "session may not use admin"),
        ("session/mod.rs", "use crate::\n    config;", 2, "session may not use config"),
        ("shelf.rs", "", 1, "the module has no layer"),
    ] {
        let found = check(file, source);
        let text: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert_eq!(text.len(), 1, "{file}: {source}: {text:?}");
        assert!(text[0].starts_with(&format!("src/{file}:{line}: `")) && text[0].contains(says), "{}", text[0]);
    }
}

#[test]
fn what_breaks_none_is_let_be() {
    for (file, source) in [
        ("smtp/line.rs", "use crate::addr::ClientKey;\nuse super::reply::Reply;\nuse super::super::time;"),
        (
            "smtp/line.rs",
            "// use crate::screen;\n/* crate::session /* nested */ crate::config */\n/// [`crate::journal`]",
        ),
        (
            "smtp/line.rs",
            "const A: &str = \"crate::screen\"; const B: &[u8] = br#\"\"crate::screen\"#; const C: char = '\"';",
        ),
        ("smtp/line.rs", "fn f<'a>(x: &'a str) -> char { '\\'' } // '\"'\nconst D: &str = \"\\\"crate::screen\";"),
        (
            "smtp/line.rs",
            "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::session; fn f() { tokio::spawn(g()) } }",
        ),
        ("smtp/line.rs", "#[cfg(test)]\nuse crate::session;\nfn f() {}"),
        ("smtp/line.rs", "use std::time::Duration; use std::net::IpAddr; fn f(tokio: u8) -> u8 { tokio }"),
        ("screen/mod.rs", "use crate::policy::access::Access; use crate::smtp::path::Name;"),
        ("ledger/mod.rs", "use crate::clock::Clock; use crate::screen::Standing; use std::time::Instant;"),
        ("backend/mod.rs", "use crate::tls::Connector;"),
        ("clock.rs", "use std::time::{SystemTime, UNIX_EPOCH};"),
        ("metrics/mod.rs", "use crate::journal::Visit; use crate::dnsbl::Settings;"),
        ("session/mod.rs", "use crate::{backend, journal, ledger, metrics, relay, screen};"),
        ("config/mod.rs", "use crate::{session, server, ledger::Settings};"),
        ("main.rs", "use gatepost::config;"),
    ] {
        let found = check(file, source);
        assert!(found.is_empty(), "{file}: {source}: {}", found[0]);
    }
}

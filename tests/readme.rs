//! The README and the manuals tell the truth: what they show can be done, what they name is there, and what is there is named.
//!
//! | what a page has | what is asked of it |
//! | --- | --- |
//! | a TOML block | the file, or the file that it is a part of, is read without a problem or a warning |
//! | a `gatepost …` command line | the program's own command line takes it |
//! | a link, a file's path in backticks | the file is there, and the heading too |
//! | a key in backticks | the file knows it |
//! | a metric | a server tells it, with the words that docs/metrics.md gives to its labels, and no other |
//! | the demo's table | the demo prints it |
//! | what the screen decides | tests/screen.rs has a test of that name, and the other way round |
//! | what the log says | every warning and error of the source is in docs/operations.md |

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails; clippy spares the functions marked as tests, not those that they call"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use gatepost::clock::Clock;
use gatepost::config::Config;
use gatepost::journal::{Journal, Target};
use gatepost::lists::ListState;
use gatepost::server::Server;

/// What a block that is only a part of a file is a part of.
const TOP: &str = "hostname = 'mx.example.org'\n";
const GATE: &str = "\n[[gate]]\nlisten = '0.0.0.0:25'\nbackend = '127.0.0.1:2525'\n";
const LISTS: &str = "\n[dnsbl]\nsites = 'bl.example'\n";

struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: impl AsRef<Path>) -> Self {
        let path = repository().join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, text }
    }

    /// The blocks: the word behind the fence, and what is in them, without the indentation of the fence.
    fn blocks(&self) -> Vec<(String, String)> {
        let (mut blocks, mut open) = (Vec::new(), None::<(usize, String, String)>);
        for line in self.text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            open = match (open, fence) {
                (None, Some(word)) => Some((line.len() - line.trim_start().len(), word.to_owned(), String::new())),
                (Some((_, word, text)), Some("")) => {
                    blocks.push((word, text));
                    None
                }
                (Some((indent, word, text)), _) => {
                    let line = line.get(indent..).unwrap_or_default();
                    Some((indent, word, text + line + "\n"))
                }
                (None, None) => None,
            };
        }
        assert!(open.is_none(), "{}: a block has no end", self.path.display());
        blocks
    }

    /// The text without blocks, line by line.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut inside = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        })
    }

    /// What stands between backticks.
    fn spans(&self) -> impl Iterator<Item = &str> {
        self.prose().flat_map(|line| {
            assert!(line.matches('`').count().is_multiple_of(2), "{}: a span is broken: {line}", self.path.display());
            line.split('`').skip(1).step_by(2)
        })
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> Page {
    Page::read("README.md")
}

/// README and every page of docs/.
fn pages() -> Vec<Page> {
    let mut pages = vec![readme(), Page::read("CHANGELOG.md")];
    pages.extend(files("docs").into_iter().map(Page::read));
    assert!(pages.len() >= 6, "pages are missing");
    pages
}

/// The files below a folder of the repository, in order.
fn files(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn gatepost(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gatepost")).args(arguments).output().expect("gatepost runs")
}

#[test]
fn every_configuration_is_right() {
    let mut whole = 0;
    let folder = certificates();
    for page in pages() {
        for (_, text) in page.blocks().into_iter().filter(|(word, _)| word == "toml") {
            let text = text.replace("/etc/gatepost/tls", &folder.path().display().to_string());
            let is_whole = text.contains("[[gate]]");
            whole += usize::from(is_whole);
            let lists = if text.contains("[dnsbl]") { "" } else { LISTS };
            let file = if is_whole { text.clone() } else { format!("{TOP}{text}{GATE}{lists}") };
            let (_, warnings) = Config::parse(&file, "page.toml")
                .unwrap_or_else(|report| panic!("{}:\n{text}\n{report}", page.path.display()));
            assert!(warnings.is_empty(), "{}:\n{text}\n{warnings}", page.path.display());
        }
    }
    assert!(whole >= 5, "only {whole} whole configurations were found");
}

/// A folder with the certificate that the pages speak of.
fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["mx.example.org".to_owned()]).expect("a name");
    let certificate = certificate.self_signed(&key).expect("a certificate");
    fs::write(folder.path().join("fullchain.pem"), certificate.pem()).expect("a file");
    fs::write(folder.path().join("privkey.pem"), key.serialize_pem()).expect("a file");
    folder
}

#[test]
fn every_command_line_is_taken() {
    let mut count = 0;
    for page in pages() {
        let blocks = page.blocks();
        let is_shell = |word: &str| ["sh", "shell", "console"].contains(&word);
        let shell = blocks.iter().filter(|(word, _)| is_shell(word)).flat_map(|(_, text)| text.lines());
        for line in shell.chain(page.spans()).flat_map(commands) {
            count += 1;
            // Whatever clap would not take, it says before it comes to `--help`.
            let arguments: Vec<&str> = line.split_whitespace().chain(["--help"]).map(example).collect();
            let output = gatepost(&arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: gatepost {line}\n{said}", page.path.display());
        }
    }
    assert!(count > 10, "only {count} command lines were found");
}

/// The arguments of gatepost in a line of a shell.
fn commands(line: &str) -> impl Iterator<Item = &str> {
    let line = line.split(" #").next().unwrap_or_default();
    // Where the output goes is the shell's business.
    let line = line.split(" > ").next().unwrap_or_default();
    line.split(['|', ';']).flat_map(|part| part.split("&&")).filter_map(|part| {
        let part = part.trim();
        let part = part.strip_prefix("$ ").or(part.strip_prefix("sudo ")).unwrap_or(part);
        part.strip_prefix("gatepost ").or_else(|| part.strip_prefix("cargo run --release -- "))
    })
}

/// An address for the word that stands for one.
fn example(word: &str) -> &str {
    if word == "ADDRESS" { "192.0.2.7" } else { word }
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for page in pages() {
        let links = page.prose().flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = page.path.parent().expect("a folder");
            let target = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            assert!(target.exists(), "{}: {link}", page.path.display());
            if !heading.is_empty() {
                let target = Page::read(target);
                let found = target.prose().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{}: {link}", page.path.display());
            }
        }
    }
    assert!(count > 20, "only {count} links were found");
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_file_that_is_named_is_there() {
    let folders = ["deploy/", "docs/", "src/", "tests/", "fuzz/", ".ci/"];
    let mut count = 0;
    for page in pages() {
        for word in page.spans().filter_map(|span| span.split([' ', ':']).next()) {
            if folders.iter().any(|folder| word.starts_with(folder)) {
                count += 1;
                let (front, is_pattern) = word.split_once('*').map_or((word, false), |(front, _)| (front, true));
                let named = repository().join(front);
                let begins = || {
                    files(named.parent().expect("a folder"))
                        .into_iter()
                        .any(|path| path.to_string_lossy().starts_with(&*named.to_string_lossy()))
                };
                assert!(named.exists() || (is_pattern && begins()), "{}: {word}", page.path.display());
            }
        }
    }
    assert!(count > 5, "only {count} files were found");
}

#[test]
fn every_key_that_is_named_is_one() {
    let known = Config::keys();
    let sections: BTreeSet<&str> = known.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    let mut count = 0;
    for page in pages() {
        for span in page.spans() {
            let Some((section, rest)) = span.split_once('.') else { continue };
            let is_key = |c: char| c.is_ascii_lowercase() || ['.', '_', '-'].contains(&c);
            // A file's name, or a part of a path in the repository, is none.
            if !sections.contains(section) || !rest.chars().all(is_key) || rest.ends_with("md") {
                continue;
            }
            count += 1;
            assert!(known.contains(span), "{}: `{span}`", page.path.display());
        }
    }
    assert!(count > 80, "only {count} keys were found");
}

/// A server's metrics: each family, and of each label the values.
fn told() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let folder = tempfile::TempDir::new().expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["mx.example.org".to_owned()]).expect("a name");
    fs::write(folder.path().join("mx.pem"), params.self_signed(&key).expect("a certificate").pem()).expect("a file");
    fs::write(folder.path().join("mx.key"), key.serialize_pem()).expect("a file");
    let file = "hostname = 'mx.example.org'\nlanes = 1\nledger.path = 'LEDGER'\n[[gate]]\nlisten = '127.0.0.1:0'\nbackend = '127.0.0.1:1'\n\
                [gate.tls]\ncertificates = [{ chain = 'mx.pem', key = 'mx.key' }]\n\
                [dnsbl]\nsites = 'bl.example'\nnameservers = '127.0.0.1:1'\nself_test = false\n";
    let name = folder.path().join("metrics.toml").display().to_string();
    let file = file.replace("LEDGER", &folder.path().join("ledger.redb").display().to_string());
    let (config, _) = Config::parse(&file, &name).unwrap_or_else(|report| panic!("{report}"));
    let journal = Journal::open(Target::Off).expect("no journal");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let text = runtime.block_on(async {
        let server = Server::start(config, journal, Clock::system()).await.expect("a server");
        let list = ListState { list: "drop.txt".into(), entries: 1, failures: 0 };
        server.house().metrics.sources().set_lists(move || vec![list.clone()]);
        server.house().metrics.sources().set_shared(gatepost::ledger::shared::State::default);
        let text = server.house().metrics.text();
        server.stop(Duration::ZERO).await;
        text
    });
    let mut told = BTreeMap::<String, BTreeMap<String, BTreeSet<String>>>::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) {
            told.entry(name.to_owned()).or_default();
        } else if let Some((name, rest)) = line.split_once('{') {
            let family = told.entry(family(name).to_owned()).or_default();
            for label in rest.split('}').next().unwrap_or_default().split(',') {
                let (label, value) = label.split_once('=').expect("a label");
                family.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
    }
    told.retain(|name, _| name.starts_with("gatepost_"));
    assert!(told.len() > 15, "{told:?}");
    told
}

/// The name of a histogram's family, for that of one of its series.
fn family(series: &str) -> &str {
    let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    stem.filter(|stem| stem.ends_with("_seconds")).unwrap_or(series)
}

#[test]
fn every_metric_is_told_and_documented() {
    let told = told();
    for page in pages() {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        for name in page.text.split(|c| !is_name(c)).filter(|word| word.starts_with("gatepost_")) {
            assert!(told.contains_key(family(name)), "{}: {name}", page.path.display());
        }
    }
    let manual = Page::read("docs/metrics.md");
    let rows: Vec<Vec<&str>> = manual.prose().filter(|line| line.starts_with('|')).map(cells).collect();
    for (name, labels) in &told {
        let row = rows.iter().find(|row| row[0] == format!("`{name}`") && row.len() == 4);
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
        let documented: BTreeSet<&str> = row[2].split('`').skip(1).step_by(2).collect();
        let labels: BTreeSet<&str> = labels.keys().map(String::as_str).filter(|&label| label != "le").collect();
        assert_eq!(documented, labels, "the labels of {name}");
    }
}

#[test]
fn every_word_of_a_label_is_documented() {
    let mut documented = BTreeSet::new();
    let manual = Page::read("docs/metrics.md");
    for row in manual.prose().filter(|line| line.starts_with("| `")).map(cells) {
        let [name, label, words] = row[..] else { continue };
        for word in words.split('`').skip(1).step_by(2) {
            documented.insert([name.trim_matches('`'), label.trim_matches('`'), word].map(str::to_owned));
        }
    }
    let mut expected = BTreeSet::new();
    for (name, labels) in told() {
        // The names of gates, lists and certificates, and the version, are not ours to list.
        let closed = |label: &str| !["gate", "zone", "list", "name", "le", "version", "revision"].contains(&label);
        for (label, values) in labels.into_iter().filter(|(label, _)| closed(label)) {
            expected.extend(values.into_iter().map(|value| [name.clone(), label.clone(), value]));
        }
    }
    assert_eq!(documented, expected);
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn the_demo_prints_what_the_readme_shows() {
    let shown = readme().blocks().into_iter().find(|(_, text)| text.starts_with("gatepost demo: "));
    let (_, shown) = shown.expect("the demo's table");
    let output = gatepost(&["demo", "--once"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}");
    assert_eq!(without_numbers(&shown), without_numbers(&printed));
}

/// Ports and times differ from run to run.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn the_readme_says_what_the_screen_decides() {
    let readme = readme();
    let (_, rest) = readme.text.split_once("## What is decided\n").expect("the section");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let said = words(section);
    let tests = fs::read_to_string(repository().join("tests/screen.rs")).expect("tests/screen.rs");
    let names = tests.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
    let names: Vec<String> = names.map(|name| name.replace('_', " ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        assert!(said.contains(name), "README does not say: {name}");
    }
    for sentence in section.split("**").skip(1).step_by(2).map(words) {
        assert!(names.contains(&sentence), "tests/screen.rs does not show: {sentence}");
    }
}

/// Letters only, in lower case, with single blanks.
fn words(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_warning_is_in_the_manual() {
    let manual = words(&Page::read("docs/operations.md").text);
    let mut count = 0;
    for path in files("src") {
        let source = fs::read_to_string(&path).expect("a source file");
        for call in ["warn!(", "error!("] {
            for (at, _) in source.match_indices(call) {
                let rest = &source[at + call.len()..];
                // The message is the first text with a blank in it; what is put into it breaks it into parts.
                let message =
                    texts(rest.split(");").next().unwrap_or(rest)).into_iter().find(|text| text.contains(' '));
                for part in message.iter().flat_map(|text| text.split(['{', '}']).step_by(2)) {
                    count += usize::from(!words(part).is_empty());
                    assert!(manual.contains(&words(part)), "{}: {part}", path.display());
                }
            }
        }
    }
    assert!(count > 15, "only {count} parts of messages were found");
}

/// The string literals at the front of some source, with lines that were broken joined.
fn texts(source: &str) -> Vec<String> {
    let joined = source.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
    joined.split('"').skip(1).step_by(2).map(|text| text.replace("\\n", " ")).collect()
}

//! The file: TOML in, every part's settings out, and every problem with it told at once.
//!
//! One file holds everything; its keys, defaults and meanings are in `docs/configuration.md`. [`Config::load`] answers
//! with a [`Config`] that cannot be wrong in itself, or with a [`Report`] of **all** that is wrong: where, what, and what
//! would be right. A setting that has no effect is a warning.
//!
//! How it works: the TOML is parsed into tables that know their places (`table`), single values are read and checked
//! (`values`), each section becomes an entry of what the file says (`gate`, `rules`, `limits`, `access`, `bans`, …), the
//! gate's entries are laid over the file's and those over the scene's defaults, and what can only be judged with all of
//! it in view is judged last (`ports`, and each entry's `judge`). Problems go to the `inspection` on the way.
//!
//! Whether the machine agrees (a port that is taken, a backend that is away) is left to those who try.

mod access;
mod auth;
mod bans;
mod control;
mod door;
mod gate;
mod inspection;
mod ledger;
mod limits;
mod lists;
mod nearest;
mod ports;
mod problem;
mod proxies;
mod rules;
mod shared;
mod summary;
mod table;
mod tls;
mod transparent;
mod values;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tracing::Level;

pub use problem::{Problem, Report, Severity};

use self::auth::AuthEntry;
use self::bans::BansEntry;
use self::gate::{GateEntry, Shared, made_anywhere};
use self::inspection::{Inspection, Wrong};
use self::ledger::LedgerEntry;
use self::lists::DnsblEntry;
use self::table::Table;
use self::values::{choice, count, name_server, socket, span, text};
use crate::backend::Announce;
use crate::control::settings::Socket;
use crate::ledger::embedded::Place;
use crate::screen::Test;
use crate::{dns, dnsbl, firewall, journal, session};

/// Where the file is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/gatepost/gatepost.toml";

/// Everything that a file says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gates; at least one.
    pub gates: Vec<session::Settings>,
    /// How DNS lists are asked; nothing if there are none.
    pub dnsbl: Option<dnsbl::Settings>,
    /// Who is asked for the names of clients.
    pub dns: dns::names::Settings,
    /// How much is remembered.
    pub ledger: crate::ledger::Settings,
    /// Where what is remembered is kept.
    pub kept: Place,
    /// What failed AUTH leads to, and what bans are.
    pub rulings: session::rulings::Settings,
    /// Whom bans are told besides.
    pub firewall: firewall::Settings,
    /// The lists that come from outside.
    pub lists: crate::lists::Settings,
    /// The store that several hosts share; nothing if this one is alone.
    pub shared: Option<crate::ledger::shared::Settings>,
    /// Where metrics and health are served; nowhere if nothing.
    pub admin: Option<SocketAddr>,
    /// Where the record of each visit goes.
    pub journal: JournalTarget,
    /// How many bytes of those records are kept in memory besides.
    pub recent: usize,
    /// Where operators reach it, and what they have to show.
    pub control: crate::control::Settings,
    /// How much is logged besides.
    pub log: Level,
    /// How long a stop waits for the sessions that are open.
    pub drain: Duration,
    /// How many lanes (threads with a listener each); as many as the machine has processors if nothing.
    pub lanes: Option<usize>,
}

/// Where the record of each visit goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JournalTarget {
    /// Standard output, and so the system's journal.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere.
    Off,
}

impl Config {
    /// Reads the file at `path`. What is only warned of comes along with the configuration.
    pub fn load(path: &Path) -> Result<(Self, Report), Report> {
        let unreadable = |reason: &dyn std::fmt::Display| {
            let remedy = "name another file with -c FILE or in GATEPOST_CONFIG, or see to its permissions";
            Report::of_file(format!("cannot read {}: {reason}", path.display()), remedy)
        };
        let bytes = fs::read(path).map_err(|reason| unreadable(&reason))?;
        let text = String::from_utf8(bytes).map_err(|reason| unreadable(&reason.utf8_error()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a file's `text`. Problems show it as `name`; files that it names are looked for in `name`'s folder.
    pub fn parse(text: &str, name: &str) -> Result<(Self, Report), Report> {
        let inspection = Inspection::new(name, text);
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        let config = match DeTable::parse(text) {
            Ok(root) => {
                let entries = root.into_inner();
                Some(Table::read_root(&inspection, &entries, |table| read(table, folder)))
            }
            Err(reason) => {
                let span = reason.span().unwrap_or_default();
                inspection.error(span, Wrong::new(format!("this is not TOML: {}", reason.message()), SYNTAX));
                None
            }
        };
        let report = inspection.report();
        match config {
            Some(config) if report.count(Severity::Error) == 0 => Ok((config, report)),
            _ => Err(report),
        }
    }

    /// Where the file at `path` has the socket, whatever else is wrong with it: whoever may use that need not be able to read
    /// keys and tokens that the file names.
    pub fn socket(path: &Path) -> Socket {
        let Ok(text) = fs::read_to_string(path) else { return Socket::Provided };
        let Ok(root) = DeTable::parse(&text) else { return Socket::Provided };
        let inspection = Inspection::new("", &text);
        Table::read_root(&inspection, &root.into_inner(), |table| table.section("control", control::read_socket))
    }

    /// Every key of the file, as a path: `gate.tests.helo.bots`.
    pub fn keys() -> BTreeSet<String> {
        // Absent sections are read like empty ones, so that a file with one gate asks for every key.
        let text = "[[gate]]\n";
        let inspection = Inspection::new("", text);
        if let Ok(root) = DeTable::parse(text) {
            Table::read_root(&inspection, &root.into_inner(), |table| read(table, Path::new("")));
        }
        inspection.known()
    }

    /// What will happen, in a few lines: each gate, where it listens, its backend, its tests.
    pub fn summary(&self) -> String {
        summary::write(self)
    }
}

const SYNTAX: &str = "TOML has `key = value` lines, strings in double quotes, lists in [ ], and sections as [name]";

/// Reads the whole file. The result counts only if the inspection found no error.
fn read(table: &mut Table<'_>, folder: &Path) -> Config {
    let inspection = table.inspection();
    let shared = Shared::read(table, folder);
    let admin = table.value("admin", socket(9925));
    let log = table.value("log", log_level).map_or(Level::INFO, Spanned::into_inner);
    let drain = table.value("drain", span(Duration::ZERO..=Duration::from_secs(60 * 60)));
    let lanes = table.value("lanes", count(1..=1024)).map(Spanned::into_inner);
    let dnsbl = table.section("dnsbl", DnsblEntry::read);
    let servers = table.section("dns", |dns| dns.list("nameservers", name_server));
    let auth = table.section("auth", AuthEntry::read);
    let bans = table.section("bans", |bans| BansEntry::read(bans, folder));
    let (journal_to, recent) = table.section("journal", |journal| {
        (journal.value("to", journal_target), journal.value("recent", count(0..=1 << 30)))
    });
    let control = table.section("control", |section| control::read(section, folder));
    let ledger = table.section("ledger", LedgerEntry::read);
    let hostname = shared.hostname.as_ref().map(|name| name.get_ref().as_str());
    let store = table.section("shared", |table| shared::read(table, folder, hostname));
    let gates = table.sections("gate", |gate| GateEntry::read(gate, folder));

    if !table.has("gate") {
        let remedy = "add [[gate]] with `listen` and `backend`";
        inspection.missing(None, "gate", Wrong::new("there is no gate: gatepost would listen nowhere", remedy));
    }
    if gates.iter().any(|gate| !gate.has_hostname(&shared)) || (gates.is_empty() && !table.has("hostname")) {
        let remedy = "add hostname = \"mx.example.org\" at the top: the name that the DNS has for this host";
        inspection.missing(None, "hostname", Wrong::new("`hostname` is missing", remedy));
    }
    ports::judge(&gates, admin.as_ref(), inspection);
    shared.judge_proxy(&gates, inspection);
    let gates: Vec<_> = gates.iter().map(|gate| gate.settings(&shared, &dnsbl, &auth, inspection)).collect();
    shared.judge(&gates, inspection);
    if let Some(servers) = servers.as_ref().filter(|_| !gates.is_empty())
        && gates.iter().all(|gate| gate.backend.announce != Announce::Xclient)
    {
        let remedy = "take it out; the lists have `nameservers` of their own, in [dnsbl]";
        let wrong = Wrong::new("this has no effect: names are looked up where announce = \"xclient\"", remedy);
        inspection.warning(servers.span(), wrong);
    }
    let hostname = gates.first().map(|gate| gate.hostname.clone()).unwrap_or_default();
    let servers = servers.map(Spanned::into_inner).unwrap_or_default();
    let asked = gates.is_empty() || made_anywhere(&gates, Test::Dnsbl);
    Config {
        dnsbl: dnsbl.wanted(asked, inspection),
        dns: dns::names::Settings { nameservers: servers.into_iter().map(Spanned::into_inner).collect() },
        rulings: auth.settings(bans.rules, &hostname, inspection),
        firewall: bans.firewall(&gates, inspection),
        lists: bans.lists(inspection),
        gates,
        ledger: ledger.settings(bans.rules.most),
        kept: ledger.kept(),
        shared: store,
        admin: admin.map(Spanned::into_inner),
        journal: journal_to.map_or(JournalTarget::Stdout, Spanned::into_inner),
        recent: recent.map_or(journal::recent::DEFAULT, Spanned::into_inner),
        control,
        log,
        drain: drain.map_or(Duration::from_secs(30), Spanned::into_inner),
        lanes,
    }
}

fn log_level(value: &DeValue<'_>) -> Result<Level, Wrong> {
    const WORDS: &[(&str, Level)] = &[
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    choice(WORDS, &[("warning", "warn"), ("notice", "info"), ("verbose", "debug")])(value)
}

fn journal_target(value: &DeValue<'_>) -> Result<JournalTarget, Wrong> {
    match text(value)? {
        "stdout" => Ok(JournalTarget::Stdout),
        "off" => Ok(JournalTarget::Off),
        path if path.starts_with('/') => Ok(JournalTarget::File(PathBuf::from(path))),
        other => {
            let remedy = "write \"stdout\", \"off\", or a file with its full path: \"/var/log/gatepost/visits.json\"";
            Err(Wrong::new(format!("{other:?} is no place for the journal"), remedy))
        }
    }
}

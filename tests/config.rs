//! The file as its author meets it: the examples pass, the manual tells the truth, and whatever is wrong is told, all of
//! it, with its line, its cause and what would be right.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails; clippy spares the functions marked as tests, not those that they call"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use gatepost::config::{Config, Report, Severity};
use gatepost::ledger::shared::{Kind, Secret};
use gatepost::policy::access::Access;
use gatepost::relay::Limits;
use gatepost::screen::{Action, Test};
use proptest::prelude::*;

const MANUAL: &str = include_str!("../docs/configuration.md");
const MX: &str = include_str!("../deploy/mx.toml");

/// The sections that a gate can have too.
const SHARED: [&str; 5] = ["tests", "greet", "limits", "timeouts", "access"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let folder = fs::read_dir(repository().join("deploy")).expect("deploy/");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn every_example_passes() {
    let examples = examples();
    let certificates = Certificates::new();
    assert!(examples.len() >= 3, "{examples:?}");
    for path in examples {
        let text = fs::read_to_string(&path).expect("an example").replace("/etc/gatepost/tls", certificates.path());
        let (config, warnings) =
            Config::parse(&text, &path.display().to_string()).unwrap_or_else(|report| panic!("{report}"));
        assert!(warnings.is_empty(), "{warnings}");
        let observes = path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("-observe"));
        for gate in &config.gates {
            assert_eq!(gate.screen.observe, observes, "{}", path.display());
        }
    }
}

#[test]
fn the_manual_has_every_key() {
    let documented = documented_keys();
    for key in Config::keys() {
        let shared = |rest: &str| SHARED.contains(&rest.split('.').next().unwrap_or(rest));
        let plain = key.strip_prefix("gate.").filter(|rest| shared(rest)).unwrap_or(&key).to_owned();
        let heading = MANUAL.contains(&format!("`[{plain}]`")) || MANUAL.contains(&format!("`[[{plain}]]`"));
        let mentioned = ["gate.hostname", "gate.observe", "gate.contact"].contains(&key.as_str())
            && MANUAL.contains(&format!("`{key}`"));
        assert!(heading || mentioned || documented.contains(&plain), "`{key}` is not in docs/configuration.md");
    }
}

#[test]
fn the_manual_has_no_key_too_many() {
    let known = Config::keys();
    let documented = documented_keys();
    assert!(documented.len() > 60, "only {} keys were found in the manual", documented.len());
    for key in documented {
        assert!(known.contains(&key), "`{key}` is documented, and is no key");
    }
}

/// The keys in the first columns of the manual's tables.
fn documented_keys() -> BTreeSet<String> {
    let columns = rows().map(|cells| cells[0]);
    let words = columns.flat_map(|column| column.split('`').skip(1).step_by(2));
    let is_key = |word: &&str| !word.starts_with('"') && (word.contains('.') || Config::keys().contains(*word));
    words.filter(|word| is_key(word) && !word.starts_with("helo.")).map(str::to_owned).collect()
}

fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| row.split(" | ").collect())
}

/// Writing every documented default into a file must change nothing.
#[test]
fn the_manual_tells_the_defaults() {
    let (mut top, mut gate, mut count) = (String::new(), String::new(), 0);
    for cells in rows() {
        let [key, default, ..] = cells.as_slice() else { continue };
        let (Some(key), Some(default)) = (literal(key), literal(default)) else { continue };
        if !Config::keys().contains(key) || key == "gate.offer_auth" || key == "gate.accept_unknown_client" {
            continue;
        }
        count += 1;
        match key.strip_prefix("gate.") {
            Some(key) => gate.push_str(&format!("{key} = {default}\n")),
            None => top.push_str(&format!("{key} = {default}\n")),
        }
    }
    assert!(count > 35, "only {count} defaults were found in the manual");
    let plain = "hostname = 'mx.example.org'\ndnsbl.sites = 'bl.example'\nshared.servers = '192.0.2.1'";
    let plain_gate = "[[gate]]\nlisten = '0.0.0.0:25'\nbackend = '127.0.0.1:2525'";
    let written = read(&format!("{plain}\n{top}{plain_gate}\n{gate}"));
    let unwritten = read(&format!("{plain}\n{plain_gate}"));
    assert_eq!(format!("{written:#?}"), format!("{unwritten:#?}"));
}

/// The manual's table of tests, against what the two scenes do.
#[test]
fn the_manual_tells_what_each_scene_does() {
    let mut count = 0;
    for cells in rows() {
        let [test, _, mx, submission, ttl] = cells.as_slice() else { continue };
        let (Some(test), Some(mx), Some(submission)) = (literal(test), literal(mx), literal(submission)) else {
            continue;
        };
        count += 1;
        for (scene, action) in [("mx", mx), ("submission", submission)] {
            let set = |rule: &str| {
                format!(
                    "hostname = 'mx.example.org'\ndnsbl.sites = 'bl.example'\n[[gate]]\nscene = '{scene}'\n\
                     listen = '0.0.0.0:25'\nbackend = '127.0.0.1:2525'\n[gate.tests]\n{rule}\n"
                )
            };
            let written = match literal(ttl.trim_end_matches(" |")) {
                Some(ttl) if action != "\"off\"" => format!("{test} = {{ action = {action}, ttl = {ttl} }}"),
                _ => format!("{test} = {action}"),
            };
            assert_eq!(format!("{:?}", read(&set(&written))), format!("{:?}", read(&set(""))), "{scene}: {written}");
        }
    }
    assert_eq!(count, 8, "a test is missing in the manual's table");
}

/// What stands between a cell's backticks, if that is all there is in it (but for the mark ◇).
fn literal(cell: &str) -> Option<&str> {
    let inner = cell.trim().trim_end_matches('◇').trim().strip_prefix('`')?.strip_suffix('`')?;
    (!inner.contains('`')).then_some(inner)
}

#[test]
fn the_manual_s_example_passes() {
    let example = MANUAL.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let (config, warnings) = Config::parse(example, "example.toml").unwrap_or_else(|report| panic!("{report}"));
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(config.gates.len(), 1);
}

fn read(text: &str) -> Config {
    Config::parse(text, "test.toml").map(|(config, _)| config).unwrap_or_else(|report| panic!("{report}"))
}

/// A file with many faults, and the whole report. To accept a new wording: `BLESS=1 cargo test --test config`.
#[test]
fn everything_wrong_is_told_at_once() {
    let text = include_str!("config/broken.toml");
    let report = Config::parse(text, "broken.toml").expect_err("a broken file");
    let told = format!("{report}\n");
    let golden = repository().join("tests/config/broken.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &told).expect("the golden file");
    }
    assert_eq!(told, fs::read_to_string(&golden).expect("the golden file"));
}

/// The rest of a file that is right where a row's own lines are not concerned.
const TOP: &str = "hostname = 'mx.example.org'\n";
const GATE: &str = "\n[[gate]]\nlisten = '0.0.0.0:25'\nbackend = '127.0.0.1:2525'\n";

struct Row {
    /// What the row is about: lines at the top, and lines in the gate and below.
    lines: (&'static str, &'static str),
    /// Every problem: severity, line, a part of the cause, a part of the remedy. Lines count from the top of the file:
    /// the row's own top lines begin at 2, and what it adds below at 6 (and one more for each line at the top).
    told: &'static [(Severity, usize, &'static str, &'static str)],
}

use Severity::{Error, Warning};

const ROWS: &[Row] = &[
    Row { lines: ("", ""), told: &[] },
    // Syntax.
    Row { lines: ("contact = see below", ""), told: &[(Error, 2, "not TOML", "double quotes")] },
    Row { lines: ("log = 'info'\nlog = 'warn'", ""), told: &[(Error, 3, "duplicate key", "key = value")] },
    // Keys.
    Row { lines: ("lane = 2", ""), told: &[(Error, 2, "no key `lane`", "did you mean `lanes`?")] },
    Row { lines: ("", "admin = '127.0.0.1:9925'"), told: &[(Error, 6, "`admin` in [gate]", "at the top of the file")] },
    Row { lines: ("threshold = 2", ""), told: &[(Error, 2, "no key `threshold`", "belongs in [dnsbl]")] },
    Row {
        lines: ("zzz = 2", ""),
        told: &[(Error, 2, "no key `zzz`", "the keys at the top of the file are: hostname")],
    },
    Row { lines: ("", "[gate.test]"), told: &[(Error, 6, "no key `test`", "`tests`")] },
    Row { lines: ("", "[tests.pregreet]\nacton = 'off'"), told: &[(Error, 7, "`acton`", "`action`")] },
    Row { lines: ("postscreen_dnsbl_sites = 'a'", ""), told: &[(Error, 2, "no key", "called `dnsbl.sites`")] },
    Row { lines: ("tests.helo-name = 'off'", ""), told: &[(Error, 2, "no key", "called `tests.helo.names`")] },
    Row { lines: ("dnsbl = 'zen.spamhaus.org'", ""), told: &[(Error, 2, "`dnsbl` is a table", "[dnsbl]")] },
    // Values.
    Row { lines: ("contact = 'Grüße'", ""), told: &[(Error, 2, "SMTP reply", "ASCII")] },
    Row { lines: ("log = 'loud'", ""), told: &[(Error, 2, "`log`", "\"error\", \"warn\"")] },
    Row { lines: ("log = 'warning'", ""), told: &[(Error, 2, "`log`", "called \"warn\"")] },
    Row { lines: ("drain = 30", ""), told: &[(Error, 2, "without a unit", "\"30s\"")] },
    Row { lines: ("drain = '2h'", ""), told: &[(Error, 2, "out of range", "\"1h\"")] },
    Row { lines: ("lanes = 0", ""), told: &[(Error, 2, "0 is out of range", "from 1 to 1024")] },
    Row { lines: ("ledger.entries = '1M'", ""), told: &[(Error, 2, "`ledger.entries`", "without quotes")] },
    Row { lines: ("ledger.path = 'ledger.redb'", ""), told: &[(Error, 2, "no place for the ledger", "full path")] },
    Row {
        lines: ("ledger.path = '/var/lib/gatepost/'", ""),
        told: &[(Error, 2, "no place for the ledger", "full path")],
    },
    Row { lines: ("ledger.path = 7", ""), told: &[(Error, 2, "`ledger.path`", "quotes")] },
    Row { lines: ("journal.to = 'visits.json'", ""), told: &[(Error, 2, "visits.json", "full path")] },
    Row { lines: ("observe = 'on'", ""), told: &[(Error, 2, "`observe`", "without quotes")] },
    // Gates.
    Row {
        lines: ("", "\n[[gate]]"),
        told: &[
            (Error, 7, "no `backend`", "add backend"),
            (Error, 7, "no `listen`", "add listen"),
            (Error, 7, "two gates are called \"mx\"", "name = "),
        ],
    },
    Row {
        lines: ("", "\n[[gate]]\nname = 'b'\nlisten = []\nbackend = '127.0.0.1'"),
        told: &[(Error, 9, "listens nowhere", "listen = "), (Error, 10, "no port", "127.0.0.1:2525")],
    },
    Row {
        lines: ("", "\n[[gate]]\nname = 'b'\nlisten = ['192.0.2.1:25', '[::]:25', '[::]:25']\nbackend = '[::1]:25'"),
        told: &[
            (Error, 9, "192.0.2.1:25 is listened on already", "port of its own"),
            (Error, 9, "[::]:25 is listened on already", "port of its own"),
            (Error, 10, "gatepost itself", "another port"),
        ],
    },
    Row { lines: ("admin = '127.0.0.1:25'", ""), told: &[(Error, 2, "listened on already", "port of its own")] },
    Row { lines: ("", "name = 'My gate'"), told: &[(Error, 6, "cannot name a gate", "a-z")] },
    Row { lines: ("", "scene = 'smtp'"), told: &[(Error, 6, "`gate.scene`", "called \"mx\"")] },
    Row { lines: ("", "announce = 'proxy'"), told: &[(Error, 6, "`gate.announce`", "called \"proxy-v2\"")] },
    Row {
        lines: ("", "announce = 'none'"),
        told: &[(Error, 6, "might relay mail for everybody", "accept_unknown_client = true")],
    },
    Row { lines: ("", "announce = 'transparent'"), told: &[] },
    Row { lines: ("", "announce = 'tproxy'"), told: &[(Error, 6, "`gate.announce`", "called \"transparent\"")] },
    Row {
        lines: (
            "",
            "[[gate]]\nname = 'b'\nlisten = ['[::]:25', '[::1]:26', '127.0.0.1:27']\nbackend = '192.0.2.25:25'\n\
                     announce = 'transparent'",
        ),
        told: &[
            (Warning, 8, "over IPv6 get 421", "addresses of both families"),
            (Warning, 8, "over IPv6 get 421", "take this address out"),
        ],
    },
    Row {
        lines: (
            "",
            "[[gate]]\nname = 'b'\nlisten = ['[::]:25', '127.0.0.1:27']\nbackend = 'mta.example:25'\n\
                     announce = 'transparent'",
        ),
        told: &[],
    },
    Row { lines: ("", "announce = 'none'\naccept_unknown_client = true"), told: &[] },
    Row { lines: ("", "announce = 'xclient'"), told: &[] },
    Row {
        lines: ("", "announce = 'xclient'\naccept_unknown_client = true"),
        told: &[(Warning, 7, "the backend is told", "take it out")],
    },
    Row { lines: ("", "announce = 'received'"), told: &[(Error, 6, "`gate.announce`", "called \"header\"")] },
    Row {
        lines: ("", "announce = 'header'\ntls.starttls = 'off'"),
        told: &[(Error, 6, "a header tells of the client too late", "accept_unknown_client = true")],
    },
    Row { lines: ("", "announce = 'header'\naccept_unknown_client = true\ntls.starttls = 'off'"), told: &[] },
    Row {
        lines: ("", "announce = 'header'\naccept_unknown_client = true"),
        told: &[(Warning, 6, "under TLS will carry no header", "let TLS end here")],
    },
    Row { lines: ("dns.nameservers = '127.0.0.1'", "announce = 'xclient'"), told: &[] },
    Row {
        lines: ("dns.nameservers = '127.0.0.1'", ""),
        told: &[(Warning, 2, "no effect: names are looked up", "in [dnsbl]")],
    },
    Row {
        lines: ("dns.nameservers = 'dns.example.org'", "announce = 'xclient'"),
        told: &[(Error, 2, "not the address of a name server", "IP address")],
    },
    Row { lines: ("", "accept_unknown_client = true"), told: &[(Warning, 6, "no effect", "take it out")] },
    Row { lines: ("", "hostname = 'mx'"), told: &[(Error, 6, "not a full domain name", "full name")] },
    // Tests.
    Row { lines: ("tests.pregreet = false", ""), told: &[(Error, 2, "an action", "\"off\"")] },
    Row { lines: ("tests.pregreet = { action = 'off', ttl = '1d' }", ""), told: &[(Warning, 2, "no effect", "ttl")] },
    Row { lines: ("tests.pregreet.ttl = '0s'", ""), told: &[(Error, 2, "out of range", "\"1s\"")] },
    Row { lines: ("tests.dnsbl = 'drop'", ""), told: &[(Warning, 2, "no effect on the test dnsbl", "[dnsbl] sites")] },
    Row { lines: ("", "tests.dnsbl = 'drop'"), told: &[(Warning, 6, "no effect on the test dnsbl", "[dnsbl] sites")] },
    Row {
        lines: ("tests.dnsbl = { ttl = '1h' }\ndnsbl.sites = 'bl.example'", ""),
        told: &[(Warning, 2, "no effect on the test dnsbl", "min_ttl")],
    },
    Row {
        lines: ("", "offer_auth = true\ntests.auth-not-offered = 'drop'"),
        told: &[(Warning, 7, "no effect", "AUTH is offered")],
    },
    Row { lines: ("tests.helo.own = 'mail'", ""), told: &[(Error, 2, "anybody's name", "mail.example.org")] },
    Row {
        lines: ("tests.helo.bots = ['a', '*.*', 'b c']", ""),
        told: &[(Error, 2, "honest names", "letter"), (Error, 2, "' '", "printable")],
    },
    Row { lines: ("tests.helo.own = 'a b'", ""), told: &[(Error, 2, "neither a name nor", "192.0.2.25")] },
    Row {
        lines: ("tests.helo = { names = 'off', own = 'other.example' }", ""),
        told: &[(Warning, 2, "no effect", "`helo.names` is off")],
    },
    Row {
        lines: ("", "scene = 'submission'\ntests.helo.syntax = 'drop'"),
        told: &[(Error, 7, "nobody is punished", "observe")],
    },
    Row {
        lines: ("tests.pipelining = 'enforce'", "scene = 'submission'"),
        told: &[(Warning, 2, "no effect", "[gate.tests]")],
    },
    // How long and how much.
    Row { lines: ("greet.wait_max = '2s'", ""), told: &[(Error, 2, "`wait_min` (3s) is more", "wait_max = \"3s\"")] },
    Row { lines: ("greet.wait_min = '0s'", ""), told: &[(Warning, 2, "nobody can speak too early", "a second")] },
    Row { lines: ("greet.wait_max = '5m'", ""), told: &[(Error, 2, "out of range", "\"4m\"")] },
    Row { lines: ("greet.teaser = true", ""), told: &[(Error, 2, "true is no text", "in quotes")] },
    Row {
        lines: ("greet.teaser = 'hello'", "scene = 'submission'"),
        told: &[(Warning, 2, "the test pregreet is off", "take it out")],
    },
    Row {
        lines: ("tests.pregreet = 'off'\ngreet.wait_max = '5s'", ""),
        told: &[(Warning, 3, "nobody waits", "take it out")],
    },
    Row { lines: ("limits.line_length = 100", ""), told: &[(Error, 2, "out of range", "from 512")] },
    Row {
        lines: ("limits.sessions = 10\nlimits.sessions_per_client = 20", ""),
        told: &[(Warning, 3, "more sessions than all together", "10 or less")],
    },
    Row {
        lines: ("limits.reserved_percent = 100", ""),
        told: &[(Error, 2, "nothing is left for strangers", "anything below 100")],
    },
    Row {
        lines: ("limits.sessions_per_stranger = 60", ""),
        told: &[(Warning, 2, "strangers may do more than known clients", "raise `sessions_per_client`")],
    },
    Row {
        lines: ("limits.sessions_per_offender = 30", ""),
        told: &[(Warning, 2, "offenders may do more than strangers", "lower `sessions_per_offender`")],
    },
    Row {
        lines: ("limits.rate_per_client = '30/1m'\nlimits.rate_per_stranger = '31/1m'", ""),
        told: &[(Warning, 3, "strangers may do more than known clients", "raise `rate_per_client`")],
    },
    Row {
        lines: ("limits.rate_per_offender = false", ""),
        told: &[(Warning, 2, "offenders may do more than strangers", "lower `rate_per_offender`")],
    },
    Row {
        lines: ("limits.sessions_per_prefix = 49", ""),
        told: &[(Warning, 2, "one client may have 50 sessions", "sessions_per_prefix = 50 or more")],
    },
    Row { lines: ("limits.rate_per_stranger = true", ""), told: &[(Error, 2, "found true or false", "\"60/1m\"")] },
    Row { lines: ("limits.rate_per_stranger = '60'", ""), told: &[(Error, 2, "such as 60/1m", "\"60/1m\"")] },
    Row { lines: ("limits.rate_per_stranger = '0/1m'", ""), told: &[(Error, 2, "let nobody through", "false")] },
    Row { lines: ("greet.stress_wait = '7s'", ""), told: &[(Warning, 2, "has no effect", "less than \"6s\"")] },
    Row {
        lines: ("limits.stress_command_time = '6m'", ""),
        told: &[(Warning, 2, "has no effect", "less than \"5m\"")],
    },
    Row {
        lines: ("limits.command_time = '20m'", ""),
        told: &[(Warning, 2, "more than the whole dialogue", "\"10m\"")],
    },
    Row { lines: ("timeouts.replay = '2m'", ""), told: &[(Warning, 2, "clients give up", "within 5m")] },
    // Lists.
    Row {
        lines: ("dnsbl.sites = 'bl.example'", "scene = 'submission'"),
        told: &[(Warning, 2, "never asked", "action")],
    },
    Row { lines: ("dnsbl.sites = []", ""), told: &[(Warning, 2, "no list is asked", "zen.spamhaus.org")] },
    Row { lines: ("", "[dnsbl]\ntimeout = '2s'"), told: &[(Warning, 6, "without `sites`", "add sites")] },
    Row {
        lines: ("dnsbl = { sites = 'bl.example*2', threshold = 3 }", ""),
        told: &[(Warning, 2, "no client can reach this", "2 or less")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example', threshold = 0 }", ""),
        told: &[(Error, 2, "out of range", "from 1")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example', allow_threshold = 1 }", ""),
        told: &[(Warning, 2, "0 or more has no effect", "below 0")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example, wl.example*-1', allow_threshold = -2 }", ""),
        told: &[(Warning, 2, "get down to this", "allow list")],
    },
    Row {
        lines: ("dnsbl = { sites = ['bl.example', 'b l.ex=ample*x'] }", ""),
        told: &[(Error, 2, "`dnsbl.sites`", "zone=filter*weight")],
    },
    Row {
        lines: ("dnsbl = { sites = ['bl.example', 'bl.example', 'other.example*0'] }", ""),
        told: &[(Warning, 2, "counts twice", "both weights"), (Warning, 2, "weight of 0", "give it a weight")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example', names = { 'bl.exmple' = 'bl' } }", ""),
        told: &[(Warning, 2, "not the zone of any list", "as in `sites`")],
    },
    Row {
        lines: ("dnsbl.sites = 'bl.example'\ndnsbl.names = { bl.example = 'bl' }", ""),
        told: &[(Error, 3, "dots made tables", "in quotes")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example', min_ttl = '2h' }", ""),
        told: &[(Error, 2, "`min_ttl` is more than `max_ttl` (1h)", "raise")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example', self_test = '1s' }", ""),
        told: &[(Error, 2, "out of range", "false for no self-test")],
    },
    Row {
        lines: ("dnsbl = { sites = 'bl.example', nameservers = ['dns.example'] }", ""),
        told: &[(Error, 2, "not the address of a name server", "IP address")],
    },
    // Load balancers.
    Row { lines: ("", "proxy_from = []"), told: &[(Error, 6, "names nobody", "take it out")] },
    Row { lines: ("", "proxy_from = '0.0.0.0/0'"), told: &[(Error, 6, "0.0.0.0/0 is everybody", "own addresses")] },
    Row { lines: ("", "proxy_from = ['10.0.0.5', '::/0']"), told: &[(Error, 6, "::/0 is everybody", "own addresses")] },
    Row { lines: ("", "proxy_from = '::ffff:0:0/96'"), told: &[(Error, 6, "0.0.0.0/0 is everybody", "own addresses")] },
    Row {
        lines: ("", "proxy_from = ['0.0.0.0/1', '128.0.0.0/1']"),
        told: &[(Error, 6, "0.0.0.0/0 is everybody", "own addresses")],
    },
    Row {
        lines: ("", "proxy_from = 'balancer.example.org'"),
        told: &[(Error, 6, "not a network", "write an address")],
    },
    Row { lines: ("", "proxy_from = ['10.0.0.0/8', 'fd00::/8', '198.51.100.7', '2001:db8::7']"), told: &[] },
    Row {
        lines: ("", "proxy_from = ['10.0.0.5', '198.51.100.0/24']"),
        told: &[(Warning, 6, "whoever is in 198.51.100.0/24 can claim any address", "listen only where")],
    },
    Row { lines: ("timeouts.proxy = '9s'", ""), told: &[(Warning, 2, "no effect", "`proxy_from`")] },
    Row { lines: ("timeouts.proxy = '9s'", "proxy_from = '10.0.0.5'"), told: &[] },
    Row { lines: ("", "timeouts.proxy = '9s'"), told: &[(Warning, 6, "no effect", "`proxy_from`")] },
    Row {
        lines: ("timeouts.proxy = '2m'", "proxy_from = '10.0.0.5'"),
        told: &[(Error, 2, "out of range", "from \"1s\" to \"1m\"")],
    },
    Row {
        lines: ("", "postscreen_upstream_proxy_protocol = 'haproxy'"),
        told: &[(Error, 6, "no key", "`gate.proxy_from`")],
    },
    // Access.
    Row {
        lines: ("access.allow = '0.0.0.0/0'", ""),
        told: &[(Warning, 2, "allows everybody", "networks that you trust")],
    },
    Row { lines: ("access.rules = 'block 192.0.2.1'", ""), told: &[(Error, 2, "not a rule", "\"deny 192.0.2.0/24\"")] },
    Row {
        lines: ("access = { allow = '192.0.2.0/24', deny = '192.0.2.7' }", ""),
        told: &[(Warning, 2, "192.0.2.7/32 has no effect", "`rules`")],
    },
    Row { lines: ("access = { allow = '192.0.2.0/24', rules = 'deny 192.0.2.7' }", ""), told: &[] },
    Row { lines: ("access.deny_file = 'nowhere'", ""), told: &[(Error, 2, "cannot read nowhere", "relative")] },
    // Bans that are told, and lists from outside.
    Row { lines: ("bans.nftables.enabled = true\nbans.export = '/run/gatepost/banned'", ""), told: &[] },
    Row { lines: ("bans.nftables = { enabled = false, table = 'gatepost-mx' }", ""), told: &[] },
    Row { lines: ("bans.nftables.table = 'gatepost'", ""), told: &[(Warning, 2, "has no effect", "enabled = true")] },
    Row {
        lines: ("bans.nftables = { enabled = true, table = 'filter' }", ""),
        told: &[(Error, 2, "\"filter\" cannot be the name", "begins with \"gatepost\"")],
    },
    Row {
        lines: ("bans.nftables = { enabled = true, table = 'gatepost; flush ruleset' }", ""),
        told: &[(Error, 2, "cannot be the name", "a-z, 0-9")],
    },
    Row {
        lines: ("bans.nftables = { enabled = true, ports = [25, 587, 22, 0] }", ""),
        told: &[
            (Warning, 2, "no gate listens at port 22", "mail ports only"),
            (Error, 2, "0 is out of range", "from 1 to 65535"),
        ],
    },
    Row {
        lines: ("bans.nftables = { enabled = true, priority = 1000 }", ""),
        told: &[(Error, 2, "1000 is out of range", "-400")],
    },
    Row {
        lines: ("bans.nftables.enabled = true", "proxy_from = '10.0.0.5'"),
        told: &[(Warning, 2, "nobody can be kept out", "take [bans.nftables] out")],
    },
    Row { lines: ("bans.export = 'banned'", ""), told: &[(Error, 2, "not the full path", "/run/gatepost")] },
    Row { lines: ("bans.command = ['/usr/local/bin/on-ban', '--quiet']", ""), told: &[] },
    Row { lines: ("bans.command = 'on-ban'", ""), told: &[(Error, 2, "not a full path", "/usr/local/bin")] },
    Row {
        lines: ("bans.command = '/usr/local/bin/on-ban --quiet'", ""),
        told: &[(Error, 2, "has a blank", "each argument by itself")],
    },
    Row { lines: ("bans.command = []", ""), told: &[(Error, 2, "names no program", "take it out")] },
    Row {
        lines: ("bans.import = ['nowhere', 'nowhere']", ""),
        told: &[(Warning, 2, "nowhere cannot be used", "relative"), (Warning, 2, "named twice", "take it out")],
    },
];

#[test]
fn each_problem_has_its_line_cause_and_remedy() {
    for row in ROWS {
        let text = format!("{TOP}{}{GATE}{}\n", row.lines.0, row.lines.1);
        let (accepted, report) = match Config::parse(&text, "row.toml") {
            Ok((_, warnings)) => (true, warnings),
            Err(report) => (false, report),
        };
        let fatal = row.told.iter().any(|&(severity, ..)| severity == Error);
        assert_eq!(accepted, !fatal, "{text}\n{report}");
        assert_eq!(report.problems().len(), row.told.len(), "{text}\n{report}");
        for (problem, &(severity, line, cause, remedy)) in report.problems().iter().zip(row.told) {
            let at = report.position(problem).map(|(line, _)| line);
            assert_eq!((problem.severity(), at), (severity, Some(line)), "{text}\n{report}");
            assert!(problem.cause().contains(cause), "{cause:?} is not in:\n{report}");
            assert!(problem.remedy().contains(remedy), "{remedy:?} is not in:\n{report}");
        }
    }
}

#[test]
fn what_is_missing_altogether_has_no_line() {
    let report = Config::parse("", "empty.toml").expect_err("an empty file");
    let causes: Vec<&str> = report.problems().iter().map(|problem| problem.cause()).collect();
    assert_eq!(causes.len(), 2, "{report}");
    assert!(causes[0].contains("`hostname` is missing") && causes[1].contains("no gate"), "{report}");
    assert!(report.problems().iter().all(|problem| report.position(problem).is_none()));
}

/// The shared store of a file with these keys in its section.
fn shared(keys: &str) -> Result<(Config, Report), Report> {
    Config::parse(&format!("{TOP}{GATE}\n[shared]\n{keys}\n"), "shared.toml")
}

#[test]
fn the_shared_store_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = Certificates::new();
    fs::write(folder.path().join("password"), "sesame open\n").expect("a file");
    let keys = format!(
        "kind = 'sentinel'\nmaster = 'mail'\nservers = ['10.0.0.1', 's2.example:26380', '[2001:db8::1]:7', '2001:db8::2']\n\
         user = 'gatepost'\npassword_file = '{}'\ntls = true\ntls_ca = '{}/fullchain.pem'\ndatabase = 3\n\
         prefix = 'mx'\nnode = 'mx2'\ndeadline = '20ms'\nqueue = 500",
        folder.path().join("password").display(),
        certificates.path()
    );
    let (config, warnings) = shared(&keys).unwrap_or_else(|report| panic!("{report}"));
    assert!(warnings.is_empty(), "{warnings}");
    let store = config.shared.expect("a shared store");
    let servers: Vec<String> = store.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.1:26379", "s2.example:26380", "[2001:db8::1]:7", "[2001:db8::2]:26379"]);
    assert_eq!(store.kind, Kind::Sentinel { master: "mail".to_owned() });
    assert_eq!(store.password, Some(Secret::new("sesame open".to_owned())));
    assert!(!format!("{store:?}").contains("sesame"));
    assert_eq!((store.prefix.as_str(), store.node.as_str(), store.database, store.queue), ("mx", "mx2", 3, 500));
    assert_eq!(store.deadline, Duration::from_millis(20));
    assert!(store.tls.is_some_and(|tls| tls.authority.is_some()));

    let (config, _) = shared("servers = 'unix:/run/valkey.sock'").unwrap_or_else(|report| panic!("{report}"));
    let store = config.shared.expect("a shared store");
    assert_eq!(
        (store.servers[0].to_string().as_str(), store.node.as_str()),
        ("unix:/run/valkey.sock", "mx.example.org")
    );
    assert!(read(&format!("{TOP}{GATE}\n")).shared.is_none());
}

#[test]
fn what_is_wrong_with_the_shared_store_is_told_with_its_remedy() {
    for (keys, cause, remedy) in [
        ("", "without `servers`", "10.0.0.1:6379"),
        ("servers = []", "without `servers`", "10.0.0.1:6379"),
        ("servers = 'redis://10.0.0.1'", "this is a URL", "are keys here"),
        ("servers = '10.0.0.1:0'", "not the address of a server", "10.0.0.1:6379"),
        ("servers = 'a b:1'", "not the address of a server", "10.0.0.1:6379"),
        ("servers = 'unix:valkey.sock'", "not the path", "full path"),
        ("servers = ['a', 'a']", "named twice", "take one"),
        ("servers = 'a'\nkind = 'standalone'", "standalone", "single"),
        ("servers = 'a'\nkind = 'sentinel'", "by its name", "mymaster"),
        ("servers = 'unix:/a'\nkind = 'cluster'", "not reached by a socket", "addresses"),
        ("servers = 'a'\nmaster = 'x'", "no effect", "sentinel"),
        ("servers = 'a'\nkind = 'cluster'\ndatabase = 1", "no database but 0", "take"),
        ("servers = 'a'\nuser = 'x'", "needs a password", "password_file"),
        ("servers = 'a'\npassword_file = '/nonexistent'", "/nonexistent", "gatepost may read"),
        ("servers = 'a'\npassword_env = 'GATEPOST_NOBODY_SETS_THIS'", "GATEPOST_NOBODY_SETS_THIS", "environment"),
        ("servers = 'a'\ntls_ca = '/dev/null'", "no certificate", "PEM"),
        ("servers = 'a'\ntls = true\ntls_ca = '/nonexistent'", "/nonexistent", "PEM"),
        ("servers = 'a'\nprefix = 'x*'", "cannot begin keys", "a-z"),
        ("servers = 'a'\nnode = 'a b'", "not the name of a host", "a-z"),
        ("servers = 'a'\ndeadline = '1m'", "deadline", ""),
    ] {
        let report = match shared(keys) {
            Ok((_, warnings)) => warnings,
            Err(report) => report,
        };
        let found = report.problems().iter().any(|one| one.cause().contains(cause) && one.remedy().contains(remedy));
        assert!(found && report.problems().len() == 1, "{keys}\n{report}");
    }
}

#[test]
fn list_files_are_read_and_their_mistakes_told() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("deny.txt"), "# bots\n192.0.2.0/24\n192.0.2.300\n").expect("a list");
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, format!("{TOP}access.deny_file = 'deny.txt'{GATE}")).expect("a file");
    let report = Config::load(&file).expect_err("a mistake in the list");
    assert_eq!(report.problems().len(), 1, "{report}");
    assert_eq!(report.position(&report.problems()[0]), Some((3, 1)), "{report}");
    assert!(report.to_string().contains("deny.txt:3:1"), "{report}");

    fs::write(folder.path().join("deny.txt"), "192.0.2.0/24\n").expect("a list");
    let (config, warnings) = Config::load(&file).unwrap_or_else(|report| panic!("{report}"));
    assert!(warnings.is_empty(), "{warnings}");
    let access = &config.gates[0].access;
    assert_eq!(access.look_up("192.0.2.9".parse().expect("an address")), Access::Deny);
    assert_eq!(access.look_up("127.0.0.1".parse().expect("an address")), Access::Allow);
}

#[test]
fn lists_from_outside_never_keep_gatepost_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("drop.txt"), "; Spamhaus DROP List\n192.0.2.0/24 ; SBL1\nnonsense\n").expect("a list");
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, format!("{TOP}bans.import = 'drop.txt'{GATE}")).expect("a file");
    let (config, warnings) = Config::load(&file).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.lists.files, [folder.path().join("drop.txt")]);
    assert_eq!(warnings.problems().len(), 1, "{warnings}");
    assert!(warnings.problems()[0].cause().contains("line 3: \"nonsense\""), "{warnings}");
    assert!(warnings.problems()[0].remedy().contains("the other 1 networks"), "{warnings}");
}

#[test]
fn bans_are_told_for_the_ports_at_which_clients_come_themselves() {
    let config = read(&format!(
        "{TOP}bans.nftables.enabled = true{GATE}[[gate]]\nname = 'lb'\nlisten = '192.0.2.1:10025'\n\
         backend = '127.0.0.1:2526'\nproxy_from = '10.0.0.5'\n[[gate]]\nscene = 'submission'\n\
         listen = ['0.0.0.0:587', '[::]:587']\nbackend = '127.0.0.1:2527'\n"
    ));
    let nftables = config.firewall.nftables.expect("it is enabled");
    assert_eq!((nftables.ports, nftables.table.as_str()), (vec![25, 587], "gatepost"));
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let report = Config::load(Path::new("/nonexistent/gatepost.toml")).expect_err("no file");
    assert!(report.to_string().contains("cannot read /nonexistent/gatepost.toml"), "{report}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("latin1.toml");
    fs::write(&file, b"contact = \"gr\xfc\xdfe\"").expect("a file");
    let report = Config::load(&file).expect_err("not UTF-8");
    assert!(report.to_string().contains("utf-8"), "{report}");
}

#[test]
fn access_is_decided_in_the_order_of_the_manual() {
    let config = read(&format!(
        "{TOP}access.deny = '192.0.2.0/24'\naccess.allow = ['192.0.2.7', '198.51.100.0/24']\n\
         access.rules = ['deny 198.51.100.9', 'test 198.51.100.8', 'allow 192.0.2.8']\n{GATE}"
    ));
    let table = [
        ("192.0.2.1", Access::Deny),
        ("192.0.2.7", Access::Allow),
        ("192.0.2.8", Access::Allow),
        ("198.51.100.1", Access::Allow),
        ("198.51.100.8", Access::Test),
        ("198.51.100.9", Access::Deny),
        ("203.0.113.1", Access::Test),
        ("127.0.0.1", Access::Test),
    ];
    for (client, said) in table {
        assert_eq!(config.gates[0].access.look_up(client.parse().expect("an address")), said, "{client}");
    }
}

#[test]
fn shipped_names_of_bots_stay_beside_the_operator_s() {
    let config = read(&format!("{TOP}tests.helo.bots = 'file-*'{GATE}tests.helo.bots = 'gate-*'\n"));
    let bots = &config.gates[0].screen.names.bots;
    for name in ["ylmf-pc", "file-1", "gate-1"] {
        assert!(bots.find(name.as_bytes()).is_some(), "{name}");
    }
}

#[test]
fn what_a_gate_says_goes_before_what_the_file_says() {
    let config = read(
        "hostname = 'mx.example.org'\nobserve = true\ncontact = 'file'\ntests.pregreet = { action = 'observe', ttl = '2d' }\n\
         limits.commands = 30\nlimits.errors = 7\nlimits.recipients = 200\nlimits.min_data_rate = 0\n\
         [[gate]]\nlisten = '192.0.2.1:25'\nbackend = '127.0.0.1:2525'\nobserve = false\ntests.pregreet = 'enforce'\n\
         limits.commands = 40\nlimits.recipients = 300\nlimits.envelope_time = '2h'\ntests.helo.own = ['192.0.2.9', 'other.example']\n\
         [[gate]]\nname = 'two'\nlisten = '192.0.2.2:25'\nbackend = '127.0.0.1:2525'\ncontact = 'gate'\n",
    );
    let [one, two] = config.gates.as_slice() else { panic!("two gates") };
    assert_eq!((one.screen.observe, two.screen.observe), (false, true));
    assert_eq!((one.contact.as_deref(), two.contact.as_deref()), (Some("file"), Some("gate")));
    assert_eq!(one.screen.rules[Test::Pregreet].action, Action::Enforce);
    assert_eq!(two.screen.rules[Test::Pregreet].action, Action::Observe);
    assert_eq!(one.screen.rules[Test::Pregreet].ttl, two.screen.rules[Test::Pregreet].ttl);
    assert_eq!((one.dialogue.commands, two.dialogue.commands), (40, 30));
    assert_eq!((one.dialogue.errors, one.relay.max_errors), (7, 7));
    let (here, there) = (one.relay.limits, two.relay.limits);
    assert_eq!((here.recipients, here.min_rate, here.envelope), (300, 0, Duration::from_secs(7200)));
    assert_eq!(there, Limits { recipients: 200, min_rate: 0, ..Limits::default() });
    assert_eq!(one.screen.names.own, ["mx.example.org", "other.example"]);
    let own: Vec<String> = one.screen.names.own_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["192.0.2.1", "192.0.2.9"]);
}

#[test]
fn who_has_shown_less_has_less_and_an_office_is_not_taken_for_a_stranger() {
    let limits = |top: &str, gate: &str| read(&format!("{TOP}{top}{GATE}{gate}\n")).gates[0].limits;
    let figures = |limits: gatepost::policy::quota::Settings| {
        let (each, rate) = (limits.per_client, limits.rate);
        let rates =
            [rate.passed, rate.unknown, rate.bad].map(|rate| rate.map_or("any".into(), |rate| rate.to_string()));
        ([each.passed, each.unknown, each.bad], rates.join(" "), [limits.per_prefix, limits.total, limits.reserved])
    };
    for (top, gate, expected) in [
        ("", "", ([50, 20, 2], "any 60/1m 6/1m", [500, 10_000, 2000])),
        ("", "scene = 'submission'", ([50, 50, 2], "any any 6/1m", [500, 10_000, 2000])),
        (
            "",
            "scene = 'submission'\nlimits.sessions_per_client = 1000",
            ([1000, 1000, 2], "any any 6/1m", [1000, 10_000, 2000]),
        ),
        ("limits.sessions_per_client = 1", "", ([1, 1, 1], "any 60/1m 6/1m", [500, 10_000, 2000])),
        ("limits.rate_per_client = '30/1m'", "", ([50, 20, 2], "30/1m 30/1m 6/1m", [500, 10_000, 2000])),
        ("limits.rate_per_stranger = '3/1h'", "", ([50, 20, 2], "any 3/1h 3/1h", [500, 10_000, 2000])),
        ("limits.sessions = 10", "limits.reserved_percent = 50", ([10, 10, 2], "any 60/1m 6/1m", [500, 10, 5])),
        (
            "limits.sessions_per_prefix = 99",
            "limits.rate_per_stranger = false",
            ([50, 20, 2], "any any 6/1m", [99, 10_000, 2000]),
        ),
    ] {
        let (each, rates, all) = expected;
        assert_eq!(figures(limits(top, gate)), (each, rates.to_owned(), all), "{top} {gate}");
    }
}

#[test]
fn load_balancers_are_shown_and_loopback_behind_them_is_not_allowed() {
    let file = |top: &str, gate: &str| {
        read(&format!(
            "hostname = 'mx.example.org'\n{top}\n[[gate]]\nlisten = '127.0.0.1:25'\nbackend = '127.0.0.1:2525'\n{gate}\n"
        ))
    };
    let proxies = "proxy_from = ['10.0.0.5', '192.0.2.0/24']";
    let shown = file("", proxies).summary();
    let words = "believes PROXY headers from 10.0.0.5, 192.0.2.0/24 and takes nobody else, -> 127.0.0.1:2525";
    assert!(shown.contains(words), "{shown}");
    assert!(!file("", "").summary().contains("believes"));

    let loopback = "127.0.0.1".parse().expect("an address");
    for (top, gate, expected) in [
        ("", "", Access::Allow),
        ("access.deny = '192.0.2.7'", "", Access::Allow),
        ("", proxies, Access::Test),
        ("access.deny = '192.0.2.7'", proxies, Access::Test),
        ("access.allow = '127.0.0.0/8'", proxies, Access::Allow),
    ] {
        assert_eq!(file(top, gate).gates[0].access.look_up(loopback), expected, "{top} {gate}");
    }
    let denied = "192.0.2.7".parse().expect("an address");
    assert_eq!(file("access.deny = '192.0.2.7'", proxies).gates[0].access.look_up(denied), Access::Deny);
    let patience = |top: &str| file(top, proxies).gates[0].proxies.as_ref().map(|proxies| proxies.patience);
    assert_eq!(patience(""), Some(std::time::Duration::from_secs(5)));
    assert_eq!(patience("timeouts.proxy = '9s'"), Some(std::time::Duration::from_secs(9)));
}

#[test]
fn keys_of_paid_lists_are_not_shown() {
    let key = "abcd1234efgh5678ijkl9012mn";
    let sites = format!("sites = '{key}.zen.dq.spamhaus.net*2'\nnames = {{ '{key}.zen.dq.spamhaus.net' = 'zen' }}");
    let config = read(&format!("{TOP}{GATE}[dnsbl]\n{sites}\n"));
    assert!(config.summary().contains("zen*2") && !config.summary().contains(key), "{}", config.summary());
    let report = Config::parse(&format!("{TOP}{GATE}[dnsbl]\nsites = '{key}.zen.dq.spamhaus.net=1*2'\n"), "f");
    let report = report.expect_err("a broken filter").to_string();
    assert!(!report.contains(key), "{report}");
}

fn gatepost(arguments: &[&str], variable: Option<&str>) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    program.args(arguments).env_remove("GATEPOST_CONFIG");
    if let Some(path) = variable {
        program.env("GATEPOST_CONFIG", path);
    }
    program.output().expect("the program runs")
}

#[test]
fn exit_codes_tell_what_happened() {
    let mx = repository().join("deploy/mx.toml").display().to_string();
    let broken = repository().join("tests/config/broken.toml").display().to_string();
    let table: [(&[&str], Option<&str>, i32); 13] = [
        (&["--version"], None, 0),
        (&["--help"], None, 0),
        (&["check", "--help"], None, 0),
        (&["check", &mx], None, 0),
        (&["check", "-c", &mx], None, 0),
        (&["check"], Some(&mx), 0),
        (&["check", &mx], Some("/nonexistent"), 0),
        (&["check", &broken], None, 78),
        (&["check", "/nonexistent"], None, 78),
        (&["check", &mx, "-c", &mx], None, 64),
        (&["explain", "not-an-address"], None, 64),
        (&["explode"], None, 64),
        (&[], None, 64),
    ];
    for (arguments, variable, code) in table {
        let output = gatepost(arguments, variable);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
}

#[test]
fn check_prints_what_will_happen_or_what_is_wrong() {
    let mx = repository().join("deploy/mx-observe.toml").display().to_string();
    let output = gatepost(&["check", &mx], None);
    let said = String::from_utf8(output.stdout).expect("text");
    for part in ["gate mx (mx): 0.0.0.0:25", "-> 127.0.0.1:2525", "PROXY v2", "pregreet drop", "OBSERVE", "0 problems"]
    {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let broken = repository().join("tests/config/broken.toml").display().to_string();
    let output = gatepost(&["check", &broken], None);
    let complaint = String::from_utf8(output.stderr).expect("text");
    assert!(output.stdout.is_empty() && complaint.contains(" problems, "), "{complaint}");
    assert!(!complaint.contains('\u{1b}'), "no colours where there is no terminal");
}

/// `systemd-analyze verify` ends well whatever it finds: what it says counts.
#[test]
fn the_unit_is_as_systemd_wants_it() {
    let unit = fs::read_to_string(repository().join("deploy/gatepost.service")).expect("the unit");
    assert!(unit.contains("/usr/bin/gatepost run"), "{unit}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gatepost.service");
    fs::write(&path, unit.replace("/usr/bin/gatepost", env!("CARGO_BIN_EXE_gatepost"))).expect("a unit");
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    let rating = ["security", "--offline=true", "--threshold=20"];
    let rated = Command::new("systemd-analyze").args(rating).arg(&path).output().expect("a rating");
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
}

#[test]
fn files_from_other_systems_are_read() {
    let text = format!("\u{feff}{TOP}{GATE}lane = 1\n").replace('\n', "\r\n");
    let report = Config::parse(&text, "crlf.toml").expect_err("an unknown key");
    assert_eq!(report.problems().len(), 1, "{report}");
    assert_eq!(report.position(&report.problems()[0]), Some((6, 1)), "{report}");
    assert!(!report.to_string().contains('\r'), "{report:?}");
}

fn tidy(report: &Report) -> bool {
    report.count(Severity::Error) > 0 && !report.to_string().is_empty() && !report.render(true).is_empty()
}

proptest! {
    /// However a file is damaged, reading it ends with a configuration or a report that can be printed.
    #[test]
    fn damaged_files_are_told_and_never_a_panic(at in 0..MX.len(), cut in 0..40_usize, put in "\\PC{0,8}|[\\[\\]{}=,.\"'#\n-]{0,6}") {
        let body = MX.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let at = at % body.len();
        let end = (at + cut).min(body.len());
        prop_assume!(body.is_char_boundary(at) && body.is_char_boundary(end));
        let damaged = format!("{}{put}{}", &body[..at], &body[end..]);
        match Config::parse(&damaged, "damaged.toml") {
            Ok((config, _)) => prop_assert!(!config.gates.is_empty()),
            Err(report) => prop_assert!(tidy(&report), "{}", report),
        }
    }
}

/// A folder with a certificate that is good and one that is not.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Self {
        let folder = Self(tempfile::TempDir::new().expect("a folder"));
        folder.write("fullchain.pem", "privkey.pem", 2049);
        folder.write("expired.pem", "expired.key", 2020);
        folder
    }

    fn write(&self, chain: &str, key: &str, end: i32) {
        let mut params = rcgen::CertificateParams::new(vec!["mail.example.org".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let pair = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&pair).expect("a certificate");
        fs::write(self.0.path().join(chain), certificate.pem()).expect("a file");
        fs::write(self.0.path().join(key), pair.serialize_pem()).expect("a file");
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("a plain name")
    }

    /// What a file with one gate says, whose scene and `[gate.tls]` are these.
    fn read(&self, scene: &str, tls: &str) -> Result<(Config, gatepost::config::Report), gatepost::config::Report> {
        let text = format!(
            "hostname = 'mx.example.org'\n[[gate]]\nscene = '{scene}'\nlisten = '127.0.0.1:0'\n\
             backend = '127.0.0.1:2525'\n[gate.tls]\n{tls}\n"
        );
        Config::parse(&text, &format!("{}/gatepost.toml", self.path()))
    }
}

#[test]
fn where_tls_ends() {
    let folder = Certificates::new();
    let pair = "certificates = [{ chain = 'fullchain.pem', key = 'privkey.pem' }]";
    for (scene, tls, comes_to) in [
        ("mx", "", "STARTTLS passed through"),
        ("mx", "starttls = 'off'", "no TLS"),
        ("mx", pair, "STARTTLS ends here, AUTH withheld"),
        ("submission", pair, "STARTTLS ends here, before AUTH"),
        ("submission", &format!("auth_requires_tls = false\n{pair}"), "STARTTLS ends here, AUTH offered"),
        ("submissions", pair, "TLS first, AUTH offered"),
        ("submission", &format!("implicit = true\n{pair}"), "TLS first"),
        ("submissions", &format!("implicit = false\n{pair}"), "STARTTLS ends here"),
    ] {
        let (config, warnings) = folder.read(scene, tls).unwrap_or_else(|report| panic!("{report}"));
        assert!(warnings.is_empty(), "{warnings}");
        assert!(config.summary().contains(comes_to), "{scene}, {tls}: {}", config.summary());
    }
}

#[test]
fn what_is_wrong_with_tls_is_told_with_its_remedy() {
    let folder = Certificates::new();
    let pair = |chain: &str, key: &str| format!("certificates = [{{ chain = '{chain}', key = '{key}' }}]");
    for (scene, tls, cause, remedy) in [
        ("mx", "starttls = 'here'".to_owned(), "there is no certificate", "add certificates"),
        ("submissions", String::new(), "there is no certificate", "add certificates"),
        ("mx", "implicit = true".to_owned(), "there is no certificate", "add certificates"),
        ("mx", "certificates = []".to_owned(), "is empty", "chain and its key"),
        ("mx", "certificates = [{ chain = 'fullchain.pem' }]".to_owned(), "needs `chain` and `key`", "privkey.pem"),
        ("mx", pair("none.pem", "privkey.pem"), "none.pem: cannot be read", "path"),
        ("mx", pair("fullchain.pem", "expired.key"), "does not belong", "certificate was made for"),
        ("mx", pair("privkey.pem", "privkey.pem"), "no certificate in it", "BEGIN CERTIFICATE"),
        ("mx", "starttls = 'yes'".to_owned(), "not among the choices", "end-to-end"),
    ] {
        let report = folder.read(scene, &tls).expect_err(&tls);
        let told =
            |problem: &gatepost::config::Problem| problem.cause().contains(cause) && problem.remedy().contains(remedy);
        assert!(report.problems().iter().any(told), "{tls}: {report}");
        assert_eq!(report.count(Severity::Error), 1, "{tls}: {report}");
    }
}

/// Without the certificate there would be no mail at all.
#[test]
fn a_certificate_that_is_not_good_now_is_warned_of() {
    let folder = Certificates::new();
    let pair = "certificates = [{ chain = 'expired.pem', key = 'expired.key' }]";
    let (config, warnings) = folder.read("mx", pair).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.summary().contains("STARTTLS ends here"), "{}", config.summary());
    assert_eq!(warnings.count(Severity::Warning), 1, "{warnings}");
    let told = &warnings.problems()[0];
    assert!(
        told.cause().contains("expired.pem: the certificate has expired: it was good until 2020-01-01"),
        "{told:?}"
    );
    assert!(told.remedy().starts_with("renew it"), "{told:?}");
    assert_eq!(warnings.position(told).map(|(line, _)| line), Some(7), "at the file's name");
}

#[test]
fn tls_settings_without_effect_are_warned_of() {
    let folder = Certificates::new();
    let pair = "certificates = [{ chain = 'fullchain.pem', key = 'privkey.pem' }]";
    for (scene, tls) in [
        ("mx", format!("starttls = 'end-to-end'\n{pair}")),
        ("mx", format!("starttls = 'off'\n{pair}")),
        ("mx", "client_certificate = 'ask'".to_owned()),
        ("mx", "handshake_time = '10s'".to_owned()),
        ("mx", "auth_requires_tls = true".to_owned()),
        ("submissions", format!("starttls = 'here'\n{pair}")),
        ("submissions", format!("{pair}\n[gate.tests]\npregreet = 'drop'")),
    ] {
        let (_, warnings) = folder.read(scene, &tls).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(warnings.count(Severity::Warning), 1, "{tls}: {warnings}");
    }
}

//! The DNS lists against a real list server: rbldnsd, on a port of its own on the loopback address.
//!
//! Skipped where rbldnsd is not installed (Debian: `apt-get install rbldnsd`), unless `GATEPOST_MUST_RUN_ALL` is set.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says so")]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gatepost::dnsbl::{Answer, Dnsbl, Failure, Reason, Settings, State, Waiter};
use gatepost::screen::Score;
use gatepost::screen::score::parse_list;
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;

/// Long enough for anything on loopback.
const PATIENCE: Duration = Duration::from_secs(20);

const SOA: &str = "$SOA 600 ns.test hostmaster.test 0 10m 5m 1d 120\n$NS 600 ns.test\n";

/// A running rbldnsd, killed when dropped.
struct Rbldnsd {
    address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Rbldnsd {
    /// Starts it with these zones: name, type of data set, data. None if it is not installed.
    fn start(zones: &[(&str, &str, &str)]) -> Option<Self> {
        let Some(program) = installed() else {
            assert!(
                std::env::var_os("GATEPOST_MUST_RUN_ALL").is_none(),
                "rbldnsd is not installed, and GATEPOST_MUST_RUN_ALL is set"
            );
            println!("skipped: rbldnsd is not installed");
            return None;
        };
        // rbldnsd does not take port 0: take one from the kernel, and another if somebody is faster.
        for _ in 0..20 {
            let port = UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            if let Some(running) = Self::try_start(&program, zones, port) {
                return Some(running);
            }
        }
        panic!("rbldnsd does not start");
    }

    fn try_start(program: &Path, zones: &[(&str, &str, &str)], port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // rbldnsd leaves root for another user, who has to read this.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let mut command = Command::new(program);
        // -n: stay in the foreground; -c 0: do not look whether the files have changed.
        command.args(["-n", "-c", "0", "-w"]).arg(folder.path()).arg("-b").arg(format!("127.0.0.1/{port}"));
        for (zone, kind, entries) in zones {
            let file = format!("{zone}.zone");
            std::fs::write(folder.path().join(&file), format!("{SOA}{entries}")).unwrap();
            command.arg(format!("{zone}:{kind}:{file}"));
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // It has bound its socket when it says that it has started, and says so in its log, which is standard output.
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines.map_while(Result::ok) {
            let started = line.contains("started");
            said.push(line);
            if started {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                return Some(Self { address, process, _folder: folder });
            }
        }
        let status = process.wait().unwrap();
        println!("rbldnsd ended with {status}: {said:?}");
        None
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Rbldnsd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("rbldnsd")).find(|file| file.is_file())
}

fn settings(server: &Rbldnsd, sites: &str) -> Settings {
    Settings {
        sites: parse_list(sites).unwrap(),
        nameservers: vec![server.address],
        timeout: PATIENCE,
        cache_entries: 1000,
        self_test: Duration::from_secs(1800),
        breaker_failures: 3,
        breaker_pause: Duration::from_secs(60),
        alarm_percent: 0,
        alarm_sample: 100,
    }
}

async fn ask(dnsbl: &Dnsbl, client: &str) -> Score {
    let client: IpAddr = client.parse().unwrap();
    let (to, mut answers) = unbounded_channel();
    let mut score = dnsbl.ask(client, Waiter { to, ticket: 1 });
    while score.outstanding > 0 {
        let answer = tokio::time::timeout(2 * PATIENCE, answers.recv()).await.expect("no answer in time");
        let Some(Answer { score: more, .. }) = answer else { panic!("no more answers, and some are outstanding") };
        score = more;
    }
    score
}

const TEST_POINT: &str = "127.0.0.2\n";

#[tokio::test]
async fn clients_are_listed_and_unlisted() {
    let Some(server) = Rbldnsd::start(&[
        (
            "bl.test",
            "ip4set",
            &format!(":127.0.0.2:listed\n{TEST_POINT}192.0.2.1\n192.0.2.2 :127.0.0.4:\n198.51.100.0/24 :127.0.0.10:\n"),
        ),
        ("wl.test", "ip4set", ":127.0.5.2:good\n192.0.2.2\n"),
        ("six.test", "ip6trie", ":127.0.0.3:listed\n2001:db8:bad::/48\n::ffff:7f00:2\n"),
    ]) else {
        return;
    };
    let sites = "bl.test=127.0.0.[2..3]*3, bl.test=127.0.0.[4;10..11]*2, wl.test=127.0.[0..255].[1..3]*-4, six.test*5";
    let dnsbl = Dnsbl::open(settings(&server, sites)).unwrap();
    let rows = [
        ("192.0.2.1", 3, Some(0)),
        ("192.0.2.2", -2, Some(1)),
        ("192.0.2.3", 0, None),
        ("198.51.100.77", 2, Some(1)),
        ("::ffff:192.0.2.1", 3, Some(0)),
        ("2001:db8:bad::25", 5, Some(3)),
        ("2001:db8:900d::25", 0, None),
    ];
    for (client, total, worst) in rows {
        let score = ask(&dnsbl, client).await;
        assert_eq!((score.total, score.worst), (total, worst), "{client}");
        assert!(score.pass_ttl.is_some_and(|ttl| ttl <= Duration::from_secs(2100)), "{client}: {:?}", score.pass_ttl);
    }
    for zone in dnsbl.zones() {
        assert_eq!((zone.state, zone.errors), (State::Working, [0; Failure::KINDS]), "{}", zone.display);
    }
    let findings = dnsbl.examine("192.0.2.2".parse().unwrap()).await;
    let counted: Vec<_> = findings.iter().map(|finding| (finding.weight, finding.counted)).collect();
    assert_eq!(counted, [(3, false), (2, true), (-4, true), (5, false)]);
}

#[tokio::test]
async fn a_list_that_refuses_this_resolver_says_nothing_of_anybody() {
    let Some(server) = Rbldnsd::start(&[
        ("blocked.test", "ip4set", ":127.255.255.254:blocked\n0.0.0.0/1\n128.0.0.0/1\n"),
        ("bl.test", "ip4set", &format!(":127.0.0.2:listed\n{TEST_POINT}192.0.2.1\n")),
    ]) else {
        return;
    };
    let dnsbl = Dnsbl::open(settings(&server, "blocked.test*9 bl.test*1")).unwrap();
    assert_eq!(ask(&dnsbl, "192.0.2.1").await.total, 1);
    assert_eq!(ask(&dnsbl, "192.0.2.3").await.total, 0);
    let [blocked, works] = dnsbl.zones().try_into().unwrap();
    assert_eq!(blocked.state, State::Failed { reason: Reason::TestFailed(Failure::ErrorCode(254)) });
    assert_eq!(works.state, State::Working);
}

#[tokio::test]
async fn a_list_that_lists_everybody_turns_nobody_away() {
    let Some(server) = Rbldnsd::start(&[("world.test", "ip4set", ":127.0.0.2:everybody\n0.0.0.0/1\n128.0.0.0/1\n")])
    else {
        return;
    };
    let dnsbl = Dnsbl::open(settings(&server, "world.test*9")).unwrap();
    for client in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(ask(&dnsbl, client).await.total, 0);
    }
    assert_eq!(dnsbl.zones()[0].state, State::Failed { reason: Reason::LoopbackListed });

    // Without a self-test, and with an alarm, it takes as many clients as the sample has.
    let unattended =
        Settings { self_test: Duration::ZERO, alarm_percent: 95, alarm_sample: 5, ..settings(&server, "world.test*9") };
    let dnsbl = Dnsbl::open(unattended).unwrap();
    for number in 0..5 {
        ask(&dnsbl, &format!("192.0.2.{number}")).await;
    }
    assert_eq!(dnsbl.zones()[0].state, State::Failed { reason: Reason::Alarm(100) });
    assert_eq!(ask(&dnsbl, "192.0.2.99").await.total, 0);
}

#[tokio::test]
async fn a_list_that_has_died_costs_one_timeout_and_then_nothing() {
    let data = format!(":127.0.0.2:listed\n{TEST_POINT}192.0.2.1\n");
    let Some(mut server) = Rbldnsd::start(&[("bl.test", "ip4set", &data)]) else {
        return;
    };
    let timeout = Duration::from_secs(1);
    let lively = Settings { timeout, breaker_failures: 2, ..settings(&server, "bl.test*2") };
    let dnsbl = Dnsbl::open(lively).unwrap();
    assert_eq!(ask(&dnsbl, "192.0.2.1").await.total, 2);
    server.kill();
    for client in ["192.0.2.11", "192.0.2.12"] {
        assert_eq!(ask(&dnsbl, client).await.total, 0);
    }
    let [zone] = dnsbl.zones().try_into().unwrap();
    assert!(matches!(zone.state, State::Paused { last: Failure::Timeout, .. }), "{zone:?}");
    assert_eq!(zone.errors().find(|&(name, _)| name == "timeout"), Some(("timeout", 2)));
    let begin = std::time::Instant::now();
    assert_eq!(ask(&dnsbl, "192.0.2.13").await.total, 0);
    assert!(begin.elapsed() < timeout / 2, "nobody waits for it any more");
    assert_eq!(ask(&dnsbl, "192.0.2.1").await.total, 2, "what it said while it lived holds");
}

//! The whole hand, with scripts in the place of `nft` and of the operator's program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A folder with an `nft` that writes down what it is told, and does what is asked of it here.
struct Stage {
    folder: tempfile::TempDir,
    clock: Clock,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap(), clock: Clock::system() };
        stage.nft("exit 0");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// `nft` writes down each transaction, and ends as told.
    fn nft(&self, end: &str) {
        let (last, told) = (self.path("last"), self.path("told"));
        let keep = format!("cat > {0}; cat {0} >> {1}; echo -- >> {1}", last.display(), told.display());
        self.script("nft", &format!("{keep}\n{end}"));
    }

    /// A shell reads it, so that it may be replaced while it runs.
    fn nftables(&self) -> Nftables {
        let script = self.path("nft").to_string_lossy().into_owned();
        Nftables { program: vec!["/bin/sh".to_owned(), script], ..Nftables::default() }
    }

    fn open(&self) -> Firewall {
        Firewall::open(Settings { nftables: Some(self.nftables()), ..Settings::default() }, self.clock.clone())
    }

    /// What was told, in transactions.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("told")).unwrap_or_default();
        text.split("--\n").filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn later(&self, seconds: u64) -> Timestamp {
        self.clock.now().plus(Duration::from_secs(seconds))
    }
}

async fn until(what: &str, probe: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !probe() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn failures(firewall: &Firewall, kind: &str) -> u64 {
    firewall.counts().failures.iter().find(|(word, _)| *word == kind).unwrap().1
}

#[tokio::test]
async fn bans_of_the_start_are_in_the_first_transaction_and_a_stop_clears() {
    let stage = Stage::new();
    let firewall = stage.open();
    firewall.restore([(net("192.0.2.7/32"), stage.later(600), "auth")].into_iter());
    until("the bans", || firewall.counts().elements == 1).await;
    let told = stage.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("add table inet gatepost\ndelete table inet gatepost\n"), "{}", told[0]);
    assert!(told[0].contains("banned4 { 192.0.2.7 timeout "), "{}", told[0]);

    firewall.stop().await;
    assert_eq!(stage.told().last().unwrap(), "add table inet gatepost\ndelete table inet gatepost\n");
    assert_eq!(firewall.counts().elements, 0);
    firewall.ban(net("192.0.2.8/32"), stage.later(600), "auth");
    firewall.stop().await;
    assert_eq!(stage.told().len(), 2, "nothing is told after the stop");
}

#[tokio::test]
async fn a_burst_is_one_transaction() {
    let stage = Stage::new();
    let firewall = stage.open();
    until("the table", || stage.told().len() == 1).await;
    for n in 0..200 {
        firewall.ban(net(&format!("192.0.2.{n}/32")), stage.later(600), "auth");
    }
    firewall.unban(net("192.0.2.0/32"));
    until("the bans", || firewall.counts().elements == 199).await;
    let told = stage.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1].matches("timeout").count(), 199);
    firewall.ban(net("192.0.2.5/32"), stage.later(6000), "auth");
    until("the extension", || stage.told().len() == 3).await;
    let told = stage.told();
    assert!(told[2].starts_with("delete element inet gatepost banned4 { 192.0.2.5 }\nadd element"), "{}", told[2]);
}

#[tokio::test]
async fn what_fails_is_made_anew_and_counted() {
    let stage = Stage::new();
    stage.nft("echo 'netlink: Error: Operation not permitted' >&2; exit 1");
    let firewall = stage.open();
    firewall.ban(net("192.0.2.7/32"), stage.later(600), "auth");
    until("two attempts", || failures(&firewall, "denied") >= 2).await;
    assert_eq!(firewall.counts().elements, 0);
    stage.nft("exit 0");
    until("the bans", || firewall.counts().elements == 1).await;
    assert!(stage.told().last().unwrap().contains("192.0.2.7"));

    // Somebody flushed the rules: the next change fails, and all is told anew at once.
    let before = stage.told().len();
    stage.nft("grep -q '^add table' \"${0%/*}/last\" && exit 0\necho 'Error: No such file or directory' >&2\nexit 1");
    firewall.ban(net("192.0.2.9/32"), stage.later(600), "auth");
    until("both bans", || firewall.counts().elements == 2).await;
    let told = stage.told();
    assert!(told.len() >= before + 2, "{told:?}");
    assert!(told.last().unwrap().contains("delete table") && told.last().unwrap().contains("192.0.2.7"));
    assert_eq!(failures(&firewall, "refused"), 0, "it was mended at once");
}

#[tokio::test]
async fn without_nft_nothing_waits_and_nothing_breaks() {
    let stage = Stage::new();
    let nftables = Nftables { program: vec!["/nonexistent/nft".to_owned()], ..Nftables::default() };
    let firewall = Firewall::open(Settings { nftables: Some(nftables), ..Settings::default() }, stage.clock.clone());
    for n in 0..10_000_u32 {
        let ip = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n << 8));
        firewall.ban(IpNet::from(ip), stage.later(600), "auth");
    }
    until("a complaint", || failures(&firewall, "missing") > 0).await;
    firewall.stop().await;
}

#[tokio::test]
async fn an_nft_that_hangs_is_killed() {
    let stage = Stage::new();
    stage.nft("sleep 1000");
    let firewall = stage.open();
    until("the deadline", || failures(&firewall, "timeout") > 0).await;
    stage.nft("exit 0");
    firewall.ban(net("192.0.2.7/32"), stage.later(600), "auth");
    until("the bans", || firewall.counts().elements == 1).await;
}

#[tokio::test]
async fn what_touches_an_exempt_network_never_leaves() {
    let stage = Stage::new();
    let firewall = stage.open();
    firewall.set_exempt(vec![net("192.0.2.128/25"), net("2001:db8:1::/48")]);
    for text in ["192.0.2.0/24", "192.0.2.129/32", "192.0.2.1/32", "2001:db8::/32", "2001:db8:2::/64", "0.0.0.0/0"] {
        firewall.ban(net(text), stage.later(600), "operator");
    }
    until("the others", || firewall.counts().elements == 2).await;
    let told = stage.told().concat();
    assert!(told.contains("{ 192.0.2.1 timeout") && told.contains("{ 2001:db8:2::/64 timeout"), "{told}");
    assert!(!told.contains("192.0.2.0/24") && !told.contains("192.0.2.129") && !told.contains("db8::/32"), "{told}");

    // Exempt from now on, and then nobody is.
    firewall.set_exempt(vec![net("192.0.2.1/32")]);
    until("all but what has it in it", || firewall.counts().elements == 2).await;
    until("the change", || stage.told().last().unwrap().contains("192.0.2.129 timeout")).await;
    assert!(stage.told().last().unwrap().contains("delete element inet gatepost banned4 { 192.0.2.1 }"));
    firewall.set_exempt(Vec::new());
    until("the network", || stage.told().last().unwrap().contains("192.0.2.0/24 timeout")).await;
    assert!(!stage.told().concat().contains("0.0.0.0/0"), "everybody is never banned outside");
}

#[tokio::test]
async fn what_is_over_goes_and_gives_way_to_what_it_covered() {
    let stage = Stage::new();
    let firewall = stage.open();
    firewall.ban(net("192.0.2.0/24"), stage.later(1), "operator");
    firewall.ban(net("192.0.2.7/32"), stage.later(600), "auth");
    firewall.ban(net("198.51.100.1/32"), stage.later(1), "auth");
    until("the bans", || firewall.counts().elements == 2).await;
    until("the covered one", || stage.told().last().unwrap().contains("192.0.2.7 timeout")).await;
    assert!(!stage.told().last().unwrap().contains("delete"), "what is over went by itself");
    until("one", || firewall.counts().elements == 1).await;
    // Exempt, or over before it came: it is forgotten all the same.
    firewall.set_exempt(vec![net("203.0.113.0/24")]);
    firewall.ban(net("203.0.113.1/32"), stage.later(1), "auth");
    firewall.ban(net("198.51.100.2/32"), Timestamp::from_seconds(1), "auth");
    let wanted = || firewall.open.as_ref().unwrap().shared.wanted.lock().bans.len();
    assert!(wanted() > 1);
    until("one", || wanted() == 1).await;
    assert_eq!(firewall.counts().elements, 1);
}

#[tokio::test]
async fn there_is_a_cap() {
    let stage = Stage::new();
    let firewall = stage.open();
    let bans = (0..70_000_u32).map(|n| {
        let ip = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n << 4));
        (IpNet::from(ip), stage.later(600), "auth")
    });
    firewall.restore(bans);
    until("as many as there may be", || firewall.counts().elements == MOST as u64).await;
    assert_eq!(failures(&firewall, "overflow"), 70_000 - MOST as u64);
}

#[tokio::test]
async fn the_file_says_who_is_banned_and_stays() {
    let stage = Stage::new();
    let path = stage.path("banned");
    let settings = Settings { file: Some(BanFile { path: path.clone() }), ..Settings::default() };
    let firewall = Firewall::open(settings, stage.clock.clone());
    let lines = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    until("the file", || path.exists()).await;
    assert!(lines(&path).is_empty());
    firewall.ban(net("198.51.100.0/24"), stage.later(600), "operator");
    firewall.ban(net("198.51.100.7/32"), stage.later(600), "auth");
    firewall.ban(net("192.0.2.7/32"), stage.later(600), "auth");
    until("the bans", || lines(&path).len() == 3).await;
    assert_eq!(lines(&path), ["192.0.2.7", "198.51.100.0/24", "198.51.100.7"]);
    firewall.unban(net("192.0.2.7/32"));
    firewall.stop().await;
    assert_eq!(lines(&path), ["198.51.100.0/24", "198.51.100.7"], "the last word is written at the stop");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_tried_again() {
    let stage = Stage::new();
    let path = stage.path("folder/banned");
    let settings = Settings { file: Some(BanFile { path: path.clone() }), ..Settings::default() };
    let firewall = Firewall::open(settings, stage.clock.clone());
    until("a failure", || failures(&firewall, "file") > 0).await;
    fs::create_dir(stage.path("folder")).unwrap();
    until("the file", || path.exists()).await;
}

#[tokio::test]
async fn the_operator_s_program_is_run_for_each_ban_and_its_end() {
    let stage = Stage::new();
    let heard = stage.path("heard");
    stage.script("on-ban", &format!("echo \"$*\" >> {}\n[ \"$3\" != 192.0.2.9/32 ] || exit 3", heard.display()));
    let words = vec!["/bin/sh".to_owned(), stage.path("on-ban").to_string_lossy().into_owned(), "first".to_owned()];
    let firewall =
        Firewall::open(Settings { command: Some(Hook { words }), ..Settings::default() }, stage.clock.clone());
    firewall.restore([(net("192.0.2.1/32"), stage.later(600), "auth")].into_iter());
    firewall.ban(net("192.0.2.7/32"), stage.later(600), "auth");
    let lines =
        || -> Vec<String> { fs::read_to_string(&heard).unwrap_or_default().lines().map(str::to_owned).collect() };
    until("a ban", || lines().len() == 1).await;
    firewall.unban(net("192.0.2.7/32"));
    until("an unban", || lines().len() == 2).await;
    firewall.ban(net("2001:db8::/64"), stage.later(1), "operator");
    until("its end", || lines().len() == 4).await;
    firewall.ban(net("192.0.2.9/32"), stage.later(600), "auth");
    until("a failure", || firewall.counts().runs.contains(&("failed", 1))).await;
    let said = lines();
    let seconds = said[0].strip_prefix("first ban 192.0.2.7/32 ").and_then(|rest| rest.strip_suffix(" auth"));
    assert!((500..=600).contains(&seconds.unwrap().parse::<u32>().unwrap()), "{said:?}");
    assert_eq!(said[1], "first unban 192.0.2.7/32");
    assert!(said[2].starts_with("first ban 2001:db8::/64 "), "{said:?}");
    assert_eq!(said[3], "first unban 2001:db8::/64");
    assert!(firewall.counts().runs.contains(&("ok", 4)), "{:?}", firewall.counts());
}

#[tokio::test]
async fn a_program_that_is_too_slow_is_gone_without() {
    let stage = Stage::new();
    stage.script("on-ban", "sleep 1000");
    let words = vec!["/bin/sh".to_owned(), stage.path("on-ban").to_string_lossy().into_owned()];
    let firewall =
        Firewall::open(Settings { command: Some(Hook { words }), ..Settings::default() }, stage.clock.clone());
    for n in 0..3000_u32 {
        let ip = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n << 8));
        firewall.ban(IpNet::from(ip), stage.later(600), "auth");
    }
    until("those that are dropped", || firewall.counts().runs.iter().any(|run| run.0 == "dropped" && run.1 > 1000))
        .await;
}

#[tokio::test]
async fn nobody_to_tell_is_nothing_to_do() {
    let firewall = Firewall::open(Settings::default(), Clock::system());
    firewall.ban(net("192.0.2.7/32"), Timestamp::from_millis(u64::MAX), "auth");
    firewall.unban(net("192.0.2.7/32"));
    firewall.set_exempt(vec![net("192.0.2.7/32")]);
    firewall.stop().await;
    assert_eq!(firewall.counts(), Counts::default());
}

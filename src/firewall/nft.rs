//! What is written to `nft`, the program of nftables.
//!
//! All of it is one table of our own: two sets, one for each family, whose elements go by themselves when their time is
//! over, and one rule for each that drops what comes from there to the mail ports. Each text is one transaction: all of it
//! comes about, or nothing.

use std::fmt::Write;
use std::time::Duration;

use ipnet::IpNet;

use super::program::{self, Failure};
use crate::time::Timestamp;

/// How many elements go on one line.
const LINE: usize = 256;

/// How long `nft` may take, and how many elements it may have another second for each.
const DEADLINE: Duration = Duration::from_secs(5);
const A_SECOND: usize = 4096;

/// The longest that an element stays. The kernel is told again when a ban is that long.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// The kernel's packet filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nftables {
    /// The name of the table, family `inet`. It is ours: made anew at the start, deleted at a stop.
    pub table: String,
    /// The TCP ports that banned clients cannot reach. Mail ports, and at least one.
    pub ports: Vec<u16>,
    /// Where among other chains of the input hook ours comes; lower is earlier.
    pub priority: i32,
    /// `nft`, and what goes before its arguments.
    pub program: Vec<String>,
    /// How often it is looked whether the table is still there: a reload of the host's own rules flushes everything.
    pub check: Duration,
}

impl Default for Nftables {
    fn default() -> Self {
        Self {
            table: "gatepost".to_owned(),
            ports: vec![25, 465, 587],
            priority: -10,
            program: vec!["nft".to_owned()],
            check: Duration::from_secs(30),
        }
    }
}

impl Nftables {
    /// Everything anew: whatever the table was before, it has these elements afterwards, in one step.
    pub(super) fn whole(&self, elements: &[(IpNet, Timestamp)], now: Timestamp) -> String {
        let Self { table, priority, .. } = self;
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let ports = ports.join(", ");
        let mut text = self.nothing();
        let _ = write!(
            text,
            "add table inet {table}\n\
             add set inet {table} banned4 {{ type ipv4_addr; flags interval,timeout; }}\n\
             add set inet {table} banned6 {{ type ipv6_addr; flags interval,timeout; }}\n\
             add chain inet {table} input {{ type filter hook input priority {priority}; policy accept; }}\n\
             add rule inet {table} input tcp dport {{ {ports} }} ip saddr @banned4 counter drop\n\
             add rule inet {table} input tcp dport {{ {ports} }} ip6 saddr @banned6 counter drop\n",
        );
        self.add(&mut text, elements, now);
        text
    }

    /// No table. Adding it first makes that right whether or not there is one.
    pub(super) fn nothing(&self) -> String {
        format!("add table inet {0}\ndelete table inet {0}\n", self.table)
    }

    /// Elements out, and then others in. What goes out has to be there.
    pub(super) fn change(&self, out: &[IpNet], into: &[(IpNet, Timestamp)], now: Timestamp) -> String {
        let mut text = String::new();
        self.lines(&mut text, "delete", out.iter().map(|net| (*net, String::new())));
        self.add(&mut text, into, now);
        text
    }

    fn add(&self, text: &mut String, elements: &[(IpNet, Timestamp)], now: Timestamp) {
        // One that has no time left would stay for ever.
        let left = |until: Timestamp| until.since(now).clamp(Duration::from_millis(1), LONGEST);
        self.lines(text, "add", elements.iter().map(|&(net, until)| (net, format!(" timeout {}", span(left(until))))));
    }

    fn lines(&self, text: &mut String, verb: &str, elements: impl Iterator<Item = (IpNet, String)> + Clone) {
        for set in ["banned4", "banned6"] {
            let mut count = 0;
            for (net, rest) in elements.clone().filter(|(net, _)| matches!(net, IpNet::V4(_)) == (set == "banned4")) {
                if count % LINE == 0 {
                    let close = if count > 0 { " }\n" } else { "" };
                    let _ = write!(text, "{close}{verb} element inet {} {set} {{ ", self.table);
                } else {
                    text.push_str(", ");
                }
                let whole = net.prefix_len() == net.max_prefix_len();
                let _ = if whole { write!(text, "{}{rest}", net.addr()) } else { write!(text, "{net}{rest}") };
                count += 1;
            }
            if count > 0 {
                text.push_str(" }\n");
            }
        }
    }

    /// Whether the chain is still there. A rule could be added to it then; to list it would cost reading the sets.
    pub(super) async fn is_there(&self) -> Result<(), Failure> {
        self.run(&["--check"], &format!("add rule inet {} input counter\n", self.table), 0).await
    }

    /// Carries out `text`, which names about as many elements.
    pub(super) async fn carry_out(&self, text: &str, elements: usize) -> Result<(), Failure> {
        self.run(&[], text, elements).await
    }

    async fn run(&self, arguments: &[&str], text: &str, elements: usize) -> Result<(), Failure> {
        let mut words = self.program.clone();
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words.extend(["-f", "-"].map(str::to_owned));
        let more = u64::try_from(elements / A_SECOND).unwrap_or(u64::MAX);
        program::run(&words, text.as_bytes(), DEADLINE.saturating_add(Duration::from_secs(more))).await
    }
}

/// Whether `nft` would do what is asked of it, by this process. Nothing is changed.
pub async fn examine(nftables: &Nftables) -> Result<(), Failure> {
    nftables.run(&["--check"], &nftables.whole(&[], Timestamp::default()), 0).await
}

/// A span as `nft` reads it. Its numbers are small: seconds alone overflow in some versions.
fn span(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (millis.into(), "ms"),
    ];
    parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn spans_are_written_with_small_numbers() {
        for (millis, text) in [
            (1, "1ms"),
            (1500, "1s500ms"),
            (60_000, "1m"),
            (3_600_000, "1h"),
            (90_061_001, "1d1h1m1s1ms"),
            (604_800_000, "7d"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_whole_table_takes_the_place_of_any_other() {
        let nftables = Nftables { ports: vec![25, 2525], ..Nftables::default() };
        let now = Timestamp::from_seconds(1000);
        let elements = [
            (net("192.0.2.7/32"), now.plus(Duration::from_secs(90))),
            (net("2001:db8::/64"), now.plus(Duration::from_millis(2500))),
            (net("198.51.100.0/24"), now),
        ];
        assert_eq!(
            nftables.whole(&elements, now),
            "add table inet gatepost\n\
             delete table inet gatepost\n\
             add table inet gatepost\n\
             add set inet gatepost banned4 { type ipv4_addr; flags interval,timeout; }\n\
             add set inet gatepost banned6 { type ipv6_addr; flags interval,timeout; }\n\
             add chain inet gatepost input { type filter hook input priority -10; policy accept; }\n\
             add rule inet gatepost input tcp dport { 25, 2525 } ip saddr @banned4 counter drop\n\
             add rule inet gatepost input tcp dport { 25, 2525 } ip6 saddr @banned6 counter drop\n\
             add element inet gatepost banned4 { 192.0.2.7 timeout 1m30s, 198.51.100.0/24 timeout 1ms }\n\
             add element inet gatepost banned6 { 2001:db8::/64 timeout 2s500ms }\n"
        );
    }

    #[test]
    fn changes_go_out_before_they_come_in() {
        let nftables = Nftables { table: "gatepost-mx".to_owned(), ..Nftables::default() };
        let now = Timestamp::from_seconds(1000);
        let until = now.plus(Duration::from_secs(600));
        assert_eq!(
            nftables.change(
                &[net("192.0.2.0/24"), net("2001:db8::1/128")],
                &[(net("192.0.2.7/32"), until), (net("192.0.2.9/32"), Timestamp::from_millis(u64::MAX))],
                now
            ),
            "delete element inet gatepost-mx banned4 { 192.0.2.0/24 }\n\
             delete element inet gatepost-mx banned6 { 2001:db8::1 }\n\
             add element inet gatepost-mx banned4 { 192.0.2.7 timeout 10m, 192.0.2.9 timeout 3650d }\n"
        );
        assert_eq!(nftables.change(&[], &[], now), "");
    }

    #[test]
    fn many_elements_go_on_several_lines() {
        let nftables = Nftables::default();
        let nets: Vec<IpNet> =
            (0..600_u32).map(|n| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n)))).collect();
        let text = nftables.change(&nets, &[], Timestamp::default());
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.starts_with("delete element inet gatepost banned4 { ")));
        assert!(text.lines().all(|line| line.ends_with(" }") && !line.contains(", }")), "{text}");
        assert_eq!(text.matches("0.0.").count(), 600);
    }
}

//! Networks as an operator writes them: one CIDR or address, or a file of them.
//!
//! Pure: whoever has the text brings it. Every problem is reported, each with its line and what would be right.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// How much of a wrong entry an error repeats.
const SHOWN: usize = 64;

/// Why a text is not a network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct NotANetwork {
    /// The text, cut where it is long.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub reason: Reason,
}

/// What is wrong with a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Neither an address nor a CIDR.
    Syntax,
    /// The number behind the slash is larger than the address is long.
    Length {
        /// The most that it can be.
        most: u8,
    },
    /// Bits are set behind the prefix: was the network meant, or the host?
    HostBits {
        /// The network, with these bits cleared.
        network: IpNet,
        /// The host.
        host: IpAddr,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => {
                f.write_str("write an address or a network, such as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32")
            }
            Self::Length { most } => write!(f, "the prefix length is a number from 0 to {most}"),
            Self::HostBits { network, host } => {
                write!(f, "has bits set behind the prefix: write {network} for the network or {host} for the one host")
            }
        }
    }
}

/// A line of a file that is not a network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: NotANetwork,
}

/// Reads a CIDR or an address (a /32 or /128). IPv4-mapped IPv6 is read as the IPv4 that it stands for.
pub fn parse(text: &str) -> Result<IpNet, NotANetwork> {
    let text = text.trim();
    let wrong = |reason| NotANetwork { text: text.chars().take(SHOWN).collect(), reason };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong(Reason::Syntax))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        // `parse` would take "+24".
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        Some(_) => None,
        None => Some(most),
    };
    let network = length.and_then(|length| IpNet::new(address, length).ok());
    let network = network.ok_or_else(|| wrong(Reason::Length { most }))?;
    if network.addr() != network.network() {
        return Err(wrong(Reason::HostBits { network: network.trunc(), host: address }));
    }
    Ok(canonical(network))
}

/// Reads one CIDR or address a line. Empty lines, and what follows a `#` or a `;`, do not count. All bad lines are reported.
pub fn parse_lines(text: &str) -> Result<Vec<IpNet>, Vec<BadLine>> {
    let (mut networks, mut bad) = (Vec::new(), Vec::new());
    for entry in lines(text) {
        match entry {
            Ok(network) => networks.push(network),
            Err(problem) => bad.push(problem),
        }
    }
    if bad.is_empty() { Ok(networks) } else { Err(bad) }
}

/// The entries of a file, as [`parse_lines`] reads them, one by one: for files that may be large.
pub fn lines(text: &str) -> impl Iterator<Item = Result<IpNet, BadLine>> {
    // An editor of another system may have put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().zip(1..).filter_map(|(line, number)| {
        let entry = entry(line);
        (!entry.is_empty()).then(|| parse(entry).map_err(|problem| BadLine { line: number, problem }))
    })
}

/// What counts of a line: what is before a comment.
pub fn entry(line: &str) -> &str {
    line.split(['#', ';']).next().unwrap_or_default().trim()
}

/// The network without host bits, and as IPv4 if it lies within `::ffff:0:0/96`. A wider IPv6 network says nothing of
/// IPv4 clients.
pub fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let IpAddr::V4(v4) = IpAddr::V6(v6.addr()).to_canonical()
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4.trunc());
    }
    network.trunc()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_and_addresses_are_read() {
        for (text, network) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            (" 192.0.2.0/24\t", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), network, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_what_would_be_right() {
        for (text, words) in [
            ("mail.example", "write an address or a network"),
            ("", "write an address or a network"),
            ("192.0.2", "write an address or a network"),
            ("192.0.2.256/24", "write an address or a network"),
            ("192.0.2.1 192.0.2.2", "write an address or a network"),
            ("192.0.2.0/33", "from 0 to 32"),
            ("192.0.2.0/", "from 0 to 32"),
            ("192.0.2.0/+24", "from 0 to 32"),
            ("192.0.2.0/-1", "from 0 to 32"),
            ("192.0.2.0/255.255.255.0", "from 0 to 32"),
            ("2001:db8::/129", "from 0 to 128"),
            ("10.1.2.3/8", "write 10.0.0.0/8 for the network or 10.1.2.3 for the one host"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_reports_every_bad_line() {
        let text = "\u{feff}# ours\n192.0.2.0/24 # the office\r\n\n  2001:db8::/32\n";
        let networks = parse_lines(text).unwrap();
        assert_eq!(networks.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::/32"]);

        // As Spamhaus writes them.
        let text =
            "; Spamhaus DROP List\r\n; Expires: never\r\n\r\n1.10.16.0/20 ; SBL256894\r\n2.56.192.0/22;SBL459831\r\n";
        let networks = parse_lines(text).unwrap();
        assert_eq!(networks.iter().map(IpNet::to_string).collect::<Vec<_>>(), ["1.10.16.0/20", "2.56.192.0/22"]);

        let bad = parse_lines("192.0.2.0/24\nnonsense\n#\n10.0.0.1/8\n").unwrap_err();
        assert_eq!(bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [2, 4]);
        assert!(bad[0].to_string().starts_with("line 2: \"nonsense\": write an address"));
    }

    #[test]
    fn a_long_line_is_not_repeated_whole() {
        let bad = parse_lines(&"x".repeat(10_000)).unwrap_err();
        assert!(bad[0].to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bits: u128, length in 0u8..=128, v4: bool) {
            let network = if v4 {
                IpNet::new(std::net::Ipv4Addr::from(bits as u32).into(), length / 4).unwrap()
            } else {
                IpNet::new(std::net::Ipv6Addr::from(bits).into(), length).unwrap()
            };
            let network = canonical(network);
            prop_assert_eq!(parse(&network.to_string()), Ok(network));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_lines(&text);
        }
    }
}

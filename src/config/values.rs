//! What single values of the file can be: each function reads one kind, or says what is wrong and what would be right.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::inspection::Wrong;
use super::nearest::nearest;
use super::table::kind;
use crate::addr::canonical;
use crate::policy::gcra::{NotAQuota, Quota};
use crate::policy::network::{self, NotANetwork, Reason};
use crate::smtp::path::{Name, name};
use crate::time::{format_span, parse_span};

/// A string.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| expected("a string", value, "put it in double quotes"))
}

/// A string that can go into an SMTP reply: printable ASCII, at most `most` bytes.
pub(super) fn reply_text(most: usize) -> impl Fn(&DeValue<'_>) -> Result<String, Wrong> {
    move |value| {
        let text = text(value)?;
        if let Some(odd) = text.chars().find(|&letter| letter != ' ' && !letter.is_ascii_graphic()) {
            let remedy = "SMTP replies are plain ASCII: write it without accents, line breaks and control characters";
            return Err(Wrong::new(format!("{odd:?} cannot go into an SMTP reply"), remedy));
        }
        match text.len() {
            0 => Err(Wrong::new("the text is empty", "write a text, or leave the key out")),
            length if length > most => {
                Err(Wrong::new(format!("{length} characters are too long"), format!("keep it to {most} characters")))
            }
            _ => Ok(text.to_owned()),
        }
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| expected("true or false", value, "write true or false, without quotes"))
}

/// A whole number within `range`.
pub(super) fn whole(range: RangeInclusive<i64>) -> impl Fn(&DeValue<'_>) -> Result<i64, Wrong> {
    move |value| {
        let (least, most) = (range.start(), range.end());
        let remedy = format!("write a whole number from {least} to {most}, without quotes");
        let Some(digits) = value.as_integer() else { return Err(expected("a whole number", value, &remedy)) };
        match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(Wrong::new(format!("{digits} is out of range"), remedy)),
        }
    }
}

/// A whole number from `range` as the unsigned type that a setting has.
pub(super) fn count<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let number = whole(range.clone())(value)?;
        T::try_from(number).map_err(|_| {
            Wrong::new(format!("{number} is out of range"), "write a number that this machine can count to")
        })
    }
}

/// A span of time within `range`, as a string with a unit.
pub(super) fn span(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Duration, Wrong> {
    move |value| {
        if let DeValue::Integer(number) = value {
            let cause = format!("{number} is no span of time without a unit");
            return Err(Wrong::new(cause, format!("write \"{number}s\" for seconds (units: ms, s, m, h, d, w)")));
        }
        let Some(text) = value.as_str() else {
            return Err(expected("a span of time", value, "write a number and a unit in quotes, such as \"30s\""));
        };
        let span = parse_span(text).map_err(|_| {
            let remedy = "write a number and a unit: \"250ms\", \"1.5s\", \"6s\", \"10m\", \"4h\", \"7d\" or \"2w\"";
            Wrong::new(format!("{text:?} is not a span of time"), remedy)
        })?;
        if range.contains(&span) {
            return Ok(span);
        }
        let (least, most) = (format_span(*range.start()), format_span(*range.end()));
        Err(Wrong::new(format!("{text:?} is out of range"), format!("write a span from \"{least}\" to \"{most}\"")))
    }
}

/// A number for a span of time, or `false` for any number.
pub(super) fn quota(value: &DeValue<'_>) -> Result<Option<Quota>, Wrong> {
    const REMEDY: &str = "write a number and a span in quotes, such as \"60/1m\", or false for any number";
    match value {
        DeValue::Boolean(false) => Ok(None),
        DeValue::String(text) => {
            text.parse().map(Some).map_err(|error: NotAQuota| Wrong::new(error.to_string(), REMEDY))
        }
        _ => Err(expected("a number for a span of time", value, REMEDY)),
    }
}

/// One of a few words. `others` are words that people know from elsewhere, and what they are called here.
pub(super) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
    others: &'static [(&'static str, &'static str)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let words = || choices.iter().map(|&(word, _)| word);
        let list = || words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let Some(typed) = value.as_str() else {
            return Err(expected("a word in quotes", value, &format!("write one of {}", list())));
        };
        if let Some(&(_, chosen)) = choices.iter().find(|&&(word, _)| word == typed) {
            return Ok(chosen);
        }
        let known_elsewhere = others.iter().find(|&&(other, _)| other.eq_ignore_ascii_case(typed));
        let remedy = match (known_elsewhere, nearest(typed, words())) {
            (Some((_, here)), _) => format!("what you mean is called \"{here}\" here"),
            (None, Some(meant)) => format!("did you mean \"{meant}\"?"),
            (None, None) => format!("write one of {}", list()),
        };
        Err(Wrong::new(format!("{typed:?} is not among the choices"), remedy))
    }
}

/// A domain of two labels or more, in lower case.
pub(super) fn domain(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    match name(text.as_bytes()) {
        Name::Domain(domain) => Ok(domain.trim_end_matches('.').to_ascii_lowercase()),
        _ => {
            let remedy = "write the full name that the DNS has for this host, such as \"mx.example.org\"";
            Err(Wrong::new(format!("{text:?} is not a full domain name"), remedy))
        }
    }
}

/// A network in CIDR notation, or a single address.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    parse_network(text(value)?)
}

/// Reads a network in CIDR notation, or a single address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, Wrong> {
    network::parse(text).map_err(|wrong| not_a_network(&wrong))
}

/// The complaint about a text that is no network.
pub(super) fn not_a_network(wrong: &NotANetwork) -> Wrong {
    let cause = match wrong.reason {
        Reason::HostBits { .. } => format!("{:?} has bits behind its prefix length", wrong.text),
        Reason::Syntax | Reason::Length { .. } => format!("{:?} is not a network", wrong.text),
    };
    let remedy = match wrong.reason {
        Reason::HostBits { network, host } => {
            format!("did you mean the network \"{network}\", or the address \"{host}\"?")
        }
        Reason::Syntax => {
            "write an address (\"192.0.2.7\") or a network (\"192.0.2.0/24\", \"2001:db8::/32\")".to_owned()
        }
        Reason::Length { most } => format!("behind the slash goes a number from 0 to {most}"),
    };
    Wrong::new(cause, remedy)
}

/// An address and port to listen on, where `usual` is the port that people expect. Port 0 lets the kernel choose.
pub(super) fn socket(usual: u16) -> impl Fn(&DeValue<'_>) -> Result<SocketAddr, Wrong> {
    move |value| {
        let text = text(value)?;
        let wrong = || format!("{text:?} is not an address with a port");
        match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(socket), _) if canonical(socket.ip()) != socket.ip() => {
                let plain = SocketAddr::new(canonical(socket.ip()), socket.port());
                Err(Wrong::new(format!("{text:?} is an IPv4 address in disguise"), format!("write \"{plain}\"")))
            }
            (Ok(socket), _) => Ok(socket),
            (_, Ok(ip)) => {
                Err(Wrong::new(wrong(), format!("add the port, such as \"{}\"", SocketAddr::new(ip, usual))))
            }
            _ => {
                let remedy =
                    format!("write an IP address and a port: \"192.0.2.25:{usual}\", \"[2001:db8::25]:{usual}\"");
                Err(Wrong::new(wrong(), remedy))
            }
        }
    }
}

/// A name server: an address, and a port if it is not 53.
pub(super) fn name_server(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let text = text(value)?;
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let server = bare.map(|ip| SocketAddr::new(ip, 53)).or_else(|_| text.parse::<SocketAddr>());
    match server {
        Ok(server) if server.port() != 0 && !server.ip().is_unspecified() => Ok(server),
        _ => {
            let remedy = "write an IP address, with a port if it is not 53: \"127.0.0.1\", \"[::1]:5353\"";
            Err(Wrong::new(format!("{text:?} is not the address of a name server"), remedy))
        }
    }
}

/// Where a backend is: `host:port`, the host an address or a name.
pub(super) fn host_and_port(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return match (socket.ip().is_unspecified(), socket.port()) {
            (false, 1..) => Ok(text.to_owned()),
            (true, port) => {
                let cause = format!("{text:?} is an address to listen on, not one to connect to");
                Err(Wrong::new(cause, format!("write where the mail server is: \"127.0.0.1:{port}\"")))
            }
            (false, 0) => Err(Wrong::new("nothing can be reached at port 0", "write the mail server's port")),
        };
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 2525);
        return Err(Wrong::new(
            format!("{text:?} has no port"),
            format!("add the mail server's, such as \"{example}\""),
        ));
    }
    let remedy = "write the mail server's host and port, such as \"127.0.0.1:2525\" or \"mail.example.org:25\"";
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Wrong::new(format!("{text:?} has no port"), remedy));
    };
    let named = matches!(name(host.as_bytes()), Name::Domain(_) | Name::SingleLabel(_));
    match port.parse::<u16>() {
        Ok(1..) if named => Ok(text.to_owned()),
        Ok(1..) => Err(Wrong::new(format!("{host:?} is neither an address nor a host name"), remedy)),
        _ => Err(Wrong::new(format!("{port:?} is not a port"), remedy)),
    }
}

/// The complaint about a value of the wrong kind.
pub(super) fn expected(what: &str, value: &DeValue<'_>, remedy: &str) -> Wrong {
    Wrong::new(format!("expected {what}, found {}", kind(value)), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>) -> Result<T, Wrong> {
        let value = DeValue::parse(text).expect("TOML");
        read(value.get_ref())
    }

    /// Each wrong value, and a part of its remedy.
    fn complains<T: std::fmt::Debug>(reader: impl Fn(&DeValue<'_>) -> Result<T, Wrong>, table: &[(&str, &str)]) {
        for (text, remedy) in table {
            let wrong = read(text, &reader).expect_err(text);
            assert!(wrong.remedy.contains(remedy), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn networks() {
        for (text, network) in [
            ("'192.0.2.7'", "192.0.2.7/32"),
            ("'192.0.2.0/24'", "192.0.2.0/24"),
            ("'::1'", "::1/128"),
            ("'::ffff:192.0.2.7'", "192.0.2.7/32"),
            ("'::ffff:192.0.2.0/120'", "192.0.2.0/24"),
            ("'2001:db8::/32'", "2001:db8::/32"),
        ] {
            assert_eq!(read(text, super::network).map(|network| network.to_string()), Ok(network.to_owned()));
        }
        complains(
            super::network,
            &[
                ("'192.0.2.7/24'", "\"192.0.2.0/24\", or the address \"192.0.2.7\""),
                ("'example.org'", "write an address"),
                ("'192.0.2.0/33'", "from 0 to 32"),
                ("7", "double quotes"),
            ],
        );
    }

    #[test]
    fn sockets() {
        for text in ["'0.0.0.0:25'", "'[::]:25'", "'127.0.0.1:0'"] {
            assert!(read(text, socket(25)).is_ok(), "{text}");
        }
        complains(
            socket(25),
            &[
                ("'0.0.0.0'", "\"0.0.0.0:25\""),
                ("'::'", "\"[::]:25\""),
                ("'2001:db8::1:host'", "write an IP address"),
                ("'[::ffff:192.0.2.1]:25'", "\"192.0.2.1:25\""),
                ("'localhost:25'", "write an IP address"),
                ("'*:25'", "write an IP address"),
            ],
        );
    }

    #[test]
    fn backends() {
        for text in ["'127.0.0.1:2525'", "'[::1]:25'", "'localhost:25'", "'mail.example.org:25'"] {
            assert!(read(text, host_and_port).is_ok(), "{text}");
        }
        complains(
            host_and_port,
            &[
                ("'127.0.0.1'", "\"127.0.0.1:2525\""),
                ("'::1'", "\"[::1]:2525\""),
                ("'mail.example.org'", "host and port"),
                ("'mail.example.org:smtp'", "host and port"),
                ("'0.0.0.0:25'", "\"127.0.0.1:25\""),
                ("'127.0.0.1:0'", "port"),
                ("'a b:25'", "host and port"),
            ],
        );
    }

    #[test]
    fn name_servers() {
        for (text, server) in [("'127.0.0.1'", "127.0.0.1:53"), ("'::1'", "[::1]:53"), ("'[::1]:5353'", "[::1]:5353")] {
            assert_eq!(read(text, name_server).map(|server| server.to_string()), Ok(server.to_owned()));
        }
        complains(name_server, &[("'dns.example.org'", "IP address"), ("'0.0.0.0'", "IP address")]);
    }

    #[test]
    fn spans() {
        let range = Duration::from_secs(1)..=Duration::from_secs(60);
        assert_eq!(read("'1.5s'", span(range.clone())), Ok(Duration::from_millis(1500)));
        complains(
            span(range),
            &[
                ("5", "\"5s\""),
                ("5.5", "number and a unit"),
                ("'5'", "number and a unit"),
                ("'5 parsecs'", "number and a unit"),
                ("'2m'", "\"1s\" to \"1m\""),
                ("'0s'", "\"1s\" to \"1m\""),
            ],
        );
    }

    #[test]
    fn numbers() {
        assert_eq!(read("0x10", count::<u32>(1..=100)), Ok(16));
        assert_eq!(read("-2", whole(-10..=10)), Ok(-2));
        complains(
            whole(1..=100),
            &[
                ("0", "from 1 to 100"),
                ("101", "from 1 to 100"),
                ("99999999999999999999", "from 1 to 100"),
                ("'5'", "without quotes"),
                ("1.5", "whole number"),
            ],
        );
    }

    #[test]
    fn choices() {
        let colour = choice(&[("red", 1), ("green", 2)], &[("rouge", "red")]);
        assert_eq!(read("'green'", &colour), Ok(2));
        complains(
            &colour,
            &[
                ("'gren'", "did you mean \"green\"?"),
                ("'rouge'", "called \"red\" here"),
                ("'blue'", "write one of \"red\", \"green\""),
                ("true", "write one of"),
            ],
        );
    }

    #[test]
    fn names_and_texts() {
        assert_eq!(read("'MX.example.org'", domain), Ok("mx.example.org".to_owned()));
        complains(domain, &[("'mx'", "full name"), ("'192.0.2.1'", "full name"), ("'mx_.example.org'", "full name")]);
        assert_eq!(read("'see https://example.org'", reply_text(80)), Ok("see https://example.org".to_owned()));
        complains(
            reply_text(10),
            &[("'grüße'", "ASCII"), ("\"a\\r\\nb\"", "ASCII"), ("''", "leave"), ("'12345678901'", "10")],
        );
    }
}

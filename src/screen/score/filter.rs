//! Which answers of a list count: postscreen's reply filter, `d.d.d.d`.
//!
//! Each of the four fields is a number (`127`) or a bracket of numbers and ranges (`[2;4;10..11]`). A bracket does not
//! reach over a dot and is the whole of its field. There are no wildcards: all of an octet is `[0..255]`.

use std::fmt;
use std::net::Ipv4Addr;

/// Which answers of a list count: for each of the four octets, the numbers that match.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter {
    /// For each octet, inclusive ranges; at least one.
    octets: [Vec<(u8, u8)>; 4],
}

impl Filter {
    /// Reads `d.d.d.d`. The error says what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the filter is missing; it has four fields, as in 127.0.0.[2..11]".to_owned());
        }
        let fields: Vec<_> = split_fields(text)?.into_iter().map(field).collect::<Result<_, _>>()?;
        let count = fields.len();
        let octets = fields.try_into().map_err(|_| {
            let count = if count > 4 { "more".to_owned() } else { count.to_string() };
            format!("a filter has four fields, as in 127.0.0.[2..11]; this one has {count}")
        })?;
        Ok(Self { octets })
    }

    /// Whether `address` counts.
    pub fn matches(&self, address: Ipv4Addr) -> bool {
        self.octets
            .iter()
            .zip(address.octets())
            .all(|(ranges, octet)| ranges.iter().any(|&(low, high)| (low..=high).contains(&octet)))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ranges) in self.octets.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if let [(low, high)] = ranges.as_slice()
                && low == high
            {
                write!(f, "{low}")?;
                continue;
            }
            f.write_str("[")?;
            for (index, (low, high)) in ranges.iter().enumerate() {
                let separator = if index > 0 { ";" } else { "" };
                if low == high { write!(f, "{separator}{low}")? } else { write!(f, "{separator}{low}..{high}")? }
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

/// Cuts at the dots that are not within a bracket: those of a range are. At most five pieces: more would only be
/// counted.
fn split_fields(text: &str) -> Result<Vec<&str>, String> {
    let mut fields = Vec::with_capacity(5);
    let mut rest = text;
    loop {
        // The end of this field: a bracket runs to its closing, anything else to the next dot.
        let end = if rest.starts_with('[') {
            let Some(close) = rest.find(']') else {
                return Err(format!("the bracket that opens at {rest:?} is not closed; write it as in [2;4;10..11]"));
            };
            close + 1
        } else {
            rest.find('.').unwrap_or(rest.len())
        };
        let (field, tail) = rest.split_at(end);
        fields.push(field);
        if tail.is_empty() || fields.len() > 4 {
            return Ok(fields);
        }
        let Some(next) = tail.strip_prefix('.') else {
            return Err(format!("{tail:?} follows a bracket; a bracket is the whole of its field"));
        };
        rest = next;
    }
}

/// Reads one field: a number or a bracket.
fn field(text: &str) -> Result<Vec<(u8, u8)>, String> {
    let Some(inner) = text.strip_prefix('[') else {
        if text.contains(['[', ']']) {
            return Err(format!("{text:?} mixes a number and a bracket; a bracket is the whole of its field"));
        }
        return number(text).map(|number| vec![(number, number)]);
    };
    let inner = inner.strip_suffix(']').unwrap_or(inner);
    if inner.contains('[') {
        return Err(format!("{text:?} has a bracket within a bracket; separate numbers by \";\""));
    }
    inner.split(';').map(member).collect()
}

/// Reads what stands between semicolons: a number or a range.
fn member(text: &str) -> Result<(u8, u8), String> {
    let Some((low, high)) = text.split_once("..") else {
        if text.contains('.') {
            return Err(format!("{text:?}: a bracket does not reach over a dot; a range has two, as in 2..11"));
        }
        return number(text).map(|number| (number, number));
    };
    let (low, high) = (number(low)?, number(high)?);
    if low > high {
        return Err(format!("the range {text} is empty; the lower number comes first: {high}..{low}"));
    }
    Ok((low, high))
}

/// Reads 0 to 255, in digits only.
fn number(text: &str) -> Result<u8, String> {
    if text.is_empty() {
        return Err("a number from 0 to 255 is missing".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text:?} is not a number from 0 to 255"));
    }
    text.parse().map_err(|_| format!("{text} is more than 255"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn matches_what_it_says() {
        let rows = [
            ("127.0.0.2", "127.0.0.2", "127.0.0.3 127.0.1.2 127.2.0.0"),
            ("127.0.0.[2..11]", "127.0.0.2 127.0.0.11", "127.0.0.1 127.0.0.12"),
            ("127.0.0.[2;4;6..8]", "127.0.0.4 127.0.0.7", "127.0.0.3 127.0.0.5 127.0.0.9"),
            ("127.0.[0..255].[1..3]", "127.0.0.1 127.0.255.3", "127.1.0.1 127.0.5.0"),
            ("[127].[0].[0].[2]", "127.0.0.2", "126.0.0.2"),
        ];
        for (text, hits, misses) in rows {
            let filter = Filter::parse(text).unwrap();
            let matches = |address: &str| filter.matches(address.parse().unwrap());
            assert!(hits.split(' ').all(matches), "{text}");
            assert!(!misses.split(' ').any(matches), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let rows = [
            ("", "missing"),
            ("127.0.0", "has 3"),
            ("127.0.0.", "missing"),
            ("127.0.0.2.", "missing"),
            ("127.0.0.2.3", "more"),
            ("127..0.2", "missing"),
            ("127.0.0.256", "more than 255"),
            ("127.0.0.-2", "not a number"),
            ("127.0.0.+2", "not a number"),
            ("127.0.0.*", "not a number"),
            ("127.0.0.99999999999999999999", "more than 255"),
            ("127.0.0.[2..", "not closed"),
            ("127.0.0.[2", "not closed"),
            ("127.0.0.2]", "mixes"),
            ("127.0.0.1[2]", "mixes"),
            ("127.0.0.[2]3", "follows a bracket"),
            ("127.0.[0.2]", "does not reach over a dot"),
            ("127.0.0.[]", "missing"),
            ("127.0.0.[2;]", "missing"),
            ("127.0.0.[;2]", "missing"),
            ("127.0.0.[2..]", "missing"),
            ("127.0.0.[..2]", "missing"),
            ("127.0.0.[11..2]", "2..11"),
            ("127.0.0.[2..4..6]", "not a number"),
            ("127.0.0.[[2]", "bracket within"),
            ("127.0.0.[[2]]", "follows a bracket"),
            ("127.0.0.[2,4]", "not a number"),
        ];
        for (text, reason) in rows {
            let error = Filter::parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9.;\\[\\]xé]{0,40}") {
            let _ = Filter::parse(&text);
        }

        #[test]
        fn reads_what_it_writes(octets in proptest::array::uniform4(proptest::collection::vec((any::<u8>(), any::<u8>()), 1..4))) {
            let filter = Filter { octets: octets.map(|ranges| ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect()) };
            prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
        }
    }
}

//! An operator's list of DNSBL sites, in postscreen's own syntax: entries `domain[=filter][*weight]`, separated by commas
//! or blanks.
//!
//! Promises: a zone that was read is a lower-case domain name, short enough for the longest question (an IPv6 client's)
//! to fit the 253 characters of a name. A zone may hold a paid key, which never shows: not in an error, nor, once a
//! display name is given ([`Site::named`]), in `Debug`.

use std::fmt;

use super::{Filter, Hits};

/// How many sites there may be; [`Score::worst`](super::Score::worst) counts them in a byte.
pub const MAX_SITES: usize = 256;

/// The most characters of a zone: a name has at most 253, 64 of which are the nibbles of an IPv6 address with their
/// dots.
const MAX_ZONE: usize = 253 - 64;

/// One entry of `sites`, in postscreen's syntax: `domain[=filter][*weight]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Site {
    /// The zone that is asked. May hold a paid key: never shown, see [`Site::display`].
    pub zone: String,
    /// Which answers count; all of 127/8 but 127.255.255.x if there is none.
    pub filter: Option<Filter>,
    /// What a hit adds to the score; negative for allow lists.
    pub weight: i32,
    /// The name that replies, logs and metrics use.
    pub display: String,
}

/// Why a text is not a list of sites.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct NotASite {
    /// The entry; a label of its domain that may be a key is written as `…`.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl Site {
    /// Reads one entry: `domain[=d.d.d.d][*weight]`. The display name is the zone until [`Site::named`] says otherwise.
    pub fn parse(text: &str) -> Result<Self, NotASite> {
        Self::read(text).map_err(|reason| NotASite { text: masked(text), reason })
    }

    /// The same site under another name, as the reply map wants it.
    #[must_use]
    pub fn named(mut self, display: impl Into<String>) -> Self {
        self.display = display.into();
        self
    }

    fn read(text: &str) -> Result<Self, String> {
        let (head, weight) = match text.split_once('*') {
            Some((head, weight)) => (head, self::weight(weight)?),
            None => (text, 1),
        };
        let (zone, filter) = match head.split_once('=') {
            Some((zone, filter)) => (zone, Some(Filter::parse(filter)?)),
            None => (head, None),
        };
        let zone = self::zone(zone)?;
        Ok(Self { display: zone.clone(), zone, filter, weight })
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Site");
        if self.zone == self.display {
            shown.field("zone", &self.zone);
        } else {
            shown.field("display", &self.display);
        }
        shown.field("filter", &self.filter).field("weight", &self.weight).finish()
    }
}

/// Reads a list of sites, as `postscreen_dnsbl_sites` has it. All that is wrong is reported, not the first alone.
pub fn parse_list(text: &str) -> Result<Vec<Site>, Vec<NotASite>> {
    let mut sites: Vec<Site> = Vec::new();
    let mut problems = Vec::new();
    for entry in text.split(|char: char| char == ',' || char.is_ascii_whitespace()).filter(|entry| !entry.is_empty()) {
        let wrong = |reason: String| NotASite { text: masked(entry), reason };
        match Site::parse(entry) {
            Ok(_) if sites.len() == MAX_SITES => {
                problems.push(wrong(format!("there are more than {MAX_SITES} sites")));
                break;
            }
            Ok(site) if sites.iter().filter(|other| other.zone == site.zone).count() == Hits::MAX => {
                problems.push(wrong(format!("one zone has more than {} entries; join their filters", Hits::MAX)));
            }
            Ok(site) => sites.push(site),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(sites) } else { Err(problems) }
}

/// Reads a weight: an integer, with a sign if need be.
fn weight(text: &str) -> Result<i32, String> {
    if text.contains('=') {
        return Err("the filter goes before the weight, as in bl.example=127.0.0.2*3".to_owned());
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("the weight {text:?} is not an integer, such as 2 or -1"));
    }
    text.parse().map_err(|_| format!("the weight {text} is out of all proportion; a small integer would do"))
}

/// Reads a zone: a domain name. What is wrong is told without repeating the name, which may hold a key.
fn zone(text: &str) -> Result<String, String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err("the list's domain is missing; an entry begins with it, as in bl.example=127.0.0.2*3".to_owned());
    }
    if text.len() > MAX_ZONE {
        return Err(format!("the domain has {} characters; {MAX_ZONE} leave room for the address", text.len()));
    }
    for (index, label) in (1..).zip(text.split('.')) {
        self::label(label).map_err(|reason| format!("label {index} of the domain {reason}"))?;
    }
    if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("the domain ends in a number, as an address does; a list is named by its domain".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// Checks one label of a domain name: letters, digits, hyphens within, and underscores, which some lists use.
fn label(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty; there is a dot too many".to_owned());
    }
    if text.len() > 63 {
        return Err(format!("has {} characters; 63 is the most", text.len()));
    }
    if let Some(bad) = text.chars().find(|&char| !(char.is_ascii_alphanumeric() || char == '-' || char == '_')) {
        return Err(format!("has the character {bad:?}; letters, digits, \"-\" and \"_\" are right"));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("begins or ends with a hyphen".to_owned());
    }
    Ok(())
}

/// `entry` without what may be a key: keys are a domain's first label, and long.
fn masked(entry: &str) -> String {
    let end = entry.find(['=', '*']).unwrap_or(entry.len());
    let (domain, tail) = entry.split_at(end);
    let labels = domain.split('.').count();
    let masked = domain.split('.').enumerate().map(|(index, label)| {
        let key = (index == 0 && labels > 2) || label.chars().count() >= 16;
        if key { "…" } else { label }
    });
    masked.collect::<Vec<_>>().join(".") + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn reads_postscreens_examples() {
        let rows = [
            ("zen.spamhaus.org", "zen.spamhaus.org", None, 1),
            ("zen.spamhaus.org*2", "zen.spamhaus.org", None, 2),
            ("zen.spamhaus.org=127.0.0.[2..11]*3", "zen.spamhaus.org", Some("127.0.0.[2..11]"), 3),
            ("list.dnswl.org=127.0.[0..255].[1..3]*-2", "list.dnswl.org", Some("127.0.[0..255].[1..3]"), -2),
            ("b.barracudacentral.org=127.0.0.2*+7", "b.barracudacentral.org", Some("127.0.0.2"), 7),
            ("Example.COM.=127.0.0.4", "example.com", Some("127.0.0.4"), 1),
            ("bl*0", "bl", None, 0),
            ("dnsbl_1.example", "dnsbl_1.example", None, 1),
        ];
        for (text, zone, filter, weight) in rows {
            let site = Site::parse(text).unwrap();
            assert_eq!(
                (site.zone.as_str(), site.filter.map(|filter| filter.to_string()), site.weight, site.display.as_str()),
                (zone, filter.map(str::to_owned), weight, zone),
                "{text}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let long = format!("{}.test", "a".repeat(64));
        let longer = format!("{}test", "abcdefgh.".repeat(21));
        let rows = [
            ("", "domain is missing"),
            ("=127.0.0.2", "domain is missing"),
            ("*3", "domain is missing"),
            (".", "domain is missing"),
            ("a..test", "dot too many"),
            ("-a.test", "hyphen"),
            ("a-.test", "hyphen"),
            ("a b.test", "character ' '"),
            ("é.test", "character 'é'"),
            ("a:b.test", "character ':'"),
            ("127.0.0.2", "ends in a number"),
            (&long, "63 is the most"),
            (&longer, "189 leave room"),
            ("a.test=", "missing"),
            ("a.test=127.0.0", "has 3"),
            ("a.test=127.0.0.2=3", "not a number"),
            ("a.test*", "not an integer"),
            ("a.test*x", "not an integer"),
            ("a.test*1.5", "not an integer"),
            ("a.test*--1", "not an integer"),
            ("a.test*2*3", "not an integer"),
            ("a.test*99999999999", "out of all proportion"),
            ("a.test*3=127.0.0.2", "before the weight"),
        ];
        for (text, reason) in rows {
            let error = Site::parse(text).expect_err(text);
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_longest_zone_fits() {
        let zone = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(61));
        assert_eq!(zone.len(), MAX_ZONE);
        assert!(Site::parse(&zone).is_ok());
        assert!(Site::parse(&format!("{zone}c")).is_err());
    }

    #[test]
    fn a_list_is_separated_by_commas_or_blanks() {
        let sites = parse_list(" a.test*2,\n\tb.test=127.0.0.[2;4] ,, c.test*-1\n").unwrap();
        let shape: Vec<_> = sites.iter().map(|site| (site.zone.as_str(), site.weight)).collect();
        assert_eq!(shape, [("a.test", 2), ("b.test", 1), ("c.test", -1)]);
        assert_eq!(parse_list(" \n"), Ok(vec![]));
    }

    #[test]
    fn a_list_reports_all_that_is_wrong() {
        let problems = parse_list("a.test*x b.test a..test b.test=127").unwrap_err();
        let reasons: Vec<_> = problems.iter().map(|problem| problem.reason.as_str()).collect();
        assert!(
            matches!(reasons.as_slice(), [weight, dot, fields]
            if weight.contains("integer") && dot.contains("dot") && fields.contains("fields")),
            "{reasons:?}"
        );
    }

    #[test]
    fn a_list_has_an_end() {
        let sites = |count: usize| (0..count).map(|n| format!("z{n}.test ")).collect::<String>();
        assert_eq!(parse_list(&sites(MAX_SITES)).unwrap().len(), MAX_SITES);
        assert_eq!(parse_list(&sites(MAX_SITES + 9)).unwrap_err().len(), 1);
        let entries = |count: usize| (0..count).map(|n| format!("z.test=127.0.0.{n} ")).collect::<String>();
        assert_eq!(parse_list(&entries(Hits::MAX)).unwrap().len(), Hits::MAX);
        assert_eq!(parse_list(&entries(Hits::MAX + 1)).unwrap_err().len(), 1);
    }

    #[test]
    fn keys_do_not_show_in_errors() {
        for entry in [
            "sekrit.zen.dq.test=127.0.0.[2..*3",
            "sekrit.zen.dq.test*many",
            "sekrit.zen..test",
            "sekrit.zen.te:st",
            "sekrit0123456789.test=1",
            "zen.sekrit0123456789.test=1",
        ] {
            let error = parse_list(entry).expect_err(entry);
            assert!(!format!("{error:?} {}", error[0]).contains("sekrit"), "{error:?}");
        }
        assert_eq!(Site::parse("sekrit.zen.test*x").unwrap_err().text, "….zen.test*x");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z0-9.=*;,\\[\\] é-]{0,60}") {
            let _ = parse_list(&text);
        }
    }
}

//! Collects what is wrong while a file is read, so that reading can go on.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use super::nearest::nearest;
use super::problem::{Place, Problem, Report, Severity, Source};

/// Names that people know from our journal or from postscreen, and the keys that they are here.
const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("helo-name", "tests.helo.names"),
    ("helo-syntax", "tests.helo.syntax"),
    ("non-smtp-command", "tests.not-smtp"),
    ("postscreen_access_list", "access.rules"),
    ("postscreen_bare_newline_action", "tests.bare-newline"),
    ("postscreen_client_connection_count_limit", "limits.sessions_per_client"),
    ("smtpd_client_connection_count_limit", "limits.sessions_per_client"),
    ("smtpd_client_connection_rate_limit", "limits.rate_per_client"),
    ("postscreen_pre_queue_limit", "limits.sessions"),
    ("postscreen_command_count_limit", "limits.commands"),
    ("postscreen_command_time_limit", "limits.command_time"),
    ("postscreen_dnsbl_action", "tests.dnsbl"),
    ("postscreen_dnsbl_allowlist_threshold", "dnsbl.allow_threshold"),
    ("postscreen_dnsbl_max_ttl", "dnsbl.max_ttl"),
    ("postscreen_dnsbl_min_ttl", "dnsbl.min_ttl"),
    ("postscreen_dnsbl_reply_map", "dnsbl.names"),
    ("postscreen_dnsbl_sites", "dnsbl.sites"),
    ("postscreen_dnsbl_threshold", "dnsbl.threshold"),
    ("postscreen_dnsbl_timeout", "dnsbl.timeout"),
    ("postscreen_dnsbl_whitelist_threshold", "dnsbl.allow_threshold"),
    ("postscreen_greet_action", "tests.pregreet"),
    ("postscreen_greet_banner", "greet.teaser"),
    ("postscreen_greet_ttl", "tests.pregreet.ttl"),
    ("postscreen_greet_wait", "greet.wait_max"),
    ("postscreen_non_smtp_command_action", "tests.not-smtp"),
    ("postscreen_pipelining_action", "tests.pipelining"),
    ("postscreen_upstream_proxy_protocol", "gate.proxy_from"),
    ("postscreen_upstream_proxy_timeout", "timeouts.proxy"),
    ("smtpd_upstream_proxy_timeout", "timeouts.proxy"),
];

/// How many places are told where a key could belong.
const MOST_PLACES: usize = 3;

/// A value's text is not what it should be: the cause, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) cause: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into() }
    }
}

/// A key that nobody asked for.
struct Unknown {
    table: String,
    /// Where the table is, to tell it from its namesakes.
    table_span: Option<Range<usize>>,
    key: String,
    place: Place,
    siblings: Vec<&'static str>,
}

/// A key that is not there and has to be.
struct Missing {
    table_span: Option<Range<usize>>,
    key: &'static str,
    wrong: Wrong,
}

/// Everything found so far. Shared by reference: the tables of one file all report to it.
pub(super) struct Inspection {
    sources: RefCell<Vec<Source>>,
    problems: RefCell<Vec<Problem>>,
    unknown: RefCell<Vec<Unknown>>,
    missing: RefCell<Vec<Missing>>,
    known: RefCell<BTreeSet<String>>,
}

impl Inspection {
    /// Nothing is wrong yet with the configuration `text`, shown as `name`.
    pub(super) fn new(name: &str, text: &str) -> Self {
        let source = Source { name: name.to_owned(), text: text.to_owned() };
        Self {
            sources: RefCell::new(vec![source]),
            problems: RefCell::default(),
            unknown: RefCell::default(),
            missing: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// Adds a further file, so that problems can have a place in it.
    pub(super) fn add_source(&self, name: String, text: String) -> usize {
        let mut sources = self.sources.borrow_mut();
        sources.push(Source { name, text });
        sources.len() - 1
    }

    /// An error in the configuration.
    pub(super) fn error(&self, span: Range<usize>, wrong: Wrong) {
        self.error_at(Place { source: 0, span }, wrong);
    }

    /// An error in any of the files.
    pub(super) fn error_at(&self, place: Place, wrong: Wrong) {
        self.push(Severity::Error, Some(place), wrong, None);
    }

    /// An error in the configuration that another place has to do with.
    pub(super) fn error_with(&self, span: Range<usize>, wrong: Wrong, related: Range<usize>, how: &'static str) {
        let related = Place { source: 0, span: related };
        self.push(Severity::Error, Some(Place { source: 0, span }), wrong, Some((related, how)));
    }

    /// A setting that does not do what it seems to.
    pub(super) fn warning(&self, span: Range<usize>, wrong: Wrong) {
        self.push(Severity::Warning, Some(Place { source: 0, span }), wrong, None);
    }

    /// Likewise, because of another one.
    pub(super) fn warning_with(&self, span: Range<usize>, wrong: Wrong, related: Range<usize>, how: &'static str) {
        let related = Place { source: 0, span: related };
        self.push(Severity::Warning, Some(Place { source: 0, span }), wrong, Some((related, how)));
    }

    /// Notes that `path` is a key of the file.
    pub(super) fn know(&self, path: String) {
        self.known.borrow_mut().insert(path);
    }

    /// Notes a key that is none. What it may have been meant to be is found out in the end, when all keys are known.
    pub(super) fn unknown(
        &self,
        (table, table_span): (&str, Option<Range<usize>>),
        (key, span): (&str, Range<usize>),
        siblings: Vec<&'static str>,
    ) {
        let (table, key, place) = (table.to_owned(), key.to_owned(), Place { source: 0, span });
        self.unknown.borrow_mut().push(Unknown { table, table_span, key, place, siblings });
    }

    /// Notes a key that has to be in the table at `table_span`. Not told if it is there under a misspelt name.
    pub(super) fn missing(&self, table_span: Option<Range<usize>>, key: &'static str, wrong: Wrong) {
        self.missing.borrow_mut().push(Missing { table_span, key, wrong });
    }

    /// Every key that was asked for, as a path.
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    /// What was found, in the order of the files, each thing once.
    pub(super) fn report(self) -> Report {
        for missing in self.missing.take() {
            let misspelt =
                |unknown: &Unknown| unknown.table_span == missing.table_span && unknown.meant() == Some(missing.key);
            if !self.unknown.borrow().iter().any(misspelt) {
                let place = missing.table_span.map(|span| Place { source: 0, span });
                self.push(Severity::Error, place, missing.wrong, None);
            }
        }
        let known = self.known.into_inner();
        let mut problems = self.problems.into_inner();
        problems.extend(self.unknown.into_inner().into_iter().map(|unknown| unknown.explain(&known)));
        problems.sort_by_cached_key(|problem| {
            let place = problem.place.as_ref().map(|at| (at.source, at.span.start, at.span.end));
            (place, problem.cause.clone())
        });
        problems.dedup();
        Report { sources: self.sources.into_inner(), problems }
    }

    fn push(&self, severity: Severity, place: Option<Place>, wrong: Wrong, related: Option<(Place, &'static str)>) {
        let Wrong { cause, remedy } = wrong;
        self.problems.borrow_mut().push(Problem { severity, place, cause, remedy, related });
    }
}

impl Unknown {
    /// The key of this table that it is a misspelling of.
    fn meant(&self) -> Option<&'static str> {
        nearest(&self.key, self.siblings.iter().copied())
    }

    fn explain(self, known: &BTreeSet<String>) -> Problem {
        let here =
            if self.table.is_empty() { "at the top of the file".to_owned() } else { format!("in [{}]", self.table) };
        // What can stand in a gate as well is told once.
        let once = |path: &&String| !path.strip_prefix("gate.").is_some_and(|rest| known.contains(rest));
        let places = known.iter().filter(once).filter_map(|path| self.same_key(path));
        let elsewhere: Vec<String> = places.take(MOST_PLACES).collect();
        let foreign = KNOWN_ELSEWHERE.iter().find(|(word, _)| *word == self.key.to_ascii_lowercase());
        let remedy = if let Some((_, ours)) = foreign {
            format!("what you mean is called `{ours}` here")
        } else if let Some(meant) = self.meant() {
            format!("did you mean `{meant}`?")
        } else if !elsewhere.is_empty() {
            format!("`{}` belongs {}", self.key, elsewhere.join(" or "))
        } else {
            format!("the keys {here} are: {}", self.siblings.join(", "))
        };
        let cause = format!("there is no key `{}` {here}", self.key);
        Problem { severity: Severity::Error, place: Some(self.place), cause, remedy, related: None }
    }

    /// Where the known `path` is, if its last part is this key.
    fn same_key(&self, path: &str) -> Option<String> {
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        let same = nearest(&self.key, [key]).is_some() && key.len() > 3;
        (same && table != self.table).then(|| match table {
            "" if key == self.key => "at the top of the file, above the first [section]".to_owned(),
            "" => format!("at the top of the file, as `{key}`"),
            _ if key == self.key => format!("in [{table}]"),
            _ => format!("in [{table}], as `{key}`"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_known_elsewhere_is_a_key_here() {
        let keys = Config::keys();
        for (word, ours) in KNOWN_ELSEWHERE {
            assert!(keys.contains(*ours), "{word} is called {ours}, which is no key");
            assert_eq!(word.to_ascii_lowercase(), *word);
        }
    }
}

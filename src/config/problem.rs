//! What is wrong with a file: where, what, and what would be right; and how that is shown.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

/// As short as a key in a list's zone can be: a paid list's has 26 letters and digits, and words have no digits.
const KEY_LENGTH: usize = 16;

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and does not do what it seems to.
    Warning,
}

/// A stretch of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Which file: an index into [`Report::sources`]. The configuration itself is the first.
    pub(super) source: usize,
    /// The bytes.
    pub(super) span: Range<usize>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub(super) severity: Severity,
    pub(super) place: Option<Place>,
    pub(super) cause: String,
    pub(super) remedy: String,
    /// Another place that has to do with it, and how.
    pub(super) related: Option<(Place, &'static str)>,
}

impl Problem {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// What would be right.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

/// A file that was read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// Without the text: it may hold keys.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

/// All that is wrong with a file, in the order of the file. Empty if nothing is.
///
/// Printed with `{}` it is plain text; [`Report::render`] adds colours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub(super) sources: Vec<Source>,
    pub(super) problems: Vec<Problem>,
}

impl Report {
    /// A report of a single problem that has no place in any text.
    pub(super) fn of_file(cause: String, remedy: &str) -> Self {
        let problem =
            Problem { severity: Severity::Error, place: None, cause, remedy: remedy.to_owned(), related: None };
        Self { sources: Vec::new(), problems: vec![problem] }
    }

    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The line and column (both from 1, the column in characters) at which a problem begins.
    pub fn position(&self, problem: &Problem) -> Option<(usize, usize)> {
        let place = problem.place.as_ref()?;
        let before = self.sources.get(place.source)?.text.get(..place.span.start)?;
        let line = before.rsplit('\n').next().unwrap_or("");
        Some((before.matches('\n').count() + 1, line.chars().count() + 1))
    }

    /// How many problems of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    /// Whether nothing is wrong at all.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// "2 problems, 1 warning".
    pub fn tally(&self) -> String {
        let many = |count: usize, noun| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        format!("{}, {}", many(errors, "problem"), many(warnings, "warning"))
    }

    /// Every problem with its excerpt, cause and remedy, in the manner of rustc; with colours if `styled`.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for problem in &self.problems {
            out.push_str(&renderer.render(&[self.group(problem)]));
            out.push_str("\n\n");
        }
        out
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(problem.cause.as_str()));
        if let Some(place) = &problem.place {
            group = group.elements(self.excerpt(place, AnnotationKind::Primary, None));
        }
        if let Some((place, how)) = &problem.related {
            group = group.elements(self.excerpt(place, AnnotationKind::Context, Some(how)));
        }
        group.element(Level::HELP.message(normalize_untrusted_str(&problem.remedy)))
    }

    /// The first line of a place. Only that line is handed on: lists of many thousand lines would be gone through once
    /// for each problem otherwise.
    fn excerpt<'a>(
        &'a self,
        place: &Place,
        kind: AnnotationKind,
        label: Option<&'a str>,
    ) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let source = self.sources.get(place.source)?;
        let (before, rest) = source.text.split_at_checked(place.span.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = place.span.start + rest.find('\n').unwrap_or(rest.len());
        let line = source.text.get(line_start..line_end)?.trim_end_matches('\r');
        let start = (place.span.start - line_start).min(line.len());
        let end = (place.span.end - line_start).clamp(start, line.len());
        let snippet = Snippet::source(mask_keys(line))
            .path(source.name.as_str())
            .line_start(before.matches('\n').count() + 1)
            .annotation(kind.span(start..end).label(label));
        Some(snippet)
    }
}

/// The line with everything that looks like a key in a list's zone starred out, byte for byte: a report may end up in a
/// log, or in a question to a mailing list.
fn mask_keys(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    for piece in line.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let word = piece.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let rest = piece.get(word.len()..).unwrap_or_default();
        let kinds =
            (word.bytes().any(|byte| byte.is_ascii_digit()), word.bytes().any(|byte| byte.is_ascii_alphabetic()));
        if word.len() >= KEY_LENGTH && kinds == (true, true) {
            masked.extend(std::iter::repeat_n('*', word.len()));
        } else {
            masked.push_str(word);
        }
        masked.push_str(rest);
    }
    masked
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))?;
        f.write_str(&self.tally())
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_show_and_nothing_moves() {
        let line = r#"sites = ["abcd1234efgh5678ijkl9012mn.zen.dq.spamhaus.net=127.0.0.2*3"] # über"#;
        let masked = r#"sites = ["**************************.zen.dq.spamhaus.net=127.0.0.2*3"] # über"#;
        assert_eq!(mask_keys(line), masked);
        assert_eq!(mask_keys("accept_unknown_client = true"), "accept_unknown_client = true");
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ä = 1
b = ü x";
        let at = text.find('x').expect("x");
        let place = Some(Place { source: 0, span: at..at + 1 });
        let problem =
            Problem { severity: Severity::Error, place, cause: "c".into(), remedy: "r".into(), related: None };
        let sources = vec![Source { name: "n".into(), text: text.into() }];
        let report = Report { sources, problems: vec![problem.clone()] };
        assert_eq!(report.position(&problem), Some((2, 7)));
    }
}

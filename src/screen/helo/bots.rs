//! The names of known bots: a list of patterns, compiled.
//!
//! A pattern matches a whole name, ASCII case ignored, a trailing dot ignored: `*` stands for any run of bytes, `?` for
//! any one byte, everything else for itself (so `[127.0.0.1]` is that literal).
//!
//! Names without wildcards are found by binary search; each pattern with wildcards is tried in turn. A look-up never
//! allocates, and costs at most the name's length times the list's size, both of which are bounded. One automaton for
//! all patterns would not keep that promise: a thousand patterns with several `*` each make it build states without end
//! while a hostile name is read.
//!
//! The shipped list, `bots.txt`, is meant to be dropped on: it has only names that no honest mail server gives.

use std::collections::HashSet;

/// The shipped list: on each line a pattern, a tab, and `#` with where it is reported.
pub const SHIPPED: &str = include_str!("bots.txt");

/// No domain is longer (RFC 5321 §4.5.3.1.2), so no longer name is looked up.
const LONGEST_NAME: usize = 255;
/// The most bytes in a pattern: a domain, written out.
const LONGEST_PATTERN: usize = 253;
/// The most patterns in a list, the shipped ones included.
const MOST_PATTERNS: usize = 1024;
/// The most bytes in all patterns with wildcards: at worst each is compared at each place of a name.
const MOST_WILD: usize = 32 << 10;

/// One pattern of a [`Bots`], for [`Bots::text`] of the same list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pattern(u16);

impl Pattern {
    /// Its place in the list.
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A compiled list of names and patterns.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bots {
    /// All of them, in the operator's order and in [`normal`] form.
    patterns: Vec<String>,
    /// Those without wildcards, sorted by their text.
    exact: Vec<Pattern>,
    /// Those with wildcards, in order.
    wild: Vec<Pattern>,
}

/// Why a list of patterns cannot be used, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPattern {
    /// Nothing is left of it.
    #[error("a pattern is empty: write a name such as \"ylmf-pc\", or take the entry out")]
    Empty,
    /// Longer than any domain.
    #[error("\"{shown}…\" is {length} bytes long: no name is longer than {LONGEST_PATTERN}, shorten it with \"*\"")]
    TooLong {
        /// How it begins.
        shown: String,
        /// How long it is, in bytes.
        length: usize,
    },
    /// A character that stands in no name, or that would not match what it seems to.
    #[error(
        "{pattern:?} has {character:?}: use printable ASCII without blanks, \"?\" for any one byte and \"xn--…\" for other scripts"
    )]
    Character {
        /// The pattern.
        pattern: String,
        /// The first such character.
        character: char,
    },
    /// Wildcards and punctuation alone.
    #[error("{pattern:?} would match honest names without number: give it at least one letter or digit")]
    Everything {
        /// The pattern.
        pattern: String,
    },
    /// More patterns than a list may have.
    #[error("more than {MOST_PATTERNS} patterns, the shipped ones included: join some with \"*\" and \"?\"")]
    TooMany,
    /// More bytes in patterns with wildcards than a look-up may cost.
    #[error("the patterns with \"*\" or \"?\" are more than {MOST_WILD} bytes together: use fewer or shorter ones")]
    TooLarge,
}

impl Bots {
    /// Compiles `patterns`; of several that match a name, the first one counts. The `Err` is the first problem:
    /// [`Bots::check`] asks one pattern alone.
    pub fn compile(patterns: Vec<String>) -> Result<Self, BadPattern> {
        let mut seen = HashSet::new();
        let mut bots = Self::default();
        for pattern in patterns {
            Self::check(&pattern)?;
            let pattern = normal(&pattern);
            if seen.insert(pattern.clone()) {
                bots.push(pattern)?;
            }
        }
        let wild_bytes: usize = bots.wild.iter().map(|&pattern| bots.bytes(pattern).len()).sum();
        if wild_bytes > MOST_WILD {
            return Err(BadPattern::TooLarge);
        }
        let Self { patterns, exact, .. } = &mut bots;
        exact.sort_by_key(|pattern| patterns.get(pattern.index()));
        Ok(bots)
    }

    /// Adds a pattern in [`normal`] form; `exact` is left to be sorted.
    fn push(&mut self, pattern: String) -> Result<(), BadPattern> {
        if self.patterns.len() == MOST_PATTERNS {
            return Err(BadPattern::TooMany);
        }
        let index = u16::try_from(self.patterns.len()).map_err(|_| BadPattern::TooMany)?;
        let kind = if pattern.contains(['*', '?']) { &mut self.wild } else { &mut self.exact };
        kind.push(Pattern(index));
        self.patterns.push(pattern);
        Ok(())
    }

    /// The shipped list.
    #[allow(clippy::expect_used, reason = "the list is part of the program, and a test compiles it")]
    pub fn shipped() -> Self {
        let patterns = shipped_lines().map(|(pattern, _)| pattern.to_owned()).collect();
        Self::compile(patterns).expect("the shipped list compiles")
    }

    /// These and `patterns`.
    pub fn with(mut self, patterns: Vec<String>) -> Result<Self, BadPattern> {
        self.patterns.extend(patterns);
        Self::compile(self.patterns)
    }

    /// Whether `pattern` can be in a list.
    pub fn check(pattern: &str) -> Result<(), BadPattern> {
        if pattern.len() > LONGEST_PATTERN {
            let shown = pattern.chars().take(32).collect();
            return Err(BadPattern::TooLong { shown, length: pattern.len() });
        }
        if matches!(pattern, "" | ".") {
            return Err(BadPattern::Empty);
        }
        if let Some(character) = pattern.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(BadPattern::Character { pattern: pattern.to_owned(), character });
        }
        if !pattern.bytes().any(|b| b.is_ascii_alphanumeric()) {
            return Err(BadPattern::Everything { pattern: pattern.to_owned() });
        }
        Ok(())
    }

    /// Which pattern `name` matches, if any; the name without blanks around it.
    pub fn find(&self, name: &[u8]) -> Option<Pattern> {
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.len() > LONGEST_NAME {
            return None;
        }
        let lower = || name.iter().map(u8::to_ascii_lowercase);
        let exact = self.exact.binary_search_by(|&pattern| self.bytes(pattern).iter().copied().cmp(lower()));
        let exact = exact.ok().and_then(|place| self.exact.get(place)).copied();
        let wild = self.wild.iter().copied().find(|&pattern| matches(self.bytes(pattern), name));
        exact.into_iter().chain(wild).min()
    }

    /// A pattern as it is listed, in lower case.
    pub fn text(&self, pattern: Pattern) -> Option<&str> {
        self.patterns.get(pattern.index()).map(String::as_str)
    }

    /// The bytes of a pattern of this list.
    fn bytes(&self, pattern: Pattern) -> &[u8] {
        self.text(pattern).unwrap_or_default().as_bytes()
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// The entries of the shipped list: pattern, and where it is reported.
fn shipped_lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    SHIPPED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (pattern, source) = line.split_once('\t').unwrap_or((line, ""));
        (pattern, source.trim_start_matches("# "))
    })
}

/// A pattern in the one form that equal patterns share: lower case, no trailing dot, no two stars in a row.
fn normal(pattern: &str) -> String {
    let pattern = pattern.strip_suffix('.').unwrap_or(pattern);
    let mut normal = String::with_capacity(pattern.len());
    for c in pattern.chars() {
        if !(c == '*' && normal.ends_with('*')) {
            normal.push(c.to_ascii_lowercase());
        }
    }
    normal
}

/// Whether `name` matches a pattern, which is in lower case.
///
/// Only the last `*` is ever widened: what the ones before it took is never worth taking back.
fn matches(mut pattern: &[u8], mut name: &[u8]) -> bool {
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([b'*'], _) | ([], []) => return true,
            ([b'*', rest @ ..], _) => {
                last_star = Some((rest, name));
                pattern = rest;
            }
            ([wanted, rest @ ..], [byte, tail @ ..]) if *wanted == b'?' || *wanted == byte.to_ascii_lowercase() => {
                (pattern, name) = (rest, tail);
            }
            _ => {
                let Some((rest, [_, tail @ ..])) = last_star else { return false };
                last_star = Some((rest, tail));
                (pattern, name) = (rest, tail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bots(patterns: &[&str]) -> Bots {
        Bots::compile(patterns.iter().map(|&p| p.to_owned()).collect()).unwrap()
    }

    #[test]
    fn the_shipped_list_compiles_and_finds_itself() {
        let bots = Bots::shipped();
        assert_eq!(bots.len(), shipped_lines().count(), "no entry is there twice");
        assert!((8..=25).contains(&bots.len()), "{}", bots.len());
        for (pattern, source) in shipped_lines() {
            assert!(source.len() > 10 && source.contains("20"), "{pattern} has a source with a year: {source:?}");
            let found = bots.find(pattern.as_bytes()).unwrap();
            assert_eq!(bots.text(found), Some(pattern.to_ascii_lowercase().as_str()));
        }
    }

    #[test]
    fn wildcards() {
        for (pattern, name, matches) in [
            ("ylmf-pc", "ylmf-pc", true),
            ("ylmf-pc", "YLMF-PC", true),
            ("ylmf-pc", "ylmf-pc.", true),
            ("ylmf-pc.", "ylmf-pc", true),
            ("ylmf-pc", "ylmf-pc..", false),
            ("ylmf-pc", "ylmf-pcs", false),
            ("ylmf-pc", "xylmf-pc", false),
            ("ylmf-pc", "", false),
            ("a.b", "axb", false),
            ("a.b", "a.b", true),
            ("win-???????????", "WIN-0A1B2C3D4E5", true),
            ("win-???????????", "WIN-0A1B2C3D4E", false),
            ("win-???????????", "WIN-0A1B2C3D4E56", false),
            ("*.example.com", "mail.example.com", true),
            ("*.example.com", ".example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "mail.example.com.au", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "ace", true),
            ("a*c*e", "aec", false),
            ("a***e", "ae", true),
            ("[127.0.0.1]", "[127.0.0.1]", true),
            ("[127.0.0.1]", "1", false),
            ("a|b", "a", false),
            ("a+", "aa", false),
            (r"a\d", "a1", false),
            ("(a)", "a", false),
            ("^a$", "a", false),
        ] {
            assert_eq!(bots(&[pattern]).find(name.as_bytes()).is_some(), matches, "{pattern} on {name}");
        }
        assert!(bots(&["a*z"]).find(b"a\xff\0\n z").is_some(), "any byte");
        assert!(bots(&["a?z"]).find(b"a\nz").is_some(), "any byte");
        assert!(bots(&["*a*"]).find(&[b'a'; LONGEST_NAME]).is_some());
        assert!(bots(&["*a*"]).find(&[b'a'; LONGEST_NAME + 2]).is_none(), "too long for a name");
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let bots = bots(&["ab*", "*b", "AB", "ab*", "ab**"]);
        assert_eq!(bots.len(), 3, "the same pattern twice is one");
        let text = |name: &[u8]| bots.find(name).and_then(|found| bots.text(found));
        assert_eq!(text(b"ab"), Some("ab*"));
        assert_eq!(text(b"bb"), Some("*b"));
        assert_eq!(text(b"bc"), None);
    }

    #[test]
    fn the_operators_names_join_the_shipped_ones() {
        let bots = Bots::shipped().with(vec!["evil.example".into(), "YLMF-PC".into()]).unwrap();
        assert_eq!(bots.len(), Bots::shipped().len() + 1);
        assert!(bots.find(b"evil.example").is_some() && bots.find(b"ylmf-pc").is_some());
        assert!(Bots::default().find(b"ylmf-pc").is_none() && Bots::default().is_empty());
        assert_eq!(Bots::default(), Bots::compile(Vec::new()).unwrap());
    }

    #[test]
    fn bad_patterns_say_what_would_be_right() {
        for (pattern, words) in [
            ("", "write a name"),
            (".", "write a name"),
            ("*", "letter or digit"),
            ("?*.?", "letter or digit"),
            ("ylmf pc", "' '"),
            ("ylmf-pc\t# seen", "'\\t'"),
            ("bücher", "xn--"),
            ("a\0b", "'\\0'"),
        ] {
            let said = Bots::compile(vec!["good".into(), pattern.into()]).unwrap_err().to_string();
            assert!(said.contains(words), "{pattern:?}: {said}");
        }
        let long = "a".repeat(LONGEST_PATTERN + 1);
        assert_eq!(Bots::check(&long), Err(BadPattern::TooLong { shown: "a".repeat(32), length: LONGEST_PATTERN + 1 }));
        assert_eq!(Bots::check(&long[1..]), Ok(()));
    }

    #[test]
    fn a_list_is_bounded() {
        let list = |count: usize, tail: &str| (0..count).map(|i| format!("n{i}{tail}")).collect::<Vec<_>>();
        let full = Bots::compile(list(MOST_PATTERNS, ".x*")).unwrap();
        assert!(full.find(b"n1023.x").is_some() && full.find(b"n1024.x").is_none());
        assert_eq!(Bots::compile(list(MOST_PATTERNS + 1, "")), Err(BadPattern::TooMany));
        let long = "a".repeat(LONGEST_PATTERN - 6);
        assert_eq!(Bots::compile(list(MOST_PATTERNS, &long)).map(|bots| bots.len()), Ok(MOST_PATTERNS));
        assert_eq!(Bots::compile(list(MOST_PATTERNS, &format!("*{long}"))), Err(BadPattern::TooLarge));
    }

    /// What a pattern means, said as plainly as can be.
    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => plainly(rest, name),
            (Some((b'*', rest)), Some((_, tail))) => plainly(rest, name) || plainly(pattern, tail),
            (Some((b'?', rest)), Some((_, tail))) => plainly(rest, tail),
            (Some((p, rest)), Some((n, tail))) => p.eq_ignore_ascii_case(n) && plainly(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_mean_what_they_say(pattern in "[aB*?-]{0,5}x[aB*?-]{0,3}", name in "[abAxX-]{0,8}") {
            prop_assert_eq!(
                bots(&[&pattern]).find(name.as_bytes()).is_some(),
                plainly(pattern.as_bytes(), name.as_bytes())
            );
        }

        #[test]
        fn any_pattern_that_passes_the_check_compiles(pattern in any::<String>(), name in any::<Vec<u8>>()) {
            let checked = Bots::check(&pattern).is_ok();
            let compiled = Bots::compile(vec![pattern]);
            prop_assert_eq!(checked, compiled.is_ok());
            let _ = compiled.map(|bots| bots.find(&name));
        }

        #[test]
        fn a_name_without_wildcards_matches_itself_in_any_case(name in "[!-)+->@-~]{0,40}[a-z0-9]") {
            let bots = bots(&[&name]);
            prop_assert!(bots.find(name.to_ascii_uppercase().as_bytes()).is_some());
            let longer = format!("{name}x");
            prop_assert!(bots.find(longer.as_bytes()).is_none());
        }
    }
}

//! The name of an account that somebody tries to log in to.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// The longest name that is told apart, in bytes: an address as long as RFC 5321 §4.5.3.1 lets one be.
pub const LONGEST: usize = 256;

/// An account, by the name that was tried, in one spelling: a guesser that writes it otherwise each time gains nothing.
///
/// ASCII letters are small, blanks and dots at the end and blanks at the beginning are gone, a NUL ends it (as it does for
/// an MTA written in C), and so do [`LONGEST`] bytes. `user` and `user@domain` are two: whether they are one is the
/// MTA's to know. It is a hostile byte string, and may be somebody's address: `Debug` does not print it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Account(Box<[u8]>);

impl Account {
    /// The account called `name`; none if that is no name.
    pub fn new(name: &[u8]) -> Option<Self> {
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = trim(name);
        let name = trim(name.get(..LONGEST).unwrap_or(name));
        (!name.is_empty()).then(|| Self(name.to_ascii_lowercase().into()))
    }

    /// Its name: hostile bytes, one to [`LONGEST`].
    pub fn name(&self) -> &[u8] {
        &self.0
    }

    /// Half of the SHA-256 of its name, to know it by without keeping the name. Who can guess the name can check the guess.
    pub fn digest(&self) -> [u8; 16] {
        let whole = digest(&SHA256, &self.0);
        whole.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(…)")
    }
}

/// Without what MTAs do not look at: blanks around it, and dots behind it.
fn trim(name: &[u8]) -> &[u8] {
    let name = name.trim_ascii();
    let end = name.iter().rposition(|byte| !byte.is_ascii_whitespace() && *byte != b'.').map_or(0, |last| last + 1);
    name.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_account_has_one_spelling() {
        let rows: &[(&[u8], Option<&[u8]>)] = &[
            (b"hanks", Some(b"hanks")),
            (b" HaNKs\t", Some(b"hanks")),
            (b"hanks@Example.ORG. .", Some(b"hanks@example.org")),
            (b"hanks\0anything", Some(b"hanks")),
            (b".hanks", Some(b".hanks")),
            (b"J\xc3\x9cRGEN", Some(b"j\xc3\x9crgen")),
            (b"two words", Some(b"two words")),
            (b"", None),
            (b" . ", None),
            (b"\0hanks", None),
        ];
        for &(name, expected) in rows {
            let found = Account::new(name);
            assert_eq!(found.as_ref().map(Account::name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_name_has_a_longest() {
        let name = [b'A'; 3 * LONGEST];
        let long = Account::new(&name).unwrap();
        assert_eq!(long.name(), [b'a'; LONGEST]);
        assert_eq!(Some(long), Account::new(&name[..LONGEST]));
        // What is cut off leaves nothing at the end that would be taken off, either.
        let spread = [&name[..LONGEST - 2], b" .x"].concat();
        assert_eq!(Account::new(&spread).unwrap().name().len(), LONGEST - 2);
    }

    #[test]
    fn a_digest_is_of_the_name() {
        let of = |name: &[u8]| Account::new(name).unwrap().digest();
        assert_eq!(
            of(b"abc"),
            [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23]
        );
        assert_eq!(of(b" ABC"), of(b"abc"));
        assert_ne!(of(b"abc@example.org"), of(b"abc"));
    }

    #[test]
    fn debug_prints_no_name() {
        assert_eq!(format!("{:?}", Account::new(b"hanks")), "Some(Account(…))");
    }
}

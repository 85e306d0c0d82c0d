//! The token: what has to be known to change anything over TCP.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The fewest characters of a token: 16 of base 64 hold 96 bits.
pub const LEAST: usize = 16;

/// The most.
pub const MOST: usize = 256;

/// A secret. It is not printed, compared in a time that tells nothing but its length, and wiped when it goes.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

/// Why a text is no token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a token has {LEAST} to {MOST} characters, printable ASCII without blanks")]
pub struct NotAToken;

impl Token {
    /// The token that `text` is, blanks and line ends around it left out.
    pub fn read(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        let fits = (LEAST..=MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(Zeroizing::new(text.to_owned()))) } else { Err(NotAToken) }
    }

    /// Whether `shown` is it.
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0.as_bytes())
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_enough_and_does_not_print() {
        let token = Token::read(" 0123456789abcdef\n").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in ["0123456789abcdeg", "0123456789abcde", "0123456789abcdef0", ""] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("0123"));
        for bad in ["", "short", "0123456789abcde", "0123456789 abcdef", "0123456789abcdéf", &"x".repeat(257)] {
            assert_eq!(Token::read(bad).err(), Some(NotAToken), "{bad}");
        }
    }
}

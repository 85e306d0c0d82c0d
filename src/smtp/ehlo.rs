//! EHLO replies: what a server offers (RFC 5321 §4.1.1.1), and what of that gatepost lets through.

use super::reply::Reply;

/// The service extensions that gatepost understands. Any other keyword is withheld from clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Keyword {
    Size,
    EightBitMime,
    Pipelining,
    EnhancedStatusCodes,
    Dsn,
    SmtpUtf8,
    Chunking,
    BinaryMime,
    StartTls,
    Auth,
    Vrfy,
    Expn,
    Etrn,
    Help,
    DeliverBy,
    MtPriority,
    FutureRelease,
    Limits,
    RequireTls,
}

/// A set of keywords.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keywords(u32);

impl Keywords {
    /// No keyword.
    pub const NONE: Self = Self(0);

    /// With `keyword`.
    pub const fn with(self, keyword: Keyword) -> Self {
        Self(self.0 | 1 << keyword as u32)
    }

    /// Without `keyword`.
    pub const fn without(self, keyword: Keyword) -> Self {
        Self(self.0 & !(1 << keyword as u32))
    }

    /// Whether `keyword` is in it.
    pub const fn has(self, keyword: Keyword) -> bool {
        self.0 & (1 << keyword as u32) != 0
    }

    /// Those in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every keyword of `other` is in this.
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
}

/// What a backend offers: the understood part of its EHLO reply, parameters as it wrote them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// The keywords.
    pub keywords: Keywords,
    /// The understood lines (`SIZE 10240000`, `AUTH PLAIN LOGIN`), in the backend's order.
    lines: Vec<(Keyword, Box<[u8]>)>,
}

impl Offer {
    /// Reads a positive reply to EHLO. `AUTH=…` (an old dialect) counts as AUTH; lines of unknown keywords are left out.
    pub fn read(_reply: &Reply<'_>) -> Self {
        todo!()
    }

    /// Writes an EHLO reply: `greeting` (the text of its first line) and the lines whose keyword is in `keep`.
    pub fn write(&self, _out: &mut Vec<u8>, _greeting: &[u8], _keep: Keywords) {
        todo!()
    }
}

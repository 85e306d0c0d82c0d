//! The tests, and what an operator can say of each.

use std::time::Duration;

/// The tests that a stranger has to pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Test {
    /// Says nothing before the greeting has ended.
    Pregreet,
    /// Is not on the lists.
    Dnsbl,
    /// Does not name itself as known bots do, or as us.
    HeloName,
    /// Names itself in RFC 5321's syntax.
    HeloSyntax,
    /// Waits for a reply before the next command where it has to.
    Pipelining,
    /// Speaks SMTP and not something else.
    NotSmtp,
    /// Ends its command lines in CRLF.
    BareNewline,
    /// Does not try AUTH where none is offered.
    AuthNotOffered,
}

impl Test {
    /// All of them, in the order in which a visit meets them.
    pub const ALL: [Self; 8] = [
        Self::Pregreet,
        Self::Dnsbl,
        Self::HeloName,
        Self::HeloSyntax,
        Self::Pipelining,
        Self::NotSmtp,
        Self::BareNewline,
        Self::AuthNotOffered,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether it is made before the greeting, without a dialogue.
    pub const fn is_early(self) -> bool {
        matches!(self, Self::Pregreet | Self::Dnsbl)
    }

    /// The name in the file, the journal and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pregreet => "pregreet",
            Self::Dnsbl => "dnsbl",
            Self::HeloName => "helo-name",
            Self::HeloSyntax => "helo-syntax",
            Self::Pipelining => "pipelining",
            Self::NotSmtp => "not-smtp",
            Self::BareNewline => "bare-newline",
            Self::AuthNotOffered => "auth-not-offered",
        }
    }
}

/// What a failed test leads to, mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// The test is not made.
    Off,
    /// It is made and journalled, and changes nothing.
    Observe,
    /// The other tests go on; every recipient is refused, and helo, from and to are journalled.
    Enforce,
    /// One reply, and the connection is closed.
    Drop,
}

/// What an operator says of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What a failure leads to.
    pub action: Action,
    /// How long a pass is remembered. For [`Test::Dnsbl`] the lists' TTLs decide instead, see [`super::Thresholds`].
    pub ttl: Duration,
}

/// One value for each test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PerTest<T>([T; Test::COUNT]);

impl<T> PerTest<T> {
    /// The values, in the order of [`Test::ALL`].
    pub const fn new(values: [T; Test::COUNT]) -> Self {
        Self(values)
    }
}

impl<T> std::ops::Index<Test> for PerTest<T> {
    type Output = T;

    #[allow(clippy::indexing_slicing, reason = "a test's number is below COUNT")]
    fn index(&self, test: Test) -> &T {
        &self.0[test as usize]
    }
}

impl<T> std::ops::IndexMut<Test> for PerTest<T> {
    #[allow(clippy::indexing_slicing, reason = "a test's number is below COUNT")]
    fn index_mut(&mut self, test: Test) -> &mut T {
        &mut self.0[test as usize]
    }
}

/// A set of tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tests(u8);

impl Tests {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Adds `test`.
    pub fn insert(&mut self, test: Test) {
        self.0 |= 1 << test as u8;
    }

    /// Takes `test` out.
    pub fn remove(&mut self, test: Test) {
        self.0 &= !(1 << test as u8);
    }

    /// Whether `test` is in it.
    pub const fn has(self, test: Test) -> bool {
        self.0 & (1 << test as u8) != 0
    }

    /// Whether none is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in this and not in `other`.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The tests in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Test> {
        Test::ALL.into_iter().filter(move |&test| self.has(test))
    }
}

//! What is remembered of a client: until when each passed test counts.

use super::test::{PerTest, Test};
use crate::policy::record::{Reader, Record, Writer};
use crate::time::Timestamp;

/// Until when each test counts as passed: whole seconds since the epoch, 0 for never passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    passed_until: PerTest<u32>,
}

impl Standing {
    /// The standing of a client that was never seen.
    pub fn stranger() -> Self {
        Self::default()
    }

    /// Whether the pass of `test` still counts.
    pub fn holds(&self, test: Test, now: Timestamp) -> bool {
        u64::from(self.passed_until[test]) > now.seconds()
    }

    /// Remembers a pass of `test`; an earlier pass that counts for longer stays.
    pub fn pass(&mut self, test: Test, until: Timestamp) {
        let until = u32::try_from(until.seconds()).unwrap_or(u32::MAX);
        self.passed_until[test] = self.passed_until[test].max(until);
    }

    /// Forgets the pass of `test`.
    pub fn fail(&mut self, test: Test) {
        self.passed_until[test] = 0;
    }

    /// Remembers the passes of `other` as well; of two passes of a test the longer stays.
    pub fn merge(&mut self, other: &Self) {
        for test in Test::ALL {
            self.passed_until[test] = self.passed_until[test].max(other.passed_until[test]);
        }
    }

    /// Until when `test` counts as passed; the epoch if it never was.
    pub fn until(&self, test: Test) -> Timestamp {
        Timestamp::from_seconds(u64::from(self.passed_until[test]))
    }

    /// When nothing in it counts any more: from then on it is as good as a stranger's.
    pub fn expires(&self) -> Timestamp {
        let last = Test::ALL.into_iter().map(|test| self.passed_until[test]).max().unwrap_or(0);
        Timestamp::from_seconds(u64::from(last))
    }
}

/// Until when each test counts as passed, in their order.
impl Record for Standing {
    fn line(&self) -> String {
        Test::ALL.into_iter().fold(Writer::new(), |line, test| line.word(self.passed_until[test])).end()
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = Reader::new(line)?;
        let mut standing = Self::stranger();
        for test in Test::ALL {
            standing.passed_until[test] = words.next()?;
        }
        words.rest().is_empty().then_some(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_is_read_as_it_was_written() {
        let mut standing = Standing::stranger();
        for (n, test) in (1..).zip(Test::ALL) {
            standing.pass(test, Timestamp::from_seconds(1_700_000_000 * (n % 2) + n));
        }
        assert_eq!(standing.line(), "1 1700000001 2 1700000003 4 1700000005 6 1700000007 8");
        assert_eq!(Standing::read(&standing.line()), Some(standing));
        for bad in ["", "1", "2 1 2 3 4 5 6 7 8", "1 1 2 3 4 5 6 7", "1 1 2 3 4 5 6 7 -8", "1 1 2 3 4 5 6 7 x"] {
            assert_eq!(Standing::read(bad), None, "{bad}");
        }
    }
}

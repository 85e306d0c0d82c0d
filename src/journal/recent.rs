//! The last visits, in memory: so that an operator who is told a visit's id, or asks after a client, gets its record.
//!
//! Records lie end to end in one buffer of fixed size, which is written round and round; an index of them beside it says
//! whose they are. Writing one costs a copy and no allocation. Looking one up walks the index, which is for operators, who
//! are few: the index is as bounded as the buffer.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::{Visit, VisitId, record};
use crate::addr::ClientKey;

/// How many bytes of records are kept, unless somebody says otherwise.
pub const DEFAULT: usize = 8 << 20;

/// The last visits. Shared by reference.
#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    /// A lock, because visits of all lanes end here. Held while a record is written and copied, or while the index is walked.
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Where records are written before it is known how long they are.
    scratch: Vec<u8>,
    /// Grows to the capacity as records come.
    bytes: Vec<u8>,
    /// Where the next one goes.
    next: usize,
    /// The oldest first.
    index: VecDeque<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: VisitId,
    client: ClientKey,
    start: usize,
    end: usize,
}

impl Recent {
    /// None so far, and room for `capacity` bytes of records.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default() }
    }

    /// Whether any are kept.
    pub(super) fn is_kept(&self) -> bool {
        self.capacity > 0
    }

    /// Keeps the record of `visit`, and shows it, its line feed included.
    pub(super) fn keep(&self, visit: &Visit, show: impl FnOnce(&[u8])) {
        let mut ring = self.ring.lock();
        let mut line = std::mem::take(&mut ring.scratch);
        line.clear();
        record::write(&mut line, visit);
        ring.push(visit.id, ClientKey::of(visit.client.ip()), &line, self.capacity);
        show(&line);
        // A long one is seldom.
        line.shrink_to(4096);
        ring.scratch = line;
    }

    /// The record of a visit, if it is among the last.
    pub fn of_visit(&self, id: VisitId) -> Option<Vec<u8>> {
        let ring = self.ring.lock();
        let entry = ring.index.iter().rev().find(|entry| entry.id == id)?;
        ring.line(entry)
    }

    /// The last records of a client, `most` at the most, the latest first.
    pub fn of_client(&self, client: ClientKey, most: usize) -> Vec<Vec<u8>> {
        let ring = self.ring.lock();
        let theirs = ring.index.iter().rev().filter(|entry| entry.client == client).take(most);
        theirs.filter_map(|entry| ring.line(entry)).collect()
    }
}

impl Ring {
    fn line(&self, entry: &Entry) -> Option<Vec<u8>> {
        self.bytes.get(entry.start..entry.end).map(<[u8]>::to_vec)
    }

    fn push(&mut self, id: VisitId, client: ClientKey, line: &[u8], capacity: usize) {
        if line.len() > capacity {
            return;
        }
        // A record is in one piece: what is left at the end stays unused for this round.
        if self.next + line.len() > capacity {
            let (at, end) = (self.next, usize::MAX);
            self.make_room(at, end);
            self.next = 0;
        }
        let (start, end) = (self.next, self.next + line.len());
        self.make_room(start, end);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(line);
        }
        self.next = end;
        self.index.push_back(Entry { id, client, start, end });
    }

    /// Forgets the oldest records that lie between `start` and `end`.
    fn make_room(&mut self, start: usize, end: usize) {
        while self.index.front().is_some_and(|oldest| oldest.start < end && start < oldest.end) {
            self.index.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{dropped, relayed};
    use super::*;

    fn visit(n: u64) -> Visit {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + (n % 7) as u32);
        let long = Some("x".repeat((n * 37 % 150) as usize));
        Visit { id: VisitId(n), client: (ip, 25).into(), note: long, ..dropped() }
    }

    #[test]
    fn the_last_ones_are_found_whole_and_no_more_room_is_taken() {
        let recent = Recent::new(5000);
        let mut written = Vec::new();
        for n in 0..2000 {
            recent.keep(&visit(n), |line| written.push(line.to_vec()));
            let ring = recent.ring.lock();
            assert!(ring.bytes.len() <= 5000);
            let kept = ring.index.len();
            drop(ring);
            assert!(kept >= (n as usize + 1).min(5), "{kept} of {n}");
            for (age, line) in written.iter().rev().take(kept).enumerate() {
                assert_eq!(recent.of_visit(VisitId(n - age as u64)).as_ref(), Some(line), "{n}, {age}");
            }
            assert_eq!(recent.of_visit(VisitId(n.wrapping_sub(kept as u64))), None);
        }
        let client = ClientKey::of("10.0.0.3".parse().unwrap());
        let theirs = recent.of_client(client, 2);
        assert!(!theirs.is_empty() && theirs.iter().all(|line| line.starts_with(b"{\"v\":1")));
        assert_eq!(theirs.first(), written.iter().rev().find(|line| line.windows(8).any(|w| w == b"10.0.0.3")));
    }

    #[test]
    fn one_that_is_too_long_is_not_kept() {
        let recent = Recent::new(100);
        recent.keep(&relayed(), |line| assert!(line.len() > 100));
        assert_eq!(recent.of_visit(relayed().id), None);
    }
}

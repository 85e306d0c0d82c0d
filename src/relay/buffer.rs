//! Buffers that are held only while there are bytes in them.
//!
//! Most connections wait most of the time. A [`Buffer`] takes its memory when bytes come and gives it back when they are
//! gone, to a small stock of the thread's, so that the memory in use follows what moves and not who is connected.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much memory a buffer takes at first.
pub(super) const SIZE: usize = 16 * 1024;

/// How much it takes where much goes through: four times fewer reads and writes.
pub(super) const LARGE: usize = 64 * 1024;

/// How many pieces of memory a thread keeps for later, usual and large ones.
const STOCK: usize = 64;
const LARGE_STOCK: usize = 4;

/// How many large pieces there may be in use. Whoever comes later makes do with the usual: however many send much to a
/// backend that takes little, memory stays small.
const MOST_LARGE: usize = 64;

static LARGE_IN_USE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static LARGE_SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in order: put in behind, taken out in front. Not to be printed: they may hold a password.
#[derive(Default)]
pub(super) struct Buffer {
    /// Empty while nothing is held; else wholly initialised.
    memory: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether it has one of the large pieces.
    large: bool,
}

impl Buffer {
    /// The bytes in it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How much it holds before it has to grow.
    pub(super) fn size(&self) -> usize {
        if self.large { LARGE } else { SIZE }
    }

    /// Takes a large piece of memory for what comes next, if there is one and nothing is held. Say [`Buffer::filled`] or
    /// [`Buffer::settle`] afterwards.
    pub(super) fn widen(&mut self) {
        if !self.memory.is_empty() {
            return;
        }
        if LARGE_IN_USE.fetch_add(1, Ordering::Relaxed) >= MOST_LARGE {
            LARGE_IN_USE.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.memory = LARGE_SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; LARGE]);
        self.large = true;
    }

    /// Takes `count` bytes out. The memory goes back with the last byte.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            self.give_back();
        }
    }

    /// Puts `bytes` in, whatever room that needs.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let room = self.room(bytes.len());
        if let Some(room) = room.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.filled(bytes.len());
    }

    /// The room behind the bytes, of at least `count` bytes. Say [`Buffer::filled`] of what is used, or
    /// [`Buffer::settle`] if nothing is.
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE]);
        }
        if self.memory.len() - self.end < count && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.memory.len() - self.end < count {
            self.memory.resize(self.end + count, 0);
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes of the room have been filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
        self.settle();
    }

    /// Gives the memory back if it has not been used.
    pub(super) fn settle(&mut self) {
        if self.is_empty() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        (self.start, self.end) = (0, 0);
        let memory = std::mem::take(&mut self.memory);
        if std::mem::take(&mut self.large) {
            LARGE_IN_USE.fetch_sub(1, Ordering::Relaxed);
        }
        let (stock, most) = match memory.len() {
            SIZE => (&SPARE, STOCK),
            LARGE => (&LARGE_SPARE, LARGE_STOCK),
            _ => return,
        };
        // Without a thread's stock (the thread is ending) it is simply freed.
        let _ = stock.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < most {
                spare.push(memory);
            }
        });
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(acts in proptest::collection::vec((any::<bool>(), 0_usize..9000, any::<bool>()), 0..40)) {
            let (mut buffer, mut model, mut next) = (Buffer::default(), Vec::new(), 0_u8);
            for (put, count, wide) in acts {
                if wide {
                    buffer.widen();
                    buffer.settle();
                }
                if put {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    buffer.append(&bytes);
                    model.extend(bytes);
                } else {
                    buffer.consume(count);
                    model.drain(..count.min(model.len()));
                }
                prop_assert_eq!(buffer.bytes(), &model[..]);
                prop_assert_eq!(buffer.memory.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn memory_is_used_again() {
        let mut one = Buffer::default();
        one.append(b"x");
        let first = one.memory.as_ptr();
        one.consume(1);
        let mut two = Buffer::default();
        assert_eq!(two.room(1).len(), SIZE);
        assert_eq!(two.memory.as_ptr(), first);
        two.settle();
        assert!(two.memory.is_empty());
    }

    #[test]
    fn there_are_so_many_large_ones_and_then_usual_ones() {
        let mut all: Vec<Buffer> = (0..MOST_LARGE + 9).map(|_| Buffer::default()).collect();
        for buffer in &mut all {
            buffer.widen();
            buffer.append(b"x");
        }
        let large = all.iter().filter(|buffer| buffer.large).count();
        // Other tests may have some.
        assert!(large > 0 && large <= MOST_LARGE, "{large}");
        drop(all);
        let mut one = Buffer::default();
        one.widen();
        // One that grows is none of them any more, and still counted.
        one.append(&[0; LARGE + 1]);
        one.consume(LARGE + 1);
        assert!(!one.large && one.memory.is_empty());
    }
}

//! Buffers that are held only while there are bytes in them.
//!
//! Most connections wait most of the time. A [`Buffer`] takes its memory when bytes come and gives it back when they are
//! gone, to a small stock of the thread's, so that the memory in use follows what moves and not who is connected.

use std::cell::RefCell;

/// How much memory a buffer takes at first.
pub(super) const SIZE: usize = 16 * 1024;

/// How many pieces of memory a thread keeps for later.
const STOCK: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in order: put in behind, taken out in front. Not to be printed: they may hold a password.
#[derive(Default)]
pub(super) struct Buffer {
    /// Empty while nothing is held; else wholly initialised.
    memory: Vec<u8>,
    start: usize,
    end: usize,
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
        if memory.len() == SIZE {
            // Without a thread's stock (the thread is ending) it is simply freed.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < STOCK {
                    spare.push(memory);
                }
            });
        }
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
        fn what_goes_in_comes_out(acts in proptest::collection::vec((any::<bool>(), 0_usize..9000), 0..40)) {
            let (mut buffer, mut model, mut next) = (Buffer::default(), Vec::new(), 0_u8);
            for (put, count) in acts {
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
}

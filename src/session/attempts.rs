//! How many AUTH attempts of one client may be with the backends at once, over all gates.
//!
//! What a failure means is known when the backend has answered. Until then an attempt holds one of its client's few permits,
//! and others wait; so however many connections a client has, and whatever it says in a row, what reaches the backends
//! beyond the attempt that gets it banned is one less than there are permits.
//!
//! A client has an entry only while it has attempts, so there are never more entries than sessions; and whoever waits and
//! gives up leaves nothing behind: a client that comes and goes while its attempts are held up makes nothing grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::addr::ClientKey;

/// In how many parts the clients are counted, so that cores do not wait for each other.
const SHARDS: usize = 16;

/// Who is trying. Shared by reference.
#[derive(Debug)]
pub(super) struct Attempts {
    hasher: RandomState,
    shards: [Mutex<HashMap<ClientKey, Turn, RandomState>>; SHARDS],
    /// Numbers those who wait.
    next: AtomicU64,
}

/// The attempts of one client.
#[derive(Debug, Default)]
struct Turn {
    under_way: usize,
    /// Who waits, by number. All are woken where one would do: whose turn it is shows when they ask.
    waiting: HashMap<u64, Waker, RandomState>,
}

/// A place among those who wait; given up when dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    attempts: Arc<Attempts>,
    client: ClientKey,
    number: u64,
}

/// An attempt that is under way; over when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    attempts: Arc<Attempts>,
    client: ClientKey,
}

impl Attempts {
    pub(super) fn new() -> Arc<Self> {
        let hasher = RandomState::new();
        let shards = std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone())));
        Arc::new(Self { hasher, shards, next: AtomicU64::new(0) })
    }

    /// A permit, once fewer than `most` (one at least) attempts of the client are under way. Whoever has to wait keeps its
    /// place in `waiting`.
    pub(super) fn poll_begin(
        self: &Arc<Self>,
        client: ClientKey,
        most: usize,
        waiting: &mut Option<Waiting>,
        cx: &mut Context<'_>,
    ) -> Poll<Permit> {
        let Some(shard) = self.shard(client) else { return Poll::Pending };
        let mut clients = shard.lock();
        let turn = clients.entry(client).or_default();
        if turn.under_way >= most.max(1) {
            let place = waiting.get_or_insert_with(|| {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                Waiting { attempts: Arc::clone(self), client, number }
            });
            turn.waiting.insert(place.number, cx.waker().clone());
            return Poll::Pending;
        }
        turn.under_way += 1;
        drop(clients);
        *waiting = None;
        Poll::Ready(Permit { attempts: Arc::clone(self), client })
    }

    fn shard(&self, client: ClientKey) -> Option<&Mutex<HashMap<ClientKey, Turn, RandomState>>> {
        self.shards.get((self.hasher.hash_one(client) >> 40) as usize % SHARDS)
    }

    /// How many clients are trying.
    #[cfg(test)]
    fn clients(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        let of = |shard: &Mutex<HashMap<ClientKey, Turn, RandomState>>| -> usize {
            shard.lock().values().map(|turn| turn.waiting.len()).sum()
        };
        self.shards.iter().map(of).sum()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shard) = self.attempts.shard(self.client) else { return };
        let mut clients = shard.lock();
        let Some(turn) = clients.get_mut(&self.client) else { return };
        turn.under_way = turn.under_way.saturating_sub(1);
        let waiting = std::mem::take(&mut turn.waiting);
        if turn.under_way == 0 {
            clients.remove(&self.client);
        }
        drop(clients);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(shard) = self.attempts.shard(self.client) else { return };
        if let Some(turn) = shard.lock().get_mut(&self.client) {
            turn.waiting.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_like::ready;

    use super::*;

    const CLIENT: ClientKey = ClientKey::V4(7);

    mod futures_like {
        use std::task::{Context, Poll, Waker};

        /// What is there at once.
        pub(super) fn ready<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
            match poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(there) => Some(there),
                Poll::Pending => None,
            }
        }
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let attempts = Attempts::new();
        let begin = |client, most| ready(|cx| attempts.poll_begin(client, most, &mut None, cx));
        let first = begin(CLIENT, 2).unwrap();
        let second = begin(CLIENT, 2).unwrap();
        assert!(begin(CLIENT, 2).is_none());
        assert!(begin(ClientKey::V4(8), 2).is_some(), "another client");
        drop(first);
        let third = begin(CLIENT, 2).unwrap();
        assert!(begin(CLIENT, 2).is_none());
        drop((second, third));
        assert_eq!(attempts.clients(), 0);
        assert!(begin(CLIENT, 0).is_some(), "one at least");
    }

    #[tokio::test]
    async fn whoever_waits_gets_its_turn_even_if_others_have_given_up() {
        let attempts = Attempts::new();
        let begin = async || {
            let mut waiting = None;
            poll_fn(|cx| attempts.poll_begin(CLIENT, 1, &mut waiting, cx)).await
        };
        let first = begin().await;
        let mut given_up = Box::pin(begin());
        assert!(ready(|cx| given_up.as_mut().poll(cx)).is_none());
        drop(given_up);
        let (second, ()) = tokio::join!(begin(), async { drop(first) });
        drop(second);
        assert_eq!(attempts.clients(), 0);
    }

    #[test]
    fn whoever_gives_up_leaves_nothing_behind() {
        let attempts = Attempts::new();
        let first = ready(|cx| attempts.poll_begin(CLIENT, 1, &mut None, cx)).unwrap();
        let mut stays = None;
        for _ in 0..1000 {
            let mut gives_up = None;
            for _ in 0..2 {
                assert!(ready(|cx| attempts.poll_begin(CLIENT, 1, &mut gives_up, cx)).is_none());
            }
            assert!(ready(|cx| attempts.poll_begin(CLIENT, 1, &mut stays, cx)).is_none());
            assert_eq!(attempts.waiting(), 2);
        }
        assert_eq!(attempts.waiting(), 1);
        drop(first);
        let second = ready(|cx| attempts.poll_begin(CLIENT, 1, &mut stays, cx)).unwrap();
        assert_eq!((stays.is_none(), attempts.waiting(), attempts.clients()), (true, 0, 1));
        drop(second);
        assert_eq!(attempts.clients(), 0);
    }
}

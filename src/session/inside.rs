//! Who is inside, by client: so that the sessions of a client that is banned can be ended.
//!
//! Visits that have a task of their own are here. Strangers in the lot are not: the lot looks through them when somebody
//! was banned. Those who are allow-listed are not either: nothing bans them.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::addr::ClientKey;

/// In how many parts the clients are kept, so that cores do not wait for each other.
const SHARDS: usize = 64;

/// Who is inside. Shared by reference.
#[derive(Debug)]
pub(super) struct Inside {
    hasher: RandomState,
    shards: [Mutex<HashMap<ClientKey, Sessions, RandomState>>; SHARDS],
}

#[derive(Debug, Default)]
struct Sessions {
    count: usize,
    /// Cancelled when they are to end.
    out: CancellationToken,
}

/// A session of a client; over when dropped.
#[derive(Debug)]
pub(super) struct Stay {
    inside: Arc<Inside>,
    client: ClientKey,
    out: CancellationToken,
}

impl Inside {
    pub(super) fn new() -> Arc<Self> {
        let hasher = RandomState::new();
        let shards = std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone())));
        Arc::new(Self { hasher, shards })
    }

    /// A session of `client` begins.
    pub(super) fn enter(self: &Arc<Self>, client: ClientKey) -> Stay {
        let out = match self.shard(client) {
            Some(shard) => {
                let mut clients = shard.lock();
                let sessions = clients.entry(client).or_default();
                sessions.count += 1;
                sessions.out.clone()
            }
            None => CancellationToken::new(),
        };
        Stay { inside: Arc::clone(self), client, out }
    }

    /// Ends the sessions of the clients in `network`.
    pub(super) fn put_out(&self, network: IpNet) {
        let client = ClientKey::of(network.network());
        if client.network().contains(&network) {
            if let Some(shard) = self.shard(client)
                && let Some(sessions) = shard.lock().get(&client)
            {
                sessions.out.cancel();
            }
            return;
        }
        for shard in &self.shards {
            let clients = shard.lock();
            clients.iter().filter(|(client, _)| network.contains(&client.network())).for_each(|(_, sessions)| {
                sessions.out.cancel();
            });
        }
    }

    fn shard(&self, client: ClientKey) -> Option<&Mutex<HashMap<ClientKey, Sessions, RandomState>>> {
        self.shards.get((self.hasher.hash_one(client) >> 40) as usize % SHARDS)
    }
}

impl Stay {
    /// Waits until the client is to leave.
    pub(super) async fn put_out(&self) {
        self.out.cancelled().await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let Some(shard) = self.inside.shard(self.client) else { return };
        let mut clients = shard.lock();
        let Some(sessions) = clients.get_mut(&self.client) else { return };
        sessions.count = sessions.count.saturating_sub(1);
        if sessions.count == 0 {
            clients.remove(&self.client);
        } else if sessions.out.is_cancelled() {
            // Whoever comes after an unban is not to be put out for what was decided before.
            sessions.out = CancellationToken::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn client(text: &str) -> ClientKey {
        ClientKey::of(text.parse().unwrap())
    }

    #[test]
    fn those_of_a_network_are_put_out_and_others_stay() {
        let inside = Inside::new();
        for (network, out, stays) in [
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/24", "192.0.2.8", "192.0.3.8"),
            ("2001:db8:0:1::/64", "2001:db8:0:1::9", "2001:db8:0:2::9"),
            ("2001:db8:0:1::5/128", "2001:db8:0:1::9", "2001:db8:0:2::9"),
            ("2001:db8::/48", "2001:db8:0:1::9", "2001:db9::9"),
        ] {
            let both = [out, stays].map(|address| inside.enter(client(address)));
            let another = inside.enter(client(out));
            inside.put_out(net(network));
            assert_eq!(both.each_ref().map(|stay| stay.out.is_cancelled()), [true, false], "{network}");
            assert!(another.out.is_cancelled(), "{network}");
        }
        assert!(inside.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn whoever_comes_later_is_not_put_out_for_what_was_before() {
        let inside = Inside::new();
        let (first, second) = (inside.enter(client("192.0.2.7")), inside.enter(client("192.0.2.7")));
        inside.put_out(net("192.0.2.7/32"));
        drop(first);
        assert!(!inside.enter(client("192.0.2.7")).out.is_cancelled());
        assert!(second.out.is_cancelled());
    }
}

//! Who is inside, by client: so that the sessions of a client that is banned can be ended.
//!
//! Visits that have a task of their own are here. Strangers in the lot are not: the lot looks through them when somebody
//! was banned. Those who are allow-listed are not either: nothing bans them.
//!
//! What is told here is only that somebody near was banned: whether the session itself is concerned (its gate may only
//! observe, its address may be allowed, the ban may be of others of its network) is for the session to find out.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::watch;

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
    /// Told when somebody among them may be banned.
    out: watch::Sender<()>,
}

/// A session of a client; over when dropped.
#[derive(Debug)]
pub(super) struct Stay {
    inside: Arc<Inside>,
    client: ClientKey,
    out: watch::Receiver<()>,
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
                sessions.out.subscribe()
            }
            None => watch::Sender::default().subscribe(),
        };
        Stay { inside: Arc::clone(self), client, out }
    }

    /// Tells the sessions of the clients in `network`, and of those that have an address in it, that it was banned.
    pub(super) fn tell(&self, network: IpNet) {
        let client = ClientKey::of(network.network());
        if client.network().contains(&network) {
            if let Some(shard) = self.shard(client)
                && let Some(sessions) = shard.lock().get(&client)
            {
                sessions.out.send_replace(());
            }
            return;
        }
        for shard in &self.shards {
            let clients = shard.lock();
            clients.iter().filter(|(client, _)| network.contains(&client.network())).for_each(|(_, sessions)| {
                sessions.out.send_replace(());
            });
        }
    }

    fn shard(&self, client: ClientKey) -> Option<&Mutex<HashMap<ClientKey, Sessions, RandomState>>> {
        self.shards.get((self.hasher.hash_one(client) >> 40) as usize % SHARDS)
    }
}

impl Stay {
    /// Waits until somebody was banned who may be this client; each time is told once.
    pub(super) async fn told(&mut self) {
        if self.out.changed().await.is_err() {
            // Nobody is left who could be banned.
            std::future::pending::<()>().await;
        }
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

    fn is_told(stay: &Stay) -> bool {
        stay.out.has_changed().unwrap()
    }

    #[test]
    fn those_of_a_network_are_told_and_others_are_not() {
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
            inside.tell(net(network));
            assert_eq!(both.each_ref().map(is_told), [true, false], "{network}");
            assert!(is_told(&another), "{network}");
        }
        assert!(inside.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[tokio::test]
    async fn whoever_comes_later_is_not_told_of_what_was_before_and_who_stays_hears_it_once() {
        let inside = Inside::new();
        let (first, mut second) = (inside.enter(client("192.0.2.7")), inside.enter(client("192.0.2.7")));
        inside.tell(net("192.0.2.7/32"));
        assert!(!is_told(&inside.enter(client("192.0.2.7"))));
        drop(first);
        second.told().await;
        assert!(!is_told(&second));
        inside.tell(net("192.0.2.7/32"));
        assert!(is_told(&second));
    }
}

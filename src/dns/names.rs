//! The host names of clients: what the DNS calls an address, believed only if that name has the address.
//!
//! ```text
//!  address ── PTR ──► names (the first few) ── A or AAAA ──► the address among them? ─► Verified
//!             │                                 └─ an error, and no other fits ───────► Temporary
//!             ├─ none, or none that fits ─────────────────────────────────────────────► Unavailable
//!             └─ an error, no answer in time, too many questions ─────────────────────► Temporary
//! ```
//!
//! Promises: an answer is there within [`DEADLINE`]; what comes later is remembered for the next who asks. What is
//! remembered, and how many questions are under way, has a cap. Whoever owns an address or a name chooses what the DNS says
//! of it: a name is one by the rules of [`HostName::verified`], or it is none.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::Failure;
use super::cache::Cache;
use super::resolver::{Answer, Resolver};
use crate::addr::canonical;
use crate::smtp::xclient::HostName;

/// How long whoever asks waits at most: a backend, and behind that a client, waits along.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// How long one question may take, and how often it is put: a datagram can get lost.
const QUESTION: Duration = Duration::from_millis(900);
const TRIES: usize = 2;

/// How many of an address's names are looked at. Most have one.
const NAMES: usize = 3;

/// How many clients are remembered.
const REMEMBERED: usize = 10_000;

/// How long, whatever the answers say; and how long it is remembered that nobody could tell.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(60 * 60);
const AFTER_FAILURE: Duration = Duration::from_secs(15);

/// How many clients may be asked about at once.
const AT_ONCE: usize = 1000;

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Name servers with port; the machine's own (`/etc/resolv.conf`) if empty.
    pub nameservers: Vec<SocketAddr>,
}

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the DNS resolver for the names of clients: {0}")]
pub struct Error(String);

/// Finds names. Cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Desk>);

struct Desk {
    settings: Settings,
    resolver: Resolver,
    /// Many visits look things up at once, each for the length of a map's look-up.
    cache: Mutex<Cache<HostName>>,
    places: Arc<Semaphore>,
    /// Where all questions are asked.
    runtime: Handle,
}

impl Names {
    /// Sets the resolver up; within a tokio runtime, where all questions are asked from then on.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| Error(error.to_string()))?;
        let resolver = Resolver::new(&settings.nameservers, QUESTION).map_err(|error| Error(error.to_string()))?;
        let cache = Mutex::new(Cache::new(REMEMBERED));
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Ok(Self(Arc::new(Desk { settings, resolver, cache, places, runtime })))
    }

    /// Whom it asks.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The name of `client`.
    pub async fn of(&self, client: IpAddr) -> HostName {
        let client = canonical(client);
        let known = self.0.cache.lock().recall(&client, Instant::now()).cloned();
        if let Some(known) = known {
            return known;
        }
        let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() else { return HostName::Temporary };
        let desk = Arc::clone(&self.0);
        // A task of its own: it goes on when nobody waits for it any more.
        let asked = self.0.runtime.spawn(async move {
            let (name, holds) = desk.look_up(client).await;
            desk.cache.lock().remember(client, name.clone(), Instant::now() + holds);
            drop(place);
            name
        });
        match timeout(DEADLINE, asked).await {
            Ok(Ok(name)) => name,
            Ok(Err(_)) | Err(_) => HostName::Temporary,
        }
    }
}

impl Desk {
    /// The name of `client`, and for how long it holds.
    async fn look_up(&self, client: IpAddr) -> (HostName, Duration) {
        let target = |record: &RData| if let RData::PTR(name) = record { Some(name.0.to_ascii()) } else { None };
        let Ok(pointers) = self.ask(Query::query(Name::from(client), RecordType::PTR), target).await else {
            return (HostName::Temporary, AFTER_FAILURE);
        };
        let mut failed = false;
        for written in pointers.records.iter().take(NAMES) {
            let (Some(name), Ok(question)) = (HostName::verified(written), Name::from_ascii(written)) else { continue };
            match self.leads_to(question, client).await {
                Ok(Some(ttl)) => return (name, holds(pointers.ttl.into_iter().chain([ttl]).min())),
                Ok(None) => {}
                Err(_) => failed = true,
            }
        }
        if failed { (HostName::Temporary, AFTER_FAILURE) } else { (HostName::Unavailable, holds(pointers.ttl)) }
    }

    /// For how many seconds it holds that `client` is among the addresses of `name`, if it is.
    async fn leads_to(&self, mut name: Name, client: IpAddr) -> Result<Option<u32>, Failure> {
        // As it stands: no search list.
        name.set_fqdn(true);
        let kind = if client.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        let address = |record: &RData| match record {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        let answer = self.ask(Query::query(name, kind), address).await?;
        Ok(answer.records.contains(&client).then(|| answer.ttl.unwrap_or_default()))
    }

    async fn ask<T>(&self, query: Query, pick: impl Fn(&RData) -> Option<T>) -> Result<Answer<T>, Failure> {
        let mut answer = Err(Failure::Timeout);
        for _ in 0..TRIES {
            answer = self.resolver.ask(query.clone(), &pick).await;
            if !matches!(answer, Err(Failure::Timeout)) {
                break;
            }
        }
        answer
    }
}

fn holds(ttl: Option<u32>) -> Duration {
    Duration::from_secs(u64::from(ttl.unwrap_or_default())).clamp(SHORTEST, LONGEST)
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::ResponseCode;

    use super::*;
    use crate::dns::double::{Double, Reply};

    fn verified(name: &str) -> HostName {
        HostName::Verified(name.into())
    }

    fn names(double: &Double) -> Names {
        Names::open(Settings { nameservers: vec![double.address] }).unwrap()
    }

    fn address(last: u8) -> Reply {
        Reply::Addresses(vec![[198, 51, 100, 1], [192, 0, 2, last]], 300)
    }

    #[tokio::test]
    async fn a_name_counts_only_if_it_leads_back() {
        let double = Double::start(|name| match name {
            "1.2.0.192.in-addr.arpa" => Reply::Names(vec!["one.example."], 300),
            "one.example" => address(1),
            "2.2.0.192.in-addr.arpa" => Reply::Names(vec!["one.example."], 300),
            "3.2.0.192.in-addr.arpa" => Reply::Names(vec!["nothing.example.", "three.example."], 300),
            "three.example" => address(3),
            "4.2.0.192.in-addr.arpa" => Reply::Names(vec!["broken.example."], 300),
            "broken.example" | "5.2.0.192.in-addr.arpa" => Reply::Code(ResponseCode::ServFail),
            "6.2.0.192.in-addr.arpa" => Reply::Names(vec!["bad\r\nname.example.", "192.0.2.6.", "-a.example."], 300),
            "7.2.0.192.in-addr.arpa" => {
                Reply::Names(vec!["a.example.", "b.example.", "c.example.", "one.example."], 300)
            }
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa" => {
                Reply::Names(vec!["six.example."], 300)
            }
            "six.example" => Reply::Addresses6(vec!["2001:db8::7".parse().unwrap()], 300),
            _ => Reply::NotListed(300),
        })
        .await;
        let names = names(&double);
        for (client, name) in [
            ("192.0.2.1", verified("one.example")),
            ("::ffff:192.0.2.1", verified("one.example")),
            ("192.0.2.2", HostName::Unavailable),
            ("192.0.2.3", verified("three.example")),
            ("192.0.2.4", HostName::Temporary),
            ("192.0.2.5", HostName::Temporary),
            ("192.0.2.6", HostName::Unavailable),
            ("192.0.2.7", HostName::Unavailable),
            ("192.0.2.8", HostName::Unavailable),
            ("2001:db8::7", verified("six.example")),
        ] {
            assert_eq!(names.of(client.parse().unwrap()).await, name, "{client}");
        }
        assert_eq!(double.count("1.2.0.192.in-addr.arpa"), 1, "it is remembered");
    }

    #[tokio::test]
    async fn who_asks_waits_no_longer_than_the_deadline() {
        let permits = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&permits);
        let double = Double::start(move |name| match name {
            "lost.example" => Reply::Addresses(vec![[192, 0, 2, 1]], 300),
            "1.2.0.192.in-addr.arpa" => {
                Reply::Held(Arc::clone(&held), Box::new(Reply::Names(vec!["lost.example."], 300)))
            }
            "3.2.0.192.in-addr.arpa" => Reply::Names(vec!["a.example.", "b.example.", "c.example."], 300),
            _ => Reply::Silence,
        })
        .await;
        let (names, begun) = (names(&double), Instant::now());
        assert_eq!(names.of([192, 0, 2, 2].into()).await, HostName::Temporary);
        assert!(begun.elapsed() < DEADLINE + Duration::from_secs(5));
        assert_eq!(double.count("2.2.0.192.in-addr.arpa"), TRIES, "a datagram can get lost");
        let (name, ()) = tokio::join!(names.of([192, 0, 2, 1].into()), async {
            double.until("1.2.0.192.in-addr.arpa", TRIES).await;
            permits.add_permits(TRIES);
        });
        assert_eq!(name, verified("lost.example"));
        // Each of its names is asked about in vain: nobody waits for all of them.
        let begun = Instant::now();
        assert_eq!(names.of([192, 0, 2, 3].into()).await, HostName::Temporary);
        assert!(begun.elapsed() < DEADLINE * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn there_is_a_cap_on_how_many_are_asked_about() {
        let double = Double::start(|_| Reply::NotListed(300)).await;
        let names = names(&double);
        let all = Arc::clone(&names.0.places).try_acquire_many_owned(u32::try_from(AT_ONCE).unwrap()).unwrap();
        assert_eq!(names.of([192, 0, 2, 1].into()).await, HostName::Temporary);
        assert!(double.asked().is_empty());
        drop(all);
        assert_eq!(names.of([192, 0, 2, 1].into()).await, HostName::Unavailable);
    }
}

//! The shared store: several hosts count, decide and remember together, through Valkey or Redis.
//!
//! # What it promises
//!
//! - Nobody waits for it longer than [`Settings::deadline`], and nobody waits at all once it has failed: verbs answer
//!   [`Away`](super::store::Away) at once until it has been seen to answer again. The caller then decides by what it knows.
//! - What a host changes reaches the others well within a second: it is put into the store and told on a channel. What is
//!   changed or counted while the store is away waits, bounded, and is made good for when it is back.
//! - A host that comes back hears of all decisions, those that were lifted included, for eight days. A store that lost
//!   everything is filled again from what the hosts hold.
//! - Each verb is one Lua script with one key, which does to the line what the value of the same name does in
//!   [`crate::policy`], number for number, and tells the other hosts: so they hear of changes in the order of things.
//!
//! # How
//!
//! [`Shared::open`] starts a task on the runtime that calls it (`attend`), which connects, listens, sends what waits in
//! the `queue` and looks after the store; it ends when the handle is dropped. Verbs use its connection from whatever
//! runtime they are called on. The near copy is the [`Mirror`]: it is the host's own ledger, and not known here.
//!
//! A failure of one that was already under way is not repeated: it may have arrived. So a strike is never counted twice,
//! and at most those are lost that were under way when the store failed. What only sets something is sent again.
//!
//! # What is kept there
//!
//! | key | what |
//! | --- | --- |
//! | `<prefix>:tally:<client>` | what is counted of a client |
//! | `<prefix>:account:<digest>` | what is counted of an account |
//! | `<prefix>:network:<cidr>` | what is counted of a network |
//! | `<prefix>:standing:<client>` | until when the passes of a client count |
//! | `<prefix>:{decisions}` | a hash: bans and what else is decided, by network |
//! | `<prefix>:filled` | whether this is still the store that was filled |
//! | `<prefix>:pulse:<node>` | written to see whether it takes anything |
//! | `<prefix>:news` | the channel |

mod attend;
mod link;
mod mirror;
mod news;
mod queue;
mod script;
mod settings;
mod state;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::link::Link;
use self::news::client_of;
use self::queue::{Act, Queue};
use self::script::{Call, Keys, Lines};
use self::state::{Counts, add_one};
use super::store::{Answer, Away, Digest, Store};
use crate::addr::ClientKey;
use crate::clock::Clock;
use crate::policy::ban::{Decision, What};
use crate::policy::guard::{Account, Failed, Network, Rules, Sentence, Strike, Tally};
use crate::screen::{Standing, Tests};

pub use mirror::{Mirror, Overdue};
pub use queue::Change;
pub use settings::{Address, Kind, Secret, Settings, Tls};
pub use state::{BOUNDS, State};

/// Of how many networks it is remembered that something was lifted, and when.
const LIFTED_MOST: usize = 65_536;

/// How long [`Shared::close`] tries to send what still waits.
const CLOSING: Duration = Duration::from_secs(2);

/// The handle of the shared store. Cheap to share behind an `Arc`; dropping it ends its task.
pub struct Shared {
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

/// What verbs and the task share. The locks are held for moments.
struct Inner {
    settings: Settings,
    /// The name of this host, and a number of this process: two hosts of one name hear one another all the same.
    node: String,
    keys: Keys,
    clock: Clock,
    mirror: Arc<dyn Mirror>,
    circuit: Mutex<Circuit>,
    /// Told when a verb has failed.
    tripped: Notify,
    queue: Mutex<Queue>,
    /// Told when something has come into the queue.
    waiting: Notify,
    /// Whether it is known what was lifted while we were away: what is owed waits for it.
    is_settled: AtomicBool,
    /// What was lifted, and when, in milliseconds: what was done before is not counted any more.
    lifted: Mutex<HashMap<IpNet, u64>>,
    counts: Counts,
    stop: CancellationToken,
}

/// Whether verbs go to the store.
struct Circuit {
    /// The connection, if there is one.
    link: Option<Link>,
    /// Whether a verb has failed since the store was last seen to answer.
    is_open: bool,
    /// Since when verbs are answered, or not.
    since: crate::time::Timestamp,
    trouble: Option<String>,
}

/// A verb that was not answered.
enum Refused {
    /// It was not sent.
    Unsent,
    /// It may have arrived.
    Unsure,
}

impl Shared {
    /// Starts to connect, on the runtime that calls this. Until that has come about the store is away.
    pub fn open(settings: Settings, mirror: Arc<dyn Mirror>, clock: Clock) -> Self {
        let run = RandomState::new().hash_one(clock.now().millis()) & 0xffff_ffff;
        let node = format!("{}.{run:08x}", settings.node);
        let circuit = Circuit { link: None, is_open: false, since: clock.now(), trouble: None };
        let inner = Arc::new(Inner {
            keys: Keys::new(settings.prefix.clone(), node.clone()),
            node,
            queue: Mutex::new(Queue::new(settings.queue)),
            settings,
            clock,
            mirror,
            circuit: Mutex::new(circuit),
            tripped: Notify::new(),
            waiting: Notify::new(),
            is_settled: AtomicBool::new(false),
            lifted: Mutex::default(),
            counts: Counts::default(),
            stop: CancellationToken::new(),
        });
        let task = tokio::spawn(attend::attend(Arc::clone(&inner)));
        Self { inner, task: Mutex::new(Some(task)) }
    }

    /// Shares a change without waiting: it is sent soon, or when the store is back.
    pub fn share(&self, change: Change) {
        self.inner.put(change);
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.inner.state()
    }

    /// Sends what still waits, if the store takes it in short time, and ends the connection.
    pub async fn close(&self) {
        let task = self.task.lock().take();
        self.inner.stop.cancel();
        if let Some(mut task) = task
            && timeout(CLOSING, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Inner {
    fn put(&self, change: Change) {
        let lifted = match &change {
            Change::Decision(network, decision) => self.unbanned(*network, decision),
            _ => None,
        };
        {
            let mut queue = self.queue.lock();
            queue.put(change);
            lifted.into_iter().for_each(|client| queue.put(Change::Forgotten(client)));
        }
        self.waiting.notify_one();
    }

    fn owe(&self, client: ClientKey, act: Act, rules: &Rules, now: u32, dice: u32) {
        self.queue.lock().owe(client, act, rules, now, dice);
        self.waiting.notify_one();
    }

    /// Whether `decision` lifts something, which had not been heard of.
    fn is_lifted_anew(&self, network: IpNet, decision: &Decision) -> bool {
        if decision.what != What::Lifted {
            return false;
        }
        let network = client_of(network).map_or(network, ClientKey::network);
        let begin = decision.begin.millis();
        let mut lifted = self.lifted.lock();
        if lifted.len() >= LIFTED_MOST && !lifted.contains_key(&network) {
            // What is let go here is heard of once more, if at all.
            let mut begins: Vec<u64> = lifted.values().copied().collect();
            let (_, middle, _) = begins.select_nth_unstable(LIFTED_MOST / 2);
            let middle = *middle;
            lifted.retain(|_, begin| *begin > middle);
        }
        let before = lifted.entry(network).or_insert(0);
        let is_new = begin > *before;
        *before = begin.max(*before);
        is_new
    }

    /// Whether `decision` lifts something, and that has been heard of.
    fn is_known_lifted(&self, network: IpNet, decision: &Decision) -> bool {
        let network = client_of(network).map_or(network, ClientKey::network);
        let known = self.lifted.lock().get(&network).copied();
        decision.what == What::Lifted && known.is_some_and(|begin| begin >= decision.begin.millis())
    }

    /// The client that `decision` unbans, if it was not known yet that it does.
    fn unbanned(&self, network: IpNet, decision: &Decision) -> Option<ClientKey> {
        self.is_lifted_anew(network, decision).then(|| client_of(network)).flatten()
    }

    /// Whether what `client` did at `now` has been forgiven since.
    fn is_forgiven(&self, client: ClientKey, now: u32) -> bool {
        let lifted = self.lifted.lock();
        let is_later = |network| lifted.get(&network).is_some_and(|begin| *begin >= u64::from(now) * 1000);
        is_later(client.network()) || is_later(client.neighbourhood())
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.counts.write(&mut state);
        {
            let queue = self.queue.lock();
            (state.queue, state.lost) = (u64::try_from(queue.len()).unwrap_or(u64::MAX), queue.lost());
        }
        let circuit = self.circuit.lock();
        (state.connected, state.since) = (circuit.link.is_some() && !circuit.is_open, circuit.since);
        state.trouble.clone_from(&circuit.trouble);
        state
    }

    /// The connection, if verbs go to the store.
    fn link(&self) -> Option<Link> {
        let circuit = self.circuit.lock();
        circuit.link.clone().filter(|_| !circuit.is_open)
    }

    /// A verb has failed: nobody else waits until the store was seen to answer.
    fn trip(&self, trouble: &str) {
        let mut circuit = self.circuit.lock();
        if circuit.link.is_some() && !circuit.is_open {
            (circuit.is_open, circuit.since) = (true, self.clock.now());
            circuit.trouble = Some(trouble.to_owned());
            self.tripped.notify_one();
        }
    }

    /// Runs a verb under the deadline.
    async fn call<T>(&self, call: Call, read: impl FnOnce(&Lines) -> Option<T>) -> Result<T, Refused> {
        let Some(mut link) = self.link() else {
            add_one(&self.counts.away);
            return Err(Refused::Unsent);
        };
        let begin = Instant::now();
        let refused = |trouble: &str| {
            add_one(&self.counts.away);
            self.trip(trouble);
            Refused::Unsure
        };
        match timeout(self.settings.deadline, call.run::<Lines>(&mut link)).await {
            Ok(Ok(lines)) => {
                self.counts.answered(begin.elapsed());
                read(&lines).ok_or_else(|| {
                    add_one(&self.counts.foreign);
                    Refused::Unsure
                })
            }
            Ok(Err(trouble)) => Err(refused(&trouble.to_string())),
            Err(_) => Err(refused("it did not answer in time")),
        }
    }

    /// What is not done is done later: it only sets something, so that twice does no harm.
    fn or_later<T>(&self, answer: Result<T, Refused>, change: Change) -> Answer<T> {
        answer.map_err(|_| {
            self.put(change);
            Away
        })
    }

    /// What becomes of something that could not be counted there.
    fn owed(&self, refused: &Refused, client: ClientKey, act: Act, rules: &Rules, (now, dice): (u32, u32)) -> Away {
        match (refused, act) {
            (Refused::Unsure, Act::Strike(_) | Act::Offend(_) | Act::AccountFailed(_)) => self.queue.lock().lose(1),
            _ => self.owe(client, act, rules, now, dice),
        }
        Away
    }
}

impl Store for Shared {
    async fn strike(
        &self,
        client: ClientKey,
        strike: Strike,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> Answer<(Tally, Option<Sentence>)> {
        let call = Call::strike(&self.inner.keys, client, strike, rules, (now, dice));
        let answer = self.inner.call(call, script::sentenced::<Tally>).await;
        answer.map_err(|refused| self.inner.owed(&refused, client, Act::Strike(strike), rules, (now, dice)))
    }

    async fn logged_in(&self, client: ClientKey, rules: &Rules, now: u32) -> Answer<Tally> {
        let call = Call::logged_in(&self.inner.keys, client, rules, now);
        let answer = self.inner.call(call, script::tally).await;
        answer.map_err(|refused| self.inner.owed(&refused, client, Act::LoggedIn, rules, (now, 0)))
    }

    async fn account_failed(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> Answer<(Account, Failed)> {
        let call = Call::account(&self.inner.keys, account, client, rules, (now, true));
        let answer = self.inner.call(call, script::account_failed).await;
        answer.map_err(|refused| self.inner.owed(&refused, client, Act::AccountFailed(account), rules, (now, 0)))
    }

    async fn account_logged_in(&self, account: Digest, client: ClientKey, rules: &Rules, now: u32) -> Answer<Account> {
        let call = Call::account(&self.inner.keys, account, client, rules, (now, false));
        let answer = self.inner.call(call, script::account).await;
        answer.map_err(|refused| self.inner.owed(&refused, client, Act::AccountLoggedIn(account), rules, (now, 0)))
    }

    async fn offend(
        &self,
        network: IpNet,
        client: ClientKey,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> Answer<(Network, Option<Sentence>)> {
        let call = Call::offend(&self.inner.keys, network, client, rules, (now, dice));
        let answer = self.inner.call(call, script::sentenced::<Network>).await;
        answer.map_err(|refused| self.inner.owed(&refused, client, Act::Offend(network), rules, (now, dice)))
    }

    async fn remember(&self, client: ClientKey, standing: Standing, now: u32) -> Answer<Standing> {
        let call = Call::standing(&self.inner.keys, client, Tests::NONE, &standing, now);
        let answer = self.inner.call(call, script::standing).await;
        self.inner.or_later(answer, Change::Standing(client, standing))
    }

    async fn revoke(&self, client: ClientKey, tests: Tests, now: u32) -> Answer<Standing> {
        let call = Call::standing(&self.inner.keys, client, tests, &Standing::stranger(), now);
        let answer = self.inner.call(call, script::standing).await;
        self.inner.or_later(answer, Change::Revoked(client, tests))
    }

    async fn decide(&self, network: IpNet, decision: Decision) -> Answer<Decision> {
        let call = Call::decide(&self.inner.keys, network, &decision);
        let answer = self.inner.call(call, script::decided).await;
        if let Ok((_, true)) = answer
            && let Some(client) = self.inner.unbanned(network, &decision)
        {
            self.inner.put(Change::Forgotten(client));
        }
        self.inner.or_later(answer.map(|(there, _)| there), Change::Decision(network, decision))
    }

    async fn forget(&self, client: ClientKey) -> Answer<()> {
        let answer = self.inner.call(Call::forget(&self.inner.keys, client), |_| Some(())).await;
        self.inner.or_later(answer, Change::Forgotten(client))
    }
}

//! The stages against hostile and odd clients.
//!
//! A [`Post`] is a house with one gate; [`client::Client`] and [`mta::Mta`] are the doubles on either side of it. Where
//! only bytes and time matter, a dialogue runs over a stream in memory on a clock that stands still; where the kernel has
//! a say (peeking, resets, the backend), over loopback.

mod bans;
mod client;
mod dialogue;
mod handoff;
mod introduction;
mod leaving;
mod lot;
mod million;
mod mta;
mod parked;
mod renewal;
mod rulings;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pregreet::Lot;
use super::recall::{Recall, recall};
use super::stranger::Stranger;
use super::{DialogueLimits, Door, Gate, Guest, House, Lane, Order, Scene, Settings, Stress};
use crate::backend::{self, Announce, Backend};
use crate::clock::Clock;
use crate::dnsbl::{Answer, Dnsbl};
use crate::journal::{Journal, Recognition, Target, VisitIds};
use crate::ledger::{self, Ledger};
use crate::metrics::Metrics;
use crate::policy::access::AccessList;
use crate::policy::quota::{self, Sessions};
use crate::proxy_header::Version;
use crate::relay::{self, BareNewline, Timeouts};
use crate::screen::helo::{Bots, Names};
use crate::screen::{self, Action, Greet, PerTest, Rule, Screen, Test, Thresholds};
use crate::smtp::ehlo::Offer;
use crate::smtp::reply::{self, Parsed};
use crate::time::Timestamp;

/// Long enough for loopback on a busy machine: whoever waits that long waits in vain.
const PATIENCE: Duration = Duration::from_secs(20);

/// A wait that no test sees the end of.
const LONG: Duration = Duration::from_secs(600);

const HOUR: Duration = Duration::from_secs(3600);

/// When all of it happens.
const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

/// A gate on port 25 as it is out of the box, but for the lists; its backend is at `backend`.
fn settings(backend: SocketAddr) -> Settings {
    let rules = PerTest::new(Test::ALL.map(|test| Rule { action: usual(test), ttl: HOUR }));
    Settings {
        auth_from: None,
        name: "mx".into(),
        scene: Scene::Mx,
        listen: Vec::new(),
        proxies: None,
        hostname: "mx.example.com".into(),
        contact: Some("see https://example.com/blocked".into()),
        screen: Arc::new(screen::Settings {
            observe: false,
            rules,
            greet: Greet { minimum: LONG, maximum: LONG, stress: LONG, teaser: None },
            thresholds: Thresholds { block: 3, allow: Some(-3), ttl: (Duration::from_secs(60), HOUR) },
            names: Names {
                bots: Bots::compile(vec!["ylmf-pc".into()]).unwrap(),
                own: vec!["mx.example.com".into()],
                own_addresses: Vec::new(),
            },
        }),
        access: Arc::new(AccessList::new(Vec::new())),
        limits: quota::Settings::plain(50, 10_000),
        tls: super::Tls::EndToEnd,
        backend: Arc::new(backend::Settings {
            address: backend.to_string(),
            hostname: "mx.example.com".into(),
            announce: Announce::Proxy(Version::V1),
            tls: None,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: PATIENCE,
            probe_interval: LONG,
        }),
        relay: Arc::new(relay::Settings {
            auth: false,
            bare_newline: BareNewline::Normalize,
            max_errors: 20,
            limits: relay::Limits::default(),
            timeouts: Timeouts {
                command: Duration::from_secs(300),
                data: Duration::from_secs(180),
                reply: Duration::from_secs(300),
                end_of_data: Duration::from_secs(600),
                write: Duration::from_secs(180),
            },
        }),
        dialogue: DialogueLimits {
            commands: 50,
            errors: 20,
            line: 2048,
            command_timeout: Duration::from_secs(300),
            stress_command_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(600),
        },
    }
}

fn usual(test: Test) -> Action {
    match test {
        Test::Pregreet | Test::HeloName | Test::NotSmtp => Action::Drop,
        Test::Dnsbl | Test::HeloSyntax | Test::Pipelining | Test::AuthNotOffered => Action::Enforce,
        Test::BareNewline => Action::Observe,
    }
}

/// Changes the screen of `settings`.
fn screened(settings: &mut Settings, change: impl FnOnce(&mut screen::Settings)) {
    change(Arc::make_mut(&mut settings.screen));
}

impl super::pregreet::Lot {
    /// Time has passed: sees to all whose time has come.
    fn expire_all(&mut self, now: Instant) {
        while self.expire(now) {}
    }
}

/// Sets what failures of `tests` lead to.
fn act(settings: &mut Settings, tests: &[Test], action: Action) {
    screened(settings, |screen| tests.iter().for_each(|&test| screen.rules[test].action = action));
}

/// Leaves the tests that are made before the greeting, and no other.
fn only_early(settings: &mut Settings) {
    let deep: Vec<Test> = Test::ALL.into_iter().filter(|test| !test.is_early()).collect();
    act(settings, &deep, Action::Off);
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// An EHLO reply, as a backend reads it out of what it is given here.
fn offer(reply: &str) -> Offer {
    let Parsed::Complete(reply) = reply::parse(reply.as_bytes()) else { panic!("{reply}") };
    Offer::read(&reply)
}

/// A house with one gate.
struct Post {
    house: Arc<House>,
    gate: Arc<Gate>,
}

fn rulings() -> super::Rulings {
    let settings = super::rulings::Settings::default();
    super::Rulings::quiet(settings, Metrics::new().bans().clone())
}

impl Post {
    fn new(settings: Settings) -> Self {
        Self::with_lists(settings, None)
    }

    fn with_lists(settings: Settings, dnsbl: Option<Dnsbl>) -> Self {
        let house = Arc::new(House {
            clock: Clock::held(NOW),
            ledger: Arc::new(Ledger::open(ledger::Settings { entries: 100, ..ledger::Settings::default() })),
            rulings: rulings(),
            shared: None,
            sessions: Sessions::new(),
            stress: Stress::new(),
            journal: Journal::open(Target::Memory).unwrap(),
            metrics: Arc::new(Metrics::new()),
            ids: VisitIds::seeded(7),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let gate = Arc::new(Gate {
            name: settings.name.as_str().into(),
            backend: Backend::new(settings.backend.as_ref().clone()),
            metrics: house.metrics.gate(&settings.name),
            dnsbl,
            names: None,
            settings,
        });
        Self { house, gate }
    }

    fn guest(&self, client: &str) -> Guest {
        Guest {
            id: self.house.ids.next(),
            gate: Arc::clone(&self.gate),
            client: client.parse().unwrap(),
            local: "198.51.100.25:25".parse().unwrap(),
            proxy: None,
            arrived: Instant::now(),
            begin: self.house.clock.now(),
            recognition: Recognition::Stranger,
            place: None,
            presence: None,
        }
    }

    /// A stranger who has taken a place, and who has still to wait.
    fn arriving(&self) -> (Guest, Screen) {
        let mut guest = self.guest("192.0.2.7:40000");
        let Recall::Stranger(place, screen) = recall(&self.house, &self.gate, guest.client.ip()) else {
            panic!("it is no stranger")
        };
        guest.place = Some(place);
        guest.presence = Some(self.gate.metrics.present(crate::metrics::State::Parked));
        (guest, screen)
    }

    /// A lot that is driven by hand, the poll that it is registered with, and where the lists' answers come out.
    fn lot(&self) -> (Lot, mio::Poll, mpsc::UnboundedReceiver<Answer>) {
        let poll = mio::Poll::new().unwrap();
        let (to, answers) = mpsc::unbounded_channel();
        (Lot::new(Arc::clone(&self.house), poll.registry().try_clone().unwrap(), to), poll, answers)
    }

    /// A stranger at the end of a wait in which nothing happened.
    fn stranger(&self) -> Stranger {
        let (guest, mut screen) = self.arriving();
        screen.waited();
        Stranger { guest, screen, hurried: false, teased: false, said: None }
    }

    /// Whether the client of [`Self::arriving`] would be handed off at once now.
    fn is_known(&self) -> bool {
        let client = "192.0.2.7".parse().unwrap();
        match recall(&self.house, &self.gate, client) {
            Recall::Known(..) => true,
            Recall::Stranger(..) => false,
            other => panic!("{other:?}"),
        }
    }

    /// The tests that are still due of the client at `ip`.
    fn due(&self, ip: &str) -> Vec<Test> {
        let now = self.house.clock.now();
        let standing = self.house.ledger.recall(crate::addr::ClientKey::of(ip.parse().unwrap()), now);
        Screen::open(self.gate.settings.screen.clone(), standing, now).due().iter().collect()
    }

    /// Opens the gate's door in a lane.
    fn open(&self) -> OpenPost {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(ArcSwap::new(Arc::clone(&self.gate)));
        let mut lane = Lane::new(Arc::clone(&self.house)).unwrap();
        lane.open(Door { gate, listener: mio::net::TcpListener::from_std(listener), local: address }).unwrap();
        let (orders, receiver) = mpsc::channel(4);
        OpenPost { address, orders, lane: tokio::spawn(lane.run(receiver)) }
    }

    fn records(&self) -> Vec<Value> {
        self.house.journal.records().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until `count` visits have ended.
    async fn departed(&self, count: usize) -> Vec<Value> {
        until("departures", || self.house.journal.records().len() >= count).await;
        self.all_is_given_back().await;
        let records = self.records();
        assert_eq!(records.len(), count, "one record for each connection: {records:?}");
        records
    }

    /// The one visit that there was.
    async fn the_record(&self) -> Value {
        self.departed(1).await.remove(0)
    }

    /// Nothing is left of the visits but their records.
    async fn all_is_given_back(&self) {
        until("tasks to end", || self.house.tasks.is_empty()).await;
        assert_eq!(self.house.sessions.open(), 0, "a place was not given back");
        let text = self.house.metrics.text();
        let open: Vec<&str> = text.lines().filter(|line| line.starts_with("gatepost_sessions{")).collect();
        assert!(open.iter().all(|line| line.ends_with(" 0")), "{open:?}");
    }
}

/// A post whose door is open.
struct OpenPost {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    lane: JoinHandle<()>,
}

impl OpenPost {
    /// Stops the post, and sees its lane end.
    async fn close(self, post: &Post) {
        post.house.draining.cancel();
        drop(self.orders);
        timeout(PATIENCE, self.lane).await.expect("the lane goes on").unwrap();
    }
}

/// Waits for something that nobody tells of.
async fn until(what: &str, is: impl Fn() -> bool) {
    let come = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    // Not on tokio's clock, which a test may hold.
    let began = std::time::Instant::now();
    tokio::pin!(come);
    std::future::poll_fn(|cx| {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        come.as_mut().poll(cx)
    })
    .await;
}

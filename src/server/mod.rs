//! The daemon: gates opened, lanes run, the file read again.
//!
//! Every lane is a thread with a runtime of its own, and its own socket at every listening address. A further thread, the
//! one that starts the server, looks after what all share: probes of the backends, the admin address, signals.
//!
//! | file | what it is about |
//! | --- | --- |
//! | this | starting, going over to another file, stopping; gates, doors and lanes |
//! | `certificates` | the gates' certificates |
//! | `keeping` | what was remembered and decided, and whom nothing bans |
//! | `figures` | who tells which figures |

mod certificates;
mod figures;
mod keeping;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::keeping::{exempt, keep};
use crate::admin::{self, Hindrance, Readiness};
use crate::backend::{self, Announce, Backend};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::dns::{self, Names};
use crate::dnsbl::{self, Dnsbl};
use crate::firewall::Firewall;
use crate::journal::{Journal, VisitIds};
use crate::ledger::shared::Shared;
use crate::ledger::{Ledger, embedded};
use crate::listener::{self, CannotListen};
use crate::lists::Lists;
use crate::metrics::Metrics;
use crate::policy::quota::Sessions;
use crate::session::rulings::Rulings;
use crate::session::{Afar, Door, Gate, House, Lane, Order, Settings, Stress};

/// Every how often the readiness is told whether the backends are there.
const LOOK: Duration = Duration::from_millis(100);

/// How long the ledger's file has for what changed last.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// How long visits that are cut off have for their departure.
const DEPARTURE: Duration = Duration::from_secs(1);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// An address cannot be listened at.
    #[error(transparent)]
    Listen(#[from] CannotListen),
    /// Clients cannot be announced in the way that the file says.
    #[error(transparent)]
    Announce(#[from] backend::NotPermitted),
    /// The lists cannot be asked.
    #[error(transparent)]
    Dnsbl(#[from] dnsbl::Error),
    /// The names of clients cannot be asked for.
    #[error(transparent)]
    Names(#[from] dns::names::Error),
    /// What was remembered cannot be read, or not be kept.
    #[error(transparent)]
    Kept(#[from] embedded::CannotOpen),
    /// A lane cannot be run.
    #[error("cannot start a thread: {0}")]
    Lane(#[from] std::io::Error),
}

/// A running server. [`stop`](Self::stop) it: dropping it leaves the lanes running.
#[derive(Debug)]
pub struct Server {
    house: Arc<House>,
    config: Config,
    doors: Vec<OpenDoor>,
    lists: Option<Dnsbl>,
    names: Option<Names>,
    lanes: Vec<LaneThread>,
    backends: Vec<(Arc<Backend>, AbortHandle)>,
    readiness: Readiness,
    control: Arc<Control>,
    watch: Option<AbortHandle>,
    certificates: Option<AbortHandle>,
    keeper: Option<AbortHandle>,
    store: Option<Arc<embedded::Store>>,
}

/// A listening address, open in every lane.
#[derive(Debug)]
struct OpenDoor {
    /// As the file has it; the port may be 0.
    asked: SocketAddr,
    /// As it was bound.
    bound: SocketAddr,
    /// The gate behind it.
    gate: Arc<ArcSwap<Gate>>,
}

/// An address that has been bound and is not open yet.
struct Bound {
    asked: SocketAddr,
    listeners: Vec<std::net::TcpListener>,
}

#[derive(Debug)]
struct LaneThread {
    orders: mpsc::Sender<Order>,
    thread: thread::JoinHandle<()>,
}

impl Server {
    /// Starts what `config` says; within a tokio runtime, which has to be driven for as long as the server runs.
    pub async fn start(config: Config, journal: Journal, clock: Clock) -> Result<Self, CannotStart> {
        let now = clock.now();
        let metrics = Arc::new(Metrics::new());
        let firewall = Firewall::open(config.firewall.clone(), clock.clone());
        let imported = Lists::open(config.lists.clone()).await;
        let ledger = Arc::new(Ledger::open(config.ledger));
        let store = keep(&ledger, config.kept.find(), &clock)?;
        let afar = Arc::new(Afar::default());
        let shared = config.shared.clone().map(|settings| Shared::open(settings, afar.clone(), clock.clone()));
        let house = Arc::new(House {
            shared,
            rulings: Rulings::new(config.rulings.clone(), firewall, imported, metrics.bans().clone()),
            clock,
            ledger,
            sessions: Sessions::new(),
            stress: Stress::new(),
            journal,
            metrics,
            ids: VisitIds::new(now),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        afar.reaches(&house);
        let count = config.lanes.or_else(|| thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
        let readiness = Readiness::new();
        let hindrances = {
            let readiness = readiness.clone();
            move || readiness.hindrances().iter().map(ToString::to_string).collect()
        };
        let mut server = Self {
            control: Arc::new(Control::new(Arc::clone(&house), hindrances)),
            house,
            doors: Vec::new(),
            lists: None,
            names: None,
            lanes: Vec::new(),
            backends: Vec::new(),
            readiness,
            watch: None,
            certificates: None,
            keeper: None,
            store: store.map(Arc::new),
            config: config.clone(),
        };
        backend::permitted(config.gates.iter().map(|gate| &*gate.backend))?;
        let lists = server.open_lists(config.dnsbl.as_ref())?;
        for index in 0..count.max(1) {
            server.lanes.push(LaneThread::start(Arc::clone(&server.house), index)?);
        }
        let opened = server.adopt(&config, lists).await;
        if let Err(error) = opened {
            server.stop(Duration::ZERO).await;
            return Err(error);
        }
        server.keep_figures();
        server.keep_house();
        server.readiness.set(Hindrance::NotListening, false);
        Ok(server)
    }

    /// Where the gates listen: name, and the address with the port that was bound.
    pub fn addresses(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        self.doors.iter().map(|door| (door.gate.load().name.to_string(), door.bound))
    }

    /// What all visits share.
    pub fn house(&self) -> &Arc<House> {
        &self.house
    }

    /// Whether it is ready to serve, and if not, why.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// What operators can ask and change.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Serves metrics, health and the API on `listener` until the server stops.
    pub fn serve_admin(&self, listener: tokio::net::TcpListener) {
        let pages = self.pages();
        // While sessions are drained, whoever watches is to see that; so it goes on until those are cut off.
        let cut = self.house.cut.clone();
        tokio::spawn(async move { admin::serve(listener, pages, cut.cancelled_owned()).await });
    }

    /// Serves the same on a socket, which goes when the server stops.
    pub fn serve_socket(&self, listener: tokio::net::UnixListener, socket: admin::socket::Socket) {
        let pages = self.pages();
        let cut = self.house.cut.clone();
        tokio::spawn(async move {
            let served = admin::serve_socket(listener, pages, cut.cancelled_owned()).await;
            drop(socket);
            served
        });
    }

    fn pages(&self) -> axum::Router {
        let pages = admin::pages(Arc::clone(&self.house.metrics), self.readiness.clone());
        pages.merge(admin::api::routes(Arc::clone(&self.control)))
    }

    /// The backends of the gates.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().map(|(backend, _)| backend)
    }

    /// The configuration that is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Goes over to another configuration. Visits end under the settings that they began with; the next connection gets
    /// the new ones. If it fails, nothing has changed.
    pub async fn reload(&mut self, config: Config) -> Result<(), CannotStart> {
        backend::permitted(config.gates.iter().map(|gate| &*gate.backend))?;
        // Lists that are asked as before keep what they have answered.
        let lists = match &self.lists {
            Some(lists) if Some(lists.settings()) == config.dnsbl.as_ref() => self.lists.clone(),
            _ => self.open_lists(config.dnsbl.as_ref())?,
        };
        for (what, same) in [
            ("ledger", self.config.ledger == config.ledger),
            ("admin", self.config.admin == config.admin),
            ("journal", self.config.journal == config.journal && self.config.recent == config.recent),
            ("control.socket", self.config.control.socket == config.control.socket),
            ("control.group", self.config.control.group == config.control.group),
            ("lanes", self.config.lanes == config.lanes),
            ("shared", self.config.shared == config.shared),
            ("ledger.path", self.config.kept == config.kept),
            ("bans.nftables, bans.export and bans.command", self.config.firewall == config.firewall),
        ] {
            if !same {
                tracing::warn!("the change of `{what}` takes effect at the next restart");
            }
        }
        self.adopt(&config, lists).await?;
        if self.config.lists != config.lists {
            self.house.rulings.set_lists(Lists::open(config.lists.clone()).await);
        }
        self.house.rulings.set(config.rulings.clone());
        self.config = config;
        Ok(())
    }

    /// Stops: nobody new is let in, those inside are told, and after `patience` whoever is still there is cut off. The
    /// lanes' threads are gone when this returns.
    pub async fn stop(self, patience: Duration) {
        self.readiness.set(Hindrance::Draining, true);
        self.house.tasks.close();
        self.house.draining.cancel();
        let until = Instant::now() + patience;
        for probe in self
            .backends
            .iter()
            .map(|(_, probe)| probe)
            .chain(&self.watch)
            .chain(&self.certificates)
            .chain(&self.keeper)
        {
            probe.abort();
        }
        let _ = tokio::time::timeout_at(until, self.house.tasks.wait()).await;
        let left = self.house.sessions.open();
        if left > 0 {
            tracing::warn!("{left} sessions did not end in time; they are cut off");
        }
        self.house.cut.cancel();
        for lane in self.lanes {
            drop(lane.orders);
            let _ = tokio::task::spawn_blocking(move || lane.thread.join()).await;
        }
        self.house.rulings.firewall().stop().await;
        if let Some(shared) = &self.house.shared {
            shared.close().await;
        }
        if let Some(store) = self.store {
            let stop = move || Arc::into_inner(store).is_none_or(|store| store.stop(LAST_WRITE));
            let written = tokio::task::spawn_blocking(stop).await;
            if !matches!(written, Ok(true)) {
                tracing::error!("what changed last in the ledger could not be written");
            }
        }
        self.house.journal.flush(Duration::from_secs(2));
    }

    /// Who knows the host names of clients: nobody, where no backend is told of them. What is known already is kept.
    fn open_names(&self, config: &Config) -> Result<Option<Names>, CannotStart> {
        if config.gates.iter().all(|gate| gate.backend.announce != Announce::Xclient) {
            return Ok(None);
        }
        match &self.names {
            Some(names) if *names.settings() == config.dns => Ok(Some(names.clone())),
            _ => Ok(Some(Names::open(config.dns.clone())?)),
        }
    }

    fn open_lists(&self, settings: Option<&dnsbl::Settings>) -> Result<Option<Dnsbl>, CannotStart> {
        Ok(settings.cloned().map(Dnsbl::open).transpose()?)
    }

    /// Makes the gates and doors those of `config`. New sockets are bound first, for that can fail.
    async fn adopt(&mut self, config: &Config, lists: Option<Dnsbl>) -> Result<(), CannotStart> {
        let names = self.open_names(config)?;
        let mut bound = Vec::new();
        for asked in config.gates.iter().flat_map(|gate| gate.listen.iter().copied()) {
            if asked.port() == 0 || !self.doors.iter().any(|door| door.asked == asked) {
                let beside_ours = self.doors.iter().any(|door| listener::overlap(door.bound, asked));
                bound.push(Bound { asked, listeners: listener::open(asked, self.lanes.len(), beside_ours)? });
            }
        }
        self.lists = lists;
        self.names = names;
        self.show_lists();
        let places = config.gates.iter().map(|gate| gate.limits.open_to_strangers()).max();
        self.house.stress.set_places(places.unwrap_or_default(), self.house.sessions.open());

        let mut backends = Vec::new();
        let mut gates = Vec::new();
        for settings in &config.gates {
            let backend = self.backend(settings, &mut backends);
            let name = settings.name.as_str().into();
            let metrics = self.house.metrics.gate(&settings.name);
            let dnsbl = self.lists.clone();
            let names = self.names.clone().filter(|_| settings.backend.announce == Announce::Xclient);
            gates.push(Arc::new(Gate { name, settings: settings.clone(), backend, dnsbl, names, metrics }));
        }
        for (_, probe) in std::mem::replace(&mut self.backends, backends) {
            probe.abort();
        }
        self.house.set_gates(&gates, exempt(&gates).await);
        self.hand_on_certificates(&gates);
        self.watch(gates.clone());
        self.control.set_gates(gates.clone());
        self.control.set_token(config.control.token.clone());
        self.tell_parts(config);
        self.keep_certificates(gates.clone());

        let behind = |asked: SocketAddr| gates.iter().find(|gate| gate.settings.listen.contains(&asked));
        let mut closing = Vec::new();
        self.doors.retain(|door| match behind(door.asked).filter(|_| door.asked.port() != 0) {
            Some(gate) => {
                door.gate.store(Arc::clone(gate));
                true
            }
            None => {
                closing.push(door.bound);
                false
            }
        });
        for address in closing {
            for lane in &self.lanes {
                let _ = lane.orders.send(Order::Close(address)).await;
            }
        }
        for Bound { asked, listeners } in bound {
            if let Some(gate) = behind(asked) {
                self.open_door(gate, asked, listeners).await;
            }
        }
        Ok(())
    }

    async fn open_door(&mut self, gate: &Arc<Gate>, asked: SocketAddr, listeners: Vec<std::net::TcpListener>) {
        let Some(bound) = listeners.first().and_then(|listener| listener.local_addr().ok()) else { return };
        let cell = Arc::new(ArcSwap::new(Arc::clone(gate)));
        for (lane, socket) in self.lanes.iter().zip(listeners) {
            let listener = mio::net::TcpListener::from_std(socket);
            let _ = lane.orders.send(Order::Open(Door { gate: Arc::clone(&cell), listener, local: bound })).await;
        }
        tracing::info!(gate = %gate.name, address = %bound, "listening");
        self.doors.push(OpenDoor { asked, bound, gate: cell });
    }

    /// Keeps the readiness up to date with whether the gates' backends are there.
    fn watch(&mut self, gates: Vec<Arc<Gate>>) {
        self.readiness.keep_backends(gates.iter().map(|gate| &gate.name));
        let readiness = self.readiness.clone();
        let look = move || gates.iter().for_each(|gate| readiness.set_backend(&gate.name, gate.backend.presence()));
        // At once: nobody is to be told that all is well before a backend has answered.
        look();
        let watch = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                look();
            }
        });
        if let Some(before) = self.watch.replace(watch.abort_handle()) {
            before.abort();
        }
    }

    /// The backend of a gate: the one that is there already, if it is spoken to in the same way.
    fn backend(&mut self, gate: &Settings, kept: &mut Vec<(Arc<Backend>, AbortHandle)>) -> Arc<Backend> {
        let same = |(backend, _): &(Arc<Backend>, AbortHandle)| *backend.settings() == *gate.backend;
        if let Some((backend, _)) = kept.iter().find(|entry| same(entry)) {
            return Arc::clone(backend);
        }
        if let Some(index) = self.backends.iter().position(same) {
            let (backend, probe) = self.backends.swap_remove(index);
            kept.push((Arc::clone(&backend), probe));
            return backend;
        }
        let backend = Backend::new(gate.backend.as_ref().clone());
        let probe = tokio::spawn(backend::keep_probing(Arc::clone(&backend), gate.hostname.clone()));
        kept.push((Arc::clone(&backend), probe.abort_handle()));
        backend
    }
}

impl LaneThread {
    fn start(house: Arc<House>, index: usize) -> std::io::Result<Self> {
        let (orders, receiver) = mpsc::channel(64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let lane = {
            let _inside = runtime.enter();
            Lane::new(Arc::clone(&house))?
        };
        // Counted among the visits: a lane can still make one on its way out.
        let counted = house.tasks.token();
        let thread = thread::Builder::new().name(format!("lane-{index}")).spawn(move || {
            runtime.block_on(async {
                lane.run(receiver).await;
                drop(counted);
                // The visits of this lane that have tasks of their own live on this thread too. Those that are cut off
                // depart all the same.
                let cut = async {
                    house.cut.cancelled().await;
                    tokio::time::sleep(DEPARTURE).await;
                };
                tokio::select! {
                    () = house.tasks.wait() => {}
                    () = cut => {}
                }
            });
        })?;
        Ok(Self { orders, thread })
    }
}

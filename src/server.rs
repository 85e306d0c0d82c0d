//! The daemon: gates opened, lanes run, the file read again.
//!
//! Every lane is a thread with a runtime of its own, and its own socket at every listening address. A further thread, the
//! one that starts the server, looks after what all share: probes of the backends, the admin address, signals.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addr;
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
use crate::ledger::{Kept, Kind, Ledger, embedded};
use crate::listener::{self, CannotListen};
use crate::lists::{ListState, Lists};
use crate::metrics::remembered::Remembered;
use crate::metrics::{CertificateState, Metrics, ZoneState};
use crate::policy::ban::What;
use crate::policy::quota::Sessions;
use crate::session::rulings::Rulings;
use crate::session::{Afar, Door, Gate, House, Lane, Order, Settings, Stress};
use crate::time::Timestamp;
use crate::tls::{Expiry, Keyring, Problems, Reload};

/// Every how often the readiness is told whether the backends are there.
const LOOK: Duration = Duration::from_millis(100);

/// Every how often the files of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(10);

/// Every how often what was decided is looked through for what has ended.
const SWEEP: Duration = Duration::from_secs(1);

/// Every how many sweeps the log is told of those who knocked: once a minute.
const KNOCKS: u64 = 60;

/// Every how many sweeps the firewall is told again: once a day.
const RETELL: u64 = 24 * 60 * 60;

/// How long the names of backends may take to be looked up, all together.
const LOOK_UP: Duration = Duration::from_secs(2);

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

    /// Tells operators of the parts that are in use, and of no others.
    fn tell_parts(&self, config: &Config) {
        let board = self.control.board();
        board.clear("firewall");
        if !self.config.firewall.is_empty() {
            let house = Arc::clone(&self.house);
            board.set("firewall", move || {
                let counts = house.rulings.firewall().counts();
                let some = |counted: &[(&'static str, u64)]| -> BTreeMap<_, _> {
                    counted.iter().copied().filter(|(_, count)| *count > 0).collect()
                };
                json!({
                    "networks": counts.elements,
                    "failures": some(&counts.failures),
                    "runs": some(&counts.runs),
                })
            });
        }
        if let Some(store) = &self.store {
            let store = Arc::downgrade(store);
            board.set("file", move || {
                let Some(state) = store.upgrade().map(|store| store.state()) else { return Value::Null };
                json!({
                    "failing": state.failing.map(|failing| failing.reason),
                    "pending": state.pending,
                    "bytes": state.bytes,
                })
            });
        }
        if self.house.shared.is_some() {
            let house = Arc::clone(&self.house);
            board.set("shared", move || {
                let Some(state) = house.shared.as_ref().map(Shared::state) else { return Value::Null };
                json!({ "connected": state.connected, "queue": state.queue, "lost": state.lost })
            });
        }
        board.clear("lists");
        if !config.lists.files.is_empty() {
            let house = Arc::clone(&self.house);
            board.set("lists", move || {
                let states = house.rulings.lists().states();
                let of = |state: &ListState| json!({"entries": state.entries, "failures": state.failures});
                states.iter().map(|state| (state.list.to_string(), of(state))).collect()
            });
        }
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

    /// What is to be done once in a while: decisions that have ended are taken out, and the log is told of those who knocked.
    fn keep_house(&mut self) {
        let house = Arc::downgrade(&self.house);
        let keep = tokio::spawn(async move {
            let mut rounds = 0_u64;
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(house) = house.upgrade() else { return };
                house.sweep_rulings();
                rounds += 1;
                if rounds.is_multiple_of(KNOCKS) {
                    house.sum_up_knocks();
                }
                if rounds.is_multiple_of(RETELL) {
                    house.restore_firewall();
                }
            }
        });
        if let Some(before) = self.keeper.replace(keep.abort_handle()) {
            before.abort();
        }
    }

    /// Tells the metrics where figures are that others keep.
    fn keep_figures(&self) {
        let sources = self.house.metrics.sources();
        let house = Arc::downgrade(&self.house);
        sources.set_ledger_entries(move || house.upgrade().map_or(0, |house| house.ledger.len() as u64));
        let house = Arc::downgrade(&self.house);
        sources.set_stress(move || house.upgrade().is_some_and(|house| house.stress.is_on()));
        let (house, store) = (Arc::downgrade(&self.house), self.store.as_ref().map(Arc::downgrade));
        sources.set_remembered(move || match house.upgrade() {
            Some(house) => remembered(&house, store.as_ref().and_then(Weak::upgrade).as_deref()),
            None => Remembered::default(),
        });
        let house = Arc::downgrade(&self.house);
        sources
            .set_firewall(move || house.upgrade().map(|house| house.rulings.firewall().counts()).unwrap_or_default());
        let house = Arc::downgrade(&self.house);
        sources.set_lists(move || house.upgrade().map(|house| house.rulings.lists().states()).unwrap_or_default());
        if self.house.shared.is_some() {
            let house = Arc::downgrade(&self.house);
            let state = move || house.upgrade()?.shared.as_ref().map(Shared::state);
            sources.set_shared(move || state().unwrap_or_default());
        }
        let journal = self.house.journal.clone();
        sources.set_journal_lost(move || journal.lost());
    }

    fn show_lists(&self) {
        let lists = self.lists.clone();
        self.house.metrics.sources().set_zones(move || {
            let zones = lists.as_ref().map(Dnsbl::zones).unwrap_or_default();
            zones.into_iter().map(zone_state).collect()
        });
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

    /// Leaves in force what is good of the certificates of before, where the file's is not, and says what is not good now.
    fn hand_on_certificates(&self, gates: &[Arc<Gate>]) {
        let now = self.house.clock.now();
        let before: Vec<Arc<Gate>> = self.doors.iter().map(|door| door.gate.load_full()).collect();
        for gate in gates {
            let Some(keyring) = gate.settings.tls.keyring() else { continue };
            let olds = before.iter().filter_map(|gate| gate.settings.tls.keyring());
            let kept: Vec<_> = olds.flat_map(|old| keyring.keep_what_is_good(old, now)).collect();
            if !kept.is_empty() {
                tell_kept(&gate.name, &Problems(kept));
            }
            tell_out_of_date(&gate.name, keyring, now);
        }
    }

    /// Looks after the gates' certificates: renewed ones are in force without anybody's doing.
    fn keep_certificates(&mut self, gates: Vec<Arc<Gate>>) {
        let shown = gates.clone();
        self.house.metrics.sources().set_certificates(move || shown.iter().flat_map(certificates).collect());
        let clock = self.house.clock.clone();
        let keep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(CERTIFICATES).await;
                for gate in gates.iter().filter(|gate| gate.settings.tls.keyring().is_some()) {
                    let (gate, now) = (Arc::clone(gate), clock.now());
                    let _ = tokio::task::spawn_blocking(move || renew(&gate, now)).await;
                }
            }
        });
        if let Some(before) = self.certificates.replace(keep.abort_handle()) {
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

/// How much a house remembers and has decided.
fn remembered(house: &House, file: Option<&embedded::Store>) -> Remembered {
    let now = house.clock.now();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let decisions = house.ledger.decisions();
    Remembered {
        entries: Kind::ALL.map(|kind| (kind, count(house.ledger.count(kind, now)))).to_vec(),
        decisions: [What::Ban, What::Allow].map(|what| (what, count(decisions.count(what)))).to_vec(),
        delayed: house.rulings.delayed(),
        file: file.map(embedded::Store::state),
    }
}

/// Takes in what was kept in the file, and keeps there what changes from now on.
fn keep(ledger: &Arc<Ledger>, path: Option<PathBuf>, clock: &Clock) -> Result<Option<embedded::Store>, CannotStart> {
    let Some(path) = path else { return Ok(None) };
    let now = clock.now();
    let opened = embedded::Store::open(embedded::Settings::at(&path), clock.clone(), |table, key, line| {
        let text = std::str::from_utf8(key).ok().zip(std::str::from_utf8(line).ok());
        text.is_some_and(|(key, line)| ledger.load(table.into(), key, line, now))
    })?;
    tracing::info!(file = %path.display(), records = opened.records(), "what was remembered is known again");
    Ok(Some(opened.start(Kept::of(Arc::clone(ledger)))?))
}

/// Who is never banned: those whom any gate allows, its load balancers, and the backends.
async fn exempt(gates: &[Arc<Gate>]) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> = gates.iter().flat_map(|gate| gate.settings.access.allowed()).collect();
    let proxies = gates.iter().filter_map(|gate| gate.settings.proxies.as_ref());
    networks.extend(proxies.flat_map(|proxies| proxies.from.iter().copied()));
    let backends: BTreeSet<&str> = gates.iter().map(|gate| gate.settings.backend.address.as_str()).collect();
    let look_up = async {
        let mut found = Vec::new();
        for backend in backends {
            if let Ok(addresses) = tokio::net::lookup_host(backend).await {
                found.extend(addresses.map(|address| IpNet::from(addr::canonical(address.ip()))));
            }
        }
        found
    };
    // One that cannot be looked up cannot connect to us by that name either.
    networks.extend(tokio::time::timeout(LOOK_UP, look_up).await.unwrap_or_default());
    IpNet::aggregate(&networks)
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

fn certificates(gate: &Arc<Gate>) -> Vec<CertificateState> {
    let expiries = gate.settings.tls.keyring().map(Keyring::expiries).unwrap_or_default();
    let of = |Expiry { name, not_after }| CertificateState {
        gate: Arc::clone(&gate.name),
        name,
        not_after: not_after.seconds(),
    };
    expiries.into_iter().map(of).collect()
}

/// Takes a gate's certificates anew if their files have changed, and says so.
fn renew(gate: &Gate, now: Timestamp) {
    let Some(keyring) = gate.settings.tls.keyring() else { return };
    match keyring.reload_if_changed(now) {
        Reload::Unchanged => {}
        Reload::Swapped => {
            tracing::info!(gate = %gate.name, "the certificates have changed; the new ones are in force");
            tell_out_of_date(&gate.name, keyring, now);
        }
        Reload::Kept(problems) => tell_kept(&gate.name, &problems),
        Reload::Broken(problems) => tracing::error!(
            gate = %gate.name,
            "the certificates have changed and cannot be used; those before stay in force:\n{problems}"
        ),
    }
}

fn tell_kept(gate: &str, problems: &Problems) {
    tracing::error!(
        gate,
        "a certificate in its file is not good now; the one before, which is, stays in force:\n{problems}"
    );
}

fn tell_out_of_date(gate: &str, keyring: &Keyring, now: Timestamp) {
    for problem in keyring.out_of_date(now) {
        tracing::warn!(gate, "a certificate is not good now, and is shown all the same: {problem}");
    }
}

fn zone_state(zone: dnsbl::ZoneState) -> ZoneState {
    let results = [("hit", zone.hits), ("miss", zone.misses)].into_iter().chain(zone.errors()).collect();
    ZoneState { up: zone.state == dnsbl::State::Working, zone: zone.display, results }
}

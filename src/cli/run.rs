//! `gatepost run`: a server, and what the system around it says and wants to hear (signals, systemd, logs).
//!
//! | signal | what it does |
//! | --- | --- |
//! | SIGHUP | reads the file again; one with problems changes nothing, and the log says what they are |
//! | SIGTERM, SIGINT | closes the gates and lets sessions end, for as long as `drain` says; a second one ends it now |
//! | SIGUSR1 | opens the journal's file anew, after it was rotated |

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing_subscriber::EnvFilter;

use crate::admin::socket;
use crate::clock::Clock;
use crate::config::{Config, JournalTarget};
use crate::journal::{Journal, Target};
use crate::server::{CannotStart, Server};

/// Why `run` cannot begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotRun {
    #[error(transparent)]
    Start(#[from] CannotStart),
    #[error("cannot serve metrics and health at {address}: {error}; see `admin`, and `ss -ltnp` for who listens where")]
    Admin { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Socket(#[from] socket::CannotOpen),
    #[error("cannot write the journal to {target}: {error}; see `to` in [journal]")]
    Journal { target: String, error: io::Error },
    #[error("cannot hear signals, or run anything at all: {0}")]
    System(#[from] io::Error),
}

/// Serves until it is told to stop.
pub(super) fn run(path: &Path, config: Config) -> Result<(), CannotRun> {
    log_to_stderr(config.log);
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(path, config));
    // What is still running was told to stop, and its time is over.
    runtime.shutdown_background();
    result
}

async fn serve(path: &Path, config: Config) -> Result<(), CannotRun> {
    let journal = open_journal(&config.journal, config.recent)?;
    let mut signals = Signals::listen()?;
    let admin = match config.admin {
        Some(address) => Some(bind_admin(address).await?),
        None => None,
    };
    let provided = std::env::var("RUNTIME_DIRECTORY").ok();
    let control = match config.control.socket.to_open(provided.as_deref()) {
        Some(path) => Some(socket::open(&path, config.control.group.as_deref()).await?),
        None => None,
    };
    let mut server = Server::start(config, journal.clone(), Clock::system()).await?;
    if let Some(listener) = admin {
        server.serve_admin(listener);
    }
    if let Some((listener, socket)) = control {
        server.serve_socket(listener, socket);
    }
    server.house().metrics.reload_succeeded(server.house().clock.now());
    let started = NotifyState::Ready;
    notify(&[started]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), file = %path.display(), "gatepost stands");
    loop {
        match signals.next().await {
            Told::Reload => reload(path, &mut server).await,
            Told::Reopen => journal.reopen(),
            Told::Alive => notify(&[NotifyState::Watchdog]),
            Told::Stop => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    let patience = server.config().drain;
    tracing::info!(
        ?patience,
        sessions = server.house().sessions.open(),
        "stopping: sessions may end in their own time"
    );
    let mut stopped = std::pin::pin!(server.stop(patience));
    loop {
        let told = tokio::select! {
            () = &mut stopped => {
                tracing::info!("stopped");
                break;
            }
            told = signals.next() => told,
        };
        match told {
            Told::Reload => tracing::warn!("stopping: the file is not read again"),
            Told::Reopen => journal.reopen(),
            Told::Alive => notify(&[NotifyState::Watchdog]),
            Told::Stop => {
                tracing::warn!("told to stop twice: stopped at once");
                break;
            }
        }
    }
    journal.flush(Duration::from_secs(2));
    Ok(())
}

async fn reload(path: &Path, server: &mut Server) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    let metrics = server.house().metrics.clone();
    match Config::load(path) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                tracing::warn!("{}", warnings.render(false).trim_end());
            }
            match server.reload(config).await {
                Ok(()) => {
                    metrics.reload_succeeded(server.house().clock.now());
                    tracing::info!(file = %path.display(), "the file was read again and is in force");
                }
                Err(error) => {
                    metrics.reload_failed();
                    tracing::error!(file = %path.display(), "the file is not in force, the one before is: {error}");
                }
            }
        }
        Err(problems) => {
            metrics.reload_failed();
            tracing::error!(
                "the file has problems and is not in force, the one before is:\n{}",
                problems.render(false).trim_end()
            );
        }
    }
    notify(&[NotifyState::Ready]);
}

fn open_journal(target: &JournalTarget, recent: usize) -> Result<Journal, CannotRun> {
    let (target, name) = match target {
        JournalTarget::Stdout => (Target::Stdout, "standard output".to_owned()),
        JournalTarget::File(path) => (Target::File(path.clone()), path.display().to_string()),
        JournalTarget::Off => (Target::Off, "nowhere".to_owned()),
    };
    Journal::remembering(target, recent).map_err(|error| CannotRun::Journal { target: name, error })
}

async fn bind_admin(address: SocketAddr) -> Result<TcpListener, CannotRun> {
    TcpListener::bind(address).await.map_err(|error| CannotRun::Admin { address, error })
}

fn log_to_stderr(level: tracing::Level) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("gatepost={level},warn")));
    let subscriber = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(super::colours());
    // Under systemd the journal has the time already.
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let set = if journald {
        subscriber.with_env_filter(filter).without_time().try_init()
    } else {
        subscriber.with_env_filter(filter).try_init()
    };
    // Only tests run it twice in a process; the first one's subscriber does.
    drop(set);
}

/// A session takes a descriptor, two once it is relayed: what the system allows at most is what we ask for.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(?current, ?maximum, %error, "cannot raise the limit of open descriptors");
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}

/// What the process is told from outside.
enum Told {
    Reload,
    Reopen,
    Stop,
    /// Nothing; it is time to say that we are alive.
    Alive,
}

struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
    usr1: Signal,
    /// When systemd is to hear next that we are alive.
    watchdog: Option<Interval>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr1: signal(SignalKind::user_defined1())?,
            watchdog: sd_notify::watchdog_enabled().map(|within| {
                let mut pace = interval((within / 2).max(Duration::from_millis(1)));
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                pace
            }),
        })
    }

    async fn next(&mut self) -> Told {
        let alive = async {
            match &mut self.watchdog {
                Some(pace) => drop(pace.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.hup.recv() => Told::Reload,
            _ = self.usr1.recv() => Told::Reopen,
            _ = self.term.recv() => Told::Stop,
            _ = self.int.recv() => Told::Stop,
            () = alive => Told::Alive,
        }
    }
}

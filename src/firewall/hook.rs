//! The operator's program: run for each ban, and for each end of one, one at a time.
//!
//! `PROGRAM … ban NETWORK SECONDS REASON`, and `PROGRAM … unban NETWORK` when the ban was lifted or ran out. Bans that were
//! there before this process are not told again. Too many at once are dropped, and counted.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::task::AbortOnDropHandle;

use super::counts::{Run, Seldom};
use super::program::{self, Failure};
use super::{Ban, Shared};

/// How long a run may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How many runs may wait.
const WAITING: usize = 1024;

/// A program that is run for each ban and each end of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// The program's full path, and arguments that go before ours.
    pub words: Vec<String>,
}

/// Has the program run, without waiting for it.
pub(super) struct Caller {
    calls: Sender<Vec<String>>,
    complaint: Seldom,
    shared: Arc<Shared>,
    _runner: AbortOnDropHandle<()>,
}

impl Caller {
    pub(super) fn new(hook: Hook, shared: Arc<Shared>) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING);
        let runner = tokio::spawn(run(hook, waiting, Arc::clone(&shared)));
        Self { calls, complaint: Seldom::default(), shared, _runner: AbortOnDropHandle::new(runner) }
    }

    pub(super) fn ban(&mut self, net: IpNet, ban: Ban) {
        // Rounded up: none is told a ban of no time.
        let seconds = ban.until.since(self.shared.clock.now()).as_millis().div_ceil(1000);
        self.call(vec!["ban".to_owned(), net.to_string(), seconds.to_string(), ban.reason.to_owned()]);
    }

    pub(super) fn unban(&mut self, net: IpNet) {
        self.call(vec!["unban".to_owned(), net.to_string()]);
    }

    fn call(&mut self, arguments: Vec<String>) {
        if self.calls.try_send(arguments).is_ok() {
            return;
        }
        self.shared.counts.ran(Run::Dropped);
        if let Some(hushed) = self.complaint.may() {
            tracing::warn!(
                hushed,
                "the ban command is too slow: bans and unbans go by without it; make it return sooner, or use the file"
            );
        }
    }
}

async fn run(hook: Hook, mut calls: Receiver<Vec<String>>, shared: Arc<Shared>) {
    let mut complaint = Seldom::default();
    while let Some(arguments) = calls.recv().await {
        let words: Vec<String> = hook.words.iter().chain(&arguments).cloned().collect();
        let ended = program::run(&words, &[], DEADLINE).await;
        shared.counts.ran(match &ended {
            Ok(()) => Run::Ok,
            Err(Failure::Missing(_)) => Run::Missing,
            Err(Failure::Timeout(_)) => Run::Timeout,
            Err(Failure::Denied(_) | Failure::Refused(_)) => Run::Failed,
        });
        if let Err(failure) = ended
            && let Some(hushed) = complaint.may()
        {
            let arguments = arguments.join(" ");
            tracing::warn!(%failure, arguments, hushed, "the ban command failed; run it by hand with these arguments");
        }
    }
}

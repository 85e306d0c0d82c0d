//! The task that attends to the store: connects, listens, sends what waits, and looks after what is kept.
//!
//! Each connection goes the same way. It subscribes first, so that nothing is missed; then verbs are let through, what
//! waited is sent, all decisions are read, what was counted alone is made good for, and standings are read in the
//! background. Once a minute decisions are read again, and those that are over are taken out. Anything that fails ends
//! the connection, and the next one starts from the beginning.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::link::{Connected, Link, Master, PATIENCE, connect};
use super::news::{self, News, is_over};
use super::queue::{Act, Batch, Change, Owed, Queue};
use super::script::{self, Call, Lines};
use super::state::add_one;
use super::{Inner, Overdue};
use crate::addr::ClientKey;
use crate::policy::ban::Decision;
use crate::policy::guard::{Failed, Network, Tally};
use crate::policy::record::Record;
use crate::screen::{Standing, Tests};

/// How long changes are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(20);

/// How much is sent at once.
const BATCH: usize = 256;

/// How often the store is asked whether it is there, and how long a verb that failed keeps others from it.
const PULSE: Duration = Duration::from_secs(1);

/// How often all decisions are looked at.
const ROUND: Duration = Duration::from_secs(60);

/// How long it is waited before the next try to connect: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// How many messages of others wait for us at most.
const TOLD: usize = 8192;

/// How many keys are asked for at once in the background, and the pause between.
const SCAN: (usize, Duration) = (500, Duration::from_millis(5));

/// How many decisions, and how many clients with a standing, are looked at in the store; there may be more in a store
/// that others fill.
const LOOKED_AT: usize = 4_000_000;

/// A batch under way. Whatever of it is left when this is dropped goes back.
struct Sending<'a> {
    queue: &'a Mutex<Queue>,
    batch: Batch,
    /// Whether something is being counted that must not be counted twice.
    is_under_way: bool,
}

impl<'a> Sending<'a> {
    fn begin(queue: &'a Mutex<Queue>, is_settled: bool) -> Self {
        let batch = queue.lock().take(BATCH, is_settled);
        Self { queue, batch, is_under_way: false }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.lock();
        queue.put_back(std::mem::take(&mut self.batch));
        queue.lose(usize::from(self.is_under_way));
    }
}

/// Attends until the handle is closed.
pub(super) async fn attend(inner: Arc<Inner>) {
    let mut pause = RETRY.0;
    loop {
        let begin = inner.counts.connects.load(Ordering::Relaxed);
        let trouble = tokio::select! {
            trouble = one_connection(&inner) => trouble,
            () = inner.stop.cancelled() => return farewell(&inner).await,
        };
        inner.parted(&trouble);
        if inner.counts.connects.load(Ordering::Relaxed) > begin {
            pause = RETRY.0;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = inner.stop.cancelled() => return,
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Sends what still waits.
async fn farewell(inner: &Inner) {
    let Some(mut link) = inner.link() else { return };
    while let Ok(true) = inner.send(&mut link).await {}
}

/// From connecting to whatever ends the connection.
async fn one_connection(inner: &Arc<Inner>) -> RedisError {
    let (tell, told) = mpsc::channel(TOLD);
    let channel = inner.keys.news();
    let coming = connect(&inner.settings, &channel, tell);
    let Connected { link, news } = match timeout(PATIENCE * 3, coming).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(trouble)) => return trouble,
        Err(_) => return broken("it does not answer"),
    };
    let mut scripts = link.clone();
    if let Err(trouble) = patiently(script::load(&mut scripts)).await {
        return trouble;
    }
    inner.joined(link.clone());
    tokio::select! {
        trouble = inner.listen(told) => trouble,
        trouble = inner.send_all(link.clone()) => trouble,
        trouble = inner.feel_pulse(link.clone(), news) => trouble,
        trouble = inner.look_after(link) => trouble,
    }
}

fn broken(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, what))
}

/// An answer that nobody waits for, but not for ever.
async fn patiently<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(broken("it did not answer in time")))
}

impl Inner {
    fn joined(&self, link: Link) {
        add_one(&self.counts.connects);
        self.is_settled.store(false, Ordering::Relaxed);
        {
            let mut circuit = self.circuit.lock();
            circuit.link = Some(link);
            (circuit.is_open, circuit.since, circuit.trouble) = (false, self.clock.now(), None);
        }
        info!(node = %self.node, "the shared store is there");
    }

    fn parted(&self, trouble: &RedisError) {
        let trouble = trouble.to_string();
        let is_new = {
            let mut circuit = self.circuit.lock();
            let was_there = circuit.link.take().is_some();
            if was_there && !circuit.is_open {
                circuit.since = self.clock.now();
            }
            circuit.is_open = false;
            let is_new = was_there || circuit.trouble.as_ref() != Some(&trouble);
            circuit.trouble = Some(trouble.clone());
            is_new
        };
        if is_new {
            warn!(trouble = trouble.escape_debug().to_string(), "the shared store is away; this host goes on alone");
        }
    }

    /// Takes in what other hosts tell.
    async fn listen(&self, mut told: mpsc::Receiver<PushInfo>) -> RedisError {
        while let Some(push) = told.recv().await {
            match push.kind {
                PushKind::Message => {
                    if let Some(Value::BulkString(message)) = push.data.get(1) {
                        self.take_in(message);
                    }
                }
                PushKind::Disconnection => break,
                _ => {}
            }
        }
        broken("the connection for news has ended")
    }

    fn take_in(&self, message: &[u8]) {
        let Some((node, news)) = News::read(message, self.clock.now()) else {
            return add_one(&self.counts.foreign);
        };
        if node == self.node {
            return;
        }
        add_one(&self.counts.news);
        match news {
            News::Standing(client, standing) => self.mirror.standing(client, standing),
            News::Revoked(client, tests) => self.mirror.revoked(client, tests),
            News::Tally(client, tally) => self.mirror.tally(client, tally),
            News::Forgotten(client) => self.mirror.forgotten(client),
            News::Decision(network, decision) => self.hear(network, decision),
        }
    }

    /// A decision of another host's.
    fn hear(&self, network: IpNet, decision: Decision) {
        let unbanned = self.unbanned(network, &decision);
        self.mirror.decision(network, decision);
        if let Some(client) = unbanned {
            self.mirror.forgotten(client);
        }
    }

    /// Sends what comes into the queue, for as long as that can be.
    async fn send_all(&self, mut link: Link) -> RedisError {
        loop {
            match self.send(&mut link).await {
                Ok(true) => {}
                Ok(false) => {
                    self.waiting.notified().await;
                    sleep(GATHER).await;
                }
                Err(trouble) => return trouble,
            }
        }
    }

    /// Sends one batch. False if there was nothing to send. What is not known to have arrived goes back into the queue,
    /// also when this is broken off, but for what would be counted twice.
    async fn send(&self, link: &mut Link) -> RedisResult<bool> {
        let mut sending = Sending::begin(&self.queue, self.is_settled.load(Ordering::Relaxed));
        if sending.batch.is_empty() {
            return Ok(false);
        }
        self.send_decisions(link, &mut sending.batch).await?;
        self.send_forgotten(link, &mut sending.batch).await?;
        self.send_passes(link, &mut sending.batch).await?;
        self.make_good(link, &mut sending).await?;
        Ok(true)
    }

    async fn send_decisions(&self, link: &mut Link, batch: &mut Batch) -> RedisResult<()> {
        let calls = batch.decisions.iter().map(|(network, decision)| Call::decide(&self.keys, *network, decision));
        let answers = run_all(link, calls).await;
        let (mut unsent, mut trouble) = (Vec::new(), Ok(()));
        for ((network, decision), answer) in batch.decisions.drain(..).zip(answers) {
            match answer.map(|lines| script::decided(&lines)) {
                Ok(Some((there, _))) if there == decision => {}
                // Something else is decided there: it is heard of as if it had been told.
                Ok(Some((there, _))) => match news::decision(&network.to_string(), &there.line(), self.clock.now()) {
                    Some((network, there)) => self.hear(network, there),
                    None => add_one(&self.counts.foreign),
                },
                Ok(None) => add_one(&self.counts.foreign),
                Err(reason) => {
                    unsent.push((network, decision));
                    trouble = Err(reason);
                }
            }
        }
        batch.decisions = unsent;
        trouble
    }

    async fn send_forgotten(&self, link: &mut Link, batch: &mut Batch) -> RedisResult<()> {
        let answers = run_all(link, batch.forgotten.iter().map(|client| Call::forget(&self.keys, *client))).await;
        let (mut unsent, mut trouble) = (Vec::new(), Ok(()));
        for (client, answer) in batch.forgotten.drain(..).zip(answers) {
            if let Err(reason) = answer {
                unsent.push(client);
                trouble = Err(reason);
            }
        }
        batch.forgotten = unsent;
        trouble
    }

    async fn send_passes(&self, link: &mut Link, batch: &mut Batch) -> RedisResult<()> {
        let now = self.now();
        let calls = batch
            .passes
            .iter()
            .map(|(client, passes)| Call::standing(&self.keys, *client, passes.revoked, &passes.standing, now));
        let answers = run_all(link, calls).await;
        let (mut unsent, mut trouble) = (Vec::new(), Ok(()));
        for ((client, passes), answer) in batch.passes.drain(..).zip(answers) {
            if let Err(reason) = answer {
                unsent.push((client, passes));
                trouble = Err(reason);
            }
        }
        batch.passes = unsent;
        trouble
    }

    /// Counts what was done while the store was away, in its order, with its own times. What fails under way may have
    /// arrived, and is not repeated.
    async fn make_good(&self, link: &mut Link, sending: &mut Sending<'_>) -> RedisResult<()> {
        while let Some(owed) = sending.batch.owed.pop_front() {
            if !self.is_forgiven(owed.client, owed.now) {
                sending.is_under_way = true;
                self.make_one_good(link, &owed).await?;
                sending.is_under_way = false;
            }
        }
        Ok(())
    }

    async fn make_one_good(&self, link: &mut Link, owed: &Owed) -> RedisResult<()> {
        let Owed { client, act, rules, now, dice } = owed;
        let (client, keys) = (*client, &self.keys);
        let call = match *act {
            Act::Strike(strike) => Call::strike(keys, client, strike, rules, (*now, *dice)),
            Act::LoggedIn => Call::logged_in(keys, client, rules, *now),
            Act::AccountFailed(account) => Call::account(keys, account, client, rules, (*now, true)),
            Act::AccountLoggedIn(account) => Call::account(keys, account, client, rules, (*now, false)),
            Act::Offend(network) => Call::offend(keys, network, client, rules, (*now, *dice)),
        };
        let lines: Lines = patiently(call.run(link)).await?;
        match *act {
            Act::Strike(_) | Act::LoggedIn => {
                let Some((tally, sentence)) = script::sentenced::<Tally>(&lines) else {
                    add_one(&self.counts.foreign);
                    return Ok(());
                };
                self.mirror.tally(client, tally);
                if let Some(sentence) = sentence {
                    self.mirror.overdue(Overdue::Client(client, sentence));
                }
            }
            Act::AccountFailed(account) => {
                if let Some((_, Failed::Attack { mut others, .. })) = script::account_failed(&lines) {
                    others.push(client);
                    self.mirror.overdue(Overdue::Account(account, others));
                }
            }
            Act::Offend(network) => {
                if let Some((_, Some(sentence))) = script::sentenced::<Network>(&lines) {
                    self.mirror.overdue(Overdue::Network(network, sentence));
                }
            }
            Act::AccountLoggedIn(_) => {}
        }
        Ok(())
    }

    /// Asks again and again whether the store takes anything, and lets verbs through or keeps them away.
    async fn feel_pulse(&self, mut link: Link, mut news: MultiplexedConnection) -> RedisError {
        loop {
            tokio::select! {
                () = sleep(PULSE) => {}
                // A verb that failed keeps the others away for a while, and then it is seen.
                () = self.tripped.notified() => sleep(PULSE).await,
            }
            let mut pulse = redis::cmd("SET");
            pulse.arg(self.keys.pulse()).arg(self.now()).arg("EX").arg(60);
            let felt = async {
                patiently(pulse.exec_async(&mut link)).await?;
                patiently(redis::cmd("PING").exec_async(&mut news)).await
            };
            if let Err(trouble) = felt.await {
                return trouble;
            }
            let mut circuit = self.circuit.lock();
            if circuit.is_open {
                (circuit.is_open, circuit.since, circuit.trouble) = (false, self.clock.now(), None);
            }
        }
    }

    /// Reads what is decided, and fills what is empty; again and again.
    async fn look_after(&self, mut link: Link) -> RedisError {
        let mut is_first = true;
        loop {
            let looked = async {
                self.read_decisions(&mut link).await?;
                self.is_settled.store(true, Ordering::Relaxed);
                self.waiting.notify_one();
                let marker = self.keys.marker();
                let is_filled: bool = patiently(redis::cmd("EXISTS").arg(&marker).query_async(&mut link)).await?;
                if is_first || !is_filled {
                    self.read_standings(&mut link).await?;
                    patiently(redis::cmd("SET").arg(&marker).arg(self.now()).exec_async(&mut link)).await?;
                }
                RedisResult::Ok(())
            };
            if let Err(trouble) = looked.await {
                return trouble;
            }
            is_first = false;
            sleep(ROUND).await;
        }
    }

    /// Hears all that is decided, tells what is decided here alone, and takes out what is over.
    async fn read_decisions(&self, link: &mut Link) -> RedisResult<()> {
        let mut ours: HashMap<IpNet, Decision> = self.mirror.decisions().into_iter().collect();
        let (mut cursor, mut read) = (0_u64, 0);
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(self.keys.decisions()).arg(cursor).arg("COUNT").arg(SCAN.0);
            let (next, fields): (u64, Vec<(String, String)>) = patiently(scan.query_async(link)).await?;
            read += fields.len();
            let now = self.clock.now();
            let mut over = Vec::new();
            for (key, line) in fields {
                let Some((network, there)) = news::decision(&key, &line, now) else {
                    add_one(&self.counts.foreign);
                    continue;
                };
                if is_over(&there, now) {
                    over.push((key, line));
                    continue;
                }
                match ours.get(&network) {
                    Some(here) if here.outweighs(&there) => continue,
                    Some(here) if *here == there => {}
                    // A ledger need not keep what was lifted: it has heard of it.
                    None if self.is_known_lifted(network, &there) => {}
                    _ => self.hear(network, there),
                }
                ours.remove(&network);
            }
            if !over.is_empty() {
                patiently(Call::drop(&self.keys, over).run::<u64>(link)).await?;
            }
            cursor = next;
            if cursor == 0 || read > LOOKED_AT {
                break;
            }
            sleep(SCAN.1).await;
        }
        let now = self.clock.now();
        for (network, decision) in ours.into_iter().filter(|(_, decision)| !is_over(decision, now)) {
            self.put(Change::Decision(network, decision));
        }
        Ok(())
    }

    /// Hears all standings, and puts those in that are only here; in the background, a few at a time.
    async fn read_standings(&self, link: &mut Link) -> RedisResult<()> {
        let mut there = HashSet::new();
        for master in patiently(link.masters()).await? {
            self.scan_standings(link, &master, &mut there).await?;
        }
        let now = self.clock.now();
        let mut only_here = Vec::new();
        self.mirror.standings(&mut |client, standing| {
            if standing.expires() > now && !there.contains(&client) {
                only_here.push((client, standing));
            }
        });
        drop(there);
        debug!(count = only_here.len(), "standings that the shared store has not");
        for part in only_here.chunks(SCAN.0) {
            let now = self.now();
            let calls = part
                .iter()
                .map(|(client, standing)| Call::standing(&self.keys, *client, Tests::NONE, standing, now).quietly());
            for answer in run_all(link, calls).await {
                answer?;
            }
            sleep(SCAN.1).await;
        }
        Ok(())
    }

    async fn scan_standings(
        &self,
        link: &mut Link,
        master: &Master,
        there: &mut HashSet<ClientKey>,
    ) -> RedisResult<()> {
        let prefix = self.keys.standings();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(SCAN.0);
            let (next, keys): (u64, Vec<String>) = patiently(link.ask(master, scan)).await?;
            let clients: Vec<ClientKey> =
                keys.iter().filter_map(|key| ClientKey::of_word(key.strip_prefix(&prefix)?)).collect();
            if !clients.is_empty() {
                let mut read = redis::cmd("MGET");
                for client in &clients {
                    read.arg(self.keys.standing(*client));
                }
                let lines: Vec<Option<String>> = patiently(read.query_async(link)).await?;
                for (client, line) in clients.into_iter().zip(lines) {
                    match line.as_deref().map(Standing::read) {
                        Some(Some(standing)) => {
                            self.mirror.standing(client, standing);
                            there.insert(client);
                        }
                        Some(None) => add_one(&self.counts.foreign),
                        None => {}
                    }
                }
            }
            cursor = next;
            if cursor == 0 || there.len() > LOOKED_AT {
                return Ok(());
            }
            sleep(SCAN.1).await;
        }
    }

    /// Whole seconds.
    fn now(&self) -> u32 {
        u32::try_from(self.clock.now().seconds()).unwrap_or(u32::MAX)
    }
}

/// Runs all of them at once over one connection; answers in their order.
async fn run_all(link: &Link, calls: impl Iterator<Item = Call>) -> Vec<RedisResult<Lines>> {
    let mut running = JoinSet::new();
    let mut answers = Vec::new();
    for (n, call) in calls.enumerate() {
        let mut link = link.clone();
        answers.push(Err(broken("it was not asked")));
        running.spawn(async move { (n, patiently(call.run::<Lines>(&mut link)).await) });
    }
    while let Some(done) = running.join_next().await {
        if let Ok((n, answer)) = done
            && let Some(place) = answers.get_mut(n)
        {
            *place = answer;
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::guard::{Rules, Strike};

    #[test]
    fn what_is_broken_off_goes_back_but_for_what_would_be_counted_twice() {
        let queue = Mutex::new(Queue::new(10));
        let counts = || {
            let queue = queue.lock();
            (queue.len(), queue.lost())
        };
        let client = ClientKey::V4(1);
        queue.lock().put(Change::Revoked(client, Tests::NONE));
        for now in 0..3 {
            queue.lock().owe(client, Act::Strike(Strike::NotOffered), &Rules::default(), now, 0);
        }
        let mut sending = Sending::begin(&queue, true);
        assert_eq!(queue.lock().len(), 0);
        sending.batch.owed.pop_front();
        sending.is_under_way = true;
        drop(sending);
        assert_eq!(counts(), (3, 1));
        let mut sending = Sending::begin(&queue, true);
        assert_eq!(sending.batch.owed.iter().map(|owed| owed.now).collect::<Vec<_>>(), [1, 2]);
        sending.batch = Batch::default();
        drop(sending);
        assert_eq!(counts(), (0, 1));
    }
}

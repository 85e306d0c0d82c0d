//! Many sessions at once, each by a script: one thread, an event loop, and as little as possible done for each.

mod session;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::Type;

use super::script::Step;
use super::wire::Wires;
use super::{Crowd, PATIENCE, Report, clients};
use session::{Outcome, Session};

/// Runs all of them.
pub(super) fn run(crowd: &Crowd) -> io::Result<Report> {
    let steps = crowd.script.steps();
    let mut engine = Engine {
        poll: Poll::new()?,
        sessions: Slab::with_capacity(crowd.at_once as usize),
        crowd,
        wires: Wires::new(crowd.authority.as_deref())?,
        steps: &steps,
        begun: 0,
        report: Report::default(),
        free: VecDeque::new(),
    };
    let began = Instant::now();
    engine.go_on(began)?;
    engine.report.seconds = began.elapsed().as_secs_f64();
    Ok(engine.report)
}

struct Engine<'a> {
    poll: Poll,
    sessions: Slab<Session>,
    crowd: &'a Crowd,
    wires: Wires,
    steps: &'a [Step],
    begun: u32,
    report: Report,
    /// Read buffers of sessions that have ended.
    free: VecDeque<Vec<u8>>,
}

impl Engine<'_> {
    fn go_on(&mut self, began: Instant) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut news = Instant::now();
        loop {
            let pause = self.begin_sessions(began)?;
            if self.sessions.is_empty() && self.begun == self.crowd.count {
                return Ok(());
            }
            let limit = pause.unwrap_or(Duration::from_secs(1));
            if let Err(error) = self.poll.poll(&mut events, Some(limit))
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            if !events.is_empty() || self.sessions.is_empty() {
                news = Instant::now();
            } else if news.elapsed() > PATIENCE {
                let waiting = self.sessions.iter().next().map_or(0, |(_, session)| session.step());
                return Err(io::Error::other(format!(
                    "{} sessions got no answer for {PATIENCE:?}, the first of them at step {waiting}",
                    self.sessions.len()
                )));
            }
            for event in &events {
                let Token(at) = event.token();
                let Some(session) = self.sessions.get_mut(at) else { continue };
                let closed = event.is_read_closed() || event.is_error();
                let outcome = if event.is_readable() || closed || event.is_write_closed() {
                    session.go_on(self.steps, closed)
                } else {
                    session.talk_on(self.steps)
                };
                if let Some(outcome) = outcome {
                    self.end(at, outcome);
                }
            }
        }
    }

    /// Begins those that may begin now. How long until the next may, if that depends on the time.
    fn begin_sessions(&mut self, began: Instant) -> io::Result<Option<Duration>> {
        while self.begun < self.crowd.count && self.sessions.len() < self.crowd.at_once as usize {
            if let Some(rate) = self.crowd.rate {
                let due = Duration::from_secs_f64(f64::from(self.begun) / rate);
                if let Some(early) = due.checked_sub(began.elapsed())
                    && !early.is_zero()
                {
                    // The timer counts milliseconds.
                    return Ok(Some(early.max(Duration::from_millis(1))));
                }
            }
            let client = (self.crowd.first + self.begun) % self.crowd.clients;
            let socket = clients::socket(Type::STREAM.nonblocking(), self.crowd.net, client)?;
            if let Err(error) = socket.connect(&self.crowd.target.into())
                && error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error())
            {
                return Err(error);
            }
            socket.set_tcp_nodelay(true)?;
            let buffer = self.free.pop_front().unwrap_or_default();
            let mut session = Session::new(self.wires.wire(socket.into())?, self.crowd.script.is_bot(), buffer);
            let entry = self.sessions.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(session.stream(), Token(entry.key()), interest)?;
            entry.insert(session);
            self.begun += 1;
        }
        Ok(None)
    }

    fn end(&mut self, at: usize, outcome: Outcome) {
        let buffer = self.sessions.remove(at).into_buffer();
        self.free.push_back(buffer);
        match outcome {
            Outcome::Done => self.report.done += 1,
            Outcome::Ended(how) => {
                self.report.done += 1;
                *self.report.endings.entry(how).or_default() += 1;
            }
            Outcome::Failed(why) => self.report.error(why),
        }
    }
}

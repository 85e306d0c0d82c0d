//! One session of a crowd.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;

use super::super::script::{DONE, Step, reply_length};
use super::super::wire::Wire;

/// How a session ended.
pub(super) enum Outcome {
    /// As its script has it.
    Done,
    /// A bot's: the reply code that it was told last, or how the connection ended.
    Ended(String),
    /// In another way.
    Failed(String),
}

pub(super) struct Session {
    stream: Wire,
    is_bot: bool,
    step: usize,
    /// How much of the step's words is written.
    written: usize,
    heard: Vec<u8>,
}

impl Session {
    /// `heard` is an old one's buffer.
    pub(super) fn new(stream: Wire, is_bot: bool, mut heard: Vec<u8>) -> Self {
        heard.clear();
        Self { stream, is_bot, step: 0, written: 0, heard }
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        self.stream.socket()
    }

    pub(super) fn step(&self) -> usize {
        self.step
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.heard
    }

    /// Writes and reads what can be written and read; how it ended, if it did. `closed`: the other side has closed, so that
    /// what is read is to be read to its end.
    pub(super) fn go_on(&mut self, steps: &[Step], closed: bool) -> Option<Outcome> {
        let mut chunk = [0; 4096];
        let to_the_end = closed || self.stream.is_deep();
        loop {
            if let Some(outcome) = self.talk_on(steps) {
                return Some(outcome);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(self.closed(steps)),
                Ok(length) => {
                    self.heard.extend(&chunk[..length]);
                    match self.take_reply(steps) {
                        // The next words go out, and nothing more can be there to be read.
                        Ok(true) if length < chunk.len() && !to_the_end => return self.talk_on(steps),
                        Ok(false) if length < chunk.len() && !to_the_end => return None,
                        Ok(_) => {}
                        Err(outcome) => return Some(outcome),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // The connection is not up yet.
                Err(error) if error.kind() == ErrorKind::NotConnected => return None,
                Err(_) if self.is_bot => return Some(Outcome::Ended(self.last_word("reset"))),
                Err(error) => return Some(self.failed(&error)),
            }
        }
    }

    /// Writes what can be written; how the session ended, if it did.
    pub(super) fn talk_on(&mut self, steps: &[Step]) -> Option<Outcome> {
        match self.write(steps) {
            // A bot that is not listened to looks for what it was told.
            Err(error) if !self.is_bot => Some(self.failed(&error)),
            _ => None,
        }
    }

    fn write(&mut self, steps: &[Step]) -> io::Result<()> {
        let Some(step) = steps.get(self.step) else { return Ok(()) };
        if self.stream.is_deep() {
            // What could not be written before.
            match self.stream.flush() {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                told => told?,
            }
        }
        while self.written < step.say.len() {
            match self.stream.write(&step.say[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the reply that is waited for has come, and with it the next step.
    fn take_reply(&mut self, steps: &[Step]) -> Result<bool, Outcome> {
        if self.is_bot {
            return Ok(false);
        }
        let Some(step) = steps.get(self.step) else { return Err(self.unexpected()) };
        let whole = if step.code == DONE {
            if self.heard.len() < DONE.len() {
                return Ok(false);
            }
            DONE.len()
        } else {
            let Some(whole) = reply_length(&self.heard) else { return Ok(false) };
            whole
        };
        if !self.heard.starts_with(step.code) || self.heard.len() > whole || self.written < step.say.len() {
            return Err(self.unexpected());
        }
        self.heard.clear();
        self.step += 1;
        self.written = 0;
        if step.code == DONE {
            return Err(Outcome::Done);
        }
        Ok(true)
    }

    fn closed(&self, steps: &[Step]) -> Outcome {
        if self.is_bot {
            Outcome::Ended(self.last_word("closed"))
        } else if self.step == steps.len() {
            Outcome::Done
        } else {
            Outcome::Failed(format!("closed at step {}, behind {:?}", self.step, self.text()))
        }
    }

    /// The code of the last line that was heard, or `otherwise`.
    fn last_word(&self, otherwise: &str) -> String {
        let line = self.heard.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        // A teaser alone is no answer.
        let code = line.get(..3).filter(|_| line.get(3) != Some(&b'-'));
        code.map_or_else(|| otherwise.to_owned(), |code| String::from_utf8_lossy(code).into_owned())
    }

    fn unexpected(&self) -> Outcome {
        Outcome::Failed(format!("at step {} told {:?}", self.step, self.text()))
    }

    fn failed(&self, error: &io::Error) -> Outcome {
        Outcome::Failed(format!("at step {}: {error}", self.step))
    }

    fn text(&self) -> String {
        self.heard.escape_ascii().to_string()
    }
}

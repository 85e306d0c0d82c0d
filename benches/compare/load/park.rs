//! Clients that connect and say nothing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use socket2::Type;

use super::clients;
use super::{Report, STRANGERS};

/// All that wait.
#[derive(Default)]
pub(super) struct Parked {
    streams: VecDeque<TcpStream>,
}

impl Parked {
    /// Lets more come until there are `count`. They are connected when this returns, which is not to say accepted.
    pub(super) fn grow(&mut self, target: SocketAddr, count: u32) -> io::Result<Report> {
        let began = Instant::now();
        for n in self.streams.len() as u32..count {
            let socket = clients::socket(Type::STREAM, STRANGERS, n)?;
            socket.connect(&target.into())?;
            self.streams.push_back(socket.into());
        }
        Ok(Report { done: u64::from(count), seconds: began.elapsed().as_secs_f64(), ..Report::default() })
    }

    /// Counts those that wait on; a teaser (`220-`) is no greeting.
    pub(super) fn look(&self) -> Report {
        let mut report = Report::default();
        let mut bytes = [0; 128];
        for stream in &self.streams {
            let heard = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut bytes));
            match heard {
                Ok(0) => report.error("closed"),
                Ok(length) if bytes[..length].starts_with(b"220-") => report.done += 1,
                Ok(length) => report.error(format!("told {}", bytes[..length].escape_ascii())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => report.done += 1,
                Err(error) => report.error(error.to_string()),
            }
        }
        report
    }
}

//! How long known clients wait for their greeting.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Type;

use super::{KNOWN, PATIENCE, Report, clients};

/// What a timer may be late by itself.
const LATE: Duration = Duration::from_millis(1);

/// `count` sessions, one after another, `rate` of them a second if each is over when the next is due.
pub(super) fn run(target: SocketAddr, count: u32, rate: f64, clients: u32) -> io::Result<Report> {
    let mut report = Report::default();
    let began = Instant::now();
    for n in 0..count {
        let due = Duration::from_secs_f64(f64::from(n) / rate);
        thread::sleep(due.saturating_sub(began.elapsed()));
        // One that could not begin in time waited for the one before it, and that counts.
        let late = began.elapsed().saturating_sub(due);
        match session(target, n % clients) {
            Ok(latency) => {
                let latency = if late > LATE { latency + late } else { latency };
                report.done += 1;
                report.latencies.push(latency.as_secs_f64() * 1e3);
            }
            Err(error) => report.error(error.to_string()),
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// One session; the time from connecting to the whole greeting.
fn session(target: SocketAddr, client: u32) -> io::Result<Duration> {
    let socket = clients::socket(Type::STREAM, KNOWN, client)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    let began = Instant::now();
    socket.connect(&target.into())?;
    let mut stream: TcpStream = socket.into();
    let greeting = line(&mut stream)?;
    let latency = began.elapsed();
    if !greeting.starts_with(b"220 ") {
        return Err(io::Error::other(format!("greeted with {}", greeting.escape_ascii())));
    }
    stream.write_all(b"QUIT\r\n")?;
    let farewell = line(&mut stream)?;
    if !farewell.starts_with(b"221 ") {
        return Err(io::Error::other(format!("taken leave of with {}", farewell.escape_ascii())));
    }
    Ok(latency)
}

/// A reply of one line.
fn line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut line, mut chunk) = (Vec::new(), [0; 512]);
    while !line.ends_with(b"\n") {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Err(io::Error::other(format!("closed behind {:?}", line.escape_ascii().to_string())));
        }
        line.extend(&chunk[..length]);
    }
    Ok(line)
}

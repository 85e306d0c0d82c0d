//! A name server for the names of clients: what is in its table, and "no such name" for everything else. It can be slow.
//!
//! Messages are read and written by hand, and so independently of the resolver that asks.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// The name server. Gone when dropped.
pub struct NameServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    asked: Arc<Mutex<HashSet<String>>>,
}

/// What a name has.
#[derive(Clone, Debug)]
enum Record {
    Name(String),
    Address(IpAddr),
}

impl NameServer {
    /// Starts one for hosts: each name has its address, and the address that name.
    pub fn of(hosts: &[(&str, IpAddr)]) -> Self {
        let mut table = BTreeMap::new();
        for (name, address) in hosts {
            table.insert((*name).to_owned(), Record::Address(*address));
            table.insert(reverse(*address), Record::Name((*name).to_owned()));
        }
        Self::start((Ipv4Addr::LOCALHOST, 0).into(), table, Duration::ZERO)
    }

    /// Starts one at `address` that knows no name, and says so after `delay`: a DNSBL in trouble that lists nobody.
    #[track_caller]
    pub fn slow(address: SocketAddr, delay: Duration) -> Self {
        Self::start(address, BTreeMap::new(), delay)
    }

    #[track_caller]
    fn start(address: SocketAddr, table: BTreeMap<String, Record>, delay: Duration) -> Self {
        let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("no name server at {address}: {error}"));
        let address = socket.local_addr().expect("a bound socket has an address");
        let (stopping, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stop, names) = (Arc::clone(&stopping), Arc::clone(&asked));
        thread::spawn(move || serve(&socket, &table, delay, &stop, &names));
        Self { address, stopping, asked }
    }

    /// For how many different names it was asked.
    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

/// Until it is to stop: answers each question when its time has come.
fn serve(
    socket: &UdpSocket,
    table: &BTreeMap<String, Record>,
    delay: Duration,
    stop: &AtomicBool,
    names: &Mutex<HashSet<String>>,
) {
    const LONGEST: Duration = Duration::from_millis(100);
    let (mut question, mut due) = ([0; 512], VecDeque::<(Instant, Vec<u8>, SocketAddr)>::new());
    while !stop.load(Ordering::SeqCst) {
        while due.front().is_some_and(|(time, ..)| *time <= Instant::now()) {
            let (_, answer, peer) = due.pop_front().expect("it was looked at");
            let _ = socket.send_to(&answer, peer);
        }
        let pause = due.front().map_or(LONGEST, |(time, ..)| time.saturating_duration_since(Instant::now()));
        // No time at all would be for ever.
        let pause = pause.clamp(Duration::from_micros(100), LONGEST);
        socket.set_read_timeout(Some(pause)).expect("a time limit above zero");
        let Ok((length, peer)) = socket.recv_from(&mut question) else { continue };
        let question = &question[..length];
        names.lock().unwrap_or_else(PoisonError::into_inner).insert(read_name(question, 12).0);
        due.push_back((Instant::now() + delay, answer(question, table), peer));
    }
}

/// The name under which the names of an address are found (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(address: IpAddr) -> String {
    let (mut parts, zone): (Vec<String>, _) = match address {
        IpAddr::V4(ip) => (ip.octets().iter().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), "ip6.arpa")
        }
    };
    parts.reverse();
    format!("{}.{zone}", parts.join("."))
}

/// RFC 1035 §4.1: one question, and no more than one answer.
fn answer(question: &[u8], table: &BTreeMap<String, Record>) -> Vec<u8> {
    let (name, end) = read_name(question, 12);
    let kind = u16::from_be_bytes([question[end], question[end + 1]]);
    let found = table.get(&name);
    let value = match (kind, found) {
        (PTR, Some(Record::Name(name))) => Some(write_name(name)),
        (A, Some(Record::Address(IpAddr::V4(ip)))) => Some(ip.octets().to_vec()),
        (AAAA, Some(Record::Address(IpAddr::V6(ip)))) => Some(ip.octets().to_vec()),
        _ => None,
    };
    let code = if found.is_some() { 0 } else { 3 };
    let mut out = question[..2].to_vec();
    out.extend([0x84, 0x80 | code, 0, 1, 0, u8::from(value.is_some()), 0, 0, 0, 0]);
    out.extend(&question[12..end + 4]);
    if let Some(value) = value {
        // The name is that of the question.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 1, 0x2c]);
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
    }
    out
}

/// The name at `at`, in lower case, and where it ends. Questions are not compressed.
fn read_name(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let length = usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..=at + length]).to_ascii_lowercase());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}

fn write_name(name: &str) -> Vec<u8> {
    let mut out: Vec<u8> =
        name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    out.push(0);
    out
}

//! A name server for tests: answers as a script says, and remembers what it was asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These addresses, with this TTL.
    Addresses(Vec<[u8; 4]>, u32),
    /// These names, with this TTL.
    Names(Vec<&'static str>, u32),
    /// These IPv6 addresses, with this TTL.
    Addresses6(Vec<std::net::Ipv6Addr>, u32),
    /// No such name, with an SOA that lets this be remembered for so long.
    NotListed(u32),
    /// A response code, and nothing else.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
    /// A datagram with another question, then a proper "not listed".
    Forged,
    /// Cut short over UDP; in full over TCP.
    Cut(Box<Reply>),
    /// This, once a permit is there.
    Held(Arc<Semaphore>, Box<Reply>),
}

/// A listing, with a TTL of five minutes.
pub(crate) fn listed(last: u8) -> Reply {
    Reply::Addresses(vec![[127, 0, 0, last]], 300)
}

/// What a healthy list answers to the test addresses; none for any other question.
pub(crate) fn test_address(name: &str) -> Option<Reply> {
    if name.starts_with("2.0.0.127.") {
        return Some(listed(2));
    }
    name.starts_with("1.0.0.127.").then_some(Reply::NotListed(60))
}

type Script = dyn Fn(&str) -> Reply + Send + Sync;

/// The name server. Gone when dropped.
pub(crate) struct Double {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    script: Mutex<Arc<Script>>,
    /// The names asked for over UDP, lower-cased and without the dot at the end.
    asked: watch::Sender<Vec<String>>,
}

impl Double {
    /// Starts it.
    pub(crate) async fn start(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // The same port over TCP may be taken: try another.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let shared = Arc::new(Shared { script: Mutex::new(Arc::new(script)), asked: watch::Sender::new(Vec::new()) });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&shared)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    /// Gives it another script.
    pub(crate) fn rewrite(&self, script: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock() = Arc::new(script);
    }

    /// The names it was asked for over UDP, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.borrow().clone()
    }

    /// How often it was asked for a name that ends so.
    pub(crate) fn count(&self, end: &str) -> usize {
        self.shared.asked.borrow().iter().filter(|name| name.ends_with(end)).count()
    }

    /// Waits until it has been asked for `count` names that end so.
    pub(crate) async fn until(&self, end: &str, count: usize) {
        let mut asked = self.shared.asked.subscribe();
        let enough = |names: &Vec<String>| names.iter().filter(|name| name.ends_with(end)).count() >= count;
        tokio::time::timeout(Duration::from_secs(20), asked.wait_for(enough)).await.expect("not asked").unwrap();
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 4096];
    let mut held = JoinSet::new();
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let name = name_of(&question);
        shared.asked.send_modify(|asked| asked.push(name.clone()));
        let mut reply = (shared.script.lock().clone())(&name);
        let socket = Arc::clone(&socket);
        held.spawn(async move {
            if let Reply::Held(permits, then) = reply {
                permits.acquire().await.unwrap().forget();
                reply = *then;
            }
            for message in messages(&question, &reply) {
                socket.send_to(&message.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        while held.try_join_next().is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut buffer = vec![0; usize::from(length)];
                stream.read_exact(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer).unwrap();
                let Reply::Cut(whole) = (shared.script.lock().clone())(&name_of(&question)) else { return };
                for message in messages(&question, &whole) {
                    let bytes = message.to_vec().unwrap();
                    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        });
    }
}

fn name_of(question: &Message) -> String {
    question.queries[0].name().to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn messages(question: &Message, reply: &Reply) -> Vec<Message> {
    let mut answer = question.clone().into_response();
    answer.edns = None;
    let name = question.queries[0].name().clone();
    match reply {
        Reply::Silence => return Vec::new(),
        Reply::Addresses(addresses, ttl) => {
            for &address in addresses {
                answer.add_answer(Record::from_rdata(name.clone(), *ttl, RData::A(A(address.into()))));
            }
        }
        Reply::Names(names, ttl) => {
            for target in names {
                // Its labels as they are, whatever is in them.
                let labels = target.trim_end_matches('.').split('.').map(str::as_bytes);
                let target = PTR(Name::from_labels(labels).unwrap());
                answer.add_answer(Record::from_rdata(name.clone(), *ttl, RData::PTR(target)));
            }
        }
        Reply::Addresses6(addresses, ttl) => {
            for &address in addresses {
                answer.add_answer(Record::from_rdata(name.clone(), *ttl, RData::AAAA(AAAA(address))));
            }
        }
        Reply::NotListed(ttl) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86400, *ttl);
            answer.add_authority(Record::from_rdata(name.base_name(), 86400, RData::SOA(soa)));
        }
        Reply::Code(code) => answer.metadata.response_code = *code,
        Reply::Forged => {
            let mut forged = answer.clone();
            let other = Name::from_ascii("forged.test.").unwrap();
            forged.queries = vec![Query::query(other, question.queries[0].query_type())];
            return [vec![forged], messages(question, &Reply::NotListed(60))].concat();
        }
        Reply::Cut(_) => answer.metadata.truncation = true,
        Reply::Held(_, then) => return messages(question, then),
    }
    vec![answer]
}

/// The last number of an IPv4 client, from the name of a question about it.
pub(crate) fn client_number(name: &str) -> Option<u8> {
    name.split('.').next()?.parse().ok()
}

/// The client with this number.
pub(crate) fn client(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

//! The demo's DNS list: answers for one zone, over UDP, from what it was given.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

/// The zone that it answers for.
pub(super) const ZONE: &str = "bl.demo.test";

/// How long its answers may be kept.
const TTL: u32 = 60;

/// Answers at a loopback port that the kernel chooses, for as long as the runtime runs. Listed are `listed`, and the test
/// point 127.0.0.2 (RFC 5782).
pub(super) async fn open(listed: Ipv4Addr) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?;
    let names = [listed, Ipv4Addr::new(127, 0, 0, 2)].map(name_of);
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            if let Some(answer) = question.get(..length).and_then(|question| answer(question, &names)) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Ok(address)
}

fn name_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.{ZONE}.")
}

fn answer(question: &[u8], listed: &[String]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = asked.queries.first()?.clone();
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    let name = query.name().to_ascii().to_ascii_lowercase();
    if listed.contains(&name) {
        if query.query_type() == RecordType::A {
            let hit = RData::A(A(Ipv4Addr::new(127, 0, 0, 2)));
            reply.add_answer(Record::from_rdata(query.name().clone(), TTL, hit));
        }
    } else {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    reply.add_query(query);
    reply.to_vec().ok()
}

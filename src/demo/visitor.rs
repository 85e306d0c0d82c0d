//! The demo's visitors: what each does, and how each should fare.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a visitor waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody who comes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visitor {
    /// Who it is, for the table.
    pub who: &'static str,
    /// What it does, for the table.
    pub does: &'static str,
    /// Where it comes from.
    pub from: Ipv4Addr,
    /// What it does.
    pub script: &'static [Step],
    /// How it should fare.
    pub should: Fate,
}

/// One step of a script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Say this at once.
    Say(&'static str),
    /// Wait for a reply; `""` for whatever it is. A different one ends the visit.
    Hear(&'static str),
}

/// How a visit ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Its message is with the MTA.
    Delivered,
    /// Sent away without ever meeting the MTA; by the test of this name.
    TurnedAway(&'static str),
}

use Step::{Hear, Say};

const MESSAGE: &str = "Subject: good news\r\n\r\nNothing to worry about.\r\n.\r\n";

const DELIVERY: &[Step] = &[
    Hear("220"),
    Say("EHLO mail.example.net\r\n"),
    Hear("250"),
    Say("MAIL FROM:<anna@example.net>\r\n"),
    Hear("250"),
    Say("RCPT TO:<otto@example.org>\r\n"),
    Hear("250"),
    Say("DATA\r\n"),
    Hear("354"),
    Say(MESSAGE),
    Hear("250"),
    Say("QUIT\r\n"),
    Hear("221"),
];

/// Only the backend offers PIPELINING; a stranger is never told of it.
const PIPELINED: &[Step] = &[
    Hear("220 sink.demo.test"),
    Say("EHLO mail.example.net\r\n"),
    Hear("250"),
    Say("MAIL FROM:<anna@example.net>\r\nRCPT TO:<otto@example.org>\r\nDATA\r\n"),
    Hear("250"),
    Hear("250"),
    Hear("354"),
    Say(MESSAGE),
    Hear("250"),
    Say("QUIT\r\n"),
    Hear("221"),
];

/// The first round. They come at the same time.
pub(super) const FIRST: &[Visitor] = &[
    Visitor {
        who: "spam bot",
        does: "talks first: EHLO ylmf-pc",
        from: Ipv4Addr::new(127, 0, 0, 21),
        // Behind the teaser, if it did not speak before that.
        script: &[Say("EHLO ylmf-pc\r\n"), Hear("521")],
        should: Fate::TurnedAway("pregreet"),
    },
    Visitor {
        who: "spam bot, patient",
        does: "waits, then EHLO ylmf-pc",
        from: Ipv4Addr::new(127, 0, 0, 22),
        script: &[Hear("220"), Say("EHLO ylmf-pc\r\n"), Hear("521")],
        should: Fate::TurnedAway("helo-name"),
    },
    Visitor {
        who: "listed sender",
        does: "delivers like anybody",
        from: LISTED,
        script: &[
            Hear("220"),
            Say("EHLO bulk.example.com\r\n"),
            Hear("250"),
            Say("MAIL FROM:<win@example.com>\r\n"),
            Hear("250"),
            Say("RCPT TO:<otto@example.org>\r\n"),
            Hear("550"),
            Say("QUIT\r\n"),
            Hear("221"),
        ],
        should: Fate::TurnedAway("dnsbl"),
    },
    Visitor {
        who: "web scanner",
        does: "GET / HTTP/1.1",
        from: Ipv4Addr::new(127, 0, 0, 24),
        script: &[Hear("220"), Say("GET / HTTP/1.1\r\nHost: mx.demo.test\r\n\r\n"), Hear("521")],
        should: Fate::TurnedAway("not-smtp"),
    },
    Visitor {
        who: "password guesser",
        does: "AUTH LOGIN where none is offered",
        from: Ipv4Addr::new(127, 0, 0, 25),
        script: &[
            Hear("220"),
            Say("EHLO desktop.example.com\r\n"),
            Hear("250"),
            Say("AUTH LOGIN\r\n"),
            Hear("503"),
            Say("MAIL FROM:<a@example.com>\r\n"),
            Hear("250"),
            Say("RCPT TO:<otto@example.org>\r\n"),
            Hear("550"),
            Say("QUIT\r\n"),
            Hear("221"),
        ],
        should: Fate::TurnedAway("auth-not-offered"),
    },
    Visitor {
        who: "impatient bot",
        does: "sends all its commands at once",
        from: Ipv4Addr::new(127, 0, 0, 26),
        script: &[
            Hear("220"),
            Say("EHLO fast.example.com\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<otto@example.org>\r\nQUIT\r\n"),
            Hear("250"),
            Hear("250"),
            Hear("550"),
            Hear("221"),
        ],
        should: Fate::TurnedAway("pipelining"),
    },
    Visitor {
        who: "honest stranger",
        does: "waits, delivers in one connection",
        from: HONEST,
        script: DELIVERY,
        should: Fate::Delivered,
    },
    Visitor {
        who: "your own network",
        does: "on the allow list: no wait",
        from: ALLOWED,
        script: PIPELINED,
        should: Fate::Delivered,
    },
];

/// The second: who was honest comes again.
pub(super) const SECOND: &[Visitor] = &[Visitor {
    who: "the stranger again",
    does: "remembered: no wait, PIPELINING",
    from: HONEST,
    script: PIPELINED,
    should: Fate::Delivered,
}];

/// On the demo's DNS list.
pub(super) const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 23);

/// On the demo's allow list.
pub(super) const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);

impl Visitor {
    /// Visits, and says which reply tells most (the first refusal, or else the last one before the goodbye) and whether
    /// the script was played to its end.
    pub(super) async fn visit(&self, gate: SocketAddr) -> (String, bool) {
        let mut telling = String::new();
        let played = timeout(PATIENCE, self.play(gate, &mut telling)).await;
        (telling, matches!(played, Ok(Ok(true))))
    }

    async fn play(&self, gate: SocketAddr, telling: &mut String) -> io::Result<bool> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let mut stream = socket.connect(gate).await?;
        stream.set_nodelay(true)?;
        let mut inbox = Vec::new();
        for step in self.script {
            match step {
                Say(text) => stream.write_all(text.as_bytes()).await?,
                Hear(expected) => {
                    let reply = hear(&mut stream, &mut inbox).await?;
                    let as_expected = reply.starts_with(expected);
                    if !telling.starts_with(['4', '5']) && !reply.starts_with("221") {
                        *telling = reply;
                    }
                    if !as_expected {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }
}

/// The last line of the next reply.
async fn hear(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> io::Result<String> {
    loop {
        while let Some(end) = inbox.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = inbox.drain(..=end).collect();
            let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
        if stream.read_buf(inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

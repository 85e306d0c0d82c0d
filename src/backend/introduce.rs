//! Telling a backend by XCLIENT who the client is, once it has greeted and before anything is said for the client.
//!
//! ```text
//!  connect, TLS ─► greeting ─► EHLO ─► XCLIENT … ─► 220 ─► Dialled (that 220 in the inbox: the session begins anew)
//!                   │           │         ├─ it refuses the client ─► Dialled (the refusal in the inbox)
//!                   └─ not 220  └─ no XCLIENT, no ADDR ─┴─ anything else ─► Failure
//! ```
//!
//! Whoever uses the connection finds it as a fresh one that the client made itself: a greeting, or a refusal in place of
//! it. Nothing is said for a client that could not be announced.
//!
//! | reply to XCLIENT (Postfix, `XCLIENT_README`) | means |
//! | --- | --- |
//! | 220 | done |
//! | 500–504, 555; 550 without an enhanced code or with 5.7.0 | we said it wrong, or are not trusted: our trouble |
//! | any other 4yz or 5yz, to the line with ADDR | this client is not wanted: for its own words to tell |
//! | anything else | our trouble |

use std::sync::atomic::Ordering;

use super::dial::{alone, ask};
use super::{Backend, Dialled, Failure, Visitor, next_reply};
use crate::addr;
use crate::smtp::reply::{Enhanced, Reply};
use crate::smtp::xclient::{Attribute, Attributes, Client, HostName};

impl Backend {
    /// Connects and introduces `visitor`, whose host name is looked up meanwhile; nobody, if it is for a probe.
    pub(super) async fn dial_and_introduce(
        &self,
        visitor: Option<Visitor<'_>>,
        name: impl Future<Output = HostName>,
    ) -> Result<Dialled, Failure> {
        let meet = async { self.meet().await.inspect_err(|failure| self.failed_to_reach(failure, None)) };
        let Some(visitor) = visitor else {
            let (dialled, _) = meet.await?;
            self.complained.store(false, Ordering::Relaxed);
            return Ok(dialled);
        };
        let ((dialled, announced), name) = tokio::try_join!(meet, async { Ok(name.await) })?;
        let canonical = |address: std::net::SocketAddr| (addr::canonical(address.ip()), address.port()).into();
        let (source, destination) = (canonical(visitor.client), canonical(visitor.local));
        let client = Client { source, destination, name: &name, hello: visitor.hello };
        // What comes of this may be about this client alone: whether the backend is well, probes tell.
        self.introduce(dialled, &client.commands(announced)).await.inspect_err(|failure| self.complain(failure))
    }

    /// Connects, and goes on to where XCLIENT can be said.
    async fn meet(&self) -> Result<(Dialled, Attributes), Failure> {
        let wait = self.settings.reply_timeout;
        let Dialled { mut connection, mut inbox } = self.reach(None).await?;
        let greeting = next_reply(&mut connection, &mut inbox, wait).await?;
        alone(&inbox)?;
        if greeting.number() != 220 {
            // It means gatepost: of the client it has not heard yet.
            return Err(Failure::Refused(greeting));
        }
        let mut heard = Vec::new();
        let hello = format!("EHLO {}\r\n", self.settings.hostname);
        let code = ask(&mut connection, &mut heard, hello.as_bytes(), wait).await?;
        let said = alone(&heard)?;
        if code.is_transient() {
            return Err(Failure::Refused(code));
        }
        let announced = if code.is_positive() { Attributes::announced(&said) } else { Attributes::default() };
        if !announced.has(Attribute::Addr) {
            self.complain(&Failure::NoXclient);
            return Err(Failure::NoXclient);
        }
        Ok((Dialled { connection, inbox }, announced))
    }

    async fn introduce(&self, dialled: Dialled, lines: &[String]) -> Result<Dialled, Failure> {
        let Dialled { mut connection, mut inbox } = dialled;
        for (number, line) in lines.iter().enumerate() {
            inbox.clear();
            let code = ask(&mut connection, &mut inbox, line.as_bytes(), self.settings.reply_timeout).await?;
            let said = alone(&inbox)?;
            let last = number + 1 == lines.len();
            if code.number() == 220 {
                continue;
            }
            if !last || !refuses_the_client(&said) {
                return Err(Failure::Xclient(code));
            }
        }
        Ok(Dialled { connection, inbox })
    }

    /// Says in the log that XCLIENT does not work, once from one good probe to the next: how often it works for some
    /// clients and not for others is for those to say.
    fn complain(&self, failure: &Failure) {
        let misunderstood = matches!(failure, Failure::NoXclient | Failure::Xclient(_));
        if misunderstood && !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                backend = %self.settings.address,
                %failure,
                "clients cannot be announced by XCLIENT, and get 421: is gatepost's address in the backend's \
                 smtpd_authorized_xclient_hosts?"
            );
        }
    }
}

/// Whether a reply to XCLIENT is about the client, and not about us.
fn refuses_the_client(said: &Reply<'_>) -> bool {
    match said.code.number() {
        500..=504 | 555 => false,
        550 => said.enhanced().is_some_and(|enhanced| enhanced != Enhanced(5, 7, 0)),
        _ => said.code.is_transient() || said.code.is_permanent(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::backend::{Announce, Presence, Settings};
    use crate::smtp::xclient::Hello;

    const PATIENCE: Duration = Duration::from_secs(20);

    const HELLO: &str = "250-mta\r\n250-XCLIENT NAME ADDR PORT HELO\r\n250 SIZE 9\r\n";

    const LINE: &str = "XCLIENT HELO=client.example PORT=40000 NAME=a.example ADDR=192.0.2.7\r\n";

    fn visitor() -> Visitor<'static> {
        let hello = Some(Hello { extended: true, name: b"client.example" });
        let (client, local) = ("[::ffff:192.0.2.7]:40000".parse().unwrap(), "198.51.100.25:25".parse().unwrap());
        Visitor { hello, ..Visitor::new(client, local) }
    }

    async fn backend(reply_timeout: Duration) -> (TcpListener, Arc<Backend>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Backend::new(Settings {
            address: listener.local_addr().unwrap().to_string(),
            hostname: "mx.example.com".into(),
            announce: Announce::Xclient,
            tls: None,
            connect_timeout: PATIENCE,
            reply_timeout,
            probe_interval: PATIENCE,
        });
        (listener, backend)
    }

    /// Says each of `words` in turn, and hears a line behind each; what was heard. Then closes.
    async fn play(listener: &TcpListener, words: &[&str]) -> Vec<String> {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("nobody comes").unwrap();
        let mut stream = BufReader::new(stream);
        let mut heard = Vec::new();
        for said in words {
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut line = String::new();
            let read = timeout(PATIENCE, stream.read_line(&mut line)).await.expect("nothing is said").unwrap_or(0);
            if read == 0 {
                break;
            }
            heard.push(line);
        }
        heard
    }

    /// What comes of dialling for `visitor`: the inbox, or the failure; whether the backend counts as away; what it heard.
    async fn dial(words: &[&str], name: HostName) -> (Result<String, Failure>, bool, Vec<String>) {
        let (listener, backend) = backend(PATIENCE).await;
        let dialled = async {
            let dialled = backend.dial_named(Some(visitor()), std::future::ready(name)).await;
            dialled.map(|dialled| String::from_utf8(dialled.inbox).unwrap())
        };
        let (dialled, heard) = tokio::join!(dialled, play(&listener, words));
        (dialled, backend.presence() == Presence::Away, heard)
    }

    #[tokio::test]
    async fn the_last_220_is_the_greeting() {
        let words = ["220 first\r\n", HELLO, "220-second\r\n220 greeting\r\n"];
        let (dialled, away, heard) = dial(&words, HostName::verified("a.example").unwrap()).await;
        assert_eq!(dialled.unwrap(), "220-second\r\n220 greeting\r\n");
        assert_eq!((away, heard), (false, vec!["EHLO mx.example.com\r\n".to_owned(), LINE.to_owned()]));
    }

    #[tokio::test]
    async fn a_client_that_is_refused_hears_so_and_any_other_trouble_is_ours() {
        let hello = HELLO;
        // What the backend says; what is left for the client to hear, or what the failure says; whether it is away.
        let rows: &[(&[&str], Result<&str, &str>, bool)] = &[
            (&["220 a\r\n", hello, "554 5.7.1 not you\r\n"], Ok("554 5.7.1 not you\r\n"), false),
            (&["220 a\r\n", hello, "550 5.7.1 not you\r\n"], Ok("550 5.7.1 not you\r\n"), false),
            (&["220 a\r\n", hello, "450 4.7.25 no name\r\n"], Ok("450 4.7.25 no name\r\n"), false),
            (&["220 a\r\n", hello, "421 4.7.0 too many\r\n"], Ok("421 4.7.0 too many\r\n"), false),
            (&["220 a\r\n", hello, "501 5.5.4 bad\r\n"], Err("XCLIENT with 501"), false),
            (&["220 a\r\n", hello, "503 5.5.1 out of order\r\n"], Err("XCLIENT with 503"), false),
            (&["220 a\r\n", hello, "550 5.7.0 insufficient authorization\r\n"], Err("XCLIENT with 550"), false),
            (&["220 a\r\n", hello, "550 insufficient authorization\r\n"], Err("XCLIENT with 550"), false),
            (&["220 a\r\n", hello, "250 fine\r\n"], Err("XCLIENT with 250"), false),
            (&["220 a\r\n", hello, "354 go on\r\n"], Err("XCLIENT with 354"), false),
            (&["220 a\r\n", hello, "220 b\r\n250 and more\r\n"], Err("no SMTP reply"), false),
            (&["220 a\r\n", hello, "what\r\n"], Err("no SMTP reply"), false),
            (&["220 a\r\n", hello], Err("closed where a reply was due"), false),
            (&["220 a\r\n", "250-mta\r\n250 SIZE 9\r\n"], Err("does not offer XCLIENT"), true),
            (&["220 a\r\n", "250-mta\r\n250 XCLIENT NAME\r\n"], Err("does not offer XCLIENT"), true),
            (&["220 a\r\n", "502 what is EHLO?\r\n"], Err("does not offer XCLIENT"), true),
            (&["220 a\r\n", "421 too many of you\r\n"], Err("it refuses with 421"), true),
            (&["220 a\r\n", "250-mta\r\n250 XCLIENT ADDR\r\n220 early\r\n"], Err("no SMTP reply"), true),
            (&["220 a\r\n250 early\r\n"], Err("no SMTP reply"), true),
            // It refuses gatepost, and of the client it knows nothing.
            (&["554 5.7.1 not you\r\n"], Err("it refuses with 554"), true),
        ];
        for (words, comes_of_it, is_away) in rows {
            let (dialled, away, heard) = dial(words, HostName::verified("a.example").unwrap()).await;
            match (dialled, comes_of_it) {
                (Ok(inbox), Ok(left)) => assert_eq!(inbox, *left),
                (Err(failure), Err(says)) => assert!(failure.to_string().contains(says), "{words:?}: {failure}"),
                (dialled, _) => panic!("{words:?}: {dialled:?}"),
            }
            assert_eq!(away, *is_away, "{words:?}");
            assert!(heard.iter().all(|line| line.starts_with("EHLO mx.example.com") || line == LINE), "{heard:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_does_not_answer_xclient_has_a_deadline() {
        let wait = Duration::from_secs(7);
        let (listener, backend) = backend(wait).await;
        let mute = async {
            let heard = play(&listener, &["220 a\r\n", HELLO, ""]).await;
            assert_eq!(heard.len(), 2);
        };
        let (dialled, ()) = tokio::join!(backend.dial(Some(visitor())), mute);
        assert!(matches!(dialled, Err(Failure::ReplyTimeout(waited)) if waited == wait), "{dialled:?}");
        assert_ne!(backend.presence(), Presence::Away, "it may be about this client");
    }

    /// Clients whose names the backend does not like must not fill the log, by turns with others.
    #[tokio::test]
    async fn the_log_is_told_once_from_one_good_probe_to_the_next() {
        let (listener, backend) = backend(PATIENCE).await;
        let told = || backend.complained.load(Ordering::Relaxed);
        for (answer, after) in [("501 bad\r\n", true), ("220 b\r\n", true), ("501 bad\r\n", true)] {
            let words = ["220 a\r\n", HELLO, answer];
            let dialled = async { drop(backend.dial(Some(visitor())).await) };
            tokio::join!(dialled, play(&listener, &words));
            assert_eq!(told(), after, "{answer}");
        }
        let probe = async { drop(backend.dial(None).await) };
        tokio::join!(probe, play(&listener, &["220 a\r\n", HELLO]));
        assert!(!told());
    }

    #[tokio::test]
    async fn what_takes_two_lines_is_said_in_two() {
        let long = [&b"a"[..]; 128].join(&b'.');
        let name = String::from_utf8(long.clone()).unwrap();
        for (first, good) in [("220 go on\r\n", true), ("550 5.7.1 no\r\n", false)] {
            let (listener, backend) = backend(PATIENCE).await;
            let visitor = Visitor { hello: Some(Hello { extended: true, name: &long }), ..visitor() };
            let name = std::future::ready(HostName::verified(&name).unwrap());
            let words = ["220 a\r\n", HELLO, first, "220 b\r\n"];
            let dialled = async { backend.dial_named(Some(visitor), name).await.map(|dialled| dialled.inbox) };
            let (dialled, heard) = tokio::join!(dialled, play(&listener, &words));
            match dialled {
                Ok(inbox) if good => assert_eq!(inbox, b"220 b\r\n"),
                // It knows nothing of the client yet.
                Err(Failure::Xclient(_)) if !good => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(heard.iter().filter(|line| line.starts_with("XCLIENT ")).count(), if good { 2 } else { 1 });
            assert!(heard.iter().all(|line| line.len() <= 512));
        }
    }

    #[tokio::test]
    async fn a_name_is_waited_for_beside_the_connecting_and_not_after_it_failed() {
        let (listener, backend) = backend(PATIENCE).await;
        let never = std::future::pending();
        let (dialled, _) = tokio::join!(backend.dial_named(Some(visitor()), never), play(&listener, &["554 no\r\n"]));
        assert!(matches!(dialled, Err(Failure::Refused(_))), "{dialled:?}");
    }

    #[tokio::test]
    async fn a_probe_looks_for_xclient_and_says_none() {
        let (listener, backend) = backend(PATIENCE).await;
        let words = ["220 a\r\n", HELLO, HELLO, "221 bye\r\n"];
        let (probed, heard) = tokio::join!(backend.probe("mx.example.com"), play(&listener, &words));
        probed.unwrap();
        assert_eq!(heard, ["EHLO mx.example.com\r\n", "EHLO mx.example.com\r\n", "QUIT\r\n"]);
        assert_eq!(backend.presence(), Presence::There);
        let words = ["220 a\r\n", "250-mta\r\n250 SIZE 9\r\n"];
        let (probed, _) = tokio::join!(backend.probe("mx.example.com"), play(&listener, &words));
        assert!(matches!(probed, Err(Failure::NoXclient)), "{probed:?}");
        assert_eq!(backend.presence(), Presence::Away);
    }
}

//! A conversation with a backend, the gate's way: dialled and announced as the gate does it, one command at a time, under
//! the gate's own deadlines. Nothing of it ever gets as far as DATA.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::backend::{self, Backend, Connection, Dialled, Failure, Visitor, next_reply};
use crate::journal::text::escape;
use crate::smtp::reply::{self, Code, Parsed, Reply};

/// How many lines of a reply are shown, and how many characters of each.
const SHOWN: (usize, usize) = (3, 160);

/// How long the other side has for its answer to QUIT.
const FAREWELL: Duration = Duration::from_secs(1);

/// A conversation.
pub(super) struct Talk {
    /// The connection.
    pub connection: Connection,
    inbox: Vec<u8>,
    wait: Duration,
}

/// A whole reply.
pub(super) struct Said {
    pub code: Code,
    raw: Vec<u8>,
    pub took: Duration,
}

/// How long is looked for what is not due, before each command. An MTA that says more than it is asked is out of step, and
/// its answers would be taken for those to other questions.
const STEP: Duration = Duration::from_millis(1);

/// What came where nothing was due.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Surplus {
    Nothing,
    /// More; escaped.
    More(String),
    /// The end of the connection, without another word.
    End,
}

impl Talk {
    /// Connects, announces `visitor` (gatepost itself if there is none), and begins TLS, all as `settings` say.
    pub(super) async fn begin(settings: &backend::Settings, visitor: Option<Visitor<'_>>) -> Result<Self, Failure> {
        let wait = settings.reply_timeout;
        let Dialled { connection, inbox } = Backend::new(settings.clone()).dial(visitor).await?;
        Ok(Self { connection, inbox, wait })
    }

    /// The next reply: the greeting, at first.
    pub(super) async fn hear(&mut self) -> Result<Said, Failure> {
        let begin = Instant::now();
        let code = next_reply(&mut self.connection, &mut self.inbox, self.wait).await?;
        let Parsed::Complete(reply) = reply::parse(&self.inbox) else { return Err(Failure::NotSmtp) };
        let length = reply.raw.len();
        let rest = self.inbox.split_off(length);
        Ok(Said { code, raw: std::mem::replace(&mut self.inbox, rest), took: begin.elapsed() })
    }

    /// Says a command, and hears its reply.
    pub(super) async fn say(&mut self, command: &str) -> Result<Said, Failure> {
        debug_assert!(!command.contains(['\r', '\n']), "a command is one line");
        match self.surplus(STEP).await {
            Surplus::Nothing => {}
            Surplus::More(_) => return Err(Failure::NotSmtp),
            Surplus::End => return Err(Failure::Closed),
        }
        let send = async {
            self.connection.write_all(command.as_bytes()).await?;
            self.connection.write_all(b"\r\n").await?;
            self.connection.flush().await
        };
        match timeout(self.wait, send).await {
            Ok(sent) => sent.map_err(Failure::Broken)?,
            Err(_) => return Err(Failure::ReplyTimeout(self.wait)),
        }
        self.hear().await
    }

    /// What comes `within` that time although nothing is due.
    pub(super) async fn surplus(&mut self, within: Duration) -> Surplus {
        if self.inbox.is_empty() {
            match timeout(within, self.connection.read_buf(&mut self.inbox)).await {
                Err(_) => return Surplus::Nothing,
                Ok(Ok(0) | Err(_)) => return Surplus::End,
                Ok(Ok(_)) => {}
            }
        }
        let line = self.inbox.split(|&byte| byte == b'\n').next().unwrap_or_default();
        Surplus::More(escape(line.trim_ascii(), SHOWN.1))
    }

    /// Says QUIT, and waits for the answer a little: nothing hangs on it.
    pub(super) async fn leave(mut self) {
        self.wait = FAREWELL;
        let _ = self.say("QUIT").await;
    }

    /// Hears the greeting and leaves, where all that mattered was to get there.
    pub(super) async fn greet_and_leave(mut self) {
        if self.hear().await.is_ok() {
            self.leave().await;
        }
    }

    /// Both ends of the connection: ours, the backend's.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let tcp = match &self.connection {
            Connection::Plain(tcp) => tcp,
            Connection::Tls(tls) => tls.get_ref().0,
        };
        Some((tcp.local_addr().ok()?, tcp.peer_addr().ok()?))
    }
}

impl Said {
    /// The reply. It was one when it came.
    pub(super) fn reply(&self) -> Reply<'_> {
        Reply { code: self.code, raw: &self.raw }
    }

    /// Its first lines, safe to show.
    pub(super) fn shown(&self) -> String {
        let (most, cap) = SHOWN;
        let mut lines: Vec<String> = self.reply().lines().take(most).map(|line| escape(line, cap)).collect();
        if self.reply().lines().nth(most).is_some() {
            lines.push("…".to_owned());
        }
        format!("{} {}", self.code, lines.join(" / ")).trim_end().to_owned()
    }

    /// Its text in lower case, to look for words in.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.raw).to_ascii_lowercase()
    }
}

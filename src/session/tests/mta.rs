//! A backend double: says what its script has, and remembers what it heard.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What an MTA does about a line.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// It says this, which may be several lines.
    Say(&'static str),
    /// It says nothing, and goes on listening.
    Silence,
    /// It says this, and closes.
    Leave(&'static str),
}

/// What it does about each line. The first one is the PROXY header, and what it says to that is its greeting.
type Script = dyn Fn(&str) -> Act + Send + Sync;

/// What MTAs of today offer, and what gatepost must not let through.
pub(super) const EHLO: &str = "250-mta.example.com greets you\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-ETRN\r\n\
    250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n\
    250-XCLIENT NAME ADDR\r\n250-XFORWARD NAME\r\n250-PIPECONNECT\r\n250-XEXCH50\r\n250-X-ANONYMOUSTLS\r\n\
    250-X-EXPS GSSAPI\r\n250-PRDR\r\n250 CHUNKING\r\n";

/// Stands for the header in a script.
pub(super) const PROXY: &str = "PROXY";

/// An MTA that takes everything.
pub(super) fn honest(line: &str) -> Act {
    let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
    match verb.as_str() {
        "PROXY" => Act::Say("220 mta.example.com ESMTP\r\n"),
        "EHLO" => Act::Say(EHLO),
        "HELO" => Act::Say("250 mta.example.com\r\n"),
        "DATA" => Act::Say("354 go on\r\n"),
        "." => Act::Say("250 2.0.0 queued by the backend\r\n"),
        "QUIT" => Act::Leave("221 2.0.0 the backend says bye\r\n"),
        "MAIL" | "RCPT" | "RSET" | "NOOP" => Act::Say("250 2.0.0 fine with the backend\r\n"),
        // Mail data, mostly.
        _ => Act::Silence,
    }
}

/// The MTA. Gone when dropped.
pub(super) struct Mta {
    pub address: SocketAddr,
    heard: watch::Sender<Vec<Vec<String>>>,
    script: Arc<Mutex<Arc<Script>>>,
    _task: JoinSet<()>,
}

impl Mta {
    /// Starts it. It expects a PROXY header of version 1.
    pub(super) async fn start(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let heard = watch::Sender::new(Vec::new());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::clone(&script), heard.clone()));
        Self { address, heard, script, _task: task }
    }

    /// Gives it another script.
    pub(super) fn rewrite(&self, script: impl Fn(&str) -> Act + Send + Sync + 'static) {
        *self.script.lock() = Arc::new(script);
    }

    /// What each connection has said, line by line, the PROXY header first.
    pub(super) fn heard(&self) -> Vec<Vec<String>> {
        self.heard.borrow().clone()
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Arc<Script>>>, heard: watch::Sender<Vec<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut index = 0;
        heard.send_modify(|all| {
            index = all.len();
            all.push(Vec::new());
        });
        connections.spawn(converse(stream, index, Arc::clone(&script), heard.clone()));
    }
}

async fn converse(
    stream: TcpStream,
    index: usize,
    script: Arc<Mutex<Arc<Script>>>,
    heard: watch::Sender<Vec<Vec<String>>>,
) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|n| n > 0) {
        let said = line.trim_end_matches("\r\n").to_owned();
        heard.send_modify(|all| all[index].push(said.clone()));
        line.clear();
        let act = (script.lock().clone())(if said.starts_with("PROXY ") { PROXY } else { &said });
        match act {
            Act::Silence => {}
            Act::Say(words) => {
                if stream.write_all(words.as_bytes()).await.is_err() {
                    return;
                }
            }
            Act::Leave(words) => {
                let _ = stream.write_all(words.as_bytes()).await;
                return;
            }
        }
    }
}

//! One question to a running gatepost, through its socket.
//!
//! Every answer has a deadline and a longest length; those of `state` are streamed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::admin::api::BASE;
use crate::control::answer;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long all that is remembered may take.
pub(super) const LONG: Duration = Duration::from_secs(10 * 60);

/// The longest answer.
const LONGEST: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nobody listens.
    Away(PathBuf, io::Error),
    /// The socket may not be opened.
    Barred(PathBuf),
    /// It took too long, or broke off.
    Broken(String),
    /// gatepost refuses.
    Refused(StatusCode, answer::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(path, error) => write!(
                f,
                "no gatepost answers at {}: {error}; see whether it runs (systemctl status gatepost), and that `socket` in \
                 [control], --socket or GATEPOST_SOCKET name its socket",
                path.display()
            ),
            Self::Barred(path) => write!(
                f,
                "this user may not use {}; run it as root, or join the socket's group (ls -l {0}; `group` in [control])",
                path.display()
            ),
            Self::Broken(why) => write!(f, "gatepost gave no sound answer: {why}; see its log"),
            Self::Refused(_, answer::Error { error, remedy }) => write!(f, "{error}; {remedy}"),
        }
    }
}

/// A socket of a running gatepost.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
}

impl Client {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Whether nobody listens, for sure.
    pub(super) async fn is_away(&self) -> bool {
        let connected = timeout(DEADLINE, UnixStream::connect(&self.path)).await;
        matches!(connected, Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }

    /// Asks, and answers the text of the answer.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, Failed> {
        self.ask(Method::GET, path, None).await
    }

    /// Asks for a change.
    pub(super) async fn post(&self, path: &str, wish: &serde_json::Value) -> Result<Bytes, Failed> {
        self.ask(Method::POST, path, Some(("application/json", wish.to_string().into()))).await
    }

    async fn ask(&self, method: Method, path: &str, content: Option<(&str, Bytes)>) -> Result<Bytes, Failed> {
        let (kind, body) = content.unwrap_or_default();
        let asked = async { whole(self.send(method, path, kind, Full::new(body)).await?).await };
        timeout(DEADLINE, asked).await.map_err(|_| Failed::Broken(format!("none within {DEADLINE:?}")))?
    }

    /// Sends a request with any body, and gives the answer as it comes; refusals are read.
    pub(super) async fn send<B>(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: B,
    ) -> Result<Response<Incoming>, Failed>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| cannot_connect(&self.path, error))?;
        let broken = |error: &dyn fmt::Display| Failed::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // It ends with the answer.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(format!("{BASE}{path}"));
        let request = request.header(HOST, "gatepost").header(CONNECTION, "close");
        let request = if kind.is_empty() { request } else { request.header(CONTENT_TYPE, kind) };
        let request = request.body(body).map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = whole(response).await?;
        let error = serde_json::from_slice(&text).unwrap_or_else(|_| answer::Error {
            error: format!("it answered {status}"),
            remedy: "perhaps something else listens at the socket, or another version of gatepost".to_owned(),
        });
        Err(Failed::Refused(status, error))
    }
}

/// What an answer says.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(text).map_err(|reason| Failed::Broken(format!("it is of another version: {reason}")))
}

pub(super) async fn whole(response: Response<Incoming>) -> Result<Bytes, Failed> {
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| Failed::Broken(error.to_string()))
}

fn cannot_connect(path: &Path, error: io::Error) -> Failed {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Failed::Barred(path.to_owned())
    } else {
        Failed::Away(path.to_owned(), error)
    }
}

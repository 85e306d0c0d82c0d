//! Handoff: a client that has passed gets the backend, and the backend gets the client, with the dialogue so far replayed
//! to it one command at a time.
//!
//! Only what brings the backend to where the client is gets replayed: HELO or EHLO, and MAIL where a transaction is
//! open, both with the client's own parameters. The command at which it was decided is not answered here: it is still
//! unread when the relay begins, and the backend's reply to it goes to the client.
//!
//! | the backend | the client hears |
//! | --- | --- |
//! | is away, breaks off, or says what is no reply | 421 |
//! | refuses to greet, or refuses EHLO or MAIL | that refusal, as the answer to its command |
//! | no longer offers what the client has already used | 421 |

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Guest;
use crate::backend::{Connection, Dialled, Failure, Visitor, next_reply};
use crate::journal::Outcome;
use crate::metrics::BackendFailure;
use crate::relay::ending::{BackendFault, End, ProtocolFault, Wait};
use crate::relay::{self, Opening};
use crate::smtp::ehlo::{Keywords, Offer};
use crate::smtp::reply::{self, Code, Parsed};
use crate::smtp::xclient::Hello;

/// A backend that is where the client is.
pub(super) struct Ready {
    pub backend: Connection,
    /// What it has said that the client has not heard.
    pub backend_bytes: Vec<u8>,
    pub opening: Opening,
    /// The HELO or EHLO that it has accepted: whether it was EHLO, and the name.
    pub hello: Option<(bool, Box<[u8]>)>,
}

/// What there is to replay.
pub(super) struct Replay<'a> {
    /// The client's HELO or EHLO.
    pub hello: Hello<'a>,
    /// Its MAIL command without the line ending, where a transaction is open.
    pub mail: Option<&'a [u8]>,
    /// What it was told in the EHLO reply.
    pub told: Keywords,
    /// What of that it has used.
    pub used: Keywords,
    /// Where TLS with it ends.
    pub tls: relay::Tls,
}

/// What came of a replay.
pub(super) enum Handoff {
    Ready(Ready),
    /// The backend does not want it: its reply, line endings made CRLF.
    Refused {
        reply: Vec<u8>,
        /// Whether the client can say nothing more after that.
        closing: bool,
    },
    Failed(Trouble),
}

/// Why there is no backend for the client. Never its own fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the backend: {0}")]
    Backend(#[from] Failure),
    #[error("the backend greets with {0}")]
    Greeting(Code),
    #[error("the backend no longer offers what the client has used; its keywords were learned anew")]
    Drifted,
}

impl Trouble {
    /// What it counts as.
    pub(super) fn kind(&self) -> BackendFailure {
        match self {
            Self::Backend(failure) => match failure {
                Failure::Resolve(_) => BackendFailure::Resolve,
                Failure::Connect(_) | Failure::Unshown(_) => BackendFailure::Connect,
                Failure::ConnectTimeout(_) | Failure::ReplyTimeout(_) => BackendFailure::Timeout,
                Failure::Announce(_) | Failure::Broken(_) | Failure::Closed => BackendFailure::Closed,
                Failure::Refused(_) => BackendFailure::Refused,
                Failure::NotSmtp | Failure::BehindStartTls | Failure::NoXclient | Failure::Xclient(_) => {
                    BackendFailure::Protocol
                }
                Failure::NoTls | Failure::Handshake(_) => BackendFailure::Tls,
            },
            Self::Greeting(_) => BackendFailure::Refused,
            Self::Drifted => BackendFailure::Protocol,
        }
    }

    /// Whether the backend was connected to.
    pub(super) fn reached(&self) -> bool {
        use Failure::{Connect, ConnectTimeout, Resolve, Unshown};
        !matches!(self, Self::Backend(Resolve(_) | Connect(_) | ConnectTimeout(_) | Unshown(_)))
    }
}

/// For a client that has not been spoken to: the backend's greeting is still to come, and is the client's. Where a
/// greeting has been begun with a teaser, only one that continues it will do.
pub(super) async fn direct(guest: &Guest, visitor: Visitor<'_>, teased: bool) -> Result<Ready, Trouble> {
    let backend = &guest.gate.backend;
    let dialled = backend.dial_named(Some(visitor), guest.host_name()).await?;
    let Dialled { mut connection, inbox: mut backend_bytes } = dialled;
    if teased {
        let wait = backend.settings().reply_timeout;
        let code = next_reply(&mut connection, &mut backend_bytes, wait).await?;
        if code.number() != 220 {
            return Err(Trouble::Greeting(code));
        }
    }
    Ok(Ready { backend: connection, backend_bytes, opening: Opening::Greeting, hello: None })
}

/// For a client that has begun TLS in the middle of a relay: a backend that nothing has been said to. Its greeting is
/// nobody's, since the client has had one.
pub(super) async fn anew(guest: &Guest, visitor: Visitor<'_>) -> Result<Connection, Trouble> {
    let backend = &guest.gate.backend;
    let Dialled { mut connection, mut inbox } = backend.dial_named(Some(visitor), guest.host_name()).await?;
    let code = next_reply(&mut connection, &mut inbox, backend.settings().reply_timeout).await?;
    if code.number() != 220 {
        return Err(Trouble::Greeting(code));
    }
    take_reply(&mut inbox)?;
    if !inbox.is_empty() {
        // It answers what it was not asked.
        return Err(Failure::NotSmtp.into());
    }
    Ok(connection)
}

/// For a client that gatepost has spoken with.
pub(super) async fn replay(guest: &Guest, visitor: Visitor<'_>, replay: Replay<'_>) -> Handoff {
    match try_replay(guest, visitor, &replay).await {
        Ok(handoff) => handoff,
        Err(trouble) => Handoff::Failed(trouble),
    }
}

async fn try_replay(guest: &Guest, visitor: Visitor<'_>, replay: &Replay<'_>) -> Result<Handoff, Trouble> {
    let backend = &guest.gate.backend;
    let wait = backend.settings().reply_timeout;
    let visitor = Visitor { hello: Some(replay.hello), ..visitor };
    let Dialled { mut connection, mut inbox } = backend.dial_named(Some(visitor), guest.host_name()).await?;

    let greeting = next_reply(&mut connection, &mut inbox, wait).await?;
    if greeting.number() != 220 {
        return refusal(&inbox, true);
    }
    take_reply(&mut inbox)?;

    let Hello { extended, name } = replay.hello;
    let verb: &[u8] = if extended { b"EHLO " } else { b"HELO " };
    let hello = ask(&mut connection, &mut inbox, &[verb, name], guest).await?;
    if !hello.is_positive() {
        return refusal(&inbox, false);
    }
    let offer = match reply::parse(&inbox) {
        Parsed::Complete(said) if extended => Offer::read(&said),
        _ => Offer::default(),
    };
    take_reply(&mut inbox)?;
    if extended {
        backend.learn(&offer);
    }
    if !offer.keywords.covers(replay.used) {
        return Err(Trouble::Drifted);
    }

    if let Some(mail) = replay.mail {
        let answer = ask(&mut connection, &mut inbox, &[mail], guest).await?;
        if !answer.is_positive() {
            return refusal(&inbox, false);
        }
        take_reply(&mut inbox)?;
    }
    let offered = replay.told.and(replay.tls.shown(offer).keywords);
    let opening = Opening::Dialogue { offered, transaction: replay.mail.is_some() };
    let hello = Some((extended, name.into()));
    Ok(Handoff::Ready(Ready { backend: connection, backend_bytes: inbox, opening, hello }))
}

/// Sends one command, in one write, and waits for its reply; nothing may have come before.
async fn ask(
    connection: &mut Connection,
    inbox: &mut Vec<u8>,
    parts: &[&[u8]],
    guest: &Guest,
) -> Result<Code, Failure> {
    if !inbox.is_empty() {
        // It answers what it was not asked. From here on nobody could say which reply belongs to which command.
        return Err(Failure::NotSmtp);
    }
    let mut line = parts.concat();
    line.extend_from_slice(b"\r\n");
    let wait = guest.gate.backend.settings().reply_timeout;
    let said = async {
        connection.write_all(&line).await?;
        connection.flush().await
    };
    timeout(wait, said).await.map_err(|_| Failure::ReplyTimeout(wait))?.map_err(Failure::Broken)?;
    next_reply(connection, inbox, wait).await
}

/// Takes the reply at the front of `inbox` off it.
fn take_reply(inbox: &mut Vec<u8>) -> Result<(), Failure> {
    match reply::parse(inbox) {
        Parsed::Complete(said) => {
            let length = said.raw.len();
            inbox.drain(..length);
            Ok(())
        }
        Parsed::Incomplete | Parsed::Malformed => Err(Failure::NotSmtp),
    }
}

fn refusal(inbox: &[u8], closing: bool) -> Result<Handoff, Trouble> {
    let Parsed::Complete(said) = reply::parse(inbox) else { return Err(Failure::NotSmtp.into()) };
    if !said.code.is_transient() && !said.code.is_permanent() {
        // A 2yz or 3yz where neither makes sense.
        return Err(Failure::NotSmtp.into());
    }
    let mut reply = Vec::with_capacity(said.raw.len());
    said.write_to(&mut reply);
    Ok(Handoff::Refused { reply, closing: closing || said.code.number() == 421 })
}

/// The backend's fault that ended a relay, if one did.
pub(super) fn fault(end: &End) -> Option<BackendFailure> {
    match end {
        End::BackendEof => Some(BackendFailure::Closed),
        End::BackendRefused(_) => Some(BackendFailure::Refused),
        End::BackendFault(_) => Some(BackendFailure::Protocol),
        End::TimedOut(Wait::Reply | Wait::EndOfData | Wait::BackendWrite) => Some(BackendFailure::Timeout),
        // Among others, `NoBackend`: there is a `Trouble` that tells more.
        _ => None,
    }
}

/// What the end of the relay means for the visit.
pub(super) fn outcome(end: &End) -> Outcome {
    match end {
        End::Quit | End::ClientEof | End::ClientReset | End::Opaque => Outcome::Relayed,
        // The backend has said why, in its own words.
        End::BackendRefused(_) => Outcome::Relayed,
        End::BackendEof | End::BackendFault(_) | End::NoBackend => Outcome::BackendFailed,
        End::TimedOut(Wait::Reply | Wait::EndOfData | Wait::BackendWrite) => Outcome::BackendFailed,
        End::TimedOut(
            Wait::Command | Wait::Data | Wait::DataRate | Wait::Envelope | Wait::ClientWrite | Wait::Idle,
        ) => Outcome::TimedOut,
        End::ProtocolFault(
            ProtocolFault::TooManyErrors
            | ProtocolFault::TooManyCommands
            | ProtocolFault::AuthFailures
            | ProtocolFault::AuthRefused
            | ProtocolFault::AuthLines,
        ) => Outcome::Limited,
        End::ProtocolFault(_) | End::NoTls => Outcome::ProtocolFault,
        End::Shutdown => Outcome::Shutdown,
    }
}

/// What there is to say of the end of the relay, where it was not an ordinary one.
pub(super) fn note(end: &End) -> Option<String> {
    let text = match end {
        End::Quit | End::ClientEof | End::Opaque | End::Shutdown => return None,
        End::NoTls => "the TLS handshake failed",
        End::NoBackend => "there was no backend for what follows TLS",
        End::ClientReset => "the client broke off in the middle of something",
        End::BackendEof => "the backend closed the connection",
        End::BackendRefused(code) => return Some(format!("the backend ended it with {code}")),
        End::BackendFault(fault) => match fault {
            BackendFault::Malformed => "the backend said something that is no SMTP reply",
            BackendFault::Unsolicited => "the backend replied where nothing was asked",
            BackendFault::Early => "the backend replied to mail data before its end",
            BackendFault::Unexpected(code) => {
                return Some(format!("the backend replied {code} where that means nothing"));
            }
            BackendFault::BehindStartTls => "the backend said more in the clear behind its 220 to STARTTLS",
        },
        End::ProtocolFault(fault) => match fault {
            ProtocolFault::LineTooLong => "a command line over the limit",
            ProtocolFault::TooManyErrors => "too many errors",
            ProtocolFault::TooManyCommands => "too many commands from one message to the next",
            ProtocolFault::Chunk => "BDAT that was not offered, or without a size",
            ProtocolFault::AuthLine => "a line of an AUTH exchange that is none",
            ProtocolFault::AuthLines => "too many lines in one AUTH exchange",
            ProtocolFault::AuthFailures => "too many failed AUTH exchanges",
            ProtocolFault::AuthRefused => "AUTH by a client that may not try it now",
            ProtocolFault::BehindStartTls => "bytes in the clear behind STARTTLS",
            ProtocolFault::BehindData => "bytes behind a DATA that was refused",
            ProtocolFault::NoHello => "DATA or BDAT without EHLO after TLS had begun",
            ProtocolFault::BareLf => "a bare LF in mail data, which is refused here",
        },
        End::TimedOut(wait) => match wait {
            Wait::Command => "the client sent no command in time",
            Wait::Data => "the client sent no mail data in time",
            Wait::DataRate => "the client sent mail data too slowly",
            Wait::Envelope => "the client took too long over its commands from one message to the next",
            Wait::Reply => "the backend did not reply in time",
            Wait::EndOfData => "the backend did not reply to the end of data in time",
            Wait::ClientWrite => "the client took what it was told too slowly, or not at all",
            Wait::BackendWrite => "the backend took what the client sent too slowly, or not at all",
            Wait::Idle => "neither side said anything in time after TLS had begun",
        },
    };
    Some(text.to_owned())
}

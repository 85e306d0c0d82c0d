//! What a relay tells of itself: events while it runs, tallies, and how it ended. All closed, nothing from the wire in
//! them but reply codes.

use crate::smtp::data;
use crate::smtp::reply::{Code, Enhanced, Reply};

/// Something that whoever counts may want to know at once, not at the end of a long connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The backend took a message: a 2yz reply to the end of data or to the last chunk.
    MessageAccepted,
    /// The backend accepted a recipient.
    RecipientAccepted,
    /// The backend refused a recipient.
    RecipientRefused(Refusal),
    /// An AUTH exchange is over.
    AuthFinished {
        /// The backend's final reply code; 235 is success.
        code: Code,
        /// What it means for whoever counts attempts.
        outcome: AuthOutcome,
    },
    /// The client tried AUTH where it is withheld. The attempt reached no backend.
    AuthNotOffered,
    /// TLS begins between client and backend: from here on nothing is watched.
    Opaque,
}

/// What an AUTH exchange came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthOutcome {
    /// 2yz: the client is who it says it is.
    Succeeded,
    /// 535, or IceWarp's 501 5.7.0: the credentials were wrong. Also any 5yz once the backend has met complete credentials
    /// with another challenge, as OAuth mechanisms are refused, even if the client cancels then.
    Failed,
    /// The client cancelled, or the backend would not or could not judge (454, 501, 504, 530, 534, 538, …), or the
    /// connection ended before it had, and that was not the client's doing.
    Undecided,
    /// The client broke off when all was said, and did not wait for the verdict. Who takes a slow reply for a refusal
    /// guesses so without ever being refused.
    Abandoned,
}

/// A 4yz or 5yz reply of the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Its code.
    pub code: Code,
    /// Its enhanced status code, if it has one.
    pub enhanced: Option<Enhanced>,
}

impl Refusal {
    /// The refusal in `reply`, if it is one.
    pub(super) fn read(reply: &Reply<'_>) -> Option<Self> {
        (!reply.code.is_positive() && !reply.code.is_intermediate())
            .then(|| Self { code: reply.code, enhanced: reply.enhanced() })
    }
}

/// What a relay has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Messages that the backend took.
    pub messages: u64,
    /// Recipients that the backend accepted.
    pub recipients_accepted: u64,
    /// Recipients that it refused.
    pub recipients_refused: u64,
    /// The backend's last refusal of a sender, a recipient or a message.
    pub last_refusal: Option<Refusal>,
    /// AUTH exchanges that succeeded.
    pub auth_successes: u32,
    /// AUTH exchanges that failed because the credentials were wrong.
    pub auth_failures: u32,
    /// AUTH commands where AUTH is withheld.
    pub auth_not_offered: u32,
    /// Commands that gatepost itself refused.
    pub errors: u32,
    /// Command lines that ended in a bare LF.
    pub bare_lf_commands: u32,
    /// What was odd about mail data, and how much of it came by DATA.
    pub mail_data: data::Facts,
    /// Bytes of header fields that were put on top of messages.
    pub header_fields: u64,
    /// Bytes that the backend took, in the clear or not, those of header fields of ours left out.
    pub to_backend: u64,
    /// Bytes that the client took, gatepost's own replies included.
    pub to_client: u64,
}

/// How a relay ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By QUIT.
    Quit,
    /// The client closed its side; what it had asked by then has been answered.
    ClientEof,
    /// The client closed its side, or the connection, in the middle of something.
    ClientReset,
    /// The backend closed its side.
    BackendEof,
    /// The backend refused service: a greeting of 4yz or 5yz, or 421 at any time. The client has seen that reply.
    BackendRefused(Code),
    /// The backend said what it must not.
    BackendFault(BackendFault),
    /// The client did what it must not.
    ProtocolFault(ProtocolFault),
    /// Someone took too long.
    TimedOut(Wait),
    /// gatepost is going down.
    Shutdown,
    /// The client asked for TLS here, and the handshake failed.
    NoTls,
    /// TLS with the client has begun here, and there was no backend to be had for what it would say under it.
    NoBackend,
    /// After TLS had begun, both sides closed, or one of them reset.
    Opaque,
}

impl End {
    /// Whether the client brought it about, or let its time pass.
    pub(super) fn is_the_clients(self) -> bool {
        match self {
            Self::Quit | Self::ClientEof | Self::ClientReset | Self::ProtocolFault(_) | Self::NoTls => true,
            Self::TimedOut(wait) => !matches!(wait, Wait::Reply | Wait::EndOfData | Wait::BackendWrite),
            Self::BackendEof | Self::BackendRefused(_) | Self::BackendFault(_) => false,
            Self::Shutdown | Self::NoBackend | Self::Opaque => false,
        }
    }
}

/// What a backend must not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendFault {
    /// Bytes that are no SMTP reply.
    Malformed,
    /// A reply that nothing asked for.
    Unsolicited,
    /// A reply to mail data that has not been sent to its end.
    Early,
    /// A reply code that the command cannot have (RFC 5321 §4.3.2), such as 250 to DATA or 354 to NOOP.
    Unexpected(Code),
    /// Bytes in the clear behind its 220 to STARTTLS.
    BehindStartTls,
}

/// What a client must not do, so that the connection has to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolFault {
    /// A command line over the limit.
    LineTooLong,
    /// More refused commands than allowed.
    TooManyErrors,
    /// More commands than allowed from one message to the next.
    TooManyCommands,
    /// BDAT where CHUNKING was not offered, or without a size that can be read: what follows could be chunk or command.
    Chunk,
    /// A line of an AUTH exchange that is none.
    AuthLine,
    /// More lines in one AUTH exchange than allowed.
    AuthLines,
    /// More AUTH exchanges that failed than allowed.
    AuthFailures,
    /// AUTH by a client that may not try it now.
    AuthRefused,
    /// Bytes behind STARTTLS before its reply (CVE-2011-0411 and its kin).
    BehindStartTls,
    /// Bytes behind DATA before its reply, which was a refusal.
    BehindData,
    /// DATA where TLS has begun and EHLO is due: what follows could be mail data or commands.
    NoHello,
    /// A bare LF in mail data, where that is refused.
    BareLf,
}

/// What someone was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// The client's next command.
    Command,
    /// The next bytes of mail data: none came in all the time that there is for them.
    Data,
    /// More of the mail data than came: so little did that the time ran out.
    DataRate,
    /// The client's commands, all together, from one message to the next.
    Envelope,
    /// The backend's reply to a command, or its greeting.
    Reply,
    /// The backend's reply to the end of data.
    EndOfData,
    /// The client, to take bytes, or to take them faster.
    ClientWrite,
    /// The backend, to take bytes, or to take them faster.
    BackendWrite,
    /// Either side, to say anything, after TLS has begun.
    Idle,
}

//! What gatepost says itself in the course of a relay: each of its replies, once.

/// A reply of gatepost's own. One byte, so that a long row of them can wait for their turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Own {
    UnknownCommand,
    ControlBytes,
    LineTooLong,
    UnknownParameter,
    EnvelopeSyntax,
    ChunkingNotOffered,
    ChunkSize,
    AuthNotOffered,
    AuthLine,
    AuthLineTooLong,
    AuthLines,
    AuthFailures,
    AuthRefused,
    AuthNeedsTls,
    StartTlsNotOffered,
    StartTlsOutOfPlace,
    StartTlsAfterAuth,
    StartTlsTwice,
    StartTlsSyntax,
    BeginTls,
    HelloFirst,
    BehindStartTls,
    BehindData,
    BareLf,
    TooManyErrors,
    TooManyRecipients,
    TooManyIdleCommands,
    TooManyCommands,
    BackendTrouble,
    TooSlow,
    GoingDown,
}

impl Own {
    /// As it goes over the wire.
    pub(super) const fn bytes(self) -> &'static [u8] {
        match self {
            Self::UnknownCommand => b"500 5.5.1 Command not recognised\r\n",
            Self::ControlBytes => b"500 5.5.2 CR or NUL inside a command\r\n",
            Self::LineTooLong => b"500 5.5.2 Line too long\r\n",
            Self::UnknownParameter => b"555 5.5.4 MAIL or RCPT parameter not offered here\r\n",
            Self::EnvelopeSyntax => b"501 5.5.4 Syntax error in the path or a parameter\r\n",
            Self::ChunkingNotOffered => b"503 5.5.1 CHUNKING was not offered\r\n",
            Self::ChunkSize => b"501 5.5.4 BDAT takes a size, and possibly LAST\r\n",
            Self::AuthNotOffered => b"503 5.5.1 AUTH is not available here\r\n",
            Self::AuthLine => b"501 5.5.2 CR or NUL inside an AUTH exchange\r\n",
            Self::AuthLineTooLong => b"500 5.5.6 Line of an AUTH exchange too long\r\n",
            Self::AuthLines => b"421 4.7.0 Too many lines in an AUTH exchange\r\n",
            Self::AuthFailures => b"421 4.7.0 Too many failed AUTH attempts\r\n",
            Self::AuthRefused => b"421 4.7.0 No AUTH attempts from here for now\r\n",
            Self::AuthNeedsTls => b"538 5.7.11 STARTTLS first: AUTH needs TLS here\r\n",
            Self::StartTlsNotOffered => b"502 5.5.1 STARTTLS was not offered\r\n",
            Self::StartTlsOutOfPlace => b"503 5.5.1 STARTTLS inside a mail transaction\r\n",
            Self::StartTlsAfterAuth => b"503 5.5.1 STARTTLS after AUTH\r\n",
            Self::StartTlsTwice => b"503 5.5.1 TLS has begun already\r\n",
            Self::StartTlsSyntax => b"501 5.5.4 STARTTLS takes no parameter\r\n",
            Self::BeginTls => b"220 2.0.0 Ready to start TLS\r\n",
            Self::HelloFirst => b"503 5.5.1 EHLO first: TLS has begun anew\r\n",
            Self::BehindStartTls => b"554 5.5.0 Input behind STARTTLS\r\n",
            Self::BehindData => b"421 4.5.0 Input behind DATA, which was refused\r\n",
            Self::BareLf => b"550 5.5.2 Bare LF in mail data\r\n",
            Self::TooManyErrors => b"421 4.7.0 Too many errors\r\n",
            Self::TooManyRecipients => b"452 4.5.3 Too many recipients\r\n",
            Self::TooManyIdleCommands => b"421 4.7.0 Too many commands that send no message\r\n",
            Self::TooManyCommands => b"421 4.7.0 Too many commands for one message\r\n",
            Self::BackendTrouble => b"421 4.3.0 Service not available, try again later\r\n",
            Self::TooSlow => b"421 4.4.2 Timed out\r\n",
            Self::GoingDown => b"421 4.3.2 Going down, try again later\r\n",
        }
    }
}

//! Commands (RFC 5321 §4.1.1 and its extensions).

use super::path::Path;

/// The verbs that gatepost understands. Everything else is [`Verb::Unknown`] and goes to no backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Verb {
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    Etrn,
    Auth,
    StartTls,
    /// Known, so that it can be named in the journal; never passed on.
    Xclient,
    /// Known, so that it can be named in the journal; never passed on.
    Xforward,
    Unknown,
}

impl Verb {
    /// The verb as it stands on the wire, for replies and logs; `?` for [`Verb::Unknown`].
    pub fn as_str(self) -> &'static str {
        todo!()
    }
}

/// One command line, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// HELO with whatever followed it.
    Helo {
        /// The parameter, outer blanks removed; may be empty. See [`super::path::name`].
        name: &'a [u8],
    },
    /// EHLO with whatever followed it.
    Ehlo {
        /// The parameter, outer blanks removed; may be empty.
        name: &'a [u8],
    },
    /// MAIL FROM.
    Mail(Envelope<'a>),
    /// RCPT TO.
    Rcpt(Envelope<'a>),
    /// DATA.
    Data,
    /// BDAT (RFC 3030).
    Bdat(Chunk),
    /// RSET.
    Rset,
    /// NOOP, its parameter ignored.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY with its parameter.
    Vrfy(&'a [u8]),
    /// EXPN with its parameter.
    Expn(&'a [u8]),
    /// HELP with its parameter.
    Help(&'a [u8]),
    /// ETRN with its parameter (RFC 1985).
    Etrn(&'a [u8]),
    /// AUTH (RFC 4954). No `Debug` of this prints the initial response.
    Auth(super::auth::Start<'a>),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// XCLIENT with its parameters.
    Xclient(&'a [u8]),
    /// XFORWARD with its parameters.
    Xforward(&'a [u8]),
    /// A verb that we know, used in a way that we do not.
    Malformed {
        /// The verb.
        verb: Verb,
        /// What is wrong with the rest.
        reason: Malformed,
    },
    /// A verb that we do not know.
    Unknown {
        /// The first word of the line, for classification; hostile bytes.
        word: &'a [u8],
    },
}

/// What is wrong with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Parameters where none are allowed.
    UnexpectedParameter,
    /// None where one is needed.
    MissingParameter,
    /// No path that can be read.
    Path,
    /// An ESMTP parameter that is none.
    Parameter,
    /// A chunk size that is no number, too large, or followed by something other than LAST.
    ChunkSize,
}

/// The path and ESMTP parameters of MAIL or RCPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope<'a> {
    /// The path.
    pub path: Path<'a>,
    /// Everything behind the path, outer blanks removed; see [`Envelope::parameters`].
    pub tail: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// The ESMTP parameters: keyword, and the value if there is one (RFC 5321 §4.1.2).
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        std::iter::empty()
    }
}

/// A chunk that BDAT announces: exactly `size` bytes follow its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// How many bytes.
    pub size: u64,
    /// Whether it is the last one of the message.
    pub last: bool,
}

impl<'a> Command<'a> {
    /// Reads a command line, without its ending. Verbs are case-insensitive.
    ///
    /// As lenient as the MTAs are where leniency cannot change where anything ends: a blank after `FROM:`, a path
    /// without brackets, trailing blanks.
    pub fn parse(_line: &'a [u8]) -> Self {
        todo!()
    }

    /// Its verb.
    pub fn verb(&self) -> Verb {
        todo!()
    }
}

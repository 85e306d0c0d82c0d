//! Commands (RFC 5321 §4.1.1 and its extensions): one framed line to one value.
//!
//! Every line is a command of some kind: a verb that we do not know keeps its word, a verb used wrongly keeps its name
//! and the reason. Lenient where MTAs are lenient and nothing hangs on it (blanks before the verb, as postscreen allows
//! them; TAB between words; any case); strict where the two sides of gatepost could read different things. A
//! well-formed command holds no control character but TAB between its words, with four exceptions that keep whatever
//! followed the verb: XCLIENT and XFORWARD, which are never passed on, and HELO and EHLO, whose names are evidence. Who
//! passes a name on asks [`path::name`] or the line's [`Facts`](super::line::Facts) first.
//!
//! Which command is allowed when is for others; so is the line's ending, see [`line`](super::line).

use std::fmt;

use nom::bytes::complete::{tag_no_case, take_while, take_while_m_n, take_while1};
use nom::combinator::{all_consuming, map_opt, opt, value};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use super::auth;
use super::path::{self, Path, is_blank, trim_blanks};

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
        match self {
            Self::Helo => "HELO",
            Self::Ehlo => "EHLO",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Bdat => "BDAT",
            Self::Rset => "RSET",
            Self::Noop => "NOOP",
            Self::Quit => "QUIT",
            Self::Vrfy => "VRFY",
            Self::Expn => "EXPN",
            Self::Help => "HELP",
            Self::Etrn => "ETRN",
            Self::Auth => "AUTH",
            Self::StartTls => "STARTTLS",
            Self::Xclient => "XCLIENT",
            Self::Xforward => "XFORWARD",
            Self::Unknown => "?",
        }
    }

    /// The verb that `word` is, in any case.
    fn of(word: &[u8]) -> Self {
        let mut buffer = [0; 8];
        let Some(upper) = buffer.get_mut(..word.len()) else { return Self::Unknown };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        match &*upper {
            b"HELO" => Self::Helo,
            b"EHLO" => Self::Ehlo,
            b"MAIL" => Self::Mail,
            b"RCPT" => Self::Rcpt,
            b"DATA" => Self::Data,
            b"BDAT" => Self::Bdat,
            b"RSET" => Self::Rset,
            b"NOOP" => Self::Noop,
            b"QUIT" => Self::Quit,
            b"VRFY" => Self::Vrfy,
            b"EXPN" => Self::Expn,
            b"HELP" => Self::Help,
            b"ETRN" => Self::Etrn,
            b"AUTH" => Self::Auth,
            b"STARTTLS" => Self::StartTls,
            b"XCLIENT" => Self::Xclient,
            b"XFORWARD" => Self::Xforward,
            _ => Self::Unknown,
        }
    }
}

/// One command line, understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// HELO with whatever followed it, control characters too: what a name gives away is for the screen.
    Helo {
        /// The parameter, outer blanks removed; may be empty. See [`super::path::name`].
        name: &'a [u8],
    },
    /// EHLO with whatever followed it, likewise.
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
    Auth(auth::Start<'a>),
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
    /// A parameter that is none: an ESMTP parameter, a mechanism, or a text with a control character in it.
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
    /// The ESMTP parameters: keyword, and the value if there is one (RFC 5321 §4.1.2). See
    /// [`Keyword::of_parameter`](super::ehlo::Keyword::of_parameter) for the extension that each belongs to.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        self.tail.split(|&byte| is_blank(byte)).filter(|word| !word.is_empty()).map(|word| {
            let mut halves = word.splitn(2, |&byte| byte == b'=');
            (halves.next().unwrap_or_default(), halves.next())
        })
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

impl Chunk {
    /// Whether `line`, without its ending, is what its [`Display`](fmt::Display) says, byte for byte.
    pub fn is_written_as(&self, line: &[u8]) -> bool {
        /// What of a line is still to be written.
        struct Rest<'a>(&'a [u8]);

        impl fmt::Write for Rest<'_> {
            fn write_str(&mut self, piece: &str) -> fmt::Result {
                self.0 = self.0.strip_prefix(piece.as_bytes()).ok_or(fmt::Error)?;
                Ok(())
            }
        }

        let mut rest = Rest(line);
        fmt::Write::write_fmt(&mut rest, format_args!("{self}")).is_ok() && rest.0.is_empty()
    }
}

/// As the command that announces it, in the one form that every server reads alike: a server that refuses the line as
/// bad syntax takes the chunk for commands.
impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BDAT {}{}", self.size, if self.last { " LAST" } else { "" })
    }
}

impl<'a> Command<'a> {
    /// Reads a command line, without its ending. Verbs are case-insensitive.
    ///
    /// As lenient as the MTAs are where leniency cannot change where anything ends: blanks before the verb, a blank
    /// after `FROM:`, a path without brackets, trailing blanks.
    pub fn parse(line: &'a [u8]) -> Self {
        let line = trim_blanks(line);
        let end = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
        let (word, rest) = line.split_at_checked(end).unwrap_or((line, b""));
        let rest = trim_blanks(rest);
        let verb = Verb::of(word);
        let parsed = match verb {
            Verb::Helo => Ok(Self::Helo { name: rest }),
            Verb::Ehlo => Ok(Self::Ehlo { name: rest }),
            Verb::Mail => envelope("FROM:", rest).map(Self::Mail),
            Verb::Rcpt => recipient(rest).map(Self::Rcpt),
            Verb::Data => nothing(rest).map(|()| Self::Data),
            Verb::Bdat => chunk(rest).map(Self::Bdat),
            Verb::Rset => nothing(rest).map(|()| Self::Rset),
            Verb::Noop => text(rest).map(|_| Self::Noop),
            Verb::Quit => nothing(rest).map(|()| Self::Quit),
            Verb::Vrfy => needed(rest).and_then(text).map(Self::Vrfy),
            Verb::Expn => needed(rest).and_then(text).map(Self::Expn),
            Verb::Help => text(rest).map(Self::Help),
            Verb::Etrn => needed(rest).and_then(text).map(Self::Etrn),
            Verb::Auth => needed(rest).and_then(|rest| auth::start(rest).ok_or(Malformed::Parameter)).map(Self::Auth),
            Verb::StartTls => nothing(rest).map(|()| Self::StartTls),
            Verb::Xclient => Ok(Self::Xclient(rest)),
            Verb::Xforward => Ok(Self::Xforward(rest)),
            Verb::Unknown => return Self::Unknown { word },
        };
        parsed.unwrap_or_else(|reason| Self::Malformed { verb, reason })
    }

    /// Its verb.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Helo { .. } => Verb::Helo,
            Self::Ehlo { .. } => Verb::Ehlo,
            Self::Mail(_) => Verb::Mail,
            Self::Rcpt(_) => Verb::Rcpt,
            Self::Data => Verb::Data,
            Self::Bdat(_) => Verb::Bdat,
            Self::Rset => Verb::Rset,
            Self::Noop => Verb::Noop,
            Self::Quit => Verb::Quit,
            Self::Vrfy(_) => Verb::Vrfy,
            Self::Expn(_) => Verb::Expn,
            Self::Help(_) => Verb::Help,
            Self::Etrn(_) => Verb::Etrn,
            Self::Auth(_) => Verb::Auth,
            Self::StartTls => Verb::StartTls,
            Self::Xclient(_) => Verb::Xclient,
            Self::Xforward(_) => Verb::Xforward,
            Self::Malformed { verb, .. } => *verb,
            Self::Unknown { .. } => Verb::Unknown,
        }
    }
}

/// What MAIL and RCPT take: `keyword`, a path, ESMTP parameters.
fn envelope<'a>(keyword: &'static str, rest: &'a [u8]) -> Result<Envelope<'a>, Malformed> {
    let parsed: IResult<_, _> = preceded((tag_no_case(keyword), take_while(is_blank)), path::path).parse(needed(rest)?);
    let (tail, path) = parsed.map_err(|_| Malformed::Path)?;
    let envelope = Envelope { path, tail: trim_blanks(tail) };
    if envelope.parameters().all(is_parameter) { Ok(envelope) } else { Err(Malformed::Parameter) }
}

/// What RCPT takes: mail goes to somebody, so there is no null forward-path.
fn recipient(rest: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let envelope = envelope("TO:", rest)?;
    if envelope.path.mailbox.is_empty() { Err(Malformed::Path) } else { Ok(envelope) }
}

/// esmtp-param (RFC 5321 §4.1.2, RFC 6531 §3.3), but for `=` within a value: senders write unencoded addresses with one
/// in ORCPT, and MTAs take them.
fn is_parameter((keyword, value): (&[u8], Option<&[u8]>)) -> bool {
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let keyword = keyword.first().is_some_and(|&byte| byte != b'-') && keyword.iter().all(fine);
    let graphic = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    keyword && value.is_none_or(|value| !value.is_empty() && value.iter().all(graphic))
}

/// What BDAT takes (RFC 3030 §2). A size that no signed 64-bit counter holds is nobody's message.
fn chunk(rest: &[u8]) -> Result<Chunk, Malformed> {
    let size = map_opt(take_while_m_n(1, 20, |byte: u8| byte.is_ascii_digit()), decimal);
    let last = opt(value((), preceded(take_while1(is_blank), tag_no_case("LAST"))));
    let parsed: IResult<_, _> = all_consuming((size, last)).parse(needed(rest)?);
    parsed.map(|(_, (size, last))| Chunk { size, last: last.is_some() }).map_err(|_| Malformed::ChunkSize)
}

/// The number that `digits` are, up to [`i64::MAX`].
fn decimal(digits: &[u8]) -> Option<u64> {
    let number = digits
        .iter()
        .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0'))))?;
    i64::try_from(number).ok().map(|_| number)
}

/// For a command without parameters.
fn nothing(rest: &[u8]) -> Result<(), Malformed> {
    if rest.is_empty() { Ok(()) } else { Err(Malformed::UnexpectedParameter) }
}

/// For a command that makes no sense without one.
fn needed(rest: &[u8]) -> Result<&[u8], Malformed> {
    if rest.is_empty() { Err(Malformed::MissingParameter) } else { Ok(rest) }
}

/// A parameter that the backend may read: a CR or NUL in it could end the line there.
fn text(rest: &[u8]) -> Result<&[u8], Malformed> {
    let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if rest.iter().any(control) { Err(Malformed::Parameter) } else { Ok(rest) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mail<'a>(mailbox: &'a str, tail: &'a str) -> Command<'a> {
        Command::Mail(Envelope { path: Path { mailbox: mailbox.as_bytes() }, tail: tail.as_bytes() })
    }

    fn rcpt(mailbox: &str) -> Command<'_> {
        Command::Rcpt(Envelope { path: Path { mailbox: mailbox.as_bytes() }, tail: b"" })
    }

    fn malformed(verb: Verb, reason: Malformed) -> Command<'static> {
        Command::Malformed { verb, reason }
    }

    fn check(rows: &[(&str, Command<'_>)]) {
        for (line, expected) in rows {
            assert_eq!(Command::parse(line.as_bytes()), *expected, "{line:?}");
        }
    }

    #[test]
    fn verbs_are_read_in_any_case_and_behind_blanks() {
        check(&[
            ("DATA", Command::Data),
            ("data", Command::Data),
            ("rSeT", Command::Rset),
            (" \tQUIT \t", Command::Quit),
            ("STARTTLS ", Command::StartTls),
            ("NOOP", Command::Noop),
            ("NOOP what ever", Command::Noop),
            ("VRFY postmaster", Command::Vrfy(b"postmaster")),
            ("EXPN all users", Command::Expn(b"all users")),
            ("HELP", Command::Help(b"")),
            ("HELP\tMAIL", Command::Help(b"MAIL")),
            ("ETRN example.org", Command::Etrn(b"example.org")),
            ("XCLIENT ADDR=192.0.2.1", Command::Xclient(b"ADDR=192.0.2.1")),
            ("XFORWARD NAME=\0", Command::Xforward(b"NAME=\0")),
        ]);
    }

    #[test]
    fn a_name_is_whatever_follows() {
        check(&[
            ("EHLO mail.example.org", Command::Ehlo { name: b"mail.example.org" }),
            ("EHLO\tmail", Command::Ehlo { name: b"mail" }),
            ("EHLO", Command::Ehlo { name: b"" }),
            ("ehlo  ", Command::Ehlo { name: b"" }),
            ("HELO two words ", Command::Helo { name: b"two words" }),
            ("HELO a\0\rb", Command::Helo { name: b"a\0\rb" }),
        ]);
    }

    #[test]
    fn unknown_words_stay_as_they_are() {
        let unknown = |word| Command::Unknown { word };
        check(&[
            ("", unknown(b"")),
            ("  ", unknown(b"")),
            ("GET / HTTP/1.1", unknown(b"GET")),
            ("Subject: hello", unknown(b"Subject:")),
            ("DATA\r", unknown(b"DATA\r")),
            ("QUIT\0", unknown(b"QUIT\0")),
            ("STARTTLSS", unknown(b"STARTTLSS")),
            ("MAILFROM:<a@b>", unknown(b"MAILFROM:<a@b>")),
            ("RCPTTO: <a@b>", unknown(b"RCPTTO:")),
            ("XEXCH50 1 2", unknown(b"XEXCH50")),
            ("\u{feff}EHLO a", unknown("\u{feff}EHLO".as_bytes())),
        ]);
    }

    #[test]
    fn paths_are_read_as_loosely_as_mtas_do() {
        check(&[
            ("MAIL FROM:<a@example.org>", mail("a@example.org", "")),
            ("MAIL FROM: <a@b>", mail("a@b", "")),
            ("mail from:a@b", mail("a@b", "")),
            ("MAIL \t FROM:\t a@b  SIZE=1 ", mail("a@b", "SIZE=1")),
            ("MAIL FROM:<>", mail("", "")),
            ("MAIL FROM:<> BODY=8BITMIME", mail("", "BODY=8BITMIME")),
            ("RCPT TO:<@one.example,@two.example:a@b>", rcpt("@one.example,@two.example:a@b")),
            ("RCPT TO:<Postmaster>", rcpt("Postmaster")),
            (r#"RCPT TO:<"a > b\" \\"@c>"#, rcpt(r#""a > b\" \\"@c"#)),
            (r#"RCPT TO:"a b"@c"#, rcpt(r#""a b"@c"#)),
            ("RCPT TO:<user@[IPv6:2001:db8::1]>", rcpt("user@[IPv6:2001:db8::1]")),
            ("RCPT TO:<грета@пример.example>", rcpt("грета@пример.example")),
            (r#"RCPT TO:<"\é\é"@c>"#, rcpt(r#""\é\é"@c"#)),
        ]);
    }

    #[test]
    fn no_path_where_two_readers_could_find_different_ones() {
        let bad_mail = || malformed(Verb::Mail, Malformed::Path);
        let bad_rcpt = || malformed(Verb::Rcpt, Malformed::Path);
        check(&[
            ("MAIL FROM <a@b>", bad_mail()),
            ("MAIL FROM :<a@b>", bad_mail()),
            ("MAIL TO:<a@b>", bad_mail()),
            ("MAIL FROM:", bad_mail()),
            ("MAIL FROM: ", bad_mail()),
            ("MAIL FROM:<a@b", bad_mail()),
            ("MAIL FROM:a@b>", bad_mail()),
            ("MAIL FROM:<a@b>SIZE=1", bad_mail()),
            ("MAIL FROM:<<a@b>>", bad_mail()),
            ("MAIL FROM:<a b@c>", bad_mail()),
            (r"MAIL FROM:<a\> SIZE=1>", bad_mail()),
            (r#"MAIL FROM:<"a@b>"#, bad_mail()),
            (r#"MAIL FROM:<"a\"#, bad_mail()),
            ("MAIL FROM:<\"a\tb\"@c>", bad_mail()),
            ("MAIL FROM:<a\0@b>", bad_mail()),
            ("MAIL FROM:<a\r@b>", bad_mail()),
            ("RCPT TO:<>", bad_rcpt()),
            ("RCPT TO:<> NOTIFY=NEVER", bad_rcpt()),
            ("MAIL", malformed(Verb::Mail, Malformed::MissingParameter)),
            ("RCPT ", malformed(Verb::Rcpt, Malformed::MissingParameter)),
        ]);
        for line in [&b"RCPT TO:<\"\\\xcf"[..], b"RCPT TO:\"\\\xcf", b"RCPT TO:<\"\\\xcf>"] {
            assert_eq!(Command::parse(line), bad_rcpt(), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn esmtp_parameters_are_keywords_with_values() {
        let line = b"MAIL FROM:<a@b> SIZE=1000\tsmtputf8   AUTH=<> ENVID=a=b MT-PRIORITY=-3";
        let Command::Mail(envelope) = Command::parse(line) else { panic!() };
        let found: Vec<(&[u8], Option<&[u8]>)> = envelope.parameters().collect();
        let expected: [(&[u8], Option<&[u8]>); 5] = [
            (b"SIZE", Some(b"1000")),
            (b"smtputf8", None),
            (b"AUTH", Some(b"<>")),
            (b"ENVID", Some(b"a=b")),
            (b"MT-PRIORITY", Some(b"-3")),
        ];
        assert_eq!(found, expected);

        for tail in ["=1", "SIZE=", "-SIZE=1", "SI_ZE=1", "SIZE=1\x002", "SIZE=1 \r", "BODY=\x7f", "größe=1"] {
            let line = format!("MAIL FROM:<a@b> {tail}");
            assert_eq!(Command::parse(line.as_bytes()), malformed(Verb::Mail, Malformed::Parameter), "{tail:?}");
        }
    }

    #[test]
    fn parameters_where_none_belong_and_none_where_one_does() {
        for verb in [Verb::Data, Verb::Rset, Verb::Quit, Verb::StartTls] {
            for rest in ["x", "\0", "LAST", "\r"] {
                let line = format!("{} {rest}", verb.as_str());
                let expected = malformed(verb, Malformed::UnexpectedParameter);
                assert_eq!(Command::parse(line.as_bytes()), expected, "{line:?}");
            }
        }
        for verb in [Verb::Mail, Verb::Rcpt, Verb::Bdat, Verb::Vrfy, Verb::Expn, Verb::Etrn, Verb::Auth] {
            let expected = malformed(verb, Malformed::MissingParameter);
            assert_eq!(Command::parse(verb.as_str().as_bytes()), expected);
        }
        for verb in [Verb::Noop, Verb::Vrfy, Verb::Expn, Verb::Help, Verb::Etrn] {
            for control in ["\0", "\r", "\x1b", "\x7f"] {
                let line = format!("{} a{control}b", verb.as_str());
                assert_eq!(Command::parse(line.as_bytes()), malformed(verb, Malformed::Parameter), "{line:?}");
            }
        }
    }

    #[test]
    fn a_chunk_is_exactly_as_long_as_it_says() {
        let chunk = |size, last| Command::Bdat(Chunk { size, last });
        let bad = || malformed(Verb::Bdat, Malformed::ChunkSize);
        check(&[
            ("BDAT 0", chunk(0, false)),
            ("BDAT 0 LAST", chunk(0, true)),
            ("bdat 86 last ", chunk(86, true)),
            ("BDAT\t86 \t LaSt", chunk(86, true)),
            ("BDAT 00000000000000000086", chunk(86, false)),
            ("BDAT 000000000000000000086", bad()),
            ("BDAT 9223372036854775807", chunk(i64::MAX as u64, false)),
            ("BDAT 9223372036854775808", bad()),
            ("BDAT 18446744073709551616", bad()),
            ("BDAT 99999999999999999999", bad()),
            ("BDAT -1", bad()),
            ("BDAT +1", bad()),
            ("BDAT 0x10", bad()),
            ("BDAT LAST", bad()),
            ("BDAT 86LAST", bad()),
            ("BDAT 86 LASTLY", bad()),
            ("BDAT 86 LAST 1", bad()),
            ("BDAT 8 6", bad()),
            ("BDAT 86\r", bad()),
            ("BDAT 86 \0", bad()),
        ]);
    }

    #[test]
    fn a_chunk_is_announced_in_one_form() {
        let odd = [
            "bdat 86",
            "BDAT 086",
            "BDAT 86 ",
            " BDAT 86",
            "BDAT\t86",
            "BDAT  86",
            "BDAT 86 LAST",
            "BDAT 8",
            "BDAT 866",
            "",
        ];
        let chunk = Chunk { size: 86, last: false };
        assert!(chunk.is_written_as(b"BDAT 86") && Chunk { last: true, ..chunk }.is_written_as(b"BDAT 86 LAST"));
        for line in odd {
            assert!(!chunk.is_written_as(line.as_bytes()), "{line:?}");
        }
        for (line, announced) in [("bdat\t086 last", "BDAT 86 LAST"), (" BDAT 0 ", "BDAT 0")] {
            let Command::Bdat(chunk) = Command::parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(chunk.to_string(), announced);
        }
    }

    #[test]
    fn auth_takes_a_mechanism_and_keeps_its_secret() {
        let start = |initial| Command::Auth(auth::Start { mechanism: b"PLAIN", initial });
        let bad = || malformed(Verb::Auth, Malformed::Parameter);
        check(&[
            ("AUTH PLAIN", start(None)),
            ("auth PLAIN AGEAYg==", start(Some(b"AGEAYg=="))),
            ("AUTH PLAIN =", start(Some(b"="))),
            ("AUTH PLAIN a b", bad()),
            ("AUTH PLAIN a\0", bad()),
            ("AUTH PLAI.N", bad()),
        ]);
        for line in ["AUTH PLAIN AGEAYg==", "AUTH PLAIN AGEAYg== AGEAYg==", "AUTH PL.IN AGEAYg=="] {
            let printed = format!("{:?}", Command::parse(line.as_bytes()));
            assert!(!printed.contains("AGEAYg") && !printed.contains("65, 71, 69"), "{printed}");
        }
    }

    proptest! {
        #[test]
        fn every_line_is_a_command(line: Vec<u8>) {
            let command = Command::parse(&line);
            if let Command::Unknown { word } = command {
                prop_assert_eq!(Verb::of(word), Verb::Unknown);
            }
            prop_assert_eq!(command.verb() == Verb::Unknown, matches!(command, Command::Unknown { .. }));
        }

        #[test]
        fn case_never_matters(line in "(MAIL FROM:|RCPT TO:|BDAT |EHLO |AUTH |NOOP )[<>a@b 1=LAST\"]{0,12}") {
            let verb = Command::parse(line.as_bytes()).verb();
            prop_assert_eq!(Command::parse(line.to_ascii_lowercase().as_bytes()).verb(), verb);
            prop_assert_ne!(verb, Verb::Unknown);
        }
    }
}

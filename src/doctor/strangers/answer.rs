//! What an MTA's answer says of relaying: a refusal may have quite another reason.

use crate::backend::Failure;
use crate::doctor::talk::Said;
use crate::journal::text::{DETAIL_CAP, escape};
use crate::smtp::reply::Enhanced;

/// What became of one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub meaning: Meaning,
    /// The MTA's words, safe to show.
    pub said: String,
}

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// The recipient is accepted.
    Taken,
    /// It is not, and the reason may be taken for relaying.
    Denied,
    /// Not now: greylisting, a look-up that failed.
    Later,
    /// The client's address or name is not wanted, wherever its mail is to go.
    Client,
    /// The sender is not wanted.
    Sender,
    /// The recipient's domain takes no mail at all.
    Domain,
    /// TLS has to come first.
    TlsFirst,
    /// There was no answer.
    Broken,
}

impl Meaning {
    /// Why nothing can be told of relaying.
    pub(super) const fn obstacle(self) -> &'static str {
        match self {
            Self::Taken | Self::Denied => "it was answered",
            Self::Later => "it was put off",
            Self::Client => "the client itself is refused",
            Self::Sender => "the sender is refused",
            Self::Domain => "the recipient's domain takes no mail",
            Self::TlsFirst => "TLS has to come first",
            Self::Broken => "the conversation broke",
        }
    }
}

/// Where a command stands in a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Opening,
    Mail,
    Rcpt,
}

impl Answer {
    /// Reads the reply to a command of that stage.
    pub(super) fn of(stage: Stage, said: &Said) -> Self {
        let reply = said.reply();
        let meaning = meaning(stage, reply.code.number(), reply.enhanced(), &said.words());
        Self { meaning, said: said.shown() }
    }

    /// Where there is no reply, and why.
    pub(super) fn broken(why: &Failure) -> Self {
        Self { meaning: Meaning::Broken, said: escape(why.to_string().as_bytes(), DETAIL_CAP) }
    }
}

/// `words` are the reply's, in lower case.
fn meaning(stage: Stage, code: u16, enhanced: Option<Enhanced>, words: &str) -> Meaning {
    let any = |wanted: &[&str]| wanted.iter().any(|word| words.contains(word));
    let subject = enhanced.map(|Enhanced(_, subject, detail)| (subject, detail));
    match (code, stage) {
        (200..=399, _) => Meaning::Taken,
        (530, _) if any(&["starttls", "tls "]) => Meaning::TlsFirst,
        (_, Stage::Opening) => Meaning::Client,
        (400..=499, _) => Meaning::Later,
        // RFC 3463 §3.2 and RFC 7505 §4.2.
        _ if matches!(subject, Some((1, 7 | 8) | (7, 27)))
            || any(&["sender address", "sender domain", "sender verify"]) =>
        {
            Meaning::Sender
        }
        (556, Stage::Rcpt) => Meaning::Domain,
        _ if matches!(subject, Some((1, 2 | 10) | (4, 4))) || any(&["nullmx", "null mx", "domain not found"]) => {
            if stage == Stage::Mail {
                Meaning::Sender
            } else {
                Meaning::Domain
            }
        }
        _ if any(&["relay", "authenti", "not permitted"]) => Meaning::Denied,
        // RFC 7372 §3.3: 5.7.25, no reverse DNS.
        _ if subject == Some((7, 25))
            || any(&["client host", "helo command", "blocked", "blacklist", "blocklist", "reverse dns", "ptr"]) =>
        {
            Meaning::Client
        }
        (_, Stage::Mail) if code != 530 => Meaning::Sender,
        _ => Meaning::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_not_always_about_relaying() {
        for (stage, code, enhanced, words, expected) in [
            (Stage::Rcpt, 250, Some((1, 5)), "2.1.5 ok", Meaning::Taken),
            (Stage::Rcpt, 251, None, "will forward", Meaning::Taken),
            (Stage::Rcpt, 554, Some((7, 1)), "<a@b>: relay access denied", Meaning::Denied),
            (Stage::Rcpt, 550, Some((7, 54)), "unable to relay recipient in non-accepted domain", Meaning::Denied),
            (Stage::Rcpt, 550, None, "relay not permitted", Meaning::Denied),
            (Stage::Rcpt, 550, Some((1, 1)), "no such user", Meaning::Denied),
            (Stage::Rcpt, 551, None, "user not local", Meaning::Denied),
            (Stage::Mail, 530, Some((7, 0)), "authentication required", Meaning::Denied),
            (Stage::Mail, 530, Some((7, 0)), "must issue a starttls command first", Meaning::TlsFirst),
            (Stage::Rcpt, 454, Some((7, 1)), "relay access denied", Meaning::Later),
            (Stage::Rcpt, 450, Some((7, 1)), "greylisted", Meaning::Later),
            (Stage::Mail, 421, None, "too many errors", Meaning::Later),
            (Stage::Rcpt, 550, Some((1, 8)), "sender address rejected: domain not found", Meaning::Sender),
            (Stage::Mail, 553, Some((1, 8)), "domain of sender does not exist", Meaning::Sender),
            (Stage::Mail, 550, Some((7, 27)), "nullmx", Meaning::Sender),
            (Stage::Mail, 550, None, "we know you not", Meaning::Sender),
            (Stage::Rcpt, 556, Some((1, 10)), "does not accept mail (nullmx)", Meaning::Domain),
            (Stage::Rcpt, 550, Some((1, 2)), "domain not found", Meaning::Domain),
            (Stage::Rcpt, 554, Some((7, 1)), "client host [192.0.2.1] blocked using x", Meaning::Client),
            (Stage::Rcpt, 550, Some((7, 1)), "helo command rejected: host not found", Meaning::Client),
            (Stage::Opening, 554, None, "no service", Meaning::Client),
            (Stage::Opening, 421, None, "busy", Meaning::Client),
        ] {
            let enhanced = enhanced.map(|(subject, detail)| Enhanced((code / 100) as u8, subject, detail));
            assert_eq!(meaning(stage, code, enhanced, words), expected, "{code} {words}");
        }
    }
}

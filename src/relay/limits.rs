//! How much one client may ask for in a relay, and how slow it may be.
//!
//! What is counted is counted when it is said, not when it is answered, so that commands in a row count too; nothing is
//! kept of a command but its number.
//!
//! | counted | begins anew | one too many |
//! | --- | --- | --- |
//! | recipients | with each transaction | 452 4.5.3; after as many again, an error |
//! | commands that bring no message on its way | when the backend has taken a message | 421 |
//! | all commands | when the backend has taken a message | 421 |
//! | AUTH exchanges that failed | never | 421, behind the reply to the last that may fail |
//! | lines of an AUTH exchange | with each exchange | 421 |

use std::time::Duration;

use super::own::Own;
use crate::smtp::command::Verb;

/// How much one client may ask for, and how slow it may be. Postfix's defaults, where it has the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// RCPT commands in one transaction; RFC 5321 §4.5.3.1.8 asks for 100 at least. Beyond it the answer is 452
    /// (§4.5.3.1.10), so that the client sends the message to those it got in, and comes again for the rest.
    pub recipients: u32,
    /// Commands that bring no message on its way (NOOP, RSET, VRFY, EXPN, HELP, ETRN, HELO, EHLO, AUTH), from one message that
    /// the backend takes to the next. Beyond it, 421.
    pub idle_commands: u32,
    /// All commands, from one message that the backend takes to the next: a large one may come in many chunks. Beyond
    /// it, 421.
    pub message_commands: u32,
    /// AUTH exchanges that fail; behind the reply to the last of them comes 421. 0: any number.
    pub auth_failures: u32,
    /// The client's lines in one AUTH exchange, its command apart. Beyond it, 421.
    pub auth_lines: u32,
    /// How long a client may be waited for by its commands, all together, from one message that the backend takes to
    /// the next.
    pub envelope: Duration,
    /// How many bytes earn a second: of mail data, for the client that brings them; of anything, for the side that takes
    /// them. Whoever is waited for has [`Timeouts::data`](super::Timeouts::data) or
    /// [`Timeouts::write`](super::Timeouts::write) in hand; waiting uses it up, and what is earned fills it again, never
    /// beyond what it was. 0: any byte fills it.
    pub min_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recipients: 1000,
            idle_commands: 100,
            message_commands: 100_000,
            auth_failures: 3,
            auth_lines: 16,
            envelope: Duration::from_secs(60 * 60),
            min_rate: 500,
        }
    }
}

/// What a client has asked for by now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    recipients: u32,
    idle_commands: u32,
    commands: u32,
}

/// A command is one too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Excess {
    /// This recipient is not taken now.
    Recipient,
    /// So many were not taken that this is an error.
    Recipients,
    /// The connection is to end, with these words.
    Commands(Own),
}

impl Count {
    /// Counts a command. `nested`: a MAIL that cannot begin a transaction, for there is one.
    pub(super) fn command(&mut self, verb: Verb, nested: bool, limits: &Limits) -> Option<Excess> {
        self.commands = self.commands.saturating_add(1);
        if self.commands > limits.message_commands {
            return Some(Excess::Commands(Own::TooManyCommands));
        }
        match verb {
            Verb::Rcpt => return self.recipient(limits),
            Verb::Mail if !nested => self.transaction_over(),
            Verb::Noop | Verb::Vrfy | Verb::Expn | Verb::Help | Verb::Etrn | Verb::Auth => self.idle_commands += 1,
            Verb::Rset | Verb::Helo | Verb::Ehlo => {
                self.transaction_over();
                self.idle_commands += 1;
            }
            // Unknown ones are refused, and so count as errors; the others have an answer of their own.
            _ => {}
        }
        (self.idle_commands > limits.idle_commands).then_some(Excess::Commands(Own::TooManyIdleCommands))
    }

    fn recipient(&mut self, limits: &Limits) -> Option<Excess> {
        self.recipients = self.recipients.saturating_add(1);
        if self.recipients <= limits.recipients {
            None
        } else if self.recipients <= limits.recipients.saturating_mul(2) {
            Some(Excess::Recipient)
        } else {
            Some(Excess::Recipients)
        }
    }

    /// What comes next is another transaction.
    pub(super) fn transaction_over(&mut self) {
        self.recipients = 0;
    }

    /// The backend has taken a message.
    pub(super) fn message_taken(&mut self) {
        (self.idle_commands, self.commands) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Limits = Limits {
        recipients: 2,
        idle_commands: 3,
        message_commands: 12,
        auth_failures: 3,
        auth_lines: 16,
        envelope: Duration::from_secs(3600),
        min_rate: 500,
    };

    #[test]
    fn each_count_has_its_own_beginning() {
        let idle = Some(Excess::Commands(Own::TooManyIdleCommands));
        let many = Some(Excess::Commands(Own::TooManyCommands));
        let mut count = Count::default();
        let mut say = |verb, expected| assert_eq!(count.command(verb, false, &FEW), expected, "{verb:?}");
        say(Verb::Ehlo, None);
        for _ in 0..2 {
            say(Verb::Mail, None);
            say(Verb::Rcpt, None);
            say(Verb::Rcpt, None);
            say(Verb::Rcpt, Some(Excess::Recipient));
        }
        say(Verb::Rcpt, Some(Excess::Recipient));
        say(Verb::Rcpt, Some(Excess::Recipients));
        say(Verb::Noop, None);
        say(Verb::Rset, many);
        count.message_taken();
        let mut say = |verb, expected| assert_eq!(count.command(verb, false, &FEW), expected, "{verb:?}");
        for verb in [Verb::Rset, Verb::Helo, Verb::Vrfy] {
            say(verb, None);
        }
        say(Verb::Mail, None);
        say(Verb::Etrn, idle);
    }

    #[test]
    fn a_nested_mail_opens_no_door_for_more_recipients() {
        let mut count = Count::default();
        for verb in [Verb::Mail, Verb::Rcpt, Verb::Rcpt] {
            assert_eq!(count.command(verb, false, &FEW), None);
        }
        assert_eq!(count.command(Verb::Mail, true, &FEW), None);
        assert_eq!(count.command(Verb::Rcpt, false, &FEW), Some(Excess::Recipient));
    }
}

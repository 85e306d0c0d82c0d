//! One AUTH exchange, followed from its command to the account that it tries.
//!
//! A message is read by its place in the exchange, not by what the challenge before it says: challenges come in many
//! words, and in log files garbled. Nothing is kept of a message but the name in it.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::mechanism::Mechanism;
use super::{Account, ClientLine, Start, client_line};
use crate::smtp::line::AUTH_LIMIT;

/// As lenient as the most lenient MTA.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An AUTH exchange. It holds no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    mechanism: Mechanism,
    /// How many messages have come from the client.
    messages: u8,
    account: Option<Account>,
    complete: bool,
    doubted: bool,
}

impl Exchange {
    /// An exchange that begins so.
    pub fn begin(start: Start<'_>) -> Self {
        let mechanism = Mechanism::of(start.mechanism);
        let mut exchange = Self { mechanism, messages: 0, account: None, complete: false, doubted: false };
        match start.initial {
            Some(b"=") => exchange.message(b""),
            Some(initial) => exchange.message(&decode(initial)),
            None => {}
        }
        exchange
    }

    /// The client's next line, its ending cut off.
    pub fn client_line(&mut self, line: &[u8]) {
        if client_line(line) == ClientLine::Response {
            self.message(&decode(line));
        }
    }

    /// The server's next challenge: the text of its 334.
    pub fn challenge(&mut self, text: &[u8]) {
        self.doubted = self.complete && !self.mechanism.is_assent(&decode(text));
    }

    fn message(&mut self, message: &[u8]) {
        let nth = self.messages;
        self.messages = nth.saturating_add(1);
        // Of several messages with a name, the last is the one that is judged.
        if let Some(account) = self.mechanism.account(nth, message) {
            self.account = Some(account);
        }
        if self.mechanism == Mechanism::Login && nth >= 2 {
            // One of the first two was asked for again: which was what, nobody knows, and none may be a password.
            self.account = None;
        }
        self.complete |= self.mechanism.is_complete(nth, message);
    }

    /// The account that is tried, once the client has named one.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// The same.
    pub fn into_account(self) -> Option<Account> {
        self.account
    }

    /// Whether the client has said all that the server needs to judge.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the server has judged already, and did not say yes: it has met complete credentials with another challenge.
    ///
    /// OAuth mechanisms are refused so (RFC 7628 §3.2.3), and the client's next line is for form's sake: a client that
    /// cancels then is as refused as one that does not. Of mechanisms that nobody here understands, this is never said.
    pub fn is_doubted(&self) -> bool {
        self.doubted && self.mechanism != Mechanism::Other
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("mechanism", &self.mechanism)
            .field("messages", &self.messages)
            .field("complete", &self.complete)
            .field("doubted", &self.doubted)
            .finish_non_exhaustive()
    }
}

/// What base64 `text` stands for: as much of it as is base64. Wiped when it is done with.
fn decode(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = text.trim_ascii();
    let text = text.get(..AUTH_LIMIT).unwrap_or(text);
    let end = text.iter().position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'+' | b'/'));
    let text = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    // A last character by itself stands for nothing.
    let text = text.get(..text.len() - usize::from(text.len() % 4 == 1)).unwrap_or_default();
    // Room for all of it at once, so that no half of it is left behind where it grew out of.
    let mut message = Zeroizing::new(vec![0; text.len().div_ceil(4) * 3]);
    let length = LENIENT.decode_slice(text, &mut message).unwrap_or_default();
    message.truncate(length);
    message
}

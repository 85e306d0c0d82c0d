//! The greeting, where gatepost gives it itself (RFC 5321 §4.3.1).

use super::Guest;
use crate::smtp::reply::{self, Code};

/// The beginning of a greeting of several lines: `220-text`.
pub(super) fn teaser(text: &str) -> Vec<u8> {
    let mut line = greeting(text);
    if let Some(separator) = line.get_mut(3) {
        *separator = b'-';
    }
    line
}

/// The last line of the greeting, or the only one.
pub(super) fn last_line(guest: &Guest) -> Vec<u8> {
    greeting(&format!("{} ESMTP", guest.gate.settings.hostname))
}

fn greeting(text: &str) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + 6);
    if let Some(code) = Code::new(220) {
        reply::write(&mut line, code, None, text);
    }
    line
}

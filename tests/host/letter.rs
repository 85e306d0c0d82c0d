//! What the mail programs send, and how it is recognised at the far end.
//!
//! Every letter carries a Message-ID of its own, so that a test can say of each one: it arrived, once, unchanged.
//! "Unchanged" is meant byte for byte, but for one thing: each MTA on the way must put a `Received` field on top
//! (RFC 5321, 4.4). [`Letter::is`] takes off exactly as many such fields as there were MTAs, with their folded lines,
//! and compares all that is left. The hosts are set up to add and drop nothing else.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memmem;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A message with its envelope. Lines end in CRLF; dots are not stuffed.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The reverse-path, without brackets.
    pub from: String,
    /// The forward-paths, without brackets.
    pub to: Vec<String>,
    /// The message as it must arrive.
    pub bytes: Vec<u8>,
    id: String,
}

impl Letter {
    /// A short letter to alice@example.test.
    pub fn short() -> Self {
        Self::saying(b"Hello.\r\n")
    }

    /// A letter with this body, to alice@example.test. The body must end in CRLF or be empty.
    pub fn saying(body: &[u8]) -> Self {
        Self::with_header(
            "From: Bob <bob@example.org>\r\nTo: alice@example.test\r\nSubject: a letter\r\n\
             Date: Sun, 22 Nov 2026 02:20:00 +0000\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
            body,
        )
    }

    /// A letter without From and Date, but with fields and addresses that an MTA would drop or complete in mail of its
    /// own users. Programs that hand mail in locally, as [`super::exim::send`] does, do complete it.
    pub fn odd_header() -> Self {
        let header = "Return-Path: <before@example.org>\r\nto: alice\r\nBcc: carol@example.test\r\n\
                      Content-Length: 1\r\nX-Folded: one\r\n\ttwo\r\n  three\r\nX-Empty:\r\n";
        Self::with_header(header, b"Hello.\r\n")
    }

    fn with_header(header: &str, body: &[u8]) -> Self {
        let id = format!("{}.{}@example.org", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut bytes = format!("{header}Message-ID: <{id}>\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body);
        Self { from: "bob@example.org".to_owned(), to: vec!["alice@example.test".to_owned()], bytes, id }
    }

    /// The same letter for other recipients.
    pub fn to(mut self, recipients: &[&str]) -> Self {
        self.to = recipients.iter().map(|&recipient| recipient.to_owned()).collect();
        self
    }

    /// One letter for each thing in a body that relays have been known to get wrong.
    pub fn awkward() -> Vec<Self> {
        let longest = [&[b'x'; 998][..], b"\r\n"].concat();
        let large: Vec<u8> = (0..4000)
            .flat_map(|line: u32| {
                format!("{line:04} the quick brown fox jumps over the lazy dog, again and again\r\n").into_bytes()
            })
            .collect();
        let bodies: [&[u8]; 8] = [
            b"",
            b"\r\n\r\n\r\n",
            b".\r\n",
            b".\r\n..\r\n.hidden\r\n...\r\n. \r\nlast line is a dot\r\n.\r\n",
            b"MAIL FROM:<x@example.org>\r\nDATA\r\n.\r\nQUIT\r\nSTARTTLS\r\nRSET\r\n",
            "Grüße, naïve café, 日本語\r\n".as_bytes(),
            &longest,
            &large,
        ];
        bodies.iter().map(|body| Self::saying(body)).collect()
    }

    /// The letter as a program sends it that forgets the last line's CRLF. It arrives with one, as `self`.
    pub fn unended(&self) -> Self {
        let bytes = self.bytes.strip_suffix(b"\r\n").unwrap_or(&self.bytes).to_vec();
        Self { bytes, ..self.clone() }
    }

    /// Whether `received` is this letter, `hops` MTAs later, and not a byte different.
    pub fn is(&self, received: &[u8], hops: usize) -> bool {
        without_trace(received, hops) == Some(&self.bytes[..])
    }

    /// Whether `received` is this letter in any state, by its Message-ID.
    pub fn names(&self, received: &[u8]) -> bool {
        memmem::find(received, format!("Message-ID: <{}>\r\n", self.id).as_bytes()).is_some()
    }

    /// Panics unless `received`, the data of all messages that arrived, has this letter exactly once and unchanged.
    #[track_caller]
    pub fn assert_arrived_once<'a>(&self, received: impl IntoIterator<Item = &'a [u8]>, hops: usize) {
        let copies: Vec<&[u8]> = received.into_iter().filter(|data| self.names(data)).collect();
        assert_eq!(copies.len(), 1, "copies of {} that arrived", self.id);
        assert!(
            self.is(copies[0], hops),
            "{} was changed on the way\nsent:\n{}\nreceived:\n{}",
            self.id,
            self.bytes.escape_ascii(),
            copies[0].escape_ascii()
        );
    }
}

/// Takes `hops` Received fields off the top; nothing if there are fewer.
fn without_trace(message: &[u8], hops: usize) -> Option<&[u8]> {
    (0..hops).try_fold(message, |rest, _| {
        rest.strip_prefix(b"Received: ")?;
        let mut from = 0;
        loop {
            let end = from + memmem::find(&rest[from..], b"\r\n")? + 2;
            match rest.get(end) {
                Some(b' ' | b'\t') => from = end,
                _ => return Some(&rest[end..]),
            }
        }
    })
}

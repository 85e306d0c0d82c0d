//! What is claimed of the parsers (`tests/claims/`), of generated input and of every committed corpus entry. The fuzz
//! targets make the same claims of what libFuzzer comes up with.

#![allow(clippy::panic, clippy::expect_used, reason = "a claim that does not hold panics")]

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

pub mod claims;

/// Input made of the pieces that a parser looks at, with a few stray bytes between them.
fn made_of(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Every entry of a target's corpus, by name.
fn corpus(target: &str, claim: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries: Vec<_> = folder.read_dir().expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    assert!(!entries.is_empty());
    for entry in entries {
        // The name of the entry that fails is the last one printed.
        println!("{}", entry.display());
        claim(&std::fs::read(&entry).expect("an entry"));
    }
}

macro_rules! claims {
    ($($name:ident: $pieces:expr;)*) => {
        mod corpora {
            $(
                #[test]
                fn $name() {
                    super::corpus(stringify!($name), super::claims::$name);
                }
            )*
        }

        mod generated {
            use super::*;

            proptest! {
                $(
                    #[test]
                    fn $name(input in made_of(&$pieces)) {
                        super::claims::$name(&input);
                    }
                )*
            }
        }
    };
}

claims! {
    line: ["EHLO a", "\r\n", "\r", "\n", "\0", "\t", "\u{e4}", "\x1b", "\x7f"];
    command: [
        "MAIL FROM:", "RCPT TO:", "EHLO ", "BDAT ", "AUTH ", "DATA", "HELP ", "[IPv6:", "192.0.2.1", "2001:db8::1", "]",
        "<", ">", "a@b.example", "@a,@b:", "\"", "\\", " ", "\t", "=", "SIZE", "1000", " LAST", "9", "PLAIN", ".", "-",
        "\u{e4}", "\r", "\0",
    ];
    auth: [
        "AUTH ", "PLAIN ", "LOGIN ", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1 ", "XOAUTH2 ", "OAUTHBEARER ", "NTLM ", "\n",
        "\n", "=", "*", ":", "\0", "AGFsaWNlAHg=", "aGFua3M=", "ODg4ODg4", "biwsbj11c2VyLHI9eA==", "dXNlcj1hbGljZQFhdXRoPXgBAQ==",
        "bixhPWFsaWNlLAFhdXRoPXgBAQ==", "TlRMTVNTUAADAAAA", "AAAAQAAA", "\u{e4}", "A", "alice", "\"", "\\", ",", " ", ".",
    ];
    reply: [
        "250 ", "250-", "250", "550 ", "5.7.1 ", "2.0.0", "mx.example.org", "\r\n", "\r\n", "\n", "\r", "\0", "\u{e4}",
        "A long text that is meant to be broken where there is a blank, if enough of it comes together in one line. ",
    ];
    ehlo: [
        "250-a\r\n", "250-SIZE 1000\r\n", "250-AUTH PLAIN LOGIN\r\n", "250-AUTH=LOGIN XOAUTH2\r\n", "250-DSN\n", "250-",
        "250-auth SCRAM-SHA-1-PLUS\n", "250-dsn\r\n", "250-X-EXPS NTLM\r\n", "250-LIMITS RCPTMAX=5\r\n", "250 DSN\r\n",
        "250 CHUNKING\r\n",
    ];
    data: [
        "\r\n", "\r\n", ".", ".", "\n", "\r", "\0", "a", "\r\n.\r\n", "\u{e4}", "MAIL FROM:<a@b>\r\n",
        "A line that is long enough for what looks at many bytes at once, if some more of the same kind stand behind it\r\n",
    ];
    relay: [
        "\0", "\x08", "EHLO a\r\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<a@b>\n", "DATA\r\n", "\r\n.\r\n", ".", "\r", "\n", "BDAT 3 LAST\r\n",
        "BDAT 9\r\n", "STARTTLS\r\n", "AUTH PLAIN\r\n", "*\r\n", "QUIT\r\n", "NOOP\n", "abc", "\x7f", "\u{fc}",
    ];
    relay_ending_tls: [
        "\0", "\x08", "EHLO a\r\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<a@b>\n", "DATA\r\n", "\r\n.\r\n", ".", "\r", "\n", "BDAT 3 LAST\r\n",
        "BDAT 9\r\n", "STARTTLS\r\n", "STARTTLS\n", "STARTTLS\r\nEHLO a\r\n", "AUTH PLAIN\r\n", "*\r\n", "RSET\r\n", "abc", "\x7f",
    ];
    proxy_header: [
        "PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", "192.0.2.1", "2001:db8::1", " ", "25", "65535", "0", "\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.25 ", "PROXY TCP6 ::1 2001:db8::25 1 25\r\n", "\r\n\r\n\0\r\nQUIT\n",
        "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10",
        "\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24", "twelve bytes", "\0\0\0\0", "\x04\0\x01x",
    ];
}

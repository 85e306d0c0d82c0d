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

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn encoded(message: impl AsRef<[u8]>) -> String {
        BASE64_STANDARD.encode(message)
    }

    /// An exchange by its command's parameters and the lines of the client's that follow, one for each challenge.
    fn follow(mechanism: &str, initial: Option<&str>, lines: &[&str]) -> Exchange {
        let mut exchange =
            Exchange::begin(Start { mechanism: mechanism.as_bytes(), initial: initial.map(str::as_bytes) });
        for line in lines {
            exchange.challenge(b"");
            exchange.client_line(line.as_bytes());
        }
        exchange
    }

    fn name(exchange: &Exchange) -> Option<&str> {
        exchange.account().map(|account| std::str::from_utf8(account.name()).unwrap())
    }

    /// A third message of NTLM, with its strings where Windows has them.
    fn ntlm(user: &[u8], flags: &[u8]) -> Vec<u8> {
        let strings = [b"D\0O\0M\0".as_slice(), user, b"W\0S\0", &[1; 24], &[2; 24]];
        let mut offset = 64_u32;
        let mut field = |length: usize| {
            let length = u16::try_from(length).unwrap();
            let field = [&length.to_le_bytes()[..], &length.to_le_bytes(), &offset.to_le_bytes()].concat();
            offset += u32::from(length);
            field
        };
        let [domain, user_name, workstation, lm, nt] = strings.map(|string| field(string.len()));
        let head = [b"NTLMSSP\0\x03\0\0\0", &lm[..], &nt, &domain, &user_name, &workstation, &[0; 8], flags].concat();
        [head, strings.concat()].concat()
    }

    #[test]
    fn each_mechanism_has_the_name_in_its_own_place() {
        let scram = encoded("n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
        let proof = encoded("c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=");
        let digest =
            encoded(r#"charset=utf-8,username="chris",realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",nc=00000001"#);
        type Row<'a> = (&'a str, Option<&'a str>, &'a [&'a str], Option<&'a str>);
        let rows: &[Row<'_>] = &[
            // RFC 4616 §4.
            ("PLAIN", Some("AHRpbQB0YW5zdGFhZnRhbnN0YWFm"), &[], Some("tim")),
            ("plain", None, &["AHRpbQB0YW5zdGFhZnRhbnN0YWFm"], Some("tim")),
            ("PLAIN", None, &["VXJzZWwAS3VydAB4aXBqMzBtZQ=="], Some("kurt")),
            ("PLAIN", None, &[], None),
            ("PLAIN", None, &["*"], None),
            ("PLAIN", Some("="), &["AHRpbQB0YW5zdGFhZnRhbnN0YWFm"], Some("tim")),
            // A bot of 2015: names and passwords out of a list, whatever the challenges say.
            ("LOGIN", None, &["aGFua3M=", "ODg4ODg4"], Some("hanks")),
            ("LOGIN", Some("aGFua3M="), &["ODg4ODg4"], Some("hanks")),
            ("Login", None, &["aGFua3M="], Some("hanks")),
            // RFC 2195 §2.
            ("CRAM-MD5", None, &["dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"], Some("tim")),
            ("DIGEST-MD5", None, &[&digest, ""], Some("chris")),
            ("SCRAM-SHA-1", None, &[&scram, &proof], Some("user")),
            ("scram-sha-256-plus", Some(&scram), &[&proof, ""], Some("user")),
            // Google's, and RFC 7628 §4.1.
            (
                "XOAUTH2",
                Some(
                    "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ==",
                ),
                &[""],
                Some("someuser@example.com"),
            ),
            (
                "OAUTHBEARER",
                None,
                &[
                    "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2c9PQEB",
                ],
                Some("user@example.com"),
            ),
            ("NTLM", Some("TlRMTVNTUAABAAAAt4II4gAAAAAAAAAAAAAAAAAAAAAFASgKAAAADw=="), &[], None),
            ("EXTERNAL", Some("ZnJlZEBleGFtcGxlLmNvbQ=="), &[], Some("fred@example.com")),
            ("EXTERNAL", Some("="), &[], None),
            ("GSSAPI", Some("YIIB"), &["AAAA"], None),
            ("", None, &["aGFua3M=", "ODg4ODg4"], None),
        ];
        for &(mechanism, initial, lines, expected) in rows {
            assert_eq!(name(&follow(mechanism, initial, lines)), expected, "{mechanism} {initial:?} {lines:?}");
        }
        let wide: Vec<u8> = "Müller".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (message, expected) in [
            (ntlm(&wide, &[1, 2, 8, 0xa2]), Some("müller")),
            (ntlm(b"MULLER", &[2, 2, 8, 0xa2]), Some("muller")),
            (ntlm(b"", &[1, 2, 8, 0xa2]), None),
            (ntlm(&wide, &[1, 2, 8, 0xa2])[..70].to_vec(), None),
            (b"NTLMSSP\0\x03\0\0\0".to_vec(), None),
        ] {
            let challenged = follow("NTLM", None, &["TlRMTVNTUAABAAAA", &encoded(message)]);
            assert_eq!(name(&challenged), expected);
            assert!(challenged.is_complete());
        }
    }

    #[test]
    fn messages_that_are_written_oddly() {
        let rows: &[(&str, &[u8], Option<&str>)] = &[
            ("PLAIN", b"only\0one", None),
            ("PLAIN", b"none", None),
            ("PLAIN", b"someone\0\0secret", None),
            ("PLAIN", b"\0ALICE@Example.Org \0secret\0more", Some("alice@example.org")),
            ("CRAM-MD5", b"a name with blanks 0123456789abcdef0123456789ABCDEF", Some("a name with blanks")),
            ("CRAM-MD5", b"alice secret", None),
            ("CRAM-MD5", b"alice 0123456789abcdef0123456789abcdeg", None),
            ("CRAM-MD5", b"0123456789abcdef0123456789abcdef", None),
            ("DIGEST-MD5", br#",, UserName = "a\"b\\c,d=e" ,x=y"#, Some(r#"a"b\c,d=e"#)),
            ("DIGEST-MD5", br#"realm="x,username=\"no\"",username=yes"#, Some("yes")),
            ("DIGEST-MD5", br#"username="alice"#, Some("alice")),
            ("DIGEST-MD5", b"user", None),
            ("SCRAM-SHA-1", b"n,a=admin,n=a=2Cb=3Dc=2cd=,r=x", Some("a,b=c,d=")),
            ("SCRAM-SHA-1", b"p=tls-exporter,,m=x,n=alice,r=x", Some("alice")),
            ("SCRAM-SHA-1", b"n=alice,r=x", None),
            ("SCRAM-SHA-1", b"q,,n=alice,r=x", None),
            ("XOAUTH2", b"auth=Bearer x\x01user=alice\x01\x01", Some("alice")),
            ("XOAUTH2", b"auth=Bearer user=alice\x01\x01", None),
            ("OAUTHBEARER", b"n,,\x01auth=Bearer x\x01\x01", None),
            ("OAUTHBEARER", b"y,a=a=2Cb,\x01auth=Bearer x\x01\x01", Some("a,b")),
        ];
        for &(mechanism, message, expected) in rows {
            let exchange = follow(mechanism, None, &[&encoded(message)]);
            assert_eq!(name(&exchange), expected, "{mechanism} {}", message.escape_ascii());
        }
    }

    #[test]
    fn base64_is_read_as_the_most_lenient_server_reads_it() {
        for line in
            ["AGFsaWNlAHg=", "AGFsaWNlAHg", " AGFsaWNlAHg=\t", "AGFsaWNlAHg=AAAA", "AGFsaWNlAHi=", "AGFsaWNlAHg=!"]
        {
            assert_eq!(name(&follow("PLAIN", Some(line), &[])), Some("alice"), "{line}");
        }
        for line in ["", "!", "A", "====", "AGFsaWNl"] {
            assert_eq!(name(&follow("PLAIN", None, &[line])), None, "{line}");
        }
    }

    #[test]
    fn what_follows_a_decoy_is_what_counts() {
        let (decoy, real) = (encoded("\0nobody\0x"), encoded("\0alice\0x"));
        assert_eq!(name(&follow("PLAIN", Some(&decoy), &[&real])), Some("alice"));
        // Of LOGIN, nobody knows where the password is then.
        let lines = ["bm9ib2R5", "YWxpY2U=", "c2VjcmV0"];
        assert_eq!(name(&follow("LOGIN", None, &lines)), None);
        assert_eq!(name(&follow("LOGIN", Some(lines[0]), &lines[1..])), None);
    }

    #[test]
    fn a_challenge_to_complete_credentials_is_a_refusal() {
        let plain = encoded("\0alice\0x");
        let scram = encoded("n,,n=alice,r=x");
        let token = encoded("user=alice\x01auth=Bearer x\x01\x01");
        let error = encoded(r#"{"status":"401"}"#);
        type Row<'a> = (&'a str, Option<&'a str>, &'a [&'a str], &'a str, (bool, bool));
        let rows: &[Row<'_>] = &[
            ("PLAIN", None, &[], "", (false, false)),
            ("PLAIN", Some(&plain), &[], "", (true, true)),
            ("LOGIN", Some("YWxpY2U="), &[], "UGFzc3dvcmQ6", (false, false)),
            ("LOGIN", None, &["YWxpY2U=", "eA=="], "", (true, true)),
            ("XOAUTH2", Some(&token), &[], &error, (true, true)),
            ("OAUTHBEARER", None, &[&token], &error, (true, true)),
            ("SCRAM-SHA-1", Some(&scram), &[], &encoded("r=xy,s=QSXCR+Q6sek8bf92,i=4096"), (false, false)),
            ("SCRAM-SHA-1", Some(&scram), &["cA=="], &encoded("e=invalid-proof"), (true, true)),
            ("SCRAM-SHA-1", Some(&scram), &["cA=="], &encoded("v=rmF9pqV8S7suAoZWja4dJRkFsKQ="), (true, false)),
            ("DIGEST-MD5", None, &["cA=="], &encoded("rspauth=ea40f60335c427b5527b84dbabcdfffd"), (true, false)),
            ("DIGEST-MD5", None, &["cA=="], "", (true, true)),
            ("NTLM", Some("TlRMTVNTUAABAAAA"), &[], "TlRMTVNTUAACAAAA", (false, false)),
            ("GSSAPI", Some("YIIB"), &[], "YIIB", (true, false)),
        ];
        for &(mechanism, initial, lines, challenge, expected) in rows {
            let mut exchange = follow(mechanism, initial, lines);
            exchange.challenge(challenge.as_bytes());
            let found = (exchange.is_complete(), exchange.is_doubted());
            assert_eq!(found, expected, "{mechanism} {initial:?} {lines:?}");
            exchange.client_line(b"*");
            assert_eq!((exchange.is_complete(), exchange.is_doubted()), expected, "cancelled");
        }
    }

    #[test]
    fn debug_prints_neither_name_nor_password() {
        let exchange = follow("PLAIN", Some(&encoded("\0alice\0sesame")), &[]);
        assert_eq!(
            format!("{exchange:?}"),
            "Exchange { mechanism: Plain, messages: 1, complete: true, doubted: false, .. }"
        );
    }

    proptest! {
        /// Whatever is said, and however it is cut short.
        #[test]
        fn nothing_panics(
            mechanism in proptest::sample::select(vec![
                "PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "XOAUTH2", "OAUTHBEARER", "NTLM", "EXTERNAL", "X",
            ]),
            user in proptest::collection::vec(any::<u8>(), 0..40),
            flags in any::<[u8; 4]>(),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..200,
        ) {
            for message in [ntlm(&user, &flags), noise, [b"NTLMSSP\0\x03\0\0\0", user.as_slice()].concat()] {
                let part = message.get(..cut).unwrap_or(&message);
                for line in [encoded(part).as_bytes(), part] {
                    let mut exchange = Exchange::begin(Start { mechanism: mechanism.as_bytes(), initial: Some(line) });
                    exchange.challenge(line);
                    exchange.client_line(line);
                    prop_assert!(exchange.account().is_none_or(|account| (1..=256).contains(&account.name().len())));
                }
            }
        }
    }
}

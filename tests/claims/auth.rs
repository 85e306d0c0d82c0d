//! AUTH exchanges: which account is tried.

use gatepost::smtp::auth::{Account, Exchange, LONGEST, Start};
use gatepost::smtp::command::Command;

/// Of any exchange: a name is short and in one spelling, `Debug` prints neither it nor a password, and it is the same
/// account whether the first message comes with the command or behind it, and with its padding or without.
///
/// Of an exchange by the book, for any name and password: it is that name, and no password has a say in it.
///
/// The first line is the command, those behind it are the client's. Up to the first colon it is a name, too, and a password
/// from there on.
pub fn auth(input: &[u8]) {
    let mut lines = input.split(|&byte| byte == b'\n');
    let command = lines.next().unwrap_or_default();
    let start = match Command::parse(command) {
        Command::Auth(start) => start,
        _ => Start::guess(command),
    };
    let lines: Vec<_> = lines.collect();
    let exchange = follow(start, &lines);
    look_at(&exchange);
    if let Some(initial) = start.initial.filter(|&initial| initial != b"*") {
        let first: &[u8] = if initial == b"=" { b"" } else { initial };
        let later = follow(Start { initial: None, ..start }, &[&[first], lines.as_slice()].concat());
        assert_eq!(later, exchange, "behind the command, not with it");
        let bare: Vec<u8> = initial.iter().copied().take_while(|&byte| byte != b'=').collect();
        let padded = [bare.as_slice(), b"="].concat();
        let initial = Some(if bare.is_empty() { b"=" } else { bare.as_slice() });
        let [bare, padded] =
            [initial, Some(padded.as_slice())].map(|initial| follow(Start { initial, ..start }, &lines));
        assert_eq!(bare, padded, "with padding");
    }
    by_the_book(input);
}

fn follow(start: Start<'_>, lines: &[&[u8]]) -> Exchange {
    let mut exchange = Exchange::begin(start);
    for line in lines {
        exchange.challenge(b"");
        exchange.client_line(line);
    }
    exchange
}

fn look_at(exchange: &Exchange) {
    if let Some(account) = exchange.account() {
        let name = account.name();
        assert!((1..=LONGEST).contains(&name.len()), "{} bytes", name.len());
        assert!(!name.iter().any(|&byte| byte == 0 || byte.is_ascii_uppercase()), "{}", name.escape_ascii());
        assert_eq!(Account::new(name).as_ref(), Some(account), "one spelling");
        assert_eq!(format!("{account:?}"), "Account(…)");
    }
    let printed = format!("{exchange:?}");
    assert!(printed.starts_with("Exchange { mechanism: ") && printed.len() < 100, "{printed}");
}

fn by_the_book(input: &[u8]) {
    let colon = input.iter().position(|&byte| byte == b':').unwrap_or(input.len());
    let (name, password) = input.split_at(colon);
    let expected = Account::new(name);
    // What a mechanism's message cannot carry is in no name.
    let plain = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let escaped = plain.iter().flat_map(|byte| match byte {
        b',' => b"=2C",
        b'=' => b"=3D",
        byte => std::slice::from_ref(byte),
    });
    let escaped: Vec<u8> = escaped.copied().collect();
    let scram = [b"n,a=someone,n=", escaped.as_slice(), b",r=", password].concat();
    let quoted = plain.iter().flat_map(|byte| match byte {
        b'"' => b"\\\"",
        b'\\' => b"\\\\",
        byte => std::slice::from_ref(byte),
    });
    let quoted: Vec<u8> = quoted.copied().collect();
    let digest = [b"realm=\"a,b\",username=\"", quoted.as_slice(), b"\",response=", password].concat();
    let messages: [(&[u8], &[&[u8]]); 5] = [
        (b"PLAIN", &[&[b"someone\0", plain, b"\0", password].concat()]),
        (b"LOGIN", &[name, password]),
        (b"SCRAM-SHA-256", &[&scram, password]),
        (b"DIGEST-MD5", &[&digest]),
        (b"CRAM-MD5", &[&[name, b" 0123456789abcdef0123456789abcdef"].concat()]),
    ];
    for (mechanism, messages) in messages {
        let lines: Vec<_> = messages.iter().map(|message| encoded(message)).collect();
        let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        let exchange = follow(Start { mechanism, initial: None }, &lines);
        // A password that happens to be a message with another name in it is the client's own doing.
        let again = mechanism == b"SCRAM-SHA-256" && [b"n", b"y", b"p"].iter().any(|flag| password.starts_with(*flag));
        if !again && lines.iter().all(|line| line.len() < 12_000) {
            assert_eq!(exchange.account(), expected.as_ref(), "{}", mechanism.escape_ascii());
        }
    }
}

/// Base64 (RFC 4648 §4).
fn encoded(message: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |chunk: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or_default()));
        let digit = move |at: usize| DIGITS.get((bits >> (18 - 6 * at) & 63) as usize).copied().unwrap_or_default();
        (0..=chunk.len()).map(digit).chain(std::iter::repeat_n(b'=', 3 - chunk.len())).collect::<Vec<_>>()
    };
    message.chunks(3).flat_map(digits).collect()
}

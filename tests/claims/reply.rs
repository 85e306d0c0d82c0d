use gatepost::smtp::reply::{self, Code, Enhanced, LINE_LIMIT, Parsed, REPLY_LIMIT, Reply, WRITE_LIMIT};

use super::chunking_never_matters;

/// A reply is a front of the input and says the same with its endings made whole; whatever text we write becomes one
/// reply in clean lines of legal length.
pub fn reply(input: &[u8]) {
    chunking_never_matters(input, reply::parse, |parsed| *parsed == Parsed::Incomplete);
    if let Parsed::Complete(reply) = reply::parse(input) {
        assert!(input.starts_with(reply.raw) && reply.raw.len() <= REPLY_LIMIT);
        assert_eq!(reply.lines().count(), reply.raw.iter().filter(|&&byte| byte == b'\n').count());
        if let Some(enhanced) = reply.enhanced() {
            assert_eq!(u16::from(enhanced.0), reply.code.number() / 100);
            let front = format!("{enhanced}");
            assert!(reply.lines().next().is_some_and(|line| line.starts_with(front.as_bytes())));
        }
        rewritten(&reply);
    }
    ours(input);
}

fn rewritten(reply: &Reply<'_>) {
    let mut out = Vec::new();
    reply.write_to(&mut out);
    if reply.is_canonical() {
        assert_eq!(out, reply.raw);
    }
    // Each CR that was missing makes the reply longer, perhaps too long to be read again.
    if out.len() > REPLY_LIMIT || out.split_inclusive(|&byte| byte == b'\n').any(|line| line.len() > LINE_LIMIT) {
        return;
    }
    let Parsed::Complete(again) = reply::parse(&out) else { panic!("{}", out.escape_ascii()) };
    assert!(again.is_canonical() && again.raw == out);
    assert_eq!((again.code, again.enhanced()), (reply.code, reply.enhanced()));
    assert!(again.lines().eq(reply.lines()));
}

/// The first three bytes choose the codes, the rest is the text.
fn ours(input: &[u8]) {
    let Some(([a, b, c], text)) = input.split_first_chunk() else { return };
    let Some(code) = Code::new(200 + u16::from(*a) + u16::from(*b)) else { return };
    let enhanced = (c % 2 == 0 && !code.is_intermediate())
        .then(|| Enhanced((code.number() / 100) as u8, (*b).into(), (*c).into()));
    let mut out = b"before".to_vec();
    reply::write(&mut out, code, enhanced, &String::from_utf8_lossy(text));
    let out = out.strip_prefix(b"before").expect("what was there stays");
    if out.len() > REPLY_LIMIT {
        return;
    }
    let Parsed::Complete(reply) = reply::parse(out) else { panic!("{}", out.escape_ascii()) };
    assert!(reply.raw == out && reply.is_canonical() && reply.code == code);
    assert!(enhanced.is_none() || reply.enhanced() == enhanced);
    assert!(out.split_inclusive(|&byte| byte == b'\n').all(|line| line.len() <= WRITE_LIMIT));
    assert!(reply.lines().flatten().all(|byte| matches!(byte, b' '..=b'~')));
}

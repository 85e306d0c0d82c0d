use gatepost::smtp::ehlo::{Keyword, Keywords, Offer};
use gatepost::smtp::reply::{self, Parsed, REPLY_LIMIT};

/// An offer can be written and read again: all of it, or as much as is kept, whatever the greeting; and it never offers
/// what nobody here understands.
pub fn ehlo(input: &[u8]) {
    let Parsed::Complete(reply) = reply::parse(input) else { return };
    let offer = Offer::read(&reply);
    let greeting = reply.raw.iter().rev().copied().collect::<Vec<u8>>();
    let some = Keyword::ALL
        .into_iter()
        .zip(input.iter().rev().cycle())
        .filter(|(_, byte)| **byte % 2 == 0)
        .fold(Keywords::NONE, |some, (keyword, _)| some.with(keyword));
    for keep in [Keywords::ALL, Keywords::NONE, some] {
        let Some(again) = written(&offer, &greeting, keep) else { return };
        assert_eq!(again.keywords, offer.keywords.and(keep));
        for keyword in Keyword::ALL {
            let expected = offer.parameter(keyword).filter(|_| keep.has(keyword));
            assert_eq!(again.parameter(keyword), expected, "{}", keyword.name());
        }
        assert!(keep != Keywords::ALL || again == offer);
    }
    let bare = offer.without_plus();
    assert_eq!(bare.without_plus(), bare);
    assert!(offer.keywords.covers(bare.keywords) && bare.keywords.with(Keyword::Auth).covers(offer.keywords));
    let mechanisms = bare.parameter(Keyword::Auth).unwrap_or_default().to_ascii_uppercase();
    assert!(!mechanisms.split(|&byte| byte == b' ').any(|mechanism| mechanism.ends_with(b"-PLUS")));
}

/// The offer, written and read again; none if it no longer fits a reply.
fn written(offer: &Offer, greeting: &[u8], keep: Keywords) -> Option<Offer> {
    let mut out = Vec::new();
    offer.write(&mut out, greeting, keep);
    if out.len() > REPLY_LIMIT {
        return None;
    }
    let Parsed::Complete(reply) = reply::parse(&out) else { panic!("{}", out.escape_ascii()) };
    assert!(reply.raw == out && reply.is_canonical() && reply.code.number() == 250);
    for line in reply.lines().skip(1) {
        let keyword = line.split(|&byte| byte == b' ').next().and_then(Keyword::from_name);
        assert!(keyword.is_some_and(|keyword| keep.has(keyword)), "{}", line.escape_ascii());
    }
    Some(Offer::read(&reply))
}

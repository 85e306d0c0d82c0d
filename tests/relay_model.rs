//! The claims about the relay (`tests/claims/relay.rs`), of dialogues that mostly make sense: they get further than the
//! pieces that `tests/properties.rs` throws together.

#![allow(clippy::panic, clippy::expect_used, reason = "a claim that does not hold panics")]

use proptest::collection::vec;
use proptest::prelude::*;

pub mod claims;

/// A message, mostly with an end, with what smugglers put into theirs.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let hidden = [
        "a",
        ".",
        "..",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\r\n.\n",
        "\n.\r\n",
        "\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r\n.\0\r\n",
        "x\r\n",
        "MAIL FROM:<forged@example.org>\r\n",
        "DATA\r\n",
        "QUIT\r\n",
        "\r\n.\r\n",
    ];
    let end = prop_oneof![9 => Just("\r\n.\r\n"), 1 => Just(".\r\n"), 1 => Just("")];
    (vec(proptest::sample::select(hidden.to_vec()), 0..8), end)
        .prop_map(|(text, end)| [text.concat(), end.to_owned()].concat().into_bytes())
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    let form = proptest::sample::select(vec!["BDAT ", "bdat ", "BDAT 0", "BDAT 000"]);
    let last = proptest::sample::select(vec!["", "", " LAST", " last", " LAST "]);
    (form, vec(any::<u8>(), 0..30), last, 0_usize..20).prop_map(|(form, text, last, off)| {
        // Now and then, one byte more or less than announced.
        let size = text.len() + usize::from(off == 0);
        [format!("{form}{size}{last}\r\n").into_bytes(), text].concat()
    })
}

fn act() -> impl Strategy<Value = Vec<u8>> {
    let command = proptest::sample::select(vec![
        "MAIL FROM:<a@example.org>\r\n",
        "MAIL FROM:<>\n",
        "RCPT TO:<b@example.org>\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "NOOP x\n",
        "HELO client.example\r\n",
        "VRFY a\r\n",
        "MAIL what\r\n",
        "MAIL FROM:<a@example.org> AUTH=<>\r\n",
        "MAIL FROM:<a@example.org> XSHADOW=1\r\n",
        "MAIL FROM: <\"a > XOORG=b c\"@example.org>\n",
        "RCPT TO:<\"b\\\" c\"@example.org> XRDST=1\r\n",
        "RCPT TO:<b@example.org>XRDST=1 XRDST=1\r\n",
        "EXPN\r\n",
        "HELP\n",
    ]);
    let odd = proptest::sample::select(vec![
        "\r\n",
        "FOO\r\n",
        "XCLIENT ADDR=::1\r\n",
        "NO\rOP\r\n",
        "NO\0OP\r\n",
        "STARTTLS\r\n",
        "QUIT\r\n",
        "BDAT x\r\n",
        "DATA x\r\n",
        " DATA\r\n",
        "\r\r\n",
        "NOOP\r\r\n",
        "XFORWARD NAME=a\n",
    ]);
    let auth = proptest::sample::select(vec![
        "AUTH PLAIN\r\n",
        "AUTH PLAIN AGEAYg==\r\n",
        "AUTH LOGIN\nanVzdA==\n",
        "AUTH\r\n*\r\n",
    ]);
    prop_oneof![
        3 => Just(b"EHLO client.example\r\n".to_vec()),
        6 => command.prop_map(|text| text.as_bytes().to_vec()),
        6 => message().prop_map(|message| [b"DATA\r\n".to_vec(), message].concat()),
        5 => chunk(),
        1 => odd.prop_map(|text| text.as_bytes().to_vec()),
        2 => auth.prop_map(|text| text.as_bytes().to_vec()),
        1 => Just(recipients()),
    ]
}

/// More recipients than are taken, in a row, each of which the MTA's reply can be told by.
fn recipients() -> Vec<u8> {
    (1..=4).map(|n| format!("RCPT TO:<{}@example.org>\r\n", "b".repeat(n))).collect::<String>().into_bytes()
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![6 => Just(0_u8), 6 => 1_u8..200, 1 => any::<u8>()], 0..256)
}

/// The same, with more STARTTLS among it, and mostly EHLO behind that.
fn act_with_tls() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => act(),
        2 => Just(b"STARTTLS\r\nEHLO client.example\r\n".to_vec()),
        1 => Just(b"STARTTLS\r\n".to_vec()),
    ]
}

fn input(mut choices: Vec<u8>, acts: &[Vec<u8>]) -> Vec<u8> {
    choices.truncate(255);
    let mut input = vec![u8::try_from(choices.len()).expect("at most 255")];
    input.extend(choices);
    input.extend(b"EHLO client.example\r\n");
    input.extend(acts.concat());
    // What comes last is what failed.
    println!("{}", input.escape_ascii());
    input
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn client_and_mta_agree(choices in choices(), acts in vec(act(), 0..16)) {
        claims::relay(&input(choices, &acts));
    }

    #[test]
    fn client_and_mta_agree_where_tls_ends_here(choices in choices(), acts in vec(act_with_tls(), 0..16)) {
        claims::relay_ending_tls(&input(choices, &acts));
    }
}

//! The DNSBL score: judging the addresses of an answer, and adding the score up anew.

use std::hint::black_box;
use std::net::Ipv4Addr;

use gatepost::screen::score::{Lists, Word, parse_list};

use super::Look;

/// What a busy site asks: eight lists, some of them with several filters.
const SITES: &str = "zen.example=127.0.0.[2..3]*3 zen.example=127.0.0.[4..7]*3 zen.example=127.0.0.[10;11]*2 \
    b.example=127.0.0.2*2 sc.example=127.0.0.2 ps.example*1 mx.example=127.0.0.[2;14]*2 un.example*1 \
    wl.example=127.0.[0..255].0*-2 wl.example=127.0.[0..255].1*-3 wl.example=127.0.[0..255].[2..3]*-4 \
    dyn.example=127.0.0.[2..11]*1";

pub fn all(look: &mut impl Look) {
    look.at("score", "parse_list, 12 sites", SITES.len(), || parse_list(black_box(SITES)));

    let lists = Lists::of(&parse_list(SITES).unwrap());
    let addresses = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 10)];
    look.at("score", "hear, 8 lists", 0, || {
        lists.as_slice().iter().map(|list| list.hear(black_box(&addresses))).filter(Result::is_ok).count()
    });

    let words: Vec<Word> = lists
        .as_slice()
        .iter()
        .enumerate()
        .map(|(place, list)| match list.hear(&addresses) {
            Ok(hits) if place % 4 != 3 => Word::Said { hits, ttl: Some(300) },
            _ => Word::Outstanding,
        })
        .collect();
    look.at("score", "score, 8 lists", 0, || lists.score(black_box(&words).iter().copied()));
}

//! All that is remembered, as lines of JSON: for backups, for moving to another host, and to be looked at.
//!
//! `kind`, `key` and `line` are the entry as the store keeps it; a line without them cannot be brought in. What stands beside
//! them says the same for people, and is not read.

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::answer::{Imported, moment, shown};
use super::explain::{counted, passed};
use crate::addr::ClientKey;
use crate::ledger::{Kind, Ledger};
use crate::policy::ban::Decision;
use crate::policy::guard::{Account, Network, Rules, Tally};
use crate::policy::record::Record;
use crate::screen::Standing;
use crate::time::Timestamp;

/// The form of the lines.
const VERSION: u64 = 1;

/// The longest line that is read.
const LONGEST: usize = 64 << 10;

/// How many problems are told one by one.
const PROBLEMS: usize = 10;

/// One entry as a line, without its line feed.
pub fn line_of(kind: Kind, key: &str, line: &str, rules: &Rules, now: Timestamp) -> String {
    let mut entry = json!({"v": VERSION, "kind": kind.name(), "key": key, "line": line});
    let told = told(kind, key, line, rules, now).unwrap_or_default();
    if let (Value::Object(entry), Value::Object(told)) = (&mut entry, told) {
        entry.extend(told);
    }
    entry.to_string()
}

/// What an entry says, for people.
fn told(kind: Kind, key: &str, line: &str, rules: &Rules, now: Timestamp) -> Option<Value> {
    let client = || ClientKey::of_word(key).map(|client| client.to_string());
    Some(match kind {
        Kind::Standing => json!({"client": client()?, "passed": passed(&Standing::read(line)?, now)}),
        Kind::Tally => json!({"client": client()?, "counts": counted(&Tally::read(line)?, rules, now)}),
        Kind::Network => {
            let network = shown(ClientKey::of_word(key)?.neighbourhood());
            json!({"network": network, "ends": moment(Timestamp::from_seconds(u64::from(Network::read(line)?.ends)))})
        }
        Kind::Account => json!({"ends": moment(Timestamp::from_seconds(u64::from(Account::read(line)?.ends)))}),
        Kind::Decision => {
            let Decision { what, reason, count, level, begin, until, who, evidence } = Decision::read(line)?;
            json!({
                "network": shown(key.parse().ok()?),
                "what": what.name(),
                "reason": reason.name(),
                "count": count,
                "level": level,
                "begin": moment(begin),
                "until": until.map(moment),
                "who": who,
                "evidence": evidence,
            })
        }
    })
}

/// What has to be there to bring an entry in.
#[derive(Deserialize)]
struct Entry {
    v: u64,
    kind: String,
    key: String,
    line: String,
}

/// What became of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is remembered.
    In,
    /// It says nothing any more.
    Expired,
}

/// Who carries out a decision that is brought in.
type Decide<'a> = &'a dyn Fn(IpNet, Decision);

/// Brings a line into `ledger`, a decision through `decide`: the longer pass wins, the later decision, and of counters what is remembered longer.
pub fn take(ledger: &Ledger, decide: Decide<'_>, line: &[u8], now: Timestamp) -> Result<Taken, String> {
    let entry: Entry = serde_json::from_slice(line).map_err(|reason| format!("not an entry: {reason}"))?;
    if entry.v != VERSION {
        return Err(format!("of form {}, and this gatepost knows {VERSION} alone", entry.v));
    }
    let unreadable = || format!("the {} of {:?} cannot be read", entry.kind, shorten(&entry.key));
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == entry.kind);
    let kind = kind.ok_or_else(|| format!("{:?} is nothing that is remembered", shorten(&entry.kind)))?;
    merge(ledger, decide, kind, &entry.key, &entry.line, now).ok_or_else(unreadable)
}

fn merge(ledger: &Ledger, decide: Decide<'_>, kind: Kind, key: &str, line: &str, now: Timestamp) -> Option<Taken> {
    let seconds = u32::try_from(now.seconds()).unwrap_or(u32::MAX);
    let client = || ClientKey::of_word(key);
    let taken = |holds| if holds { Taken::In } else { Taken::Expired };
    Some(match kind {
        Kind::Standing => {
            let (client, standing) = (client()?, Standing::read(line)?);
            let holds = standing.expires() > now;
            if holds {
                ledger.remember(client, standing, now);
            }
            taken(holds)
        }
        Kind::Tally => {
            let (client, tally) = (client()?, Tally::read(line)?);
            let (ends, known) = (tally.ends, ledger.tally(client, now));
            if ends > seconds && known.is_none_or(|known| known.ends < ends) {
                ledger.take_tally(client, tally, now);
            }
            taken(ends > seconds)
        }
        Kind::Account => {
            let account = Account::read(line)?;
            let digest = (key.len() == 32).then(|| u128::from_str_radix(key, 16).ok())??.to_be_bytes();
            let (ends, known) = (account.ends, ledger.account(digest, now));
            if ends > seconds && known.is_none_or(|known| known.ends < ends) {
                ledger.take_account(digest, account, now);
            }
            taken(ends > seconds)
        }
        Kind::Network => {
            let ends = Network::read(line)?.ends;
            if !ledger.load(kind, key, line, now) {
                return None;
            }
            taken(ends > seconds)
        }
        Kind::Decision => {
            let (network, decision) = (key.parse::<IpNet>().ok()?, Decision::read(line)?);
            let holds = decision.holds(now);
            if holds {
                decide(network, decision);
            }
            taken(holds)
        }
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

impl Control {
    /// Shows all that is remembered, line by line, until `show` says that it is enough.
    pub fn export(&self, mut show: impl FnMut(&str) -> bool) {
        let (now, rules, mut goes_on) = (self.now(), self.rules(), true);
        self.house.ledger.each(now, |kind, key, line| {
            goes_on = goes_on && show(&line_of(kind, &key, &line, &rules, now));
        });
    }
}

/// Lines that are brought in, from bytes in any cut.
pub struct Lines<'a> {
    ledger: &'a Ledger,
    decide: Box<dyn Fn(IpNet, Decision) + Send + 'a>,
    now: Timestamp,
    /// What has come of a line whose end has not.
    begun: Vec<u8>,
    /// It is too long: the rest of it is passed over.
    over: bool,
    imported: Imported,
}

impl<'a> Lines<'a> {
    /// Into a running gatepost.
    pub fn new(control: &'a Control) -> Self {
        let house = &control.house;
        Self::into(&house.ledger, move |network, decision| drop(house.rule(network, decision)), control.now())
    }

    /// Into a ledger; decisions go to `decide`.
    pub fn into(ledger: &'a Ledger, decide: impl Fn(IpNet, Decision) + Send + 'a, now: Timestamp) -> Self {
        Self { ledger, decide: Box::new(decide), now, begun: Vec::new(), over: false, imported: Imported::default() }
    }

    /// Takes some bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((line, tail)) = memchr::memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at)) {
            self.add(line);
            self.finish();
            rest = tail.get(1..).unwrap_or_default();
        }
        self.add(rest);
    }

    /// There are no more.
    pub fn end(mut self) -> Imported {
        self.finish();
        self.imported
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.begun.len() + bytes.len() > LONGEST {
            self.over = true;
        }
        if !self.over {
            self.begun.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self) {
        let (line, over) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.over));
        if line.trim_ascii().is_empty() && !over {
            return;
        }
        let imported = &mut self.imported;
        imported.read += 1;
        let taken = if over { Err("too long".to_owned()) } else { take(self.ledger, &*self.decide, &line, self.now) };
        match taken {
            Ok(Taken::In) => imported.taken += 1,
            Ok(Taken::Expired) => imported.expired += 1,
            Err(problem) => {
                imported.refused += 1;
                if imported.problems.len() < PROBLEMS {
                    imported.problems.push(format!("entry {}: {problem}", imported.read));
                }
            }
        }
        // The buffer is used again.
        self.begun = line;
        self.begun.clear();
    }
}

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("imported", &self.imported).finish_non_exhaustive()
    }
}

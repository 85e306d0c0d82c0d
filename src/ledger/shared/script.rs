//! The verbs as Lua scripts, one key each, so that a cluster can place them: what is sent, and how answers are read.

use std::sync::LazyLock;

use ipnet::IpNet;
use redis::Script;

use super::link::Link;
use super::news;
use crate::addr::ClientKey;
use crate::ledger::store::Digest;
use crate::policy::ban::{Decision, Reason, seconds};
use crate::policy::guard::{Account, Failed, Limit, Rules, Sentence, Strike, Tally};
use crate::policy::record::Record;
use crate::screen::{Standing, Test, Tests};

/// What a script answers: the line that is kept now, and what follows.
pub(super) type Lines = (String, String);

/// A script that is made once.
macro_rules! script {
    ($($file:literal),+) => {
        LazyLock::new(|| Script::new(concat!($(include_str!(concat!("lua/", $file, ".lua")), "\n"),+)))
    };
}

static STRIKE: LazyLock<Script> = script!("values", "tally", "strike");
static LOGGED_IN: LazyLock<Script> = script!("values", "tally", "logged_in");
static ACCOUNT: LazyLock<Script> = script!("values", "account");
static NETWORK: LazyLock<Script> = script!("values", "network");
static STANDING: LazyLock<Script> = script!("values", "standing");
static DECIDE: LazyLock<Script> = script!("values", "decide");
static FORGET: LazyLock<Script> = script!("values", "forget");
static DROP: LazyLock<Script> = script!("drop");

/// Makes the scripts known, so that no verb is the first to have to.
pub(super) async fn load(link: &mut Link) -> redis::RedisResult<()> {
    for script in [&STRIKE, &LOGGED_IN, &ACCOUNT, &NETWORK, &STANDING, &DECIDE, &FORGET, &DROP] {
        script.load_async(link).await?;
    }
    Ok(())
}

/// The keys, all of which begin alike, and what this host is called.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    node: String,
}

impl Keys {
    pub(super) fn new(prefix: String, node: String) -> Self {
        Self { prefix, node }
    }

    pub(super) fn tally(&self, client: ClientKey) -> String {
        format!("{}:tally:{}", self.prefix, client.word())
    }

    pub(super) fn standing(&self, client: ClientKey) -> String {
        format!("{}{}", self.standings(), client.word())
    }

    /// What the keys of all standings begin with.
    pub(super) fn standings(&self) -> String {
        format!("{}:standing:", self.prefix)
    }

    fn account(&self, account: Digest) -> String {
        format!("{}:account:{:032x}", self.prefix, u128::from_be_bytes(account))
    }

    fn network(&self, network: IpNet) -> String {
        format!("{}:network:{network}", self.prefix)
    }

    /// All decisions are in one place.
    pub(super) fn decisions(&self) -> String {
        format!("{}:{{decisions}}", self.prefix)
    }

    /// Whether this is still the store that was filled.
    pub(super) fn marker(&self) -> String {
        format!("{}:filled", self.prefix)
    }

    /// Written to see whether the store takes anything.
    pub(super) fn pulse(&self) -> String {
        format!("{}:pulse:{}", self.prefix, self.node)
    }

    /// The channel on which hosts tell one another.
    pub(super) fn news(&self) -> String {
        format!("{}:news", self.prefix)
    }
}

/// The rules as the scripts read them.
fn rules_line(rules: &Rules) -> String {
    let limit = |limit: Limit| [limit.count, seconds(limit.within)];
    let Rules { failures, slow, accounts, strangers, attack, not_offered, known_for, patience, neighbours, ladder } =
        rules;
    let limits = [failures, slow, accounts, strangers, not_offered, neighbours].map(|one| limit(*one));
    let rest = [
        seconds(*attack),
        seconds(*known_for),
        *patience,
        seconds(ladder.first),
        ladder.factor,
        seconds(ladder.most),
        ladder.jitter,
        seconds(ladder.forget),
    ];
    let words: Vec<String> = limits.as_flattened().iter().chain(&rest).map(u32::to_string).collect();
    words.join(" ")
}

/// One call: a script, its key, its arguments.
#[derive(Clone, Debug)]
pub(super) struct Call {
    script: &'static LazyLock<Script>,
    key: String,
    words: Vec<String>,
    /// The channel, and what messages on it begin with.
    told: [String; 2],
}

impl Call {
    fn new(script: &'static LazyLock<Script>, keys: &Keys, key: String, words: Vec<String>) -> Self {
        Self { script, key, words, told: [keys.news(), news::head(&keys.node)] }
    }

    /// The same, and nobody is told.
    pub(super) fn quietly(mut self) -> Self {
        self.told[1].clear();
        self
    }

    pub(super) fn strike(
        keys: &Keys,
        client: ClientKey,
        strike: Strike,
        rules: &Rules,
        (now, dice): (u32, u32),
    ) -> Self {
        let (kind, account) = match strike {
            Strike::Failed(account) => ("failed", account),
            Strike::Honeypot => ("honeypot", None),
            Strike::Attack => ("attack", None),
            Strike::NotOffered => ("not-offered", None),
        };
        let account = account.map_or("-".to_owned(), |account| account.to_string());
        let words = vec![now.to_string(), rules_line(rules), dice.to_string(), kind.to_owned(), account];
        Self::new(&STRIKE, keys, keys.tally(client), words)
    }

    pub(super) fn logged_in(keys: &Keys, client: ClientKey, rules: &Rules, now: u32) -> Self {
        let words = vec![now.to_string(), rules_line(rules)];
        Self::new(&LOGGED_IN, keys, keys.tally(client), words)
    }

    pub(super) fn account(
        keys: &Keys,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        (now, failed): (u32, bool),
    ) -> Self {
        let act = if failed { "failed" } else { "succeeded" };
        let words = vec![now.to_string(), rules_line(rules), act.to_owned(), client.word()];
        Self::new(&ACCOUNT, keys, keys.account(account), words)
    }

    pub(super) fn offend(
        keys: &Keys,
        network: IpNet,
        client: ClientKey,
        rules: &Rules,
        (now, dice): (u32, u32),
    ) -> Self {
        let words = vec![now.to_string(), rules_line(rules), dice.to_string(), client.word()];
        Self::new(&NETWORK, keys, keys.network(network), words)
    }

    pub(super) fn standing(keys: &Keys, client: ClientKey, revoked: Tests, standing: &Standing, now: u32) -> Self {
        let words = vec![now.to_string(), tests_word(revoked), standing.line()];
        Self::new(&STANDING, keys, keys.standing(client), words)
    }

    pub(super) fn decide(keys: &Keys, network: IpNet, decision: &Decision) -> Self {
        Self::new(&DECIDE, keys, keys.decisions(), vec![network.to_string(), decision.line()])
    }

    pub(super) fn forget(keys: &Keys, client: ClientKey) -> Self {
        Self::new(&FORGET, keys, keys.tally(client), Vec::new())
    }

    /// Takes out decisions that were read as these lines.
    pub(super) fn drop(keys: &Keys, ended: impl IntoIterator<Item = (String, String)>) -> Self {
        let words = ended.into_iter().flat_map(|(network, line)| [network, line]).collect();
        Self::new(&DROP, keys, keys.decisions(), words)
    }

    /// Runs it.
    pub(super) async fn run<T: redis::FromRedisValue>(&self, link: &mut Link) -> redis::RedisResult<T> {
        let mut call = self.script.key(&self.key);
        for word in self.words.iter().chain(&self.told) {
            call.arg(word);
        }
        call.invoke_async(link).await
    }
}

/// Tests by their numbers, as one word.
pub(super) fn tests_word(tests: Tests) -> String {
    let numbers: Vec<String> =
        Test::ALL.iter().enumerate().filter(|(_, test)| tests.has(**test)).map(|(n, _)| n.to_string()).collect();
    if numbers.is_empty() { "-".to_owned() } else { numbers.join(",") }
}

/// What [`tests_word`] wrote.
pub(super) fn tests_of(word: &str) -> Option<Tests> {
    let mut tests = Tests::NONE;
    for number in word.split(',').filter(|_| word != "-") {
        tests.insert(*Test::ALL.get(number.parse::<usize>().ok()?)?);
    }
    Some(tests)
}

/// A value, and a sentence if there is one. None if the answer is not what a script of ours says.
pub(super) fn sentenced<T: Record>((line, verdict): &Lines) -> Option<(T, Option<Sentence>)> {
    let value = T::read(line)?;
    if verdict.is_empty() {
        return Some((value, None));
    }
    let mut words = verdict.split(' ');
    let sentence = Sentence {
        reason: Reason::of(words.next()?)?,
        count: words.next()?.parse().ok()?,
        level: words.next()?.parse().ok()?,
        until: words.next()?.parse().ok()?,
    };
    Some((value, Some(sentence)))
}

pub(super) fn tally((line, _): &Lines) -> Option<Tally> {
    Tally::read(line)
}

pub(super) fn standing((line, _): &Lines) -> Option<Standing> {
    Standing::read(line)
}

pub(super) fn account((line, _): &Lines) -> Option<Account> {
    Account::read(line)
}

pub(super) fn account_failed((line, verdict): &Lines) -> Option<(Account, Failed)> {
    let account = Account::read(line)?;
    let Some((count, others)) = verdict.split_once(' ') else { return Some((account, Failed::Nothing)) };
    let others = others.split(',').filter(|_| others != "-").map(ClientKey::of_word).collect::<Option<Vec<_>>>()?;
    Some((account, Failed::Attack { count: count.parse().ok()?, others }))
}

/// What is decided by now, and whether it is what was asked for.
pub(super) fn decided((line, verdict): &Lines) -> Option<(Decision, bool)> {
    Some((Decision::read(line)?, verdict == "kept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_have_as_many_words_as_the_scripts_read() {
        let line = rules_line(&Rules::default());
        assert_eq!(line, "5 600 20 7200 6 3600 10 3600 10 3600 0 1 3600 2592000 4 600 4 604800 10 1209600");
    }

    #[test]
    fn tests_are_read_as_they_were_written() {
        let mut tests = Tests::NONE;
        assert_eq!((tests_word(tests).as_str(), tests_of("-")), ("-", Some(tests)));
        tests.insert(Test::Dnsbl);
        tests.insert(Test::AuthNotOffered);
        assert_eq!((tests_word(tests).as_str(), tests_of("1,7")), ("1,7", Some(tests)));
        for foreign in ["", "8", "1,,2", "x", "-1"] {
            assert_eq!(tests_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn an_answer_that_is_none_of_ours_is_none() {
        let lines = |line: &str, verdict: &str| (line.to_owned(), verdict.to_owned());
        let empty = Tally::default().line();
        assert!(sentenced::<Tally>(&lines(&empty, "")).is_some());
        assert!(sentenced::<Tally>(&lines(&empty, "auth-failures 5 1 1700000000")).is_some());
        for verdict in ["x", "auth-failures", "auth-failures 5 1 -1", "auth-failures 5 300 1"] {
            assert_eq!(sentenced::<Tally>(&lines(&empty, verdict)), None, "{verdict}");
        }
        assert_eq!(sentenced::<Tally>(&lines("2 - -", "")), None);
    }
}

//! The lists as a whole, against a scripted name server.
//!
//! Sockets are real, so the clock runs; where minutes have to pass it is set forward while nothing is under way
//! ([`later`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{self, Instant};

use super::*;
use crate::dns::double::{Double, Reply, client, client_number, listed, test_address};
use crate::screen::score::parse_list;

/// Long enough for loopback on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn settings(double: &Double, sites: &str) -> Settings {
    Settings {
        sites: parse_list(sites).unwrap(),
        nameservers: vec![double.address],
        timeout: PATIENCE,
        cache_entries: 1000,
        self_test: Duration::ZERO,
        breaker_failures: 3,
        breaker_pause: Duration::from_secs(30),
        alarm_percent: 0,
        alarm_sample: 10,
    }
}

/// One visit that asks.
struct Visit {
    first: Score,
    answers: UnboundedReceiver<Answer>,
}

impl Visit {
    fn ask(dnsbl: &Dnsbl, client: IpAddr) -> Self {
        let (to, answers) = unbounded_channel();
        let first = dnsbl.ask(client, Waiter { to, ticket: 7 });
        Self { first, answers }
    }

    async fn next(&mut self) -> Score {
        let answer = time::timeout(2 * PATIENCE, self.answers.recv()).await.expect("no answer").expect("no sender");
        assert_eq!(answer.ticket, 7);
        answer.score
    }

    /// The score when nothing is outstanding any more.
    async fn last(mut self) -> Score {
        let mut score = self.first;
        while score.outstanding > 0 {
            score = self.next().await;
        }
        score
    }
}

async fn ask(dnsbl: &Dnsbl, client: IpAddr) -> Score {
    Visit::ask(dnsbl, client).last().await
}

/// Lets the other tasks finish what they have begun.
async fn settle(dnsbl: &Dnsbl) {
    while dnsbl.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Sets the clock forward.
async fn later(span: Duration) {
    time::pause();
    time::advance(span).await;
    time::resume();
}

fn state(dnsbl: &Dnsbl, place: usize) -> State {
    dnsbl.zones()[place].state
}

fn errors(dnsbl: &Dnsbl, place: usize) -> Vec<(&'static str, u64)> {
    dnsbl.zones()[place].errors().filter(|&(_, count)| count > 0).collect()
}

#[tokio::test]
async fn parallel_asks_share_one_set_of_questions() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let double = Double::start(move |_| Reply::Held(Arc::clone(&held), Box::new(listed(2)))).await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test*2 b.test*3 a.test=127.0.0.4*5")).unwrap();

    let visits: Vec<Visit> = (0..50).map(|_| Visit::ask(&dnsbl, client(1))).collect();
    assert!(visits.iter().all(|visit| visit.first.outstanding == 2 && visit.first.most == 10));
    double.until(".test", 2).await;
    gate.add_permits(2);
    for visit in visits {
        assert_eq!(visit.last().await.total, 5);
    }
    let mut asked = double.asked();
    asked.sort();
    assert_eq!(asked, ["1.2.0.192.a.test", "1.2.0.192.b.test"]);
}

#[tokio::test]
async fn each_answer_is_told_as_it_comes() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let double = Double::start(move |name| match name.ends_with("slow.test") {
        true => Reply::Held(Arc::clone(&held), Box::new(Reply::NotListed(60))),
        false => listed(4),
    })
    .await;
    let dnsbl =
        Dnsbl::open(settings(&double, "fast.test=127.0.0.[2;4..6]*3 slow.test*-2 fast.test=127.0.0.2*9")).unwrap();
    let mut visit = Visit::ask(&dnsbl, client(1));
    assert_eq!((visit.first.total, visit.first.least, visit.first.most), (0, -2, 12));
    let score = visit.next().await;
    assert_eq!((score.total, score.least, score.most, score.outstanding), (3, 1, 3, 1));
    assert_eq!((score.worst, score.decided(3), score.decided(1)), (Some(0), None, Some(true)));

    // Who comes now joins, and knows as much at once. Who has gone is no trouble.
    drop(Visit::ask(&dnsbl, client(1)));
    let late = Visit::ask(&dnsbl, client(1));
    assert_eq!(late.first, score);
    gate.add_permits(1);
    let last = visit.next().await;
    assert_eq!((last.total, last.least, last.outstanding), (3, 3, 0));
    assert_eq!(late.last().await, last);
    assert!(visit.answers.recv().await.is_none(), "no sender is left behind");
}

#[tokio::test]
async fn answers_are_remembered_for_their_least_ttl() {
    let double = Double::start(|name| match name.ends_with("a.test") {
        true => Reply::Addresses(vec![[127, 0, 0, 2]], 100),
        false => Reply::NotListed(40),
    })
    .await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test*-1 b.test")).unwrap();
    let score = ask(&dnsbl, client(1)).await;
    assert_eq!((score.total, score.pass_ttl), (-1, Some(Duration::from_secs(40))));
    settle(&dnsbl).await;
    assert_eq!(dnsbl.remembered(), 1);

    later(Duration::from_secs(15)).await;
    let again = Visit::ask(&dnsbl, client(1));
    assert_eq!((again.first.total, again.first.outstanding), (-1, 0));
    assert_eq!(again.first.pass_ttl, Some(Duration::from_secs(25)), "what is left of it");
    later(Duration::from_secs(25)).await;
    assert_eq!(ask(&dnsbl, client(1)).await.total, -1);
    assert_eq!(double.count(".test"), 4);
}

#[tokio::test]
async fn what_is_remembered_has_a_least_and_a_most() {
    let double = Double::start(|name| match client_number(name) {
        Some(1) => Reply::Addresses(vec![[127, 0, 0, 2]], 0),
        Some(2) => Reply::NotListed(80_000),
        _ => Reply::Code(ResponseCode::NXDomain),
    })
    .await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test")).unwrap();
    for (number, ttl) in [(1, Some(0)), (2, Some(80_000)), (3, None)] {
        let score = ask(&dnsbl, client(number)).await;
        assert_eq!(score.pass_ttl, ttl.map(Duration::from_secs));
    }
    settle(&dnsbl).await;
    assert_eq!(dnsbl.remembered(), 3);
    later(Duration::from_secs(1)).await;
    for (number, outstanding) in [(1, 1), (2, 0), (3, 1)] {
        assert_eq!(Visit::ask(&dnsbl, client(number)).first.outstanding, outstanding, "client {number}");
    }
    later(Duration::from_secs(3600)).await;
    assert_eq!(Visit::ask(&dnsbl, client(2)).first.outstanding, 1);
}

#[tokio::test]
async fn a_silent_server_costs_one_timeout_and_one_question() {
    let double = Double::start(|_| Reply::Silence).await;
    let timeout = Duration::from_millis(1200);
    let dnsbl = Dnsbl::open(Settings { timeout, ..settings(&double, "a.test*3 b.test*3") }).unwrap();
    let begin = Instant::now();
    let score = ask(&dnsbl, client(1)).await;
    let took = begin.elapsed();
    assert_eq!((score.total, score.most, score.outstanding, score.pass_ttl), (0, 0, 0, None));
    assert!(took >= timeout * 9 / 10 && took < timeout * 2, "{took:?}");
    // hickory's own habit is to send again after a third of a second.
    assert_eq!((double.count("a.test"), double.count("b.test")), (1, 1));
    assert_eq!(errors(&dnsbl, 0), [("timeout", 1)]);
    settle(&dnsbl).await;
    assert_eq!(dnsbl.remembered(), 0, "silence is no answer");
}

#[tokio::test]
async fn a_list_that_failed_is_asked_again_and_the_others_are_not() {
    let double = Double::start(|name| match name.ends_with("b.test") {
        true => Reply::Code(ResponseCode::ServFail),
        false => listed(2),
    })
    .await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test*2 b.test*3")).unwrap();
    assert_eq!(ask(&dnsbl, client(1)).await.total, 2);
    settle(&dnsbl).await;
    double.rewrite(|_| listed(2));
    let second = Visit::ask(&dnsbl, client(1));
    assert_eq!((second.first.total, second.first.outstanding), (2, 1));
    assert_eq!(second.last().await.total, 5);
    assert_eq!((double.count("a.test"), double.count("b.test")), (1, 2));
    assert_eq!(errors(&dnsbl, 1), [("servfail", 1)]);
    assert_eq!((dnsbl.zones()[1].queries, dnsbl.zones()[1].hits), (2, 1));
}

#[tokio::test]
async fn errors_of_every_kind_say_nothing_of_the_client() {
    let rows = [
        (Reply::Code(ResponseCode::ServFail), "servfail"),
        (Reply::Code(ResponseCode::Refused), "refused"),
        (Reply::Code(ResponseCode::NotImp), "malformed"),
        (Reply::Code(ResponseCode::Unknown(3000)), "malformed"),
        (Reply::Addresses(vec![[127, 255, 255, 254]], 60), "error-code"),
        (Reply::Addresses(vec![[127, 255, 255, 1], [127, 0, 0, 2]], 60), "error-code"),
        (Reply::Addresses(vec![[192, 0, 2, 80]], 60), "outside-127"),
    ];
    for (reply, kind) in rows {
        let (double, shown) = (Double::start(move |_| reply.clone()).await, kind);
        let all = "a.test=[0..255].[0..255].[0..255].[0..255]*5";
        let dnsbl = Dnsbl::open(settings(&double, all)).unwrap();
        let score = ask(&dnsbl, client(1)).await;
        assert_eq!((score.total, score.outstanding, score.worst), (0, 0, None), "{shown}");
        assert_eq!(errors(&dnsbl, 0), [(shown, 1)]);
        assert_eq!(double.count("a.test"), 1, "{shown}");
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_short_is_fetched_over_tcp() {
    let double = Double::start(|_| {
        let many = (1..=200).map(|last| [127, 0, 0, last]).collect();
        Reply::Cut(Box::new(Reply::Addresses(many, 300)))
    })
    .await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test=127.0.0.200*3")).unwrap();
    assert_eq!(ask(&dnsbl, client(1)).await.total, 3);
    assert_eq!(double.count("a.test"), 1);
}

#[tokio::test]
async fn ipv6_clients_are_asked_about_by_nibbles_and_mapped_ones_as_ipv4() {
    let double = Double::start(|_| listed(2)).await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test")).unwrap();
    for address in ["2001:db8::567:89ab", "::ffff:192.0.2.9", "192.0.2.9"] {
        assert_eq!(ask(&dnsbl, address.parse().unwrap()).await.total, 1);
        settle(&dnsbl).await;
    }
    let nibbles = "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.a.test";
    assert_eq!(double.asked(), [nibbles, "9.2.0.192.a.test"]);
}

#[tokio::test]
async fn the_breaker_opens_and_lets_one_question_through() {
    let double = Double::start(|_| Reply::Code(ResponseCode::ServFail)).await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test*3")).unwrap();
    for number in 1..=3 {
        assert_eq!(state(&dnsbl, 0), State::Working);
        ask(&dnsbl, client(number)).await;
    }
    assert!(matches!(state(&dnsbl, 0), State::Paused { last: Failure::ServFail, .. }));
    let skipped = Visit::ask(&dnsbl, client(4)).first;
    assert_eq!((skipped.outstanding, skipped.most), (0, 0), "nobody waits for it");
    assert_eq!(double.count("a.test"), 3);

    later(Duration::from_secs(30)).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    double.rewrite(move |_| Reply::Held(Arc::clone(&held), Box::new(listed(2))));
    let probe = Visit::ask(&dnsbl, client(5));
    assert_eq!(probe.first.outstanding, 1);
    assert_eq!(Visit::ask(&dnsbl, client(6)).first.outstanding, 0, "one, not one for each client");
    gate.add_permits(1);
    assert_eq!(probe.last().await.total, 3);
    assert_eq!((state(&dnsbl, 0), double.count("a.test")), (State::Working, 4));
}

#[tokio::test]
async fn questions_beyond_the_limit_queue_and_are_dropped_when_the_list_goes() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let double =
        Double::start(move |_| Reply::Held(Arc::clone(&held), Box::new(Reply::Code(ResponseCode::ServFail)))).await;
    let limits = Limits { questions: 3, flights: 10 };
    let dnsbl = Dnsbl::with(settings(&double, "a.test"), limits).unwrap();
    let visits: Vec<_> = (0..12).map(|number| Visit::ask(&dnsbl, client(number))).collect();
    assert_eq!(visits.iter().filter(|visit| visit.first.outstanding == 1).count(), 10);
    assert_eq!(dnsbl.shed(), 2, "clients beyond the limit are not asked about");
    double.until("a.test", 3).await;
    gate.add_permits(3);
    for visit in visits {
        assert_eq!(visit.last().await.total, 0);
    }
    // Three failures have opened the breaker; what was queued is not asked.
    assert_eq!(double.count("a.test"), 3);
}

#[tokio::test]
async fn the_cache_has_a_cap() {
    let double = Double::start(|_| listed(2)).await;
    let dnsbl = Dnsbl::open(Settings { cache_entries: 5, ..settings(&double, "a.test") }).unwrap();
    for number in 0..20 {
        ask(&dnsbl, client(number)).await;
    }
    settle(&dnsbl).await;
    assert_eq!(dnsbl.remembered(), 5);
}

/// Waits until the list at `place` is in a state with this name.
async fn until_state(dnsbl: &Dnsbl, place: usize, name: &str) {
    let reached = async {
        while state(dnsbl, place).name() != name {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(2 * PATIENCE, reached).await.expect("the state was not reached");
}

#[tokio::test]
async fn clients_wait_for_the_first_self_test() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let double = Double::start(move |_| Reply::Held(Arc::clone(&held), Box::new(listed(2)))).await;
    let self_test = Duration::from_secs(1800);
    let dnsbl = Dnsbl::open(Settings { self_test, ..settings(&double, "world.test*9") }).unwrap();
    let visit = Visit::ask(&dnsbl, client(1));
    assert_eq!(visit.first.outstanding, 1);
    double.until("world.test", 1).await;
    gate.add_permits(100);
    assert_eq!(visit.last().await.total, 0, "a list that lists everybody never counts, not even at first");
    assert_eq!(state(&dnsbl, 0), State::Failed { reason: Reason::LoopbackListed });
    assert_eq!(double.asked(), ["1.0.0.127.world.test"], "nor is it asked about clients");
}

#[tokio::test]
async fn a_self_test_takes_a_list_out_and_back_in() {
    let for_long = Reply::Addresses(vec![[127, 0, 0, 2]], 7200);
    let double = Double::start(move |name| test_address(name).unwrap_or(for_long.clone())).await;
    let self_test = Duration::from_secs(1800);
    let dnsbl = Dnsbl::open(Settings { self_test, ..settings(&double, "a.test*3") }).unwrap();
    assert_eq!(ask(&dnsbl, client(1)).await.total, 3);
    settle(&dnsbl).await;
    assert_eq!(state(&dnsbl, 0), State::Working);

    double.rewrite(|_| Reply::Addresses(vec![[127, 255, 255, 254]], 60));
    later(self_test).await;
    until_state(&dnsbl, 0, "failed").await;
    let State::Failed { reason } = state(&dnsbl, 0) else { unreachable!() };
    assert_eq!(reason, Reason::TestFailed(Failure::ErrorCode(254)));
    assert!(reason.to_string().contains("use your own resolver or the list's key"), "{reason}");
    let remembered = Visit::ask(&dnsbl, client(1)).first;
    assert_eq!((remembered.total, remembered.outstanding), (0, 0), "what is remembered of it does not count");

    // A list that is out is tested every pause, not every half hour.
    double.rewrite(|name| test_address(name).unwrap_or(listed(4)));
    later(Duration::from_secs(30)).await;
    until_state(&dnsbl, 0, "working").await;
    let again = Visit::ask(&dnsbl, client(1));
    assert_eq!(again.first.outstanding, 1, "what it said before it went does not come back with it");
    assert_eq!(again.last().await.total, 3);
}

#[tokio::test]
async fn self_tests_of_special_lists() {
    let double = Double::start(|name| {
        let (two, one) = ("2.0.0.0.0.0.f.7.f.f.f.f.0.", "1.0.0.0.0.0.f.7.f.f.f.f.0.");
        match name {
            name if name.ends_with("six.test") && name.starts_with(two) => listed(2),
            name if name.ends_with("open6.test") && (name.starts_with(two) || name.starts_with(one)) => listed(2),
            name if name.ends_with("badwl.test") => listed(2),
            _ => Reply::NotListed(60),
        }
    })
    .await;
    let self_test = Duration::from_secs(1800);
    let sites = "six.test open6.test empty.test wl.test*-1 badwl.test*-1 mixed.test*-1 mixed.test";
    let dnsbl = Dnsbl::open(Settings { self_test, ..settings(&double, sites) }).unwrap();
    ask(&dnsbl, client(1)).await;
    let failed = |reason| State::Failed { reason };
    let states: Vec<_> = (0..6).map(|place| state(&dnsbl, place)).collect();
    let expected = [
        State::Working,
        failed(Reason::LoopbackListed),
        failed(Reason::TestNotListed),
        State::Working,
        failed(Reason::LoopbackListed),
        failed(Reason::TestNotListed),
    ];
    assert_eq!(states, expected);
}

#[tokio::test]
async fn a_list_that_lists_too_many_is_taken_out_until_it_does_not() {
    let double = Double::start(|name| test_address(name).unwrap_or(listed(2))).await;
    let dnsbl = Dnsbl::open(Settings {
        self_test: Duration::from_secs(1800),
        alarm_percent: 90,
        ..settings(&double, "a.test*3 w.test*-1")
    })
    .unwrap();
    for number in 0..9 {
        assert_eq!(ask(&dnsbl, client(number)).await.total, 2);
    }
    let tests = double.count("0.0.127.a.test");
    assert_eq!(ask(&dnsbl, client(9)).await.total, -1, "the tenth client makes the sample, and the alarm");
    assert_eq!(state(&dnsbl, 0), State::Failed { reason: Reason::Alarm(100) });
    assert_eq!(state(&dnsbl, 1), State::Working, "allow lists are exempt");
    settle(&dnsbl).await;
    assert_eq!(Visit::ask(&dnsbl, client(3)).first.total, -1, "nor does what was said before count");

    // It is tested at once, and passes; but the share has not fallen.
    double.until("0.0.127.a.test", tests + 2).await;
    for number in 10..20 {
        let visit = Visit::ask(&dnsbl, client(number));
        assert_eq!(visit.first.outstanding, 1, "it is asked, and not waited for");
        visit.last().await;
        settle(&dnsbl).await;
    }
    assert_eq!(state(&dnsbl, 0), State::Failed { reason: Reason::Alarm(100) });

    double.rewrite(|name| test_address(name).unwrap_or(Reply::NotListed(60)));
    for number in 20..22 {
        ask(&dnsbl, client(number)).await;
        settle(&dnsbl).await;
    }
    assert_eq!(state(&dnsbl, 0), State::Working);
    double.rewrite(|name| test_address(name).unwrap_or(listed(2)));
    assert_eq!(ask(&dnsbl, client(22)).await.total, 2);
}

#[tokio::test]
async fn examine_asks_past_what_is_remembered() {
    let double = Double::start(|name| match name {
        name if name.ends_with("a.test") => listed(4),
        name if name.ends_with("bad.test") => Reply::Addresses(vec![[127, 255, 255, 255]], 60),
        _ => Reply::NotListed(60),
    })
    .await;
    let dnsbl = Dnsbl::open(settings(&double, "a.test=127.0.0.2*9 b.test bad.test*2 a.test=127.0.0.4*3")).unwrap();
    ask(&dnsbl, client(1)).await;
    settle(&dnsbl).await;
    let findings = dnsbl.examine(client(1)).await;
    let shape: Vec<_> = findings
        .iter()
        .map(|finding| {
            (finding.display.as_str(), finding.weight, finding.counted, finding.answers.len(), finding.error)
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("a.test", 9, false, 1, None),
            ("b.test", 1, false, 0, None),
            ("bad.test", 2, false, 1, Some(Failure::ErrorCode(255))),
            ("a.test", 3, true, 1, None),
        ]
    );
    assert_eq!(double.count("a.test"), 2);
}

#[tokio::test]
async fn the_tasks_end_with_the_last_clone() {
    let double = Double::start(|_| Reply::Silence).await;
    let self_test = Duration::from_secs(1800);
    let dnsbl = Dnsbl::open(Settings { self_test, ..settings(&double, "a.test b.test") }).unwrap();
    let mut visit = Visit::ask(&dnsbl, client(1));
    double.until(".test", 2).await;
    let (desk, clone) = (Arc::downgrade(&dnsbl.desk), dnsbl.clone());
    drop(dnsbl);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(visit.answers.try_recv().is_err(), "a clone keeps them going");
    drop(clone);
    let gone = async {
        while desk.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE / 2, gone).await.expect("tasks are left behind");
    assert_eq!(visit.next().await.outstanding, 0, "who waits is told that nothing more will come");
}

#[tokio::test]
async fn settings_that_cannot_be_asked_are_refused() {
    let double = Double::start(|_| Reply::Silence).await;
    let site = |zone: &str| Site { zone: zone.to_owned(), filter: None, weight: 1, display: "shown".to_owned() };
    let open = |sites| Dnsbl::open(Settings { sites, ..settings(&double, "") }).map(|_| ()).unwrap_err().to_string();
    let error = open(vec![site("sekrit..test")]);
    assert!(error.contains("shown") && !error.contains("sekrit"), "{error}");
    assert!(open(vec![site("a.test"); 257]).contains("257"));
}

/// What is logged, by whomever, at whatever level.
#[derive(Clone, Default)]
struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_key_never_shows() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let double = Double::start(|name| match client_number(name) {
        Some(1) => Reply::Forged,
        Some(2) => Reply::Code(ResponseCode::ServFail),
        Some(3) => Reply::Addresses(vec![[127, 255, 255, 254]], 60),
        Some(4) => Reply::Cut(Box::new(listed(2))),
        _ => Reply::NotListed(60),
    })
    .await;
    let sites = parse_list("sekrit.zen.test*3").unwrap().into_iter().map(|site| site.named("zen.test")).collect();
    let dnsbl = Dnsbl::open(Settings { sites, breaker_failures: 1, ..settings(&double, "") }).unwrap();
    for number in 1..5 {
        ask(&dnsbl, client(number)).await;
        settle(&dnsbl).await;
        later(Duration::from_secs(30)).await;
    }
    let findings = dnsbl.examine(client(5)).await;
    assert_eq!(double.count("sekrit.zen.test"), 5);

    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let shown = format!("{dnsbl:?} {:?} {:?} {findings:?}", dnsbl.settings(), dnsbl.zones());
    assert!(log.contains("zen.test") && log.contains("left alone") && log.contains("works again"), "{log}");
    assert!(shown.contains("zen.test"));
    for text in [log, shown] {
        assert!(!text.to_ascii_lowercase().contains("sekrit"), "{text}");
    }
}

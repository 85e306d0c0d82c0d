//! The API against a whole server, over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::super::socket;
use super::{BASE, ROUTES};
use crate::addr::ClientKey;
use crate::clock::Clock;
use crate::config::Config;
use crate::journal::{Journal, Target, tests::dropped};
use crate::ledger::store::Store;
use crate::policy::guard::{Rules, Strike};
use crate::screen::{Standing, Test};
use crate::server::Server;
use crate::time::Timestamp;

const TOKEN: &str = "0123456789abcdef0123";

/// A bound for tests that would hang.
const WHILE: Duration = Duration::from_secs(30);

const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

/// The same, as the ledger's verbs have it.
const SECOND: u32 = 1_700_000_000;

struct Api {
    server: Server,
    clock: Clock,
    address: SocketAddr,
    dir: TempDir,
}

/// How a question comes.
#[derive(Clone, Copy, Debug)]
enum By {
    Socket,
    Tcp,
    TcpWith(&'static str),
}

const BY_TOKEN: By = By::TcpWith("Authorization: Bearer 0123456789abcdef0123");

impl Api {
    async fn start(with_token: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let control = if with_token { "[control]\ntoken_file = 'token'\n" } else { "" };
        let file = format!(
            "hostname = 'mx.example.org'\nlanes = 1\n[[gate]]\nlisten = '127.0.0.1:0'\nbackend = '127.0.0.1:1'\n{control}"
        );
        let (config, _) = Config::parse(&file, &dir.path().join("f.toml").display().to_string()).unwrap();
        let clock = Clock::held(NOW);
        let journal = Journal::remembering(Target::Off, 1 << 20).unwrap();
        let server = Server::start(config, journal, clock.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        server.serve_admin(listener);
        let (listener, file) = socket::open(&dir.path().join("s"), None).await.unwrap();
        server.serve_socket(listener, file);
        Self { server, clock, address, dir }
    }

    async fn ask(&self, by: By, method: &str, path: &str, more: &str, content: &str) -> (u16, Value) {
        let (status, text) = self.ask_text(by, method, path, more, content).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {text}")))
    }

    async fn ask_text(&self, by: By, method: &str, path: &str, more: &str, content: &str) -> (u16, String) {
        let token = if let By::TcpWith(field) = by { format!("{field}\r\n") } else { String::new() };
        let length = content.len();
        let request = format!(
            "{method} {BASE}{path} HTTP/1.0\r\nHost: x\r\n{token}{more}Content-Length: {length}\r\n\r\n{content}"
        );
        let answer = match by {
            By::Socket => exchange(UnixStream::connect(self.dir.path().join("s")).await.unwrap(), &request).await,
            By::Tcp | By::TcpWith(_) => exchange(TcpStream::connect(self.address).await.unwrap(), &request).await,
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer}"));
        assert!(head.contains("cache-control: no-store"), "{head}");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(By::Socket, "GET", path, "", "").await
    }

    async fn post(&self, path: &str, content: Value) -> (u16, Value) {
        self.ask(By::Socket, "POST", path, JSON, &content.to_string()).await
    }
}

const JSON: &str = "Content-Type: application/json\r\n";

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    // It may be refused before all of it is taken.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(WHILE, stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8(answer).unwrap()
}

/// What is asked of each route so that it would be done.
fn request(method: &str, path: &str) -> (String, &'static str, &'static str) {
    let path = path.replace("{network}", "192.0.2.0/24").replace("{subject}", "192.0.2.7");
    match (method, path.as_str()) {
        ("post", "/state") => (path, "Content-Type: application/jsonl\r\n", ""),
        ("post", _) => (path, JSON, r#"{"network":"192.0.2.7"}"#),
        _ => (path, "", ""),
    }
}

#[tokio::test]
async fn who_may_do_what() {
    for with_token in [true, false] {
        let api = Api::start(with_token).await;
        for (method, path) in ROUTES {
            let everybody = path == "/status";
            let personal = everybody || path == "/bans" && method == "get" || path.starts_with("/explain");
            let (path, more, content) = request(method, path);
            let without = match (with_token, everybody, personal) {
                (_, true, _) | (false, _, true) => 200,
                (true, ..) => 401,
                (false, ..) => 403,
            };
            let with = if with_token || personal { 200 } else { 403 };
            for (by, expected) in [
                (By::Socket, 200),
                (BY_TOKEN, with),
                (By::Tcp, without),
                (By::TcpWith("Authorization: Bearer 0123456789abcdef0124"), without),
                (By::TcpWith("Authorization: Bearer"), without),
                (By::TcpWith("Authorization: Basic MDEyMzQ1Njc4OWFiY2RlZjAxMjM="), without),
            ] {
                let method = method.to_uppercase();
                // Of two words of one moment the first stays.
                api.clock.set(api.clock.now().plus(Duration::from_millis(1)));
                let (status, text) = api.ask_text(by, &method, &path, more, content).await;
                assert_eq!(status, expected, "{method} {path} {by:?}, token in the file: {with_token}: {text}");
                if status != 200 {
                    let error: Value = serde_json::from_str(&text).unwrap();
                    assert!(error["error"].is_string() && error["remedy"].is_string(), "{text}");
                    assert!(!text.contains(TOKEN));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_page_in_a_browser_changes_nothing() {
    let api = Api::start(true).await;
    for (method, path) in ROUTES.into_iter().filter(|(method, _)| *method != "get") {
        let (path, more, content) = request(method, path);
        let from_page = format!("{more}Origin: https://evil.example\r\n");
        for by in [By::Socket, BY_TOKEN] {
            let (status, _) = api.ask(by, &method.to_uppercase(), &path, &from_page, content).await;
            assert_eq!(status, 403, "{path}");
        }
        if method == "post" {
            for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
                let (status, error) = api.ask(BY_TOKEN, "POST", &path, kind, content).await;
                assert_eq!(status, 415, "{path}: {error}");
            }
        }
    }
    assert_eq!(api.get("/bans").await.1["total"], 0);
}

#[tokio::test]
async fn a_content_has_a_longest_length_and_a_form() {
    let api = Api::start(true).await;
    let long = json!({"network": "192.0.2.7", "note": "x".repeat(20_000)}).to_string();
    let request = format!(
        "POST {BASE}/bans HTTP/1.0\r\nHost: x\r\n{JSON}Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{long}",
        long.len()
    );
    let answer = exchange(TcpStream::connect(api.address).await.unwrap(), &request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.0 413"), "{answer}");
    for content in ["", "{", "[]", "{}", r#"{"network":7}"#, r#"{"network":"192.0.2.7","until":"x"}"#] {
        let (status, error) = api.ask(BY_TOKEN, "POST", "/bans", JSON, content).await;
        assert_eq!(status, 400, "{content}: {error}");
    }
    for (wish, words) in [
        (json!({"network": "example.org"}), "write an address or a network"),
        (json!({"network": "10.0.0.1/8"}), "10.0.0.0/8"),
        (json!({"network": "192.0.2.7", "for": "soon"}), "12h"),
        (json!({"network": "192.0.2.7", "for": "0s"}), "from 1s"),
    ] {
        let (status, error) = api.post("/bans", wish).await;
        assert!(status == 400 && error["remedy"].as_str().unwrap().contains(words), "{error}");
    }
    assert_eq!(api.get("/bans").await.1["total"], 0);
    for path in ["/bans?limit=1001", "/bans?what=lifted", "/bans?order=up", "/bans?x=1", "/explain/mail.example"] {
        assert_eq!(api.get(path).await.0, 400, "{path}");
    }
    assert_eq!(api.get("/nowhere").await.0, 404);
    assert_eq!(api.ask(By::Socket, "PUT", "/bans", "", "").await.0, 405);
}

#[tokio::test]
async fn a_ban_is_made_listed_explained_and_lifted() {
    let api = Api::start(false).await;
    let (status, ban) = api.post("/bans", json!({"network": "192.0.2.0/24", "for": "2h", "note": "it\nguesses"})).await;
    assert_eq!(status, 200, "{ban}");
    assert_eq!(
        ban,
        json!({
            "network": "192.0.2.0/24", "what": "ban", "reason": "operator", "evidence": "it?guesses", "count": 0,
            "level": 0, "begin": "2023-11-14T22:13:20.000Z", "until": "2023-11-15T00:13:20.000Z", "remaining": 7200,
            "who": crate::control::who::user(rustix::process::getuid().as_raw()), "knocks": 0,
        })
    );
    api.clock.set(NOW.plus(Duration::from_millis(500)));
    assert_eq!(api.post("/allow", json!({"network": "192.0.2.9"})).await.0, 200);
    let (_, forever) = api.post("/bans", json!({"network": "2001:db8::7", "for": "ever"})).await;
    assert_eq!((&forever["network"], &forever["until"]), (&json!("2001:db8::/64"), &Value::Null));

    let networks = |list: &Value| -> Vec<String> {
        let bans = list["bans"].as_array().unwrap();
        bans.iter().map(|ban| ban["network"].as_str().unwrap().to_owned()).collect()
    };
    for (query, total, expected) in [
        ("?order=network", 3, vec!["192.0.2.0/24", "192.0.2.9", "2001:db8::/64"]),
        ("", 3, vec!["192.0.2.9", "2001:db8::/64", "192.0.2.0/24"]),
        ("?order=network&limit=1&offset=1", 3, vec!["192.0.2.9"]),
        ("?what=ban&limit=1", 2, vec!["2001:db8::/64"]),
        ("?what=allow", 1, vec!["192.0.2.9"]),
    ] {
        let (_, list) = api.get(&format!("/bans{query}")).await;
        assert_eq!(
            (list["total"].clone(), networks(&list)),
            (json!(total), expected.iter().map(ToString::to_string).collect())
        );
    }
    let (_, explained) = api.get("/explain/192.0.2.9").await;
    assert_eq!(
        (&explained["decision"]["what"], explained["decisions"].as_array().unwrap().len()),
        (&json!("allow"), 2)
    );

    api.clock.set(NOW.plus(Duration::from_secs(1)));
    let (_, lifted) = api.post("/unban", json!({"network": "192.0.2.7"})).await;
    assert_eq!(
        (lifted["lifted"].as_array().unwrap().len(), &lifted["still"][0]["network"]),
        (0, &json!("192.0.2.0/24"))
    );
    let (_, lifted) = api.ask(By::Socket, "DELETE", "/bans/192.0.2.0/24", "", "").await;
    assert_eq!((lifted["lifted"].as_array().unwrap().len(), lifted["still"].as_array().unwrap().len()), (2, 0));
    let (_, lifted) = api.ask(By::Socket, "DELETE", "/bans/2001%3Adb8%3A%3A%2F64", "", "").await;
    assert_eq!(lifted["lifted"][0]["network"], "2001:db8::/64");
    assert_eq!(api.get("/bans").await.1["total"], 0);
}

#[tokio::test]
async fn what_is_known_of_a_client_and_of_a_visit_is_told() {
    let api = Api::start(false).await;
    let house = api.server.house();
    let client = ClientKey::of("192.0.2.7".parse().unwrap());
    let mut standing = Standing::stranger();
    standing.pass(Test::Pregreet, NOW.plus(Duration::from_secs(60)));
    house.ledger.remember(client, standing, NOW);
    let rules = Rules::default();
    let _done = house.ledger.strike(client, Strike::Failed(Some(1)), &rules, SECOND, 0);
    house.journal.record(&dropped());
    let (_, told) = api.get("/explain/::ffff:192.0.2.7").await;
    assert_eq!((&told["client"], &told["decision"], &told["list"]), (&json!("192.0.2.7"), &Value::Null, &Value::Null));
    assert_eq!(told["standing"], json!([{"test": "pregreet", "until": "2023-11-14T22:14:20.000Z", "holds": true}]));
    assert_eq!((&told["tally"]["failures"], &told["tally"]["accounts"]), (&json!(1), &json!(1)));
    assert_eq!(told["access"], json!([{"gate": "mx", "access": "test"}]));
    assert_eq!(told["visits"][0]["outcome"], "dropped");

    let id = dropped().id;
    let (_, record) = api.get(&format!("/explain/{}", id.to_string().to_lowercase())).await;
    assert_eq!((record["visit"].as_str(), &record["client"]), (Some(id.to_string().as_str()), &json!("192.0.2.7")));
    let (status, error) = api.get("/explain/00000-00000").await;
    assert!(status == 404 && error["remedy"].as_str().unwrap().contains("journal"), "{error}");
}

#[tokio::test]
async fn status_tells_how_it_is() {
    let api = Api::start(false).await;
    api.server.control().board().set("store", || json!({"state": "well"}));
    api.clock.set(NOW.plus(Duration::from_secs(90)));
    let (_, status) = api.ask(By::Tcp, "GET", "/status", "", "").await;
    assert_eq!(
        (&status["uptime"], &status["sessions"], &status["parts"]["store"]["state"]),
        (&json!(90), &json!(0), &json!("well"))
    );
    assert_eq!((&status["gates"][0]["name"], &status["ledger"]["standing"]), (&json!("mx"), &json!(0)));
}

#[tokio::test]
async fn what_is_exported_can_be_brought_in_elsewhere() {
    let (one, other) = (Api::start(false).await, Api::start(false).await);
    let ledger = &one.server.house().ledger;
    let rules = Rules::default();
    for n in 0..3000 {
        let client = ClientKey::V4(0x0a00_0000 + n);
        let mut standing = Standing::stranger();
        standing.pass(Test::Pregreet, NOW.plus(Duration::from_secs(60 + u64::from(n))));
        ledger.remember(client, standing, NOW);
    }
    for n in 0..5 {
        let client = ClientKey::V6(n);
        let _done = ledger.strike(client, Strike::Failed(Some(1)), &rules, SECOND, 0);
        let _done = ledger.account_failed([n as u8; 16], client, &rules, SECOND);
        let _done = ledger.offend(client.neighbourhood(), client, &rules, SECOND, 0);
    }
    one.post("/bans", json!({"network": "192.0.2.0/24"})).await;
    let (status, lines) = one.ask_text(By::Socket, "GET", "/state", "", "").await;
    let counted = lines.lines().count();
    assert!(status == 200 && counted > 3011, "{counted}");
    assert!(lines.len() > super::REQUEST_LIMIT, "the usual bounds are too narrow for it");

    let kind = "Content-Type: application/jsonl\r\n";
    let bad = format!("{lines}\n\nnonsense\n{{\"v\":1,\"kind\":\"standing\",\"key\":\"4zz\",\"line\":\"1 2\"}}\n");
    let (status, told) = other.ask(By::Socket, "POST", "/state", kind, &bad).await;
    assert_eq!((status, &told["taken"], &told["refused"]), (200, &json!(counted), &json!(2)), "{told}");
    let sorted = |lines: &str| {
        let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (_, again) = other.ask_text(By::Socket, "GET", "/state", "", "").await;
    assert_eq!(sorted(&again), sorted(&lines));

    // What has ended since is not taken in, and what holds longer here stays.
    other.clock.set(NOW.plus(Duration::from_secs(1000)));
    let mut longer = Standing::stranger();
    longer.pass(Test::Pregreet, NOW.plus(Duration::from_secs(9999)));
    let client = ClientKey::V4(0x0a00_0000 + 2000);
    other.server.house().ledger.remember(client, longer, other.clock.now());
    let (_, told) = other.ask(By::Socket, "POST", "/state", kind, &lines).await;
    // The standings, and the network, of which nothing is counted as the rules are.
    assert_eq!(told["expired"], 941 + 1, "{told}");
    assert_eq!(other.server.house().ledger.recall(client, other.clock.now()), longer);
}

/// `docs/openapi.json` and the routes are the same.
#[test]
fn the_description_has_every_route_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let described: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(described["servers"][0]["url"].as_str().unwrap().split("9925").nth(1), Some(BASE));
    let mut routes = Vec::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            routes.push((method.clone(), path.clone()));
        }
    }
    let mut expected: Vec<_> = ROUTES.map(|(method, path)| (method.to_owned(), path.to_owned())).to_vec();
    routes.sort();
    expected.sort();
    assert_eq!(routes, expected);
}

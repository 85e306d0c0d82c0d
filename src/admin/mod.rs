//! The admin address: `/metrics`, `/live`, `/ready`, the API under `/api/v1/` ([`api`]), and an index of them at `/`. And the
//! [`socket`], where operators of this host find the same.
//!
//! What can be read without a token is to be bound where only those who should can reach it. What a hostile or stuck scraper
//! can hold is bounded all the same: [`CONNECTIONS`] at once (others wait in the kernel), one request each,
//! [`REQUEST_LIMIT`] bytes of it, and [`DEADLINE`] from accept to the last byte of the answer. A connection is closed after
//! its answer: a scrape every few seconds can afford a new one, and an idle one holds nothing.

pub mod api;
mod guard;
mod readiness;
pub mod socket;

pub use guard::{CONNECTIONS, DEADLINE, Origin, REQUEST_LIMIT};
pub use readiness::{Hindrance, Readiness};

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve as serve_http};
use tokio::net::{TcpListener, UnixListener};

use crate::metrics::{self, Metrics};

use guard::{Caller, Guarded, Listens};

const INDEX: &str = "\
gatepost

/metrics  Prometheus metrics
/live     200 while the process runs
/ready    200 while gatepost takes mail; otherwise 503, and why
/api/v1/  what is remembered and decided: status, bans, explain, state; docs/openapi.json
";

/// The pages that have nothing secret.
pub fn pages(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

/// Answers on `listener` until `shutdown` ends, and then until those who are being answered have been, [`DEADLINE`] at
/// the most.
pub async fn serve(
    listener: TcpListener,
    pages: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_any(listener, pages, shutdown).await
}

/// The same, on the socket.
pub async fn serve_socket(
    listener: UnixListener,
    pages: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_any(listener, pages, shutdown).await
}

async fn serve_any<L: Listens>(
    listener: L,
    pages: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L::Addr: std::fmt::Debug,
{
    let service = pages.layer(map_response(finish)).into_make_service_with_connect_info::<Caller>();
    serve_http(Guarded::new(listener), service).with_graceful_shutdown(shutdown).await
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let hindrances = readiness.hindrances();
    if hindrances.is_empty() {
        return (StatusCode::OK, "ready\n".into());
    }
    let why = hindrances.iter().map(|hindrance| format!("{hindrance}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.text())
}

/// What holds for every answer.
async fn finish(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// Real sockets, and a bound for tests that would hang.
    const WHILE: Duration = Duration::from_secs(20);

    struct Admin {
        address: SocketAddr,
        readiness: Readiness,
        stop: oneshot::Sender<()>,
        task: JoinHandle<io::Result<()>>,
    }

    async fn start() -> Admin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, metrics) = (Readiness::new(), Arc::new(Metrics::new()));
        metrics.gate("mx");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(serve(listener, pages(metrics, readiness.clone()), shutdown));
        Admin { address, readiness, stop, task }
    }

    impl Admin {
        /// Sends `request` as it is, and reads to the end of the connection.
        async fn ask(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            tokio::time::timeout(WHILE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
            answer
        }

        async fn get(&self, path: &str) -> String {
            self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
        }
    }

    #[tokio::test]
    async fn metrics_are_told_as_text() {
        let admin = start().await;
        let answer = admin.get("/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
        assert!(answer.contains("\ngatepost_build_info{"), "{answer}");
        assert!(answer.contains("gatepost_visits_total{gate=\"mx\",recognition=\"stranger\"} 0\n"), "{answer}");
    }

    #[tokio::test]
    async fn every_answer_is_uncached_and_the_last() {
        let admin = start().await;
        for path in ["/", "/live", "/ready", "/metrics", "/nowhere"] {
            let answer = admin.get(path).await;
            assert!(answer.contains("cache-control: no-store\r\n"), "{path}: {answer}");
            assert!(answer.contains("connection: close\r\n"), "{path}: {answer}");
        }
        assert!(admin.get("/").await.ends_with(INDEX));
        assert!(admin.get("/nowhere").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn ready_says_what_is_in_the_way() {
        let admin = start().await;
        let answer = admin.get("/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nnot listening\n"), "{answer}");
        admin.readiness.set(Hindrance::NotListening, false);
        let answer = admin.get("/ready").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nready\n"), "{answer}");
        admin.readiness.set(Hindrance::BackendAway("mx".into()), true);
        admin.readiness.set(Hindrance::Draining, true);
        let answer = admin.get("/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\ndraining\nthe backend of gate mx is away\n"), "{answer}");
        assert!(admin.get("/live").await.starts_with("HTTP/1.1 200 "), "alive all the same");
    }

    #[tokio::test]
    async fn only_get_and_head() {
        let admin = start().await;
        let head = admin.ask("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = admin.ask(&format!("{method} /live HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_request_has_a_longest_length() {
        let admin = start().await;
        for (length, is_answered) in [(REQUEST_LIMIT - 100, true), (REQUEST_LIMIT, false)] {
            let mut stream = TcpStream::connect(admin.address).await.unwrap();
            let request = format!("GET /live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(length));
            // It may close while this is being sent, or before the answer is read.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(WHILE, stream.read_to_end(&mut answer)).await.unwrap();
            assert_eq!(answer.starts_with(b"HTTP/1.1 200 "), is_answered, "{}", answer.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_body_is_not_taken() {
        let admin = start().await;
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n").await.unwrap();
        let chunk = [b'x'; 4096];
        let mut sent = 0;
        let sending = async {
            while let Ok(n) = stream.write(&chunk).await {
                sent += n;
                assert!(sent < 64 << 20, "it takes everything");
            }
        };
        tokio::time::timeout(WHILE, sending).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_clients_hold_no_more_than_their_share_and_not_for_ever() {
        let admin = start().await;
        let begin = tokio::time::Instant::now();
        let mut stuck = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(admin.address).await.unwrap();
            stream.write_all(b"GET /live HTTP/1.1\r\n").await.unwrap();
            stuck.push(stream);
        }
        // This one waits in the kernel until their time is up.
        assert!(admin.get("/live").await.starts_with("HTTP/1.1 200 "));
        let waited = begin.elapsed();
        assert!(waited >= DEADLINE && waited < DEADLINE * 2, "{waited:?}");
    }

    #[tokio::test]
    async fn it_ends_when_told_to() {
        let admin = start().await;
        assert!(admin.get("/live").await.starts_with("HTTP/1.1 200 "));
        admin.stop.send(()).unwrap();
        tokio::time::timeout(WHILE, admin.task).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(admin.address).await.is_err());
    }
}

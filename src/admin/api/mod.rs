//! The API: what [`Control`] answers, as JSON over HTTP. `docs/openapi.json` describes it.
//!
//! # Who may do what
//!
//! | asks for | over the socket | over TCP, with the token | over TCP, without | over TCP, no token in the file |
//! | --- | --- | --- | --- | --- |
//! | `status` | yes | yes | yes | yes |
//! | `bans`, `explain`: whose mail is refused | yes | yes | 401 | yes |
//! | `state`: all that is remembered | yes | yes | 401 | 403 |
//! | any change | yes | yes | 401 | 403 |
//!
//! A page in an operator's browser cannot ask in his name: a change that comes with an Origin, or in a form's clothes, is
//! refused, whatever else it brings.

mod state;

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::guard::{Caller, Origin, REQUEST_LIMIT};
use crate::control::{Control, Fault, Listing, Refused, Wish, answer, who};
use crate::journal::VisitId;

/// Where the API is.
pub const BASE: &str = "/api/v1";

/// What there is: method and path.
pub const ROUTES: [(&str, &str); 9] = [
    ("get", "/status"),
    ("get", "/bans"),
    ("post", "/bans"),
    ("delete", "/bans/{network}"),
    ("post", "/unban"),
    ("post", "/allow"),
    ("get", "/explain/{subject}"),
    ("get", "/state"),
    ("post", "/state"),
];

/// JSON, one value a line.
pub(super) const LINES: &str = "application/jsonl";

const JSON: &str = "application/json";

/// The pages of the API.
pub fn routes(control: Arc<Control>) -> Router {
    let routes = Router::new()
        .route("/status", or_not(get(status)))
        .route("/bans", or_not(get(bans).post(ban)))
        // A network has a slash in it, mostly.
        .route("/bans/{*network}", or_not(delete(unban)))
        .route("/unban", or_not(post(unban_by_body)))
        .route("/allow", or_not(post(allow)))
        .route("/explain/{subject}", or_not(get(explain)))
        .route("/state", or_not(get(state::export).post(state::import)))
        .fallback(nothing)
        .with_state(control);
    Router::new().nest(BASE, routes)
}

fn or_not(route: MethodRouter<Arc<Control>>) -> MethodRouter<Arc<Control>> {
    route.fallback(async || {
        (StatusCode::METHOD_NOT_ALLOWED, error("this cannot be done with it", "see docs/openapi.json"))
    })
}

async fn nothing() -> Refusal {
    let remedy = "see docs/openapi.json for what there is";
    Refusal(Refused::new(Fault::Absent, "there is no such thing in the API", remedy))
}

fn error(error: &str, remedy: &str) -> Json<answer::Error> {
    Json(answer::Error { error: error.to_owned(), remedy: remedy.to_owned() })
}

/// A refusal, as HTTP has it.
pub(super) struct Refusal(Refused);

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self(refused)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refused { fault, error: what, remedy } = self.0;
        let status = match fault {
            Fault::Malformed => StatusCode::BAD_REQUEST,
            Fault::Unknown => StatusCode::UNAUTHORIZED,
            Fault::Forbidden => StatusCode::FORBIDDEN,
            Fault::Absent => StatusCode::NOT_FOUND,
            Fault::Exempt => StatusCode::CONFLICT,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::WrongKind => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        let mut response = (status, error(&what, &remedy)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

type Answer<T> = Result<Json<T>, Refusal>;
type Controlled = State<Arc<Control>>;
type Connected = ConnectInfo<Caller>;

/// What somebody wants to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Need {
    /// Read whose mail is refused, and why.
    Personal,
    /// Read all that is remembered.
    Everything,
    /// Change something.
    Change,
}

/// Who asks, if he may: the name under which what he decides is known.
pub(super) fn admit(need: Need, control: &Control, caller: &Caller, headers: &HeaderMap) -> Result<String, Refused> {
    if need == Need::Change && headers.contains_key(ORIGIN) {
        let remedy = "use the command line, or a client that sends no Origin";
        return Err(Refused::new(Fault::Forbidden, "this comes from a page in a browser", remedy));
    }
    let address = match caller.origin {
        // The file's mode has let him in.
        Origin::Socket(Some(uid)) => return Ok(who::user(uid)),
        Origin::Socket(None) => return Ok("socket".to_owned()),
        Origin::Address(address) => address,
    };
    match control.token() {
        Some(token) => {
            let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
            if !shown.is_some_and(|shown| token.is(shown)) {
                let remedy = "send `Authorization: Bearer …` with the token that `token_file` or `token_env` in [control] \
                              names, or use the socket";
                return Err(Refused::new(Fault::Unknown, "the token is missing or wrong", remedy));
            }
        }
        None if need > Need::Personal => {
            let remedy = "set `token_file` or `token_env` in [control], or use the socket";
            return Err(Refused::new(
                Fault::Forbidden,
                "without a token in the file nobody may do this over TCP",
                remedy,
            ));
        }
        None => {}
    }
    Ok(format!("api:{}", address.ip().to_canonical()))
}

/// The token in an Authorization field (RFC 6750 §2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Refuses what does not come as `wanted`: a form of another page's could come as text.
pub(super) fn of_kind(wanted: &[&str], headers: &HeaderMap) -> Result<(), Refused> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if wanted.iter().any(|wanted| kind.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    let remedy = format!("send it as `Content-Type: {}`", wanted.first().unwrap_or(&JSON));
    Err(Refused::new(Fault::WrongKind, "the content is of a kind that is not taken", remedy))
}

async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Refused> {
    of_kind(&[JSON], headers)?;
    let bytes = to_bytes(body, REQUEST_LIMIT).await.map_err(|_| {
        Refused::new(Fault::TooLarge, "the content is too long", format!("keep it below {REQUEST_LIMIT} bytes"))
    })?;
    serde_json::from_slice(&bytes).map_err(|reason| {
        Refused::new(Fault::Malformed, format!("the content cannot be read: {reason}"), "see docs/openapi.json")
    })
}

async fn status(State(control): Controlled) -> Json<answer::Status> {
    Json(control.status())
}

async fn bans(
    State(control): Controlled,
    ConnectInfo(caller): Connected,
    headers: HeaderMap,
    listing: Result<Query<Listing>, axum::extract::rejection::QueryRejection>,
) -> Answer<answer::Rulings> {
    admit(Need::Personal, &control, &caller, &headers)?;
    let Query(listing) = listing.map_err(|reason| {
        let remedy = "the query has what=ban or allow, order=newest or network, limit and offset";
        Refused::new(Fault::Malformed, reason.body_text(), remedy)
    })?;
    Ok(Json(control.bans(&listing)?))
}

async fn ban(state: Controlled, caller: Connected, headers: HeaderMap, body: Body) -> Answer<answer::Ruling> {
    decide(&state, &caller, &headers, body, Control::ban).await
}

async fn allow(state: Controlled, caller: Connected, headers: HeaderMap, body: Body) -> Answer<answer::Ruling> {
    decide(&state, &caller, &headers, body, Control::allow).await
}

/// What an operator can decide of a network.
type Decide = fn(&Control, &Wish, &str) -> Result<answer::Ruling, Refused>;

async fn decide(
    State(control): &Controlled,
    ConnectInfo(caller): &Connected,
    headers: &HeaderMap,
    body: Body,
    decide: Decide,
) -> Answer<answer::Ruling> {
    let who = admit(Need::Change, control, caller, headers)?;
    let wish: Wish = read(headers, body).await?;
    Ok(Json(decide(control, &wish, &who)?))
}

async fn unban(
    State(control): Controlled,
    ConnectInfo(caller): Connected,
    headers: HeaderMap,
    Path(network): Path<String>,
) -> Answer<answer::Lifted> {
    let who = admit(Need::Change, &control, &caller, &headers)?;
    Ok(Json(control.unban(&network, &who)?))
}

/// What is to be lifted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unban {
    network: String,
}

async fn unban_by_body(
    State(control): Controlled,
    ConnectInfo(caller): Connected,
    headers: HeaderMap,
    body: Body,
) -> Answer<answer::Lifted> {
    let who = admit(Need::Change, &control, &caller, &headers)?;
    let Unban { network } = read(&headers, body).await?;
    Ok(Json(control.unban(&network, &who)?))
}

async fn explain(
    State(control): Controlled,
    ConnectInfo(caller): Connected,
    headers: HeaderMap,
    Path(subject): Path<String>,
) -> Result<Response, Refusal> {
    admit(Need::Personal, &control, &caller, &headers)?;
    if let Ok(address) = subject.parse::<IpAddr>() {
        return Ok(Json(control.explain(address)).into_response());
    }
    let id: VisitId = subject.parse().map_err(|_| {
        let error = "this is neither an address nor the id of a visit";
        Refused::new(Fault::Malformed, error, "ask for one such as 192.0.2.7, 2001:db8::25 or 7K2MQ-9XV4T")
    })?;
    Ok(Json(control.visit(id)?).into_response())
}

#[cfg(test)]
mod tests;

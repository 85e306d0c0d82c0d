//! All that is remembered, out and in: a line of JSON for each entry, streamed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;

use super::super::guard::Caller;
use super::{Answer, Connected, Controlled, LINES, Need, Refusal, admit, of_kind};
use crate::control::{Control, Fault, Refused, answer, state};

/// How long it may take.
const SPAN: Duration = Duration::from_secs(10 * 60);

/// The most bytes that are brought in.
const MOST: usize = 4 << 30;

/// From how many bytes on lines are sent.
const CHUNK: usize = 64 << 10;

/// How many chunks wait to be taken.
const CHUNKS: usize = 4;

pub(super) async fn export(
    State(control): Controlled,
    ConnectInfo(caller): Connected,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    admit(Need::Everything, &control, &caller, &headers)?;
    caller.bounds.widen(0, SPAN);
    let (sender, receiver) = mpsc::channel(CHUNKS);
    // A thread of its own: whoever reads may be slow, and there may be millions.
    tokio::task::spawn_blocking(move || write(&control, &sender));
    Ok(([(CONTENT_TYPE, LINES)], Body::new(Lines(receiver))).into_response())
}

fn write(control: &Control, sender: &mpsc::Sender<Bytes>) {
    let mut chunk = Vec::with_capacity(CHUNK + 1024);
    control.export(|line| {
        chunk.extend_from_slice(line.as_bytes());
        chunk.push(b'\n');
        if chunk.len() >= CHUNK {
            // Where nobody takes it any more, the rest goes nowhere.
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK + 1024));
            let _ = sender.blocking_send(full.into());
        }
        !sender.is_closed()
    });
    let _ = sender.blocking_send(chunk.into());
}

/// A body of what comes from a thread.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

pub(super) async fn import(
    State(control): Controlled,
    ConnectInfo(caller): Connected,
    headers: HeaderMap,
    body: Body,
) -> Answer<answer::Imported> {
    admit(Need::Change, &control, &caller, &headers)?;
    of_kind(&[LINES, "application/x-ndjson"], &headers)?;
    caller.bounds.widen(MOST, SPAN);
    Ok(Json(take(&control, caller, body).await?))
}

async fn take(control: &Arc<Control>, _caller: Caller, mut body: Body) -> Result<answer::Imported, Refused> {
    let mut lines = state::Lines::new(control);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let remedy = "send it again: entries that were taken in already are not taken in twice";
            Refused::new(Fault::TooLarge, "the content broke off, or is too long", remedy)
        })?;
        if let Ok(bytes) = frame.into_data() {
            lines.feed(&bytes);
        }
    }
    Ok(lines.end())
}

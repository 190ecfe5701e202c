//! Answers in pieces, as server-sent events.

use crate::prepare::failure;
use crate::types::{ApiError, ErrorResponse};
use crate::worker::{Event, Running};
use crate::App;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use rustml_engine::Update;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;

/// What becomes of the engine's updates.
pub(crate) trait Shape: Send + 'static {
    /// Answers that have not ended.
    fn left(&self) -> usize;
    /// What an update of an answer is to the client.
    fn take(&mut self, choice: usize, update: Update, out: &mut Pieces);
    /// What comes after all answers.
    fn end(&mut self, out: &mut Pieces);
    /// What a stream ends with that is no JSON.
    const DONE: Option<&'static str> = Some("[DONE]");
    /// What comes instead of the rest when an answer fails.
    fn fail(&mut self, e: ApiError, out: &mut Pieces) {
        out.push(&ErrorResponse { error: e.body });
    }
}

/// Pieces that wait to be sent.
#[derive(Default)]
pub(crate) struct Pieces(VecDeque<(Option<&'static str>, String)>);

impl Pieces {
    pub fn push(&mut self, piece: &impl Serialize) {
        self.add(None, piece);
    }

    /// A piece of an event that has a name.
    pub fn event(&mut self, name: &'static str, piece: &impl Serialize) {
        self.add(Some(name), piece);
    }

    fn add(&mut self, name: Option<&'static str>, piece: &impl Serialize) {
        match serde_json::to_string(piece) {
            Ok(text) => self.0.push_back((name, text)),
            Err(e) => tracing::error!(target: "rustml_server", "cannot write a piece: {e}"),
        }
    }
}

/// When updates end before the answers do.
pub(crate) fn broken(event: Option<Event>) -> ApiError {
    match event {
        Some(Event::Failed) => ApiError::internal("the engine failed while it was at this request"),
        _ => ApiError::unavailable(
            "the answer was cancelled, since it was not read fast enough, or the server is ending",
        ),
    }
}

struct Stream<S> {
    running: Running,
    shape: S,
    pieces: Pieces,
    over: bool,
}

impl<S: Shape> Stream<S> {
    async fn next(&mut self) -> Option<(Option<&'static str>, String)> {
        loop {
            if let Some(piece) = self.pieces.0.pop_front() {
                return Some(piece);
            }
            if self.over {
                return None;
            }
            match self.running.next().await {
                Some(Event::Updates(updates)) => {
                    for (i, update) in updates {
                        self.take(i, update);
                    }
                }
                other => self.fail(broken(other)),
            }
        }
    }

    fn take(&mut self, i: usize, update: Update) {
        if self.over {
            return;
        }
        let failed = update.finish.as_ref().and_then(|(why, _)| failure(why));
        if let Some(e) = failed {
            return self.fail(e);
        }
        self.shape.take(i, update, &mut self.pieces);
        if self.shape.left() == 0 {
            self.shape.end(&mut self.pieces);
            self.end();
        }
    }

    fn fail(&mut self, e: ApiError) {
        self.shape.fail(e, &mut self.pieces);
        self.end();
    }

    fn end(&mut self) {
        let done = S::DONE.map(|done| (None, done.to_owned()));
        self.pieces.0.extend(done);
        self.over = true;
    }
}

/// Sends what `shape` makes of a job's updates, as it comes.
pub(crate) fn respond<S: Shape>(app: &App, running: Running, shape: S) -> Response {
    let stream = Stream {
        running,
        shape,
        pieces: Pieces::default(),
        over: false,
    };
    let events = unfold(stream, |mut stream| async move {
        let (name, piece) = stream.next().await?;
        let mut event = sse::Event::default().data(piece);
        if let Some(name) = name {
            event = event.event(name);
        }
        Some((Ok::<_, Infallible>(event), stream))
    });
    let alive = KeepAlive::new()
        .interval(app.config.keep_alive)
        .text("keep-alive");
    // Proxies hand each piece on.
    let headers = [("x-accel-buffering", "no")];
    (headers, Sse::new(events).keep_alive(alive)).into_response()
}

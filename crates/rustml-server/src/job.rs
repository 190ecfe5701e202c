//! From a request's bytes to its answers, whole or in pieces: what chats and
//! plain completions have in common.

use crate::connections::Kept;
use crate::prepare::{self, failure};
use crate::sse::{self, Shape};
use crate::types::{ApiError, CommonFields};
use crate::worker::{Event, Running};
use crate::{auth, body, App};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::Json;
use rustml_engine::{Request, Update};
use serde::Serialize;
use std::sync::Arc;

/// A request that was read.
pub(crate) struct Job<A> {
    pub requests: Vec<Request>,
    /// What answers have to be like.
    pub shape: prepare::Shape,
    /// Whether to answer in pieces, and then whether to count tokens.
    pub stream: Option<bool>,
    pub answers: A,
}

/// Whether an answer is wanted in pieces, and then whether tokens are counted.
pub(crate) fn stream(c: &CommonFields) -> Option<bool> {
    let include_usage = || c.stream_options.as_ref().is_some_and(|o| o.include_usage);
    (c.stream == Some(true)).then(include_usage)
}

/// All answers to a request, as they grow.
pub(crate) trait Answers: Sized + Send + 'static {
    /// What they are together.
    type Whole: Serialize;
    /// What they are in pieces.
    type Chunks: Shape;

    /// Those that have not ended.
    fn left(&self) -> usize;
    /// Adds an update of one of them, which is sent whole.
    fn keep(&mut self, i: usize, update: Update);
    /// All of them, when they have ended.
    fn whole(self) -> Self::Whole;
    /// They will be sent as they come.
    fn chunks(self, include_usage: bool) -> Self::Chunks;
}

/// Reads a body.
type Read<A> = fn(Arc<App>, &[u8]) -> Result<Job<A>, ApiError>;

/// Reads a request of `kind`, has it computed, and answers it.
pub(crate) async fn answer<A: Answers>(
    app: Arc<App>,
    request: axum::http::Request<Body>,
    kind: &'static str,
    read: Read<A>,
) -> Result<Response, ApiError> {
    let salt = auth::cache_salt(&app, &request);
    let bytes = body::read(request, &app).await?;
    app.worker.generates()?;
    let shared = app.clone();
    let mut job = app
        .reading(bytes.len(), move || read(shared, &bytes))
        .await?;
    for request in &mut job.requests {
        request.cache_salt = salt;
    }
    app.constrain(&mut job.requests, job.shape).await?;
    let large = job.requests.iter().any(|r| r.logprobs.is_some());
    let kept = match large {
        true => Some(app.large.clone().acquire_owned().await),
        false => None,
    };
    let kept = kept.transpose().map_err(|_| ApiError::busy())?;
    let streams = job.stream.is_some();
    let running = app.worker.submit(kind, job.requests, streams).await?;
    let mut response = match job.stream {
        Some(include_usage) => {
            let chunks = job.answers.chunks(include_usage);
            sse::respond(&app, running, chunks)
        }
        None => Json(whole(running, job.answers).await?).into_response(),
    };
    if let Some(kept) = kept {
        response.extensions_mut().insert::<Kept>(Arc::new(kept));
    }
    Ok(response)
}

/// Waits for all answers.
async fn whole<A: Answers>(mut running: Running, mut answers: A) -> Result<A::Whole, ApiError> {
    while answers.left() > 0 {
        match running.next().await {
            Some(Event::Updates(updates)) => {
                for (i, update) in updates {
                    if let Some(e) = update.finish.as_ref().and_then(|(why, _)| failure(why)) {
                        return Err(e);
                    }
                    answers.keep(i, update);
                }
            }
            other => return Err(sse::broken(other)),
        }
    }
    Ok(answers.whole())
}

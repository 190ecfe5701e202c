//! Bodies of requests, read with care: within a time, up to a size, and no
//! field of them unnoticed.

mod fields;
mod left;
mod strict;
mod words;

pub(crate) use fields::Fields;

use crate::connections::Place;
use crate::limits::{BODIES, SMALL_BODY};
use crate::types::*;
use crate::{lane, App};
use axum::body::Body;
use axum::http::{header, HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for bodies that are not small. They are read where one is free, so
/// that all clients together cannot take more memory than that.
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub fn new() -> Places {
        Places(Arc::new(Semaphore::new(BODIES)))
    }
}

/// A body, with its place while it is kept.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body as each endpoint would, without a model and without a server: what
/// it says to those it is nothing for. For tests of outside data.
pub fn check_body(bytes: &[u8]) -> Vec<(&'static str, Result<(), String>)> {
    fn read<A: DeserializeOwned, B: DeserializeOwned>(bytes: &[u8]) -> Result<(), ApiError> {
        let mut fields = Fields::parse(bytes)?;
        fields.read::<A>()?;
        fields.read::<B>()?;
        fields.end()
    }
    type Read = fn(&[u8]) -> Result<(), ApiError>;
    let all: [(&str, Read); 8] = [
        ("/v1/chat/completions", read::<ChatFields, CommonFields>),
        ("/v1/completions", read::<CompletionFields, CommonFields>),
        (
            "/v1/embeddings",
            read::<EmbeddingsRequest, EmbeddingsRequest>,
        ),
        ("/v1/rerank", read::<RerankRequest, RerankRequest>),
        ("/classify", read::<ClassifyRequest, ClassifyRequest>),
        ("/tokenize", read::<TokenizeRequest, TokenizeRequest>),
        ("/detokenize", read::<DetokenizeRequest, DetokenizeRequest>),
        ("/v1/responses", read::<ResponsesFields, CommonFields>),
    ];
    let said = |read: Read| read(bytes).map_err(|e| e.body.message);
    all.map(|(endpoint, read)| (endpoint, said(read))).into()
}

/// How a body is written.
#[derive(Clone, Copy, PartialEq)]
enum Coding {
    Plain,
    Gzip,
}

/// Reads the body of a request that has to be JSON.
pub(crate) async fn read(request: Request<Body>, app: &App) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let says =
            "the body has to be JSON, and the request to say so: Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, says).code("content_type"));
    }
    let coding = coding(headers)?;
    let limit = app.config.max_body;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|l| l > limit as u64) {
        return Err(too_large(limit));
    }
    let connection = request.extensions().get::<Arc<Place>>().cloned();
    let _reading = connection.as_ref().map(Place::reading);
    let mut place = None;
    let collected = collect(request.into_body(), app, coding, &mut place);
    let collected = tokio::time::timeout(app.config.read_timeout, collected).await;
    let bytes = match collected {
        Ok(bytes) => bytes?,
        Err(_) => {
            let says = "the body did not arrive in time";
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, says).code("timeout"));
        }
    };
    let bytes = match coding {
        Coding::Plain => bytes,
        Coding::Gzip => lane::blocking(None, move || inflate(&bytes, limit)).await?,
    };
    Ok(Bytes {
        bytes,
        _place: place,
    })
}

fn too_large(limit: usize) -> ApiError {
    let says = format!("the body is larger than this server accepts ({limit} bytes)");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, says).code("body_too_large")
}

fn coding(headers: &HeaderMap) -> Result<Coding, ApiError> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let given = match (codings.next(), codings.next()) {
        (None, _) => return Ok(Coding::Plain),
        (Some(one), None) => one.to_str().unwrap_or("?").trim(),
        _ => "several",
    };
    match given.to_ascii_lowercase().as_str() {
        "identity" | "" => Ok(Coding::Plain),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        _ => {
            let says = format!("the body is compressed by {given:?}: only gzip is read here");
            let e = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, says);
            Err(e.code("content_encoding"))
        }
    }
}

/// Takes what comes, up to the limit; beyond what is small with a place.
async fn collect(
    mut body: Body,
    app: &App,
    coding: Coding,
    place: &mut Option<OwnedSemaphorePermit>,
) -> Result<Vec<u8>, ApiError> {
    let limit = app.config.max_body;
    // What comes compressed may become large.
    let small = match coding {
        Coding::Plain => SMALL_BODY,
        Coding::Gzip => 0,
    };
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(ApiError::bad("the body ended before it was complete"));
        };
        let Ok(data) = frame.into_data() else {
            continue; // Trailers, which say nothing here.
        };
        let length = bytes.len() + data.len();
        if length > limit {
            return Err(too_large(limit));
        }
        if place.is_none() && length > small {
            let free = app.bodies.0.clone().acquire_owned().await;
            *place = Some(free.map_err(|_| ApiError::busy())?);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// What was compressed, if that is no more than the limit.
fn inflate(bytes: &[u8], limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut plain = Vec::new();
    let reader = flate2::read::MultiGzDecoder::new(bytes);
    let read = reader.take(limit as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(n) if n > limit => Err(too_large(limit)),
        Ok(_) => Ok(plain),
        Err(e) => Err(
            ApiError::bad(format!("the body is no gzip that can be read: {e}"))
                .code("content_encoding"),
        ),
    }
}

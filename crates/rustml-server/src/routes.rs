//! What is where: from a path to its handler, and what all requests go through.

use crate::types::ApiError;
use crate::{
    auth, chat, classify, completions, embeddings, models, openapi, page, prepare, rerank,
    responses, tokenize, App,
};
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;

/// Names a request, in its answer and in the log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The handlers by path.
pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/responses", post(responses::create))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v2/rerank", post(rerank::rerank))
        .route("/rerank", post(rerank::rerank))
        .route("/classify", post(classify::classify))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/metrics", get(models::counters))
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::check));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/openapi.json", get(openapi::document))
        .route("/page/{name}", get(page::file))
        .route("/health", get(models::health))
        .route("/ready", get(models::ready));
    guarded
        .merge(open)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(auth::cors(&app.config.cors_origins))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            auth::check_host,
        ))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// OpenAI's paths, which clients also ask for without `/v1` before them.
const OF_OPENAI: [&str; 5] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/models",
    "/responses",
];

/// The address that is meant: clients put together what they are told as the base
/// with paths of their own, and slashes are doubled or left at the end.
pub(crate) fn meant(uri: &Uri) -> Option<Uri> {
    let given = uri.path();
    let mut path = String::with_capacity(given.len() + 3);
    for c in given.chars() {
        if c != '/' || !path.ends_with('/') {
            path.push(c);
        }
    }
    if path.len() > 1 && path.ends_with('/') {
        path.pop();
    }
    let within = |known: &str| {
        let rest = path.strip_prefix(known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if OF_OPENAI.iter().any(|known| within(known)) {
        path.insert_str(0, "/v1");
    }
    if path == given {
        return None;
    }
    if let Some(query) = uri.query() {
        path = format!("{path}?{query}");
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

async fn not_found(request: Request<Body>) -> ApiError {
    let path = request.uri().path();
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("there is no {path} here; /openapi.json lists what there is"),
    )
    .code("not_found")
}

async fn not_allowed(request: Request<Body>) -> ApiError {
    let says = format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    );
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, says).code("method_not_allowed")
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal("this request made the server fail").into_response()
}

/// Refuses new work at the end, names answers, and counts them.
async fn observe(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    let method = request.method().clone();
    let id = request_id(&request);
    let mut response = match method.as_str() {
        "POST" if app.draining.load(Ordering::SeqCst) => {
            ApiError::unavailable("the server is ending; it takes no new requests").into_response()
        }
        _ => next.run(request).await,
    };
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let status = response.status().as_u16();
    app.metrics.answered(path, status);
    tracing::debug!(
        target: "rustml_server::http",
        %method, path, status, id = ?id, ms = began.elapsed().as_secs_f64() * 1e3,
    );
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// What the client or a proxy calls the request, or another name.
fn request_id(request: &Request<Body>) -> HeaderValue {
    /// Letters of a name that somebody else gave.
    const LONGEST: usize = 128;
    let given = request.headers().get(REQUEST_ID);
    let sane = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    match given.filter(sane) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(format!("req_{:016x}", prepare::any_number()))
            .unwrap_or_else(|_| HeaderValue::from_static("req_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_as_they_are_meant() {
        for (given, path) in [
            ("/v1/models", None),
            ("/", None),
            ("//", Some("/")),
            ("//v1//models", Some("/v1/models")),
            ("/v1/models/", Some("/v1/models")),
            ("/chat/completions", Some("/v1/chat/completions")),
            ("/completions/?a=b//c", Some("/v1/completions?a=b//c")),
            ("/models/org/name", Some("/v1/models/org/name")),
            ("/completion", None),
            ("/modelsx", None),
        ] {
            let uri: Uri = given.parse().unwrap();
            let says = meant(&uri).map(|uri| uri.to_string());
            assert_eq!(says.as_deref(), path, "{given}");
        }
    }
}

//! Who may ask: keys, and pages of other origins.

use crate::types::ApiError;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::{header, HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The keys that are let in; kept as digests, which all have one length, so
/// that how long a comparison takes says nothing of a key.
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub fn new(keys: &[String]) -> Keys {
        Keys(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// Whether a key is one of them. All are looked at, whichever it is.
    fn contain(&self, key: &[u8]) -> bool {
        let key = digest(key);
        let found = self
            .0
            .iter()
            .fold(0, |found, k| found | k.ct_eq(&key).unwrap_u8());
        found == 1
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request through that has a key, if one is asked for.
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    request: Request<Body>,
    next: Next,
) -> Result<Response, ApiError> {
    if app.keys.0.is_empty() {
        return Ok(next.run(request).await);
    }
    let given = request.headers().get(header::AUTHORIZATION);
    let says = match given.and_then(bearer) {
        Some(key) if app.keys.contain(key) => return Ok(next.run(request).await),
        Some(_) => "the API key is not one of this server's",
        None => "this server asks for an API key: Authorization: Bearer KEY",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, says).code("invalid_api_key"))
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = value.as_bytes().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| key.trim_ascii())
}

/// Tells browsers whose pages may read answers; nobody's unless named.
pub(crate) fn cors(origins: &[String]) -> CorsLayer {
    let named = origins
        .iter()
        .filter_map(|o| o.trim_end_matches('/').parse().ok());
    let allowed = match origins.iter().any(|o| o == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(named),
    };
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE];
    // OpenAI's packages for browsers add headers of their own.
    let packages = [
        "lang",
        "package-version",
        "os",
        "arch",
        "runtime",
        "runtime-version",
        "retry-count",
        "timeout",
        "helper-method",
    ];
    let packages = packages
        .iter()
        .filter_map(|n| HeaderName::try_from(format!("x-stainless-{n}")).ok());
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(headers.into_iter().chain(packages).collect::<Vec<_>>())
}

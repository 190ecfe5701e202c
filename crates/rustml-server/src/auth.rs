//! Who may ask: keys, names of this server, and pages of other origins.

use crate::types::ApiError;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{header, HeaderValue, Method, Request, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// The keys that are let in; kept as digests, which all have one length, so
/// that how long a comparison takes says nothing of a key.
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub fn new(keys: &[String]) -> Keys {
        Keys(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// The salt of a key, if it is one of them. All are looked at, whichever it
    /// is.
    fn salt(&self, key: &[u8]) -> Option<Salt> {
        let key = digest(key);
        let found = self
            .0
            .iter()
            .fold(0, |found, k| found | k.ct_eq(&key).unwrap_u8());
        let (salt, _) = key.split_first_chunk()?;
        (found == 1).then(|| Salt(u64::from_le_bytes(*salt)))
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// What separates the prefix cache of one key from those of others.
#[derive(Clone, Copy, Default)]
struct Salt(u64);

/// The prefix cache that a request has a part in: that of its key, or of all.
pub(crate) fn cache_salt(app: &App, request: &Request<Body>) -> u64 {
    let salt = request.extensions().get::<Salt>();
    match app.config.share_prefixes {
        true => 0,
        false => salt.map_or(0, |salt| salt.0),
    }
}

/// Lets a request through that has a key, if one is asked for: `Authorization` as
/// OpenAI's clients send it, or `X-Api-Key` as Anthropic's.
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    mut request: Request<Body>,
    next: Next,
) -> Result<Response, ApiError> {
    if app.keys.0.is_empty() {
        return Ok(next.run(request).await);
    }
    let headers = request.headers();
    let bearer = headers.get(header::AUTHORIZATION).and_then(bearer);
    let plain = headers
        .get("x-api-key")
        .map(|key| key.as_bytes().trim_ascii());
    let given: Vec<&[u8]> = [bearer, plain].into_iter().flatten().collect();
    let says = match given.iter().find_map(|key| app.keys.salt(key)) {
        Some(salt) => {
            request.extensions_mut().insert(salt);
            return Ok(next.run(request).await);
        }
        None if !given.is_empty() => "the API key is not one of this server's",
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

/// Lets a request through that calls the server by one of its names, if it has
/// any. A web page can have its own name lead to this machine (DNS rebinding), and
/// its browser then takes the server for the page's; but it still sends that name.
pub(crate) async fn check_host(
    State(app): State<Arc<App>>,
    request: Request<Body>,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(names) = &app.config.hosts else {
        return Ok(next.run(request).await);
    };
    let header = request.headers().get(header::HOST);
    let called = match (request.uri().authority(), header) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(header)) => header.to_str().ok().and_then(|h| h.parse().ok()),
        // Browsers always send one.
        (None, None) => return Ok(next.run(request).await),
    };
    match called.as_ref().is_some_and(|c| is_named(c, names)) {
        true => Ok(next.run(request).await),
        false => {
            let called = called.as_ref().map_or("that name", Authority::host);
            let says = format!(
                "this server is not called {called:?}: it answers to localhost, and to names given by --allow-host"
            );
            Err(ApiError::new(StatusCode::FORBIDDEN, says).code("host_not_allowed"))
        }
    }
}

/// Whether a name is this machine's own, or one of `names`.
fn is_named(called: &Authority, names: &[String]) -> bool {
    let host = called.host().trim_end_matches('.');
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let own = host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    own || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Tells browsers whose pages may read answers; nobody's unless named. They may
/// send any header, as clients add ever new ones.
pub(crate) fn cors(origins: &[String]) -> CorsLayer {
    let named = origins
        .iter()
        .filter_map(|o| o.trim_end_matches('/').parse().ok());
    let allowed = match origins.iter().any(|o| o == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(named),
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([crate::routes::REQUEST_ID])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_names_and_given_ones_are_known() {
        let names = ["chat.lan".to_owned()];
        for (host, known) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("app.localhost", true),
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("chat.lan:80", true),
            ("Chat.LAN.", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("notlocalhost", false),
            ("192.168.0.1", false),
            ("xchat.lan", false),
        ] {
            let authority = host.parse().unwrap();
            assert_eq!(is_named(&authority, &names), known, "{host}");
        }
    }
}

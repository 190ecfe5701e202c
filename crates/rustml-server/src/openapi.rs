//! `/openapi.json`: what there is, generated from the types.

use crate::types::*;
use axum::Json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "rustml",
        description = "OpenAI's API for a model on this machine. Fields marked as extensions are not OpenAI's. \
                       A field that is not listed is refused with status 400, but for those that change nothing, \
                       such as user and metadata."
    ),
    paths(
        crate::chat::complete,
        crate::completions::complete,
        crate::responses::create,
        crate::embeddings::embeddings,
        crate::rerank::rerank,
        crate::classify::classify,
        crate::models::list,
        crate::models::one,
        crate::tokenize::tokenize,
        crate::tokenize::detokenize,
        crate::models::health,
        crate::models::ready,
        crate::models::counters,
    ),
    components(schemas(ChatChunk, Completion, ErrorResponse)),
    modifiers(&Keys),
)]
struct Document;

/// One event of a stream: the line `data: ...`.
///
/// Up to OpenAPI 3.1, a stream's schema is that of one event with its fields.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct StreamEvent {
    /// JSON: a `ChatChunk` of a conversation, a `Completion` of a plain prompt, an event of
    /// a response, or an `ErrorResponse`. But for responses the last one is `[DONE]`, which
    /// is not JSON.
    data: String,
}

/// Requests may have to bring a key.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", bearer);
    }
}

/// Serves the document.
pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

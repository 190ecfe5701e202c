//! What is served, and how it is: `/v1/models`, `/health`, `/ready`,
//! `/metrics`.

use crate::types::{ApiError, ErrorResponse, ModelCard, ModelList};
use crate::{metrics, App};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::Json;
use serde_json::{json, Value};
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl App {
    fn card(&self, id: &str) -> ModelCard {
        ModelCard {
            id: id.into(),
            object: "model",
            created: self.created,
            owned_by: "rustml",
            max_model_len: self.context,
        }
    }
}

/// All models.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    responses(
        (status = 200, description = "The answer", body = ModelList),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    let data = app.names.iter().map(|name| app.card(name)).collect();
    Json(ModelList {
        object: "list",
        data,
    })
}

/// One of them. Names may have slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieveModel",
    params(("id" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "The answer", body = ModelCard),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>, ApiError> {
    let Path(id) = id.map_err(|e| ApiError::field("id", e.body_text()))?;
    let name = app.model(Some(&id))?;
    Ok(Json(app.card(&name)))
}

/// The process is there.
#[utoipa::path(
    get,
    path = "/health",
    responses(
        (status = 200, description = "The answer", body = Value),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
)]
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The model is loaded, its engine steps, and new requests are welcome.
#[utoipa::path(
    get,
    path = "/ready",
    responses(
        (status = 200, description = "The answer", body = Value),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    match () {
        () if app.draining.load(Ordering::SeqCst) => {
            Err(ApiError::unavailable("the server is ending"))
        }
        () if !app.is_alive() => Err(ApiError::unavailable("the engine does not step")),
        () => Ok(Json(json!({"status": "ready"}))),
    }
}

/// Counters, in Prometheus' form.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "The answer", body = String, content_type = "application/openmetrics-text"),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn counters(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.text();
    let text = text.map_err(|_| ApiError::internal("cannot write the metrics"))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

//! `GET /v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// The models that are served: one, under each of its names.
#[derive(Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelCard>,
}

/// A model.
#[derive(Clone, Serialize, ToSchema)]
pub struct ModelCard {
    /// The name that requests give.
    pub id: String,
    /// Always `model`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Always `rustml`.
    #[schema(value_type = String)]
    pub owned_by: &'static str,
    /// Tokens that prompt and answer may take together.
    pub max_model_len: usize,
}

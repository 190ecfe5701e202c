//! `POST /v1/embeddings`.

use super::completions::Prompt;
use rustml_tokenizer::Input;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Texts whose vectors are wanted.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// The model's name; the one that is served, if it is left out.
    #[serde(default)]
    pub model: Option<String>,
    /// A text, several, a text as tokens, or several as tokens.
    pub input: Prompt,
    /// `float`, or `base64` of single precision, the lowest byte first.
    #[serde(default)]
    pub encoding_format: Option<String>,
    /// Keeps only the first so many values, with length 1 again.
    #[serde(default)]
    pub dimensions: Option<usize>,
    /// Whether to cut a text that is longer than the model reads. Without it that is an
    /// error. An extension.
    #[serde(default)]
    pub truncate: Option<bool>,
}

/// Their vectors.
#[derive(Serialize, ToSchema)]
pub struct Embeddings {
    /// Always `list`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// A vector for each text, in their order.
    pub data: Vec<Embedding>,
    /// The model.
    pub model: String,
    /// What was read.
    pub usage: TextUsage,
}

/// A text's vector.
#[derive(Serialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Which text it is of.
    pub index: usize,
    /// It.
    pub embedding: EmbeddingValues,
    /// There, and true, if the text was cut. An extension.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Values in the wanted form.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingValues {
    /// Numbers.
    Floats(Vec<f32>),
    /// Their bytes.
    Base64(String),
}

/// Tokens of texts.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct TextUsage {
    /// Those of all texts.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

impl TextUsage {
    /// Those of these texts.
    pub fn of(texts: &[Input]) -> TextUsage {
        let all = texts.iter().map(|t| t.ids.len()).sum();
        TextUsage {
            prompt_tokens: all,
            total_tokens: all,
        }
    }
}

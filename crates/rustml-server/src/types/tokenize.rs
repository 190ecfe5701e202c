//! `POST /tokenize` and `/detokenize`, as vLLM has them.

use super::chat::{ChatMessage, Tool};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A text or a conversation whose tokens are wanted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct TokenizeRequest {
    /// The model's name; the one that is served, if it is left out.
    pub model: Option<String>,
    /// The text.
    pub prompt: Option<String>,
    /// Or the conversation.
    pub messages: Option<Vec<ChatMessage>>,
    /// Functions that the conversation's model may call.
    pub tools: Option<Vec<Tool>>,
    /// Whether the conversation ends with the beginning of an answer. True if
    /// left out.
    pub add_generation_prompt: Option<bool>,
    /// Whether to add what texts begin with. True if left out.
    pub add_special_tokens: Option<bool>,
    /// Whether control tokens that are written in the prompt count as such.
    /// False if left out.
    pub parse_special: Option<bool>,
    /// Whether to tell each token's text.
    pub return_token_strs: Option<bool>,
}

/// The tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many.
    pub count: usize,
    /// Tokens that prompt and answer may take together.
    pub max_model_len: usize,
    /// Which.
    pub tokens: Vec<u32>,
    /// Their texts, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens whose text is wanted.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The model's name; the one that is served, if it is left out.
    #[serde(default)]
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<u32>,
}

/// The text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// It, control tokens included.
    pub prompt: String,
}

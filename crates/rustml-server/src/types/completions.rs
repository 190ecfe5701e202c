//! `POST /v1/completions`.

use super::common::{CommonFields, FinishReason, Usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A text to be continued.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CompletionRequest {
    /// What it shares with chats.
    #[serde(flatten)]
    pub common: CommonFields,
    /// What is its own.
    #[serde(flatten)]
    pub own: CompletionFields,
}

/// Fields of a plain completion.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct CompletionFields {
    /// What is continued.
    pub prompt: Prompt,
    /// Whether the answer begins with the prompt.
    #[serde(default)]
    pub echo: Option<bool>,
    /// How many of the likeliest tokens to tell with each.
    #[serde(default)]
    #[schema(maximum = 20)]
    pub logprobs: Option<usize>,
    /// Accepted if it is `n`.
    #[serde(default)]
    pub best_of: Option<usize>,
}

/// What is continued.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of tokens, or a list of lists of tokens"
)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Several, each of which is continued.
    Texts(Vec<String>),
    /// A text as tokens.
    Tokens(Vec<u32>),
    /// Several as tokens.
    Lists(Vec<Vec<u32>>),
}

/// The answers to a plain completion.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Completion {
    /// Names the answer.
    pub id: String,
    /// Always `text_completion`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The answers, or what is new in them; empty in the piece that counts
    /// tokens.
    pub choices: Vec<TextChoice>,
    /// What they took. In pieces only if asked for, and then null before the
    /// last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// What gives the same tokens for the same seed.
    pub system_fingerprint: String,
}

/// An answer, or what is new in it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TextChoice {
    /// The text.
    pub text: String,
    /// Which, from 0: first all of the first prompt.
    pub index: usize,
    /// How likely its tokens were.
    pub logprobs: Option<TextLogprobs>,
    /// Why it ended; null before that.
    pub finish_reason: Option<FinishReason>,
}

/// How likely the tokens of an answer were; lists of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct TextLogprobs {
    /// Their texts; `bytes:\x..` of those that are no whole characters.
    pub tokens: Vec<String>,
    /// The logarithms of their probabilities; null for the first of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens, with theirs.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where in the text they begin, in characters.
    pub text_offset: Vec<usize>,
}

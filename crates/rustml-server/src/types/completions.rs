//! `POST /v1/completions`.

use super::common::{CommonFields, FinishReason, Usage};
use serde::{Deserialize, Serialize};
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
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
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
    #[schema(value_type = Vec<Option<std::collections::BTreeMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<Likeliest>>,
    /// Where in the text they begin, in characters.
    pub text_offset: Vec<usize>,
}

/// The likeliest tokens by name, each once. A list of pairs takes a third of a
/// tree's memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likeliest(Vec<(String, f32)>);

impl Likeliest {
    /// Of pairs, likeliest first. Of tokens that read alike, the first counts.
    pub fn new(mut pairs: Vec<(String, f32)>) -> Likeliest {
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, first| later.0 == first.0);
        pairs.shrink_to_fit();
        Likeliest(pairs)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Likeliest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(name, logprob)| (name, logprob)))
    }
}

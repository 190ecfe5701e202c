//! Fields that chat and plain completions share.

use super::read;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Fields of both kinds of completions.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct CommonFields {
    /// The model's name; the one that is served, if it is left out.
    pub model: Option<String>,
    /// Send the answer in pieces, as server-sent events.
    pub stream: Option<bool>,
    /// How to send it in pieces.
    pub stream_options: Option<StreamOptions>,
    /// Tokens of an answer at most; -1 is what fits. Chats take what fits, texts
    /// 16.
    #[serde(deserialize_with = "read::limit")]
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub max_tokens: Option<usize>,
    /// Answers to each prompt. 1 if left out.
    #[schema(minimum = 1)]
    pub n: Option<usize>,
    /// How freely tokens are chosen; 0 always takes the likeliest. 1 if left out.
    #[schema(minimum = 0, maximum = 100)]
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together reach this probability; 0 leaves
    /// the likeliest alone.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Only the `k` likeliest tokens; 0 or -1 is all. Extension.
    #[serde(deserialize_with = "read::or_off")]
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub top_k: Option<usize>,
    /// Only tokens at least this likely relative to the likeliest. Extension.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// The same seed gives the same tokens. Another one every time if left out.
    pub seed: Option<i64>,
    /// Where the answer ends, if it gets there; not part of the answer.
    pub stop: Option<Stop>,
    /// Taken off the logits of tokens that the answer has already.
    pub presence_penalty: Option<f32>,
    /// The same, for each time the answer has the token.
    pub frequency_penalty: Option<f32>,
    /// Divisor of the logits of tokens that occurred, prompt included. Extension.
    pub repetition_penalty: Option<f32>,
    /// llama.cpp's name of `repetition_penalty`. Extension.
    pub repeat_penalty: Option<f32>,
    /// Goes on when the model would end, for measuring. Extension.
    pub ignore_eos: Option<bool>,
    /// Added to the logits of tokens, by id, from -100 to 100.
    #[serde(deserialize_with = "read::biases")]
    #[schema(value_type = Option<std::collections::HashMap<String, f32>>)]
    pub logit_bias: Option<Vec<(String, f32)>>,
    /// What the answer has to look like.
    pub response_format: Option<ResponseFormat>,
    /// A Lark grammar that the answer has to follow. Extension.
    pub grammar: Option<String>,
    /// A regular expression that the answer has to match. Extension.
    pub regex: Option<String>,
}

/// How an answer is sent in pieces.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct StreamOptions {
    /// Ends with one more piece that counts the tokens.
    pub include_usage: bool,
}

/// Where an answer ends.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// At this string.
    One(String),
    /// At the first of these.
    Any(Vec<String>),
}

impl Stop {
    /// All of them.
    pub fn strings(self) -> Vec<String> {
        match self {
            Stop::One(one) => vec![one],
            Stop::Any(all) => all,
        }
    }
}

/// What an answer has to look like.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Text, which is the default.
    Text,
    /// A JSON object.
    JsonObject {
        /// Or JSON that fits this schema. Extension, as llama.cpp has it.
        #[schema(value_type = Option<Object>)]
        schema: Option<serde_json::Value>,
    },
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A schema with a name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct NamedSchema {
    /// Its name, which has no effect.
    pub name: Option<String>,
    /// What it is for, which has no effect.
    pub description: Option<String>,
    /// The JSON schema.
    #[serde(deserialize_with = "read::some_value")]
    #[schema(value_type = Object)]
    pub schema: serde_json::Value,
    /// Answers always fit the schema, strict or not.
    pub strict: Option<bool>,
}

/// Tokens that a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Of the prompts.
    pub prompt_tokens: usize,
    /// Of the answers.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// What of the prompts was not computed.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// What of the prompts was not computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens whose keys and values were in the cache.
    pub cached_tokens: usize,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string.
    Stop,
    /// It has as many tokens as were asked for, or as fit.
    Length,
    /// It calls tools.
    ToolCalls,
}

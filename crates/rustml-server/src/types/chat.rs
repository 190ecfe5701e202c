//! `POST /v1/chat/completions`.

use super::common::{CommonFields, FinishReason, Usage};
use super::read;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A conversation to be answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatRequest {
    /// What it shares with plain completions.
    #[serde(flatten)]
    pub common: CommonFields,
    /// What is a chat's own.
    #[serde(flatten)]
    pub own: ChatFields,
}

/// Fields of a chat.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ChatFields {
    /// What was said so far.
    #[schema(min_items = 1)]
    pub messages: Vec<ChatMessage>,
    /// The newer name of `max_tokens`.
    #[serde(default, deserialize_with = "read::limit")]
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub max_completion_tokens: Option<usize>,
    /// Whether to tell how likely each token was.
    #[serde(default)]
    pub logprobs: Option<bool>,
    /// How many of the likeliest tokens to tell with each.
    #[serde(default)]
    #[schema(maximum = 20)]
    pub top_logprobs: Option<usize>,
    /// Functions that the model may call.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// Whether it may, must, or must call a certain one.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once. True if left out.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
}

/// One message of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer` (the same), `user`, `assistant` or `tool`.
    #[schema(pattern = "^(system|developer|user|assistant|tool)$")]
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who says it, for templates that tell.
    #[serde(default)]
    pub name: Option<String>,
    /// Functions that the assistant called.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// What the assistant thought before, for templates that tell.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// The same by another name, which counts if the first is left out.
    #[serde(default)]
    pub reasoning: Option<String>,
}

/// What a message says.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts: a list, for templates that take one, or else lines.
    Parts(Vec<Part>),
}

/// A part of what a message says.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Part {
    /// Always `text`.
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

/// A function that a model may call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Tool {
    /// Always `function`.
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// The function.
    pub function: Function,
}

/// A function.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Function {
    /// Its name.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[serde(
        default,
        deserialize_with = "read::value",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<serde_json::Value>,
}

/// Whether functions may be called.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(ToolMode),
    /// This one must be.
    Named {
        /// Always `function`.
        #[serde(rename = "type")]
        #[schema(pattern = "^function$")]
        kind: String,
        /// Which.
        function: FunctionName,
    },
}

/// Whether functions may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolMode {
    /// No.
    None,
    /// As the model likes.
    Auto,
    /// One must be.
    Required,
}

/// Names a function.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct FunctionName {
    /// Its name.
    pub name: String,
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Names the call.
    #[serde(default)]
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type", default = "function")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".into()
}

/// A function and its arguments.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// The arguments, as JSON in a string.
    pub arguments: String,
}

/// The answers to a conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Names the answer.
    pub id: String,
    /// Always `chat.completion`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// What they took.
    pub usage: Usage,
    /// What gives the same tokens for the same seed.
    pub system_fingerprint: String,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Which, from 0.
    pub index: usize,
    /// The answer.
    pub message: Answer,
    /// How likely its tokens were.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What the model says.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Answer {
    /// Always `assistant`.
    #[schema(value_type = String)]
    pub role: &'static str,
    /// The text; null if it only calls functions.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// Functions it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A piece of the answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// Names the answer.
    pub id: String,
    /// Always `chat.completion.chunk`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// What gives the same tokens for the same seed.
    pub system_fingerprint: String,
    /// What is new; empty in the piece that counts tokens.
    pub choices: Vec<ChunkChoice>,
    /// In the last piece, if asked for; in those before it is null then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// What is new in an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Which answer.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// How likely the new tokens were.
    pub logprobs: Option<ChatLogprobs>,
    /// On the last piece, why the answer ended.
    pub finish_reason: Option<FinishReason>,
}

/// What is new.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, on the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub role: Option<&'static str>,
    /// Text that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Calls that begin or go on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// A call of a function that begins or goes on.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the answer, from 0.
    pub index: usize,
    /// Names the call; on its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, on its first piece.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub kind: Option<&'static str>,
    /// The function.
    pub function: FunctionDelta,
}

/// A function whose call begins or goes on.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// Its name, on the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Arguments that go on.
    pub arguments: String,
}

/// How likely the tokens of an answer were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// For each token.
    pub content: Vec<TokenLogprob>,
}

/// How likely a token was, and which others there were.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text.
    pub token: String,
    /// The logarithm of its probability.
    pub logprob: f32,
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// The likeliest.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that was likely.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// The logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

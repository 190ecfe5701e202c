//! `POST /v1/responses`.

use super::common::CommonFields;
use super::read;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use utoipa::ToSchema;

/// A conversation to be answered. All of it comes with each request; none is kept.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponsesRequest {
    /// What it shares with completions.
    #[serde(flatten)]
    pub common: CommonFields,
    /// Its own fields.
    #[serde(flatten)]
    pub own: ResponsesFields,
}

/// Fields of a response.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ResponsesFields {
    /// What was said so far.
    pub input: Input,
    /// A system message before it.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Tokens of the answer at most; -1 is what fits.
    #[serde(default, deserialize_with = "read::limit")]
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub max_output_tokens: Option<usize>,
    /// What the answer has to look like: `{"format": {"type": "json_schema", ...}}`.
    #[serde(default, deserialize_with = "read::value")]
    #[schema(value_type = Option<Object>)]
    pub text: Option<Value>,
    /// Functions that may be called. Tools of other types, which OpenAI runs, have no effect.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or `{"type": "function", "name": ...}`.
    #[serde(default, deserialize_with = "read::value")]
    pub tool_choice: Option<Value>,
    /// Whether several may be called at once. True if left out.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Has no effect: nothing is kept.
    #[serde(default)]
    pub store: Option<bool>,
    /// Has no effect: there is nothing more to include.
    #[serde(default)]
    pub include: Option<Vec<String>>,
    /// Has no effect: how much a model thinks is its own matter.
    #[serde(default, deserialize_with = "read::value")]
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Value>,
    /// Refused but for null: no answer is kept.
    #[serde(default)]
    pub previous_response_id: Option<String>,
}

/// What was said so far.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// A message of the user.
    Text(String),
    /// Messages, calls, and what they gave.
    Items(Vec<InputItem>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Input, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a list of items")
            }

            fn visit_str<E>(self, v: &str) -> Result<Input, E> {
                Ok(Input::Text(v.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Input, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Input::Items)
            }
        }

        d.deserialize_any(Read)
    }
}

/// A message, a call, or what a call gave.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct InputItem {
    /// `message`, which may be left out, `function_call`, `function_call_output` or
    /// `reasoning`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Who says a message.
    #[serde(default)]
    pub role: Option<String>,
    /// What a message says.
    #[serde(default)]
    pub content: Option<super::Content>,
    /// The function that is called.
    #[serde(default)]
    pub name: Option<String>,
    /// Its arguments, as JSON in a string.
    #[serde(default)]
    pub arguments: Option<String>,
    /// Names the call.
    #[serde(default)]
    pub call_id: Option<String>,
    /// What the call gave.
    #[serde(default)]
    pub output: Option<super::Content>,
    /// What was thought, in short; has no effect.
    #[serde(default, deserialize_with = "read::value")]
    pub summary: Option<Value>,
    /// Has no effect.
    #[serde(default)]
    pub encrypted_content: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseObject {
    /// Names the answer.
    pub id: String,
    /// Always `response`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created_at: u64,
    /// `completed`, `incomplete`, `in_progress` or `failed`.
    #[schema(value_type = String)]
    pub status: &'static str,
    /// What went wrong, if it failed.
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// Why it is incomplete.
    #[schema(value_type = Option<Object>)]
    pub incomplete_details: Option<Value>,
    /// The model.
    pub model: String,
    /// Messages and calls.
    #[schema(value_type = Vec<Object>)]
    pub output: Vec<Value>,
    /// As asked for.
    pub instructions: Option<String>,
    /// As asked for.
    pub parallel_tool_calls: bool,
    /// As asked for.
    pub tool_choice: Value,
    /// As asked for.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As asked for.
    #[schema(value_type = Object)]
    pub text: Value,
    /// Always false.
    pub store: bool,
    /// Tokens; null while it goes on.
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Value>,
}

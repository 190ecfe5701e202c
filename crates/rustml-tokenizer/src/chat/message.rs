//! One message of a conversation.

use std::borrow::Cow;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{json, Value};

/// One message of a conversation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`...
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Content,
    /// Everything else a template may look at: `tool_calls`, `name`...
    #[serde(flatten)]
    pub extra: serde_json::Map<String, Value>,
}

/// What a message says.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Content {
    /// Nothing, `null` in JSON: an assistant that only calls functions.
    #[default]
    Nothing,
    /// A text.
    Text(String),
    /// Text in parts, in JSON `{"type": "text", "text": ...}` each. Templates
    /// that take no list are given them as lines.
    Parts(Vec<String>),
}

impl Message {
    /// A message without anything extra.
    pub fn new(role: impl Into<String>, content: impl Into<Content>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
            extra: Default::default(),
        }
    }
}

impl Content {
    /// All of it as one text.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Content::Nothing => Cow::Borrowed(""),
            Content::Text(text) => Cow::Borrowed(text),
            Content::Parts(parts) => Cow::Owned(parts.join("\n")),
        }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Content {
        Content::Text(text.to_owned())
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A text as a list of one part.
pub(super) fn part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Content::Nothing => serializer.serialize_none(),
            Content::Text(text) => serializer.serialize_str(text),
            Content::Parts(parts) => serializer.collect_seq(parts.iter().map(|text| part(text))),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Text(String),
            Parts(Vec<Part>),
            Other(serde::de::IgnoredAny),
        }
        #[derive(Deserialize)]
        struct Part {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default)]
            text: String,
        }
        let parts = match Option::deserialize(deserializer)? {
            None => return Ok(Content::Nothing),
            Some(Given::Text(text)) => return Ok(Content::Text(text)),
            Some(Given::Parts(parts)) => parts,
            Some(Given::Other(_)) => {
                return Err(D::Error::custom("the content of a message has to be text"))
            }
        };
        match parts.iter().find(|part| part.kind != "text") {
            None => Ok(Content::Parts(
                parts.into_iter().map(|part| part.text).collect(),
            )),
            Some(part) => Err(D::Error::custom(format!(
                "messages can only hold text, not {:?}",
                part.kind
            ))),
        }
    }
}

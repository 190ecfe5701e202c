//! `POST /v1/rerank` and `/classify`.

use super::completions::Prompt;
use super::embeddings::TextUsage;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Documents that are to be put in order.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct RerankRequest {
    /// The model's name; the one that is served, if it is left out.
    #[serde(default)]
    pub model: Option<String>,
    /// What they have to fit.
    pub query: String,
    /// They.
    pub documents: Vec<Document>,
    /// How many of the best to tell; all, if it is left out.
    #[serde(default)]
    pub top_n: Option<usize>,
    /// Whether to tell their texts, too.
    #[serde(default)]
    pub return_documents: Option<bool>,
    /// Whether to tell scores as they come from the model, and not between 0 and 1. An
    /// extension.
    #[serde(default)]
    pub raw_scores: Option<bool>,
    /// Whether to cut what is longer than the model reads. Without it that is an error. An
    /// extension.
    #[serde(default)]
    pub truncate: Option<bool>,
}

/// A document.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Document {
    /// Its text.
    Text(String),
    /// The same in an object.
    Object(DocumentText),
}

/// A document's text.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DocumentText {
    /// It.
    pub text: String,
}

impl Document {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Document::Text(text) | Document::Object(DocumentText { text }) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Document, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or an object with a text")
            }

            fn visit_str<E>(self, v: &str) -> Result<Document, E> {
                Ok(Document::Text(v.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
                let read = Deserialize::deserialize(MapAccessDeserializer::new(map));
                read.map(Document::Object)
            }
        }

        d.deserialize_any(Read)
    }
}

/// Documents in order.
#[derive(Serialize, ToSchema)]
pub struct Reranked {
    /// Names the answer.
    pub id: String,
    /// Always `list`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// The model.
    pub model: String,
    /// The best one first.
    pub results: Vec<RankedDocument>,
    /// What was read: of each document the query, too.
    pub usage: TextUsage,
}

/// How well a document fits.
#[derive(Serialize, ToSchema)]
pub struct RankedDocument {
    /// Which document.
    pub index: usize,
    /// How well.
    pub relevance_score: f32,
    /// It, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentText>,
    /// There, and true, if it was cut. An extension.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Texts that are to get labels.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ClassifyRequest {
    /// The model's name; the one that is served, if it is left out.
    #[serde(default)]
    pub model: Option<String>,
    /// A text, several, a text as tokens, or several as tokens.
    pub input: Prompt,
    /// Whether to cut a text that is longer than the model reads. Without it that is an
    /// error.
    #[serde(default)]
    pub truncate: Option<bool>,
}

/// Texts with labels.
#[derive(Serialize, ToSchema)]
pub struct Classified {
    /// Names the answer.
    pub id: String,
    /// Always `list`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The labels' names, in the order of `probs`.
    pub labels: Vec<String>,
    /// For each text.
    pub data: Vec<ClassifiedText>,
    /// What was read.
    pub usage: TextUsage,
}

/// A text's labels.
#[derive(Serialize, ToSchema)]
pub struct ClassifiedText {
    /// Which text.
    pub index: usize,
    /// The likeliest label.
    pub label: String,
    /// How likely each label is.
    pub probs: Vec<f32>,
    /// How many there are.
    pub num_classes: usize,
    /// There, and true, if the text was cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

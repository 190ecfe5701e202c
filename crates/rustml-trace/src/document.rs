//! The file form of rounds and reports: versioned JSON.
//!
//! `docs/report.schema.json` describes it. A file that holds a round alone (of
//! `rustml report --save`) and one that holds the whole report are alike but
//! for the fields that may be absent; all that a reader needs is the round.

use crate::compare::Comparison;
use crate::round::Round;
use crate::tables::Tables;
use serde::{Deserialize, Serialize};

/// The `schema` of every file.
pub const SCHEMA: &str = "rustml-report";
/// The version of the form, raised when older readers would misread it.
pub const VERSION: u32 = 1;

/// A report with what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// What was measured.
    pub round: Round,
    /// What follows from it; absent in a saved round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Tables>,
    /// How it differs from an earlier round, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// Why a file cannot be read as a round.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No JSON, or a field is missing or of another kind.
    #[error("it is no round of rustml report --save: {0}")]
    Form(serde_json::Error),
    /// JSON of something else.
    #[error("it is JSON, but no round of rustml report --save")]
    Schema,
    /// Of another version of this program.
    #[error("its form is version {found}, but this rustml reads version {VERSION}; measure it again with this one")]
    Version {
        /// The version in the file.
        found: u64,
    },
    /// Columns of different length.
    #[error("its columns are not of one length; it was changed, or not written by rustml")]
    Columns,
}

impl Document {
    /// A round alone.
    pub fn saved(round: Round) -> Document {
        Document {
            schema: SCHEMA.into(),
            version: VERSION,
            round,
            tables: None,
            comparison: None,
        }
    }

    /// A round with all that follows from it.
    pub fn report(round: Round, before: Option<&Round>) -> Document {
        Document {
            tables: Some(Tables::of(&round)),
            comparison: before.map(|b| Comparison::of(b, &round)),
            ..Document::saved(round)
        }
    }

    /// As a file holds it.
    pub fn to_json(&self) -> String {
        // Plain data with strings for keys cannot fail.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// From a file.
    ///
    /// # Errors
    /// If it is something else, of another version, or was tampered with.
    pub fn from_json(text: &[u8]) -> Result<Document, Error> {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(Error::Form)?;
        if value.get("schema").and_then(|s| s.as_str()) != Some(SCHEMA) {
            return Err(Error::Schema);
        }
        match value.get("version").and_then(|v| v.as_u64()) {
            Some(v) if v == u64::from(VERSION) => {}
            other => {
                return Err(Error::Version {
                    found: other.unwrap_or(0),
                })
            }
        }
        let document: Document = serde_json::from_value(value).map_err(Error::Form)?;
        match document.round.is_whole() {
            true => Ok(document),
            false => Err(Error::Columns),
        }
    }
}

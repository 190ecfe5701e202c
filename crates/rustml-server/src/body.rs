//! Bodies of requests, read with care: within a time, up to a size, and no
//! field of them unnoticed.

use crate::limits::Config;
use crate::types::ApiError;
use axum::body::{Body, Bytes};
use axum::http::{header, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Fields that change nothing here and that clients send as a matter of course,
/// as they name a user or a tier of service.
const HARMLESS: &[&str] = &[
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Fields that OpenAI or other servers know and this one does not serve.
const UNSUPPORTED: &[&str] = &[
    "audio",
    "function_call",
    "functions",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "modalities",
    "moderation",
    "prediction",
    "reasoning_effort",
    "store",
    "suffix",
    "use_beam_search",
    "verbosity",
    "web_search_options",
];

/// What servers say of an assistant's message, which clients send back with it.
const OF_ANSWERS: &[&str] = &[
    "annotations",
    "index",
    "parsed",
    "parsed_arguments",
    "reasoning",
    "reasoning_content",
    "refusal",
];

/// Reads the body of a request that has to be JSON.
pub(crate) async fn read(request: Request<Body>, config: &Config) -> Result<Bytes, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let says =
            "the body has to be JSON, and the request to say so: Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, says).code("content_type"));
    }
    let limit = config.max_body;
    let too_large = || {
        let says = format!("the body is larger than this server accepts ({limit} bytes)");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, says).code("body_too_large")
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|l| l > limit as u64) {
        return Err(too_large());
    }
    let bytes = axum::body::to_bytes(request.into_body(), limit);
    match tokio::time::timeout(config.read_timeout, bytes).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if is_limit(&e) => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::bad("the body ended before it was complete")),
        Err(_) => {
            let says = "the body did not arrive in time";
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, says).code("timeout"))
        }
    }
}

fn is_limit(e: &axum::Error) -> bool {
    std::error::Error::source(e).is_some_and(|e| e.is::<http_body_util::LengthLimitError>())
}

/// A body that was read, and what of it nobody has looked at.
pub(crate) struct Fields {
    value: Value,
    /// Paths that every type read so far has left out.
    unread: Option<Vec<String>>,
}

impl Fields {
    /// The fields of a JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Fields, ApiError> {
        let value = serde_json::from_slice(bytes);
        let value: Value = value.map_err(|e| {
            ApiError::bad(format!("the body is no JSON that can be read: {e}")).code("invalid_json")
        })?;
        match value {
            Value::Object(_) => Ok(Fields {
                value,
                unread: None,
            }),
            _ => Err(ApiError::bad("the body has to be a JSON object").code("invalid_json")),
        }
    }

    /// Reads those fields that `T` has.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let mut unread = Vec::new();
        let mut note = |path: serde_ignored::Path| unread.push(path.to_string());
        let fields = serde_ignored::Deserializer::new(&self.value, &mut note);
        let fields = serde_path_to_error::deserialize(fields).map_err(wrong)?;
        let nested = |path: &String| path.contains('.');
        self.unread = Some(match self.unread.take() {
            None => unread,
            // A field that one of them knows is known, but for what is in it.
            Some(before) => {
                let (inner, outer): (Vec<_>, Vec<_>) = before.into_iter().partition(nested);
                let both = outer.into_iter().filter(|path| unread.contains(path));
                let both: Vec<_> = both.chain(inner).collect();
                both.into_iter()
                    .chain(unread.into_iter().filter(nested))
                    .collect()
            }
        });
        Ok(fields)
    }

    /// Everything has been read that is known; what is left is an error that
    /// names it, unless it says nothing.
    pub fn end(self) -> Result<(), ApiError> {
        for path in self.unread.unwrap_or_default() {
            let value = at(&self.value, &path);
            if !value.is_null() && !may_be_left(&path, value) {
                let path = readable(&path);
                return Err(match UNSUPPORTED.contains(&path.as_str()) {
                    true => ApiError::unsupported(&path, " by this server"),
                    false => ApiError::field(&path, format!("{path} is no field of this request"))
                        .code("unknown_parameter"),
                });
            }
        }
        Ok(())
    }
}

fn may_be_left(path: &str, value: &Value) -> bool {
    let last = path.rsplit('.').next().unwrap_or_default();
    match path {
        _ if HARMLESS.contains(&path) => true,
        _ if path.starts_with("messages.") => OF_ANSWERS.contains(&last),
        // Only forced calls always fit the schema.
        _ if path.starts_with("tools.") => last == "strict" && value.is_boolean(),
        "store" | "use_beam_search" | "stream_options.?.include_obfuscation" => {
            value == &Value::Bool(false)
        }
        "modalities" => value == &serde_json::json!(["text"]),
        "suffix" => value == "",
        _ => false,
    }
}

/// A path as errors write it: `a[0].b`.
fn readable(path: &str) -> String {
    let keys = path.split('.').filter(|key| *key != "?");
    keys.fold(String::new(), |path, key| match key.parse::<usize>() {
        Ok(i) => format!("{path}[{i}]"),
        Err(_) if path.is_empty() => key.into(),
        Err(_) => format!("{path}.{key}"),
    })
}

/// The value at a path as `serde_ignored` writes it: `a.0.b`, with `?` for an
/// option.
fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    let keys = path.split('.').filter(|key| *key != "?");
    keys.fold(value, |value, key| match value {
        Value::Array(all) => key
            .parse()
            .ok()
            .and_then(|i: usize| all.get(i))
            .unwrap_or(&Value::Null),
        other => &other[key],
    })
}

fn wrong(e: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = e.path().to_string();
    let says = e.into_inner().to_string();
    let missing = says
        .strip_prefix("missing field `")
        .and_then(|s| s.strip_suffix('`'));
    match (path.as_str(), missing) {
        (".", Some(field)) => {
            ApiError::field(field, format!("{field} is missing")).code("missing_field")
        }
        (".", None) => ApiError::bad(says),
        _ => {
            let says = in_words(&says);
            ApiError::field(&path, format!("{path}: {says}")).code("invalid_type")
        }
    }
}

/// What serde says was expected, in JSON's words instead of Rust's.
fn in_words(says: &str) -> String {
    let Some((found, expected)) = says.rsplit_once("expected ") else {
        return says.into();
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a map" => "an object",
        "a sequence" => "an array",
        other => other,
    };
    format!("{found}expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn what_was_expected_is_said_in_words() {
        for (says, words) in [
            (
                "invalid value: integer `-3`, expected usize",
                "invalid value: integer `-3`, expected a whole number that is not negative",
            ),
            (
                "invalid type: string \"expected u8\", expected f32",
                "invalid type: string \"expected u8\", expected a number",
            ),
            (
                "invalid type: null, expected a sequence",
                "invalid type: null, expected an array",
            ),
            ("data did not match", "data did not match"),
        ] {
            assert_eq!(in_words(says), words);
        }
    }
}

//! What is wrong with a value, in a client's words: no type of ours is named.

use super::left;
use super::strict::Wrong;
use crate::types::ApiError;
use serde_json::error::Category;

/// Characters of a value or a path that a sentence repeats.
const SHOWN: usize = 120;

/// A field that no type reads.
pub(super) fn unknown(path: &str) -> ApiError {
    let path = &*shown(path);
    let in_text = path.starts_with("messages[") || path.starts_with("input[");
    if in_text && left::is_no_text(path) {
        let says = format!("{path} is no text, and the model that is served reads text alone");
        return ApiError::field(path, says).code("unsupported_content");
    }
    match left::is_known_elsewhere(path) {
        true => ApiError::unsupported(path, " by this server"),
        false => ApiError::field(path, format!("{path} is no field of this request"))
            .code("unknown_parameter"),
    }
}

/// A value that is not what a type takes.
pub(super) fn wrong(at: Option<Wrong>, e: &serde_json::Error) -> ApiError {
    let path = match at {
        Some(wrong) if wrong.unknown => return unknown(&wrong.path),
        Some(wrong) => shown(&wrong.path),
        None => String::new(),
    };
    let says = e.to_string();
    let says = says.rfind(" at line ").map_or(&*says, |end| &says[..end]);
    let quoted = |before: &str| says.strip_prefix(before)?.strip_suffix('`');
    if let Some(field) = quoted("missing field `") {
        return match path.is_empty() {
            true => ApiError::field(field, format!("{field} is missing")).code("missing_field"),
            false => {
                ApiError::field(&path, format!("{path}: {field} is missing")).code("invalid_type")
            }
        };
    }
    if let Some(field) = quoted("duplicate field `") {
        let says = format!("{field} is given twice");
        return ApiError::field(&path, says).code("invalid_type");
    }
    let code = match e.classify() {
        Category::Data => "invalid_type",
        _ => "invalid_json",
    };
    ApiError::field(&path, format!("{path} {}", sentence(says))).code(code)
}

/// What serde says of a value, to follow its path.
fn sentence(says: &str) -> String {
    let rest = says
        .strip_prefix("invalid type: ")
        .or_else(|| says.strip_prefix("invalid value: "));
    if let Some((found, expected)) = rest.and_then(|r| r.rsplit_once(", expected ")) {
        return format!(
            "has to be {}, not {}",
            wanted(expected),
            found_in_words(found)
        );
    }
    if let Some(rest) = says.strip_prefix("unknown variant `") {
        if let Some((found, expected)) = rest.split_once("`, expected ") {
            let expected = expected.trim_start_matches("one of ").replace('`', "\"");
            return format!("has to be one of {expected}, not {:?}", shown(found));
        }
    }
    match says {
        "number out of range" => "is a number that is too large".into(),
        "recursion limit exceeded" => "is nested more deeply than this server reads".into(),
        _ => format!("is wrong: {}", shown(says)),
    }
}

/// What was expected, in JSON's words.
fn wanted(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a map" => "an object",
        "a sequence" => "an array",
        "string or map" | "a borrowed string" => "a string",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// What was found, in JSON's words.
fn found_in_words(found: &str) -> String {
    let number = |kind: &str| found.strip_prefix(kind)?.strip_suffix('`');
    let plain = ["integer `", "floating point `", "boolean `"];
    if let Some(value) = plain.iter().find_map(|kind| number(kind)) {
        return shown(value);
    }
    match found {
        "map" => "an object".into(),
        "sequence" => "an array".into(),
        "unit value" => "null".into(),
        _ => shown(found.strip_prefix("string ").unwrap_or(found)),
    }
}

/// The beginning of a text that may be long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn what_is_wrong_is_said_in_json_words() {
        for (says, words) in [
            (
                "invalid value: integer `-3`, expected usize",
                "has to be a whole number that is not negative, not -3",
            ),
            (
                "invalid type: string \"expected u8\", expected f32",
                "has to be a number, not \"expected u8\"",
            ),
            (
                "invalid type: null, expected a sequence",
                "has to be an array, not null",
            ),
            (
                "invalid type: sequence, expected struct ChatMessage",
                "has to be an object, not an array",
            ),
            (
                "unknown variant `x`, expected one of `a`, `b`",
                "has to be one of \"a\", \"b\", not \"x\"",
            ),
            ("lone surrogate", "is wrong: lone surrogate"),
        ] {
            assert_eq!(sentence(says), words);
        }
        let long = format!("invalid type: string {:?}, expected f32", "é".repeat(500));
        assert!(sentence(&long).len() < 400);
    }
}

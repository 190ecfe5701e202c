//! What of a body may be left unread, since it changes nothing here.

use super::strict::{Path, Unread};
use serde_json::Value;

/// Fields that clients send as a matter of course, as they name a user or a tier
/// of service. They are skipped whatever they hold.
const HARMLESS: &[&str] = &[
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Fields that are not served, with the values that ask for nothing.
const OFF: &[(&str, &[&str])] = &[
    ("add_generation_prompt", &["true"]),
    ("background", &["false"]),
    ("cache_prompt", &["true"]),
    ("continue_final_message", &["false"]),
    ("echo", &["false"]),
    ("function_call", &["\"none\""]),
    ("functions", &["[]"]),
    ("include_stop_str_in_output", &["false"]),
    ("length_penalty", &["1"]),
    ("min_tokens", &["0"]),
    ("mirostat", &["0"]),
    ("modalities", &["[\"text\"]"]),
    ("skip_special_tokens", &["true"]),
    ("spaces_between_special_tokens", &["true"]),
    ("store", &["false"]),
    ("suffix", &["\"\""]),
    ("tfs_z", &["1"]),
    ("truncation", &["\"disabled\""]),
    ("typical_p", &["1"]),
    ("use_beam_search", &["false"]),
];

/// Fields that OpenAI or other servers know and this one does not serve.
const UNSUPPORTED: &[&str] = &[
    "audio",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "moderation",
    "prediction",
    "reasoning_effort",
    "verbosity",
    "web_search_options",
];

/// What servers say of an assistant's message or clients note in messages. It
/// comes back with the conversation, and is no part of what was said.
const OF_MESSAGES: &[&str] = &[
    "annotations",
    "cache_control",
    "extra_content",
    "id",
    "index",
    "parsed",
    "parsed_arguments",
    "provider_specific_fields",
    "reasoning_details",
    "refusal",
    "thinking_blocks",
];

/// What parts of messages hold that are not text.
const NO_TEXT: &[&str] = &[
    "file",
    "file_data",
    "file_id",
    "file_url",
    "image_url",
    "input_audio",
    "video_url",
];

/// Whether a path leads to what is not text.
pub(super) fn is_no_text(path: &str) -> bool {
    path.rsplit_once("].")
        .is_some_and(|(_, last)| NO_TEXT.contains(&last))
}

/// Whether a field of the body is skipped without being looked at.
pub(super) fn is_harmless(key: &str) -> bool {
    HARMLESS.contains(&key)
}

/// Whether other servers have a field of that name.
pub(super) fn is_known_elsewhere(key: &str) -> bool {
    UNSUPPORTED.contains(&key) || OFF.iter().any(|off| off.0 == key)
}

/// Whether a field of the body that no type reads asks for nothing.
pub(super) fn asks_nothing(key: &str, json: &str) -> bool {
    /// No value of `OFF` is longer, with spaces in it.
    const LONGEST: usize = 64;
    if json == "null" {
        return true;
    }
    let Some((_, values)) = OFF.iter().find(|off| off.0 == key) else {
        return false;
    };
    let read = |json| serde_json::from_str::<Value>(json).ok();
    let same = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    };
    let given = (json.len() <= LONGEST).then(|| read(json)).flatten();
    let mut values = values.iter().filter_map(|v| read(v));
    given.is_some_and(|given| values.any(|v| same(&v, &given)))
}

/// Whether a value within a field may be left unread.
pub(super) fn may_be_left(path: &Path, unread: Unread) -> bool {
    if unread == Unread::Null {
        return true;
    }
    match (path.first(), path.last()) {
        ("messages", "images") => unread == Unread::Empty,
        ("input", "status" | "logprobs" | "phase") => true,
        ("messages" | "input", last) => OF_MESSAGES.contains(&last),
        // Only forced calls always fit the schema.
        ("tools", "strict") => matches!(unread, Unread::Bool(_)),
        ("tools", "cache_control") => true,
        ("stream_options", "include_obfuscation" | "continuous_usage_stats") => {
            unread == Unread::Bool(false)
        }
        _ => false,
    }
}

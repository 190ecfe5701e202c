//! The normalizers and pre-tokenizers of a tokenizer.json, step by step.
//!
//! `tokenizers` does the work of each step. What is done here is to ask before
//! every step how long the text may become, and to stop regular expressions
//! that do not come to an end.

use std::cell::RefCell;
use std::sync::Arc;

use base64::Engine;
use fancy_regex::{Regex, RegexBuilder};
use serde::{de, Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::tokenizer::pattern::Pattern;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, Offsets,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior,
};

use crate::limits::{beginning, Deadline, Small};

/// Steps in a pipeline; real ones have up to ten.
pub(crate) const MAX_STEPS: usize = 32;
/// Bytes of a regular expression.
const MAX_PATTERN: usize = 16 << 10;
/// Bytes of a compiled regular expression.
pub(crate) const MAX_COMPILED: usize = 4 << 20;
/// How many times as long a text may become, and what is always allowed.
const MAX_GROWTH: usize = 40;
const ALWAYS: usize = 1 << 16;

type Fallible<T> = tokenizers::Result<T>;

thread_local! {
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What `encode` returns, or the message of a normalizer that failed within it:
/// `tokenizers` goes on then with the text as it is.
pub(crate) fn strictly<T>(encode: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
    FAILURE.take();
    let result = encode();
    match FAILURE.take() {
        Some(message) => Err(message.into()),
        None => result,
    }
}

/// A regular expression or text to look for.
pub(crate) struct Search(Regex);

impl Search {
    /// Of `{"String": ...}` or `{"Regex": ...}`.
    fn new(pattern: &Value) -> Result<Search, String> {
        let regex = match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
            (Some(text), _) => fancy_regex::escape(text),
            (None, Some(regex)) => regex.into(),
            (None, None) => return Err(format!("{pattern} is no pattern")),
        };
        if regex.len() > MAX_PATTERN {
            let len = regex.len();
            return Err(format!(
                "a pattern has {len} bytes, more than {MAX_PATTERN}"
            ));
        }
        let built = RegexBuilder::new(&regex)
            .delegate_size_limit(MAX_COMPILED)
            .build();
        let built = built.map_err(|e| format!("the pattern {:?}: {e}", beginning(&regex)))?;
        Ok(Search(built))
    }
}

/// A search that has to end in time, and may find so many.
struct Bounded<'a> {
    search: &'a Search,
    until: Deadline,
    most: usize,
}

impl Pattern for Bounded<'_> {
    fn find_matches(&self, inside: &str) -> Fallible<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut done, mut count) = (0, 0);
        let mut parts = Vec::new();
        for found in self.search.0.find_iter(inside) {
            let found = found?;
            count += 1;
            if count > self.most {
                return Err("the normalizer of tokenizer.json makes it too long".into());
            }
            if self.until.is_over() {
                let pattern = beginning(self.search.0.as_str());
                return Err(
                    format!("the pattern {pattern:?} of tokenizer.json takes too long").into(),
                );
            }
            if done < found.start() {
                parts.push(((done, found.start()), false));
            }
            parts.push(((found.start(), found.end()), true));
            done = found.end();
        }
        if done < inside.len() {
            parts.push(((done, inside.len()), false));
        }
        Ok(parts)
    }
}

/// All steps of a normalizer.
#[derive(Clone)]
pub(crate) struct Normalizers(Arc<Vec<Change>>);

enum Change {
    Replace(Search, String),
    /// A step, how many bytes one may become, and how many come once.
    Other(NormalizerWrapper, usize, usize),
}

impl<'de> Deserialize<'de> for Normalizers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Small(value) = Small::deserialize(deserializer)?;
        Normalizers::new(&value).map_err(de::Error::custom)
    }
}

impl Normalizers {
    /// Of the part of tokenizer.json.
    pub fn new(value: &Value) -> Result<Normalizers, String> {
        let steps = flat(value, "normalizers")?;
        let steps: Result<_, String> = steps.into_iter().map(change).collect();
        Ok(Normalizers(Arc::new(steps?)))
    }
}

fn change(step: &Value) -> Result<Change, String> {
    let kind = step["type"].as_str().unwrap_or_default();
    let text = |name: &str| step[name].as_str().unwrap_or_default();
    if kind == "Replace" {
        let content = step["content"].as_str();
        let content = content.ok_or("a Replace has no content")?;
        return Ok(Change::Replace(
            Search::new(&step["pattern"])?,
            content.into(),
        ));
    }
    let (times, once) = match kind {
        "Prepend" => (1, text("prepend").len()),
        "Precompiled" => (longest_replacement(text("precompiled_charsmap"))?, 0),
        // The worst of Unicode is one character that becomes 18.
        "NFKC" | "NFKD" => (12, 0),
        _ => (4, 0),
    };
    let step = NormalizerWrapper::deserialize(step);
    let step = step.map_err(|e| format!("the normalizer {kind:?}: {e}"))?;
    Ok(Change::Other(step, times, once))
}

/// Of SentencePiece's compiled rules, how long the longest replacement is.
fn longest_replacement(base64: &str) -> Result<usize, String> {
    let broken = || "the precompiled_charsmap is damaged".to_string();
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
    let bytes = bytes.map_err(|_| broken())?;
    let (size, rest) = bytes.split_first_chunk().ok_or_else(broken)?;
    let texts = rest.get(u32::from_le_bytes(*size) as usize..);
    let texts = texts.ok_or_else(broken)?;
    let longest = texts.split(|&b| b == 0).map(<[u8]>::len).max();
    Ok(longest.unwrap_or(0).max(1))
}

impl Normalizer for Normalizers {
    fn normalize(&self, text: &mut NormalizedString) -> Fallible<()> {
        self.run(text).inspect_err(|e| {
            FAILURE.set(Some(e.to_string()));
        })
    }
}

impl Normalizers {
    fn run(&self, text: &mut NormalizedString) -> Fallible<()> {
        let start = text.get().len();
        let room = (start * MAX_GROWTH).max(ALWAYS);
        let until = Deadline::new(start);
        for step in self.0.iter() {
            let now = text.get().len();
            match step {
                Change::Replace(search, content) => {
                    let most = room.saturating_sub(now) / content.len().max(1);
                    let most = if content.is_empty() { usize::MAX } else { most };
                    let pattern = Bounded {
                        search,
                        until,
                        most,
                    };
                    text.replace(pattern, content)?;
                }
                Change::Other(step, times, once) => {
                    if now.saturating_mul(*times).saturating_add(*once) > room {
                        return Err("the normalizer of tokenizer.json may make it too long".into());
                    }
                    step.normalize(text)?;
                }
            }
        }
        Ok(())
    }
}

/// All steps of a pre-tokenizer.
#[derive(Clone)]
pub(crate) struct PreTokenizers(Arc<Vec<Cut>>);

enum Cut {
    Split {
        search: Search,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    Other(PreTokenizerWrapper),
}

impl<'de> Deserialize<'de> for PreTokenizers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Small(value) = Small::deserialize(deserializer)?;
        let steps = flat(&value, "pretokenizers").map_err(de::Error::custom)?;
        // Each of these makes every word longer.
        for (kind, most) in [("ByteLevel", 2), ("Metaspace", 4)] {
            if steps.iter().filter(|step| step["type"] == kind).count() > most {
                return Err(de::Error::custom(format!(
                    "its pre-tokenizer has {kind} more than {most} times"
                )));
            }
        }
        let steps: Result<_, String> = steps.into_iter().map(cut).collect();
        Ok(PreTokenizers(Arc::new(steps.map_err(de::Error::custom)?)))
    }
}

fn cut(step: &Value) -> Result<Cut, String> {
    let kind = step["type"].as_str().unwrap_or_default();
    let failed = |e: serde_json::Error| format!("the pre-tokenizer {kind:?}: {e}");
    if kind == "Split" {
        return Ok(Cut::Split {
            search: Search::new(&step["pattern"])?,
            behavior: Deserialize::deserialize(&step["behavior"]).map_err(failed)?,
            invert: Deserialize::deserialize(&step["invert"]).map_err(failed)?,
        });
    }
    let step = PreTokenizerWrapper::deserialize(step).map_err(failed)?;
    Ok(Cut::Other(step))
}

impl PreTokenizer for PreTokenizers {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Fallible<()> {
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let until = Deadline::new(splits.iter().map(|(text, ..)| text.len()).sum());
        for step in self.0.iter() {
            match step {
                Cut::Split {
                    search,
                    behavior,
                    invert,
                } => text.split(|_, part| {
                    let most = usize::MAX;
                    let pattern = Bounded {
                        search,
                        until,
                        most,
                    };
                    if *invert {
                        part.split(Inverted(pattern), *behavior)
                    } else {
                        part.split(pattern, *behavior)
                    }
                })?,
                Cut::Other(step) => step.pre_tokenize(text)?,
            }
        }
        Ok(())
    }
}

struct Inverted<'a>(Bounded<'a>);

impl Pattern for Inverted<'_> {
    fn find_matches(&self, inside: &str) -> Fallible<Vec<(Offsets, bool)>> {
        let parts = self.0.find_matches(inside)?;
        Ok(parts.into_iter().map(|(at, found)| (at, !found)).collect())
    }
}

/// The steps of sequences within sequences, in order.
fn flat<'a>(value: &'a Value, list: &str) -> Result<Vec<&'a Value>, String> {
    let mut steps = Vec::new();
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        if value["type"] == "Sequence" {
            let inner = value[list].as_array();
            let inner = inner.ok_or_else(|| format!("a Sequence has no list of {list}"))?;
            rest.extend(inner.iter().rev());
        } else {
            steps.push(value);
        }
        if steps.len() + rest.len() > MAX_STEPS {
            return Err(format!("it has more than {MAX_STEPS} {list}"));
        }
    }
    Ok(steps)
}

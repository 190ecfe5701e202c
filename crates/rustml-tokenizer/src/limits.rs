//! What a tokenizer's files may cost.
//!
//! They come from strangers. Whatever takes more than its share of time or
//! memory is refused, before the work is done: sizes of files, numbers and
//! lengths of tokens, nesting, and how much longer a text may become.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{bad_vocabulary, Result};

/// Bytes of a file. The largest tokenizer.json known has 40 MB.
pub(crate) const MAX_FILE: u64 = 128 << 20;
/// Bytes of a token. The longest known, runs of spaces, have a kilobyte.
pub(crate) const MAX_TOKEN: usize = 2048;
/// Bytes of a token that is found before everything else.
const MAX_ADDED: usize = 1024;
/// Bytes of all those tokens.
const MAX_ADDED_TOTAL: usize = 4 << 20;
/// Few tokens are found by a table whose making takes the square of their
/// lengths (`aho-corasick` does so up to a hundred).
const FEW_ADDED: usize = 100;
const MAX_FEW_SQUARES: usize = 1 << 20;
/// Bytes of a piece of Unigram, which looks at all beginnings of a piece.
pub(crate) const MAX_PIECE: usize = 256;
/// Values in the model of a tokenizer.json; four times as many as Gemma 3 has.
const MAX_MODEL_VALUES: usize = 1 << 23;
/// A merge names two tokens.
const MAX_MODEL_TEXT: usize = 2 * MAX_TOKEN + 1;
/// Values and nesting in any other part of a tokenizer.json.
const MAX_PART_VALUES: usize = 1 << 14;
const MAX_PART_DEPTH: usize = 12;

/// Whether tokens that are found before everything else are few and short
/// enough. Each is a text and a group; groups are looked for separately.
pub(crate) fn check_added<'a>(tokens: impl Iterator<Item = (&'a str, bool)>) -> Result<()> {
    let mut total = 0;
    // Of each group: how many, and the squares of their lengths.
    let mut groups = [(0, 0); 2];
    for (text, group) in tokens {
        let len = text.len();
        if len > MAX_ADDED {
            return bad_vocabulary(format!(
                "the added token {:?}... has {len} bytes, more than {MAX_ADDED}",
                beginning(text)
            ));
        }
        total += len;
        let (count, squares) = &mut groups[usize::from(group)];
        *count += 1;
        *squares += len * len;
    }
    let slow = |&(count, squares): &(usize, usize)| count <= FEW_ADDED && squares > MAX_FEW_SQUARES;
    if total > MAX_ADDED_TOTAL || groups.iter().any(slow) {
        return bad_vocabulary(format!(
            "its control and added tokens are too long together ({total} bytes)"
        ));
    }
    Ok(())
}

/// The first characters of a text that is too long to show.
pub(crate) fn beginning(text: &str) -> String {
    text.chars().take(20).collect()
}

/// When work on a text has to be done: 20 microseconds a byte and two seconds,
/// which is twenty times what the slowest pipelines of real models take.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// For a text of so many bytes, from now.
    pub fn new(bytes: usize) -> Deadline {
        let time = Duration::from_secs(2) + Duration::from_micros(20) * bytes as u32;
        Deadline(Instant::now() + time)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        Instant::now() > self.0
    }
}

/// A part of a tokenizer.json that is small by its nature.
pub(crate) struct Small(pub Value);

impl Default for Small {
    fn default() -> Small {
        Small(Value::Null)
    }
}

impl<'de> Deserialize<'de> for Small {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Small, D::Error> {
        let left = Cell::new(MAX_PART_VALUES);
        let seed = Part {
            left: &left,
            depth: 0,
        };
        Ok(Small(seed.deserialize(deserializer)?))
    }
}

/// Counts values while they are read.
#[derive(Clone, Copy)]
struct Part<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Part<'_> {
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_PART_DEPTH {
            return Err(E::custom(format!(
                "this part is nested more than {MAX_PART_DEPTH} deep"
            )));
        }
        Ok(Part {
            depth: self.depth + 1,
            ..self
        })
    }
}

fn take<E: de::Error>(left: &Cell<usize>, what: &str) -> Result<(), E> {
    left.set(
        left.get()
            .checked_sub(1)
            .ok_or_else(|| E::custom(format!("{what} has too many values")))?,
    );
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        take(self.left, "this part")?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Value, S::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(list.into())
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let inner = self.inner()?;
        let mut object = serde_json::Map::new();
        while let Some(key) = map.next_key()? {
            object.insert(key, map.next_value_seed(inner)?);
        }
        Ok(object.into())
    }
}

/// The model of a tokenizer.json, of which this only sees that it has not too
/// many values, and no text longer than a merge can be.
pub(crate) struct Counted;

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counted, D::Error> {
        Count(&Cell::new(MAX_MODEL_VALUES)).deserialize(deserializer)?;
        Ok(Counted)
    }
}

#[derive(Clone, Copy)]
struct Count<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        take(self.0, "the model")?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text.len() > MAX_MODEL_TEXT {
            return Err(E::custom(format!(
                "the model has a token of {} bytes, which begins {:?}; {MAX_TOKEN} are the most",
                text.len(),
                beginning(text)
            )));
        }
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while map.next_key_seed(self)?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

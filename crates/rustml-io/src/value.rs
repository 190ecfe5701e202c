//! Metadata: the typed key-value pairs of a GGUF file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use crate::{Error, Result, Strings};

/// One value of GGUF metadata.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of metadata values, all of one type: a vocabulary of 262 144
/// tokens is one [`Strings`], its scores one `Vec<f32>`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
    Nested(Vec<Array>),
}

/// Runs `$body` with `$v` bound to the payload, whatever its type.
macro_rules! each {
    ($enum:ident, $value:expr, $v:ident => $body:expr; $($special:tt)*) => {
        match $value {
            $enum::U8($v) => $body, $enum::I8($v) => $body,
            $enum::U16($v) => $body, $enum::I16($v) => $body,
            $enum::U32($v) => $body, $enum::I32($v) => $body,
            $enum::U64($v) => $body, $enum::I64($v) => $body,
            $enum::F32($v) => $body, $enum::F64($v) => $body,
            $enum::Bool($v) => $body,
            $($special)*
        }
    };
}

impl Value {
    /// The type's name, for messages: `u32`, `string`, `array of f32`...
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(array) => array.type_name(),
        }
    }

    /// The value as an integer, if it is one of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl fmt::Display for Value {
    /// Scalars as such, strings quoted and escaped, arrays cut after a few
    /// elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        each!(Value, self, v => write!(f, "{v}");
            Value::String(v) => write!(f, "{v:?}"),
            Value::Array(v) => write!(f, "{v}"),
        )
    }
}

impl Array {
    /// Number of elements (of the outer array, where nested).
    pub fn len(&self) -> usize {
        each!(Array, self, v => v.len();
            Array::String(v) => v.len(),
            Array::Nested(v) => v.len(),
        )
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type's name, for messages: `array of f32`...
    pub fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "array of u8",
            Array::I8(_) => "array of i8",
            Array::U16(_) => "array of u16",
            Array::I16(_) => "array of i16",
            Array::U32(_) => "array of u32",
            Array::I32(_) => "array of i32",
            Array::U64(_) => "array of u64",
            Array::I64(_) => "array of i64",
            Array::F32(_) => "array of f32",
            Array::F64(_) => "array of f64",
            Array::Bool(_) => "array of bool",
            Array::String(_) => "array of strings",
            Array::Nested(_) => "array of arrays",
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        fn list<T>(
            f: &mut fmt::Formatter<'_>,
            items: impl ExactSizeIterator<Item = T> + Clone,
            show: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
        ) -> fmt::Result {
            f.write_str("[")?;
            for (i, item) in items.clone().take(SHOWN).enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                show(f, item)?;
            }
            match items.len().saturating_sub(SHOWN) {
                0 => f.write_str("]"),
                more => write!(f, ", ... {more} more]"),
            }
        }
        each!(Array, self, v => list(f, v.iter(), |f, item| write!(f, "{item}"));
            Array::String(v) => list(f, v.iter(), |f, item| write!(f, "{item:?}")),
            Array::Nested(v) => list(f, v.iter(), |f, item| write!(f, "{item}")),
        )
    }
}

macro_rules! into_value {
    ($($type:ty => $name:ident),*) => { $(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$name(value)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(value: Vec<$type>) -> Value {
                Value::Array(Array::$name(value))
            }
        }
    )* };
}

into_value!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64,
    i64 => I64, f32 => F32, f64 => F64, bool => Bool);

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::String(value)
    }
}

impl From<Vec<String>> for Value {
    fn from(value: Vec<String>) -> Value {
        Value::Array(Array::String(value.iter().collect()))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::String(value.into())
    }
}

impl From<Array> for Value {
    fn from(value: Array) -> Value {
        Value::Array(value)
    }
}

/// Keys and values in the order of the file; every key occurs once.
///
/// The typed getters return `Ok(None)` for a missing key and an error for one
/// that is there with a type, or a number, that does not fit. Writers differ
/// in the width they choose for integers, so any width is accepted.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
    index: HashMap<String, usize>,
    replaced: HashMap<String, usize>,
}

impl Metadata {
    /// No pairs.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Sets `key`, in place if it exists, and returns what it was.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.index.get(&key) {
            Some(&at) => {
                self.replaced.remove(&key);
                Some(std::mem::replace(&mut self.pairs[at].1, value))
            }
            None => {
                self.index.insert(key.clone(), self.pairs.len());
                self.pairs.push((key, value));
                None
            }
        }
    }

    pub(crate) fn note_replaced(&mut self, key: &str, strings: usize) {
        self.replaced.insert(key.into(), strings);
    }

    /// How many strings of `key` were no valid UTF-8 and were read with
    /// U+FFFD in place of the invalid bytes.
    ///
    /// Vocabularies made by older converters hold tokens that are pieces of
    /// characters. Refusing the whole model for them would help nobody, so
    /// they are readable, and who cares can ask here.
    pub fn replaced(&self, key: &str) -> usize {
        self.replaced.get(key).copied().unwrap_or(0)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.pairs[at].1)
    }

    /// All pairs in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        convert(value).map(Some).ok_or_else(|| {
            let shown = match value {
                Value::String(_) | Value::Array(_) => String::new(),
                number => format!(" {number}"),
            };
            Error::Metadata {
                key: key.into(),
                found: format!("{}{shown}", value.type_name()),
                expected,
            }
        })
    }

    /// A non-negative integer of any width.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer from 0 to 2^64-1", |v| {
            v.as_integer()?.try_into().ok()
        })
    }

    /// A non-negative integer of any width that fits a `u32`, e.g. a token id.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 2^32-1", |v| {
            v.as_integer()?.try_into().ok()
        })
    }

    /// A non-negative integer of any width that fits a `usize`.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a non-negative integer", |v| {
            v.as_integer()?.try_into().ok()
        })
    }

    /// A floating point number of either width, or an integer, which some
    /// converters write for round numbers.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a number in the range of f32", |v| match *v {
            Value::F32(v) => Some(v),
            Value::F64(v) => narrow(v),
            _ => v.as_integer().map(|v| v as f32),
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| match *v {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| match v {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::String(v)) => Some(v),
            _ => None,
        })
    }

    /// An array of truth values.
    pub fn bools(&self, key: &str) -> Result<Option<&[bool]>> {
        self.typed(key, "an array of bools", |v| match v {
            Value::Array(Array::Bool(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of floating point numbers; borrowed if stored as `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>> {
        self.typed(
            key,
            "an array of numbers in the range of f32",
            |v| match v {
                Value::Array(Array::F32(v)) => Some(Cow::Borrowed(v.as_slice())),
                Value::Array(Array::F64(v)) => v.iter().map(|&v| narrow(v)).collect(),
                _ => None,
            },
        )
    }

    /// An array of integers of any width whose values all fit an `i32`;
    /// borrowed if stored as `i32`.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>> {
        fn all<T: Copy + TryInto<i32>>(values: &[T]) -> Option<Cow<'static, [i32]>> {
            values.iter().map(|&v| v.try_into().ok()).collect()
        }
        self.typed(
            key,
            "an array of integers from -2^31 to 2^31-1",
            |v| match v {
                Value::Array(Array::I32(v)) => Some(Cow::Borrowed(v.as_slice())),
                Value::Array(Array::U8(v)) => all(v),
                Value::Array(Array::I8(v)) => all(v),
                Value::Array(Array::U16(v)) => all(v),
                Value::Array(Array::I16(v)) => all(v),
                Value::Array(Array::U32(v)) => all(v),
                Value::Array(Array::U64(v)) => all(v),
                Value::Array(Array::I64(v)) => all(v),
                _ => None,
            },
        )
    }
}

/// `v` as `f32`, unless that turns a finite number into an infinite one.
fn narrow(v: f64) -> Option<f32> {
    let narrow = v as f32;
    (narrow.is_finite() || !v.is_finite()).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut m = Metadata::new();
        m.insert("a.u8", 7u8);
        m.insert("a.i64", -3i64);
        m.insert("a.f64", 0.5f64);
        m.insert("a.str", "text");
        m.insert("a.ids", vec![1u64, 2, 3]);
        m.insert("a.big", vec![u32::MAX]);
        m.insert("a.names", vec!["x".to_string(), "y".to_string()]);
        m.insert("a.yes", true);
        m.insert("a.flags", vec![true, false]);
        m.insert("a.huge", f64::MAX);
        m.insert("a.scores", vec![1.5f64, -2.0]);
        m
    }

    #[test]
    fn getters_convert_what_fits() {
        let m = sample();
        assert_eq!(m.u64("a.u8").unwrap(), Some(7));
        assert_eq!(m.u32("a.u8").unwrap(), Some(7));
        assert_eq!(m.usize("a.none").unwrap(), None);
        assert_eq!(m.f32("a.f64").unwrap(), Some(0.5));
        assert_eq!(m.f32("a.i64").unwrap(), Some(-3.0));
        assert_eq!(m.str("a.str").unwrap(), Some("text"));
        assert_eq!(m.bool("a.yes").unwrap(), Some(true));
        assert_eq!(m.bools("a.flags").unwrap(), Some(&[true, false][..]));
        let names = m.strings("a.names").unwrap().unwrap();
        assert_eq!(names.iter().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(m.i32s("a.ids").unwrap().unwrap(), vec![1, 2, 3]);
        assert_eq!(m.f32s("a.scores").unwrap().unwrap(), vec![1.5, -2.0]);
        assert_eq!(m.len(), 11);
        assert_eq!(m.iter().next().unwrap().0, "a.u8");
    }

    #[test]
    fn getters_name_the_key_and_both_types() {
        let m = sample();
        let text = |r: Result<_>| r.map(|_: Option<u64>| ()).unwrap_err().to_string();
        assert_eq!(
            text(m.u64("a.i64")),
            "metadata key `a.i64` is i64 -3, but an integer from 0 to 2^64-1 is needed"
        );
        assert_eq!(
            text(m.u64("a.names")),
            "metadata key `a.names` is array of strings, but an integer from 0 to 2^64-1 is needed"
        );
        assert!(m.f32("a.huge").is_err());
        assert!(m.f32("a.str").is_err());
        assert!(m.bool("a.u8").is_err());
        assert!(m.str("a.u8").is_err());
        assert!(m.i32s("a.big").is_err());
        assert!(m.i32s("a.scores").is_err());
        assert!(m.f32s("a.ids").is_err());
        assert!(m.strings("a.str").is_err());
        assert!(m.bools("a.ids").is_err());
    }

    #[test]
    fn insert_replaces_in_place() {
        let mut m = sample();
        assert_eq!(m.insert("a.u8", 9u8), Some(Value::U8(7)));
        assert_eq!(m.iter().next(), Some(("a.u8", &Value::U8(9))));
        assert_eq!(m.len(), 11);
    }

    #[test]
    fn values_display_briefly() {
        assert_eq!(Value::from("a\n").to_string(), r#""a\n""#);
        let numbers: Vec<u32> = (0..10).collect();
        assert_eq!(
            Value::from(numbers).to_string(),
            "[0, 1, 2, 3, 4, 5, ... 4 more]"
        );
        let nested = Array::Nested(vec![
            Array::I8(vec![1]),
            Array::String(["x"].iter().collect()),
        ]);
        assert_eq!(nested.to_string(), r#"[[1], ["x"]]"#);
        assert_eq!(nested.len(), 2);
    }
}

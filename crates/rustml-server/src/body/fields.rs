//! The fields of a body, each of which is read by some type or refused.

use super::{left, strict, words};
use crate::types::ApiError;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::fmt;

/// Fields that a body may have; no endpoint has half as many.
const MAX_FIELDS: usize = 256;

/// The fields of a JSON object, of which nothing is unpacked yet.
pub(crate) struct Fields<'b> {
    all: Vec<(String, &'b RawValue)>,
    /// Names that types read so far have.
    known: Vec<&'static str>,
}

impl<'b> Fields<'b> {
    /// The fields of a body.
    pub fn parse(bytes: &'b [u8]) -> Result<Fields<'b>, ApiError> {
        let mut from = serde_json::Deserializer::from_slice(bytes);
        let refused = RefCell::new(None);
        let all = (&mut from).deserialize_map(Collect { refused: &refused });
        let all = all.and_then(|all| from.end().map(|()| all));
        match (all, refused.take()) {
            (Ok(all), _) => Ok(Fields {
                all,
                known: Vec::new(),
            }),
            (_, Some(refused)) => Err(refused),
            (Err(e), _) if e.is_data() => {
                Err(ApiError::bad("the body has to be a JSON object").code("invalid_json"))
            }
            (Err(e), _) => {
                let says = format!("the body is no JSON that can be read: {e}");
                Err(ApiError::bad(says).code("invalid_json"))
            }
        }
    }

    /// Reads those fields that `T` has.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let names = names::<T>();
        let mine = self.all.iter().filter(|f| names.contains(&f.0.as_str()));
        let mine = mine.map(|(key, value)| (key.as_str(), *value));
        let read = strict::read(MapDeserializer::new(mine), left::may_be_left);
        self.known.extend(names);
        read.map_err(|(at, e)| words::wrong(at, &e))
    }

    /// Everything has been read that is known; what is left is an error that
    /// names it, unless it asks for nothing.
    pub fn end(self) -> Result<(), ApiError> {
        let mut left = self.all.iter().filter(|(key, value)| {
            !self.known.contains(&key.as_str()) && !left::asks_nothing(key, value.get())
        });
        left.next()
            .map_or(Ok(()), |(key, _)| Err(words::unknown(key)))
    }
}

/// Takes an object apart, and leaves out what is harmless.
struct Collect<'r> {
    refused: &'r RefCell<Option<ApiError>>,
}

impl<'b> Visitor<'b> for Collect<'_> {
    type Value = Vec<(String, &'b RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let refuse = |e: ApiError| {
            *self.refused.borrow_mut() = Some(e);
            A::Error::custom("refused")
        };
        let mut all: Self::Value = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if left::is_harmless(&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if all.iter().any(|(known, _)| *known == key) {
                let key = words::shown(&key);
                let e = ApiError::field(&key, format!("{key} is given twice"));
                return Err(refuse(e.code("invalid_json")));
            }
            if all.len() == MAX_FIELDS {
                let says = format!("the body has more than {MAX_FIELDS} fields");
                return Err(refuse(ApiError::bad(says).code("too_many_fields")));
            }
            all.push((key, map.next_value()?));
        }
        Ok(all)
    }
}

/// The names of a struct's fields.
fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &[&str] = &[];
    let _ = T::deserialize(Ask(&mut names));
    names
}

/// Is asked for a struct, and keeps what it was asked for.
struct Ask<'n>(&'n mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("nothing is read"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

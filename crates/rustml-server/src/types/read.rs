//! How values are read that may be of several types, or say «off» in several ways.
//!
//! Serde's derived `untagged` and internally tagged enums copy what they read,
//! and let unknown fields in it pass unseen. These visitors do not.

use super::chat::{Content, ToolChoice, ToolMode};
use super::common::{ResponseFormat, Stop};
use super::completions::Prompt;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// A number of tokens that stands for no limit but the context's.
pub(crate) const NO_LIMIT: usize = usize::MAX;

/// A number of tokens; `-1` is as many as there is room for.
pub(super) fn limit<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    or_minus_one(d, NO_LIMIT)
}

/// A number that `-1` switches off, as 0 does.
pub(super) fn or_off<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    or_minus_one(d, 0)
}

fn or_minus_one<'de, D: Deserializer<'de>>(d: D, off: usize) -> Result<Option<usize>, D::Error> {
    let number = Option::<i64>::deserialize(d)?;
    let wrong = |n| {
        let n = de::Unexpected::Signed(n);
        D::Error::invalid_value(n, &"a whole number that is not negative, or -1")
    };
    number
        .map(|n| match n {
            -1 => Ok(off),
            n => usize::try_from(n).map_err(|_| wrong(n)),
        })
        .transpose()
}

/// Values that a JSON schema may have, those within others included. What a value
/// takes in memory is many times its text.
pub(crate) const MAX_VALUES: usize = 65_536;

/// A JSON value of bounded size.
pub(super) fn value<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    let left = Cell::new(MAX_VALUES);
    let read = de::DeserializeSeed::deserialize(Bounded(&left), d)?;
    Ok(Some(read).filter(|v| !v.is_null()))
}

/// A JSON value of bounded size that has to be there.
pub(super) fn some_value<'de, D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
    let missing = || D::Error::invalid_type(de::Unexpected::Unit, &"a JSON schema");
    value(d)?.ok_or_else(missing)
}

#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl<'de> de::DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        let too_many = || D::Error::custom(format!("more than {MAX_VALUES} values in it"));
        self.0.set(left.ok_or_else(too_many)?);
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            all.push(value);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = map.next_key()? {
            all.insert(key, map.next_value_seed(self)?);
        }
        Ok(all.into())
    }
}

/// Biases as they are written, in which a token may occur twice.
pub(super) fn biases<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Vec<(String, f32)>>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = Option<Vec<(String, f32)>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tokens and their biases")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(pair) = map.next_entry()? {
                all.push(pair);
            }
            Ok(Some(all))
        }
    }

    d.deserialize_any(Pairs)
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Content, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a list of text parts")
            }

            fn visit_str<E>(self, v: &str) -> Result<Content, E> {
                Ok(Content::Text(v.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Content, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Content::Parts)
            }
        }

        d.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Stop, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a list of strings")
            }

            fn visit_str<E>(self, v: &str) -> Result<Stop, E> {
                Ok(Stop::One(v.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Stop, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Stop::Any)
            }
        }

        d.deserialize_any(Read)
    }
}

const PROMPTS: &str = "a string, a list of strings, a list of tokens, or a list of lists of tokens";

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Prompt, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PROMPTS)
            }

            fn visit_str<E>(self, v: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(v.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let mut prompt = match seq.next_element()? {
                    None => return Ok(Prompt::Texts(Vec::new())),
                    Some(Item::Text(text)) => Prompt::Texts(vec![text]),
                    Some(Item::Token(id)) => Prompt::Tokens(vec![id]),
                    Some(Item::List(ids)) => Prompt::Lists(vec![ids]),
                };
                while let Some(item) = seq.next_element()? {
                    match (&mut prompt, item) {
                        (Prompt::Texts(all), Item::Text(text)) => all.push(text),
                        (Prompt::Tokens(all), Item::Token(id)) => all.push(id),
                        (Prompt::Lists(all), Item::List(ids)) => all.push(ids),
                        _ => {
                            let says = "a list that mixes strings, tokens and lists of tokens";
                            return Err(A::Error::custom(says));
                        }
                    }
                }
                Ok(prompt)
            }
        }

        d.deserialize_any(Read)
    }
}

/// A part of a prompt.
enum Item {
    Text(String),
    Token(u32),
    List(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Item, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token, or a list of tokens")
            }

            fn visit_str<E>(self, v: &str) -> Result<Item, E> {
                Ok(Item::Text(v.into()))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Item, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Unsigned(v), &self);
                u32::try_from(v).map(Item::Token).map_err(wrong)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Item, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Item::List)
            }
        }

        d.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<ToolChoice, D::Error> {
        struct Read;

        #[derive(serde::Deserialize)]
        struct Named {
            #[serde(rename = "type")]
            kind: String,
            function: super::chat::FunctionName,
        }

        impl<'de> Visitor<'de> for Read {
            type Value = ToolChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", \"auto\", \"required\", or {\"type\": \"function\", \"function\": {\"name\": ...}}")
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<ToolChoice, E> {
                ToolMode::deserialize(StrDeserializer::new(v)).map(ToolChoice::Mode)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ToolChoice, A::Error> {
                let named = Named::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ToolChoice::Named {
                    kind: named.kind,
                    function: named.function,
                })
            }
        }

        d.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for ResponseFormat {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<ResponseFormat, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(expecting = "an object such as {\"type\": \"json_object\"}")]
        struct Flat {
            #[serde(rename = "type")]
            kind: Kind,
            #[serde(default)]
            json_schema: Option<super::common::NamedSchema>,
            #[serde(default, deserialize_with = "value")]
            schema: Option<Value>,
        }

        #[derive(serde::Deserialize, Clone, Copy, PartialEq)]
        #[serde(rename_all = "snake_case")]
        enum Kind {
            Text,
            JsonObject,
            JsonSchema,
        }

        let flat = Flat::deserialize(d)?;
        match (flat.kind, flat.json_schema, flat.schema) {
            (Kind::Text, None, None) => Ok(ResponseFormat::Text),
            (Kind::JsonObject, None, schema) => Ok(ResponseFormat::JsonObject { schema }),
            (Kind::JsonSchema, Some(json_schema), None) => {
                Ok(ResponseFormat::JsonSchema { json_schema })
            }
            (Kind::JsonSchema, None, _) => Err(D::Error::missing_field("json_schema")),
            (_, Some(_), None) => Err(D::Error::custom(
                "json_schema is there, but type is not \"json_schema\"",
            )),
            (_, _, Some(_)) => Err(D::Error::custom(
                "schema is there, but type is not \"json_object\"",
            )),
        }
    }
}

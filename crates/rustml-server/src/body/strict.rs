//! A deserializer around another one, that lets nothing pass unseen.
//!
//! A field that no type reads is shown to a judge, which says whether it may be
//! left. Where a value is wrong, its path is known. A whole number may be written
//! as `100.0`, and no array stands for an object.
//!
//! Serde's derived `untagged` and internally tagged enums first copy their value,
//! and what is in the copy cannot be seen from here. So types of requests read
//! such values by visitors of their own (`types/read.rs`).

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, Visitor,
};
use std::cell::RefCell;
use std::fmt;

/// Where a value stands; written as `messages[0].content`.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// The field of the body that it is in.
    pub fn first(&self) -> &str {
        match self {
            Path::Root => "",
            Path::Key(Path::Root, key) => key,
            Path::Key(before, _) | Path::Index(before, _) => before.first(),
        }
    }

    /// The last key.
    pub fn last(&self) -> &str {
        match self {
            Path::Root => "",
            Path::Key(_, key) => key,
            Path::Index(before, _) => before.last(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(before, key) => write!(f, "{before}.{key}"),
            Path::Index(before, i) => write!(f, "{before}[{i}]"),
        }
    }
}

/// A value that no type reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unread {
    Null,
    Bool(bool),
    /// An empty string, array or object.
    Empty,
    Other,
}

/// Whether a value may be left unread.
pub(super) type Judge = fn(&Path, Unread) -> bool;

/// The first value that was wrong.
pub(super) struct Wrong {
    pub path: String,
    /// No type reads it.
    pub unknown: bool,
}

/// Reads all of a `T`.
///
/// # Errors
/// With the value that was wrong, unless it is the whole.
pub(super) fn read<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
    judge: Judge,
) -> Result<T, (Option<Wrong>, D::Error)> {
    let watch = Watch {
        judge,
        wrong: RefCell::new(None),
    };
    let at = At {
        path: Path::Root,
        watch: &watch,
    };
    let read = T::deserialize(Strict { inner: from, at });
    read.map_err(|e| (watch.wrong.take(), e))
}

struct Watch {
    judge: Judge,
    wrong: RefCell<Option<Wrong>>,
}

/// Where reading is.
#[derive(Clone, Copy)]
struct At<'a> {
    path: Path<'a>,
    watch: &'a Watch,
}

impl At<'_> {
    /// The value here is wrong, unless one within it is.
    fn wrong(&self, unknown: bool) {
        self.watch.wrong.borrow_mut().get_or_insert_with(|| Wrong {
            path: self.path.to_string(),
            unknown,
        });
    }
}

/// What is taken for what was asked for.
#[derive(Clone, Copy, PartialEq)]
enum Want {
    Any,
    /// `100.0` is 100.
    Whole,
    /// An array is none.
    Object,
}

struct Strict<'a, D> {
    inner: D,
    at: At<'a>,
}

impl<'a, D> Strict<'a, D> {
    fn visitor<V>(&self, inner: V, want: Want) -> Visiting<'a, V> {
        Visiting {
            inner,
            want,
            at: self.at,
        }
    }
}

macro_rules! as_asked {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visitor(visitor, Want::Any);
            self.inner.$method(visitor)
        }
    )*};
}

macro_rules! whole {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visitor(visitor, Want::Whole);
            self.inner.deserialize_any(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    as_asked! {
        deserialize_any deserialize_bool deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_option deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier
    }

    whole! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Want::Any);
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Want::Any);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Want::Any);
        self.inner.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Want::Any);
        self.inner.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, Want::Object);
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // Those of requests are words, in which nothing can be unknown.
        self.inner.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let unread = self.inner.deserialize_any(Look)?;
        if (self.at.watch.judge)(&self.at.path, unread) {
            return visitor.visit_unit();
        }
        self.at.wrong(true);
        Err(D::Error::custom("a field that nobody reads"))
    }
}

struct Visiting<'a, V> {
    inner: V,
    want: Want,
    at: At<'a>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visiting<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<V::Value, E> {
        self.inner.visit_bool(v)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<V::Value, E> {
        self.inner.visit_i64(v)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<V::Value, E> {
        self.inner.visit_u64(v)
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<V::Value, E> {
        /// Up to here every whole number is one in double precision.
        const EXACT: f64 = (1u64 << 53) as f64;
        match self.want == Want::Whole && v.fract() == 0.0 && v.abs() <= EXACT {
            true if v < 0.0 => self.inner.visit_i64(v as i64),
            true => self.inner.visit_u64(v as u64),
            false => self.inner.visit_f64(v),
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<V::Value, E> {
        self.inner.visit_str(v)
    }

    fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<V::Value, E> {
        self.inner.visit_borrowed_str(v)
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<V::Value, E> {
        self.inner.visit_string(v)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Strict { inner, at: self.at })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner
            .visit_newtype_struct(Strict { inner, at: self.at })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        if self.want == Want::Object {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let at = self.at;
        self.inner.visit_seq(Items { inner, at, next: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let (at, key) = (self.at, String::new());
        self.inner.visit_map(Entries { inner, at, key })
    }
}

struct Items<'a, A> {
    inner: A,
    at: At<'a>,
    next: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        inner: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let at = At {
            path: Path::Index(&self.at.path, self.next),
            watch: self.at.watch,
        };
        self.next += 1;
        let element = self.inner.next_element_seed(Seed { inner, at });
        element.inspect_err(|_| at.wrong(false))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

struct Entries<'a, A> {
    inner: A,
    at: At<'a>,
    key: String,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let Some(key) = self.inner.next_key()? else {
            return Ok(None);
        };
        self.key = key;
        seed.deserialize(self.key.as_str().into_deserializer())
            .map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, inner: S) -> Result<S::Value, A::Error> {
        let at = At {
            path: Path::Key(&self.at.path, &self.key),
            watch: self.at.watch,
        };
        let value = self.inner.next_value_seed(Seed { inner, at });
        value.inspect_err(|_| at.wrong(false))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

struct Seed<'a, S> {
    inner: S,
    at: At<'a>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Strict { inner, at: self.at })
    }
}

/// Reads a value to see what it is, and keeps nothing of it.
struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Unread;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Unread, E> {
        Ok(Unread::Bool(v))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unread, E> {
        Ok(Unread::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unread, E> {
        Ok(Unread::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unread, E> {
        Ok(Unread::Other)
    }

    fn visit_str<E>(self, v: &str) -> Result<Unread, E> {
        Ok(match v.is_empty() {
            true => Unread::Empty,
            false => Unread::Other,
        })
    }

    fn visit_unit<E>(self) -> Result<Unread, E> {
        Ok(Unread::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unread, A::Error> {
        let mut seen = Unread::Empty;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            seen = Unread::Other;
        }
        Ok(seen)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unread, A::Error> {
        let mut seen = Unread::Empty;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            seen = Unread::Other;
        }
        Ok(seen)
    }
}

//! The header of a safetensors file.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::cursor::Cursor;
use crate::error::{malformed, show, show_bare, Problem};
use crate::store::TensorInfo;
use crate::value::Metadata;
use crate::DType;

/// Bytes a header may take, as in the `safetensors` crate.
const MAX_HEADER: usize = 100_000_000;

/// Dimensions a tensor may have. The format has no limit; models use 5.
const MAX_DIMS: usize = 16;

/// What the header of a safetensors file says.
#[derive(Clone, Debug)]
pub struct SafetensorsHeader {
    /// The `__metadata__` map, all strings.
    pub metadata: Metadata,
    /// The tensors in the order of their data, which lies inside the file.
    pub tensors: Vec<TensorInfo>,
}

/// Whether a file that starts with `bytes` may be safetensors: a plausible
/// length, then a JSON object.
pub(crate) fn looks_like_safetensors(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    u64::from_le_bytes(*len) <= MAX_HEADER as u64 && rest.first() == Some(&b'{')
}

/// Reads the header of a file whose bytes, tensor data included, are `bytes`.
///
/// Everything is checked as the format demands: the data of the tensors
/// follows one another without gap or overlap up to the end of the file, and
/// its length is that of the shape.
pub fn parse(bytes: &[u8]) -> Result<SafetensorsHeader, Problem> {
    let mut cursor = Cursor::new(bytes, usize::MAX);
    let len = cursor.u64("the length of the header")?;
    if len > MAX_HEADER as u64 {
        return malformed!(
            "the header claims to take {len} bytes, but at most {MAX_HEADER} are allowed: \
             the file is damaged or not safetensors"
        );
    }
    let header = cursor.take(len as usize, "the header")?;
    // Demanded by the format, and what tells such files from others.
    if header.first() != Some(&b'{') {
        return malformed!("the header is not what it must be: it does not begin with `{{`");
    }
    let header: Header = match serde_json::from_slice(header) {
        Ok(header) => header,
        Err(error) => {
            return malformed!(
                "the header is not what it must be: {}",
                show_bare(&error.to_string())
            )
        }
    };
    let start = cursor.position();
    let mut tensors = Vec::new();
    tensors.try_reserve_exact(header.tensors.len())?;
    for (name, raw) in header.tensors {
        tensors.push(info(name, raw, start)?);
    }
    tensors.sort_by_key(|info| (info.offset, info.bytes));
    check_layout(&tensors, start, bytes.len())?;
    refuse_twins(&tensors)?;
    let mut metadata = Metadata::new();
    for (key, value) in header.metadata {
        if metadata.insert(key.as_str(), value).is_some() {
            return malformed!("the key {} of `__metadata__` occurs twice", show(&key));
        }
    }
    Ok(SafetensorsHeader { metadata, tensors })
}

/// The info of one tensor; `start` is where the data section begins.
fn info(name: String, raw: RawInfo, start: usize) -> Result<TensorInfo, Problem> {
    let overflow = || {
        let text = format!(
            "tensor {} is larger than any memory: the file is damaged",
            show(&name)
        );
        Problem::Malformed(text)
    };
    let [begin, end] = raw.data_offsets;
    let Some(bytes) = end.checked_sub(begin) else {
        return malformed!(
            "the data of tensor {} ends at {end}, before it begins at {begin}: \
             the file is damaged",
            show(&name)
        );
    };
    let values = raw
        .shape
        .0
        .iter()
        .try_fold(1usize, |len, &dim| len.checked_mul(dim));
    let values = values.ok_or_else(overflow)?;
    // A type unknown to the crate is listed with the size the offsets give it.
    if let Some(bits) = bits(&raw.dtype) {
        let bits = values.checked_mul(bits).ok_or_else(overflow)?;
        if !bits.is_multiple_of(8) || bits / 8 != bytes {
            return malformed!(
                "tensor {} of type {} and shape {:?} takes {} bytes, but its offsets span \
                 {bytes}: the file is damaged",
                show(&name),
                show_bare(&raw.dtype),
                raw.shape.0,
                bits.div_ceil(8)
            );
        }
    }
    // That the end fits, too, makes `TensorInfo::range` safe.
    start.checked_add(end).ok_or_else(overflow)?;
    Ok(TensorInfo {
        dtype: match raw.dtype.as_str() {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            _ => None,
        },
        type_name: raw.dtype,
        shape: raw.shape.0,
        bytes,
        file: 0,
        offset: start + begin,
        name,
    })
}

/// Bits of one value of a type, if the type is known.
fn bits(dtype: &str) -> Option<usize> {
    let name = StrDeserializer::<serde::de::value::Error>::new(dtype);
    Some(safetensors::Dtype::deserialize(name).ok()?.bitsize())
}

fn check_layout(tensors: &[TensorInfo], start: usize, file_len: usize) -> Result<(), Problem> {
    if let Some(last) = tensors.iter().max_by_key(|info| info.range().end) {
        if let Some(missing @ 1..) = last.range().end.checked_sub(file_len) {
            return Err(Problem::Truncated {
                missing: missing as u64,
                tensor: last.name.clone(),
            });
        }
    }
    let mut end = start;
    for info in tensors {
        if info.offset < end {
            return malformed!(
                "the data of tensor {} overlaps that of the one before it: the file is damaged",
                show(&info.name)
            );
        }
        if info.offset > end {
            return malformed!(
                "{} bytes before the data of tensor {} belong to no tensor: the file is damaged",
                info.offset - end,
                show(&info.name)
            );
        }
        end = info.range().end;
    }
    match file_len - end {
        0 => Ok(()),
        extra => malformed!(
            "the last {extra} bytes of the file belong to no tensor: the file is damaged"
        ),
    }
}

fn refuse_twins(tensors: &[TensorInfo]) -> Result<(), Problem> {
    let mut names = std::collections::HashSet::new();
    names.try_reserve(tensors.len())?;
    match tensors
        .iter()
        .find(|info| !names.insert(info.name.as_str()))
    {
        None => Ok(()),
        Some(info) => {
            malformed!(
                "tensor {} occurs twice: the file is damaged",
                show(&info.name)
            )
        }
    }
}

/// The header in the order of the file, with whatever occurs twice.
struct Header {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, RawInfo)>,
}

#[derive(serde::Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Shape,
    data_offsets: [usize; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header {
                    metadata: Vec::new(),
                    tensors: Vec::new(),
                };
                let mut seen = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        header.tensors.push((name, map.next_value()?));
                    } else if std::mem::replace(&mut seen, true) {
                        return Err(A::Error::duplicate_field("__metadata__"));
                    } else {
                        header.metadata =
                            map.next_value::<Option<Pairs>>()?.map_or(vec![], |p| p.0);
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A map of strings to strings, in order.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Dimensions, no more than [`MAX_DIMS`], so that a header of commas cannot
/// take many times its size in memory.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "at most {MAX_DIMS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while shape.len() < MAX_DIMS {
                    match seq.next_element()? {
                        Some(dim) => shape.push(dim),
                        None => return Ok(Shape(shape)),
                    }
                }
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::invalid_length(MAX_DIMS + 1, &self)),
                    None => Ok(Shape(shape)),
                }
            }
        }
        deserializer.deserialize_seq(List)
    }
}

//! The header of a GGUF file.

use std::borrow::Cow;
use std::collections::HashSet;

use super::types::{by_id, value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
use crate::cursor::Cursor;
use crate::error::{malformed, show, Problem};
use crate::store::TensorInfo;
use crate::strings::Strings;
use crate::value::{Array, Metadata, Value};

/// The first four bytes of every GGUF file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// Bytes a header may take. The largest vocabularies need 16 MiB; the limit
/// bounds the memory that a hostile, sparse file can make us reserve.
const MAX_HEADER: usize = 256 << 20;

/// Dimensions a tensor may have (`GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;

/// Levels of arrays in arrays; real files have one.
const MAX_NESTING: usize = 4;

/// What the header of a GGUF file says.
#[derive(Clone, Debug)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// Multiple of which every tensor's offset is.
    pub alignment: usize,
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensors in the order of the file; their data lies inside it.
    pub tensors: Vec<TensorInfo>,
}

/// Whether a file that starts with `bytes` is GGUF, of any version or byte
/// order.
pub(crate) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(b"FUGG")
}

/// Reads the header of a file whose bytes, tensor data included, are `bytes`.
///
/// Everything is checked, so that the range of every returned tensor lies
/// inside `bytes`, no two overlap, and no size that the file merely claims is
/// allocated.
pub fn parse(bytes: &[u8]) -> Result<GgufHeader, Problem> {
    let mut cursor = Cursor::new(bytes, MAX_HEADER);
    let magic = cursor.take(4, "the magic number")?;
    if magic == b"FUGG" {
        return big_endian();
    }
    if magic != MAGIC {
        return malformed!("the file does not begin with `GGUF`, so it is no GGUF file");
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        v if v != 0 && v & 0xffff == 0 => return big_endian(),
        1 => {
            let text = "this is GGUF version 1, of which no models are left in use; \
                convert the model again";
            return Err(Problem::Unsupported(text.into()));
        }
        v => {
            let text = format!(
                "this is GGUF version {v}, but only versions 2 and 3 are known; \
                 the file is damaged or newer than this program"
            );
            return Err(Problem::Unsupported(text));
        }
    }
    // The shortest tensor info and pair: a name of one letter, no dimensions;
    // a key of one letter, a byte.
    let tensors = cursor.count(9 + 4 + 4 + 8, "the list of tensors")?;
    let pairs = cursor.count(9 + 4 + 1, "the list of metadata")?;
    let metadata = read_metadata(&mut cursor, pairs)?;
    let alignment = alignment(&metadata)?;
    let (mut tensors, unknown) = read_infos(&mut cursor, tensors)?;
    place(
        &mut tensors,
        &unknown,
        cursor.position(),
        alignment,
        bytes.len(),
    )?;
    Ok(GgufHeader {
        version,
        alignment,
        metadata,
        tensors,
    })
}

fn big_endian<T>() -> Result<T, Problem> {
    let text = "this GGUF file is big-endian, which is not supported; \
        get or convert a little-endian one";
    Err(Problem::Unsupported(text.into()))
}

fn read_metadata(cursor: &mut Cursor, pairs: usize) -> Result<Metadata, Problem> {
    let mut metadata = Metadata::new();
    for i in 0..pairs {
        let key = cursor.string(format_args!("metadata key {i}"))?;
        let Ok(key) = std::str::from_utf8(key) else {
            return malformed!("metadata key {i} is not valid UTF-8: the file is damaged");
        };
        if key.is_empty() {
            return malformed!("metadata key {i} is empty: the file is damaged");
        }
        let kind = cursor.u32(format_args!("the type of {}", show(key)))?;
        let mut reader = ValueReader {
            cursor,
            key,
            replaced: 0,
        };
        let value = reader.value(kind)?;
        let replaced = reader.replaced;
        if metadata.insert(key, value).is_some() {
            return malformed!(
                "metadata key {} occurs twice: the file is damaged",
                show(key)
            );
        }
        if replaced > 0 {
            metadata.note_replaced(key, replaced);
        }
    }
    Ok(metadata)
}

struct ValueReader<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    key: &'a str,
    /// Strings in which invalid UTF-8 was replaced.
    replaced: usize,
}

/// Reads `$count` numbers of `$type`.
macro_rules! numbers {
    ($self:ident, $count:expr, $type:ty) => {{
        const SIZE: usize = size_of::<$type>();
        let bytes = $self.bytes($count, SIZE)?;
        let (chunks, _) = bytes.as_chunks::<SIZE>();
        let mut out: Vec<$type> = Vec::new();
        out.try_reserve_exact(chunks.len())?;
        out.extend(chunks.iter().map(|chunk| <$type>::from_le_bytes(*chunk)));
        out
    }};
}

impl<'a> ValueReader<'_, 'a> {
    fn value(&mut self, kind: u32) -> Result<Value, Problem> {
        macro_rules! number {
            ($type:ty) => {
                numbers!(self, 1, $type)[0]
            };
        }
        Ok(match kind {
            value::U8 => Value::U8(number!(u8)),
            value::I8 => Value::I8(number!(i8)),
            value::U16 => Value::U16(number!(u16)),
            value::I16 => Value::I16(number!(i16)),
            value::U32 => Value::U32(number!(u32)),
            value::I32 => Value::I32(number!(i32)),
            value::U64 => Value::U64(number!(u64)),
            value::I64 => Value::I64(number!(i64)),
            value::F32 => Value::F32(number!(f32)),
            value::F64 => Value::F64(number!(f64)),
            value::BOOL => Value::Bool(self.bools(1)?[0]),
            value::STRING => Value::String(self.string()?),
            value::ARRAY => Value::Array(self.array(MAX_NESTING)?),
            _ => return self.unknown(kind),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array, Problem> {
        if depth == 0 {
            return malformed!(
                "the value of {} nests arrays more than {MAX_NESTING} deep: the file is damaged",
                show(self.key)
            );
        }
        let kind = self
            .cursor
            .u32(format_args!("the array {}", show(self.key)))?;
        // What an element takes at least; of numbers, the exact size is
        // checked again below.
        let least = match kind {
            value::STRING => 8,
            value::ARRAY => 12,
            _ => 1,
        };
        let count = self
            .cursor
            .count(least, format_args!("the array {}", show(self.key)))?;
        Ok(match kind {
            value::U8 => Array::U8(numbers!(self, count, u8)),
            value::I8 => Array::I8(numbers!(self, count, i8)),
            value::U16 => Array::U16(numbers!(self, count, u16)),
            value::I16 => Array::I16(numbers!(self, count, i16)),
            value::U32 => Array::U32(numbers!(self, count, u32)),
            value::I32 => Array::I32(numbers!(self, count, i32)),
            value::U64 => Array::U64(numbers!(self, count, u64)),
            value::I64 => Array::I64(numbers!(self, count, i64)),
            value::F32 => Array::F32(numbers!(self, count, f32)),
            value::F64 => Array::F64(numbers!(self, count, f64)),
            value::BOOL => Array::Bool(self.bools(count)?),
            value::STRING => {
                let mut strings = Strings::with_room(count)?;
                for _ in 0..count {
                    strings.push(&self.text()?)?;
                }
                strings.shrink();
                Array::String(strings)
            }
            value::ARRAY => {
                let mut arrays = Vec::new();
                arrays.try_reserve_exact(count)?;
                for _ in 0..count {
                    arrays.push(self.array(depth - 1)?);
                }
                Array::Nested(arrays)
            }
            _ => return self.unknown(kind),
        })
    }

    fn unknown<T>(&self, kind: u32) -> Result<T, Problem> {
        malformed!(
            "the value of {} is of the unknown type {kind}: the file is damaged or newer than \
             this program",
            show(self.key)
        )
    }

    fn bytes(&mut self, count: usize, size: usize) -> Result<&'a [u8], Problem> {
        // An overflowing product is more than remains, too.
        let len = count.saturating_mul(size);
        self.cursor
            .take(len, format_args!("the value of {}", show(self.key)))
    }

    fn bools(&mut self, count: usize) -> Result<Vec<bool>, Problem> {
        let mut bools = Vec::new();
        bools.try_reserve_exact(count)?;
        let bytes = self.bytes(count, 1)?;
        bools.extend(bytes.iter().map(|&byte| byte != 0));
        match bytes.iter().find(|&&byte| byte > 1) {
            None => Ok(bools),
            Some(byte) => malformed!(
                "{} holds {byte} where 0 or 1 must be: the file is damaged",
                show(self.key)
            ),
        }
    }

    fn string(&mut self) -> Result<String, Problem> {
        let text = self.text()?;
        let mut string = String::new();
        string.try_reserve_exact(text.len())?;
        string.push_str(&text);
        Ok(string)
    }

    /// A string where it lies, unless it has to be mended.
    fn text(&mut self) -> Result<Cow<'a, str>, Problem> {
        let bytes = self
            .cursor
            .string(format_args!("the value of {}", show(self.key)))?;
        if let Ok(valid) = std::str::from_utf8(bytes) {
            return Ok(Cow::Borrowed(valid));
        }
        self.replaced += 1;
        let mut string = String::new();
        // A byte becomes at most the three of U+FFFD.
        string.try_reserve(bytes.len().saturating_mul(3))?;
        for chunk in bytes.utf8_chunks() {
            string.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                string.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(Cow::Owned(string))
    }
}

fn alignment(metadata: &Metadata) -> Result<usize, Problem> {
    match metadata.usize(ALIGNMENT_KEY) {
        Ok(None) => Ok(DEFAULT_ALIGNMENT),
        Ok(Some(n)) if n.is_power_of_two() => Ok(n),
        Ok(Some(n)) => malformed!("`{ALIGNMENT_KEY}` is {n}, but must be a power of two"),
        Err(error) => malformed!("{error}"),
    }
}

/// Reads the tensor infos, `offset` still relative to the data section. Also
/// lists those, by index, whose type and therefore size is unknown.
fn read_infos(cursor: &mut Cursor, count: usize) -> Result<(Vec<TensorInfo>, Vec<usize>), Problem> {
    let mut names = HashSet::new();
    let mut infos = Vec::new();
    let mut unknown = Vec::new();
    names.try_reserve(count)?;
    infos.try_reserve_exact(count)?;
    for i in 0..count {
        let name = cursor.string(format_args!("the name of tensor {i}"))?;
        let Ok(name) = std::str::from_utf8(name) else {
            return malformed!("the name of tensor {i} is not valid UTF-8: the file is damaged");
        };
        if name.is_empty() {
            return malformed!("tensor {i} has no name: the file is damaged");
        }
        if !names.insert(name) {
            return malformed!("tensor {} occurs twice: the file is damaged", show(name));
        }
        let (info, known) = read_info(cursor, name)?;
        if !known {
            unknown.push(i);
        }
        infos.push(info);
    }
    Ok((infos, unknown))
}

/// One tensor info, and whether its type is known.
fn read_info(cursor: &mut Cursor, name: &str) -> Result<(TensorInfo, bool), Problem> {
    let what = || format!("the description of tensor {}", show(name));
    let dims = cursor.u32(what())?;
    if dims > MAX_DIMS {
        return malformed!(
            "tensor {} has {dims} dimensions, but no more than {MAX_DIMS} are allowed: \
             the file is damaged",
            show(name)
        );
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        match usize::try_from(cursor.u64(what())?) {
            Ok(dim) => shape.push(dim),
            Err(_) => return too_large(name),
        }
    }
    shape.reverse();
    let id = cursor.u32(what())?;
    let Ok(offset) = usize::try_from(cursor.u64(what())?) else {
        return too_large(name);
    };
    let Some(len) = shape
        .iter()
        .try_fold(1usize, |len, &dim| len.checked_mul(dim))
    else {
        return too_large(name);
    };
    let mut info = TensorInfo {
        name: name.into(),
        dtype: None,
        type_name: format!("type {id}"),
        shape,
        bytes: 0,
        file: 0,
        offset,
    };
    let ggml = by_id(id);
    if let Some(ggml) = ggml {
        let row = info.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(ggml.block_len) {
            return malformed!(
                "tensor {} has rows of {row} values, but {} stores blocks of {}: \
                 the file is damaged",
                show(name),
                ggml.name,
                ggml.block_len
            );
        }
        let Some(bytes) = (len / ggml.block_len).checked_mul(ggml.block_bytes) else {
            return too_large(name);
        };
        info.bytes = bytes;
        info.dtype = ggml.dtype();
        info.type_name = ggml.name.into();
    }
    Ok((info, ggml.is_some()))
}

fn too_large<T>(name: &str) -> Result<T, Problem> {
    malformed!(
        "tensor {} is larger than any memory: the file is damaged",
        show(name)
    )
}

/// Turns offsets into positions in the file and checks that every tensor is
/// aligned, inside the file and alone. A tensor of unknown type is taken to
/// reach to the next one.
fn place(
    tensors: &mut [TensorInfo],
    unknown: &[usize],
    header_end: usize,
    alignment: usize,
    file_len: usize,
) -> Result<(), Problem> {
    let start = header_end.checked_next_multiple_of(alignment);
    let mut missing: Option<(usize, &TensorInfo)> = None;
    for info in tensors.iter_mut() {
        if !info.offset.is_multiple_of(alignment) {
            return malformed!(
                "the data of tensor {} begins at {}, which is no multiple of the alignment \
                 {alignment}: the file is damaged",
                show(&info.name),
                info.offset
            );
        }
        let end = start
            .and_then(|start| start.checked_add(info.offset))
            .inspect(|&offset| info.offset = offset)
            .and_then(|offset| offset.checked_add(info.bytes));
        let Some(end) = end else {
            return too_large(&info.name);
        };
        if end > file_len && missing.is_none_or(|(most, _)| end > most) {
            missing = Some((end, info));
        }
    }
    if let Some((end, info)) = missing {
        let missing = (end - file_len) as u64;
        return Err(Problem::Truncated {
            missing,
            tensor: info.name.clone(),
        });
    }

    let mut order: Vec<usize> = Vec::new();
    order.try_reserve_exact(tensors.len())?;
    let is_unknown = |i: usize| unknown.binary_search(&i).is_ok();
    order.extend((0..tensors.len()).filter(|&i| tensors[i].bytes > 0 || is_unknown(i)));
    order.sort_unstable_by_key(|&i| (tensors[i].offset, tensors[i].bytes));
    for (at, &i) in order.iter().enumerate() {
        let next = order.get(at + 1).map(|&next| &tensors[next]);
        let limit = next.map_or(file_len, |next| next.offset);
        if is_unknown(i) {
            tensors[i].bytes = limit - tensors[i].offset;
        } else if let Some(next) = next.filter(|_| tensors[i].offset + tensors[i].bytes > limit) {
            return malformed!(
                "the data of tensors {} and {} overlaps: the file is damaged",
                show(&tensors[i].name),
                show(&next.name)
            );
        }
    }
    Ok(())
}

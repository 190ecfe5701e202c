//! Writing GGUF version 3.

use std::path::Path;

use super::types::{id_of, value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use crate::error::{show, Problem};
use crate::output::Output;
use crate::value::{Array, Metadata, Value};
use crate::{DType, Error, Result};

/// Plans a GGUF file: metadata and the list of tensors. [`create`] then turns
/// it into a [`GgufFile`], to which the data is written.
///
/// [`create`]: GgufWriter::create
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    metadata: Metadata,
    tensors: Vec<Planned>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
}

impl GgufWriter {
    /// Without metadata and tensors.
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// Sets one metadata pair, in place if the key exists. The alignment of
    /// tensors is the pair `general.alignment`, if set.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.metadata.insert(key, value);
        self
    }

    /// Sets all pairs of `metadata`.
    pub fn set_all(&mut self, metadata: &Metadata) -> &mut Self {
        for (key, value) in metadata.iter() {
            self.metadata.insert(key, value.clone());
        }
        self
    }

    /// Appends a tensor; `shape` is outermost first.
    pub fn tensor(&mut self, name: impl Into<String>, dtype: DType, shape: &[usize]) -> &mut Self {
        // Checked when the header is made, so that plans can be chained.
        let bytes = byte_len(dtype, shape).unwrap_or(0);
        self.tensors.push(Planned {
            name: name.into(),
            dtype,
            shape: shape.into(),
            bytes,
        });
        self
    }

    /// Creates the file and writes its header. Nothing is at `path` before
    /// [`GgufFile::finish`].
    ///
    /// # Errors
    /// If the plan is no valid file (a name twice, rows that are no multiple
    /// of the block, ...) or the file cannot be written.
    pub fn create(self, path: &Path) -> Result<GgufFile> {
        let (header, alignment) = self.header().map_err(Error::file(path))?;
        let mut out = Output::create(path)?;
        out.append(&header)?;
        Ok(GgufFile {
            out,
            tensors: self.tensors,
            alignment,
            at: 0,
            written: 0,
        })
    }

    /// The whole file in memory, for tests and small models; `data` holds one
    /// slice per tensor.
    ///
    /// # Errors
    /// As [`create`](GgufWriter::create), and if a slice has the wrong length.
    pub fn to_bytes(&self, data: &[&[u8]]) -> Result<Vec<u8>, Problem> {
        let (mut file, alignment) = self.header()?;
        if data.len() != self.tensors.len() {
            let (planned, given) = (self.tensors.len(), data.len());
            return misuse(format!(
                "{planned} tensors were planned, but data for {given} is given"
            ));
        }
        for (planned, data) in self.tensors.iter().zip(data) {
            if data.len() != planned.bytes {
                return misuse(planned.wrong_length(data.len()));
            }
            file.extend(*data);
            file.resize(file.len().next_multiple_of(alignment), 0);
        }
        Ok(file)
    }

    /// Everything before the data, padding included, and the alignment.
    fn header(&self) -> Result<(Vec<u8>, usize), Problem> {
        let alignment = match self.metadata.usize(ALIGNMENT_KEY) {
            Ok(alignment) => alignment.unwrap_or(DEFAULT_ALIGNMENT),
            Err(error) => return misuse(error.to_string()),
        };
        // Padding is materialised, so the bound keeps it reasonable.
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return misuse(format!("{alignment} is no power of two up to 2^20"));
        }
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(3u32.to_le_bytes());
        put_len(&mut out, self.tensors.len());
        put_len(&mut out, self.metadata.len());
        for (key, value) in self.metadata.iter() {
            if key.is_empty() {
                return misuse("a metadata key is empty".into());
            }
            put_str(&mut out, key);
            put_value(&mut out, value);
        }
        let mut names = std::collections::HashSet::new();
        let mut offset = 0usize;
        for tensor in &self.tensors {
            if tensor.name.is_empty() || !names.insert(&tensor.name) {
                let name = show(&tensor.name);
                return misuse(format!("the tensor name {name} is empty or occurs twice"));
            }
            offset = tensor.put(&mut out, offset, alignment)?;
        }
        out.resize(out.len().next_multiple_of(alignment), 0);
        Ok((out, alignment))
    }
}

impl Planned {
    /// Appends the info and returns the offset of the next tensor.
    fn put(&self, out: &mut Vec<u8>, offset: usize, alignment: usize) -> Result<usize, Problem> {
        if self.shape.len() > 4 || self.shape.contains(&0) {
            return misuse(format!(
                "tensor {} has the shape {:?}, but GGUF stores at most 4 dimensions, none 0",
                show(&self.name),
                self.shape
            ));
        }
        let next = byte_len(self.dtype, &self.shape).and_then(|bytes| {
            offset
                .checked_add(bytes)?
                .checked_next_multiple_of(alignment)
        });
        let Some(next) = next else {
            return misuse(format!(
                "tensor {} of shape {:?} cannot be stored as {}: its rows must be a multiple of \
                 {} values, its size less than all memory",
                show(&self.name),
                self.shape,
                self.dtype,
                self.dtype.block_len()
            ));
        };
        put_str(out, &self.name);
        out.extend((self.shape.len() as u32).to_le_bytes());
        for &dim in self.shape.iter().rev() {
            put_len(out, dim);
        }
        out.extend(id_of(self.dtype).to_le_bytes());
        put_len(out, offset);
        Ok(next)
    }

    fn wrong_length(&self, given: usize) -> String {
        let Planned {
            name,
            dtype,
            shape,
            bytes,
        } = self;
        let name = show(name);
        format!("tensor {name} ({dtype} {shape:?}) takes {bytes} bytes, but {given} are given")
    }
}

/// A GGUF file being written: the data of the planned tensors, in their order.
///
/// Dropped before [`finish`](GgufFile::finish), it leaves nothing behind.
pub struct GgufFile {
    out: Output,
    tensors: Vec<Planned>,
    alignment: usize,
    /// The tensor being written, and how many of its bytes have been.
    at: usize,
    written: usize,
}

impl GgufFile {
    /// Appends data of the tensor `name`: all of it, or in pieces. The next
    /// tensor can begin when this one is complete.
    ///
    /// # Errors
    /// If it is another tensor's turn, if these are more bytes than it takes,
    /// or if they cannot be written.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let misused = |text| misuse(text).map_err(Error::file(self.out.path()));
        let Some(tensor) = self
            .tensors
            .get(self.at)
            .filter(|tensor| tensor.name == name)
        else {
            return match self.tensors.get(self.at) {
                Some(turn) => misused(format!(
                    "data of tensor {} was written when it was the turn of {}, with {} bytes to go",
                    show(name),
                    show(&turn.name),
                    turn.bytes - self.written
                )),
                None => misused(format!(
                    "data of tensor {} was written after that of all planned tensors",
                    show(name)
                )),
            };
        };
        let written = self.written.saturating_add(data.len());
        if written > tensor.bytes {
            return misused(tensor.wrong_length(written));
        }
        self.out.append(data)?;
        self.written = written;
        if written == tensor.bytes {
            self.out
                .pad(written.next_multiple_of(self.alignment) - written)?;
            self.at += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Puts the complete file in its place, replacing one of that name.
    ///
    /// # Errors
    /// If data is missing, or the file cannot be written.
    pub fn finish(self) -> Result<()> {
        if let Some(tensor) = self.tensors.get(self.at) {
            let missing = tensor.bytes - self.written;
            let text = format!(
                "tensor {} lacks {missing} bytes of data",
                show(&tensor.name)
            );
            return misuse(text).map_err(Error::file(self.out.path()));
        }
        self.out.finish()
    }
}

fn misuse<T>(text: String) -> Result<T, Problem> {
    Err(Problem::Misuse(text))
}

/// Bytes of a tensor, if its rows are whole blocks and the product fits.
fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (&row, outer) = shape.split_last().unwrap_or((&1, &[]));
    outer
        .iter()
        .try_fold(dtype.row_bytes(row)?, |bytes, &dim| bytes.checked_mul(dim))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($kind:ident, $v:expr) => {{
            out.extend(value::$kind.to_le_bytes());
            out.extend($v.to_le_bytes());
        }};
    }
    match value {
        Value::U8(v) => number!(U8, v),
        Value::I8(v) => number!(I8, v),
        Value::U16(v) => number!(U16, v),
        Value::I16(v) => number!(I16, v),
        Value::U32(v) => number!(U32, v),
        Value::I32(v) => number!(I32, v),
        Value::U64(v) => number!(U64, v),
        Value::I64(v) => number!(I64, v),
        Value::F32(v) => number!(F32, v),
        Value::F64(v) => number!(F64, v),
        Value::Bool(v) => number!(BOOL, u8::from(*v)),
        Value::String(v) => {
            out.extend(value::STRING.to_le_bytes());
            put_str(out, v);
        }
        Value::Array(v) => {
            out.extend(value::ARRAY.to_le_bytes());
            put_array(out, v);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($kind:ident, $v:expr) => {{
            out.extend(value::$kind.to_le_bytes());
            put_len(out, $v.len());
            out.extend($v.iter().flat_map(|v| v.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(U8, v),
        Array::I8(v) => numbers!(I8, v),
        Array::U16(v) => numbers!(U16, v),
        Array::I16(v) => numbers!(I16, v),
        Array::U32(v) => numbers!(U32, v),
        Array::I32(v) => numbers!(I32, v),
        Array::U64(v) => numbers!(U64, v),
        Array::I64(v) => numbers!(I64, v),
        Array::F32(v) => numbers!(F32, v),
        Array::F64(v) => numbers!(F64, v),
        Array::Bool(v) => {
            out.extend(value::BOOL.to_le_bytes());
            put_len(out, v.len());
            out.extend(v.iter().map(|&v| u8::from(v)));
        }
        Array::String(v) => {
            out.extend(value::STRING.to_le_bytes());
            put_len(out, v.len());
            v.iter().for_each(|v| put_str(out, v));
        }
        Array::Nested(v) => {
            out.extend(value::ARRAY.to_le_bytes());
            put_len(out, v.len());
            v.iter().for_each(|v| put_array(out, v));
        }
    }
}

//! Writing safetensors files.

use std::path::Path;

use serde_json::{json, Map, Value as Json};

use crate::error::{show, Problem};
use crate::output::Output;
use crate::{DType, Error, Result};

/// Writes a safetensors file, whole or not at all: it takes the place of an
/// existing one in the end.
///
/// `tensors` are (name, type, shape with the outermost size first, data); the
/// types F32, F16 and BF16 exist in the format. `metadata` becomes
/// `__metadata__`. Tensors are laid out largest type first, which keeps every
/// value aligned to its size, and otherwise in the order given. The same
/// arguments give the same bytes.
///
/// # Errors
/// If a name occurs twice, a type is a quantised one or the data's length does
/// not fit the shape, or if the file cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(&str, DType, &[usize], &[u8])],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, dtype, ..)| std::cmp::Reverse(dtype.block_bytes()));
    let header = header(&order, metadata).map_err(Error::file(path))?;
    let mut out = Output::create(path)?;
    out.append(&(header.len() as u64).to_le_bytes())?;
    out.append(&header)?;
    for (_, _, _, data) in order {
        out.append(data)?;
    }
    out.finish()
}

fn header(
    tensors: &[&(&str, DType, &[usize], &[u8])],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, Problem> {
    let misuse = |text: String| Err(Problem::Misuse(text));
    let mut header = Map::new();
    if !metadata.is_empty() {
        let pairs = metadata
            .iter()
            .map(|&(key, value)| (key.to_owned(), Json::from(value)));
        header.insert("__metadata__".into(), pairs.collect::<Map<_, _>>().into());
    }
    let mut begin = 0;
    for (name, dtype, shape, data) in tensors {
        let quoted = show(name);
        if !dtype.is_float() {
            return misuse(format!(
                "tensor {quoted} is {dtype}, which safetensors does not have"
            ));
        }
        let values = shape
            .iter()
            .try_fold(dtype.block_bytes(), |n, &dim| n.checked_mul(dim));
        if values != Some(data.len()) {
            let given = data.len();
            return misuse(format!(
                "tensor {quoted} ({dtype} {shape:?}) cannot have {given} bytes"
            ));
        }
        let end = begin + data.len();
        let info = json!({
            "dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end],
        });
        if *name == "__metadata__" || header.insert((*name).into(), info).is_some() {
            return misuse(format!(
                "the tensor name {quoted} occurs twice or is reserved"
            ));
        }
        begin = end;
    }
    let mut text = Json::Object(header).to_string().into_bytes();
    // Spaces up to a multiple of 8, so that the data is aligned in the file.
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

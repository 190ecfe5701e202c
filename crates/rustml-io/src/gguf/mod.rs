//! GGUF, the single-file format of llama.cpp.
//!
//! The layout is that of `gguf.h` in GGML (versions 2 and 3, which differ only
//! in that 3 may be big-endian): magic, version, number of tensors, number of
//! pairs; the pairs; the tensor infos; padding to the alignment; the data.

mod parse;
#[cfg(test)]
mod tests;
mod types;
mod write;

pub(crate) use parse::{is_gguf, MAGIC};
pub use parse::{parse, GgufHeader};
pub use write::{GgufFile, GgufWriter};

/// Key of the alignment of tensor data.
const ALIGNMENT_KEY: &str = "general.alignment";

/// Alignment of files that do not say.
const DEFAULT_ALIGNMENT: usize = 32;

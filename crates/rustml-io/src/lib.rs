//! Model files as named tensors: GGUF (versions 2 and 3) and safetensors,
//! whole, sharded or split, all behind one [`Store`].
//!
//! A store maps its files into memory and reads their headers; opening the
//! 262 144 tokens of a Gemma takes some 20 ms. Tensors are handed out as bytes
//! of the mapping, in whatever type they are stored: what to do with them is
//! for others to know. [`GgufWriter`] and [`write_safetensors`] make such
//! files, which appear under their name when they are complete and not before.
//!
//! ```
//! use std::path::Path;
//! use rustml_io::{DType, GgufWriter, Store};
//!
//! let mut plan = GgufWriter::new();
//! plan.set("general.architecture", "tiny").set("tiny.block_count", 1u32);
//! plan.tensor("output.weight", DType::F32, &[1, 2]);
//! let file = plan.to_bytes(&[&[0, 0, 128, 63, 0, 0, 0, 64]])?;
//!
//! // `Store::open(path)` for files; this is one in memory.
//! let store = Store::from_bytes(Path::new("tiny.gguf"), file)?;
//! assert_eq!(store.metadata().usize("tiny.block_count")?, Some(1));
//! let tensor = store.tensor("output.weight")?;
//! assert_eq!(tensor.info.shape, [1, 2]);
//! let row: Vec<f32> =
//!     tensor.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
//! assert_eq!(row, [1.0, 2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - Files are not trusted. No file makes this crate panic, hang, or reserve
//!   memory that is not in proportion to bytes it really has; a tensor's data
//!   has exactly the length of its type and shape, and no two tensors of a
//!   file share bytes. Tests damage files by the thousands, and `fuzz/` goes on
//!   from there.
//! - Nothing is dropped silently. Twins, gaps, overlaps, parts missing at the
//!   end or shards missing in the directory are errors that name the culprit.
//!   Two things are lenient on purpose: tensors in types that are not computed
//!   with are listed, and only using one is an error; and metadata strings that
//!   are no valid UTF-8 are read with U+FFFD for the invalid bytes, which
//!   [`Metadata::replaced`] tells.
//! - Messages are for users: one sentence that says which file, what is wrong
//!   and, where there is something, what to do. Names out of files are shown
//!   with control characters escaped.
//! - Shapes are outermost first throughout, as in safetensors; GGUF's order is
//!   turned round on reading and writing.
//!
//! A mapped file must not be changed in place while its store lives: the
//! numbers would change under the reader, and cutting the file short ends
//! the process, with a sentence where [`report_torn_files`] was called. Replacing
//! it by renaming another over it, as the writers here do, is fine.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod closed;
mod cursor;
mod dtype;
mod error;
pub mod gguf;
#[allow(unsafe_code)]
mod mmap;
mod open;
mod output;
mod recognise;
pub mod safetensors;
mod small;
mod store;
mod strings;
mod summary;
#[cfg(unix)]
#[allow(unsafe_code)]
mod torn;
mod value;

pub use closed::stdout_is_closed;
pub use dtype::DType;
pub use error::{Error, Problem, Result};
pub use gguf::{GgufFile, GgufWriter};
pub use output::Output;
pub use safetensors::write_safetensors;
pub use small::read_small;
pub use store::{FileFormat, Store, Tensor, TensorInfo};
pub use strings::Strings;
pub use summary::{Summary, TypeSummary};
#[cfg(unix)]
pub use torn::report_torn_files;
pub use value::{Array, Metadata, Value};

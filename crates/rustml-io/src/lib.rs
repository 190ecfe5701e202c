//! GGUF and safetensors files as one [`Store`] of named tensors.

#![deny(unsafe_code)]

mod cursor;
mod dtype;
mod error;
pub mod gguf;
#[allow(unsafe_code)]
mod mmap;
mod open;
mod recognise;
pub mod safetensors;
mod save;
mod store;
mod summary;
mod value;

pub use dtype::DType;
pub use error::{Error, Problem, Result};
pub use gguf::{GgufFile, GgufWriter};
pub use safetensors::write_safetensors;
pub use store::{FileFormat, Store, Tensor, TensorInfo};
pub use summary::{Summary, TypeSummary};
pub use value::{Array, Metadata, Value};

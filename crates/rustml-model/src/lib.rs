//! Transformer architectures as data and the one forward pass over them.

#![deny(unsafe_code)]

pub mod arch;
mod batch;
mod error;
mod exec;
mod kv;
mod load;
mod model;
mod quantize;
mod source;
pub mod spec;
mod weights;

pub use batch::{Batch, Span};
pub use error::{Error, Result};
pub use exec::{Capacity, Exec};
pub use kv::{KvPool, KvSequence};
pub use load::{LoadReport, Progress};
pub use model::{team, Model};
pub use quantize::Quantize;
pub use rustml_kernels::attention::{KvType, KV_BLOCK};
pub use source::{Config, Gguf};
pub use weights::{LayerWeights, Linear, NormWeights, Weights};

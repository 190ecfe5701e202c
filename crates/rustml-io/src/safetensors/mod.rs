//! Safetensors, the format of checkpoints on the Hugging Face hub.
//!
//! A 64-bit length, a JSON header of that length, and the data: see the
//! `safetensors` crate, whose list of types is used here and whose reader is
//! the oracle of the tests. The header is walked by own code because that
//! reader refuses whole files for a type it does not know, lets the last of
//! two tensors of one name win, and says neither which tensor is wrong nor how
//! much of a truncated file is missing.

mod parse;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use parse::looks_like_safetensors;
pub use parse::{parse, SafetensorsHeader};
pub use write::write_safetensors;

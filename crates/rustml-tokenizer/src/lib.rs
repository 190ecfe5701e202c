//! Text to token ids and back, and chat templates.

#![deny(unsafe_code)]

mod bpe;
mod chat;
mod direct;
mod directory;
mod encoder;
mod error;
mod gguf;
mod hf;
mod merge;
mod partition;
mod pretokenize;
mod special;
mod spm;
mod stream;
mod tokenizer;
mod vocab;
mod words;

pub use chat::{ChatTemplate, Message};
pub use error::{Error, Result};
pub use stream::{Decode, Detokenizer};
pub use tokenizer::{Encode, Tokenizer};

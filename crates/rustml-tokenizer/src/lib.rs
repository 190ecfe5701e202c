//! Text to token ids and back, and chat templates.
//!
//! A [`Tokenizer`] comes from the metadata of a GGUF file or from a directory
//! with a `tokenizer.json`, and is the same either way: the tests build both
//! from one vocabulary and compare. Ids are those of llama.cpp and of
//! Hugging Face's `tokenizers`, on texts chosen to be hard, for the real
//! vocabularies of SmolLM2, Gemma 3 and GPT-2.
//!
//! The `tokenizers` crate runs what only it knows (WordPiece of a tokenizer.json,
//! unusual pipelines). Plain BPE, which nearly all language models use, and
//! Unigram are this crate's own. Building BPE for Gemma 3's 262 144 tokens takes
//! 30 ms from GGUF and a seventh of the library's time from tokenizer.json; nothing
//! in it backtracks, so that no text takes more than n log n.
//!
//! What holds throughout:
//!
//! - Text never becomes control tokens unless [`Encode::parse_special`] asks for
//!   it. In a conversation only the template's own words do: what a user types,
//!   or a tool answers, cannot end the system prompt.
//! - A byte that the vocabulary has no token for is left out, as llama.cpp and
//!   Hugging Face do.
//! - [`Detokenizer`] in pieces is [`Tokenizer::decode_with`] at once, and no
//!   piece ends within a character.
//! - Vocabularies and templates are untrusted: contradictions are errors, what a
//!   vocabulary may cost has limits, and a template has a budget of work, memory
//!   and time.
//!
//! ```
//! use rustml_io::Metadata;
//! use rustml_tokenizer::{Decode, Detokenizer, Encode, Tokenizer};
//!
//! // As GgufFile::open(path)?.metadata() would give it, only smaller.
//! let mut metadata = Metadata::new();
//! let tokens = ["<s>", "</s>", "▁", "h", "i", "hi", "▁hi"].map(String::from);
//! metadata.insert("tokenizer.ggml.model", "llama");
//! metadata.insert("tokenizer.ggml.tokens", tokens.to_vec());
//! metadata.insert("tokenizer.ggml.scores", vec![0f32, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0]);
//! metadata.insert("tokenizer.ggml.token_type", vec![3i32, 3, 1, 1, 1, 1, 1]);
//! metadata.insert("tokenizer.ggml.bos_token_id", 0u32);
//! metadata.insert("tokenizer.ggml.eos_token_id", 1u32);
//!
//! let tokenizer = Tokenizer::from_gguf(&metadata)?;
//! let ids = tokenizer.encode("hi hi", Encode { add_special: true, parse_special: false })?;
//! assert_eq!(ids, [0, 6, 6]);
//! assert_eq!(tokenizer.decode(&ids), "hi hi");
//! assert_eq!(tokenizer.end_tokens(), [1]);
//!
//! let mut stream = Detokenizer::new(Decode::default());
//! let pieces: Vec<_> = ids.iter().filter_map(|&id| stream.push(&tokenizer, id)).collect();
//! assert_eq!(pieces, ["hi", " hi"]);
//! assert_eq!(stream.finish(), None);
//! # Ok::<(), rustml_tokenizer::Error>(())
//! ```

#![forbid(unsafe_code)]

mod added;
mod bpe;
mod chat;
mod direct;
mod directory;
mod encoder;
mod error;
mod gguf;
mod hf;
mod input;
mod limits;
mod merge;
mod partition;
mod pieces;
mod pretokenize;
mod quiet;
mod rules;
mod special;
mod spm;
mod steps;
mod stream;
mod tokenizer;
mod unigram;
mod vocab;
mod wordpiece;
mod words;

pub use chat::{ChatTemplate, Content, Message};
pub use error::{Error, Result};
pub use input::{Input, Side, Truncate};
pub use rustml_jinja::Rendered;
pub use stream::{Decode, Detokenizer};
pub use tokenizer::{Encode, Tokenizer};

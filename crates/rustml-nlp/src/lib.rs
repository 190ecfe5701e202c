//! The library people import, and the `rustml-infer` command.
//!
//! ```no_run
//! use rustml_nlp::{LoadOptions, Model, Options};
//!
//! let model = Model::load("HuggingFaceTB/SmolLM2-135M-Instruct", &LoadOptions::default())?;
//! let answer = model.generate("The capital of France is", &Options::default())?;
//! println!("{}", answer.text);
//! # Ok::<(), rustml_nlp::Error>(())
//! ```
//!
//! A model is found by name or path, loaded once, and serves any number of
//! [`Model::generate`] calls; [`Model::session`] holds a conversation,
//! [`Model::generate_all`] decodes many prompts together.
//!
//! The module `cli` holds the flags and the conduct of the command line, so
//! that `rustml-infer` and `rustml infer` are one thing. It is there with the
//! feature of that name, which is on by default; programs of their own do
//! without it (`default-features = false`).

#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
mod embed;
mod error;
mod generate;
mod logits;
mod memory;
mod model;
mod score;
mod session;

pub use embed::{EmbedSteps, Embedder, Embedding, Pooling};
pub use error::{Error, Result};
pub use generate::{Generation, Options, Piece, Prompt};
pub use logits::Weights;
pub use memory::{available as available_memory, check_memory};
pub use model::{
    available_threads, default_quantize, Context, LoadOptions, Model, DEFAULT_MODEL, STEP_ROWS,
};
pub use rustml_engine::{Finish, Observer, Refusal, Sampling, Timings};
pub use rustml_model::{KvType, Quantize};
pub use rustml_tokenizer::{Content, Input, Message};
pub use score::{Label, Ranked, Scorer};
pub use session::Session;

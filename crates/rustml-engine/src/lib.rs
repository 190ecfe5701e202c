//! Requests to tokens: scheduling, sampling, text streaming.
//!
//! One loop serves everybody: `plan -> forward -> sample -> settle`. The
//! command line submits requests and steps until they are done; a server does
//! the same for as long as it lives. Every step takes a row of each sequence
//! that decodes, and chunks of prompts in prefill.
//!
//! Invariants: what a sequence gets is the same bits whatever runs beside it,
//! whether its prompt was found in the prefix cache, and whether it was preempted
//! and computed again. Of those that run the first always goes on, so that all
//! come to an end.
//!
//! ```no_run
//! use rustml_engine::{Engine, EngineConfig, Request, Sampling};
//! # fn example(mut engine: Engine, prompt: Vec<u32>) -> Result<(), rustml_engine::Refusal> {
//! engine.submit(Request {
//!     prompt,
//!     sampling: Sampling::greedy(),
//!     max_tokens: 20,
//!     continues: true,
//!     ..Request::default()
//! })?;
//! while !engine.is_idle() {
//!     for update in engine.step() {
//!         print!("{}", update.text);
//!     }
//! }
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod config;
mod constraint;
mod draft;
mod engine;
mod gbnf;
pub mod grammar;
mod guided;
mod lark;
mod logprobs;
mod lookup;
mod pace;
mod prefix;
mod request;
mod sampler;
mod sampling;
mod scan;
mod scheduler;
mod schema;
mod sequence;
mod speculate;
mod stats;
mod stop;

pub use config::{EngineConfig, Observer, Refusal};
pub use constraint::{Constraint, TokenMask};
pub use draft::{same_vocabulary, VocabularyMismatch};
pub use engine::Engine;
pub use request::{Finish, Request, RequestId, Timings, TokenLogprobs, Update, MAX_LOGPROBS};
pub use sampler::Sampler;
pub use sampling::Sampling;
pub use stats::{Misses, Reading, Stats};

//! Sizes of an engine, what it refuses, and what it counts.

use crate::request::MAX_LOGPROBS;
use rustml_model::spec::Spec;
use rustml_model::{KvPool, KvType};
use rustml_trace::{Detail, Step};
use std::sync::Arc;
use std::time::Duration;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Positions of one sequence.
    pub context: usize,
    /// Positions of all sequences together.
    pub cache_positions: usize,
    /// Sequences that run at a time.
    pub sequences: usize,
    /// Rows of a step: prompts are computed in chunks of that size.
    pub rows: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Recurrent states that are kept for later prompts, beside one for each sequence,
    /// of models that have them; else as many as a gigabyte holds, from 4 to 64.
    pub checkpoints: Option<usize>,
    /// How closely steps are looked at.
    pub detail: Detail,
    /// Requests that may wait; more are refused.
    pub queue: usize,
    /// How long a step may take that computes prompts while others wait for
    /// their next token: as much of the prompts is taken as fits.
    pub step_target: Duration,
    /// Whether tokens are guessed ahead from what the text already said, and
    /// checked several at a time. They are the same tokens.
    pub speculate: bool,
    /// Guess so many tokens at a time whether it pays or not, for measuring.
    pub always_guess: Option<usize>,
}

impl Default for EngineConfig {
    /// One sequence of 2048 positions.
    fn default() -> EngineConfig {
        EngineConfig {
            context: 2048,
            cache_positions: 2048,
            sequences: 1,
            rows: 256,
            kv_type: KvType::F16,
            checkpoints: None,
            detail: Detail::Off,
            queue: usize::MAX,
            step_target: Duration::from_millis(50),
            speculate: false,
            always_guess: None,
        }
    }
}

impl EngineConfig {
    /// Recurrent states that an engine has room for: one for each sequence and for the
    /// first that waits, and those that are kept. None where the model has none.
    pub fn states(&self, spec: &Spec) -> usize {
        let bytes = KvPool::state_bytes(spec);
        let kept = || ((1 << 30) / bytes.max(1)).clamp(4, 64);
        match bytes {
            0 => 0,
            _ => self.sequences.max(1) + 1 + self.checkpoints.unwrap_or_else(kept),
        }
    }
}

/// Is shown every step after it was taken.
pub type Observer = Arc<dyn Fn(&Step) + Send + Sync>;

/// Why a request is not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    /// More than fits.
    #[error("the prompt is {prompt} tokens long, but the context holds {context}; shorten the prompt or raise --ctx-size")]
    PromptTooLong {
        /// Its tokens.
        prompt: usize,
        /// Positions of a sequence.
        context: usize,
    },
    /// A token the model has no embedding for.
    #[error("token {id} is outside the model's vocabulary of {vocab}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A setting out of range.
    #[error("{0}")]
    Sampling(String),
    /// A bias out of range.
    #[error("the bias of token {id} is {bias}, but must be from -100 to 100")]
    Bias {
        /// The token.
        id: u32,
        /// Its bias.
        bias: f32,
    },
    /// An empty stop string, at which every text ends.
    #[error("a stop string is empty; leave it out")]
    EmptyStop,
    /// Too many likely tokens are asked for.
    #[error("the log probabilities of {0} tokens are asked for, but {MAX_LOGPROBS} is the most")]
    Logprobs(usize),
    /// Too many requests wait already.
    #[error("{waiting} requests wait already, which is as many as may; try again later")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// More than the cache could ever hold.
    #[error("the prompt and the tokens to generate need {needed} positions, but the cache holds {cache}")]
    CacheTooSmall {
        /// Positions.
        needed: usize,
        /// Positions of the cache.
        cache: usize,
    },
}

//! A request and what has become of it.

use crate::sampler::{Sampler, Sampling};
use rustml_model::KvSequence;
use rustml_tokenizer::Detokenizer;
use std::time::{Duration, Instant};

/// Names a request.
pub type RequestId = u64;

/// What somebody wants to have continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens at most.
    pub max_tokens: usize,
    /// Whether the prompt is the beginning of the text that goes on, rather
    /// than a conversation that is answered.
    pub continues: bool,
    /// Keep the cache when it is done, for a request that begins alike.
    pub keep: bool,
    /// Go on when the model would end, for measuring.
    pub ignore_end: bool,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    Stop,
    /// It had as many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// It took too long.
    Timeout,
    /// Somebody asked to stop.
    Cancelled,
}

impl Finish {
    /// The word in JSON results.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Timeout => "timeout",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// How long a sequence took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt that were computed, not found in a cache.
    pub prompt_tokens: usize,
    /// From the first step to the first token.
    pub prompt: Duration,
    /// Tokens after the first.
    pub decode_tokens: usize,
    /// From the first token to the last.
    pub decode: Duration,
}

/// What a step brought for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The request.
    pub id: RequestId,
    /// The token, unless there was none.
    pub token: Option<u32>,
    /// Text that is now complete.
    pub text: String,
    /// Set on the last update.
    pub finish: Option<(Finish, Timings)>,
}

/// A request at work.
pub(crate) struct Sequence {
    pub id: RequestId,
    /// Prompt and what was generated; the first `cache.len()` are computed.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens the context has room for.
    pub room: usize,
    pub max_tokens: usize,
    pub keep: bool,
    pub ignore_end: bool,
    pub cache: KvSequence,
    pub sampler: Sampler,
    pub detokenizer: Option<Detokenizer>,
    pub started: Option<Instant>,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
    pub cached_prompt: usize,
}

impl Sequence {
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that are not computed yet.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.cache.len()..]
    }

    pub fn timings(&self) -> Timings {
        let span = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => b - a,
            _ => Duration::ZERO,
        };
        Timings {
            prompt_tokens: self.prompt_len - self.cached_prompt,
            prompt: span(self.started, self.first_token),
            decode_tokens: self.generated().saturating_sub(1),
            decode: span(self.first_token, self.last_token),
        }
    }
}

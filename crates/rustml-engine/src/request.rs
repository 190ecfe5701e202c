//! What somebody asks for, and what they get.

use crate::constraint::Constraint;
use crate::sampling::Sampling;
use std::fmt;
use std::time::Duration;

/// Names a request. Later requests have larger ones.
pub type RequestId = u64;

/// What somebody wants to have continued.
///
/// ```
/// # use rustml_engine::{Request, Sampling};
/// let request = Request {
///     prompt: vec![1, 2, 3],
///     sampling: Sampling::greedy(),
///     stop: vec!["\n".into()],
///     ..Request::default()
/// };
/// assert_eq!(request.max_tokens, 256);
/// ```
pub struct Request {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Added to the logits of these tokens before anything else, from -100 to
    /// 100. Of a token that is named twice, the last counts.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens at most.
    pub max_tokens: usize,
    /// Strings at which the text ends. They are found across the borders of
    /// tokens, and neither they nor a part of them come out.
    pub stop: Vec<String>,
    /// With each token its log probability and those of so many of the
    /// likeliest, [`MAX_LOGPROBS`] at most: of the model's own logits, before
    /// bias, penalties and temperature.
    pub logprobs: Option<usize>,
    /// The same of the prompt's own tokens. The first has none.
    pub prompt_logprobs: bool,
    /// What the text has to be like.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Whether the prompt is the beginning of the text that goes on, rather
    /// than a conversation that is answered.
    pub continues: bool,
    /// Go on when the model would end, for measuring.
    pub ignore_end: bool,
    /// Whether tokens may be guessed ahead, where the engine does. They are
    /// the same tokens.
    pub speculate: bool,
    /// Requests with different salts share nothing in the prefix cache, so that
    /// none learns from its own speed what others sent.
    pub cache_salt: u64,
}

/// The most [`Request::logprobs`].
pub const MAX_LOGPROBS: usize = 20;

impl Default for Request {
    /// An empty prompt, which is refused.
    fn default() -> Request {
        Request {
            prompt: Vec::new(),
            sampling: Sampling::default(),
            logit_bias: Vec::new(),
            max_tokens: 256,
            stop: Vec::new(),
            logprobs: None,
            prompt_logprobs: false,
            constraint: None,
            continues: false,
            ignore_end: false,
            speculate: true,
            cache_salt: 0,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt.len())
            .field("sampling", &self.sampling)
            .field("max_tokens", &self.max_tokens)
            .field("stop", &self.stop)
            .field("constrained", &self.constraint.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so, or the constraint lets nothing follow.
    Stop,
    /// The text came to this one of the stop strings.
    StopString(usize),
    /// It had as many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// It took too long.
    Timeout,
    /// Somebody asked to stop.
    Cancelled,
    /// It could not go on, for this reason.
    Failed(String),
    /// The model gave values that are no finite numbers, for this reason.
    NotFinite(String),
}

impl Finish {
    /// The word in JSON results.
    pub fn name(&self) -> &'static str {
        match self {
            Finish::Stop | Finish::StopString(_) => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Timeout => "timeout",
            Finish::Cancelled => "cancelled",
            Finish::Failed(_) | Finish::NotFinite(_) => "failed",
        }
    }
}

/// How long a sequence took, and over what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From being submitted to the first step.
    pub queued: Duration,
    /// From the first step to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were found in the cache.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// How often it had to make room for others and be computed again.
    pub preemptions: usize,
    /// Tokens guessed ahead.
    pub guessed: usize,
    /// Those of them that were right.
    pub right: usize,
    /// Whether it ended without guesses, since they had not paid.
    pub guesses_off: bool,
}

impl Timings {
    /// Tokens of the prompt that were computed.
    pub fn computed_tokens(&self) -> usize {
        self.prompt_tokens - self.cached_tokens
    }

    /// Tokens that came in the time [`Timings::decode`]: all but the first.
    pub fn decode_tokens(&self) -> usize {
        self.tokens.saturating_sub(1)
    }
}

/// How likely a token was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first, with theirs.
    pub top: Vec<(u32, f32)>,
}

/// What a step brought for one request. A step may bring several.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The request.
    pub id: RequestId,
    /// The token, unless there was none.
    pub token: Option<u32>,
    /// Text that is now certain. It may lag behind the tokens, by the rest of
    /// a character or what may become a stop string.
    pub text: String,
    /// Of the token, if asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// Of the prompt's next tokens, if asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Set on the last update.
    pub finish: Option<(Finish, Timings)>,
}

impl Update {
    /// An update that says nothing yet.
    pub(crate) fn of(id: RequestId) -> Update {
        Update {
            id,
            token: None,
            text: String::new(),
            logprobs: None,
            prompt_logprobs: Vec::new(),
            finish: None,
        }
    }
}

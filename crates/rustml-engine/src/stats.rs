//! What an engine counts.

/// Sums since an engine was made, and how it stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Blocks of the cache, of [`rustml_model::KV_BLOCK`] positions each.
    pub kv_blocks: usize,
    /// Those of them that requests have.
    pub kv_used: usize,
    /// Those that no request has, but that hold what later ones may begin
    /// with. They are given up when room is needed.
    pub kv_cached: usize,
    /// Steps taken.
    pub steps: u64,
    /// Tokens of prompts that were computed; again after a pre-emption.
    pub prefill_tokens: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// How often a request had to make room.
    pub preemptions: u64,
    /// Tokens of prompts found in the cache.
    pub prefix_hits: u64,
    /// Tokens of prompts not found in the cache. The last token of a prompt is
    /// always computed, and counts neither here nor there.
    pub prefix_misses: Misses,
    /// Tokens guessed ahead.
    pub proposed: u64,
    /// Guesses that were right.
    pub accepted: u64,
    /// Requests that ended without guesses, since theirs had not paid.
    pub guesses_off: u64,
    /// Seconds that the draft model took.
    pub draft_seconds: f64,
    /// Blocks of the draft model's cache that requests have.
    pub draft_kv_used: usize,
    /// Steps that only decoded.
    pub decode: Reading,
}

/// Why tokens of prompts were not found in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Nothing that is known begins like this.
    pub new: u64,
    /// It was there, and had to make room.
    pub evicted: u64,
    /// What is known goes on differently.
    pub diverged: u64,
    /// What is known ends before.
    pub too_short: u64,
    /// It is known, but not the recurrent state that belongs to its end.
    pub no_state: u64,
}

impl Misses {
    pub(crate) fn add(&mut self, other: Misses) {
        self.new += other.new;
        self.evicted += other.evicted;
        self.diverged += other.diverged;
        self.too_short += other.too_short;
        self.no_state += other.no_state;
    }
}

/// What steps read from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Steps.
    pub steps: u64,
    /// Bytes of weights, keys and values.
    pub bytes: u64,
    /// How long these steps took.
    pub seconds: f64,
}

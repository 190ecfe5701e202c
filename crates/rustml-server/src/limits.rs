//! What a server grants at most.

use std::time::Duration;

/// Bytes of a body that is small, and is read at once.
pub(crate) const SMALL_BODY: usize = 64 << 10;

/// Larger bodies that are read at a time.
pub(crate) const BODIES: usize = 16;

/// Log probabilities that the answers to one request hold: of each token one, and
/// those of the likeliest. Answers end with `length` when they have as many.
pub(crate) const LOGPROBS: usize = 1 << 18;

/// Tokens whose texts one answer of `/tokenize` or `/detokenize` holds.
pub(crate) const TOKEN_TEXTS: usize = 1 << 18;

/// Settings of a server. Everything has a limit, so that no client can take
/// memory, time or places without end.
#[derive(Clone, Debug)]
pub struct Config {
    /// Keys of which a request has to bring one; none are asked for if empty.
    pub api_keys: Vec<String>,
    /// Names by which the server may be called (`Host`), beside those of the
    /// machine itself; by any if `None`.
    pub hosts: Option<Vec<String>>,
    /// Whether requests with different keys may find in the cache what others
    /// computed. They learn then, from times, what others asked.
    pub share_prefixes: bool,
    /// Origins whose pages may call the API from a browser; `*` is all.
    pub cors_origins: Vec<String>,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Answers to one request (`n`, times prompts).
    pub max_choices: usize,
    /// Tokens of an answer; `None` leaves that to the context.
    pub max_tokens: Option<usize>,
    /// Answers that are generated at a time: the engine's sequences.
    pub slots: usize,
    /// Answers that wait for a slot; those beyond are refused with 429.
    pub queue: usize,
    /// Connections that are open at a time; for those beyond, idle ones are closed.
    pub connections: usize,
    /// Time for the head of a request, and for its body.
    pub read_timeout: Duration,
    /// Time that a connection may be open without a request.
    pub idle_timeout: Duration,
    /// Time in which a client has to take some of what is sent to it.
    pub write_timeout: Duration,
    /// Steps by which a client may be behind, before its request is cancelled.
    pub backlog: usize,
    /// Time between comments that keep a waiting stream open.
    pub keep_alive: Duration,
    /// Time without any progress of a step, after which `/ready` says so.
    pub stuck_after: Duration,
    /// Time that running requests have once the server is to end.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            api_keys: Vec::new(),
            hosts: None,
            share_prefixes: false,
            cors_origins: Vec::new(),
            max_body: 4 << 20,
            max_choices: 16,
            max_tokens: None,
            slots: 16,
            queue: 64,
            connections: 512,
            read_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            backlog: 1024,
            keep_alive: Duration::from_secs(5),
            stuck_after: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Bytes that requests take at most beside the engine, about: bodies that are
    /// read, what becomes of the one whose turn it is, and answers with as many
    /// log probabilities as there may be.
    pub fn memory(&self) -> usize {
        /// Of a body's bytes, as messages and as text of a template.
        const UNPACKED: usize = 24;
        /// Of a log probability, with the token's text.
        const LOGPROB: usize = 128;
        let bodies = self.connections * SMALL_BODY + BODIES * self.max_body;
        let unpacked = UNPACKED * self.max_body;
        bodies
            .saturating_add(unpacked)
            .saturating_add(self.slots * LOGPROBS * LOGPROB)
    }
}

//! What a server grants at most.

use std::time::Duration;

/// Settings of a server. Everything has a limit, so that no client can take
/// memory, time or places without end.
#[derive(Clone, Debug)]
pub struct Config {
    /// Keys of which a request has to bring one; none are asked for if empty.
    pub api_keys: Vec<String>,
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
    /// Connections that are open at a time; those beyond wait to be accepted.
    pub connections: usize,
    /// Time for the head of a request, and for its body.
    pub read_timeout: Duration,
    /// Time in which a client has to take some of what is sent to it.
    pub write_timeout: Duration,
    /// Steps by which a client may be behind, before its request is cancelled.
    pub backlog: usize,
    /// Time between comments that keep a waiting stream open.
    pub keep_alive: Duration,
    /// Time that running requests have once the server is to end.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            max_body: 4 << 20,
            max_choices: 16,
            max_tokens: None,
            slots: 16,
            queue: 64,
            connections: 512,
            read_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            backlog: 1024,
            keep_alive: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

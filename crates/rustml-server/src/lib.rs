//! OpenAI's API over HTTP, and a chat page, for one model and many users.
//!
//! One thread owns the engine and does nothing but step it (`worker.rs`); a
//! small runtime serves HTTP, and hands requests over by a channel. So this
//! crate computes nothing: it turns JSON into the engine's requests and their
//! updates into JSON.
//!
//! What holds throughout:
//!
//! - A field of a request is honoured, or the request is refused with a 400
//!   that names it; the few fields that are accepted without effect are listed
//!   in `docs/server.md`.
//! - Every error is an object in OpenAI's shape.
//! - Bodies, answers, waiting requests, connections and times are bounded
//!   ([`Config`]), and a client that is gone costs no further step.
//!
//! ```no_run
//! use rustml_server::{serve, Config, Served};
//! use std::net::TcpListener;
//! use std::sync::atomic::AtomicBool;
//! # fn example(served: Served) -> std::io::Result<()> {
//! let listeners = vec![TcpListener::bind("127.0.0.1:8080")?];
//! static STOP: AtomicBool = AtomicBool::new(false);
//! serve(listeners, served, Config::default(), &STOP)
//! # }
//! ```

#![forbid(unsafe_code)]

mod auth;
mod body;
mod call_object;
mod calls;
mod chat;
mod classify;
mod completions;
mod connections;
mod conversation;
mod embeddings;
mod encoder;
mod job;
mod lane;
mod limits;
mod metrics;
mod models;
mod openapi;
mod page;
mod prepare;
mod rerank;
mod responses;
mod routes;
mod serve;
mod spoken;
mod sse;
mod tokenize;
mod tools;
mod types;
mod worker;

pub use body::check_body;
pub use encoder::{Encoder, Encodes, Labels, MakeEncoder, Probabilities};
pub use limits::Config;
pub use serve::serve;
pub use worker::MakeEngine;

use encoder::EncoderThread;
use lane::Lane;
use metrics::Metrics;
use rustml_engine::grammar::{GrammarError, Grammars};
use rustml_tokenizer::Tokenizer;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use types::ApiError;
use worker::Worker;

/// The model that is served.
pub struct Served {
    /// Its names, the first of which is its own.
    pub names: Vec<String>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Positions of a sequence.
    pub context: usize,
    /// Changes whenever the same request may get other tokens.
    pub fingerprint: String,
    /// Bytes a second that this machine can read, which decoding can come
    /// close to; for `/metrics`.
    pub roof: Option<f64>,
    /// Makes its engine, if it generates text.
    pub engine: Option<MakeEngine>,
    /// How it turns texts into vectors, if it does.
    pub encodes: Option<(Encodes, MakeEncoder)>,
}

/// What all handlers share.
pub(crate) struct App {
    config: Config,
    keys: auth::Keys,
    names: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    grammars: OnceLock<Result<Grammars, GrammarError>>,
    /// Schemas and grammars that are compiled.
    compiling: Lane,
    /// Large bodies that become requests.
    reading: Lane,
    /// Large bodies that arrive.
    bodies: body::Places,
    /// Answers with log probabilities, which may be large, until they are sent.
    large: Arc<Semaphore>,
    context: usize,
    fingerprint: String,
    created: u64,
    metrics: Arc<Metrics>,
    worker: Worker,
    encoder: Option<(Encodes, EncoderThread)>,
    draining: AtomicBool,
}

impl App {
    fn new(served: Served, config: Config) -> Result<App, String> {
        let metrics = Arc::new(Metrics::new(config.slots, served.roof));
        let worker = match served.engine {
            Some(make) => Worker::start(make, &config, metrics.clone())?,
            None => Worker::none(),
        };
        let encoder = match served.encodes {
            Some((encodes, make)) => {
                let thread = EncoderThread::start(&encodes, make, &config, metrics.clone())?;
                Some((encodes, thread))
            }
            None => None,
        };
        Ok(App {
            keys: auth::Keys::new(&config.api_keys),
            names: served.names,
            tokenizer: served.tokenizer,
            grammars: OnceLock::new(),
            compiling: Lane::new(config.queue),
            reading: Lane::new(config.queue),
            bodies: body::Places::new(),
            large: Arc::new(Semaphore::new(config.slots.max(1))),
            context: served.context,
            fingerprint: served.fingerprint,
            created: now(),
            metrics,
            worker,
            encoder,
            draining: AtomicBool::new(false),
            config,
        })
    }
    /// How the model turns texts into vectors, and the thread that does, if it does.
    fn encodes(&self, model: &str) -> Result<(&Encodes, &EncoderThread), ApiError> {
        let there = self.encoder.as_ref().map(|(how, thread)| (how, thread));
        there.ok_or_else(|| {
            let says = format!(
                "the model {model} generates text and does not embed; embeddings need one that was \
                 trained for them, or a pooling that is named when the server starts"
            );
            ApiError::field("model", says).code("model_does_not_embed")
        })
    }

    /// How the model turns texts into vectors, if it does.
    fn embeds(&self, model: &str) -> Result<&Encodes, ApiError> {
        match self.encodes(model)?.0 {
            encodes if encodes.labels.is_none() => Ok(encodes),
            _ => {
                let says = format!(
                    "the model {model} gives scores and no vectors; ask it at /v1/rerank or /classify"
                );
                Err(ApiError::field("model", says).code("model_does_not_embed"))
            }
        }
    }

    /// What the model gives scores of, if it does.
    fn labels(&self, model: &str) -> Result<&Labels, ApiError> {
        let encodes = self.encoder.as_ref().map(|(encodes, _)| encodes);
        encodes.and_then(|e| e.labels.as_ref()).ok_or_else(|| {
            let says =
                format!("the model {model} gives no scores; that needs a reranker or a classifier");
            ApiError::field("model", says).code("model_does_not_rerank")
        })
    }

    /// Requests that are not over.
    fn open(&self) -> usize {
        let encoding = self.encoder.as_ref().map_or(0, |(_, thread)| thread.open());
        self.worker.open() + encoding
    }

    /// Ends all requests.
    fn cancel_all(&self) {
        self.worker.cancel_all();
        if let Some((_, thread)) = &self.encoder {
            thread.cancel_all();
        }
    }

    /// Whether what computes is at work, or ready to be.
    fn is_alive(&self) -> bool {
        let encodes = self.encoder.as_ref().is_none_or(|(_, t)| t.is_alive());
        self.worker.is_alive() && encodes
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

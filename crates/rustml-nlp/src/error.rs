//! What can go wrong, as sentences for the user.

use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be loaded or a text not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's name leads nowhere.
    #[error(transparent)]
    Hub(#[from] rustml_hub::Error),
    /// The files cannot be read.
    #[error(transparent)]
    File(#[from] rustml_io::Error),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] rustml_model::Error),
    /// Text cannot be turned into tokens.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The model.
        path: PathBuf,
        /// The reason.
        source: rustml_tokenizer::Error,
    },
    /// A model cannot guess for another.
    #[error("{}: {source}", path.display())]
    Draft {
        /// The draft model.
        path: PathBuf,
        /// The reason.
        source: rustml_engine::VocabularyMismatch,
    },
    /// More positions are asked for than the model can have.
    #[error("{}: a context of {wanted} positions is asked for, but the model has {most} at most; lower --ctx-size", path.display())]
    Context {
        /// The model.
        path: PathBuf,
        /// Positions asked for.
        wanted: usize,
        /// Positions it can have.
        most: usize,
    },
    /// A text cannot be embedded, or what is beside the model does not say how.
    #[error("{0}")]
    Embedding(String),
    /// The model gives values that are no finite numbers.
    #[error("{0}")]
    NotFinite(String),
    /// There is no memory for the weights.
    #[error("{}: its weights take {needed} MiB of memory, but only {available} MiB can be had; end other programs, raise the memory limit, take a smaller format, or give --force", path.display())]
    Memory {
        /// The model.
        path: PathBuf,
        /// MiB that it takes.
        needed: u64,
        /// MiB that there are.
        available: u64,
    },
    /// A conversation is as long as the context, so that no answer fits.
    #[error("the conversation is {tokens} tokens long now, but the context holds {context}; begin a new one, or raise --ctx-size")]
    ConversationTooLong {
        /// Its tokens.
        tokens: usize,
        /// Positions of a sequence.
        context: usize,
    },
    /// A request cannot be run.
    #[error(transparent)]
    Refused(#[from] rustml_engine::Refusal),
    /// One of several requests cannot be run.
    #[error("prompt {number}: {source}")]
    RefusedOne {
        /// Which, from 1.
        number: usize,
        /// The reason.
        source: rustml_engine::Refusal,
    },
    /// A conversation was asked for, but the model says not how to write one.
    #[error("{}: the model carries no chat template; it may be a base model that only continues text", .0.display())]
    NoTemplate(PathBuf),
}

use std::path::PathBuf;

/// What can go wrong between a model's files, a text and a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that has to be there is missing or unreadable.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("`{}` {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        message: String,
    },
    /// GGUF metadata of the wrong type.
    #[error(transparent)]
    Metadata(#[from] rustml_io::Error),
    /// A vocabulary that contradicts itself or lacks something.
    #[error("the vocabulary is unusable: {0}")]
    Vocabulary(String),
    /// A kind of tokenizer that this crate does not know.
    #[error("{0}")]
    Unsupported(String),
    /// A text that the vocabulary cannot express.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// A chat template that is broken, refuses the conversation or asks for
    /// too much.
    #[error("the chat template {0}")]
    Template(String),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Shorthand for [`Error::Vocabulary`].
pub(crate) fn bad_vocabulary<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Vocabulary(message.into()))
}

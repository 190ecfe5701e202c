//! What can go wrong with a model, as sentences for its user.

use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The files could not be read.
    #[error(transparent)]
    Io(#[from] rustml_io::Error),
    /// No configuration beside the weights.
    #[error("{}: there is no config.json beside the weights; it says which architecture they are of", .0.display())]
    NoConfig(PathBuf),
    /// An architecture nobody here knows.
    #[error("{}: the architecture '{name}' is not supported; supported are {known}", path.display())]
    UnknownArchitecture {
        /// The model.
        path: PathBuf,
        /// As the file names it.
        name: String,
        /// What is supported.
        known: String,
    },
    /// A setting is missing or makes no sense.
    #[error("{}: {what}", path.display())]
    Config {
        /// The model.
        path: PathBuf,
        /// A sentence that names the setting.
        what: String,
    },
    /// A tensor is missing, or is not what the configuration says.
    #[error("{}: {what}", path.display())]
    Tensor {
        /// The model.
        path: PathBuf,
        /// A sentence that names the tensor.
        what: String,
    },
    /// Memory for something could not be had.
    #[error("not enough memory for {what} ({} MiB)", bytes >> 20)]
    Memory {
        /// What it was for.
        what: String,
        /// How much it was.
        bytes: usize,
    },
    /// The instruction set asked for cannot be used.
    #[error("{0}")]
    Isa(String),
    /// The threads could not be started.
    #[error("cannot start the compute threads: {0}")]
    Threads(std::io::Error),
}

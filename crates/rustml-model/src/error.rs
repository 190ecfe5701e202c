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
    #[error("{}: the architecture {name} is not supported; `rustml inspect --architectures` lists those that are", path.display())]
    UnknownArchitecture {
        /// The model.
        path: PathBuf,
        /// As the file names it, quoted.
        name: String,
    },
    /// A setting is missing or makes no sense.
    #[error("{}: {what}", path.display())]
    Config {
        /// The file that holds the settings.
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
    /// The model encodes texts, and has no head that makes tokens of vectors.
    #[error("{}: this model encodes texts and cannot continue them: {arch} has no output layer; `rustml embed` makes vectors of texts, `rustml rerank` puts them in order", path.display())]
    NoHead {
        /// The model.
        path: PathBuf,
        /// Its architecture.
        arch: &'static str,
    },
    /// A model carries states that cannot go back by some tokens, as drafts need.
    #[error("{}: no draft model can be used with {arch}: its recurrent state cannot take back tokens that were rejected", path.display())]
    NoDraft {
        /// The model.
        path: PathBuf,
        /// Its architecture.
        arch: &'static str,
    },
    /// Memory for something could not be had.
    #[error("not enough memory for {what} ({} MiB)", bytes.div_ceil(1 << 20))]
    Memory {
        /// What it was for.
        what: String,
        /// How much it was.
        bytes: usize,
    },
    /// The instruction set asked for cannot be used.
    #[error("{0}")]
    Isa(String),
    /// A word that says neither yes nor no.
    #[error("RUSTML_PIN is {}, and can be 1, each compute thread on a CPU of its own, or 0", show(.0))]
    Pin(String),
    /// The threads could not be started.
    #[error("cannot start the compute threads: {0}")]
    Threads(std::io::Error),
}

/// Text from a file, quoted for a message: control characters escaped, so that
/// no file can drive the terminal, and cut when it is absurdly long.
pub(crate) fn show(text: &str) -> String {
    const MAX: usize = 120;
    let mut out = String::from("`");
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == MAX => {
                out.push_str("...");
                break;
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out.push('`');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_escaped_and_cut() {
        assert_eq!(show("blk.0.é"), "`blk.0.é`");
        assert_eq!(show("a\x1b[2J\u{9b}\n"), "`a\\u{1b}[2J\\u{9b}\\n`");
        let long = "ü".repeat(121);
        assert_eq!(show(&long), format!("`{}...`", "ü".repeat(120)));
        assert_eq!(show(&long[2..]), format!("`{}`", "ü".repeat(120)));
    }
}

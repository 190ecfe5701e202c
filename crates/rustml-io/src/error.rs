//! What can go wrong with a model file, as sentences for its user.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::{collections::TryReserveError, io};

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was attempted, e.g. `open`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file or directory is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// No tensor of that name.
    #[error("{} holds no tensor named {}", path.display(), show(name))]
    MissingTensor {
        /// The model.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The tensor is there, but in a type that cannot be computed with.
    #[error(
        "tensor {} of {} is stored as {}, which rustml cannot compute with; convert the model to \
         one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4",
        show(name), path.display(), show_bare(type_name)
    )]
    UnsupportedType {
        /// The model.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type as the file names it.
        type_name: String,
    },
    /// The tensor is there, but one of its dimensions is 0.
    #[error("tensor {} of {} holds no values: its shape is {shape:?}", show(name), path.display())]
    EmptyTensor {
        /// The model.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape, outermost first.
        shape: Vec<usize>,
    },
    /// A metadata value is of another type, or out of the range asked for.
    #[error("metadata key {} is {found}, but {expected} is needed", show(key))]
    Metadata {
        /// The key.
        key: String,
        /// What it is.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(Problem) -> Error {
        let path = path.to_owned();
        move |problem| Error::File { path, problem }
    }
}

/// What is wrong with one file, apart from its name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not a model file at all; the text says what it is and what to do.
    #[error("{0}")]
    NotAModel(String),
    /// A model, but of a kind this crate does not read.
    #[error("{0}")]
    Unsupported(String),
    /// The header is complete, but some of the tensors' data is missing.
    #[error(
        "the file ends {missing} bytes before the end of tensor {}: \
         it is truncated or damaged; download it again",
        show(tensor)
    )]
    Truncated {
        /// Bytes missing at the end.
        missing: u64,
        /// The tensor that reaches furthest beyond the end.
        tensor: String,
    },
    /// The contents contradict themselves or the format.
    #[error("{0}")]
    Malformed(String),
    /// The header asks for more memory than there is.
    #[error("not enough memory to read the header: {0}")]
    Memory(#[from] TryReserveError),
    /// The caller of a writer declared one thing and wrote another.
    #[error("{0}")]
    Misuse(String),
}

/// `Err(Problem::Malformed(format!(..)))`.
macro_rules! malformed {
    ($($text:tt)*) => { Err($crate::error::Problem::Malformed(format!($($text)*))) };
}
pub(crate) use malformed;

/// A name from a file, quoted for a message: control characters escaped, so
/// that no file can drive the terminal, and cut when it is absurdly long.
pub(crate) fn show(name: &str) -> impl Display + '_ {
    Show { name, quotes: true }
}

/// Like [`show`], without the quotation marks.
pub(crate) fn show_bare(name: &str) -> impl Display + '_ {
    Show {
        name,
        quotes: false,
    }
}

struct Show<'a> {
    name: &'a str,
    quotes: bool,
}

impl Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 120;
        let quote = if self.quotes { "`" } else { "" };
        f.write_str(quote)?;
        let end = self
            .name
            .char_indices()
            .nth(MAX)
            .map_or(self.name.len(), |(at, _)| at);
        for c in self.name[..end].chars() {
            match c {
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => write!(f, "{c}")?,
            }
        }
        let dots = if end < self.name.len() { "..." } else { "" };
        write!(f, "{dots}{quote}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_escaped_and_cut() {
        assert_eq!(show("blk.0.é").to_string(), "`blk.0.é`");
        assert_eq!(show("a\x1b[2Jb\n").to_string(), "`a\\u{1b}[2Jb\\n`");
        assert_eq!(show_bare("F8_E4M3").to_string(), "F8_E4M3");
        let long = "ü".repeat(1000);
        assert_eq!(show(&long).to_string(), format!("`{}...`", "ü".repeat(120)));
    }
}

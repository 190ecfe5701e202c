//! What can go wrong with a template.

/// Why a template cannot be used, or not for this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its own words about what it was given (`raise_exception`).
    #[error("does not accept this conversation: {0}")]
    Raised(String),
    /// A limit was hit, before more was spent.
    #[error("{0}")]
    Limit(Limit),
    /// A mistake in it, or something that this engine does not know.
    #[error("failed{}: {says}", match .line { Some(line) => format!(" in line {line}"), None => String::new() })]
    Failed {
        /// Where, from 1.
        line: Option<u32>,
        /// What.
        says: String,
    },
}

/// What a template may not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Steps, and bytes that they look at.
    #[error("takes too much work for this conversation")]
    Work,
    /// Bytes that it makes.
    #[error("takes too much memory for this conversation")]
    Memory,
    /// Time by the clock.
    #[error("takes too long for this conversation")]
    Time,
    /// Calls, blocks or values within each other.
    #[error("nests calls or values too deeply")]
    Depth,
    /// The system has no memory for its stack.
    #[error("could not be run: the system gives no thread for it")]
    Thread,
}

impl Fault {
    /// The same, with the line if it has none.
    pub(crate) fn at_line(self, at: u32) -> Fault {
        match self {
            Fault::Failed { line: None, says } => Fault::Failed {
                line: Some(at),
                says,
            },
            other => other,
        }
    }
}

impl From<Limit> for Fault {
    fn from(limit: Limit) -> Fault {
        Fault::Limit(limit)
    }
}

/// A mistake, whose line is added on the way up.
pub(crate) fn fail<T>(says: impl Into<String>) -> Result<T, Fault> {
    Err(mistake(says))
}

pub(crate) fn mistake(says: impl Into<String>) -> Fault {
    Fault::Failed {
        line: None,
        says: says.into(),
    }
}

/// A text to be shown in a message: one line, and not all of a long one.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = shown.char_indices().nth(400) {
        shown.truncate(at);
        shown.push_str("...");
    }
    shown
}

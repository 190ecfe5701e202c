//! Everything that can go wrong between a model's name and its files.

use std::io;
use std::path::{Path, PathBuf};

use crate::text::bytes;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a name could not be turned into local files, and what to do about it.
///
/// Each message is one sentence for the person at the keyboard; the fields are
/// for programs. Text that a server sent is shortened and stripped of control
/// characters before it gets in here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is neither a repository's nor a path's.
    #[error("'{name}' is not a model name: {why}; write org/name, org/name@revision, org/name:Q4_K_M, org/name/file.gguf or the path of a local model")]
    BadName {
        /// What was asked for.
        name: String,
        /// What is wrong with it.
        why: String,
    },

    /// A name that can only be a path, and nothing is there.
    #[error("there is no file or directory '{path}': check the path, or give a model of the hub as org/name")]
    NoSuchPath {
        /// The path as given.
        path: PathBuf,
    },

    /// A local directory without a model in it.
    #[error("the directory '{path}' holds no model ({why}): it needs config.json with model.safetensors (or its index and shards), or a .gguf file; rename the directory if you meant the hub's model of that name")]
    NotAModel {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        why: String,
    },

    /// An environment variable or a setter holds something unusable.
    #[error("{variable} is unusable: {why}")]
    BadSetting {
        /// The variable or setting.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },

    /// The hub knows no such model (or does not show it to this caller).
    #[error("{host} has no model '{name}', or it is private: check the spelling (did you mean a path? nothing of that name is here), and set HF_TOKEN for a private model")]
    NotFound {
        /// The model.
        name: String,
        /// The server asked.
        host: String,
    },

    /// The model exists, the revision does not.
    #[error("'{name}' has no revision '{revision}': give a branch, a tag or a full commit id, or leave out '@{revision}' for the newest")]
    NoRevision {
        /// The model.
        name: String,
        /// The revision asked for.
        revision: String,
    },

    /// The model exists, the file does not.
    #[error("'{name}' has no file '{file}'{}", shown(.available))]
    NoFile {
        /// The model.
        name: String,
        /// The file or tag asked for.
        file: String,
        /// Files that could be meant.
        available: Vec<String>,
    },

    /// The model's licence has to be accepted first, or the token lacks rights.
    #[error("'{name}' is gated (HTTP {status}): accept the licence at {page}, then {}", token_advice(.token_sent))]
    Gated {
        /// The model.
        name: String,
        /// 401 or 403.
        status: u16,
        /// The page on which the licence is accepted.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },

    /// Refused without saying why: the hub answers 401 for missing, private
    /// and gated models alike when no token is sent.
    #[error("{host} refused access to '{name}' (HTTP {status}{detail}): {}", refused_advice(.token_sent, .page))]
    Unauthorized {
        /// The model.
        name: String,
        /// The server asked.
        host: String,
        /// The status.
        status: u16,
        /// `, "what the server said"` or empty.
        detail: String,
        /// The model's page.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },

    /// Too many requests.
    #[error("{host} limits the rate of requests (HTTP 429): try again {}; with HF_TOKEN set the limits are higher", wait_advice(.wait))]
    RateLimited {
        /// The server asked.
        host: String,
        /// Seconds to wait, if the server said.
        wait: Option<u64>,
    },

    /// The server has a problem of its own.
    #[error("{host} answered HTTP {status}{detail} when asked for {what}: try again in a while, or set HF_ENDPOINT to a mirror")]
    Server {
        /// The server asked.
        host: String,
        /// The status.
        status: u16,
        /// `, "what the server said"` or empty.
        detail: String,
        /// What was asked for.
        what: String,
    },

    /// The answer is not what a hub answers.
    #[error("{host} answered something unexpected when asked for {what}: {why}; check HF_ENDPOINT and any proxy in between")]
    BadAnswer {
        /// The server asked.
        host: String,
        /// What was asked for.
        what: String,
        /// What was wrong.
        why: String,
    },

    /// No connection to the server.
    #[error("could not reach {host}: {why}; check the network, HF_ENDPOINT and any proxy, set HF_HUB_OFFLINE=1 to use only what is already downloaded, or give the path of a local model")]
    Unreachable {
        /// The server asked.
        host: String,
        /// What failed.
        why: Unreachable,
    },

    /// Offline mode, but the hub would have to be asked.
    #[error("'{name}' cannot be downloaded because HF_HUB_OFFLINE is set, and {why}: unset HF_HUB_OFFLINE once, or give the path of a local model")]
    Offline {
        /// What was asked for.
        name: String,
        /// Why the cache does not do.
        why: String,
    },

    /// Asked to remove something that was never downloaded.
    #[error("'{name}' is not in the cache {cache}: only downloaded models can be removed; `rustml list` shows them")]
    NotCached {
        /// What was asked for.
        name: String,
        /// The cache directory.
        cache: PathBuf,
    },

    /// Several files would do.
    #[error("'{name}' has several GGUF files and none is the usual choice: name one, as in {name}:TAG or {name}/FILE{}", shown(.candidates))]
    Ambiguous {
        /// The model.
        name: String,
        /// The files.
        candidates: Vec<String>,
    },

    /// A model in formats that are not read here.
    #[error("'{name}' cannot be run from what it offers: {why}; look for a version with model.safetensors or a GGUF file")]
    Unsupported {
        /// The model.
        name: String,
        /// What was found or missing.
        why: String,
    },

    /// A file name that would leave the cache.
    #[error("'{name}' lists the file name {file:?}, which is not a plain relative path: nothing was written; do not trust this model")]
    UnsafeFileName {
        /// The model.
        name: String,
        /// The name, escaped when shown.
        file: String,
    },

    /// The disk is full, or would be.
    #[error("the disk of {dir} is full: {} more needed{}; free some space, or point HF_HOME at a larger disk", bytes(*.needed), free_text(.free))]
    NoSpace {
        /// Where the files go.
        dir: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free, if known.
        free: Option<u64>,
    },

    /// The transfer ended early, several times over.
    #[error("the transfer of '{file}' from {host} was cut off after {} of {}{detail}: {}", bytes(*.got), bytes(*.size), resume_text(.kept))]
    CutOff {
        /// The file.
        file: String,
        /// The server that sent it.
        host: String,
        /// Bytes on disk.
        got: u64,
        /// Bytes of the whole.
        size: u64,
        /// `" (reason)"` or empty.
        detail: String,
        /// Whether what arrived is kept for the next attempt.
        kept: bool,
    },

    /// The bytes are not those the hub announced.
    #[error("'{file}' arrived damaged: {why}; it was deleted, so run the command again, and if it happens twice suspect a proxy or the mirror in HF_ENDPOINT")]
    Corrupt {
        /// The file.
        file: String,
        /// What differs.
        why: String,
    },

    /// Another process is downloading it.
    #[error(
        "'{name}' is being downloaded by another process: wait for it or stop it, then try again"
    )]
    Busy {
        /// The model.
        name: String,
    },

    /// The file system refused.
    #[error("could not {action} '{path}': {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What kept a connection from coming about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// The name could not be resolved (often: no network at all).
    #[error("the name could not be resolved")]
    Name,
    /// Nobody listens there.
    #[error("the connection was refused")]
    Refused,
    /// No connection in time.
    #[error("it did not answer in time")]
    Timeout,
    /// The network says there is no way there.
    #[error("there is no route to it")]
    NoRoute,
    /// The certificate or the handshake.
    #[error("no secure connection ({0}); behind a proxy that inspects TLS, set SSL_CERT_FILE to its certificates")]
    Tls(String),
    /// The proxy.
    #[error("the proxy failed ({0})")]
    Proxy(String),
    /// The connection broke again and again.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    /// Wraps what the file system said; a full disk gets its own variant.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// As [`Error::io`], for writes of which `left` bytes were still to come.
    pub(crate) fn write(path: &Path, left: u64, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace {
                dir: path.parent().unwrap_or(path).to_owned(),
                needed: left,
                free: None,
            },
            _ => Error::io("write", path, source),
        }
    }

    /// Whether trying again soon could help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Server { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            Error::RateLimited { .. } | Error::CutOff { .. } => true,
            Error::Unreachable { why, .. } => {
                matches!(why, Unreachable::Broken(_))
            }
            _ => false,
        }
    }
}

fn token_advice(token_sent: &bool) -> &'static str {
    if *token_sent {
        "wait until access is granted, and check that HF_TOKEN belongs to that account and may read gated models"
    } else {
        "set HF_TOKEN to a token of that account"
    }
}

fn refused_advice(token_sent: &bool, page: &str) -> String {
    if *token_sent {
        format!("the token may be expired, mistyped or without read access: renew or unset HF_TOKEN (also the file HF_HOME/token); for a gated model accept the licence at {page}")
    } else {
        format!("the model does not exist, is private or is gated: check the spelling, accept the licence at {page} if it asks for one, then set HF_TOKEN")
    }
}

fn wait_advice(wait: &Option<u64>) -> String {
    match wait {
        Some(seconds) => format!("in {seconds} s"),
        None => "in a few minutes".into(),
    }
}

fn free_text(free: &Option<u64>) -> String {
    match free {
        Some(free) => format!(", {} free", bytes(*free)),
        None => String::new(),
    }
}

fn resume_text(kept: &bool) -> &'static str {
    if *kept {
        "run the command again to continue from there"
    } else {
        "run the command again"
    }
}

/// `": a, b, c"`, at most a screenful.
fn shown(files: &[String]) -> String {
    const SHOWN: usize = 40;
    if files.is_empty() {
        return String::new();
    }
    let mut text = format!(": {}", files[..files.len().min(SHOWN)].join(", "));
    if files.len() > SHOWN {
        text += &format!(" and {} more", files.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_write_errors() {
        let path = Path::new("/cache/blobs/x.incomplete");
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = Error::write(path, 1_500_000_000, kind.into());
            assert!(
                matches!(&error, Error::NoSpace { needed: 1_500_000_000, dir, .. } if dir == Path::new("/cache/blobs"))
            );
            let text = error.to_string();
            assert!(
                text.contains("1.5 GB") && text.contains("HF_HOME"),
                "{text}"
            );
        }
        let denied = Error::write(path, 1, io::ErrorKind::PermissionDenied.into());
        assert!(matches!(
            denied,
            Error::Io {
                action: "write",
                ..
            }
        ));
    }

    #[test]
    fn long_lists_are_cut() {
        let files: Vec<String> = (0..100).map(|i| format!("f{i}")).collect();
        let text = shown(&files);
        assert!(text.ends_with("and 60 more"), "{text}");
        assert_eq!(shown(&[]), "");
    }
}

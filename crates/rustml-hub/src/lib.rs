//! Model names to local files: download, cache, list, remove.
//!
//! [`Hub::resolve`] turns what a person writes (`org/name`, `org/name:Q8_0`,
//! `org/name/file.gguf`, `./dir`) into a directory with `config.json`, or a
//! `.gguf` file: a local path first, then the cache, then the hub.
//!
//! ```no_run
//! # fn main() -> rustml_hub::Result<()> {
//! let hub = rustml_hub::Hub::from_env()?;
//! let path = hub.resolve("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! println!("{}", path.display());
//! # Ok(()) }
//! ```
//!
//! Settings come from the environment or from a builder; the cache alone
//! needs no network:
//!
//! ```
//! # fn main() -> rustml_hub::Result<()> {
//! let dir = std::env::temp_dir().join("no-models-here");
//! let hub = rustml_hub::Hub::from_env()?.cache_dir(&dir).offline(true);
//! assert!(hub.list()?.is_empty());
//! let error = hub.resolve("org/name").unwrap_err();
//! assert!(matches!(error, rustml_hub::Error::Offline { .. }));
//! # Ok(()) }
//! ```
//!
//! # What `hf-hub` does here and what not
//!
//! Every request is one of the [`hf_hub`] crate's (0.5, on blocking `ureq`
//! with rustls; 1.0 brings tokio, reqwest and Xet): it makes the URLs, adds
//! the token and keeps the connections. What it calls a download is not used,
//! because version 0.5.0
//!
//! - asks for gzip with every `Range` and then fails with "Header
//!   Content-Range is missing" where a server compresses (its users report
//!   that of the hub itself) or does not do ranges;
//! - shows the token to whatever host the hub redirects to;
//! - knows no timeouts and follows relative redirects without end;
//! - uses the server's ETag and commit as paths as they stand;
//! - appends the whole file to the part it has when the server ignores the
//!   range, and compares neither size nor hash;
//! - reduces every refusal to its status, so that a gated model cannot be
//!   told from a storage that refuses, nor how long to wait.
//!
//! None of it can be changed from outside, and by the time a progress callback
//! runs the ETag has already been a path. So `hf-hub`'s request builder (its
//! `info_request`, which is open to this) is given the timeouts and the rest
//! that it lacks, and the bytes are received here. It makes no HEAD requests:
//! a file is looked at by asking for its first byte. With `SSL_CERT_FILE` set
//! every request makes its own connection, as `ureq` shares none between a
//! client and a request that trust different certificates.
//!
//! Xet-backed files are fetched over plain HTTP, which the hub offers for all
//! files up to 50 GB.
//!
//! # Invariants
//!
//! - The cache has Hugging Face's layout: models that other tools downloaded
//!   are found, and ours are found by them.
//! - What is in the cache is handed out without a request; only [`Hub::pull`]
//!   asks for something newer. A snapshot that lacks files by which a model
//!   ends or chats is completed once, at its own commit. What a cached file can
//!   serve is not downloaded: with only `Q8_0` in the cache, `org/name` means
//!   that file.
//! - A name in a snapshot stands for a complete file: bytes arrive in
//!   `<etag>.incomplete`, are compared with the announced size and, where the
//!   ETag is a SHA-256 (all large files), with that, and are then renamed. A
//!   branch moves to a new commit only when all of its files are here.
//! - Nothing a server sends becomes a path unless it is a plain relative one,
//!   and the token is shown to the endpoint's origin alone.
//! - Two processes may download the same model: one waits for the other.

#![forbid(unsafe_code)]

mod cache;
mod client;
mod config;
mod download;
mod error;
mod http;
mod manage;
mod name;
mod progress;
mod select;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cache::{create_parent, read_shards, Cached, Repo};
use client::{Client, Listing, Remote};
use config::{Config, Endpoint, Token};
use download::{fetch, Job};
use name::{is_safe_path, Name, Want};
use progress::Meter;
use select::{choose, NoPlan, Plan, INDEX, SMALL, TEMPLATE};

pub use error::{Error, Result, Unreachable};
pub use manage::{CachedFile, CachedModel, CachedRevision, Removed};
pub use progress::Progress;

/// A cache of models and the hub that fills it.
pub struct Hub {
    config: Config,
    client: Client,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("cache", &self.config.cache)
            .field("endpoint", &self.config.endpoint.url())
            .field("token", &self.config.token.as_ref().map(|_| "..."))
            .field("offline", &self.config.offline)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Settings from the environment variables of Hugging Face's tools.
    ///
    /// - cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`,
    ///   `XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`
    /// - token: `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file
    ///   `HF_TOKEN_PATH`, `HF_HOME/token`, `~/.cache/huggingface/token`
    /// - server: `HF_ENDPOINT`; no server at all: `HF_HUB_OFFLINE`
    /// - `HF_HUB_DOWNLOAD_TIMEOUT`, `HF_HUB_DISABLE_PROGRESS_BARS`, `SSL_CERT_FILE`,
    ///   `HTTPS_PROXY` and so on
    ///
    /// # Errors
    /// [`Error::BadSetting`] if one of them is unusable, [`Error::Io`] if the
    /// token file cannot be read.
    pub fn from_env() -> Result<Hub> {
        let config = Config::from_lookup(|name| std::env::var_os(name), std::env::home_dir())?;
        Ok(Hub::with(config))
    }

    fn with(config: Config) -> Hub {
        Hub {
            client: Client::new(&config),
            config,
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Config)) -> Hub {
        set(&mut self.config);
        Hub::with(self.config)
    }

    /// Uses another cache: the directory that holds `models--org--name`.
    pub fn cache_dir(self, dir: impl Into<PathBuf>) -> Hub {
        self.set(|config| config.cache = dir.into())
    }

    /// Asks another server, such as `http://localhost:8080`.
    ///
    /// # Errors
    /// [`Error::BadSetting`] unless it is an http or https URL.
    pub fn endpoint(self, url: &str) -> Result<Hub> {
        let endpoint = Endpoint::parse(url)?;
        Ok(self.set(|config| config.endpoint = endpoint))
    }

    /// Uses this token, or none.
    ///
    /// # Errors
    /// [`Error::BadSetting`] if it could not be a token.
    pub fn token(self, token: Option<&str>) -> Result<Hub> {
        let token = token
            .map(|token| Token::new(token, "the token"))
            .transpose()?;
        Ok(self.set(|config| config.token = token))
    }

    /// Whether to do without any request.
    pub fn offline(self, offline: bool) -> Hub {
        self.set(|config| config.offline = offline)
    }

    /// How downloads show themselves.
    pub fn progress(self, progress: Progress) -> Hub {
        self.set(|config| config.progress = progress)
    }

    /// How often to try again after a passing failure (4 by default), and how
    /// long to wait before the first time (0.5 s; doubled each time).
    pub fn retries(self, retries: u32, wait: Duration) -> Hub {
        self.set(|config| (config.retries, config.retry_wait) = (retries, wait))
    }

    /// The longest silence of a server before a connection counts as broken
    /// (30 s by default).
    pub fn timeout(self, timeout: Duration) -> Hub {
        self.set(|config| config.timeout = timeout)
    }

    /// The cache directory in use.
    pub fn cache(&self) -> &Path {
        &self.config.cache
    }

    /// Finds a model: a local path of that name, else the cache, else the hub.
    ///
    /// Gives a directory with `config.json`, `tokenizer.json` and
    /// `model.safetensors` (or index and shards), or a `.gguf` file (of a
    /// split one the first part; the others lie beside it).
    ///
    /// # Errors
    /// Any [`Error`]; each says what to do about it.
    pub fn resolve(&self, name: &str) -> Result<PathBuf> {
        if let Some(path) = local(name)? {
            return Ok(path);
        }
        let name = Name::parse(name)?;
        match Repo::new(&self.config.cache, &name).find(&name) {
            Cached::Complete(path) => Ok(path),
            Cached::Usable {
                path,
                commit,
                unknown,
            } => self.complete(&name, path, commit, &unknown),
            Cached::No(why) if self.config.offline => Err(Error::Offline {
                name: name.to_string(),
                why,
            }),
            Cached::No(_) => self.download(&name),
        }
    }

    /// Fetches what a snapshot may lack, of the same commit. Where that cannot
    /// be, the snapshot is used as it is, and that is said.
    fn complete(
        &self,
        name: &Name,
        path: PathBuf,
        commit: String,
        unknown: &[&str],
    ) -> Result<PathBuf> {
        let at_commit = Name {
            revision: Some(commit),
            ..name.clone()
        };
        let why = match self.config.offline {
            true => "it is not asked while offline".to_owned(),
            false => match self.download(&at_commit) {
                Ok(path) => return Ok(path),
                // It may be gone, gated by now, or out of reach: what is here
                // still runs.
                Err(e) => e.to_string(),
            },
        };
        // Most models have their template elsewhere, or none.
        let telling: Vec<&str> = unknown.iter().copied().filter(|f| *f != TEMPLATE).collect();
        if self.config.progress != Progress::Quiet && !telling.is_empty() {
            progress::say(&format!(
                "warning: the cache does not have {} of {name}, and whether the hub has is not \
                 known ({why}); end tokens or the chat template may be missing",
                telling.join(", ")
            ));
        }
        Ok(path)
    }

    /// As [`Hub::resolve`], but always asks the hub for the newest revision
    /// (and does not look at local paths). Files that have not changed are
    /// not downloaded again.
    ///
    /// # Errors
    /// Any [`Error`]; each says what to do about it.
    pub fn pull(&self, name: &str) -> Result<PathBuf> {
        let name = Name::parse(name)?;
        if self.config.offline {
            return Err(Error::Offline {
                name: name.to_string(),
                why: "pulling means asking the hub".into(),
            });
        }
        self.download(&name)
    }

    /// All models in the cache, by name.
    ///
    /// # Errors
    /// [`Error::Io`] if the cache exists and cannot be listed.
    pub fn list(&self) -> Result<Vec<CachedModel>> {
        manage::list(&self.config.cache)
    }

    /// Removes a model from the cache; `org/name@revision` removes one
    /// revision, `org/name:TAG` and `org/name/file.gguf` one GGUF file.
    /// Nothing outside the cache is touched.
    ///
    /// # Errors
    /// [`Error::NotCached`] if it is not there, [`Error::Busy`] while another
    /// process is downloading it, [`Error::Io`] if the file system refuses.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let not_cached = || Error::NotCached {
            name: text::harmless(name),
            cache: self.config.cache.clone(),
        };
        let name = match Name::parse(name) {
            Err(Error::NoSuchPath { .. }) => return Err(not_cached()),
            name => name?,
        };
        manage::remove(&self.config.cache, &name)
    }

    fn download(&self, name: &Name) -> Result<PathBuf> {
        let listing = self.client.list(name)?;
        let plan = choose(&listing.files, &name.want).map_err(|e| no_plan(name.repo.clone(), e))?;
        let repo = Repo::new(&self.config.cache, name);
        create_parent(&repo.blobs().join("x"))?;
        let commit = listing.commit.as_str();

        let (mut files, path) = match plan {
            Plan::Gguf(parts) => {
                let path = repo.pointer(commit, &parts[0]);
                (parts, path)
            }
            Plan::Safetensors { mut small, weights } => {
                for file in SMALL.iter().filter(|s| !small.iter().any(|f| f == *s)) {
                    repo.mark_absent(commit, file);
                }
                small.push(weights.to_owned());
                (small, repo.snapshot(commit))
            }
        };
        let mut remotes = self.look_at(name, &listing, &files)?;
        if files.iter().any(|file| file == INDEX) {
            let shards = self.shards(name, &repo, &listing, &remotes[INDEX])?;
            remotes.append(&mut self.look_at(name, &listing, &shards)?);
            files.extend(shards);
        }
        self.fetch_all(name, &repo, commit, &files, &remotes)?;
        // Last, so that a branch never stands for half a snapshot.
        repo.write_ref(name.revision(), commit)?;
        Ok(path)
    }

    fn look_at(
        &self,
        name: &Name,
        listing: &Listing,
        files: &[String],
    ) -> Result<BTreeMap<String, Remote>> {
        // Before any of them is asked for.
        for file in files {
            if !is_safe_path(file) {
                return Err(Error::UnsafeFileName {
                    name: name.repo.clone(),
                    file: file.clone(),
                });
            }
        }
        let look = |file: &String| {
            let remote = self.client.look_at(name, &listing.commit, file)?;
            Ok((file.clone(), remote))
        };
        files.iter().map(look).collect()
    }

    /// Fetches the index and reads which shards it names.
    fn shards(
        &self,
        name: &Name,
        repo: &Repo,
        listing: &Listing,
        index: &Remote,
    ) -> Result<Vec<String>> {
        let job = Job {
            client: &self.client,
            repo,
            name,
            commit: &listing.commit,
            file: INDEX,
            remote: index,
        };
        fetch(&job, &mut Meter::new(Progress::Quiet, index.size, 0, ""))?;
        let unsupported = |why: String| Error::Unsupported {
            name: name.repo.clone(),
            why,
        };
        let shards = read_shards(&repo.pointer(&listing.commit, INDEX))
            .map_err(|why| unsupported(format!("its {INDEX} {why}")))?;
        if let Some(shard) = shards
            .iter()
            .find(|shard| is_safe_path(shard) && !listing.files.contains(shard))
        {
            return Err(unsupported(format!(
                "its {INDEX} names {}, which it does not have",
                text::harmless(shard)
            )));
        }
        Ok(shards.into_iter().collect())
    }

    fn fetch_all(
        &self,
        name: &Name,
        repo: &Repo,
        commit: &str,
        files: &[String],
        remotes: &BTreeMap<String, Remote>,
    ) -> Result<()> {
        let missing = |file: &String| repo.missing(commit, file, &remotes[file]);
        // The same bytes under two names come once.
        let blobs: BTreeMap<&str, u64> = files
            .iter()
            .map(|file| (remotes[file].etag.as_str(), missing(file)))
            .collect();
        let needed = blobs
            .values()
            .try_fold(0u64, |sum, more| sum.checked_add(*more));
        let needed = needed.unwrap_or(u64::MAX);
        // A file system that does not tell is no reason to give up.
        if let Ok(free) = fs4::available_space(repo.dir()) {
            if needed > free {
                return Err(Error::NoSpace {
                    dir: self.config.cache.clone(),
                    needed,
                    free: Some(free),
                });
            }
        }
        let total = remotes
            .values()
            .fold(0u64, |sum, remote| sum.saturating_add(remote.size));
        let progress = if needed == 0 {
            Progress::Quiet
        } else {
            self.config.progress
        };
        let mut meter = Meter::new(
            progress,
            total,
            total.saturating_sub(needed),
            &self.client.host(),
        );
        for file in files {
            let job = Job {
                client: &self.client,
                repo,
                name,
                commit,
                file,
                remote: &remotes[file],
            };
            fetch(&job, &mut meter)?;
        }
        meter.finish(&name.repo);
        Ok(())
    }
}

/// A local file or directory of that name, if there is one. A directory may
/// hold several GGUF files: `dir:TAG` picks one, as with the hub.
fn local(name: &str) -> Result<Option<PathBuf>> {
    let tagged = name
        .rsplit_once(':')
        .filter(|(dir, _)| Path::new(dir).is_dir());
    let (path, want) = match tagged {
        _ if Path::new(name).exists() => (Path::new(name), Want::Any),
        Some((dir, tag)) => (Path::new(dir), Want::Tag(tag.to_owned())),
        None => return Ok(None),
    };
    if !path.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    let files: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    match choose(&files, &want) {
        Ok(Plan::Gguf(parts)) => Ok(Some(path.join(&parts[0]))),
        Ok(Plan::Safetensors { .. }) => Ok(Some(path.to_owned())),
        Err(NoPlan::Unsupported(why)) => Err(Error::NotAModel {
            path: path.to_owned(),
            why,
        }),
        Err(other) => Err(no_plan(path.display().to_string(), other)),
    }
}

fn no_plan(name: String, why: NoPlan) -> Error {
    match why {
        NoPlan::Ambiguous(candidates) => Error::Ambiguous { name, candidates },
        NoPlan::Missing { wanted, available } => Error::NoFile {
            name,
            file: wanted,
            available,
        },
        NoPlan::Unsupported(why) => Error::Unsupported { name, why },
    }
}

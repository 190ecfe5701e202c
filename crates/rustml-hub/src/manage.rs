//! What is in the cache, and taking it out again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::cache::{walk, Cached, Repo};
use crate::error::{Error, Result};
use crate::name::{is_safe_path, repo_of_folder, Name, Want};
use crate::select::{choose, NoPlan, Plan};

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedModel {
    /// `org/name`.
    pub name: String,
    /// Its directory in the cache.
    pub path: PathBuf,
    /// Snapshots, by commit.
    pub revisions: Vec<CachedRevision>,
    /// Bytes on disk, each blob once, unfinished downloads included.
    pub bytes: u64,
    /// The part of `bytes` that is unfinished downloads.
    pub unfinished: u64,
    /// When its files were last read or written, as far as the file system
    /// keeps track (`noatime` and `relatime` mounts do not quite).
    pub last_used: Option<SystemTime>,
    /// Why it cannot be loaded from the cache, `None` if it can. Only files
    /// are looked at: whether the architecture is known shows when loading.
    pub problem: Option<String>,
}

/// A snapshot of a model: its files at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedRevision {
    /// The commit.
    pub commit: String,
    /// Branches and tags that were at this commit when last asked for.
    pub refs: Vec<String>,
    /// Its files, by name.
    pub files: Vec<CachedFile>,
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedFile {
    /// Name in the repository, with `/`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// What [`Hub::remove`](crate::Hub::remove) did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Removed {
    /// What was removed, as it was named.
    pub name: String,
    /// Bytes given back to the disk. Blobs that another revision still uses
    /// stay, as do blobs that other tools share between models.
    pub bytes: u64,
}

/// All models in a cache, by name. A cache that does not exist is empty.
pub(crate) fn list(cache: &Path) -> Result<Vec<CachedModel>> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", cache, e)),
    };
    let mut models = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", cache, e))?;
        let folder = entry.file_name();
        let repo = folder.to_str().and_then(repo_of_folder);
        if let Some(repo) = repo.filter(|_| entry.path().is_dir()) {
            let name = Name {
                repo,
                revision: None,
                want: Want::Any,
            };
            models.push(model(cache, &name));
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

fn model(cache: &Path, name: &Name) -> CachedModel {
    let repo = Repo::new(cache, name);
    let mut used = LastUsed::default();
    let (mut bytes, mut unfinished) = (0u64, 0u64);
    walk(&repo.blobs(), &mut |file, entry| {
        // Following links: other tools may keep the bytes elsewhere.
        let Ok(meta) = fs::metadata(entry.path()) else {
            return;
        };
        bytes = bytes.saturating_add(meta.len());
        if file.ends_with(".incomplete") {
            unfinished = unfinished.saturating_add(meta.len());
        } else {
            used.see(&meta);
        }
    });
    let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    walk(&repo.dir().join("refs"), &mut |reference, _| {
        if let Some(commit) = repo.commit_of(&reference) {
            refs.entry(commit).or_default().push(reference);
        }
    });
    let mut revisions = Vec::new();
    for commit in snapshots(&repo) {
        let mut files = Vec::new();
        walk(&repo.snapshot(&commit), &mut |file, entry| {
            let Ok(meta) = fs::metadata(entry.path()) else {
                return;
            };
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                bytes = bytes.saturating_add(meta.len());
                used.see(&meta);
            }
            files.push(CachedFile {
                name: file,
                bytes: meta.len(),
            });
        });
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut refs = refs.remove(&commit).unwrap_or_default();
        refs.sort();
        revisions.push(CachedRevision {
            commit,
            refs,
            files,
        });
    }
    let problem = problem(&repo, name, &revisions).map(|why| match unfinished {
        0 => why,
        _ => "its download is not finished".into(),
    });
    CachedModel {
        problem,
        name: name.repo.clone(),
        path: repo.dir().to_owned(),
        revisions,
        bytes,
        unfinished,
        last_used: used.0,
    }
}

/// `None` if any snapshot can be loaded, otherwise what the newest `main`
/// lacks.
fn problem(repo: &Repo, name: &Name, revisions: &[CachedRevision]) -> Option<String> {
    let mut main = None;
    let mut other = None;
    for revision in revisions {
        let why = match repo.look(name, &revision.commit) {
            Cached::Complete(_) | Cached::Usable { .. } => return None,
            Cached::No(why) => why,
        };
        // Several GGUF files: each can be loaded by naming it.
        let files = repo.files(&revision.commit);
        let why = match choose(&files, &name.want) {
            Err(NoPlan::Ambiguous(_)) => return None,
            Err(NoPlan::Unsupported(why)) => why,
            _ => why,
        };
        match revision.refs.iter().any(|reference| reference == "main") {
            true => main = Some(why),
            false => other = Some(why),
        }
    }
    main.or(other)
        .or_else(|| Some("nothing of it is complete".into()))
}

#[derive(Default)]
struct LastUsed(Option<SystemTime>);

impl LastUsed {
    fn see(&mut self, meta: &fs::Metadata) {
        for time in [meta.accessed(), meta.modified()].into_iter().flatten() {
            self.0 = self.0.max(Some(time));
        }
    }
}

/// Commits with a snapshot, sorted.
fn snapshots(repo: &Repo) -> Vec<String> {
    let Ok(entries) = fs::read_dir(repo.dir().join("snapshots")) else {
        return Vec::new();
    };
    let mut commits: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|commit| is_safe_path(commit))
        .collect();
    commits.sort();
    commits
}

/// Removes a model, one revision of it or one GGUF file of it.
pub(crate) fn remove(cache: &Path, name: &Name) -> Result<Removed> {
    let repo = Repo::new(cache, name);
    let not_cached = || Error::NotCached {
        name: name.to_string(),
        cache: cache.to_owned(),
    };
    let meta = fs::symlink_metadata(repo.dir()).map_err(|_| not_cached())?;
    // A link would lead the deletion out of the cache.
    if !meta.is_dir() {
        let source = std::io::Error::other("it is a symbolic link or a file; remove it by hand");
        return Err(Error::io("remove", repo.dir(), source));
    }
    let _locks = idle(&repo, name)?;
    let bytes = match (&name.want, &name.revision) {
        (Want::Any, None) => remove_all(&repo)?,
        _ => remove_some(&repo, name)?.ok_or_else(not_cached)?,
    };
    Ok(Removed {
        name: name.to_string(),
        bytes,
    })
}

/// Holds every lock of the repository, or says that somebody else does.
fn idle(repo: &Repo, name: &Name) -> Result<Vec<File>> {
    let mut held = Vec::new();
    let Ok(entries) = fs::read_dir(repo.locks()) else {
        return Ok(held);
    };
    for entry in entries.flatten() {
        let Ok(file) = fs::OpenOptions::new().write(true).open(entry.path()) else {
            continue;
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy {
                    name: name.repo.clone(),
                })
            }
            _ => held.push(file),
        }
    }
    Ok(held)
}

fn remove_all(repo: &Repo) -> Result<u64> {
    let bytes = own_bytes(repo.dir());
    // Does not follow links: what they point to stays.
    fs::remove_dir_all(repo.dir()).map_err(|e| Error::io("remove", repo.dir(), e))?;
    // Nobody waits on them now; one that is left does no harm.
    let _ = fs::remove_dir_all(repo.locks());
    Ok(bytes)
}

/// Bytes of plain files below a directory, links not followed.
fn own_bytes(dir: &Path) -> u64 {
    let mut bytes = 0u64;
    walk(dir, &mut |_, entry| {
        if let Ok(meta) = entry.metadata() {
            if meta.is_file() {
                bytes = bytes.saturating_add(meta.len());
            }
        }
    });
    bytes
}

/// Removes some snapshot entries and the blobs that only they used; `None` if
/// there were none.
fn remove_some(repo: &Repo, name: &Name) -> Result<Option<u64>> {
    let commits = match &name.revision {
        Some(revision) => repo.commit_of(revision).into_iter().collect(),
        None => snapshots(repo),
    };
    let mut doomed = Vec::new();
    for commit in commits
        .iter()
        .filter(|commit| repo.snapshot(commit).is_dir())
    {
        let files = repo.files(commit);
        match &name.want {
            Want::Any => doomed.extend(files.into_iter().map(|file| (commit.clone(), file))),
            want => {
                if let Ok(Plan::Gguf(parts)) = choose(&files, want) {
                    doomed.extend(parts.into_iter().map(|file| (commit.clone(), file)));
                }
            }
        }
    }
    let whole =
        name.want == Want::Any && commits.iter().any(|commit| repo.snapshot(commit).is_dir());
    if doomed.is_empty() && !whole {
        return Ok(None);
    }

    let mut blobs = BTreeSet::new();
    let mut bytes = 0u64;
    for (commit, file) in &doomed {
        let pointer = repo.pointer(commit, file);
        match blob_of(repo, &pointer) {
            Some(blob) => drop(blobs.insert(blob)),
            None => bytes = bytes.saturating_add(plain_size(&pointer)),
        }
        fs::remove_file(&pointer).map_err(|e| Error::io("remove", &pointer, e))?;
    }
    for commit in commits.iter().filter(|_| whole) {
        let snapshot = repo.snapshot(commit);
        if snapshot.is_dir() {
            fs::remove_dir_all(&snapshot).map_err(|e| Error::io("remove", &snapshot, e))?;
        }
        remove_refs(repo, commit)?;
    }
    // What is still pointed to stays.
    for commit in snapshots(repo) {
        walk(&repo.snapshot(&commit), &mut |_, entry| {
            if let Some(blob) = blob_of(repo, &entry.path()) {
                blobs.remove(&blob);
            }
        });
    }
    for blob in blobs {
        let size = plain_size(&blob);
        match fs::remove_file(&blob) {
            Ok(()) => bytes = bytes.saturating_add(size),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", &blob, e)),
        }
    }
    Ok(Some(bytes))
}

/// The blob a snapshot entry points to, if it is one of this repository:
/// only the last part of the link is used, so it cannot lead elsewhere.
fn blob_of(repo: &Repo, pointer: &Path) -> Option<PathBuf> {
    let target = fs::read_link(pointer).ok()?;
    let blob = target.file_name()?.to_str()?;
    let inside = target.parent()?.file_name()? == "blobs";
    (inside && is_safe_path(blob)).then(|| repo.blobs().join(blob))
}

fn plain_size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 })
}

fn remove_refs(repo: &Repo, commit: &str) -> Result<()> {
    let mut refs = Vec::new();
    walk(&repo.dir().join("refs"), &mut |reference, entry| {
        if repo.commit_of(&reference).as_deref() == Some(commit) {
            refs.push(entry.path());
        }
    });
    for path in refs {
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    Ok(())
}

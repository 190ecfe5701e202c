//! The cache's layout on disk, shared with every other tool that uses
//! Hugging Face's: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.
//!
//! ```text
//! models--org--name/blobs/<etag>                       the bytes, named by what they are
//! models--org--name/blobs/<etag>.incomplete            the first bytes of a blob
//! models--org--name/snapshots/<commit>/<file>          a symbolic link into blobs
//! models--org--name/refs/<branch>                      the commit a branch was at
//! models--org--name/.no_exist/<commit>/<file>          known not to exist
//! .locks/models--org--name/<etag>.lock                 held while the blob is written
//! ```
//!
//! Where there are no symbolic links the snapshot holds the file itself.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;

use crate::client::{is_commit, Etag, Remote};
use crate::error::{Error, Result};
use crate::name::{is_safe_path, Name};
use crate::select::{choose, NoPlan, Plan, INDEX, TELLING, TEMPLATE};

/// An index of shards is some 100 bytes a tensor.
const LARGEST_INDEX: u64 = 64 << 20;
/// Directories inside a snapshot deeper than this are not looked at.
const DEEPEST: usize = 8;

/// One repository's place in a cache. Nothing need exist yet.
pub(crate) struct Repo {
    dir: PathBuf,
    locks: PathBuf,
}

/// What a cache knows about a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// All of it; the path to hand out.
    Complete(PathBuf),
    /// The weights and their configuration. The files named may or may not
    /// exist at the hub; with them the model may answer otherwise.
    Usable {
        path: PathBuf,
        commit: String,
        unknown: Vec<&'static str>,
    },
    /// Not enough, for this reason.
    No(String),
}

impl Repo {
    pub fn new(cache: &Path, name: &Name) -> Repo {
        let folder = name.folder();
        Repo {
            locks: cache.join(".locks").join(&folder),
            dir: cache.join(folder),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn locks(&self) -> &Path {
        &self.locks
    }

    pub fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    pub fn blob(&self, etag: &Etag) -> PathBuf {
        self.blobs().join(etag.as_str())
    }

    pub fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.blobs().join(format!("{}.incomplete", etag.as_str()))
    }

    /// Removes what killed processes left of a blob that cannot be resumed,
    /// `<etag>.<process>.incomplete`. To be called under the blob's lock.
    pub fn remove_stale(&self, etag: &Etag) {
        let entries = fs::read_dir(self.blobs()).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let process = name
                .to_str()
                .and_then(|name| name.strip_prefix(etag.as_str())?.strip_prefix('.'))
                .and_then(|rest| rest.strip_suffix(".incomplete"));
            if process.is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())) {
                // If it cannot be removed, it only takes room.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    pub fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.snapshot(commit).join(file)
    }

    /// The commit a revision was at when it was last asked for.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        let file = File::open(self.dir.join("refs").join(revision)).ok()?;
        file.take(256).read_to_string(&mut text).ok()?;
        // It becomes part of a path.
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        create_parent(&path)?;
        replace(&path, |temporary| fs::write(temporary, commit))
    }

    /// Notes that a file does not exist at a commit, as transformers does, so
    /// that nobody asks again. Only a hint: failing to write it is no error.
    pub fn mark_absent(&self, commit: &str, file: &str) {
        let path = self.dir.join(".no_exist").join(commit).join(file);
        if create_parent(&path).is_ok() {
            let _ = File::create(path);
        }
    }

    /// Whether this snapshot has the file, complete.
    pub fn has(&self, commit: &str, file: &str, remote: &Remote) -> bool {
        let pointer = self.pointer(commit, file);
        // A link's own name tells which blob it is; a plain file only its size.
        let other_blob = fs::read_link(&pointer).is_ok_and(|target| {
            target
                .file_name()
                .is_none_or(|blob| blob != remote.etag.as_str())
        });
        !other_blob && is_file_of(&pointer, remote.size)
    }

    /// Bytes of the file that must still come: none if the blob is here.
    pub fn missing(&self, commit: &str, file: &str, remote: &Remote) -> u64 {
        if self.has(commit, file, remote) || is_file_of(&self.blob(&remote.etag), remote.size) {
            return 0;
        }
        let part = fs::metadata(self.incomplete(&remote.etag)).map_or(0, |meta| meta.len());
        match part <= remote.size {
            true => remote.size - part,
            false => remote.size,
        }
    }

    /// Makes `snapshots/<commit>/<file>` stand for the blob.
    pub fn link(&self, commit: &str, file: &str, etag: &Etag, new_blob: bool) -> Result<()> {
        self.link_with(commit, file, etag, new_blob, symlink)
    }

    fn link_with(
        &self,
        commit: &str,
        file: &str,
        etag: &Etag,
        new_blob: bool,
        symlink: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<()> {
        let pointer = self.pointer(commit, file);
        create_parent(&pointer)?;
        // Relative, so that the whole cache can be moved.
        let up = std::iter::repeat_n("..", 2 + file.matches('/').count());
        let target: PathBuf = up.chain(["blobs", etag.as_str()]).collect();
        let linked = replace(&pointer, |temporary| symlink(&target, temporary));
        if linked.is_ok() {
            return Ok(());
        }
        // No symbolic links here (Windows without the privilege, exFAT): the
        // snapshot gets the file itself. A blob that was there before may be
        // in use by another snapshot and is copied.
        let blob = self.blob(etag);
        match new_blob {
            true => {
                fs::rename(&blob, &pointer).map_err(|e| Error::io("move into place", &pointer, e))
            }
            false => replace(&pointer, |temporary| fs::copy(&blob, temporary).map(drop)),
        }
    }

    /// Keeps other processes from writing the same blob until dropped; calls
    /// `waiting` once if somebody else is at it.
    ///
    /// File systems without locks (some network ones) give `None`: the hash
    /// then catches two writers getting into each other's way.
    pub fn lock(&self, etag: &Etag, waiting: impl FnOnce()) -> Result<Option<File>> {
        let path = self.locks.join(format!("{}.lock", etag.as_str()));
        create_parent(&path)?;
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io("create the lock file", &path, e))?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// The names of all files of a snapshot that are really there.
    pub fn files(&self, commit: &str) -> Vec<String> {
        let mut files = Vec::new();
        walk(&self.snapshot(commit), &mut |file, _| {
            if fs::metadata(self.pointer(commit, &file)).is_ok_and(|meta| meta.is_file()) {
                files.push(file);
            }
        });
        files
    }

    /// Looks a name up without asking anybody.
    pub fn find(&self, name: &Name) -> Cached {
        let Some(commit) = self.commit_of(name.revision()) else {
            return Cached::No(match self.dir.is_dir() {
                true => format!("the cache has no revision '{}' of it", name.revision()),
                false => "it is not in the cache".into(),
            });
        };
        self.look(name, &commit)
    }

    /// Looks at one snapshot.
    pub fn look(&self, name: &Name, commit: &str) -> Cached {
        let files = self.files(commit);
        let weights = match choose(&files, &name.want) {
            Ok(Plan::Gguf(parts)) => return Cached::Complete(self.pointer(commit, &parts[0])),
            Ok(Plan::Safetensors { weights, .. }) => weights,
            Err(NoPlan::Ambiguous(_)) => {
                return Cached::No("the cache has several of its GGUF files".into())
            }
            Err(NoPlan::Missing { wanted, .. }) => {
                return Cached::No(format!("the cache does not have its {wanted}"))
            }
            Err(NoPlan::Unsupported(_)) => {
                return Cached::No("the cache does not have all of its files".into())
            }
        };
        if weights == INDEX {
            match read_shards(&self.pointer(commit, INDEX)) {
                Ok(shards) => {
                    if let Some(missing) = shards.iter().find(|shard| !files.contains(shard)) {
                        let missing = crate::text::harmless(missing);
                        return Cached::No(format!("the cache does not have its {missing}"));
                    }
                }
                Err(why) => return Cached::No(format!("its {INDEX} in the cache {why}")),
            }
        }
        let mut unknown: Vec<&str> = TELLING.to_vec();
        if !self.has_template(commit) {
            unknown.push(TEMPLATE);
        }
        unknown.retain(|wanted| {
            let absent = self.dir.join(".no_exist").join(commit).join(wanted);
            !files.iter().any(|file| file == wanted) && !absent.exists()
        });
        let path = self.snapshot(commit);
        match unknown.is_empty() {
            true => Cached::Complete(path),
            false => Cached::Usable {
                path,
                commit: commit.to_owned(),
                unknown,
            },
        }
    }

    /// Whether tokenizer_config.json holds a chat template.
    fn has_template(&self, commit: &str) -> bool {
        let mut text = Vec::new();
        let file = File::open(self.pointer(commit, "tokenizer_config.json"));
        let read = file.and_then(|file| file.take(LARGEST_INDEX).read_to_end(&mut text));
        let key = b"\"chat_template\"";
        read.is_ok() && text.windows(key.len()).any(|w| w == key)
    }
}

/// The shards an index names, each once. The error says what is wrong with
/// the index; unsafe names are the caller's to refuse.
pub(crate) fn read_shards(index: &Path) -> std::result::Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let file = File::open(index).map_err(|e| format!("cannot be read ({e})"))?;
    let mut text = Vec::new();
    file.take(LARGEST_INDEX + 1)
        .read_to_end(&mut text)
        .map_err(|e| format!("cannot be read ({e})"))?;
    if text.len() as u64 > LARGEST_INDEX {
        return Err("is far too long".into());
    }
    let index: Index = serde_json::from_slice(&text).map_err(|e| {
        format!(
            "is no index of shards ({})",
            crate::text::harmless(&e.to_string())
        )
    })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.is_empty() {
        true => Err("names no shards".into()),
        false => Ok(shards),
    }
}

/// Calls `each` with the relative name (with `/`) and the entry of every file
/// and link below `root`. Links to directories are not followed; names that
/// are not UTF-8 or not plain are nothing of ours and are passed over.
pub(crate) fn walk(root: &Path, each: &mut impl FnMut(String, &fs::DirEntry)) {
    fn below(dir: &Path, prefix: &str, depth: usize, each: &mut impl FnMut(String, &fs::DirEntry)) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !is_safe_path(&name) {
                continue;
            }
            let name = format!("{prefix}{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEEPEST => {
                    below(&entry.path(), &format!("{name}/"), depth + 1, each)
                }
                Ok(kind) if !kind.is_dir() => each(name, &entry),
                _ => {}
            }
        }
    }
    below(root, "", 0, each);
}

fn is_file_of(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size)
}

pub(crate) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull => Error::write(path, 0, e),
        _ => Error::io("create the directory", parent, e),
    })
}

/// Makes something under a temporary name and renames it over `path`, so that
/// nobody ever sees half of it.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".tmp-{}-{unique}", std::process::id()));
    let made = make(&temporary).and_then(|()| fs::rename(&temporary, path));
    made.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::write(path, 0, e)
    })
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repo(cache: &Path, text: &str) -> (Name, Repo) {
        let name = Name::parse(text).unwrap();
        let repo = Repo::new(cache, &name);
        (name, repo)
    }

    fn put(path: &Path, content: &str) {
        create_parent(path).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn links_are_relative_and_files_without_links() {
        let cache = tempfile::tempdir().unwrap();
        let (_, repo) = repo(cache.path(), "org/name");
        let etag = Etag::parse("abc").unwrap();
        let no_links = |_: &Path, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
        let remote = Remote {
            etag: etag.clone(),
            size: 5,
        };

        put(&repo.blob(&etag), "bytes");
        repo.link(COMMIT, "dir/file", &etag, true).unwrap();
        let pointer = repo.pointer(COMMIT, "dir/file");
        assert_eq!(fs::read(&pointer).unwrap(), b"bytes");
        assert!(repo.has(COMMIT, "dir/file", &remote));
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(&pointer).unwrap(),
            Path::new("../../../blobs/abc")
        );

        // An old blob is copied, a new one moved.
        repo.link_with(COMMIT, "copy", &etag, false, no_links)
            .unwrap();
        assert!(repo.blob(&etag).exists());
        repo.link_with(COMMIT, "moved", &etag, true, no_links)
            .unwrap();
        assert!(!repo.blob(&etag).exists());
        for file in ["copy", "moved"] {
            let pointer = repo.pointer(COMMIT, file);
            assert!(fs::symlink_metadata(&pointer).unwrap().is_file());
            assert!(repo.has(COMMIT, file, &remote));
            assert_eq!(repo.missing(COMMIT, file, &remote), 0);
        }
        // The link now leads nowhere, which is the same as no file.
        assert!(!repo.has(COMMIT, "dir/file", &remote));
        assert_eq!(repo.missing(COMMIT, "dir/file", &remote), 5);
        let mut left: Vec<_> = fs::read_dir(repo.snapshot(COMMIT))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["copy", "dir", "moved"], "temporary files were left");
    }

    #[test]
    fn refs_name_commits_or_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let (_, repo) = repo(cache.path(), "org/name");
        repo.write_ref("refs/pr/1", COMMIT).unwrap();
        assert_eq!(repo.commit_of("refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(repo.commit_of(COMMIT).as_deref(), Some(COMMIT));
        assert_eq!(repo.commit_of("main"), None);
        put(&repo.dir().join("refs/main"), "../../../../etc");
        assert_eq!(repo.commit_of("main"), None);
    }

    #[test]
    fn a_snapshot_is_complete_only_with_all_shards() {
        let cache = tempfile::tempdir().unwrap();
        let (name, repo) = repo(cache.path(), "org/name");
        assert!(matches!(repo.find(&name), Cached::No(_)));
        repo.write_ref("main", COMMIT).unwrap();
        let file = |file: &str| repo.pointer(COMMIT, file);
        put(&file("config.json"), "{}");
        put(
            &file(INDEX),
            r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"}}"#,
        );
        put(&file("one.safetensors"), "1");
        assert_eq!(
            repo.find(&name),
            Cached::No("the cache does not have its two.safetensors".into())
        );
        put(&file("two.safetensors"), "2");
        let unknown = |expected: &[&str]| match repo.find(&name) {
            Cached::Usable {
                path,
                commit,
                unknown,
            } => {
                assert_eq!((path, commit.as_str()), (repo.snapshot(COMMIT), COMMIT));
                assert_eq!(unknown, expected);
            }
            other => panic!("{other:?}"),
        };
        let (generation, tokenizer) = ("generation_config.json", "tokenizer_config.json");
        unknown(&["tokenizer.json", generation, tokenizer, TEMPLATE]);
        repo.mark_absent(COMMIT, "tokenizer.json");
        put(&file(generation), "{}");
        unknown(&[tokenizer, TEMPLATE]);
        put(&file(tokenizer), "{}");
        unknown(&[TEMPLATE]);
        put(&file(tokenizer), r#"{"chat_template": "x"}"#);
        assert_eq!(repo.find(&name), Cached::Complete(repo.snapshot(COMMIT)));
        for bad in [
            "{}",
            "[",
            r#"{"weight_map":{}}"#,
            r#"{"weight_map":{"a":1}}"#,
        ] {
            put(&file(INDEX), bad);
            assert!(matches!(repo.find(&name), Cached::No(_)), "{bad}");
        }
    }

    #[test]
    fn a_lock_is_waited_for() {
        let cache = tempfile::tempdir().unwrap();
        let (_, repo) = repo(cache.path(), "org/name");
        let etag = Etag::parse("abc").unwrap();
        let held = repo.lock(&etag, || panic!("nobody holds it")).unwrap();
        assert!(held.is_some());
        let mut waited = false;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(150));
                drop(held);
            });
            repo.lock(&etag, || waited = true).unwrap();
        });
        assert!(waited);
    }
}

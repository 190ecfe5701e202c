//! One file from the hub into the cache: resumed, checked, renamed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::cache::{create_parent, Repo};
use crate::client::{Client, Remote};
use crate::error::{Error, Result};
use crate::http::read_failure;
use crate::name::Name;
use crate::progress::Meter;
use crate::text::{bytes, harmless};

/// Large enough that system calls do not count, small enough for any stack
/// of buffers on the way.
const BUFFER: usize = 256 << 10;
/// A connection that breaks after this much has been of use, and does not
/// count as a failed attempt.
const USEFUL: u64 = 8 << 20;

/// Bytes a second below which a connection counts as broken: at that rate even
/// the smallest model takes a day.
const SLOWEST: u64 = 1 << 10;

/// What tells a damaged file from a good one, as far as its ETag does.
enum Hash {
    /// Of large files.
    Sha256(Sha256, String),
    /// Git's id of a blob, of small ones.
    Git(Sha1, String),
    None,
}

impl Hash {
    fn of(remote: &Remote) -> Hash {
        if let Some(expected) = remote.etag.sha256() {
            return Hash::Sha256(Sha256::new(), expected);
        }
        let Some(expected) = remote.etag.git_blob() else {
            return Hash::None;
        };
        let head = format!("blob {}\0", remote.size);
        Hash::Git(Sha1::new_with_prefix(head), expected)
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha256(hash, _) => hash.update(bytes),
            Hash::Git(hash, _) => hash.update(bytes),
            Hash::None => {}
        }
    }

    /// What is wrong with all that was hashed, if anything.
    fn damage(&self) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let (name, actual, expected) = match self {
            Hash::Sha256(hash, expected) => ("SHA-256", hex(&hash.clone().finalize()), expected),
            Hash::Git(hash, expected) => ("git id", hex(&hash.clone().finalize()), expected),
            Hash::None => return None,
        };
        (actual != *expected).then(|| format!("its {name} is {actual} and should be {expected}"))
    }
}

/// How fast bytes come, over spans of twice the longest silence allowed.
struct Rate {
    span: Duration,
    since: Instant,
    bytes: u64,
}

impl Rate {
    fn new(timeout: Duration) -> Rate {
        Rate {
            span: timeout.saturating_mul(2),
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// Notes so many bytes; whether they come too slowly to go on.
    fn is_too_slow(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes += bytes as u64;
        let passed = now.saturating_duration_since(self.since);
        if passed < self.span {
            return false;
        }
        let slow = (self.bytes as f64) < SLOWEST as f64 * passed.as_secs_f64();
        (self.since, self.bytes) = (now, 0);
        slow
    }
}

/// Everything needed to fetch one file.
pub(crate) struct Job<'a> {
    pub client: &'a Client,
    pub repo: &'a Repo,
    pub name: &'a Name,
    pub commit: &'a str,
    pub file: &'a str,
    pub remote: &'a Remote,
}

/// Sees to it that the snapshot has the file.
pub(crate) fn fetch(job: &Job, meter: &mut Meter) -> Result<()> {
    let Job {
        repo,
        commit,
        file,
        remote,
        ..
    } = *job;
    if !repo.has(commit, file, remote) {
        let blob = repo.blob(&remote.etag);
        create_parent(&blob)?;
        let lock = repo.lock(&remote.etag, || {
            meter.note(&format!(
                "waiting for another process that is downloading {}",
                harmless(file)
            ));
        })?;
        // Whoever held the lock may have done our work.
        let present = fs::metadata(&blob).is_ok_and(|meta| meta.len() == remote.size);
        if !present {
            if lock.is_some() {
                // Nobody else is at it, so whoever was is gone.
                repo.remove_stale(&remote.etag);
            }
            Transfer::begin(job)?.run(job, meter)?.finish(&blob)?;
        }
        repo.link(commit, file, &remote.etag, !present)?;
    }
    meter.file_done(remote.size);
    Ok(())
}

/// A blob being written.
struct Transfer {
    path: PathBuf,
    file: File,
    hash: Hash,
    /// Bytes in the file, all of them hashed.
    position: u64,
    /// Whether bytes of an earlier run are among them.
    resumed: bool,
    /// Whether the etag can tell a damaged file. Only such a file is resumed:
    /// two processes on a file system without locks, or an older crash, may
    /// have left anything in it.
    verifiable: bool,
}

impl Transfer {
    fn begin(job: &Job) -> Result<Transfer> {
        let hash = Hash::of(job.remote);
        let verifiable = !matches!(hash, Hash::None);
        let path = match verifiable {
            true => job.repo.incomplete(&job.remote.etag),
            false => {
                let own = format!(
                    "{}.{}.incomplete",
                    job.remote.etag.as_str(),
                    std::process::id()
                );
                job.repo.blobs().join(own)
            }
        };
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!verifiable)
            .open(&path)
            .map_err(|e| Error::write(&path, job.remote.size, e))?;
        let mut transfer = Transfer {
            path,
            file,
            hash,
            position: 0,
            resumed: false,
            verifiable,
        };
        transfer.take_up(job.remote)?;
        Ok(transfer)
    }

    /// Hashes what an earlier run left.
    fn take_up(&mut self, remote: &Remote) -> Result<()> {
        let length = self
            .file
            .metadata()
            .map_err(|e| Error::io("read", &self.path, e))?
            .len();
        if length > remote.size {
            return self.restart(remote);
        }
        let mut buffer = buffer(&self.path)?;
        // No further than that, whatever the file turns out to be.
        let mut left = (&self.file).take(length);
        loop {
            let n = read(&mut left, &mut buffer).map_err(|e| Error::io("read", &self.path, e))?;
            if n == 0 {
                break;
            }
            self.hash.update(&buffer[..n]);
            self.position += n as u64;
        }
        self.resumed = self.position > 0;
        Ok(())
    }

    fn restart(&mut self, remote: &Remote) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|e| Error::io("empty", &self.path, e))?;
        self.hash = Hash::of(remote);
        self.position = 0;
        self.resumed = false;
        Ok(())
    }

    /// Gets the missing bytes and checks the whole.
    fn run(mut self, job: &Job, meter: &Meter) -> Result<Transfer> {
        let size = job.remote.size;
        meter.file(&harmless(job.file), size, self.position);
        loop {
            if let Err(e) = self.get_rest(job, meter) {
                if self.position == 0 || !self.verifiable {
                    self.discard();
                }
                return Err(e);
            }
            match self.hash.damage() {
                None => return Ok(self),
                // Perhaps only the earlier run's bytes were bad.
                Some(_) if self.resumed => self.restart(job.remote)?,
                Some(why) => {
                    self.discard();
                    return Err(Error::Corrupt {
                        file: harmless(job.file),
                        why,
                    });
                }
            }
        }
    }

    fn get_rest(&mut self, job: &Job, meter: &Meter) -> Result<()> {
        let mut failures = 0;
        while self.position < job.remote.size {
            let before = self.position;
            let Err(e) = self.get_some(job, meter) else {
                continue;
            };
            if self.position.saturating_sub(before) >= USEFUL {
                failures = 0;
            }
            if !e.is_transient() || failures >= job.client.retries {
                return Err(e);
            }
            let (file, at) = (harmless(job.file), bytes(self.position));
            meter.note(&format!(
                "{file}: the connection broke at {at}, trying again"
            ));
            job.client.pause(failures, e)?;
            failures += 1;
        }
        Ok(())
    }

    /// One request; an error if it ends before the file does.
    fn get_some(&mut self, job: &Job, meter: &Meter) -> Result<()> {
        let Job {
            client,
            name,
            commit,
            file,
            remote,
            ..
        } = *job;
        let size = remote.size;
        let mut download = client.open(name, commit, file, self.position, size)?;
        if download.start != self.position {
            self.restart(remote)?;
        }
        let mut rate = Rate::new(client.timeout);
        let mut buffer = buffer(&self.path)?;
        let mut detail = String::new();
        // To the end of the body even when all bytes are here: only then can
        // the connection be used again.
        loop {
            let n = match read(&mut download.reader, &mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => {
                    detail = format!(" ({})", read_failure(e));
                    break;
                }
            };
            let left = size - self.position;
            if n as u64 > left {
                self.restart(remote)?;
                return Err(Error::Corrupt {
                    file: harmless(file),
                    why: format!("it is longer than the {size} bytes announced"),
                });
            }
            self.file
                .write_all(&buffer[..n])
                .map_err(|e| Error::write(&self.path, left, e))?;
            self.hash.update(&buffer[..n]);
            self.position += n as u64;
            meter.at(self.position);
            if rate.is_too_slow(n, Instant::now()) && self.position < size {
                detail = " (it sends less than 1 kB a second)".into();
                break;
            }
        }
        if self.position < size {
            return Err(Error::CutOff {
                file: harmless(file),
                host: download.host,
                got: self.position,
                size,
                detail,
                kept: self.verifiable,
            });
        }
        Ok(())
    }

    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Gives the complete file its name. It is on the disk before it has it:
    /// a crash must not leave a name without content.
    fn finish(self, blob: &Path) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::write(&self.path, 0, e))?;
        // Windows does not rename open files.
        drop(self.file);
        fs::rename(&self.path, blob).map_err(|e| Error::io("move into place", blob, e))
    }
}

fn buffer(path: &Path) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(BUFFER)
        .map_err(|e| Error::io("get memory for", path, e.into()))?;
    buffer.resize(BUFFER, 0);
    Ok(buffer)
}

/// `read` that does not mind signals.
fn read(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_told_from_a_slow_line() {
        let (second, kilo) = (Duration::from_secs(1), SLOWEST as usize);
        let mut rate = Rate::new(5 * second);
        let start = rate.since;
        // A span lasts ten seconds; before its end nothing is said.
        assert!(!rate.is_too_slow(1, start + 9 * second));
        assert!(rate.is_too_slow(1, start + 10 * second));
        // Each span counts by itself.
        assert!(!rate.is_too_slow(10 * kilo, start + 20 * second));
        assert!(rate.is_too_slow(10 * kilo - 1, start + 30 * second));
    }

    #[test]
    fn small_files_are_compared_with_git_s_id() {
        // As `printf hello | git hash-object --stdin` prints it.
        let remote = |size| Remote {
            etag: crate::client::Etag::parse("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap(),
            size,
        };
        let damage = |content: &[u8]| {
            let mut hash = Hash::of(&remote(content.len() as u64));
            hash.update(content);
            hash.damage()
        };
        assert_eq!(damage(b"hello"), None);
        let why = damage(b"hallo").unwrap();
        assert!(why.contains("git id") && why.contains("b6fc4c62"), "{why}");
    }
}

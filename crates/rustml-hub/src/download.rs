//! One file from the hub into the cache: resumed, checked, renamed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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
        let _lock = repo.lock(&remote.etag, || {
            meter.note(&format!(
                "waiting for another process that is downloading {}",
                harmless(file)
            ));
        })?;
        // Whoever held the lock may have done our work.
        let present = fs::metadata(&blob).is_ok_and(|meta| meta.len() == remote.size);
        if !present {
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
    hasher: Sha256,
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
        let verifiable = job.remote.etag.sha256().is_some();
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
            hasher: Sha256::new(),
            position: 0,
            resumed: false,
            verifiable,
        };
        transfer.take_up(job.remote.size)?;
        Ok(transfer)
    }

    /// Hashes what an earlier run left.
    fn take_up(&mut self, size: u64) -> Result<()> {
        let length = self
            .file
            .metadata()
            .map_err(|e| Error::io("read", &self.path, e))?
            .len();
        if length > size {
            return self.restart();
        }
        let mut buffer = buffer(&self.path)?;
        // No further than that, whatever the file turns out to be.
        let mut left = (&self.file).take(length);
        loop {
            let n = read(&mut left, &mut buffer).map_err(|e| Error::io("read", &self.path, e))?;
            if n == 0 {
                break;
            }
            self.hasher.update(&buffer[..n]);
            self.position += n as u64;
        }
        self.resumed = self.position > 0;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|e| Error::io("empty", &self.path, e))?;
        self.hasher = Sha256::new();
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
            match self.damage(job.remote) {
                None => return Ok(self),
                // Perhaps only the earlier run's bytes were bad.
                Some(_) if self.resumed => self.restart()?,
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
            self.restart()?;
        }
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
                self.restart()?;
                return Err(Error::Corrupt {
                    file: harmless(file),
                    why: format!("it is longer than the {size} bytes announced"),
                });
            }
            self.file
                .write_all(&buffer[..n])
                .map_err(|e| Error::write(&self.path, left, e))?;
            self.hasher.update(&buffer[..n]);
            self.position += n as u64;
            meter.at(self.position);
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

    /// What is wrong with the complete file, if anything.
    fn damage(&self, remote: &Remote) -> Option<String> {
        let expected = remote.etag.sha256()?;
        let actual: String = self
            .hasher
            .clone()
            .finalize()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        (actual != expected).then(|| format!("its SHA-256 is {actual} and should be {expected}"))
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

//! Files that appear whole or not at all.

use super::output::Failure;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that takes its name when it is complete, so that a failure leaves the
/// older one. What is no regular file, as a pipe or /dev/stdout, is written to
/// as it is.
pub struct Output {
    path: PathBuf,
    to: To,
}

enum To {
    New(NamedTempFile, PathBuf),
    Stream(File),
}

impl Output {
    /// Whether the file could be begun: to be asked before work that takes
    /// long. Nothing is left of the attempt.
    ///
    /// # Errors
    /// A sentence if it could not.
    pub fn check(path: &Path) -> Result<(), Failure> {
        let parent = path.parent().filter(|p| *p != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        match parent.is_dir() {
            _ if path.is_dir() => Err(Failure::Other(format!(
                "cannot write {}: it is a directory",
                path.display()
            ))),
            // A pipe's reader would see it closed.
            true if path.exists() && !path.is_file() => Ok(()),
            true => Output::create(path).map(drop),
            false => Err(Failure::Other(format!(
                "cannot write {}: there is no directory {}",
                path.display(),
                parent.display()
            ))),
        }
    }

    /// The sentence for an error.
    pub fn failed(path: &Path, e: io::Error) -> Failure {
        // Behind the name of a temporary file, which says nothing to anybody.
        let inner = e.get_ref().and_then(|e| e.source());
        let e = inner.map_or(e.to_string(), |e| e.to_string());
        Failure::Other(format!("cannot write {}: {e}", path.display()))
    }

    /// Begins the file.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn create(path: &Path) -> Result<Output, Failure> {
        let to = create(path).map_err(|e| Output::failed(path, e))?;
        let path = path.to_owned();
        Ok(Output { path, to })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If it cannot be written to the end; the older file is then still there.
    pub fn finish(mut self) -> Result<(), Failure> {
        let done = match self.to {
            To::New(file, path) => {
                let synced = file.as_file().sync_all();
                synced.and_then(|()| file.persist(path).map(drop).map_err(|e| e.error))
            }
            To::Stream(ref mut file) => file.flush(),
        };
        done.map_err(|e| Output::failed(&self.path, e))
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// If it cannot be written; the older file is then still there.
    pub fn put(path: &Path, text: &str) -> Result<(), Failure> {
        let mut output = Output::create(path)?;
        let written = output.write_all(text.as_bytes());
        written.map_err(|e| Output::failed(path, e))?;
        output.finish()
    }
}

fn create(path: &Path) -> io::Result<To> {
    // Through links, so that they stay.
    let path = std::fs::canonicalize(path).unwrap_or(path.to_owned());
    if path.exists() && !path.is_file() {
        return Ok(To::Stream(File::options().write(true).open(path)?));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rustml-").suffix(".part");
    // Temporary files are private; this is to be as readable as others.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let parent = path.parent().filter(|p| *p != Path::new(""));
    let file = builder.tempfile_in(parent.unwrap_or(Path::new(".")))?;
    Ok(To::New(file, path))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::New(file, _) => file.write(bytes),
            To::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::New(file, _) => file.flush(),
            To::Stream(file) => file.flush(),
        }
    }
}

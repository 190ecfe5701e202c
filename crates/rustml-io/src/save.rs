//! Files that appear whole or not at all.

use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// A file that takes its name when it is finished, replacing one of that name;
/// until then, and for ever if it is dropped before, nothing is there but a
/// temporary file that goes away with this value.
pub(crate) struct Saving {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
}

impl Saving {
    pub fn new(path: &Path) -> Result<Saving> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".rustml-").suffix(".part");
        // Temporary files are private; a model is to be as readable as other
        // new files, which is for the umask to say.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(directory)
            .map_err(Error::io("create a file beside", path))?;
        Ok(Saving {
            path: path.into(),
            out: BufWriter::with_capacity(1 << 20, file),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .map_err(Error::io("write", &self.path))
    }

    /// Writes `len` zeros.
    pub fn pad(&mut self, len: usize) -> Result<()> {
        let copied = std::io::copy(&mut std::io::repeat(0).take(len as u64), &mut self.out);
        copied.map(drop).map_err(Error::io("write", &self.path))
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        let error = || Error::io("write", &self.path);
        let file = self.out.into_inner().map_err(|e| error()(e.into_error()))?;
        // Without this a power cut could leave the name without the contents.
        file.as_file().sync_all().map_err(error())?;
        file.persist(&self.path).map_err(|e| error()(e.error))?;
        Ok(())
    }
}

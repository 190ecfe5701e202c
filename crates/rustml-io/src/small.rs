//! The small files beside a model: its configuration, its tokenizer.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::Problem;
use crate::{Error, Result};

/// The byte order mark that some editors put before a text.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads a regular file of at most `most` bytes, without the byte order mark it
/// may begin with.
///
/// A pipe may never end, and a device has no end at all; neither is a part of a
/// model, and neither is opened.
///
/// # Errors
/// If it is not there ([`Error::Io`], of the kind `NotFound`), is no regular
/// file, is longer, or cannot be read.
pub fn read_small(path: &Path, most: u64) -> Result<Vec<u8>> {
    let wrong = |text: String| Error::file(path)(Problem::NotAModel(text));
    // Asked before opening: opening a named pipe would wait for a writer.
    let about = std::fs::metadata(path).map_err(Error::io("open", path))?;
    if !about.is_file() {
        return Err(wrong("this is no regular file".into()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    // No further, whatever it is by now.
    let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(Error::io("read", path))?;
    if bytes.len() as u64 > most {
        let most = most >> 20;
        return Err(wrong(format!(
            "this file may not be longer than {most} MiB"
        )));
    }
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_left_out_and_lengths_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "\u{feff}{}\u{feff}").unwrap();
        assert_eq!(read_small(&path, 100).unwrap(), "{}\u{feff}".as_bytes());
        std::fs::write(&path, vec![b' '; 1 << 20]).unwrap();
        assert_eq!(read_small(&path, 1 << 20).unwrap().len(), 1 << 20);
        let e = read_small(&path, (1 << 20) - 1).unwrap_err().to_string();
        assert!(e.contains("may not be longer"), "{e}");
        let missing = read_small(&dir.path().join("missing"), 1);
        assert!(matches!(missing, Err(Error::Io { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [&pipe, Path::new("/dev/zero"), dir.path()] {
            let e = read_small(path, 100).unwrap_err().to_string();
            assert!(e.contains("no regular file"), "{e}");
        }
    }
}

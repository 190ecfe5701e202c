//! Where results are written: files that appear whole or not at all.

use std::fs::{self, File, FileType};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::{NamedTempFile, TempPath};

use crate::{Error, Result};

/// Symbolic links that are followed to a file that does not exist yet.
const MOST_LINKS: usize = 40;

/// A file being written.
///
/// A regular file takes its name when it is finished, in place of an older one
/// of that name. Until then, and for ever if this is dropped before, nothing is
/// there but a temporary file. Links are followed, so that they stay. A pipe, a
/// terminal or a device like `/dev/null` is written to as it is; a directory or
/// a disk is refused.
pub struct Output {
    path: PathBuf,
    to: To,
}

enum To {
    New {
        out: BufWriter<File>,
        part: Part,
        target: PathBuf,
    },
    Stream(BufWriter<File>),
}

impl Output {
    /// Whether the file could be begun: to be asked before work that takes
    /// long. Nothing is left of the attempt.
    ///
    /// # Errors
    /// If it could not; the message says why.
    pub fn check(path: &Path) -> Result<()> {
        match place(path).map_err(|e| Output::failed(path, e))? {
            // Opened and closed, a pipe would have ended for its reader.
            Place::Stream => Ok(()),
            Place::Stdout | Place::Stderr => Ok(()),
            Place::File(_) => Output::create(path).map(drop),
        }
    }

    /// Begins the file.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn create(path: &Path) -> Result<Output> {
        let to = begin(path).map_err(|e| Output::failed(path, e))?;
        let path = path.to_owned();
        Ok(Output { path, to })
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// If it cannot be written; the older file is then still there.
    pub fn put(path: &Path, text: &str) -> Result<()> {
        let mut output = Output::create(path)?;
        let written = output.write_all(text.as_bytes());
        written.map_err(|e| Output::failed(path, e))?;
        output.finish()
    }

    /// The error for `path` that could not be written.
    pub fn failed(path: &Path, e: io::Error) -> Error {
        // Behind the name of a temporary file, which says nothing to anybody.
        let inner = e.get_ref().and_then(|e| e.source());
        let source = inner.map(|e| io::Error::other(e.to_string()));
        Error::Io {
            doing: "write",
            path: path.to_owned(),
            source: source.unwrap_or(e),
        }
    }

    /// What was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes`, with this crate's error.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.write_all(bytes);
        written.map_err(|e| Output::failed(&self.path, e))
    }

    /// Writes `len` zeros.
    pub(crate) fn pad(&mut self, len: usize) -> Result<()> {
        let copied = io::copy(&mut io::repeat(0).take(len as u64), self);
        copied.map(drop).map_err(|e| Output::failed(&self.path, e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If it cannot be written to the end; the older file is then still there.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        let done = match self.to {
            To::New { out, part, target } => persist(out, part, &target),
            To::Stream(mut out) => out.flush(),
        };
        done.map_err(|e| Output::failed(&path, e))
    }

    /// Removes what has been written so far of files that are not finished:
    /// for whoever ends the process without unwinding, as after a signal.
    pub fn abandon_all() {
        let parts = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts.iter() {
            // Nobody is left who could be told.
            let _ = fs::remove_file(part);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::New { out, .. } | To::Stream(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::New { out, .. } | To::Stream(out) => out.flush(),
        }
    }
}

/// The temporary files there are.
static PARTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A temporary file's name. The file goes away with this.
struct Part(TempPath);

impl Part {
    fn new(name: TempPath) -> Part {
        let mut parts = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(name.to_path_buf());
        Part(name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut parts = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| *part != *self.0);
    }
}

/// What a path leads to.
enum Place {
    /// A regular file, or none yet; all links followed.
    File(PathBuf),
    /// Something that is written to as it is.
    Stream,
    Stdout,
    Stderr,
}

fn place(path: &Path) -> io::Result<Place> {
    // By their names, since what they lead to may be a file that others have
    // written to and will write to: opened anew, it would be overwritten.
    match path.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => return Ok(Place::Stdout),
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => return Ok(Place::Stderr),
        _ => {}
    }
    match fs::metadata(path) {
        Ok(about) if about.is_file() => Ok(Place::File(fs::canonicalize(path)?)),
        Ok(about) if about.is_dir() => Err(io::Error::other("it is a directory")),
        Ok(about) if is_disk(about.file_type()) => Err(io::Error::other("it is a disk")),
        Ok(_) => Ok(Place::Stream),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Err(_) => {
            let target = behind_links(path)?;
            let directory = directory_of(&target);
            match directory.is_dir() {
                true => Ok(Place::File(target)),
                false => Err(io::Error::other(format!(
                    "there is no directory {}",
                    directory.display()
                ))),
            }
        }
    }
}

/// Where links that lead to nothing would lead.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = directory_of(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other(
        "it is a link that leads round in a circle",
    ))
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|p| *p != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn is_disk(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&kind)
}

#[cfg(not(unix))]
fn is_disk(_: FileType) -> bool {
    false
}

fn begin(path: &Path) -> io::Result<To> {
    let buffered = |file| BufWriter::with_capacity(1 << 20, file);
    let target = match place(path)? {
        Place::File(target) => target,
        Place::Stream => {
            let file = File::options().write(true).open(path)?;
            return Ok(To::Stream(buffered(file)));
        }
        Place::Stdout if crate::stdout_is_closed() => {
            return Err(io::Error::other("it was closed from the start"));
        }
        Place::Stdout => return Ok(To::Stream(buffered(duplicate(io::stdout())?))),
        Place::Stderr => return Ok(To::Stream(buffered(duplicate(io::stderr())?))),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rustml-").suffix(".part");
    // Temporary files are private; this is to be as readable as other new
    // files, which is for the umask to say.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file: NamedTempFile = builder.tempfile_in(directory_of(&target))?;
    let (file, name) = file.into_parts();
    Ok(To::New {
        out: buffered(file),
        part: Part::new(name),
        target,
    })
}

#[cfg(unix)]
fn duplicate(stream: impl std::os::fd::AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(not(unix))]
fn duplicate<T>(_: T) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

fn persist(out: BufWriter<File>, part: Part, target: &Path) -> io::Result<()> {
    let file = out.into_inner().map_err(|e| e.into_error())?;
    // Who could read the older file can read this one, and nobody else.
    if let Ok(older) = fs::metadata(target) {
        file.set_permissions(older.permissions())?;
    }
    // Without this a power cut could leave the name without the contents.
    file.sync_all()?;
    drop(file);
    fs::rename(&*part.0, target)
    // The name that is dropped now leads nowhere.
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, PermissionsExt};

    /// One test abandons the files of all.
    static ONE: Mutex<()> = Mutex::new(());

    fn alone() -> std::sync::MutexGuard<'static, ()> {
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let name = |e: io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    fn refused(path: &Path, why: &str) {
        for e in [Output::check(path), Output::put(path, "x")] {
            let e = e.unwrap_err().to_string();
            assert!(
                e.starts_with(&format!("cannot write {}: ", path.display())),
                "{e}"
            );
            assert!(e.contains(why), "{e}");
        }
    }

    #[test]
    fn links_are_followed_and_stay() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("far")).unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("far/file", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        for (round, path) in ["link", "second", "far/file"].iter().enumerate() {
            // The first time it leads to nothing.
            Output::check(&at(path)).unwrap();
            Output::put(&at(path), &round.to_string()).unwrap();
            assert_eq!(
                fs::read_to_string(at("far/file")).unwrap(),
                round.to_string()
            );
        }
        assert!(at("link").is_symlink() && at("second").is_symlink());
        assert_eq!(names(dir.path()), ["far", "link", "second"]);
        assert_eq!(names(&at("far")), ["file"]);
        symlink("circle", at("circle")).unwrap();
        refused(&at("circle"), "");
        symlink("nowhere/file", at("lost")).unwrap();
        refused(&at("lost"), "there is no directory");
        refused(&at("far"), "it is a directory");
    }

    #[test]
    fn devices_and_pipes_are_written_to() {
        let _alone = alone();
        use std::os::unix::fs::FileTypeExt;
        let null = Path::new("/dev/null");
        Output::check(null).unwrap();
        Output::put(null, "x").unwrap();
        let kind = fs::metadata(null).unwrap().file_type();
        assert!(kind.is_char_device(), "/dev/null was replaced");

        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        Output::check(&pipe).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
        };
        Output::put(&pipe, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }

    #[test]
    fn unfinished_files_leave_nothing_and_modes_stay() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        Output::abandon_all();
        assert_eq!(names(dir.path()), ["file"]);
        drop(output);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        Output::put(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

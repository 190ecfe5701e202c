//! A file's bytes, mapped into memory.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use crate::error::Problem;
#[cfg(unix)]
use crate::torn::Watch;
use crate::{Error, Result};

/// The bytes of a file: mapped, or already in memory.
pub(crate) enum Bytes {
    /// Watched until just before it goes.
    #[cfg(unix)]
    Mapped(#[allow(dead_code)] Watch, Mmap),
    #[cfg(not(unix))]
    Mapped((), Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps the regular file at `path`.
    pub fn map(path: &Path) -> Result<Bytes> {
        // Asked before opening: opening a named pipe would wait for a writer.
        let about = std::fs::metadata(path).map_err(Error::io("open", path))?;
        if !about.is_file() {
            let text = "this is neither a regular file nor a directory".into();
            return Err(Error::file(path)(Problem::NotAModel(text)));
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: The mapping is read-only. What Rust cannot see is another
        // process writing to the file or cutting it short meanwhile; no
        // portable system offers a lock against that, so it is stated in the
        // crate's documentation as what users must not do. Writers of this
        // crate keep to it: they never modify a file in place but rename a new
        // one over it, which leaves the mapping of the old one intact.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        #[cfg(unix)]
        let watch = Watch::new(path, map.as_ptr() as usize, map.len());
        #[cfg(not(unix))]
        let watch = ();
        Ok(Bytes::Mapped(watch, map))
    }

    /// Tells the system that everything will be read once, front to back.
    pub fn advise_sequential(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(_, map) = self {
            // Advice may be refused (an old kernel, a strange file system)
            // without any consequence but speed, so the result is not needed.
            let _ = map.advise(memmap2::Advice::Sequential);
        }
    }

    /// Tells the system to start reading `range`.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(_, map) = self {
            if range.start < range.end && range.end <= map.len() {
                let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Gives the pages that lie wholly inside `range` back to the system.
    /// Reading them again reads the file again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(_, map) = self {
            let page = page_size();
            let start = range.start.next_multiple_of(page);
            let end = range.end.min(map.len()) / page * page;
            if start < end {
                // SAFETY: `DontNeed` is unsound where it discards what was
                // written to private memory. This mapping is read-only and
                // backed by the file, so dropped pages come back with the
                // bytes they had.
                let _ = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(unix)]
fn page_size() -> usize {
    // SAFETY: `sysconf` only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // POSIX requires the value to exist; 64 KiB is a multiple of every page
    // size in use.
    usize::try_from(size)
        .ok()
        .filter(|size| size.is_power_of_two())
        .unwrap_or(1 << 16)
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(_, map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn released_bytes_read_the_same_again() {
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let bytes = Bytes::map(file.path()).unwrap();
        bytes.advise_sequential();
        bytes.will_need(0..content.len());
        for range in [
            0..content.len(),
            5..4096,
            4095..8192,
            100..2_999_999,
            7..7,
            0..usize::MAX,
        ] {
            bytes.release(range.clone());
            assert_eq!(&bytes[..], &content[..], "{range:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn release_shrinks_the_resident_set() {
        let len = 8 << 20;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1u8; len]).unwrap();
        let bytes = Bytes::map(file.path()).unwrap();
        let base = bytes.as_ptr() as usize;
        let sum = || bytes.iter().map(|&b| b as usize).sum::<usize>();
        assert_eq!(sum(), len);
        let before = resident_kib(base);
        assert!(
            before >= len / 1024,
            "{before} KiB are resident after reading everything"
        );
        let page = page_size();
        bytes.release(page / 2..len - page / 2);
        // The two half pages may stay or go; sandboxes round differently.
        let after = resident_kib(base);
        assert!(
            after <= 2 * page / 1024,
            "{after} KiB are resident after releasing everything"
        );
        assert_eq!(sum(), len);
    }

    /// `Rss` of the mapping that starts at `address`.
    #[cfg(target_os = "linux")]
    fn resident_kib(address: usize) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{address:x}-");
        let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
        let rss = mapping
            .skip(1)
            .find_map(|line| line.strip_prefix("Rss:"))
            .unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

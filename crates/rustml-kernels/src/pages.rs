//! Mapped memory, and the pages it lies on.
//!
//! A step reads all weights once, so with pages of 4 KiB every page costs a
//! look-up in the page table; pages of 2 MiB spare that. Each is taken when memory
//! is first written, while the system has some at hand, which the time tells that
//! it takes. In a virtual machine it may not: free memory in large pieces has been
//! given back to the host, which then needs 2 to 4 ms to find a page of 2 MiB
//! again, while small ones are there. So the rest is written on small pages, and
//! put together in large ones when there is time: see [`gather`].

use memmap2::MmapMut;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// A huge page that takes longer to get was not at hand: clearing one takes 0.1 to
/// 0.5 ms, and as much memory in small pages 0.3 to 1.2 ms.
const AT_HAND: Duration = Duration::from_millis(1);

/// Bytes of a page that are asked for, so that it is taken as a whole: one small page.
#[cfg(target_os = "linux")]
const FIRST: usize = 4 << 10;

/// How long none is asked for after one that was not.
const SCARCE: Duration = Duration::from_secs(1);

/// Whether huge pages are asked for: not if somebody said so, here or to the system.
fn huge_pages() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    *ASKED.get_or_init(|| {
        let off = std::env::var_os("RUSTML_HUGE_PAGES").is_some_and(|v| v == "0");
        let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        !off && mode.is_ok_and(|mode| !mode.contains("[never]"))
    })
}

/// Mapped memory that begins at the bounds of a huge page. Pages are there once they
/// are written.
pub(crate) struct Slab {
    start: NonNull<u8>,
    len: usize,
    /// Bytes from the start that are written, or are going to be.
    used: AtomicUsize,
    _map: MmapMut,
}

// SAFETY: only keeps memory; who owns which bytes of it is said by `AlignedBytes`.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// `len` zeros; `None` if they cannot be had.
    pub(crate) fn new(len: usize) -> Option<Arc<Slab>> {
        let mut map = MmapMut::map_anon(len.checked_add(HUGE)?).ok()?;
        let skip = map.as_ptr().align_offset(HUGE);
        // Of the whole mapping, not of a byte of it: what is cut from it lies beyond that.
        let start = NonNull::new(map.as_mut_ptr().wrapping_add(skip))?;
        let slab = Arc::new(Slab {
            start,
            len,
            used: AtomicUsize::new(0),
            _map: map,
        });
        if huge_pages() {
            slabs().push(Scattered {
                slab: Arc::downgrade(&slab),
                done: 0,
            });
        }
        Some(slab)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Says that `bytes` are going to be written for the first time: the huge pages that
    /// begin in them, and end in the slab, are taken if they are at hand.
    pub(crate) fn begin(&self, bytes: Range<usize>) {
        self.used.fetch_max(bytes.end, Relaxed);
        let first = bytes.start.next_multiple_of(HUGE);
        for page in (first..bytes.end.min(self.len)).step_by(HUGE) {
            if huge_pages() && page + HUGE <= self.len {
                // SAFETY: within the slab.
                unsafe { take(self.start.add(page)) };
            }
        }
    }
}

/// Takes a huge page, if there is reason to think that one is at hand.
///
/// # Safety
/// The page is mapped, and begins at the bounds of a huge one.
unsafe fn take(page: NonNull<u8>) {
    #[cfg(target_os = "linux")]
    {
        static LAST: Mutex<Option<Instant>> = Mutex::new(None);
        let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last().is_some_and(|scarce| scarce.elapsed() < SCARCE) {
            return;
        }
        // Where there are none at all, small pages come as fast as they do.
        libc::madvise(page.as_ptr().cast(), HUGE, libc::MADV_HUGEPAGE);
        let start = Instant::now();
        // The system does as if its beginning was written, and changes nothing: others may
        // read and write the page meanwhile. Before Linux 5.14 it cannot, and the page comes
        // when it is written, whether it is at hand or not.
        libc::madvise(page.as_ptr().cast(), FIRST, libc::MADV_POPULATE_WRITE);
        if start.elapsed() > AT_HAND {
            *last() = Some(Instant::now());
        }
    }
    let _ = page;
}

/// A slab, pages of which may be small.
struct Scattered {
    slab: Weak<Slab>,
    /// Bytes from its start that are on huge pages, or cannot be.
    done: usize,
}

fn slabs() -> MutexGuard<'static, Vec<Scattered>> {
    static ALL: Mutex<Vec<Scattered>> = Mutex::new(Vec::new());
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves memory that is in use, and still lies on small pages, to huge ones: a page
/// after the other until `limit` is over, 4 ms at most each. Whether more is left.
///
/// It may be called at any time, but whoever uses a page waits while it moves.
pub fn gather(limit: Duration) -> bool {
    let start = Instant::now();
    let mut left = false;
    slabs().retain_mut(|s| {
        let Some(slab) = s.slab.upgrade() else {
            return false;
        };
        while s.done + HUGE <= slab.used.load(Relaxed) {
            if start.elapsed() >= limit {
                left = true;
                break;
            }
            // SAFETY: a whole page of the slab's own.
            unsafe { collapse(slab.start.add(s.done)) };
            s.done += HUGE;
        }
        // More of it may get used.
        true
    });
    left
}

/// Has the system put the small pages of a huge one together. Where it has no page to
/// spare, or does not know how (before Linux 6.1), it may do so later.
///
/// # Safety
/// The page is mapped, and begins at the bounds of a huge one.
unsafe fn collapse(page: NonNull<u8>) {
    #[cfg(target_os = "linux")]
    {
        /// Newer than some C libraries.
        const MADV_COLLAPSE: libc::c_int = 25;
        let at = page.as_ptr().cast();
        if libc::madvise(at, HUGE, MADV_COLLAPSE) != 0 {
            libc::madvise(at, HUGE, libc::MADV_HUGEPAGE);
        }
    }
    let _ = page;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(slab: &Arc<Slab>) -> Option<usize> {
        let all = slabs();
        let mine = |s: &&Scattered| std::ptr::eq(s.slab.as_ptr(), Arc::as_ptr(slab));
        all.iter().find(mine).map(|s| s.done)
    }

    // One test, since what is gathered is all there is.
    #[test]
    fn what_is_in_use_is_gathered_and_stays_what_it_is() {
        if !huge_pages() {
            return;
        }
        let slab = Slab::new(3 * HUGE + 4096).unwrap();
        // SAFETY: within the slab, which nobody else knows.
        let bytes = unsafe { std::slice::from_raw_parts_mut(slab.start().as_ptr(), 3 * HUGE) };
        // The first page is written without a word, so it is small.
        bytes[..HUGE].fill(1);
        slab.begin(5..2 * HUGE + 5);
        slab.begin(2 * HUGE + 5..2 * HUGE + 6);
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = (i / 4096 + i) as u8;
        }
        assert!(gather(Duration::ZERO), "nothing can be done in no time");
        assert_eq!(done(&slab), Some(0));
        while gather(Duration::from_millis(1)) {}
        assert_eq!(done(&slab), Some(2 * HUGE), "whole pages only");
        slab.begin(2 * HUGE + 6..3 * HUGE + 4096);
        assert!(!gather(Duration::MAX));
        assert_eq!(done(&slab), Some(3 * HUGE));
        let same = |(i, b): (usize, &u8)| *b == (i / 4096 + i) as u8;
        assert!(bytes.iter().enumerate().all(same));

        let gone = Arc::downgrade(&slab);
        drop(slab);
        gather(Duration::MAX);
        assert!(!slabs().iter().any(|s| s.slab.ptr_eq(&gone)));
    }
}

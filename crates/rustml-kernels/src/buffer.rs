//! Memory for weights and caches: aligned to cache lines, on huge pages.
//!
//! A step reads all weights once, so with pages of 4 KiB every page costs a
//! look-up in the page table; pages of 2 MiB spare that. They need memory that
//! is mapped in large pieces: *slabs*, from which smaller buffers are cut. A
//! slab's pages exist once they are written, and go when its last buffer does.

use memmap2::MmapMut;
use std::num::NonZero;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Bytes that begin on a cache line, zeros at first.
///
/// They are on huge pages where the system gives some to those who ask (Linux:
/// `/sys/kernel/mm/transparent_hugepage/enabled` is `madvise` or `always`);
/// `RUSTML_HUGE_PAGES=0` does not ask.
pub struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
    /// Keeps the memory; none where there is no byte.
    _slab: Option<Arc<Slab>>,
}

const ALIGN: usize = 64;
const HUGE: usize = 2 << 20;
/// Mapped at once. What is larger has a mapping of its own.
const SLAB: usize = 16 * HUGE;

/// Mapped memory that begins on a huge page.
struct Slab {
    start: NonNull<u8>,
    _map: MmapMut,
}

// SAFETY: only keeps memory; who owns which bytes of it is said by `AlignedBytes`.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

/// The slab from which buffers are being cut, and how much of it is taken.
static OPEN: Mutex<Option<(Arc<Slab>, usize)>> = Mutex::new(None);

/// Whether huge pages are asked for.
pub fn huge_pages() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    *ASKED.get_or_init(|| {
        let off = std::env::var_os("RUSTML_HUGE_PAGES").is_some_and(|v| v == "0");
        cfg!(target_os = "linux") && !off
    })
}

impl Slab {
    fn new(len: usize) -> Option<Arc<Slab>> {
        let mut map = MmapMut::map_anon(len.checked_add(HUGE)?).ok()?;
        let skip = map.as_ptr().align_offset(HUGE);
        #[cfg(target_os = "linux")]
        if huge_pages() {
            // Without them it works as well, only slower.
            let _ = map.advise_range(memmap2::Advice::HugePage, skip, len);
        }
        Some(Arc::new(Slab {
            start: NonNull::from(&mut map[skip]),
            _map: map,
        }))
    }
}

// SAFETY: owned memory without interior mutability.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zeros; `None` if the memory cannot be had.
    pub fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(AlignedBytes {
                ptr: NonNull::without_provenance(const { NonZero::new(ALIGN).unwrap() }),
                len,
                _slab: None,
            });
        }
        let (slab, at) = if len > SLAB / 2 {
            (Slab::new(len.checked_next_multiple_of(HUGE)?)?, 0)
        } else {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            let (slab, used) = match open.take() {
                Some((slab, used)) if len <= SLAB - used => (slab, used),
                _ => (Slab::new(SLAB)?, 0),
            };
            let end = (used + len).next_multiple_of(ALIGN);
            *open = Some((slab.clone(), end));
            (slab, used)
        };
        Some(AlignedBytes {
            // SAFETY: within the slab.
            ptr: unsafe { slab.start.add(at) },
            len,
            _slab: Some(slab),
        })
    }

    /// What is made from now on lies in other slabs than what was made before:
    /// so it is given back as a whole, when it is for a short time only.
    pub fn begin_slab() {
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes that are ours (or none, at a dangling pointer).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeros_of_their_own() {
        let sizes = [0, 1, 63, 64, 4096, SLAB / 2, SLAB / 2 + 1, SLAB, 3 * HUGE];
        let mut all: Vec<_> = sizes.map(|n| AlignedBytes::zeroed(n).unwrap()).into();
        for (i, b) in all.iter_mut().enumerate() {
            assert_eq!(b.as_slice().as_ptr() as usize % ALIGN, 0);
            assert!(b.as_slice().iter().all(|&x| x == 0));
            b.as_mut_slice().fill(i as u8 + 1);
        }
        for (i, (b, n)) in all.iter().zip(sizes).enumerate() {
            assert_eq!(b.as_slice().len(), n);
            assert!(b.as_slice().iter().all(|&x| x == i as u8 + 1));
        }
        assert!(AlignedBytes::zeroed(usize::MAX).is_none());
        assert!(AlignedBytes::zeroed(1 << 60).is_none());
    }
}

//! Memory for weights and caches: aligned to cache lines, cut from larger pieces.
//!
//! Huge pages need memory that is mapped in large pieces: *slabs*, from which smaller
//! buffers are cut. A slab's pages exist once they are written, and go when its last
//! buffer does.

use crate::pages::{Slab, HUGE};
use std::cell::Cell;
use std::num::NonZero;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that begin on a cache line, zeros at first.
///
/// They are on huge pages, at once or [later](crate::pages), where the system gives some
/// to those who ask (Linux: `/sys/kernel/mm/transparent_hugepage/enabled` is `madvise` or
/// `always`); `RUSTML_HUGE_PAGES=0` does not ask.
pub struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
    /// Keeps the memory, and where in it the bytes begin; none where there is no byte.
    slab: Option<(Arc<Slab>, usize)>,
}

const ALIGN: usize = 64;
/// Mapped at once. What is larger than half has a mapping of its own.
const SLAB: usize = 16 * HUGE;

/// The slab from which buffers are being cut, and how much of it is taken.
static OPEN: Mutex<Option<(Arc<Slab>, usize)>> = Mutex::new(None);

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
                slab: None,
            });
        }
        let (slab, at) = if len > SLAB / 2 {
            (Slab::new(len)?, 0)
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
            ptr: unsafe { slab.start().add(at) },
            len,
            slab: Some((slab, at)),
        })
    }

    /// What is made from now on lies in other slabs than what was made before:
    /// so it is given back as a whole, when it is for a short time only.
    pub fn begin_slab() {
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says that the bytes of this range are going to be written for the first time, so
    /// that they get the pages that suit them. Whoever says nothing gets small ones.
    ///
    /// # Panics
    /// If they are out of range.
    pub fn begin(&self, bytes: Range<usize>) {
        assert!(bytes.start <= bytes.end && bytes.end <= self.len);
        if let Some((slab, at)) = &self.slab {
            slab.begin(at + bytes.start..at + bytes.end);
        }
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
            let (half, len) = (b.as_slice().len() / 2, b.as_slice().len());
            b.begin(0..half);
            b.begin(half..len);
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

/// Numbers that begin on a cache line, zeros at first: vectors of them then lie in one line
/// each. Pages come when they are used.
#[derive(Default)]
pub struct Aligned<T> {
    memory: Vec<T>,
    /// Where they begin.
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Aligned<T> {
        let memory = vec![T::default(); len + LINE / size_of::<T>()];
        // It never moves.
        let start = memory.as_ptr().align_offset(LINE);
        Aligned { memory, start, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; LINE]);

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Cache lines of the thread's own for what it has in hand, kept from one operation to the
/// next. Whoever takes them while they are taken gets others.
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// Room for so many bytes at least; what they hold means nothing.
    pub fn take(bytes: usize) -> Lines {
        let mut lines = LINES.take();
        if lines.len() < bytes.div_ceil(LINE) {
            lines.resize(bytes.div_ceil(LINE), Line([0; LINE]));
        }
        Lines(lines)
    }

    /// Where they begin.
    pub fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        LINES.set(std::mem::take(&mut self.0));
    }
}

//! Panels unpacked for many rows.
//!
//! A prompt's product reads each panel again for every tile of rows. Where the
//! scales are themselves packed, in super-blocks, some panels at a time are unpacked
//! once, codes to bytes and scales to single precision, into memory that stays in
//! the core's own cache, and all tiles read that.

use super::codes::{Bits8, Codes, BLOCK};
use super::scales::Scales;
use super::{panel_stride, places, Format, Matrix};
use crate::buffer::Lines;
use rustml_simd::Simd;
use std::marker::PhantomData;
use std::ops::Range;

/// What `T` reads, unpacked: of codes, bytes; of scales and offsets, single
/// precision.
pub struct Wide<T>(PhantomData<T>);

impl<C: Codes> Codes for Wide<C> {
    const ROW_BYTES: usize = BLOCK;
    const SIGNED: bool = C::SIGNED;
    const MAX: usize = C::MAX;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        Bits8::pair::<S, J>(s, p)
    }
}

impl<Sc: Scales> Wide<Sc> {
    /// Bytes of one row for a sub-block: a scale, then an offset if there are any.
    const SUB_BYTES: usize = if Sc::OFFSET { 8 } else { 4 };
}

impl<Sc: Scales> Scales for Wide<Sc> {
    const BLOCK: usize = BLOCK;
    const SUB: usize = Sc::SUB;
    const OFFSET: bool = Sc::OFFSET;
    const ROW_BYTES: usize = BLOCK / Sc::SUB * Self::SUB_BYTES;
    const SEGMENT: usize = 1;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        s.load(p.add(sub * Self::SUB_BYTES * S::LANES).cast())
    }
    #[inline(always)]
    unsafe fn offset<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        s.load(p.add((sub * Self::SUB_BYTES + 4) * S::LANES).cast())
    }
}

/// Room for some unpacked panels of a matrix.
pub(crate) struct Unpacked<'a> {
    from: &'a Matrix,
    /// Bytes from one unpacked panel to the next.
    pub stride: usize,
    /// How many panels there is room for.
    pub room: usize,
    lines: Lines,
}

impl<'a> Unpacked<'a> {
    /// Room for panels of weights of the format `F`, packed for `S`: as many times
    /// `together` as fit into so many bytes, at least once.
    pub fn new<S: Simd, F: Format>(
        from: &'a Matrix,
        bytes: usize,
        together: usize,
    ) -> Unpacked<'a> {
        let stride = panel_stride::<Wide<F::Codes>, Wide<F::Scales>>(S::LANES, from.cols() / BLOCK)
            .expect("a few times the size of a panel that exists");
        let room = (bytes / stride / together).max(1) * together;
        Unpacked {
            from,
            stride,
            room,
            lines: Lines::take(room * stride),
        }
    }

    /// Unpacks `panels`, as many as there is room for or fewer, in place of those
    /// before. Returns where panel 0 would begin.
    ///
    /// # Safety
    /// This was made for `S` and `F`.
    #[inline(always)]
    pub unsafe fn fill<S: Simd, F: Format>(&mut self, s: S, panels: Range<usize>) -> *const u8 {
        assert!(panels.len() <= self.room);
        let first = self.lines.start();
        for (i, panel) in panels.clone().enumerate() {
            unpack::<S, F>(s, self.from, panel, first.add(i * self.stride));
        }
        first.wrapping_sub(panels.start * self.stride)
    }
}

/// Unpacks one panel.
///
/// # Safety
/// `m` holds weights of the format `F`, packed for `S`, and an unpacked panel can be
/// written at `to`.
#[inline(always)]
unsafe fn unpack<S: Simd, F: Format>(s: S, m: &Matrix, panel: usize, to: *mut u8) {
    let from = m.data().as_ptr().add(panel * m.panel_bytes());
    let subs = const { BLOCK / F::Scales::SUB };
    let blocks = m.cols() / BLOCK;
    for b in 0..blocks {
        let (from_scales, from_codes) = places::<F::Codes, F::Scales>(S::LANES, b);
        let (scales, codes) = places::<Wide<F::Codes>, Wide<F::Scales>>(S::LANES, b);
        let scales = to.add(scales).cast::<f32>();
        for sub in 0..subs {
            let p = from.add(from_scales);
            let i = b * BLOCK % F::Scales::BLOCK / F::Scales::SUB + sub;
            let scales = scales.add(sub * const { Wide::<F::Scales>::SUB_BYTES / 4 * S::LANES });
            s.store(scales, F::Scales::scale(s, p, i));
            if F::Scales::OFFSET {
                s.store(scales.add(S::LANES), F::Scales::offset(s, p, i));
            }
        }
        let groups = F::Codes::unpack(s, from.add(from_codes));
        for (g, group) in groups.into_iter().enumerate() {
            s.store_i(to.add(codes + g * 4 * S::LANES), group);
        }
    }
}

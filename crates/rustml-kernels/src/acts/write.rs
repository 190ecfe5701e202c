//! Writing activations in the forms that products read.

use super::{tile_of, tile_place, Correction, Forms, CORRECTIONS, MANY, SIXTEEN, TILE_BYTES};
use crate::panel::codes::BLOCK;
use rustml_simd::Simd;
use std::ops::Range;

/// Writes rows of [`Acts`](super::Acts), from several threads if each row has one
/// writer.
pub struct RowWriter<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) forms: Forms,
    pub(super) floats: *mut f32,
    pub(super) pairs: *mut u32,
    pub(super) codes: *mut i8,
    pub(super) scales: *mut f32,
    pub(super) sums: [*mut u32; CORRECTIONS.len()],
    pub(super) _acts: std::marker::PhantomData<&'a mut super::Acts>,
}

// SAFETY: `put` of different rows touches different memory, and its contract
// forbids two writers of one row.
unsafe impl Sync for RowWriter<'_> {}
// SAFETY: as above.
unsafe impl Send for RowWriter<'_> {}

/// Blocks quantised together: the largest values of so many are found at once.
/// Pairs of bfloat16 are made as many at a time.
const GROUP: usize = 16;

/// Rows of one tile that are written together.
#[derive(Clone, Copy)]
struct Rows {
    /// Where their values for input 0 are, or would be.
    x: *const f32,
    /// Values from one row to the next.
    stride: usize,
    /// Where their tile begins, and how many rows it has.
    row0: usize,
    n: usize,
    /// The first of them within the tile.
    lane: usize,
}

impl Rows {
    /// `row` and those after it, of a tile.
    #[inline(always)]
    fn of((row0, n): (usize, usize), row: usize, x: *const f32, stride: usize) -> Rows {
        Rows {
            x,
            stride,
            row0,
            n,
            lane: row - row0,
        }
    }

    /// Whether these are a whole tile of so many rows, none of them beyond `end`.
    #[inline(always)]
    fn is_whole(&self, n: usize, row: usize, end: usize) -> bool {
        self.n == n && self.lane == 0 && row + n <= end
    }
}

impl RowWriter<'_> {
    /// Forms announced.
    pub(crate) fn forms(&self) -> Forms {
        self.forms
    }

    /// Writes inputs `cols` of `rows` in all announced forms; `x` holds those of one
    /// row after those of the other. They are whole blocks of 32, but for the last.
    ///
    /// # Safety
    /// No other thread writes these inputs of these rows at the same time.
    ///
    /// # Panics
    /// If numbers or lengths are not as announced.
    #[inline(always)]
    pub unsafe fn put<S: Simd>(&self, s: S, rows: Range<usize>, cols: Range<usize>, x: &[f32]) {
        assert!(rows.end <= self.rows && cols.end <= self.cols);
        assert!(cols.start.is_multiple_of(BLOCK));
        assert!(cols.end == self.cols || cols.end.is_multiple_of(BLOCK));
        assert!(x.len() == rows.len() * cols.len());
        let (codes, stride) = (self.forms.contains(Forms::CODES), cols.len());
        let blocks = cols.start / BLOCK..cols.end / BLOCK;
        let from = |row: usize| x.as_ptr().wrapping_add((row - rows.start) * stride);
        let from = |row: usize| from(row).wrapping_sub(cols.start);
        let (floats, pairs) = (Forms::FLOATS, Forms::PAIRS);
        if self.forms.contains(floats) || self.forms.contains(pairs) {
            let mut row = rows.start;
            while row < rows.end {
                let to = Rows::of(tile_of(self.rows, row), row, from(row), stride);
                row += match to.is_whole(MANY, row, rows.end) {
                    true => self.put_numbers::<MANY>(to, cols.clone()),
                    false => self.put_numbers::<1>(to, cols.clone()),
                };
            }
        }
        if self.forms.contains(Forms::TILES) {
            for row in rows.clone() {
                self.put_tiles(s, row, blocks.clone(), from(row));
            }
        }
        let mut row = rows.start;
        while codes && row < rows.end {
            let to = Rows::of(tile_of(self.rows, row), row, from(row), stride);
            // A tile of many rows is written as a whole, so that its blocks lie
            // together where they go.
            row += if to.is_whole(MANY, row, rows.end) {
                let b = self.put_blocks::<S, MANY, 2>(s, to, blocks.clone());
                self.put_blocks::<S, MANY, 1>(s, to, b..blocks.end);
                MANY
            } else {
                let b = self.put_blocks::<S, 1, 16>(s, to, blocks.clone());
                let b = self.put_blocks::<S, 1, 4>(s, to, b..blocks.end);
                self.put_blocks::<S, 1, 1>(s, to, b..blocks.end);
                1
            };
        }
    }

    /// `R` rows in the announced forms that are not quantised.
    ///
    /// # Safety
    /// As for [`RowWriter::put`].
    #[inline(always)]
    unsafe fn put_numbers<const R: usize>(&self, to: Rows, cols: Range<usize>) -> usize {
        self.put_floats::<R>(to, cols.clone());
        self.put_pairs::<R>(to, cols);
        R
    }

    /// `R` rows in single precision, if that is announced.
    ///
    /// # Safety
    /// As for [`RowWriter::put`].
    #[inline(always)]
    unsafe fn put_floats<const R: usize>(&self, to: Rows, cols: Range<usize>) {
        if !self.forms.contains(Forms::FLOATS) {
            return;
        }
        let floats = self.floats.add(to.row0 * self.cols + to.lane);
        for i in cols {
            for r in 0..R {
                *floats.add(i * to.n + r) = *to.x.wrapping_add(r * to.stride + i);
            }
        }
    }

    /// `R` rows as pairs of bfloat16, if that is announced.
    ///
    /// # Safety
    /// As for [`RowWriter::put`].
    #[inline(always)]
    unsafe fn put_pairs<const R: usize>(&self, to: Rows, cols: Range<usize>) {
        if !self.forms.contains(Forms::PAIRS) {
            return;
        }
        let at = self.pairs.add(to.row0 * self.cols.div_ceil(2) + to.lane);
        for i in cols.clone().step_by(2 * GROUP) {
            let values = (cols.end - i).min(2 * GROUP);
            for r in 0..R {
                let x = to.x.wrapping_add(r * to.stride + i);
                let x = std::slice::from_raw_parts(x, values);
                let pairs = bf16_pairs(x);
                for (p, pair) in pairs[..values.div_ceil(2)].iter().enumerate() {
                    *at.add((i / 2 + p) * to.n + r) = *pair;
                }
            }
        }
    }

    /// `blocks` of a row in bfloat16 for tile registers; its value for input 0 is at `x`, or
    /// would be.
    ///
    /// # Safety
    /// As for [`RowWriter::put`].
    #[inline(always)]
    unsafe fn put_tiles<S: Simd>(&self, s: S, row: usize, blocks: Range<usize>, x: *const f32) {
        let (steps, groups) = (self.cols / BLOCK, self.rows.div_ceil(SIXTEEN));
        let tiles = self.codes.cast::<u8>();
        for b in blocks {
            let place = tile_place(steps, groups, row / SIXTEEN, b);
            let to = tiles.add(place * TILE_BYTES + row % SIXTEEN * 2 * BLOCK);
            let (to, x) = (to.cast::<u16>(), x.wrapping_add(b * BLOCK));
            for i in (0..BLOCK).step_by(S::LANES) {
                s.store_bf16(to.add(i), s.load(x.add(i)));
            }
        }
    }

    /// Quantises `blocks` of `R` rows, `K` of each row at a time, as far as there
    /// are so many; returns the block after them.
    ///
    /// # Safety
    /// As for [`RowWriter::put`].
    #[inline(always)]
    unsafe fn put_blocks<S: Simd, const R: usize, const K: usize>(
        &self,
        s: S,
        to: Rows,
        blocks: Range<usize>,
    ) -> usize {
        let mut b = blocks.start;
        while b + K <= blocks.end {
            self.put_group::<S, R, K>(s, to, b);
            b += K;
        }
        b
    }

    /// Blocks `b..b + K` of `R` rows as codes, scales and sums; together they are
    /// no more than a [`GROUP`]. Their number and the places are constants, as far
    /// as they can be: all loops here are unrolled.
    ///
    /// Where a value is infinite or NaN the block's scale is NaN, so that every
    /// product of the block says so; its codes then mean nothing.
    ///
    /// # Safety
    /// As for [`RowWriter::put`].
    #[inline(always)]
    unsafe fn put_group<S: Simd, const R: usize, const K: usize>(&self, s: S, to: Rows, b: usize) {
        let (count, blocks) = (const { R * K }, self.cols / BLOCK);
        // Block `i` of the group: where it comes from, and its place in the tile.
        let from = |i: usize| to.x.wrapping_add(i % R * to.stride + (b + i / R) * BLOCK);
        let place = |i: usize| (b + i / R) * to.n + to.lane + i % R;
        let (scales, inverse) = scales::<S>(s, count, from);
        let codes = self.codes.add(to.row0 * self.cols);
        let sums = s.round_blocks(&inverse, count, from, |i| codes.add(place(i) * BLOCK));
        let at = self.scales.add(to.row0 * blocks);
        for i in 0..count {
            *at.add(place(i)) = scales[i];
        }
        for (c, correction) in CORRECTIONS.iter().enumerate() {
            if !self.forms.has_correction(c) {
                continue;
            }
            let subs = BLOCK / correction.sub();
            let at = self.sums[c].add(to.row0 * blocks * subs);
            if subs == 1 {
                let both = std::array::from_fn(|i| sums[0][i].wrapping_add(sums[1][i]));
                let values = corrected(*correction, &both, &scales);
                for i in 0..count {
                    *at.add(place(i)) = values[i];
                }
            } else {
                for (half, sums) in sums.iter().enumerate() {
                    let values = corrected(*correction, sums, &scales);
                    for i in 0..count {
                        let sub_block = (b + i / R) * 2 + half;
                        *at.add(sub_block * to.n + to.lane + i % R) = values[i];
                    }
                }
            }
        }
    }
}

/// The scales of `count` blocks of 32 values from where `from` says, by which the
/// largest becomes the code 127; and their inverses.
///
/// # Safety
/// The values are readable.
#[inline(always)]
unsafe fn scales<S: Simd>(
    s: S,
    count: usize,
    from: impl Fn(usize) -> *const f32,
) -> ([f32; GROUP], [f32; GROUP]) {
    // Without their sign, floats are ordered as their bits are; infinity and
    // NaN come last.
    let unsigned = s.splat_i32(i32::MAX);
    let mut largest = [s.splat_i32(0); GROUP];
    for i in 0..count {
        let x = from(i);
        let mut max = s.and(s.load_i(x.cast()), unsigned);
        for j in (S::LANES..BLOCK).step_by(S::LANES) {
            max = s.max_i32(max, s.and(s.load_i(x.add(j).cast()), unsigned));
        }
        largest[i] = max;
    }
    let largest = s.max_each(&largest);
    let (mut scales, mut inverse) = ([0f32; GROUP], [0f32; GROUP]);
    for i in (0..GROUP).step_by(S::LANES) {
        let m = s.bits_to_f32(s.load_i(largest.as_ptr().add(i).cast()));
        // The second term is 0, or NaN.
        let scale = s.add(s.div(m, s.splat(127.0)), s.mul(m, s.splat(0.0)));
        s.store(scales.as_mut_ptr().add(i), scale);
        // The inverse of a scale that is subnormal, or none, may not be finite. The
        // scale comes second, where NaN is kept.
        let normal = s.max(s.splat(f32::MIN_POSITIVE), scale);
        s.store(inverse.as_mut_ptr().add(i), s.div(s.splat(1.0), normal));
    }
    (scales, inverse)
}

/// The correction for sums of codes and their blocks' scales, in bits. Sums of
/// codes that mean nothing may be anything.
#[inline(always)]
fn corrected(c: Correction, sums: &[i32; GROUP], scales: &[f32; GROUP]) -> [u32; GROUP] {
    std::array::from_fn(|i| match c {
        Correction::Integer { zero, .. } => (-zero).wrapping_mul(sums[i]) as u32,
        Correction::Float { .. } => (scales[i] * sums[i] as f32).to_bits(),
    })
}

/// Pairs of up to `2 * GROUP` values, and zeros after them. The compiler makes
/// vectors of it.
#[inline(always)]
fn bf16_pairs(x: &[f32]) -> [u32; GROUP] {
    let mut values = [0f32; 2 * GROUP];
    values[..x.len()].copy_from_slice(x);
    let mut pairs = [0; GROUP];
    for (i, pair) in pairs.iter_mut().enumerate() {
        *pair = bf16_bits(values[2 * i]) | bf16_bits(values[2 * i + 1]) << 16;
    }
    pairs
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // Where only the low half says that it is NaN, rounding would lose that.
    (if x.is_nan() { bits | 1 << 22 } else { rounded }) >> 16
}

//! Activations prepared once for all matrix products that read them.
//!
//! Rows (tokens) are grouped into *tiles* of up to 8; within a tile
//! the values of all rows for a block of inputs lie together, so that the
//! product's inner loop addresses them by constants from one pointer. A tile
//! that begins at row `r` begins at `r` times the bytes of a row in every
//! buffer.
//!
//! Which forms are needed depends on the weights: single precision for float
//! weights; for integer ones 8-bit codes with a scale for 32 inputs, and sums
//! of the codes that correct for codes stored with an offset.

use crate::panel::codes::BLOCK;
use rustml_simd::Simd;

/// Rows up to which a product reads each weight from memory once, and takes it
/// through all tiles. With more, as in a prompt, the arithmetic takes longer than
/// the memory, and each tile is taken through all weights.
pub const FEW_ROWS: usize = 32;

/// Sizes of the tiles of so many rows, largest first. Few rows make as few tiles as
/// they can; of many rows as many are computed together as leave registers to
/// spare: two panels by 6 rows take 24 of AVX-512's 32 for sums and products.
pub const fn tile_sizes(rows: usize) -> [usize; 4] {
    if rows <= FEW_ROWS {
        [8, 4, 2, 1]
    } else {
        [6, 4, 2, 1]
    }
}

/// A correction for the offset of a format's codes, made from sums of
/// activation codes over 16 or 32 inputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Correction {
    /// `-zero * sum of codes`, the start of the integer accumulator.
    Integer {
        /// The code that stands for zero.
        zero: i32,
        /// Inputs of a sum.
        sub: usize,
    },
    /// `scale * sum of codes`, to be multiplied by the weights' offset.
    Float {
        /// Inputs of a sum.
        sub: usize,
    },
}

const CORRECTIONS: [Correction; 7] = [
    Correction::Integer { zero: 8, sub: 32 },
    Correction::Integer { zero: 16, sub: 32 },
    Correction::Integer { zero: 128, sub: 32 },
    Correction::Integer { zero: 32, sub: 16 },
    Correction::Integer { zero: 4, sub: 16 },
    Correction::Float { sub: 32 },
    Correction::Float { sub: 16 },
];

impl Correction {
    /// Inputs of a sum.
    const fn sub(self) -> usize {
        let (Correction::Integer { sub, .. } | Correction::Float { sub }) = self;
        sub
    }

    /// Index among the buffers of [`Acts`].
    pub const fn index(self) -> usize {
        let mut i = 0;
        while i < CORRECTIONS.len() {
            let same = match (CORRECTIONS[i], self) {
                (Correction::Integer { zero: z, sub: s }, Correction::Integer { zero, sub }) => {
                    z == zero && s == sub
                }
                (Correction::Float { sub: s }, Correction::Float { sub }) => s == sub,
                _ => false,
            };
            if same {
                return i;
            }
            i += 1;
        }
        panic!("no format uses this correction")
    }
}

/// The forms of the activations that a set of weights reads.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Forms(u16);

impl Forms {
    /// Single precision.
    pub const FLOATS: Forms = Forms(1);
    /// 8-bit codes and scales.
    pub const CODES: Forms = Forms(2);

    /// Codes with a correction.
    pub const fn corrected(c: Correction) -> Forms {
        Forms(Forms::CODES.0 | 4 << c.index())
    }
    /// Both sets of forms.
    pub const fn union(self, other: Forms) -> Forms {
        Forms(self.0 | other.0)
    }
    /// Whether every form of `other` is in `self`.
    pub const fn contains(self, other: Forms) -> bool {
        self.0 & other.0 == other.0
    }
    const fn has_correction(self, i: usize) -> bool {
        self.0 & (4 << i) != 0
    }
}

/// Prepared activations: up to `capacity` rows of up to `max_cols` values.
#[derive(Default)]
pub struct Acts {
    rows: usize,
    cols: usize,
    forms: Forms,
    /// `[tile][input][row of tile]`
    pub(crate) floats: Vec<f32>,
    /// `[tile][block][row of tile][32]`
    pub(crate) codes: Vec<i8>,
    /// `[tile][block][row of tile]`
    pub(crate) scales: Vec<f32>,
    /// `[tile][sub-block][row of tile]`, bits of i32 or f32
    pub(crate) sums: [Vec<u32>; CORRECTIONS.len()],
}

/// Splits `rows` into tiles: `(first row, rows)`.
pub fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let sizes = tile_sizes(rows);
    let mut at = 0;
    std::iter::from_fn(move || {
        let n = *sizes.iter().find(|&&n| n <= rows - at)?;
        at += n;
        Some((at - n, n))
    })
}

/// The tile that holds `row`: `(first row, rows)`.
fn tile_of(rows: usize, row: usize) -> (usize, usize) {
    let [largest, smaller @ ..] = tile_sizes(rows);
    let mut at = row / largest * largest;
    if at + largest <= rows {
        return (at, largest);
    }
    for n in smaller {
        while at + n <= rows {
            if row < at + n {
                return (at, n);
            }
            at += n;
        }
    }
    unreachable!("row {row} of {rows}")
}

impl Acts {
    /// Buffers for `capacity` rows of `max_cols` values in the given forms.
    pub fn new(capacity: usize, max_cols: usize, forms: Forms) -> Acts {
        let mut a = Acts::default();
        let blocks = max_cols.div_ceil(16) * capacity;
        if forms.contains(Forms::FLOATS) {
            a.floats = vec![0.0; capacity * max_cols];
        }
        if forms.contains(Forms::CODES) {
            a.codes = vec![0; capacity * max_cols];
            a.scales = vec![0.0; blocks];
        }
        for (i, s) in a.sums.iter_mut().enumerate() {
            if forms.has_correction(i) {
                *s = vec![0; blocks];
            }
        }
        a
    }

    /// Announces what will be written: every row follows by [`RowWriter::put`].
    ///
    /// # Panics
    /// If the buffers are too small, or codes are asked for of a width that
    /// is no multiple of 32.
    pub fn begin(&mut self, rows: usize, cols: usize, forms: Forms) {
        let (codes, values) = (forms.contains(Forms::CODES), rows.checked_mul(cols));
        let values = values.expect("a number of values that exists");
        assert!(!codes || cols.is_multiple_of(BLOCK));
        assert!(!forms.contains(Forms::FLOATS) || values <= self.floats.len());
        assert!(!codes || values <= self.codes.len() && values / BLOCK <= self.scales.len());
        for (i, sums) in self.sums.iter().enumerate() {
            assert!(!forms.has_correction(i) || values.div_ceil(16) <= sums.len());
        }
        (self.rows, self.cols, self.forms) = (rows, cols, forms);
    }

    /// Rows announced.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Forms announced.
    pub fn forms(&self) -> Forms {
        self.forms
    }

    /// A handle through which different rows can be written at once.
    pub fn writer(&mut self) -> RowWriter<'_> {
        RowWriter {
            rows: self.rows,
            cols: self.cols,
            forms: self.forms,
            floats: self.floats.as_mut_ptr(),
            codes: self.codes.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.each_mut().map(|s| s.as_mut_ptr()),
            _acts: std::marker::PhantomData,
        }
    }
}

/// Writes rows of [`Acts`], from several threads if each row has one writer.
pub struct RowWriter<'a> {
    rows: usize,
    cols: usize,
    forms: Forms,
    floats: *mut f32,
    codes: *mut i8,
    scales: *mut f32,
    sums: [*mut u32; CORRECTIONS.len()],
    _acts: std::marker::PhantomData<&'a mut Acts>,
}

// SAFETY: `put` of different rows touches different memory, and its contract
// forbids two writers of one row.
unsafe impl Sync for RowWriter<'_> {}
// SAFETY: as above.
unsafe impl Send for RowWriter<'_> {}

impl RowWriter<'_> {
    /// Writes row `row` in all announced forms.
    ///
    /// # Safety
    /// No other thread writes this row at the same time.
    ///
    /// # Panics
    /// If the row's length or number is not as announced.
    #[inline(always)]
    pub unsafe fn put<S: Simd>(&self, s: S, row: usize, x: &[f32]) {
        assert!(row < self.rows && x.len() == self.cols);
        let (row0, n) = tile_of(self.rows, row);
        let lane = row - row0;
        if self.forms.contains(Forms::FLOATS) {
            let to = self.floats.add(row0 * self.cols);
            for (i, x) in x.iter().enumerate() {
                *to.add(i * n + lane) = *x;
            }
        }
        if !self.forms.contains(Forms::CODES) {
            return;
        }
        let blocks = self.cols / BLOCK;
        for first in (0..blocks).step_by(GROUP) {
            let count = (blocks - first).min(GROUP);
            let group = quantize::<S>(s, x.as_ptr().add(first * BLOCK), count, |i| {
                let at = row0 * self.cols + ((first + i) * n + lane) * BLOCK;
                self.codes.add(at)
            });
            let scales = self.scales.add(row0 * blocks + first * n + lane);
            for (i, scale) in group.scales[..count].iter().enumerate() {
                *scales.add(i * n) = *scale;
            }
            for (c, correction) in CORRECTIONS.iter().enumerate() {
                if self.forms.has_correction(c) {
                    let subs = BLOCK / correction.sub();
                    let to = self.sums[c].add((row0 * blocks + first * n) * subs + lane);
                    group.correct(*correction, count, to, n);
                }
            }
        }
    }
}

/// Blocks quantised together: the largest values of so many are found at once.
const GROUP: usize = 16;

/// What quantising some blocks gave, apart from the codes.
struct Group {
    scales: [f32; GROUP],
    /// Of the codes of each half of a block.
    sums: [[i32; GROUP]; 2],
}

impl Group {
    /// Writes the correction of the first `count` blocks, every `stride` values.
    ///
    /// # Safety
    /// They are writable at `to`, and nobody else uses them.
    #[inline(always)]
    unsafe fn correct(&self, c: Correction, count: usize, to: *mut u32, stride: usize) {
        let [low, high] = self.sums;
        let value = |scale: f32, sum: i32| match c {
            // Sums of codes that mean nothing may be anything.
            Correction::Integer { zero, .. } => (-zero).wrapping_mul(sum) as u32,
            Correction::Float { .. } => (scale * sum as f32).to_bits(),
        };
        for i in 0..count {
            let scale = self.scales[i];
            if c.sub() == BLOCK {
                *to.add(i * stride) = value(scale, low[i].wrapping_add(high[i]));
            } else {
                *to.add(2 * i * stride) = value(scale, low[i]);
                *to.add((2 * i + 1) * stride) = value(scale, high[i]);
            }
        }
    }
}

/// Quantises `count` blocks of 32 values to codes in -127..=127, written where
/// `codes` says for each block.
///
/// Where a value is infinite or NaN the scale is NaN, so that every product of
/// the block says so; the codes then mean nothing.
///
/// # Safety
/// `x` is readable for `count` blocks, at most [`GROUP`], and the codes are
/// writable.
#[inline(always)]
unsafe fn quantize<S: Simd>(
    s: S,
    x: *const f32,
    count: usize,
    codes: impl Fn(usize) -> *mut i8,
) -> Group {
    let zero = s.splat_i32(0);
    // Without their sign, floats are ordered as their bits are; infinity and
    // NaN come last.
    let unsigned = s.splat_i32(i32::MAX);
    let mut largest = [zero; GROUP];
    for (i, m) in largest[..count].iter_mut().enumerate() {
        for j in (0..BLOCK).step_by(S::LANES) {
            let v = s.load_i(x.add(i * BLOCK + j).cast());
            *m = s.max_i32(*m, s.and(v, unsigned));
        }
    }
    let largest = s.max_each(&largest).map(|bits| f32::from_bits(bits as u32));
    // The second term is 0, or NaN.
    let scales = largest.map(|m| m / 127.0 + 0.0 * m);
    // The inverse of a scale that is subnormal, or none, may not be finite.
    let inverse = scales.map(|scale| if scale.is_normal() { 1.0 / scale } else { 0.0 });
    let mut sums = [[zero; GROUP]; 2];
    for i in 0..count {
        let (codes, inverse) = (codes(i), s.splat(inverse[i]));
        for (half, sums) in sums.iter_mut().enumerate() {
            for j in (half * 16..half * 16 + 16).step_by(S::LANES) {
                let v = s.mul(s.load(x.add(i * BLOCK + j)), inverse);
                let v = s.round_i32(v);
                s.store_i8(codes.add(j), v);
                sums[i] = s.add_i32(sums[i], v);
            }
        }
    }
    let sums = [s.sum_each(&sums[0]), s.sum_each(&sums[1])];
    Group { scales, sums }
}

#[cfg(test)]
mod tests;

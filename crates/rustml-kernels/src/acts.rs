//! Activations prepared once for all matrix products that read them.
//!
//! Rows (tokens) are grouped into *tiles* of up to 8; within a tile
//! the values of all rows for a block of inputs lie together, so that the
//! product's inner loop addresses them by constants from one pointer. A tile
//! that begins at row `r` begins at `r` times the bytes of a row in every
//! buffer. What goes into tile registers ([`Forms::TILES`]) is grouped by 16 rows, and the
//! last tile is whole, too: what it holds beyond the last row means nothing. Its tiles of 16
//! rows by 32 inputs lie one after the other as products take them.
//!
//! Which forms are needed depends on the weights: bfloat16 for weights in
//! bfloat16, single precision for other float weights; for integer ones 8-bit
//! codes with a scale for 32 inputs, and sums of the codes that correct for
//! codes stored with an offset.

use crate::buffer::Aligned;
use crate::panel::codes::BLOCK;

mod write;

pub use write::RowWriter;

/// Rows up to which a product reads each weight from memory once, and takes it
/// through all tiles. With more, as in a prompt, the arithmetic takes longer than
/// the memory, and each tile is taken through all weights.
pub const FEW_ROWS: usize = 32;

/// Rows of a tile where there are more than [`FEW_ROWS`].
const MANY: usize = 6;

/// Rows of a tile for tile registers.
pub(crate) const SIXTEEN: usize = 16;

/// Bytes of a tile of bfloat16.
pub(crate) const TILE_BYTES: usize = SIXTEEN * 2 * BLOCK;

/// Rows that are prepared together at most.
pub const MOST_ROWS: usize = SIXTEEN;

/// Sizes of the tiles of so many rows, largest first. Few rows make as few tiles as
/// they can; of many rows as many are computed together as leave registers to
/// spare: two panels by 6 rows take 24 of AVX-512's 32 for sums and products.
pub const fn tile_sizes(rows: usize) -> [usize; 4] {
    if rows <= FEW_ROWS {
        [8, 4, 2, 1]
    } else {
        [MANY, 4, 2, 1]
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

const CORRECTIONS: [Correction; 8] = [
    Correction::Integer { zero: 8, sub: 32 },
    Correction::Integer { zero: 16, sub: 32 },
    Correction::Integer { zero: 128, sub: 32 },
    Correction::Integer { zero: 32, sub: 16 },
    Correction::Integer { zero: 4, sub: 16 },
    Correction::Integer { zero: 12, sub: 32 },
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
    /// Pairs of bfloat16, rounded to nearest, ties to even.
    pub const PAIRS: Forms = Forms(4);
    /// bfloat16, rounded likewise, in tiles of 16 rows by 32 inputs; not beside codes.
    pub const TILES: Forms = Forms(1 << 14);

    /// Codes with a correction.
    pub const fn corrected(c: Correction) -> Forms {
        Forms(Forms::CODES.0 | 8 << c.index())
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
        self.0 & (8 << i) != 0
    }
    /// Rows that there is room for, beside `rows` themselves the rest of the last tile.
    const fn padded(self, rows: usize) -> usize {
        match self.contains(Forms::TILES) {
            true => rows.next_multiple_of(SIXTEEN),
            false => rows,
        }
    }
    /// Splits `rows` into those that are best prepared together: `(first row, rows)`.
    pub(crate) fn together(self, rows: usize) -> Vec<(usize, usize)> {
        match self.contains(Forms::TILES) {
            true => (0..rows)
                .step_by(SIXTEEN)
                .map(|row| (row, SIXTEEN.min(rows - row)))
                .collect(),
            false => tiles(rows).collect(),
        }
    }
}

/// Prepared activations: up to `capacity` rows of up to `max_cols` values.
#[derive(Default)]
pub struct Acts {
    rows: usize,
    cols: usize,
    forms: Forms,
    /// `[tile][input][row of tile]`
    pub(crate) floats: Aligned<f32>,
    /// `[tile][pair of inputs][row of tile]`: the first input in the low half, and
    /// zero beside the last of an odd number.
    pub(crate) pairs: Aligned<u32>,
    /// `[tile][block][row of tile][32]`; or bfloat16 at [`Acts::tile`].
    pub(crate) codes: Aligned<i8>,
    /// `[tile][block][row of tile]`
    pub(crate) scales: Aligned<f32>,
    /// `[tile][sub-block][row of tile]`, bits of i32 or f32
    pub(crate) sums: [Aligned<u32>; CORRECTIONS.len()],
}

/// Steps of 32 inputs, of bfloat16, that products take together at most: so that two
/// panels of them stay in the first cache.
const STEPS: usize = 20;

/// How so many steps are taken together: as evenly as can be, but for the last.
pub(crate) const fn steps_together(steps: usize) -> usize {
    match steps {
        0 => 1,
        _ => steps.div_ceil(steps.div_ceil(STEPS)),
    }
}

/// Where the tile of bfloat16 of 16 rows from `16 * group` on for inputs `32 * step` and on
/// lies among all of them: `[steps together][group][step]`.
const fn tile_place(steps: usize, groups: usize, group: usize, step: usize) -> usize {
    let together = steps_together(steps);
    let first = step / together * together;
    let here = if first + together <= steps {
        together
    } else {
        steps - first
    };
    first * groups + group * here + (step - first)
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
        let code_rows = forms.padded(capacity);
        let blocks = max_cols.div_ceil(16) * code_rows;
        if forms.contains(Forms::FLOATS) {
            a.floats = Aligned::zeroed(capacity * max_cols);
        }
        if forms.contains(Forms::PAIRS) {
            a.pairs = Aligned::zeroed(capacity * max_cols.div_ceil(2));
        }
        let mut bytes = 0;
        if forms.contains(Forms::CODES) {
            bytes = code_rows * max_cols;
            a.scales = Aligned::zeroed(blocks);
        }
        if forms.contains(Forms::TILES) {
            bytes = 2 * code_rows * max_cols;
        }
        a.codes = Aligned::zeroed(bytes);
        for (i, s) in a.sums.iter_mut().enumerate() {
            if forms.has_correction(i) {
                *s = Aligned::zeroed(blocks);
            }
        }
        a
    }

    /// Announces what will be written: every row follows by [`RowWriter::put`].
    ///
    /// # Panics
    /// If the buffers are too small, or codes are asked for of a width that
    /// is no multiple of 32, as of bfloat16 in tiles, or of both of these.
    pub fn begin(&mut self, rows: usize, cols: usize, forms: Forms) {
        let (codes, values) = (forms.contains(Forms::CODES), rows.checked_mul(cols));
        let values = values.expect("a number of values that exists");
        assert!(!codes || cols.is_multiple_of(BLOCK));
        assert!(!forms.contains(Forms::FLOATS) || values <= self.floats.len());
        let pairs = rows * cols.div_ceil(2);
        assert!(!forms.contains(Forms::PAIRS) || pairs <= self.pairs.len());
        let values = forms.padded(rows) * cols;
        let tiles = forms.contains(Forms::TILES);
        assert!(!tiles || !codes && cols.is_multiple_of(BLOCK));
        assert!(!tiles || 2 * values <= self.codes.len());
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

    /// Where bfloat16 of 16 rows from `16 * group` on for inputs `32 * step` and on lies;
    /// the tiles of the next steps follow, of as many as are taken together.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tile(&self, group: usize, step: usize) -> *const u8 {
        let groups = self.rows.div_ceil(SIXTEEN);
        let place = tile_place(self.cols / BLOCK, groups, group, step);
        self.codes
            .as_ptr()
            .cast::<u8>()
            .wrapping_add(place * TILE_BYTES)
    }

    /// A handle through which different rows can be written at once.
    pub fn writer(&mut self) -> RowWriter<'_> {
        RowWriter {
            rows: self.rows,
            cols: self.cols,
            forms: self.forms,
            floats: self.floats.as_mut_ptr(),
            pairs: self.pairs.as_mut_ptr(),
            codes: self.codes.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.each_mut().map(|s| s.as_mut_ptr()),
            _acts: std::marker::PhantomData,
        }
    }
}

#[cfg(test)]
mod tests;

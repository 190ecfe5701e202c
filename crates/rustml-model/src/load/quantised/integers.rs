//! Integers in groups, each with a scale and a zero point or an offset: what most methods
//! come down to.
//!
//! Groups of whole blocks go into GGML's formats code by code: `scale * (code - 8)` is Q4_0,
//! other zero points of 4 bits are within the reach of Q5_0, and an offset makes it Q4_1 or
//! Q5_1.

use super::parts::word;
use super::{Coded, Kept};
use rustml_io::DType;
use rustml_kernels::formats::encode_row;

/// Values of a block in all formats used here.
const LEN: usize = 32;

/// Where the codes of a row are.
pub(super) enum Codes {
    /// So many bits each, the lowest first, in words of 32 bits along the row.
    Along { data: Vec<u8>, bits: usize },
    /// The same down the column: word by word, all rows beside each other.
    Down { data: Vec<u8>, bits: usize },
    /// Eight rows in a word, in AutoAWQ's order; a word for each column and eight rows.
    Awq { data: Vec<u8> },
    /// Signed bytes.
    Bytes { data: Vec<u8> },
}

/// Where AutoAWQ puts the codes of eight rows.
pub(super) const AWQ: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Codes {
    /// The number of codes in a stream of words: all bits are used.
    pub fn one(data: &[u8], bits: usize, at: usize) -> u32 {
        Codes::of(&|w| word(data, w), bits, at)
    }

    fn of(words: &dyn Fn(usize) -> u32, bits: usize, at: usize) -> u32 {
        let (first, shift) = (at * bits / 32, at * bits % 32);
        let mut code = words(first) >> shift;
        if shift + bits > 32 {
            code |= words(first + 1) << (32 - shift);
        }
        code & ((1 << bits) - 1)
    }

    /// The codes of a row, of `rows` in all.
    fn read(&self, (row, rows): (usize, usize), out: &mut [i32]) {
        let cols = out.len();
        match self {
            Codes::Along { data, bits } => {
                let size = cols * *bits / 8;
                let data = &data[row * size..][..size];
                for (i, out) in out.iter_mut().enumerate() {
                    *out = Codes::one(data, *bits, i) as i32;
                }
            }
            Codes::Down { data, bits } => {
                let words = |w: usize| word(data, w * rows + row);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = Codes::of(&words, *bits, i) as i32;
                }
            }
            Codes::Awq { data } => {
                let shift = 4 * AWQ[row % 8];
                for (i, out) in out.iter_mut().enumerate() {
                    *out = (word(data, i * (rows / 8) + row / 8) >> shift & 15) as i32;
                }
            }
            Codes::Bytes { data } => {
                let data = &data[row * cols..][..cols];
                for (out, &code) in out.iter_mut().zip(data) {
                    *out = i32::from(code as i8);
                }
            }
        }
    }

    /// The least and the largest code there can be.
    fn range(&self) -> (i32, i32) {
        match self {
            Codes::Along { bits, .. } | Codes::Down { bits, .. } => (0, (1 << bits) - 1),
            Codes::Awq { .. } => (0, 15),
            Codes::Bytes { .. } => (-128, 127),
        }
    }
}

/// What is done to codes beside their scale, for each group.
pub(super) enum Offsets {
    /// The same number is subtracted from all.
    Zero(i32),
    /// Subtracted from codes.
    Zeros(Vec<i32>),
    /// Added to scaled codes.
    Added(Vec<f32>),
}

/// Which group a column is in.
pub(super) enum Groups {
    /// So many columns each.
    Even(usize),
    /// Listed, for columns that were sorted.
    Listed(Vec<u32>),
}

/// A matrix of integers.
pub(super) struct Integers {
    pub rows: usize,
    pub cols: usize,
    pub codes: Codes,
    pub scales: Vec<f32>,
    pub offsets: Offsets,
    pub groups: Groups,
    /// From the scale of a row to that of the next, and from a group's to the next.
    pub strides: (usize, usize),
}

impl Integers {
    fn at(&self, row: usize, col: usize) -> usize {
        let group = match &self.groups {
            Groups::Even(size) => col / size,
            Groups::Listed(groups) => groups[col] as usize,
        };
        row * self.strides.0 + group * self.strides.1
    }

    fn codes(&self, row: usize) -> Vec<i32> {
        let mut codes = vec![0; self.cols];
        self.codes.read((row, self.rows), &mut codes);
        codes
    }

    fn zero(&self, at: usize) -> i32 {
        match &self.offsets {
            Offsets::Zero(zero) => *zero,
            Offsets::Zeros(zeros) => zeros[at],
            Offsets::Added(_) => 0,
        }
    }
}

impl Coded for Integers {
    fn kept(&self) -> Kept {
        let blocks = self.cols.is_multiple_of(LEN);
        if !blocks || !matches!(self.groups, Groups::Even(n) if n.is_multiple_of(LEN)) {
            return Kept::nearest(self.cols);
        }
        let (least, largest) = self.codes.range();
        let (dtype, added) = match &self.offsets {
            Offsets::Added(added) => {
                let dtype = match largest {
                    ..=15 => DType::Q4_1,
                    16..=31 => DType::Q5_1,
                    _ => return Kept::nearest(self.cols),
                };
                (dtype, &added[..])
            }
            Offsets::Zero(_) | Offsets::Zeros(_) => {
                let zeros = match &self.offsets {
                    Offsets::Zeros(zeros) => &zeros[..],
                    Offsets::Zero(zero) => &[*zero],
                    Offsets::Added(_) => &[],
                };
                let (low, high) = zeros
                    .iter()
                    .fold((i32::MAX, i32::MIN), |(a, b), z| (a.min(*z), b.max(*z)));
                let dtype = match (least - high, largest - low) {
                    (-8.., ..=7) => DType::Q4_0,
                    (-16.., ..=15) => DType::Q5_0,
                    (-128.., ..=127) => DType::Q8_0,
                    _ => return Kept::nearest(self.cols),
                };
                (dtype, &[][..])
            }
        };
        let all = || self.scales.iter().chain(added);
        if all().any(|v| !half(*v).is_finite()) {
            return Kept::nearest(self.cols);
        }
        Kept {
            dtype,
            direct: true,
            exact: all().all(|v| half(*v) == *v),
        }
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        for ((i, out), code) in out.iter_mut().enumerate().zip(self.codes(row)) {
            let at = self.at(row, i);
            let scaled = self.scales[at] * (code - self.zero(at)) as f32;
            *out = match &self.offsets {
                Offsets::Added(added) => scaled + added[at],
                _ => scaled,
            };
        }
    }

    fn pack(&self, row: usize, dtype: DType, out: &mut [u8]) {
        // What the format itself subtracts from its codes.
        let middle = match dtype {
            DType::Q4_0 => 8,
            DType::Q5_0 => 16,
            _ => 0,
        };
        let codes = self.codes(row);
        let blocks = codes.chunks_exact(LEN);
        let out = out.chunks_exact_mut(dtype.block_bytes());
        for ((b, codes), out) in blocks.enumerate().zip(out) {
            let at = self.at(row, b * LEN);
            let mut numbers = vec![self.scales[at]];
            if let Offsets::Added(added) = &self.offsets {
                numbers.push(added[at]);
            }
            let (head, tail) = out.split_at_mut(2 * numbers.len());
            encode_row(DType::F16, &numbers, head);
            let code = |i: usize| (codes[i] - self.zero(at) + middle) as u8;
            pack_codes(dtype, &code, tail);
        }
    }
}

/// The codes of a block as GGML lays them out: the fifth bits before the rest, of which a
/// byte holds those of a value and the one 16 later.
fn pack_codes(dtype: DType, code: &dyn Fn(usize) -> u8, out: &mut [u8]) {
    if dtype == DType::Q8_0 {
        out.iter_mut().enumerate().for_each(|(i, o)| *o = code(i));
        return;
    }
    let (fifths, rest) = out.split_at_mut(out.len() - LEN / 2);
    for (byte, o) in fifths.iter_mut().enumerate() {
        let bit = |i: usize| (code(8 * byte + i) >> 4 & 1) << i;
        *o = (0..8).map(bit).sum();
    }
    for (i, o) in rest.iter_mut().enumerate() {
        *o = code(i) & 15 | code(i + LEN / 2) << 4;
    }
}

/// The value as half precision has it.
fn half(value: f32) -> f32 {
    let (mut bytes, mut back) = ([0; 2], [0.0]);
    encode_row(DType::F16, &[value], &mut bytes);
    rustml_kernels::formats::decode_row(DType::F16, &bytes, &mut back);
    back[0]
}

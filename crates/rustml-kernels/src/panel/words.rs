//! The words of a packed code block, made from the bits of a stored block.
//!
//! The codes of 32 inputs are packed as [`codes`](super::codes) reads them: in 8 groups
//! of 4 inputs, a byte each, that share words. GGML's blocks keep them in nearly that
//! order, so a word takes a few operations on stored words and codes are not taken
//! apart one by one: loading a model packs all its weights.

use super::codes::{Codes, BLOCK, GROUPS};
use super::scales::{PackScales, Scales};
use super::{places, Format};
use crate::formats::{
    BlockFormat, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use zerocopy::IntoBytes;

/// A format whose stored blocks become words.
pub trait Words: BlockFormat {
    /// Code block `b` of this block, one row of it: the first `ROW_BYTES / 4` words
    /// count. `bias` is [`I8_BIAS`](rustml_simd::Simd::I8_BIAS) of the instruction set
    /// that will unpack.
    fn words(&self, b: usize, bias: u8) -> [u32; GROUPS];
}

const NIBBLES: u32 = 0x0f0f_0f0f;
const PAIRS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

/// Word `i` of some bytes.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u32 {
    let bytes = &bytes[4 * i..4 * i + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Codes of four bits as 16 bytes hold them: in the order of groups already.
#[inline(always)]
fn nibbles(qs: &[u8]) -> [u32; GROUPS] {
    let w = |i| word(qs, i);
    [w(0), w(1), w(2), w(3), 0, 0, 0, 0]
}

/// The low or the high half of each of 32 bytes.
#[inline(always)]
fn halves(qs: &[u8], high: bool) -> [u32; GROUPS] {
    let half = |i| word(qs, i) >> (4 * u32::from(high)) & NIBBLES;
    let both = |j| half(j) | half(j + 4) << 4;
    [both(0), both(1), both(2), both(3), 0, 0, 0, 0]
}

/// Bits `2 j` and `2 j + 1` of 32 bytes, those of four groups in a word.
#[inline(always)]
fn pairs(qs: &[u8], j: usize) -> [u32; 2] {
    let pair = |i| word(qs, i) >> (2 * j) & PAIRS;
    [0, 4].map(|i| pair(i) | pair(i + 1) << 2 | pair(i + 2) << 4 | pair(i + 3) << 6)
}

/// Bit `s` of 32 bytes, those of all groups in a word.
#[inline(always)]
fn plane(bytes: &[u8; 32], s: usize) -> u32 {
    (0..GROUPS).fold(0, |plane, g| plane | (word(bytes, g) >> s & ONES) << g)
}

/// The same of 32 bits, one for each input: from `4 g + i`, input `i` of group `g`, to
/// bit `g` of byte `i`.
#[inline(always)]
fn transposed(bits: [u8; 4]) -> u32 {
    let bits = u32::from_le_bytes(bits);
    (0..4).fold(0, |plane, i| {
        // Every fourth bit, brought together.
        let x = bits >> i & 0x1111_1111;
        let x = (x | x >> 3) & 0x0303_0303;
        let x = (x | x >> 6) & 0x000f_000f;
        plane | ((x | x >> 12) & 0xff) << (8 * i)
    })
}

impl Words for Q8_0 {
    #[inline(always)]
    fn words(&self, _b: usize, bias: u8) -> [u32; GROUPS] {
        // The bias is 0 or 128; adding 128 to a byte flips its highest bit.
        std::array::from_fn(|g| word(self.qs.as_bytes(), g) ^ u32::from_ne_bytes([bias; 4]))
    }
}

/// Formats that keep 32 inputs' codes of four bits in 16 bytes.
macro_rules! nibbles {
    ($($format:ty),*) => {$(
        impl Words for $format {
            #[inline(always)]
            fn words(&self, b: usize, _bias: u8) -> [u32; GROUPS] {
                nibbles(&self.qs[16 * b..][..16])
            }
        }
    )*};
}
nibbles!(Q4_0, Q4_1, IQ4_NL, IQ4_XS, MXFP4);

/// The same with a fifth bit elsewhere.
macro_rules! nibbles_and_a_bit {
    ($($format:ty),*) => {$(
        impl Words for $format {
            #[inline(always)]
            fn words(&self, _b: usize, _bias: u8) -> [u32; GROUPS] {
                let mut words = nibbles(&self.qs);
                words[4] = transposed(self.qh);
                words
            }
        }
    )*};
}
nibbles_and_a_bit!(Q5_0, Q5_1);

impl Words for Q4_K {
    #[inline(always)]
    fn words(&self, b: usize, _bias: u8) -> [u32; GROUPS] {
        halves(&self.qs[b / 2 * 32..][..32], b % 2 == 1)
    }
}

impl Words for Q5_K {
    #[inline(always)]
    fn words(&self, b: usize, _bias: u8) -> [u32; GROUPS] {
        let mut words = halves(&self.qs[b / 2 * 32..][..32], b % 2 == 1);
        words[4] = plane(&self.qh, b);
        words
    }
}

impl Words for Q6_K {
    #[inline(always)]
    fn words(&self, b: usize, _bias: u8) -> [u32; GROUPS] {
        let (half, j) = (b / 4, b % 4);
        let mut words = halves(&self.ql[64 * half + 32 * (j % 2)..][..32], j / 2 == 1);
        [words[4], words[5]] = pairs(&self.qh[32 * half..][..32], j);
        words
    }
}

impl Words for Q2_K {
    #[inline(always)]
    fn words(&self, b: usize, _bias: u8) -> [u32; GROUPS] {
        let [low, high] = pairs(&self.qs[b / 4 * 32..][..32], b % 4);
        [low, high, 0, 0, 0, 0, 0, 0]
    }
}

impl Words for Q3_K {
    #[inline(always)]
    fn words(&self, b: usize, _bias: u8) -> [u32; GROUPS] {
        let [low, high] = pairs(&self.qs[b / 4 * 32..][..32], b % 4);
        [low, high, plane(&self.hmask, b), 0, 0, 0, 0, 0]
    }
}

/// Puts one row's blocks into a panel.
pub(super) fn put_blocks<F: Format>(
    panel: &mut [u8],
    (lanes, lane): (usize, usize),
    bias: u8,
    bytes: &[u8],
) {
    let per_block = const { F::LEN / BLOCK };
    let (scale_bytes, code_bytes) = (F::Scales::ROW_BYTES * lanes, F::Codes::ROW_BYTES * lanes);
    let stored = F::view_row(bytes);
    for (i, block) in stored.iter().enumerate() {
        let at = i * per_block;
        let (scales, codes) = places::<F::Codes, F::Scales>(lanes, at);
        let scales = &mut panel[scales..][..scale_bytes];
        F::Scales::put(scales, lanes, lane, &block.factors());
        let codes = panel[codes..][..per_block * code_bytes].chunks_exact_mut(code_bytes);
        for (b, codes) in codes.enumerate() {
            let (slots, _) = codes.as_chunks_mut::<4>();
            let slots = slots[lane..].iter_mut().step_by(lanes);
            for (slot, word) in slots.zip(block.words(b, bias)) {
                *slot = word.to_le_bytes();
            }
        }
    }
}

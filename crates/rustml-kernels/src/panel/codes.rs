//! How the integer codes of a panel are packed, and unpacked with vectors.
//!
//! A *code block* holds 32 inputs of all rows of a panel, in 8 groups of 4
//! inputs. Unpacked, group `g` is one vector: lane `r` holds the four codes
//! of row `r` for inputs `4 g .. 4 g + 4`, the operand of one dot instruction.
//!
//! Packed, a row is some 32-bit words, and word `w` of row `r` lies in lane `r`
//! of the block's vector `w`. So a packing is said twice, word by word: how
//! groups become words, and how vectors of words become vectors of groups.

use crate::formats::{BlockFormat, IQ4_NL};
use rustml_simd::Simd;

/// Inputs of a code block.
pub const BLOCK: usize = 32;
/// Groups of 4 inputs in a code block.
pub const GROUPS: usize = BLOCK / 4;

/// A packing of codes into a code block.
pub trait Codes {
    /// Bytes of one row in a code block.
    const ROW_BYTES: usize;
    /// Codes are signed bytes, given to [`Simd::dot_i8`] with
    /// [`Simd::I8_BIAS`] added; otherwise they are in 0..=127.
    const SIGNED: bool = false;

    /// One row of a code block: of the words returned the first
    /// `ROW_BYTES / 4` count. `groups[g]` holds the stored codes of inputs
    /// `4 g .. 4 g + 4`, the first in the lowest byte; `bias` is
    /// [`Simd::I8_BIAS`] of the instruction set that will unpack.
    fn pack(groups: &[u32; GROUPS], bias: u8) -> [u32; GROUPS];

    /// The 8 groups of the block at `p`.
    ///
    /// # Safety
    /// `ROW_BYTES * LANES` bytes at `p` are readable.
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS];
}

/// Bytes of one vector.
#[inline(always)]
const fn vb<S: Simd>() -> usize {
    S::LANES * 4
}

/// Eight bits, signed.
pub struct Bits8;
/// Four bits: groups `g` and `g + 4` share a byte.
pub struct Bits4;
/// Four bits, and the fifth of all 8 groups in one vector: bit `g`.
pub struct Bits5;
/// Four bits, and two more: groups `0..4` in one vector, `4..8` in another.
pub struct Bits6;
/// Two bits: groups `0..4` in one vector, `4..8` in another.
pub struct Bits2;
/// Two bits, and the third as [`Bits5`] keeps its fifth.
pub struct Bits3;
/// Four-bit indices into the table of IQ4_NL's signed codes.
pub struct Table4;

const NIBBLES: u32 = 0x0f0f_0f0f;
const PAIRS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

/// The lowest bit of every byte of all groups, as bit `g` of one word's bytes.
#[inline(always)]
fn plane(groups: [u32; GROUPS]) -> u32 {
    let bits = groups.iter().enumerate();
    bits.fold(0, |word, (g, group)| word | (group & ONES) << g)
}

impl Codes for Bits8 {
    const ROW_BYTES: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn pack(groups: &[u32; GROUPS], bias: u8) -> [u32; GROUPS] {
        // The bias is 0 or 128; adding 128 to a byte flips its highest bit.
        groups.map(|g| g ^ u32::from_ne_bytes([bias; 4]))
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = [s.splat_i32(0); GROUPS];
        for (j, g) in g.iter_mut().enumerate() {
            *g = s.load_i(p.add(j * vb::<S>()));
        }
        g
    }
}

impl Codes for Bits4 {
    const ROW_BYTES: usize = 16;

    #[inline(always)]
    fn pack(g: &[u32; GROUPS], _bias: u8) -> [u32; GROUPS] {
        let mut words = [0; GROUPS];
        for j in 0..4 {
            words[j] = g[j] | g[j + 4] << 4;
        }
        words
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = [s.splat_i32(0); GROUPS];
        let mask = s.splat_i32(NIBBLES as i32);
        for j in 0..4 {
            let v = s.load_i(p.add(j * vb::<S>()));
            g[j] = s.and(v, mask);
            g[j + 4] = s.and(s.shr::<4>(v), mask);
        }
        g
    }
}

/// Bit `g` of every byte of `h`, moved to bit `TO`.
macro_rules! plane_bit {
    ($s:expr, $h:expr, $to:literal) => {{
        let mask = $s.splat_i32(0x0101_0101 << $to);
        [
            $s.and($s.shl::<{ $to }>($h), mask),
            $s.and($s.shl::<{ $to - 1 }>($h), mask),
            $s.and($s.shl::<{ $to - 2 }>($h), mask),
            $s.and(shift::<_, { $to - 3 }>($s, $h), mask),
            $s.and(shift::<_, { $to - 4 }>($s, $h), mask),
            $s.and(shift::<_, { $to - 5 }>($s, $h), mask),
            $s.and(shift::<_, { $to - 6 }>($s, $h), mask),
            $s.and(shift::<_, { $to - 7 }>($s, $h), mask),
        ]
    }};
}

/// Left by `N`, or right by `-N`.
#[inline(always)]
fn shift<S: Simd, const N: i32>(s: S, v: S::I) -> S::I {
    match N {
        2 => s.shl::<2>(v),
        1 => s.shl::<1>(v),
        0 => v,
        -1 => s.shr::<1>(v),
        -2 => s.shr::<2>(v),
        -3 => s.shr::<3>(v),
        -4 => s.shr::<4>(v),
        -5 => s.shr::<5>(v),
        _ => unreachable!(),
    }
}

impl Codes for Bits5 {
    const ROW_BYTES: usize = 20;

    #[inline(always)]
    fn pack(g: &[u32; GROUPS], bias: u8) -> [u32; GROUPS] {
        let mut words = Bits4::pack(&g.map(|g| g & NIBBLES), bias);
        words[4] = plane(g.map(|g| g >> 4));
        words
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = Bits4::unpack(s, p);
        let high = plane_bit!(s, s.load_i(p.add(4 * vb::<S>())), 4);
        for j in 0..GROUPS {
            g[j] = s.or(g[j], high[j]);
        }
        g
    }
}

impl Codes for Bits6 {
    const ROW_BYTES: usize = 24;

    #[inline(always)]
    fn pack(g: &[u32; GROUPS], bias: u8) -> [u32; GROUPS] {
        let mut words = Bits4::pack(&g.map(|g| g & NIBBLES), bias);
        let high = Bits2::pack(&g.map(|g| g >> 4), bias);
        (words[4], words[5]) = (high[0], high[1]);
        words
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = Bits4::unpack(s, p);
        let mask = s.splat_i32(0x3030_3030);
        for j in 0..2 {
            let h = s.load_i(p.add((4 + j) * vb::<S>()));
            g[4 * j] = s.or(g[4 * j], s.and(s.shl::<4>(h), mask));
            g[4 * j + 1] = s.or(g[4 * j + 1], s.and(s.shl::<2>(h), mask));
            g[4 * j + 2] = s.or(g[4 * j + 2], s.and(h, mask));
            g[4 * j + 3] = s.or(g[4 * j + 3], s.and(s.shr::<2>(h), mask));
        }
        g
    }
}

impl Codes for Bits2 {
    const ROW_BYTES: usize = 8;

    #[inline(always)]
    fn pack(g: &[u32; GROUPS], _bias: u8) -> [u32; GROUPS] {
        let mut words = [0; GROUPS];
        for j in 0..GROUPS {
            words[j / 4] |= (g[j] & PAIRS) << (2 * (j % 4));
        }
        words
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = [s.splat_i32(0); GROUPS];
        let mask = s.splat_i32(PAIRS as i32);
        for j in 0..2 {
            let v = s.load_i(p.add(j * vb::<S>()));
            g[4 * j] = s.and(v, mask);
            g[4 * j + 1] = s.and(s.shr::<2>(v), mask);
            g[4 * j + 2] = s.and(s.shr::<4>(v), mask);
            g[4 * j + 3] = s.and(s.shr::<6>(v), mask);
        }
        g
    }
}

impl Codes for Bits3 {
    const ROW_BYTES: usize = 12;

    #[inline(always)]
    fn pack(g: &[u32; GROUPS], bias: u8) -> [u32; GROUPS] {
        let mut words = Bits2::pack(g, bias);
        words[2] = plane(g.map(|g| g >> 2));
        words
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = Bits2::unpack(s, p);
        let high = plane_bit!(s, s.load_i(p.add(2 * vb::<S>())), 2);
        for j in 0..GROUPS {
            g[j] = s.or(g[j], high[j]);
        }
        g
    }
}

impl Codes for Table4 {
    const ROW_BYTES: usize = 16;
    const SIGNED: bool = true;

    #[inline(always)]
    fn pack(g: &[u32; GROUPS], bias: u8) -> [u32; GROUPS] {
        Bits4::pack(g, bias)
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        // The table holds the bias, so the indices are stored without it.
        let table =
            std::array::from_fn(|q| (IQ4_NL::code(q as u8) as u8).wrapping_add(S::I8_BIAS as u8));
        let mut g = Bits4::unpack(s, p);
        for g in &mut g {
            *g = s.lookup(&table, *g);
        }
        g
    }
}

//! How the integer codes of a panel are packed, and unpacked with vectors.
//!
//! A *code block* holds 32 inputs of all rows of a panel, in 8 groups of 4
//! inputs. Unpacked, group `g` is one vector: lane `r` holds the four codes
//! of row `r` for inputs `4 g .. 4 g + 4`, the operand of one dot instruction.
//!
//! Packed, a row is some 32-bit words, and word `w` of row `r` lies in lane `r`
//! of the block's vector `w`. So a packing is said twice: how stored
//! blocks become words (`words.rs`), and here, how vectors of words
//! become vectors of groups.

use crate::formats::{BlockFormat, IQ4_NL, MXFP4};
use rustml_simd::Simd;

/// Inputs of a code block.
pub const BLOCK: usize = 32;
/// Groups of 4 inputs in a code block.
pub const GROUPS: usize = BLOCK / 4;

/// How the codes of a code block are read.
pub trait Codes {
    /// Bytes of one row in a code block.
    const ROW_BYTES: usize;
    /// Codes are signed bytes, given to [`Simd::dot_i8`] with
    /// [`Simd::I8_BIAS`] added; otherwise they are in `0..=MAX`.
    const SIGNED: bool = false;
    /// The largest code there can be.
    const MAX: usize = 127;

    /// Groups `J` and `J + 4` of the block at `p`, for `J` below 4: a pair
    /// because in most packings the two share their bytes.
    ///
    /// # Safety
    /// `ROW_BYTES * LANES` bytes at `p` are readable.
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I);

    /// All 8 groups of the block at `p`.
    ///
    /// # Safety
    /// As for [`Codes::pair`].
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let (a, b) = (Self::pair::<S, 0>(s, p), Self::pair::<S, 1>(s, p));
        let (c, d) = (Self::pair::<S, 2>(s, p), Self::pair::<S, 3>(s, p));
        [a.0, b.0, c.0, d.0, a.1, b.1, c.1, d.1]
    }
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
/// Four-bit indices into the table of MXFP4's codes, which are few: made unsigned, since
/// several products of these are summed at once where there is no dot instruction.
pub struct Floats4;

const NIBBLES: u32 = 0x0f0f_0f0f;
const PAIRS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

impl Codes for Bits8 {
    const ROW_BYTES: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let v = vb::<S>();
        (s.load_i(p.add(J * v)), s.load_i(p.add((J + 4) * v)))
    }
}

impl Codes for Bits4 {
    const ROW_BYTES: usize = 16;
    const MAX: usize = 15;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let v = s.load_i(p.add(J * vb::<S>()));
        let mask = s.splat_i32(NIBBLES as i32);
        (s.and(v, mask), s.and(s.shr::<4>(v), mask))
    }
}

/// Left by `by`, or right by `-by`; a constant wherever it is called.
#[inline(always)]
fn shift<S: Simd>(s: S, v: S::I, by: i32) -> S::I {
    match by {
        4 => s.shl::<4>(v),
        3 => s.shl::<3>(v),
        2 => s.shl::<2>(v),
        1 => s.shl::<1>(v),
        0 => v,
        -1 => s.shr::<1>(v),
        -2 => s.shr::<2>(v),
        -3 => s.shr::<3>(v),
        -4 => s.shr::<4>(v),
        -5 => s.shr::<5>(v),
        -6 => s.shr::<6>(v),
        _ => unreachable!("no packing shifts further"),
    }
}

impl Codes for Bits5 {
    const ROW_BYTES: usize = 20;
    const MAX: usize = 31;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let (lo, hi) = Bits4::pair::<S, J>(s, p);
        let h = s.load_i(p.add(4 * vb::<S>()));
        let mask = s.splat_i32((ONES << 4) as i32);
        let j = J as i32;
        let (a, b) = (shift(s, h, 4 - j), shift(s, h, -j));
        (s.or(lo, s.and(a, mask)), s.or(hi, s.and(b, mask)))
    }
}

impl Codes for Bits6 {
    const ROW_BYTES: usize = 24;
    const MAX: usize = 63;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let (lo, hi) = Bits4::pair::<S, J>(s, p);
        let (a, b) = (
            s.load_i(p.add(4 * vb::<S>())),
            s.load_i(p.add(5 * vb::<S>())),
        );
        let (mask, by) = (s.splat_i32((PAIRS << 4) as i32), 4 - 2 * J as i32);
        let (a, b) = (s.and(shift(s, a, by), mask), s.and(shift(s, b, by), mask));
        (s.or(lo, a), s.or(hi, b))
    }
}

impl Codes for Bits2 {
    const ROW_BYTES: usize = 8;
    const MAX: usize = 3;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let (a, b) = (s.load_i(p), s.load_i(p.add(vb::<S>())));
        let (mask, by) = (s.splat_i32(PAIRS as i32), -2 * J as i32);
        (s.and(shift(s, a, by), mask), s.and(shift(s, b, by), mask))
    }
}

impl Codes for Bits3 {
    const ROW_BYTES: usize = 12;
    const MAX: usize = 7;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let (lo, hi) = Bits2::pair::<S, J>(s, p);
        let h = s.load_i(p.add(2 * vb::<S>()));
        let mask = s.splat_i32((ONES << 2) as i32);
        let j = J as i32;
        let (a, b) = (shift(s, h, 2 - j), shift(s, h, -2 - j));
        (s.or(lo, s.and(a, mask)), s.or(hi, s.and(b, mask)))
    }
}

impl Codes for Table4 {
    const ROW_BYTES: usize = 16;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        // The table holds the bias, so the indices are stored without it.
        let mut table = [0; 16];
        for (q, t) in table.iter_mut().enumerate() {
            *t = (IQ4_NL::code(q as u8) as u8).wrapping_add(S::I8_BIAS as u8);
        }
        let (lo, hi) = Bits4::pair::<S, J>(s, p);
        (s.lookup(&table, lo), s.lookup(&table, hi))
    }
}

impl Codes for Floats4 {
    const ROW_BYTES: usize = 16;
    const MAX: usize = 2 * MXFP4::ZERO as usize;

    #[inline(always)]
    unsafe fn pair<S: Simd, const J: usize>(s: S, p: *const u8) -> (S::I, S::I) {
        let mut table = [0; 16];
        for (q, t) in table.iter_mut().enumerate() {
            *t = (MXFP4::code(q as u8) as u8).wrapping_add(MXFP4::ZERO);
        }
        let (lo, hi) = Bits4::pair::<S, J>(s, p);
        (s.lookup(&table, lo), s.lookup(&table, hi))
    }
}

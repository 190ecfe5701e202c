//! How the integer codes of a panel are packed, and unpacked with vectors.
//!
//! A *code block* holds 32 inputs of all rows of a panel, in 8 groups of 4
//! inputs. Unpacked, group `g` is one vector: lane `r` holds the four codes
//! of row `r` for inputs `4 g .. 4 g + 4`, the operand of one dot instruction.

use rustml_simd::Simd;

/// Inputs of a code block.
pub const BLOCK: usize = 32;
/// Groups of 4 inputs in a code block.
pub const GROUPS: usize = BLOCK / 4;

/// A packing of unsigned codes into a code block.
pub trait Codes {
    /// Bytes of one row in a code block.
    const ROW_BYTES: usize;
    /// Codes are signed bytes, stored with [`Simd::I8_BIAS`] added and
    /// multiplied by [`Simd::dot_i8`]; otherwise they are in 0..=127.
    const SIGNED: bool = false;

    /// Adds the code of row `row`, input `i` to a block that starts as zeros.
    /// A signed code comes with the bias added already.
    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8);

    /// The 8 groups of the block at `p`.
    ///
    /// # Safety
    /// `ROW_BYTES * LANES` bytes at `p` are readable.
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS];
}

/// The byte of row `row`, input `i` in vector `v` of a block.
#[inline(always)]
fn byte(lanes: usize, v: usize, row: usize, i: usize) -> usize {
    (v * lanes + row) * 4 + i % 4
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

/// The values of IQ4_NL and IQ4_XS codes (`kvalues_iq4nl` in ggml-common.h).
pub const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

const NIBBLE: i32 = 0x0f0f_0f0f;

impl Codes for Bits8 {
    const ROW_BYTES: usize = 32;
    const SIGNED: bool = true;

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        block[byte(lanes, i / 4, row, i)] = code;
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

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        let g = i / 4;
        block[byte(lanes, g % 4, row, i)] |= code << (4 * (g / 4));
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = [s.splat_i32(0); GROUPS];
        let mask = s.splat_i32(NIBBLE);
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

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        Bits4::put(block, lanes, row, i, code & 15);
        block[byte(lanes, 4, row, i)] |= (code >> 4) << (i / 4);
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

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        let g = i / 4;
        Bits4::put(block, lanes, row, i, code & 15);
        block[byte(lanes, 4 + g / 4, row, i)] |= (code >> 4) << (2 * (g % 4));
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

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        let g = i / 4;
        block[byte(lanes, g / 4, row, i)] |= code << (2 * (g % 4));
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut g = [s.splat_i32(0); GROUPS];
        let mask = s.splat_i32(0x0303_0303);
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

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        Bits2::put(block, lanes, row, i, code & 3);
        block[byte(lanes, 2, row, i)] |= (code >> 2) << (i / 4);
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

    fn put(block: &mut [u8], lanes: usize, row: usize, i: usize, code: u8) {
        Bits4::put(block, lanes, row, i, code);
    }
    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, p: *const u8) -> [S::I; GROUPS] {
        let mut table = [0u8; 16];
        for (t, v) in table.iter_mut().zip(IQ4_VALUES) {
            *t = (v as u8).wrapping_add(S::I8_BIAS as u8);
        }
        let mut g = Bits4::unpack(s, p);
        for g in &mut g {
            *g = s.lookup(&table, *g);
        }
        g
    }
}

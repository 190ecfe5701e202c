//! How the scales of a panel are packed, and read as vectors.
//!
//! A scale block covers [`Scales::BLOCK`] inputs of all rows of a panel. It
//! holds the [`Factors`] of the format's blocks, unrounded; only the sign of
//! the offset's scale is turned, so that a weight is `scale * code + offset`.

use super::codes::BLOCK;
use crate::formats::Factors;
use half::f16;
use rustml_simd::Simd;

/// How scales are read. A weight is `scale * code + offset`.
pub trait Scales {
    /// Inputs of a scale block.
    const BLOCK: usize;
    /// Inputs that share a scale: 16 or 32.
    const SUB: usize;
    /// Whether there are offsets.
    const OFFSET: bool;
    /// Bytes of one row in a scale block.
    const ROW_BYTES: usize;
    /// Blocks of codes in a segment: those of a scale block, or two, whose scales then
    /// leave the codes in whole vectors.
    const SEGMENT: usize = if Self::BLOCK > BLOCK {
        Self::BLOCK / BLOCK
    } else {
        2
    };

    /// Scales of all rows for sub-block `sub` of the block at `p`.
    ///
    /// # Safety
    /// `ROW_BYTES * LANES` bytes at `p` are readable; `sub < BLOCK / SUB`.
    unsafe fn scale<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F;

    /// Offsets, likewise.
    ///
    /// # Safety
    /// As for [`Scales::scale`].
    #[inline(always)]
    unsafe fn offset<S: Simd>(s: S, _p: *const u8, _sub: usize) -> S::F {
        s.splat(0.0)
    }
}

/// A packing of scales.
pub trait PackScales: Scales {
    /// Writes the factors of row `row`.
    fn put(block: &mut [u8], lanes: usize, row: usize, f: &Factors);
}

#[inline(always)]
fn put_f16(block: &mut [u8], at: usize, x: f16) {
    block[2 * at..2 * at + 2].copy_from_slice(&x.to_le_bytes());
}

/// The scale of row `row`, and after all scales what is added.
#[inline(always)]
fn put_pair(block: &mut [u8], lanes: usize, row: usize, f: &Factors) {
    put_f16(block, row, f.d);
    put_f16(block, lanes + row, -f.dmin);
}

/// One half-precision scale for 32 inputs.
pub struct Plain;

impl Scales for Plain {
    const BLOCK: usize = 32;
    const SUB: usize = 32;
    const OFFSET: bool = false;
    const ROW_BYTES: usize = 2;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, _sub: usize) -> S::F {
        s.load_f16(p.cast())
    }
}

impl PackScales for Plain {
    #[inline(always)]
    fn put(block: &mut [u8], _lanes: usize, row: usize, f: &Factors) {
        put_f16(block, row, f.d);
    }
}

/// The exponent of a scale for 32 inputs, 128 added: what a byte of MXFP4 says of twice its
/// numbers. The largest byte is infinite.
pub struct Exponents;

impl Scales for Exponents {
    const BLOCK: usize = 32;
    const SUB: usize = 32;
    const OFFSET: bool = false;
    const ROW_BYTES: usize = 1;
    // The scales of four blocks are whole vectors.
    const SEGMENT: usize = 4;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, _sub: usize) -> S::F {
        // As the exponent of a float they are one too large. Of 0 it has a fraction.
        let bits = s.shl::<23>(s.load_u8(p));
        let bits = s.max_i32(bits, s.splat_i32(1 << 22));
        s.mul(s.bits_to_f32(bits), s.splat(0.5))
    }
}

impl PackScales for Exponents {
    #[inline(always)]
    fn put(block: &mut [u8], _lanes: usize, row: usize, f: &Factors) {
        block[row] = (f.exponent + 128).clamp(0, 255) as u8;
    }
}

/// A half-precision scale and offset for 32 inputs.
///
/// Of a block's factors it keeps `d` and `dmin`: `sc` and `m` are 1.
pub struct WithOffset;

impl Scales for WithOffset {
    const BLOCK: usize = 32;
    const SUB: usize = 32;
    const OFFSET: bool = true;
    const ROW_BYTES: usize = 4;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, _sub: usize) -> S::F {
        s.load_f16(p.cast())
    }
    #[inline(always)]
    unsafe fn offset<S: Simd>(s: S, p: *const u8, _sub: usize) -> S::F {
        s.load_f16(p.cast::<u16>().add(S::LANES))
    }
}

impl PackScales for WithOffset {
    #[inline(always)]
    fn put(block: &mut [u8], lanes: usize, row: usize, f: &Factors) {
        put_pair(block, lanes, row, f);
    }
}

/// 256 inputs: a half-precision scale times a signed byte for each `SUB`.
pub struct Super<const SUB: usize>;

impl<const SUB: usize> Scales for Super<SUB> {
    const BLOCK: usize = 256;
    const SUB: usize = SUB;
    const OFFSET: bool = false;
    const ROW_BYTES: usize = 2 + 256 / SUB;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        let d = s.load_f16(p.cast());
        s.mul(d, s.to_f32(s.load_i8(p.add((2 + sub) * S::LANES))))
    }
}

impl<const SUB: usize> PackScales for Super<SUB> {
    #[inline(always)]
    fn put(block: &mut [u8], lanes: usize, row: usize, f: &Factors) {
        put_f16(block, row, f.d);
        for (sub, &sc) in f.sc[..256 / SUB].iter().enumerate() {
            block[(2 + sub) * lanes + row] = sc as u8;
        }
    }
}

/// 256 inputs: half-precision scales of scale and offset, each times an
/// unsigned byte for every 32 inputs. The offset is subtracted.
pub struct SuperOffset;

impl Scales for SuperOffset {
    const BLOCK: usize = 256;
    const SUB: usize = 32;
    const OFFSET: bool = true;
    const ROW_BYTES: usize = 4 + 16;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        let d = s.load_f16(p.cast());
        s.mul(d, s.to_f32(s.load_u8(p.add((4 + sub) * S::LANES))))
    }
    #[inline(always)]
    unsafe fn offset<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        let m = s.load_f16(p.cast::<u16>().add(S::LANES));
        s.mul(m, s.to_f32(s.load_u8(p.add((12 + sub) * S::LANES))))
    }
}

impl PackScales for SuperOffset {
    #[inline(always)]
    fn put(block: &mut [u8], lanes: usize, row: usize, f: &Factors) {
        put_pair(block, lanes, row, f);
        for sub in 0..8 {
            block[(4 + sub) * lanes + row] = f.sc[sub] as u8;
            block[(12 + sub) * lanes + row] = f.m[sub];
        }
    }
}

/// As [`SuperOffset`] for every 16 inputs, scale and offset in the low and
/// high half of a byte.
pub struct SuperNibbles;

impl Scales for SuperNibbles {
    const BLOCK: usize = 256;
    const SUB: usize = 16;
    const OFFSET: bool = true;
    const ROW_BYTES: usize = 4 + 16;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        let d = s.load_f16(p.cast());
        let sc = s.and(s.load_u8(p.add((4 + sub) * S::LANES)), s.splat_i32(15));
        s.mul(d, s.to_f32(sc))
    }
    #[inline(always)]
    unsafe fn offset<S: Simd>(s: S, p: *const u8, sub: usize) -> S::F {
        let m = s.load_f16(p.cast::<u16>().add(S::LANES));
        let sc = s.shr::<4>(s.load_u8(p.add((4 + sub) * S::LANES)));
        s.mul(m, s.to_f32(sc))
    }
}

impl PackScales for SuperNibbles {
    #[inline(always)]
    fn put(block: &mut [u8], lanes: usize, row: usize, f: &Factors) {
        put_pair(block, lanes, row, f);
        for sub in 0..16 {
            block[(4 + sub) * lanes + row] = f.sc[sub] as u8 | f.m[sub] << 4;
        }
    }
}

//! Each integer format: how it is packed, and how a block of a file is split
//! into unsigned codes and scales for that. The layouts on disk are described
//! in [`crate::formats`].

use super::codes::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Codes, Table4};
use super::scales::{Plain, RawScales, Scales, Super, SuperNibbles, SuperOffset, WithOffset};
use rustml_io::DType;

/// An integer format as a composition of codes and scales:
/// `weight = scale * (code - ZERO) + offset`.
pub trait Format: 'static {
    /// The type on disk.
    const DTYPE: DType;
    /// Packing of the codes.
    type Codes: Codes;
    /// Packing of the scales.
    type Scales: Scales;
    /// The code that stands for zero; 0 for signed codes.
    const ZERO: i32 = 0;

    /// Splits one block of [`Scales::BLOCK`] values. Codes are unsigned, or
    /// the bits of signed ones.
    fn split(block: &[u8], codes: &mut [u8], raw: &mut RawScales);
}

fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Low nibbles are the first 16 codes, high nibbles the last 16.
fn nibbles(packed: &[u8], codes: &mut [u8]) {
    let (lo, hi) = codes.split_at_mut(packed.len());
    for ((lo, hi), b) in lo.iter_mut().zip(hi).zip(packed) {
        (*lo, *hi) = (b & 15, b >> 4);
    }
}

/// The fifth bits of 32 codes, from a little-endian word.
fn fifth_bits(word: &[u8], codes: &mut [u8]) {
    for (i, c) in codes.iter_mut().enumerate() {
        *c |= ((word[i / 8] >> (i % 8)) & 1) << 4;
    }
}

/// The eight 6-bit scales and offsets of Q4_K and Q5_K (`get_scale_min_k4`).
fn six_bit_pairs(packed: &[u8], raw: &mut RawScales) {
    for j in 0..4 {
        raw.sub_d[j] = (packed[j] & 63) as i8;
        raw.sub_m[j] = (packed[j + 4] & 63) as i8;
        raw.sub_d[j + 4] = ((packed[j + 8] & 15) | (packed[j] >> 6) << 4) as i8;
        raw.sub_m[j + 4] = ((packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4) as i8;
    }
}

macro_rules! format {
    ($(#[$doc:meta])* $name:ident, $codes:ty, $scales:ty, zero $zero:literal, $split:expr) => {
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        pub struct $name;
        impl Format for $name {
            const DTYPE: DType = DType::$name;
            type Codes = $codes;
            type Scales = $scales;
            const ZERO: i32 = $zero;
            #[inline]
            fn split(block: &[u8], codes: &mut [u8], raw: &mut RawScales) {
                let split: fn(&[u8], &mut [u8], &mut RawScales) = $split;
                split(block, codes, raw)
            }
        }
    };
}

format!(
    /// 8-bit codes, a scale for 32.
    Q8_0, Bits8, Plain, zero 0, |b, c, r| {
        r.d = half_at(b, 0);
        c.copy_from_slice(&b[2..34]);
    }
);
format!(
    /// 4-bit codes, a scale for 32.
    Q4_0, Bits4, Plain, zero 8, |b, c, r| {
        r.d = half_at(b, 0);
        nibbles(&b[2..18], c);
    }
);
format!(
    /// 4-bit codes, a scale and an offset for 32.
    Q4_1, Bits4, WithOffset, zero 0, |b, c, r| {
        (r.d, r.m) = (half_at(b, 0), half_at(b, 2));
        nibbles(&b[4..20], c);
    }
);
format!(
    /// 5-bit codes, a scale for 32.
    Q5_0, Bits5, Plain, zero 16, |b, c, r| {
        r.d = half_at(b, 0);
        nibbles(&b[6..22], c);
        fifth_bits(&b[2..6], c);
    }
);
format!(
    /// 5-bit codes, a scale and an offset for 32.
    Q5_1, Bits5, WithOffset, zero 0, |b, c, r| {
        (r.d, r.m) = (half_at(b, 0), half_at(b, 2));
        nibbles(&b[8..24], c);
        fifth_bits(&b[4..8], c);
    }
);
format!(
    /// 4-bit indices into a table of signed codes, a scale for 32.
    IQ4_NL, Table4, Plain, zero 0, |b, c, r| {
        r.d = half_at(b, 0);
        nibbles(&b[2..18], c);
    }
);
format!(
    /// As IQ4_NL, with 6-bit scales for 32 in 256.
    IQ4_XS, Table4, Super<32>, zero 0, |b, c, r| {
        r.d = half_at(b, 0);
        let high = half_at(b, 2);
        for sub in 0..8 {
            let low = (b[4 + sub / 2] >> (4 * (sub % 2))) & 15;
            let scale = low | (((high >> (2 * sub)) & 3) << 4) as u8;
            r.sub_d[sub] = scale as i8 - 32;
            nibbles(&b[8 + 16 * sub..][..16], &mut c[32 * sub..][..32]);
        }
    }
);
format!(
    /// 2-bit codes, 4-bit scales and offsets for 16 in 256.
    Q2_K, Bits2, SuperNibbles, zero 0, |b, c, r| {
        (r.d, r.m) = (half_at(b, 80), half_at(b, 82));
        for sub in 0..16 {
            r.sub_d[sub] = (b[sub] & 15) as i8;
            r.sub_m[sub] = (b[sub] >> 4) as i8;
        }
        for (i, c) in c.iter_mut().enumerate() {
            let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
            *c = (b[16 + 32 * half + at] >> (2 * part)) & 3;
        }
    }
);
format!(
    /// 3-bit codes, 6-bit scales for 16 in 256.
    Q3_K, Bits3, Super<16>, zero 4, |b, c, r| {
        r.d = half_at(b, 108);
        let s = &b[96..108];
        for sub in 0..16 {
            let low = (s[sub % 8] >> (4 * (sub / 8))) & 15;
            let high = (s[8 + sub % 4] >> (2 * (sub / 4))) & 3;
            r.sub_d[sub] = (low | high << 4) as i8 - 32;
        }
        for (i, c) in c.iter_mut().enumerate() {
            let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
            let low = (b[32 + 32 * half + at] >> (2 * part)) & 3;
            let high = (b[at] >> (4 * half + part)) & 1;
            *c = low | high << 2;
        }
    }
);
format!(
    /// 4-bit codes, 6-bit scales and offsets for 32 in 256.
    Q4_K, Bits4, SuperOffset, zero 0, |b, c, r| {
        (r.d, r.m) = (half_at(b, 0), half_at(b, 2));
        six_bit_pairs(&b[4..16], r);
        for pair in 0..4 {
            nibbles(&b[16 + 32 * pair..][..32], &mut c[64 * pair..][..64]);
        }
    }
);
format!(
    /// 5-bit codes, 6-bit scales and offsets for 32 in 256.
    Q5_K, Bits5, SuperOffset, zero 0, |b, c, r| {
        (r.d, r.m) = (half_at(b, 0), half_at(b, 2));
        six_bit_pairs(&b[4..16], r);
        for pair in 0..4 {
            nibbles(&b[48 + 32 * pair..][..32], &mut c[64 * pair..][..64]);
        }
        for (i, c) in c.iter_mut().enumerate() {
            *c |= ((b[16 + i % 32] >> (i / 32)) & 1) << 4;
        }
    }
);
format!(
    /// 6-bit codes, 8-bit scales for 16 in 256.
    Q6_K, Bits6, Super<16>, zero 32, |b, c, r| {
        r.d = half_at(b, 208);
        for sub in 0..16 {
            r.sub_d[sub] = b[192 + sub] as i8;
        }
        for (i, c) in c.iter_mut().enumerate() {
            let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
            let low = (b[64 * half + 32 * (part % 2) + at] >> (4 * (part / 2))) & 15;
            let high = (b[128 + 32 * half + at] >> (2 * part)) & 3;
            *c = low | high << 4;
        }
    }
);

//! IQ4_NL: 32 4-bit indices into a table of uneven steps, one scale. 4.5 bits a value.

use super::{block, fit, BlockFormat, Factors};
use half::f16;
use rustml_io::DType;

/// The table of IQ4_NL and IQ4_XS, `kvalues_iq4nl` of `ggml-common.h`: finer near zero, where
/// weights are dense.
pub const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

block! {
    /// `block_iq4_nl` of `ggml-common.h`, 18 bytes for 32 values: `value = d * LEVELS[q]`.
    ///
    /// ```text
    /// byte  0..2   d, half precision, little endian
    /// byte  2..18  qs[j], j = 0..16:  bits 0-3  q of value j
    ///                                 bits 4-7  q of value j + 16
    /// ```
    pub struct IQ4_NL {
        /// Scale, half-precision bits.
        pub d: [u8; 2],
        /// Two indices into [`LEVELS`] a byte.
        pub qs: [u8; 16],
    }
}

impl BlockFormat for IQ4_NL {
    const DTYPE: DType = DType::IQ4_NL;
    const SUB: usize = 32;
    const OFFSET: bool = false;

    fn factors(&self) -> Factors {
        Factors::single(f16::from_le_bytes(self.d), None)
    }

    fn unpack(&self, codes: &mut [i8]) {
        look_up(&self.qs, codes);
    }

    fn pack(factors: &Factors, codes: &[i8]) -> Self {
        Self {
            d: factors.d.to_le_bytes(),
            qs: indices(codes),
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let d = f16::from_f32(fit::within_half(fit::level_scale(&x)));
        let mut codes = [0; 32];
        fit::level_codes(&x, d.to_f32(), &mut codes);
        Self::pack(&Factors::single(d, None), &codes)
    }
}

/// The table's values for 16 bytes of indices, into `codes[32]`.
pub(super) fn look_up(qs: &[u8], codes: &mut [i8]) {
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        *low = LEVELS[usize::from(q & 15)];
        *high = LEVELS[usize::from(q >> 4)];
    }
}

/// The inverse of [`look_up`]; what is no level becomes the next one above.
pub(super) fn indices(codes: &[i8]) -> [u8; 16] {
    let index = |code: i8| LEVELS[..15].partition_point(|&level| level < code) as u8;
    std::array::from_fn(|j| index(codes[j]) | (index(codes[j + 16]) << 4))
}

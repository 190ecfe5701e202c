//! IQ4_NL: 32 4-bit indices into a table of uneven steps, one scale. 4.5 bits a value.

use super::q4_0::{join, split};
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

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        Self {
            d: factors.d.to_le_bytes(),
            qs: join(q),
        }
    }

    fn code(q: u8) -> i8 {
        LEVELS[usize::from(q & 15)]
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let d = f16::from_f32(fit::within_half(fit::level_scale(&x)));
        let mut q = [0; 32];
        fit::level_codes(&x, d.to_f32(), &mut q);
        Self::pack(&Factors::single(d, None), &q)
    }
}

//! Q4_0: 32 signed 4-bit codes, one scale. 4.5 bits a value.

use super::{block, fit, BlockFormat, Factors};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q4_0` of `ggml-common.h`, 18 bytes for 32 values: `value = d * (q - 8)`.
    ///
    /// ```text
    /// byte  0..2   d, half precision, little endian
    /// byte  2..18  qs[j], j = 0..16:  bits 0-3  q of value j
    ///                                 bits 4-7  q of value j + 16
    /// ```
    pub struct Q4_0 {
        /// Scale, half-precision bits.
        pub d: [u8; 2],
        /// Two codes a byte, 8 added.
        pub qs: [u8; 16],
    }
}

impl BlockFormat for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const SUB: usize = 32;
    const OFFSET: bool = false;

    fn factors(&self) -> Factors {
        Factors::single(f16::from_le_bytes(self.d), None)
    }

    fn unpack(&self, codes: &mut [i8]) {
        let (low, high) = codes.split_at_mut(16);
        for ((low, high), q) in low.iter_mut().zip(high).zip(self.qs) {
            *low = (q & 15) as i8 - 8;
            *high = (q >> 4) as i8 - 8;
        }
    }

    fn pack(factors: &Factors, codes: &[i8]) -> Self {
        Self {
            d: factors.d.to_le_bytes(),
            qs: std::array::from_fn(|j| {
                (codes[j].wrapping_add(8) & 15) as u8 | (codes[j + 16].wrapping_add(8) as u8) << 4
            }),
        }
    }

    /// GGML's `quantize_row_q4_0_ref`, bit for bit: the value farthest from zero gets the code -8.
    #[inline]
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let d = fit::within_half(fit::peak(&x) / -8.0);
        let inverse = fit::inverse(d);
        let code = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        Self {
            d: f16::from_f32(d).to_le_bytes(),
            qs: std::array::from_fn(|j| code(x[j]) | (code(x[j + 16]) << 4)),
        }
    }
}

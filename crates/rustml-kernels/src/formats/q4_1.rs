//! Q4_1: 32 unsigned 4-bit codes, a scale and a minimum. 5 bits a value.

use super::q4_0::{join, split};
use super::{block, fit, BlockFormat, Factors};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q4_1` of `ggml-common.h`, 20 bytes for 32 values: `value = d * q + m`.
    ///
    /// ```text
    /// byte  0..2   d, half precision, little endian
    /// byte  2..4   m, half precision, little endian
    /// byte  4..20  qs[j], j = 0..16:  bits 0-3  q of value j
    ///                                 bits 4-7  q of value j + 16
    /// ```
    ///
    /// In [`Factors`], `dmin = -m`.
    pub struct Q4_1 {
        /// Scale, half-precision bits.
        pub d: [u8; 2],
        /// The value of code 0, half-precision bits.
        pub m: [u8; 2],
        /// Two codes a byte.
        pub qs: [u8; 16],
    }
}

impl BlockFormat for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const SUB: usize = 32;
    const OFFSET: bool = true;

    fn factors(&self) -> Factors {
        Factors::single(
            f16::from_le_bytes(self.d),
            Some(-f16::from_le_bytes(self.m)),
        )
    }

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        Self {
            d: factors.d.to_le_bytes(),
            m: (-factors.dmin).to_le_bytes(),
            qs: join(q),
        }
    }

    /// GGML's `quantize_row_q4_1_ref`, bit for bit: the codes span minimum to maximum.
    #[inline]
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let (min, max) = fit::range(&x);
        let (d, m) = (fit::within_half((max - min) / 15.0), fit::within_half(min));
        let inverse = fit::inverse(d);
        Self {
            d: f16::from_f32(d).to_le_bytes(),
            m: f16::from_f32(m).to_le_bytes(),
            qs: join(&x.map(|v| fit::round_down((v - m) * inverse + 0.5, 15))),
        }
    }
}

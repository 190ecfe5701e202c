//! Q5_1: 32 unsigned 5-bit codes, a scale and a minimum. 6 bits a value.

use super::q5_0::{join, split};
use super::{block, fit, BlockFormat, Factors};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q5_1` of `ggml-common.h`, 24 bytes for 32 values: `value = d * q + m`.
    ///
    /// ```text
    /// byte  0..2   d, half precision, little endian
    /// byte  2..4   m, half precision, little endian
    /// byte  4..8   qh, 32 bits, little endian:  bit i    bit 4 of q of value i
    /// byte  8..24  qs[j], j = 0..16:            bits 0-3  bits 0-3 of q of value j
    ///                                           bits 4-7  bits 0-3 of q of value j + 16
    /// ```
    ///
    /// In [`Factors`], `dmin = -m`.
    pub struct Q5_1 {
        /// Scale, half-precision bits.
        pub d: [u8; 2],
        /// The value of code 0, half-precision bits.
        pub m: [u8; 2],
        /// The codes' fifth bits.
        pub qh: [u8; 4],
        /// The codes' low four bits, two a byte.
        pub qs: [u8; 16],
    }
}

impl BlockFormat for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const SUB: usize = 32;
    const OFFSET: bool = true;

    fn factors(&self) -> Factors {
        Factors::single(
            f16::from_le_bytes(self.d),
            Some(-f16::from_le_bytes(self.m)),
        )
    }

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qh, &self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let (qh, qs) = join(q);
        Self {
            d: factors.d.to_le_bytes(),
            m: (-factors.dmin).to_le_bytes(),
            qh,
            qs,
        }
    }

    /// GGML's `quantize_row_q5_1_ref`, bit for bit: the codes span minimum to maximum.
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let (min, max) = fit::range(&x);
        let (d, m) = (fit::within_half((max - min) / 31.0), fit::within_half(min));
        let inverse = fit::inverse(d);
        let (qh, qs) = join(&x.map(|v| fit::round_down((v - m) * inverse + 0.5, 31)));
        Self {
            d: f16::from_f32(d).to_le_bytes(),
            m: f16::from_f32(m).to_le_bytes(),
            qh,
            qs,
        }
    }
}

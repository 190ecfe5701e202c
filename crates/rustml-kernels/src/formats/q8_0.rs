//! Q8_0: 32 signed 8-bit codes, one scale. 8.5 bits a value.

use super::{block, fit, BlockFormat, Factors};
use half::f16;
use rustml_io::DType;
use zerocopy::IntoBytes;

block! {
    /// `block_q8_0` of `ggml-common.h`, 34 bytes for 32 values: `value = d * q`.
    ///
    /// ```text
    /// byte  0..2   d, half precision, little endian
    /// byte  2..34  qs[i], i = 0..32:  q of value i, two's complement
    /// ```
    ///
    /// Quantisers, this one too, write -127..=127; a file may still hold -128.
    pub struct Q8_0 {
        /// Scale, half-precision bits.
        pub d: [u8; 2],
        /// One code a byte.
        pub qs: [i8; 32],
    }
}

impl BlockFormat for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const SUB: usize = 32;
    const OFFSET: bool = false;

    fn factors(&self) -> Factors {
        Factors::single(f16::from_le_bytes(self.d), None)
    }

    fn unpack(&self, q: &mut [u8]) {
        q.copy_from_slice(self.qs.as_bytes());
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        Self {
            d: factors.d.to_le_bytes(),
            qs: std::array::from_fn(|i| q[i] as i8),
        }
    }

    /// GGML's `quantize_row_q8_0_ref`, bit for bit: the value farthest from zero gets +-127.
    #[inline]
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let d = fit::within_half(fit::peak(&x).abs() / 127.0);
        let inverse = fit::inverse(d);
        Self {
            d: f16::from_f32(d).to_le_bytes(),
            qs: x.map(|v| fit::round_away(v * inverse)),
        }
    }
}

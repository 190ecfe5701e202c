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
    const ZERO: u8 = 8;

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

    /// GGML's `quantize_row_q4_0_ref`, bit for bit: the value farthest from zero gets the code -8.
    #[inline]
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let d = fit::within_half(fit::peak(&x) / -8.0);
        let inverse = fit::inverse(d);
        Self {
            d: f16::from_f32(d).to_le_bytes(),
            qs: join(&x.map(|v| fit::round_down(v * inverse + 8.5, 15))),
        }
    }
}

/// The 4-bit codes that Q4_0, Q4_1 and the IQ4 types keep in 16 bytes, into `q[32]`.
pub(super) fn split(qs: &[u8; 16], q: &mut [u8]) {
    let (low, high) = q.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(qs) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// The inverse of [`split`].
#[inline]
pub(super) fn join(q: &[u8]) -> [u8; 16] {
    std::array::from_fn(|j| (q[j] & 15) | (q[j + 16] << 4))
}

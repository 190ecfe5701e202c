//! Q5_0: 32 signed 5-bit codes, one scale. 5.5 bits a value.

use super::{block, fit, q4_0, BlockFormat, Factors};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q5_0` of `ggml-common.h`, 22 bytes for 32 values: `value = d * (q - 16)`.
    ///
    /// ```text
    /// byte  0..2   d, half precision, little endian
    /// byte  2..6   qh, 32 bits, little endian:  bit i    bit 4 of q of value i
    /// byte  6..22  qs[j], j = 0..16:            bits 0-3  bits 0-3 of q of value j
    ///                                           bits 4-7  bits 0-3 of q of value j + 16
    /// ```
    pub struct Q5_0 {
        /// Scale, half-precision bits.
        pub d: [u8; 2],
        /// The codes' fifth bits.
        pub qh: [u8; 4],
        /// The codes' low four bits, two a byte; 16 was added to the code.
        pub qs: [u8; 16],
    }
}

impl BlockFormat for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const SUB: usize = 32;
    const OFFSET: bool = false;
    const ZERO: u8 = 16;

    fn factors(&self) -> Factors {
        Factors::single(f16::from_le_bytes(self.d), None)
    }

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qh, &self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let (qh, qs) = join(q);
        Self {
            d: factors.d.to_le_bytes(),
            qh,
            qs,
        }
    }

    /// GGML's `quantize_row_q5_0_ref`, bit for bit: the value farthest from zero gets the code -16.
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let d = fit::within_half(fit::peak(&x) / -16.0);
        let inverse = fit::inverse(d);
        let (qh, qs) = join(&x.map(|v| fit::round_down(v * inverse + 16.5, 31)));
        Self {
            d: f16::from_f32(d).to_le_bytes(),
            qh,
            qs,
        }
    }
}

/// The 5-bit codes that Q5_0 and Q5_1 keep in `qh` and `qs`, into `q[32]`.
pub(super) fn split(qh: &[u8; 4], qs: &[u8; 16], q: &mut [u8]) {
    q4_0::split(qs, q);
    let qh = u32::from_le_bytes(*qh);
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((qh >> i & 1) << 4) as u8;
    }
}

/// The inverse of [`split`].
pub(super) fn join(q: &[u8]) -> ([u8; 4], [u8; 16]) {
    let high = q.iter().enumerate();
    let qh = high.fold(0, |qh, (i, q)| qh | u32::from(q >> 4 & 1) << i);
    (qh.to_le_bytes(), q4_0::join(q))
}

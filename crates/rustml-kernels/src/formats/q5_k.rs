//! Q5_K: 256 unsigned 5-bit codes, 6-bit scales and minima. 5.5 bits a value.

use super::{block, fit, q4_k, BlockFormat, Factors};
use rustml_io::DType;

block! {
    /// `block_q5_K` of `ggml-common.h` ("k-quants"), 176 bytes for 256 values in 8 sub-blocks `s`
    /// of 32: `value = d * sc[s] * q - dmin * m[s]`.
    ///
    /// ```text
    /// byte  0..2    d, half precision, little endian
    /// byte  2..4    dmin, half precision, little endian
    /// byte  4..16   scales, as in Q4_K
    /// byte 16..48   qh[l], l = 0..32:  bit s  bit 4 of q of value 32 s + l
    /// byte 48..176  qs[32 g + l], g = 0..4, l = 0..32:
    ///                   bits 0-3  bits 0-3 of q of value 64 g + l
    ///                   bits 4-7  bits 0-3 of q of value 64 g + l + 32
    /// ```
    pub struct Q5_K {
        /// Scale of the scales, half-precision bits.
        pub d: [u8; 2],
        /// Scale of the minima, half-precision bits.
        pub dmin: [u8; 2],
        /// Scales and minima, 6 bits each.
        pub scales: [u8; 12],
        /// The codes' fifth bits.
        pub qh: [u8; 32],
        /// The codes' low four bits, two a byte.
        pub qs: [u8; 128],
    }
}

impl BlockFormat for Q5_K {
    const DTYPE: DType = DType::Q5_K;
    const SUB: usize = 32;
    const OFFSET: bool = true;

    fn factors(&self) -> Factors {
        q4_k::factors(&self.d, &self.dmin, &self.scales)
    }

    fn unpack(&self, q: &mut [u8]) {
        q4_k::split(&self.qs, q);
        for (s, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, high) in q.iter_mut().zip(self.qh) {
                *q |= (high >> s & 1) << 4;
            }
        }
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let mut qh = [0; 32];
        for (s, q) in q.chunks_exact(32).enumerate() {
            for (high, q) in qh.iter_mut().zip(q) {
                *high |= (q >> 4 & 1) << s;
            }
        }
        Self {
            d: factors.d.to_le_bytes(),
            dmin: factors.dmin.to_le_bytes(),
            scales: q4_k::join_scales(factors),
            qh,
            qs: q4_k::join(q),
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<256>(values);
        let (factors, q) = fit::super_block_offset(&x, Self::SUB, 31, 63);
        Self::pack(&factors, &q)
    }
}

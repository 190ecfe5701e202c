//! Q6_K: 256 signed 6-bit codes, 8-bit scales. 6.5625 bits a value.

use super::{block, fit, BlockFormat, Factors, MAX_SUBS};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q6_K` of `ggml-common.h` ("k-quants"), 210 bytes for 256 values in 16 sub-blocks `s`
    /// of 16: `value = d * scales[s] * (q - 32)`.
    ///
    /// ```text
    /// byte   0..128  ql[64 h + l], h = 0..2, l = 0..64:
    ///                    bits 0-3  bits 0-3 of q of value 128 h + l
    ///                    bits 4-7  bits 0-3 of q of value 128 h + l + 64
    /// byte 128..192  qh[32 h + l], h = 0..2, l = 0..32:
    ///                    bits 2j, 2j+1  bits 4-5 of q of value 128 h + 32 j + l, j = 0..4
    /// byte 192..208  scales[s], two's complement
    /// byte 208..210  d, half precision, little endian
    /// ```
    pub struct Q6_K {
        /// The codes' low four bits, two a byte; 32 was added to the code.
        pub ql: [u8; 128],
        /// The codes' high two bits, four a byte.
        pub qh: [u8; 64],
        /// The scales.
        pub scales: [i8; 16],
        /// Scale of the scales, half-precision bits.
        pub d: [u8; 2],
    }
}

impl BlockFormat for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const SUB: usize = 16;
    const OFFSET: bool = false;
    const ZERO: u8 = 32;

    fn factors(&self) -> Factors {
        Factors {
            d: f16::from_le_bytes(self.d),
            dmin: f16::ZERO,
            exponent: 0,
            sc: self.scales,
            m: [0; MAX_SUBS],
        }
    }

    fn unpack(&self, q: &mut [u8]) {
        let halves = self.ql.chunks_exact(64).zip(self.qh.chunks_exact(32));
        for ((ql, qh), q) in halves.zip(q.chunks_exact_mut(128)) {
            for (j, q) in q.chunks_exact_mut(32).enumerate() {
                let ql = &ql[32 * (j % 2)..][..32];
                for ((q, low), high) in q.iter_mut().zip(ql).zip(qh) {
                    *q = low >> (4 * (j / 2)) & 15 | (high >> (2 * j) & 3) << 4;
                }
            }
        }
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let (mut ql, mut qh) = ([0; 128], [0; 64]);
        let halves = ql.chunks_exact_mut(64).zip(qh.chunks_exact_mut(32));
        for ((ql, qh), q) in halves.zip(q.chunks_exact(128)) {
            for (j, q) in q.chunks_exact(32).enumerate() {
                let ql = &mut ql[32 * (j % 2)..][..32];
                for ((q, low), high) in q.iter().zip(ql).zip(&mut *qh) {
                    *low |= (q & 15) << (4 * (j / 2));
                    *high |= (q >> 4 & 3) << (2 * j);
                }
            }
        }
        Self {
            ql,
            qh,
            scales: factors.sc,
            d: factors.d.to_le_bytes(),
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<256>(values);
        let (factors, q) = fit::super_block(
            &x,
            Self::SUB,
            128,
            fit::even_scale::<32>,
            fit::even_codes::<32>,
        );
        Self::pack(&factors, &q)
    }
}

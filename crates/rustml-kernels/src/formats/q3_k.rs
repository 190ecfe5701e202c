//! Q3_K: 256 signed 3-bit codes, 6-bit scales. 3.4375 bits a value.

use super::{block, fit, q2_k, BlockFormat, Factors, MAX_SUBS};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q3_K` of `ggml-common.h` ("k-quants"), 110 bytes for 256 values in 16 sub-blocks `s`
    /// of 16: `value = d * (scale[s] - 32) * (q - 4)`.
    ///
    /// ```text
    /// byte   0..32   hmask[l], l = 0..32:  bit g  bit 2 of q of value 32 g + l, g = 0..8
    /// byte  32..96   qs[32 h + l], h = 0..2, l = 0..32:
    ///                    bits 2j, 2j+1  bits 0-1 of q of value 128 h + 32 j + l, j = 0..4
    /// byte  96..104  scales[s % 8]:      bits 0-3  bits 0-3 of scale[s], s < 8
    ///                                    bits 4-7  bits 0-3 of scale[s], s >= 8
    /// byte 104..108  scales[8 + s % 4]:  bits 2k, 2k+1  bits 4-5 of scale[s], k = s / 4
    /// byte 108..110  d, half precision, little endian
    /// ```
    pub struct Q3_K {
        /// The codes' third bits.
        pub hmask: [u8; 32],
        /// The codes' low two bits, four a byte; 4 was added to the code.
        pub qs: [u8; 64],
        /// The scales, 32 added.
        pub scales: [u8; 12],
        /// Scale of the scales, half-precision bits.
        pub d: [u8; 2],
    }
}

impl BlockFormat for Q3_K {
    const DTYPE: DType = DType::Q3_K;
    const SUB: usize = 16;
    const OFFSET: bool = false;
    const ZERO: u8 = 4;

    fn factors(&self) -> Factors {
        Factors {
            d: f16::from_le_bytes(self.d),
            dmin: f16::ZERO,
            exponent: 0,
            sc: std::array::from_fn(|s| {
                let low = self.scales[s % 8] >> (4 * (s / 8)) & 15;
                let high = self.scales[8 + s % 4] >> (2 * (s / 4)) & 3;
                (low | high << 4) as i8 - 32
            }),
            m: [0; MAX_SUBS],
        }
    }

    fn unpack(&self, q: &mut [u8]) {
        q2_k::split(&self.qs, q);
        for (g, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, high) in q.iter_mut().zip(self.hmask) {
                *q |= (high >> g & 1) << 2;
            }
        }
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let mut scales = [0; 12];
        for (s, sc) in factors.sc.iter().enumerate() {
            let scale = sc.wrapping_add(32) as u8;
            scales[s % 8] |= (scale & 15) << (4 * (s / 8));
            scales[8 + s % 4] |= (scale >> 4 & 3) << (2 * (s / 4));
        }
        let mut hmask = [0; 32];
        for (g, q) in q.chunks_exact(32).enumerate() {
            for (high, q) in hmask.iter_mut().zip(q) {
                *high |= (q >> 2 & 1) << g;
            }
        }
        Self {
            hmask,
            qs: q2_k::join(q),
            scales,
            d: factors.d.to_le_bytes(),
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<256>(values);
        let (factors, q) = fit::super_block(
            &x,
            Self::SUB,
            32,
            fit::even_scale::<4>,
            fit::even_codes::<4>,
        );
        Self::pack(&factors, &q)
    }
}

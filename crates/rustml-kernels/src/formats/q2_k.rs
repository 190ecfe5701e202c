//! Q2_K: 256 unsigned 2-bit codes, 4-bit scales and minima. 2.625 bits a value.

use super::{block, fit, BlockFormat, Factors, MAX_SUBS};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q2_K` of `ggml-common.h` ("k-quants"), 84 bytes for 256 values in 16 sub-blocks `s`
    /// of 16: `value = d * sc[s] * q - dmin * m[s]`.
    ///
    /// ```text
    /// byte  0..16  scales[s]:  bits 0-3  sc[s]
    ///                          bits 4-7  m[s]
    /// byte 16..80  qs[32 h + l], h = 0..2, l = 0..32:
    ///                  bits 2j, 2j+1  q of value 128 h + 32 j + l, j = 0..4
    /// byte 80..82  d, half precision, little endian
    /// byte 82..84  dmin, half precision, little endian
    /// ```
    pub struct Q2_K {
        /// Scale (low half) and minimum (high half) of each sub-block.
        pub scales: [u8; 16],
        /// Four codes a byte.
        pub qs: [u8; 64],
        /// Scale of the scales, half-precision bits.
        pub d: [u8; 2],
        /// Scale of the minima, half-precision bits.
        pub dmin: [u8; 2],
    }
}

impl BlockFormat for Q2_K {
    const DTYPE: DType = DType::Q2_K;
    const SUB: usize = 16;
    const OFFSET: bool = true;

    fn factors(&self) -> Factors {
        Factors {
            d: f16::from_le_bytes(self.d),
            dmin: f16::from_le_bytes(self.dmin),
            exponent: 0,
            sc: self.scales.map(|byte| (byte & 15) as i8),
            m: self.scales.map(|byte| byte >> 4),
        }
    }

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let Factors { d, dmin, sc, m, .. } = factors;
        Self {
            scales: std::array::from_fn::<_, MAX_SUBS, _>(|s| sc[s] as u8 & 15 | m[s] << 4),
            qs: join(q),
            d: d.to_le_bytes(),
            dmin: dmin.to_le_bytes(),
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<256>(values);
        let (factors, q) = fit::super_block_offset(&x, Self::SUB, 3, 15);
        Self::pack(&factors, &q)
    }
}

/// The 2-bit codes that Q2_K and Q3_K keep in `qs`, into `q[256]`.
pub(super) fn split(qs: &[u8; 64], q: &mut [u8]) {
    for (qs, q) in qs.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, byte) in q.iter_mut().zip(qs) {
                *q = byte >> (2 * j) & 3;
            }
        }
    }
}

/// The inverse of [`split`]; higher bits of the codes are ignored.
pub(super) fn join(q: &[u8]) -> [u8; 64] {
    let mut qs = [0; 64];
    for (qs, q) in qs.chunks_exact_mut(32).zip(q.chunks_exact(128)) {
        for (j, q) in q.chunks_exact(32).enumerate() {
            for (byte, q) in qs.iter_mut().zip(q) {
                *byte |= (q & 3) << (2 * j);
            }
        }
    }
    qs
}

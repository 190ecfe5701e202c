//! Q4_K: 256 unsigned 4-bit codes, 6-bit scales and minima. 4.5 bits a value.

use super::{block, fit, BlockFormat, Factors, MAX_SUBS};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_q4_K` of `ggml-common.h` ("k-quants"), 144 bytes for 256 values in 8 sub-blocks `s`
    /// of 32: `value = d * sc[s] * q - dmin * m[s]`.
    ///
    /// ```text
    /// byte  0..2    d, half precision, little endian
    /// byte  2..4    dmin, half precision, little endian
    /// byte  4..8    scales[k],     k = 0..4:  bits 0-5  sc[k]
    ///                                         bits 6-7  bits 4-5 of sc[k + 4]
    /// byte  8..12   scales[4 + k], k = 0..4:  bits 0-5  m[k]
    ///                                         bits 6-7  bits 4-5 of m[k + 4]
    /// byte 12..16   scales[8 + k], k = 0..4:  bits 0-3  bits 0-3 of sc[k + 4]
    ///                                         bits 4-7  bits 0-3 of m[k + 4]
    /// byte 16..144  qs[32 g + l], g = 0..4, l = 0..32:  bits 0-3  q of value 64 g + l
    ///                                                   bits 4-7  q of value 64 g + l + 32
    /// ```
    pub struct Q4_K {
        /// Scale of the scales, half-precision bits.
        pub d: [u8; 2],
        /// Scale of the minima, half-precision bits.
        pub dmin: [u8; 2],
        /// Scales and minima, 6 bits each.
        pub scales: [u8; 12],
        /// Two codes a byte.
        pub qs: [u8; 128],
    }
}

impl BlockFormat for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const SUB: usize = 32;
    const OFFSET: bool = true;

    fn factors(&self) -> Factors {
        factors(&self.d, &self.dmin, &self.scales)
    }

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        Self {
            d: factors.d.to_le_bytes(),
            dmin: factors.dmin.to_le_bytes(),
            scales: join_scales(factors),
            qs: join(q),
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<256>(values);
        let (factors, q) = fit::super_block_offset(&x, Self::SUB, 15, 63);
        Self::pack(&factors, &q)
    }
}

/// The factors of Q4_K and Q5_K.
pub(super) fn factors(d: &[u8; 2], dmin: &[u8; 2], scales: &[u8; 12]) -> Factors {
    let (mut sc, mut m) = ([0; MAX_SUBS], [0; MAX_SUBS]);
    for k in 0..4 {
        let (a, b, c) = (scales[k], scales[4 + k], scales[8 + k]);
        sc[k] = (a & 63) as i8;
        m[k] = b & 63;
        sc[k + 4] = (c & 15 | a >> 6 << 4) as i8;
        m[k + 4] = c >> 4 | b >> 6 << 4;
    }
    Factors {
        d: f16::from_le_bytes(*d),
        dmin: f16::from_le_bytes(*dmin),
        exponent: 0,
        sc,
        m,
    }
}

/// The 12 bytes of scales and minima of Q4_K and Q5_K.
pub(super) fn join_scales(factors: &Factors) -> [u8; 12] {
    let mut scales = [0; 12];
    for k in 0..4 {
        let (sc, sc4) = (factors.sc[k] as u8, factors.sc[k + 4] as u8);
        let (m, m4) = (factors.m[k], factors.m[k + 4]);
        scales[k] = sc & 63 | sc4 >> 4 << 6;
        scales[4 + k] = m & 63 | m4 >> 4 << 6;
        scales[8 + k] = sc4 & 15 | m4 << 4;
    }
    scales
}

/// The low four bits of the codes of Q4_K and Q5_K, into `q[256]`.
pub(super) fn split(qs: &[u8; 128], q: &mut [u8]) {
    for (qs, q) in qs.chunks_exact(32).zip(q.chunks_exact_mut(64)) {
        let (low, high) = q.split_at_mut(32);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(qs) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

/// The inverse of [`split`]; higher bits of the codes are ignored.
pub(super) fn join(q: &[u8]) -> [u8; 128] {
    let mut qs = [0; 128];
    for (qs, q) in qs.chunks_exact_mut(32).zip(q.chunks_exact(64)) {
        let (low, high) = q.split_at(32);
        for ((byte, low), high) in qs.iter_mut().zip(low).zip(high) {
            *byte = low & 15 | high << 4;
        }
    }
    qs
}

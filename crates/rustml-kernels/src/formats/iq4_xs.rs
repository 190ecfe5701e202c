//! IQ4_XS: 256 4-bit indices into IQ4_NL's table, 6-bit scales. 4.25 bits a value.

use super::q4_0::{join, split};
use super::{block, fit, BlockFormat, Factors, IQ4_NL, MAX_SUBS};
use half::f16;
use rustml_io::DType;

block! {
    /// `block_iq4_xs` of `ggml-common.h`, 136 bytes for 256 values in 8 sub-blocks `s` of 32:
    /// `value = d * (scale[s] - 32) * LEVELS[q]`.
    ///
    /// ```text
    /// byte  0..2    d, half precision, little endian
    /// byte  2..4    scales_h, 16 bits, little endian:  bits 2s, 2s+1  bits 4-5 of scale[s]
    /// byte  4..8    scales_l[s/2]:  bits 0-3  bits 0-3 of scale[s], s even
    ///                               bits 4-7  bits 0-3 of scale[s], s odd
    /// byte  8..136  qs[16 s + j], j = 0..16:  bits 0-3  q of value 32 s + j
    ///                                         bits 4-7  q of value 32 s + j + 16
    /// ```
    pub struct IQ4_XS {
        /// Scale of the scales, half-precision bits.
        pub d: [u8; 2],
        /// High two bits of the scales.
        pub scales_h: [u8; 2],
        /// Low four bits of the scales.
        pub scales_l: [u8; 4],
        /// Two indices into [`LEVELS`](super::LEVELS) a byte.
        pub qs: [u8; 128],
    }
}

impl BlockFormat for IQ4_XS {
    const DTYPE: DType = DType::IQ4_XS;
    const SUB: usize = 32;
    const OFFSET: bool = false;

    fn factors(&self) -> Factors {
        let high = u16::from_le_bytes(self.scales_h);
        let mut sc = [0; MAX_SUBS];
        for (s, sc) in sc[..Self::SUBS].iter_mut().enumerate() {
            let low = self.scales_l[s / 2] >> (4 * (s % 2)) & 15;
            *sc = (low | ((high >> (2 * s) & 3) << 4) as u8) as i8 - 32;
        }
        Factors {
            d: f16::from_le_bytes(self.d),
            dmin: f16::ZERO,
            exponent: 0,
            sc,
            m: [0; MAX_SUBS],
        }
    }

    fn unpack(&self, q: &mut [u8]) {
        for (qs, q) in self.qs.as_chunks().0.iter().zip(q.chunks_exact_mut(32)) {
            split(qs, q);
        }
    }

    fn code(q: u8) -> i8 {
        IQ4_NL::code(q)
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let mut high = 0;
        let mut scales_l = [0; 4];
        for s in 0..Self::SUBS {
            let scale = factors.sc[s].wrapping_add(32) as u8;
            high |= u16::from(scale >> 4 & 3) << (2 * s);
            scales_l[s / 2] |= (scale & 15) << (4 * (s % 2));
        }
        let mut qs = [0; 128];
        for (qs, q) in qs.chunks_exact_mut(16).zip(q.chunks_exact(32)) {
            qs.copy_from_slice(&join(q));
        }
        Self {
            d: factors.d.to_le_bytes(),
            scales_h: high.to_le_bytes(),
            scales_l,
            qs,
        }
    }

    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<256>(values);
        let (factors, q) = fit::super_block(&x, Self::SUB, 32, fit::level_scale, fit::level_codes);
        Self::pack(&factors, &q)
    }
}

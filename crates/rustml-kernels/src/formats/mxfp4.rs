//! MXFP4: 32 floats of 4 bits, a power of two for all. 4.25 bits a value.

use super::q4_0::{join, split};
use super::{block, fit, power_of_two, BlockFormat, Factors};
use rustml_io::DType;

/// Twice the numbers that a sign, two bits of exponent and one of fraction stand for.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The byte that stands for no number (Open Compute Project, "OCP Microscaling Formats",
/// 5.4.1); here it is infinite, so that it shows.
const NOT_A_NUMBER: u8 = 255;

block! {
    /// `block_mxfp4` of `ggml-common.h`, 17 bytes for 32 values: `value = 2^(e - 127) * q`,
    /// where `q` is a float of a sign, two bits of exponent and one of fraction.
    ///
    /// ```text
    /// byte  0      e
    /// byte  1..17  qs[j], j = 0..16:  bits 0-3  q of value j
    ///                                 bits 4-7  q of value j + 16
    /// ```
    pub struct MXFP4 {
        /// Exponent of the scale, 127 added.
        pub e: u8,
        /// Two values a byte.
        pub qs: [u8; 16],
    }
}

impl MXFP4 {
    /// The factor of the doubled values is half of the block's.
    const BIAS: i16 = 128;
}

impl BlockFormat for MXFP4 {
    const DTYPE: DType = DType::MXFP4;
    const SUB: usize = 32;
    const OFFSET: bool = false;
    const ZERO: u8 = 12;

    fn factors(&self) -> Factors {
        Factors::power(match self.e {
            NOT_A_NUMBER => Self::BIAS,
            e => i16::from(e) - Self::BIAS,
        })
    }

    fn unpack(&self, q: &mut [u8]) {
        split(&self.qs, q);
    }

    fn pack(factors: &Factors, q: &[u8]) -> Self {
        let e = factors.exponent.saturating_add(Self::BIAS);
        Self {
            e: e.clamp(0, NOT_A_NUMBER.into()) as u8,
            qs: join(q),
        }
    }

    fn code(q: u8) -> i8 {
        DOUBLED[usize::from(q & 15)]
    }

    /// The peak gets the largest exponent, as in GGML, if that is better than the next larger
    /// scale, by which it is not cut off.
    fn quantize(values: &[f32]) -> Self {
        let x = fit::clean::<32>(values);
        let peak = fit::peak(&x).abs();
        if peak == 0.0 {
            return Self::pack(&Factors::power(-Self::BIAS), &[0; 32]);
        }
        // 12, the largest, is 1.5 times 2^3.
        let least = (peak.to_bits() >> 23) as i16 - 127 - 3;
        let trials = [least, least + 1].map(|exponent| {
            let scale = power_of_two(exponent.max(-Self::BIAS));
            let q = x.map(|x| nearest(x, scale));
            let miss = |(x, q): (&f32, &u8)| (f32::from(Self::code(*q)) * scale - x).powi(2);
            let error: f32 = x.iter().zip(&q).map(miss).sum();
            (error, Self::pack(&Factors::power(exponent), &q))
        });
        let [(error, small), (larger_error, large)] = trials;
        match error <= larger_error {
            true => small,
            false => large,
        }
    }
}

/// What is nearest to `x` at a scale, of two that are as near the smaller.
fn nearest(x: f32, scale: f32) -> u8 {
    let miss = |q: u8| (f32::from(DOUBLED[usize::from(q)]) * scale - x.abs()).abs();
    let closer = |best, q| if miss(q) < miss(best) { q } else { best };
    let q = (1..8).fold(0, closer);
    match x < 0.0 && q > 0 {
        true => q | 8,
        false => q,
    }
}

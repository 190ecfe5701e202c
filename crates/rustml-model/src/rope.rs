//! Rotations of queries and keys by position, and how they are stretched for
//! long contexts.
//!
//! Some rotations depend on how long the text is: dynamic NTK and LongRoPE. Then
//! all positions of a text are rotated as its present length asks, as one prefill
//! of the whole text would do. [`Rope::since`] says when that changes.

use crate::spec::{bounded, positive};

/// A rotation of queries and keys by position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Values of a head that are rotated, in pairs `i`, `i + dims / 2`.
    pub dims: usize,
    /// `rope_theta`: the base of the frequencies.
    pub base: f32,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How a rotation's frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by the same factor (Chen et al., "Extending Context Window of
    /// Large Language Models via Positional Interpolation").
    Linear {
        /// Positions are divided by it.
        factor: f32,
    },
    /// By wavelength, as Llama 3.1 does: short ones stay, long ones are
    /// divided by `factor`, those between are blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original / low` are long.
        low: f32,
        /// Wavelengths below `original / high` are short.
        high: f32,
        /// Context before stretching.
        original: f32,
    },
    /// By how often a pair turns within the original context (Peng et al.,
    /// "YaRN: Efficient Context Window Extension of Large Language Models").
    Yarn {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Context before stretching.
        original: f32,
        /// Pairs that turn more often than this stay.
        fast: f32,
        /// Pairs that turn less often than this are divided by `factor`.
        slow: f32,
        /// Whether the limits between are rounded to whole pairs.
        truncate: bool,
        /// Factor of cosines and sines.
        amplitude: f32,
    },
    /// By a base that grows with a text longer than the context ("dynamic NTK").
    Dynamic {
        /// How fast it grows.
        factor: f32,
        /// Context before stretching.
        original: usize,
    },
    /// Each frequency by its own divisor, others for texts longer than the
    /// original context (Ding et al., "LongRoPE").
    LongRope {
        /// Divisors for short texts.
        short: Vec<f32>,
        /// Divisors for long ones.
        long: Vec<f32>,
        /// Context before stretching.
        original: usize,
        /// Factor of cosines and sines, for texts of every length.
        amplitude: f32,
    },
    /// Only the fastest pairs turn.
    Proportional {
        /// How many.
        pairs: usize,
        /// Divisor of their frequencies.
        factor: f32,
    },
    /// Each frequency by its own divisor, as GGUF files store them.
    Factors(Vec<f32>),
}

/// The length of the shortest text whose positions are rotated as those of a
/// text of `length` tokens are; 0 if no rotation depends on it. Where it changes,
/// what is cached of the text is of no use any more.
pub fn rotated_since(ropes: &[Rope], length: usize) -> usize {
    ropes.iter().map(|r| r.since(length)).max().unwrap_or(0)
}

/// YaRN's factor of cosines and sines for a stretch.
pub(crate) fn yarn_amplitude(stretch: f32, weight: f32) -> f32 {
    match stretch > 1.0 {
        true => 0.1 * weight * stretch.ln() + 1.0,
        false => 1.0,
    }
}

impl Rope {
    /// The angle by which each pair turns from one position to the next, in
    /// texts that no stretch depends on.
    pub fn frequencies(&self) -> Vec<f32> {
        self.frequencies_at(0)
    }

    /// The same in a text of so many tokens.
    pub fn frequencies_at(&self, length: usize) -> Vec<f32> {
        let plain = |base: f32| {
            (0..self.dims / 2).map(move |i| {
                let exponent = (2 * i) as f32 / self.dims as f32;
                1.0 / base.powf(exponent)
            })
        };
        let divided = |by: &[f32]| plain(self.base).zip(by).map(|(f, d)| f / d).collect();
        match &self.scaling {
            RopeScaling::None => plain(self.base).collect(),
            RopeScaling::Linear { factor } => plain(self.base).map(|f| f / factor).collect(),
            RopeScaling::Factors(divisors) => divided(divisors),
            RopeScaling::LongRope { long, original, .. } if length > *original => divided(long),
            RopeScaling::LongRope { short, .. } => divided(short),
            &RopeScaling::Dynamic { factor, original } => {
                let (longer, factor) = (length.max(original) as f64, f64::from(factor));
                let stretch = factor * longer / original as f64 - (factor - 1.0);
                let exponent = self.dims as f64 / (self.dims as f64 - 2.0);
                plain((f64::from(self.base) * stretch.powf(exponent)) as f32).collect()
            }
            &RopeScaling::Proportional { pairs, factor } => {
                let turning = plain(self.base).take(pairs).map(|f| f / factor);
                let standing = std::iter::repeat(0.0);
                turning.chain(standing).take(self.dims / 2).collect()
            }
            &RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.yarn_limits();
                let blend = |(i, f): (usize, f32)| {
                    let keep = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * (1.0 - keep) + f * keep
                };
                plain(self.base).enumerate().map(blend).collect()
            }
            &RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => plain(self.base)
                .map(|f| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
        }
    }

    /// Between which pairs YaRN blends.
    fn yarn_limits(&self) -> (f32, f32) {
        let RopeScaling::Yarn {
            original,
            fast,
            slow,
            truncate,
            ..
        } = self.scaling
        else {
            return (0.0, 1.0);
        };
        // Which pair turns so often within the original context.
        let dims = self.dims as f64;
        let pair = |turns: f32| {
            let ratio = f64::from(original) / (f64::from(turns) * std::f64::consts::TAU);
            dims * ratio.ln() / (2.0 * f64::from(self.base).ln())
        };
        let (mut low, mut high) = (pair(fast), pair(slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        (low as f32, high as f32)
    }

    /// How many positions the stretch makes of a context.
    pub(crate) fn context(&self, context: usize) -> usize {
        let stretched = match self.scaling {
            RopeScaling::Yarn {
                factor, original, ..
            } => factor * original,
            RopeScaling::Dynamic { factor, original } => factor * original as f32,
            _ => 0.0,
        };
        context.max(stretched as usize)
    }

    /// Factor of cosines and sines.
    pub fn amplitude(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { amplitude, .. } | RopeScaling::LongRope { amplitude, .. } => {
                amplitude
            }
            _ => 1.0,
        }
    }

    /// The length of the shortest text that is rotated as one of `length` tokens is.
    pub fn since(&self, length: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { original, .. } if length > original => length,
            RopeScaling::LongRope { original, .. } if length > original => original + 1,
            _ => 0,
        }
    }

    /// Checks that the numbers make sense together.
    pub(crate) fn validate(&self) -> Result<(), String> {
        positive("the rope base", self.base)?;
        bounded("the number of rotated values", self.dims, 1 << 12)?;
        if !self.dims.is_multiple_of(2) {
            return Err(format!(
                "{} values of a head are rotated, an odd number",
                self.dims
            ));
        }
        let original = "original_max_position_embeddings";
        let divisors = |name: &str, f: &[f32]| match f.len() == self.dims / 2 {
            true => f.iter().try_for_each(|f| positive("a rope factor", *f)),
            false => Err(format!(
                "there are {} rope factors ({name}), but {} pairs are rotated",
                f.len(),
                self.dims / 2
            )),
        };
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("the rope scaling factor", *factor),
            RopeScaling::Factors(f) => divisors("rope_freqs.weight", f),
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original: context,
            } => {
                positive("the rope scaling factor", *factor)?;
                positive("low_freq_factor", *low)?;
                positive(original, *context)?;
                positive("high_freq_factor minus low_freq_factor", high - low)
            }
            RopeScaling::Yarn {
                factor,
                original: context,
                fast,
                slow,
                amplitude,
                ..
            } => {
                positive("the rope scaling factor", *factor)?;
                positive(original, *context)?;
                positive("beta_fast", *fast)?;
                positive("beta_slow", *slow)?;
                positive("attention_factor of the rope scaling", *amplitude)?;
                if self.base == 1.0 {
                    return Err("the rope base is 1, which YaRN cannot stretch".into());
                }
                let (low, high) = self.yarn_limits();
                match low < high {
                    true => Ok(()),
                    false => Err(format!(
                        "beta_fast is {fast} and beta_slow {slow}: the first must be larger, \
                         and both must fall within the {} pairs",
                        self.dims / 2
                    )),
                }
            }
            RopeScaling::Dynamic {
                factor,
                original: context,
            } => {
                positive("the rope scaling factor", *factor)?;
                bounded("max_position_embeddings", *context, 1 << 28)?;
                match self.dims > 2 {
                    true => Ok(()),
                    false => Err("dynamic rope scaling needs more than 2 rotated values".into()),
                }
            }
            RopeScaling::LongRope {
                short,
                long,
                original: context,
                amplitude,
            } => {
                divisors("short_factor, rope_factors_short.weight", short)?;
                divisors("long_factor, rope_factors_long.weight", long)?;
                bounded(original, *context, 1 << 28)?;
                positive("attention_factor of the rope scaling", *amplitude)
            }
            RopeScaling::Proportional { pairs, factor } => {
                positive("the rope scaling factor", *factor)?;
                match *pairs <= self.dims / 2 {
                    true => Ok(()),
                    false => Err(format!(
                        "{pairs} pairs are rotated, but a head has {}",
                        self.dims / 2
                    )),
                }
            }
        }
    }
}

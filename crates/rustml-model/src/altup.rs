//! Several streams of which each layer computes one (Baykal et al., "Alternating Updates for
//! Efficient Transformers"), and what stands beside attention in Gemma 3n.

use crate::spec::{bounded, Activation, Norm};

/// Most streams.
pub const MAX_STREAMS: usize = 8;

/// How streams are predicted before a layer, and corrected after it, by what it made of the
/// first of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AltUp {
    /// How many there are.
    pub streams: usize,
    /// Of what the coefficients are made of.
    pub norm: Norm,
    /// The non-linearity of what reads the vectors that tokens have for a layer; its result is
    /// added to all streams but the first.
    pub activation: Activation,
    /// Whether that reads the first stream times a learned vector.
    pub scaled: bool,
}

/// What stands beside attention: `x + norm(right(left x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Laurel {
    /// Width between the products.
    pub rank: usize,
    /// Of their result.
    pub norm: Norm,
}

impl AltUp {
    pub(crate) fn validate(&self) -> Result<(), String> {
        bounded("the number of streams", self.streams, MAX_STREAMS)
    }
}

/// How many standard deviations above the mean a part `p` of normally distributed numbers
/// lies below.
pub(crate) fn deviations(p: f64) -> f64 {
    // By halving, of a sum of Simpson's: settings are read once.
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let below = |x: f64| {
        let (steps, mut sum) = (2000, 0.0);
        let width = x / f64::from(steps);
        for i in 0..=steps {
            let weight = match i {
                0 => 1.0,
                i if i == steps => 1.0,
                i if i % 2 == 1 => 4.0,
                _ => 2.0,
            };
            sum += weight * density(f64::from(i) * width);
        }
        0.5 + sum * width / 3.0
    };
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match below(middle) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::deviations;

    #[test]
    fn deviations_are_those_of_tables() {
        for (p, z) in [
            (0.95, 1.6448536),
            (0.5, 0.0),
            (0.975, 1.959964),
            (0.1, -1.2815516),
        ] {
            assert!((deviations(p) - z).abs() < 1e-6, "{p}");
        }
    }
}

//! What positions and distances do to attention, beside rotations.

/// Queries at position `p` are multiplied by `1 + growth ln(1 + floor((p + ahead) / every))`
/// (Nakanishi, "Scalable-Softmax Is Superior for Attention").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Positions of one factor.
    pub every: f32,
    /// How much it grows.
    pub growth: f32,
    /// Positions that are counted beside those before.
    pub ahead: f32,
}

/// Ranges of distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relative {
    /// How many, half of them for positions before the query.
    pub ranges: usize,
    /// Distances from here on are one range.
    pub reach: usize,
}

impl Relative {
    /// The range of a position that is `ahead` of the query.
    pub fn range(&self, ahead: isize) -> usize {
        let half = self.ranges / 2;
        let (first, distance) = (usize::from(ahead > 0) * half, ahead.unsigned_abs());
        let exact = half / 2;
        if distance < exact {
            return first + distance;
        }
        let (distance, exact) = (distance as f32, exact as f32);
        let share = (distance / exact).ln() / (self.reach as f32 / exact).ln();
        let further = (share * (half as f32 - exact)) as usize;
        first + (exact as usize + further).min(half - 1)
    }
}

/// The slopes of so many heads, before any factor: a geometric sequence.
pub fn slopes(heads: usize) -> Vec<f32> {
    let whole = (heads + 1).next_power_of_two() / 2;
    let slope = |base: usize, i: usize| 2f32.powf(-8.0 / base as f32 * i as f32);
    let first = (1..=whole).map(|i| slope(whole, i));
    // The others lie between those of twice as many.
    let others = (0..heads - whole).map(|i| slope(2 * whole, 2 * i + 1));
    first.chain(others).collect()
}

impl Temperature {
    /// The factor at a position.
    pub fn at(&self, position: usize) -> f32 {
        let steps = ((position as f32 + self.ahead) / self.every).floor();
        1.0 + self.growth * steps.ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_heads_between_powers_of_two_are_interleaved() {
        assert_eq!(slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
        // Press et al.: the first of four, and every other one of eight.
        let expected = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];
        assert_eq!(slopes(6), expected);
    }

    #[test]
    fn ranges_of_distances_are_those_of_t5() {
        let r = Relative {
            ranges: 32,
            reach: 128,
        };
        // transformers' relative_position_bucket of these.
        let expected = [
            (0, 0),
            (-1, 1),
            (-7, 7),
            (-8, 8),
            (-20, 10),
            (-127, 15),
            (-500, 15),
        ];
        for (ahead, range) in expected {
            assert_eq!(r.range(ahead), range, "{ahead}");
        }
        assert_eq!((r.range(1), r.range(7), r.range(500)), (17, 23, 31));
    }
}

//! What is added to the scores by how far a position is from the query.

use rustml_simd::{exp, Simd};

/// What is added to the scores of every query head.
#[derive(Clone, Copy, Debug)]
pub enum Bias<'a> {
    /// Nothing.
    No,
    /// `-slope * distance`, one slope for each query head (Press et al., "Train Short, Test
    /// Long: Attention with Linear Biases Enables Input Length Extrapolation").
    Slopes(&'a [f32]),
    /// A number for every distance, `[heads, 2 reach + 1]`: first that of a position which is
    /// `reach` or more before the query, last that of one which is as far after it.
    Relative {
        /// The numbers.
        table: &'a [f32],
        /// From which distance on they stay the same.
        reach: usize,
    },
}

/// Positions whose scores a vector may have: those of a block.
const MOST: usize = super::KV_BLOCK;

/// 0, 1, 2 and so on.
static COUNT: [f32; MOST] = {
    let mut count = [0.0; MOST];
    let mut i = 0;
    while i < MOST {
        count[i] = i as f32;
        i += 1;
    }
    count
};

impl Bias<'_> {
    /// Whether there is one for each of so many heads.
    pub(super) fn is_for(&self, heads: usize) -> bool {
        match *self {
            Bias::No => true,
            Bias::Slopes(slopes) => slopes.len() == heads,
            Bias::Relative { table, reach } => {
                let each = reach.checked_mul(2).and_then(|n| n.checked_add(1));
                each.and_then(|n| n.checked_mul(heads)) == Some(table.len())
            }
        }
    }

    /// Adds to the `scores` of the query at position `query`, of some positions from `first`
    /// on: whole vectors of them.
    #[inline(always)]
    pub(super) fn add<S: Simd>(
        &self,
        s: S,
        head: usize,
        query: usize,
        first: usize,
        scores: &mut [f32],
    ) {
        assert!(scores.len() <= MOST && scores.len().is_multiple_of(S::LANES));
        let ahead = first as isize - query as isize;
        match *self {
            Bias::No => {}
            Bias::Slopes(slopes) => {
                let (slope, ahead) = (s.splat(-slopes[head]), s.splat(ahead as f32));
                for i in (0..scores.len()).step_by(S::LANES) {
                    // SAFETY: a whole vector of each.
                    unsafe {
                        let at = scores.as_mut_ptr().add(i);
                        let distance = s.abs(s.add(s.load(COUNT.as_ptr().add(i)), ahead));
                        s.store(at, s.fma(slope, distance, s.load(at)));
                    }
                }
            }
            Bias::Relative { table, reach } => {
                let each = 2 * reach + 1;
                let table = &table[head * each..][..each];
                for (i, score) in scores.iter_mut().enumerate() {
                    let distance = ahead + i as isize;
                    let at = distance.clamp(-(reach as isize), reach as isize);
                    *score += table[(at + reach as isize) as usize];
                }
            }
        }
    }
}

/// A sum of weights relative to `max`, with that of one more score, which has no value: what
/// the sums of values are multiplied with, and the new total.
#[inline(always)]
pub(super) fn with_sink<S: Simd>(s: S, max: f32, total: f32, sink: f32) -> (f32, f32) {
    // What is not a number stays.
    let highest = if sink > max { sink } else { max };
    let mut weights = [0f32; 16]; // the widest vector
    weights[0] = max - highest;
    weights[1] = sink - highest;
    // SAFETY: a whole vector.
    unsafe { s.store(weights.as_mut_ptr(), exp(s, s.load(weights.as_ptr()))) };
    (weights[0], total * weights[0] + weights[1])
}

//! How likely tokens are.

use crate::request::TokenLogprobs;
use crate::scan;

/// Scratch memory for computing them.
#[derive(Default)]
pub(crate) struct Logprobs {
    sums: Vec<f64>,
    top: Vec<(f32, u32)>,
}

impl Logprobs {
    /// That of `token` and of the `n` likeliest: the logarithm of softmax,
    /// `x - max - ln(sum of e^(x - max))`.
    pub fn of(&mut self, logits: &[f32], token: u32, n: usize) -> TokenLogprobs {
        let max = scan::max(logits);
        self.sums.clear();
        scan::weights(logits, max, 1.0, &mut self.sums);
        let log_sum = self.sums.iter().sum::<f64>().ln();
        let logprob = |x: f32| {
            let past = if x == max { 0.0 } else { f64::from(x - max) };
            (past - log_sum) as f32
        };
        scan::top_k(logits, n, &mut self.top);
        self.top.sort_unstable_by(scan::larger);
        TokenLogprobs {
            token,
            logprob: logits
                .get(token as usize)
                .map_or(f32::NEG_INFINITY, |&x| logprob(x)),
            top: self.top.iter().map(|&(x, id)| (id, logprob(x))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithms_of_the_probabilities() {
        let p = [0.1f32, 0.6, 0.05, 0.25];
        // Any constant cancels.
        let logits = p.map(|p| p.ln() + 7.0);
        let l = Logprobs::default().of(&logits, 2, 3);
        let near = |a: f32, b: f32| assert!((a - b.ln()).abs() < 1e-5, "{a} {b}");
        near(l.logprob, 0.05);
        assert_eq!(l.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 0]);
        l.top.iter().for_each(|&(id, l)| near(l, p[id as usize]));
    }

    #[test]
    fn impossible_tokens_are_so() {
        let l = Logprobs::default().of(&[0.0, f32::NEG_INFINITY, f32::NAN], 1, 20);
        assert_eq!((l.logprob, l.top), (f32::NEG_INFINITY, vec![(0, 0.0)]));
    }
}

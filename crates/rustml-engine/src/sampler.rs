//! Logits to a token.
//!
//! In this order: bias, repetition penalty, presence and frequency penalty,
//! constraint, temperature, top-k, top-p, min-p, then one draw. From the
//! repetition penalty on that is the order of Hugging Face's `generate`. Nothing
//! sorts the vocabulary; only where neither top-k nor min-p bounds the choice are
//! exponentials taken of it, in vectors.

use crate::constraint::TokenMask;
use crate::sampling::Sampling;
use crate::scan;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::HashMap;

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    bias: Vec<(u32, f32)>,
    rng: ChaCha8Rng,
    /// Tokens that occurred, and how often they were generated; kept only
    /// where a penalty asks for it.
    seen: HashMap<u32, u32>,
    adjusted: Vec<f32>,
    candidates: Vec<(f32, u32)>,
    sums: Vec<f64>,
}

impl Sampler {
    /// A sampler that has seen nothing. Of a token whose bias is given twice
    /// the last counts.
    pub fn new(sampling: Sampling, mut bias: Vec<(u32, f32)>) -> Sampler {
        // Stable, so that what was last stays so.
        bias.reverse();
        bias.sort_by_key(|b| b.0);
        bias.dedup_by_key(|b| b.0);
        Sampler {
            sampling,
            bias,
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            seen: HashMap::new(),
            adjusted: Vec::new(),
            candidates: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// One that will choose just as this one.
    pub(crate) fn twin(&self) -> Sampler {
        Sampler {
            sampling: self.sampling,
            bias: self.bias.clone(),
            rng: self.rng.clone(),
            seen: self.seen.clone(),
            adjusted: Vec::new(),
            candidates: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// Takes note of the prompt, for the repetition penalty.
    pub fn observe_prompt(&mut self, ids: &[u32]) {
        if self.sampling.repetition_penalty != 1.0 {
            self.seen.extend(ids.iter().map(|&id| (id, 0)));
        }
    }

    /// Takes note of a token that was generated, for the penalties.
    pub fn observe(&mut self, id: u32) {
        if self.is_penalised() {
            *self.seen.entry(id).or_default() += 1;
        }
    }

    fn is_penalised(&self) -> bool {
        let s = &self.sampling;
        s.repetition_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0
    }

    /// The next token, one of those in `mask`; `None` if there is none. Logits
    /// that are no numbers are never chosen; if all are, and there is no mask,
    /// the result is token 0.
    pub fn pick(&mut self, logits: &[f32], mask: Option<&TokenMask>) -> Option<u32> {
        if self.bias.is_empty() && self.seen.is_empty() && mask.is_none() {
            return Some(self.choose(logits));
        }
        let mut adjusted = std::mem::take(&mut self.adjusted);
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        self.adjust(&mut adjusted);
        let any = mask.is_none_or(|mask| mask.apply(&mut adjusted));
        let id = any.then(|| self.choose(&adjusted));
        self.adjusted = adjusted;
        id
    }

    fn adjust(&self, logits: &mut [f32]) {
        for &(id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        let s = &self.sampling;
        for (&id, &generated) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            *logit = match *logit > 0.0 {
                true => *logit / s.repetition_penalty,
                false => *logit * s.repetition_penalty,
            };
            if generated > 0 {
                *logit -= s.presence_penalty + s.frequency_penalty * generated as f32;
            }
        }
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let s = self.sampling;
        if s.temperature == 0.0 {
            return scan::argmax(logits);
        }
        let scale = 1.0 / s.temperature;
        let bounded = s.top_k > 0 && s.top_k < logits.len();
        if bounded {
            scan::top_k(logits, s.top_k, &mut self.candidates);
            weigh(&mut self.candidates, scale);
            let all = self.candidates.iter().map(|c| f64::from(c.0)).sum::<f64>();
            if s.top_p < 1.0 {
                let keep = nucleus(&mut self.candidates, f64::from(s.top_p) * all);
                self.candidates.truncate(keep.unwrap_or(usize::MAX));
            }
        } else if s.top_p < 1.0 {
            self.likeliest(logits, scale);
        } else if s.min_p > 0.0 {
            let least = scan::max(logits) + s.temperature * s.min_p.ln();
            let numbered = logits.iter().copied().zip(0..);
            self.candidates.clear();
            // A little less, so that the test below decides alone.
            let slack = 1e-3 * s.temperature.max(least.abs());
            self.candidates
                .extend(numbered.filter(|c| c.0 >= least - slack));
            weigh(&mut self.candidates, scale);
        } else {
            return self.draw_from_all(logits, scale);
        }
        if s.min_p > 0.0 {
            self.candidates.retain(|c| c.0 >= s.min_p);
        }
        self.draw()
    }

    /// Leaves the fewest, likeliest tokens that together have the probability
    /// top-p among the candidates. These are few as a rule, so it looks at
    /// more and more of the likeliest until they are enough.
    fn likeliest(&mut self, logits: &[f32], scale: f32) {
        self.sum(logits, scale);
        let enough = f64::from(self.sampling.top_p) * self.sums.iter().sum::<f64>();
        let mut k = 64;
        loop {
            scan::top_k(logits, k, &mut self.candidates);
            weigh(&mut self.candidates, scale);
            if let Some(keep) = nucleus(&mut self.candidates, enough) {
                return self.candidates.truncate(keep);
            }
            if k >= logits.len() {
                return;
            }
            k *= 8;
        }
    }

    /// The sums of all weights, by chunk.
    fn sum(&mut self, logits: &[f32], scale: f32) {
        self.sums.clear();
        scan::weights(logits, scan::max(logits), scale, &mut self.sums);
    }

    /// A number from 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of all tokens: first a chunk of them, then one of that.
    fn draw_from_all(&mut self, logits: &[f32], scale: f32) -> u32 {
        self.sum(logits, scale);
        let mut left = self.unit() * self.sums.iter().sum::<f64>();
        // The last that weighs anything, should rounding leave a rest.
        let some = |&c: &usize| self.sums[c] > 0.0;
        let mut chunk = (0..self.sums.len()).rfind(some).unwrap_or(0);
        for (c, &sum) in self.sums.iter().enumerate() {
            if left < sum {
                chunk = c;
                break;
            }
            left -= sum;
        }
        let max = scan::max(logits);
        let from = chunk * scan::CHUNK;
        let ids = from..logits.len().min(from + scan::CHUNK);
        self.candidates.clear();
        let weighed = ids.map(|i| (scan::weight(logits[i], max, scale), i as u32));
        self.candidates.extend(weighed);
        take(&self.candidates, left)
    }

    /// One of the candidates by their weights.
    fn draw(&mut self) -> u32 {
        // One order whatever was selected before, so that a seed decides alone.
        self.candidates.sort_unstable_by_key(|c| c.1);
        let all = self.candidates.iter().map(|c| f64::from(c.0)).sum::<f64>();
        let left = self.unit() * all;
        take(&self.candidates, left)
    }
}

/// The candidate at which the weights exceed `left`, or else the last one that
/// weighs anything.
fn take(candidates: &[(f32, u32)], mut left: f64) -> u32 {
    let mut last = 0;
    for &(weight, id) in candidates.iter().filter(|c| c.0 > 0.0) {
        left -= f64::from(weight);
        last = id;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Makes weights of logits.
fn weigh(candidates: &mut [(f32, u32)], scale: f32) {
    let max = candidates.iter().fold(f32::NEG_INFINITY, |a, c| a.max(c.0));
    for c in candidates {
        c.0 = scan::weight(c.0, max, scale);
    }
}

/// Sorts, and finds how many of the heaviest weigh `enough`, if all do.
fn nucleus(candidates: &mut [(f32, u32)], enough: f64) -> Option<usize> {
    candidates.sort_unstable_by(scan::larger);
    let mut weight = 0.0;
    let reached = candidates.iter().position(|c| {
        weight += f64::from(c.0);
        weight >= enough
    });
    reached.map(|last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(f: impl Fn(&mut Sampling)) -> Sampler {
        let mut s = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        f(&mut s);
        s.validate().unwrap();
        Sampler::new(s, Vec::new())
    }

    /// How often each token is drawn.
    fn counts(mut s: Sampler, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut n = vec![0; logits.len()];
        for _ in 0..draws {
            n[s.pick(logits, None).unwrap() as usize] += 1;
        }
        n
    }

    #[test]
    fn greedy_takes_the_largest_and_never_nan() {
        let mut s = Sampler::new(Sampling::greedy(), Vec::new());
        assert_eq!(s.pick(&[0.1, f32::NAN, 3.0, 2.0], None), Some(2));
        assert_eq!(s.pick(&[f32::NAN, f32::NAN], None), Some(0));
        assert_eq!(s.pick(&[f32::NEG_INFINITY, -1e30], None), Some(1));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let p = [0.5f32, 0.3, 0.15, 0.05];
        let logits = p.map(f32::ln);
        let n = counts(sampler(|_| ()), &logits, 20_000);
        for (n, p) in n.iter().zip(p) {
            let expected = 20_000.0 * p;
            // Five standard deviations.
            assert!((*n as f32 - expected).abs() < 5.0 * (expected * (1.0 - p)).sqrt());
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_cut() {
        let p = [0.05f32, 0.5, 0.3, 0.15];
        let logits = p.map(f32::ln);
        let drawn = |f: &dyn Fn(&mut Sampling)| {
            let n = counts(sampler(f), &logits, 2_000);
            n.into_iter().map(|n| n > 0).collect::<Vec<_>>()
        };
        assert_eq!(drawn(&|s| s.top_k = 2), [false, true, true, false]);
        assert_eq!(drawn(&|s| s.top_k = 9), [true; 4]);
        assert_eq!(drawn(&|s| s.top_p = 0.79), [false, true, true, false]);
        assert_eq!(drawn(&|s| s.top_p = 0.81), [false, true, true, true]);
        assert_eq!(drawn(&|s| s.top_p = 1e-6), [false, true, false, false]);
        assert_eq!(drawn(&|s| s.min_p = 0.4), [false, true, true, false]);
        assert_eq!(drawn(&|s| s.min_p = 1.0), [false, true, false, false]);
    }

    /// The same choice made the long way: all weights, sorted.
    #[test]
    fn a_wide_choice_is_that_of_sorting() {
        let logits: Vec<f32> = (0..5000)
            .map(|i| ((i * 7919) % 5003) as f32 * 2e-3)
            .collect();
        for (top_k, top_p, min_p) in [
            (0, 0.7, 0.0),
            (0, 0.05, 0.0),
            (300, 0.9, 0.0),
            (0, 1.0, 0.5),
            (0, 0.9, 0.3),
        ] {
            let settings = |s: &mut Sampling| (s.top_k, s.top_p, s.min_p) = (top_k, top_p, min_p);
            let mut sorted: Vec<_> = logits.iter().copied().zip(0..).collect();
            sorted.sort_by(scan::larger);
            sorted.truncate(if top_k > 0 { top_k } else { logits.len() });
            let max = sorted[0].0;
            let weight = |x: f32| f64::from(x - max).exp();
            let all: f64 = sorted.iter().map(|c| weight(c.0)).sum();
            let mut sum = 0.0;
            sorted.retain(|c| {
                let keep = sum < f64::from(top_p) * all && weight(c.0) >= f64::from(min_p) * 0.999;
                sum += weight(c.0);
                keep
            });
            let mut s = sampler(settings);
            let drawn: Vec<u32> = (0..200).map(|_| s.pick(&logits, None).unwrap()).collect();
            assert!(drawn.iter().all(|d| sorted.iter().any(|c| c.1 == *d)));
            let differences = s.candidates.len().abs_diff(sorted.len());
            assert!(
                differences <= 1,
                "{} and {}",
                s.candidates.len(),
                sorted.len()
            );
        }
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let logits = [1.0, 0.0];
        let hot = counts(sampler(|s| s.temperature = 50.0), &logits, 4_000);
        let cold = counts(sampler(|s| s.temperature = 0.05), &logits, 4_000);
        assert!(hot[1] > 1_700 && cold[1] == 0);
    }

    fn greedy(f: impl Fn(&mut Sampling), bias: &[(u32, f32)]) -> Sampler {
        let mut s = Sampling::greedy();
        f(&mut s);
        Sampler::new(s, bias.to_vec())
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits() {
        let mut s = greedy(|s| s.repetition_penalty = 2.0, &[]);
        s.observe_prompt(&[0, 0]);
        s.observe(3);
        assert_eq!(s.pick(&[1.0, 0.6, 0.1, -0.1], None), Some(1));
        assert_eq!(s.pick(&[-1.0, -1.5, -3.0, -1.0], None), Some(1));
    }

    #[test]
    fn presence_counts_once_and_frequency_every_time() {
        let logits = [3.0, 2.0, 1.0];
        let mut s = greedy(|s| s.presence_penalty = 1.5, &[]);
        s.observe_prompt(&[0]);
        assert_eq!(s.pick(&logits, None), Some(0), "the prompt does not count");
        s.observe(0);
        s.observe(0);
        // 1.5, 2, 1
        assert_eq!(s.pick(&logits, None), Some(1));
        let mut s = greedy(|s| s.frequency_penalty = 0.6, &[]);
        s.observe(0);
        assert_eq!(s.pick(&logits, None), Some(0));
        s.observe(0);
        assert_eq!(s.pick(&logits, None), Some(1));
    }

    #[test]
    fn bias_comes_before_all_else() {
        let mut s = greedy(
            |s| s.repetition_penalty = 2.0,
            &[(2, 9.0), (2, 4.0), (99, 1.0)],
        );
        s.observe_prompt(&[2]);
        // 3, 2, (1 + 4) / 2
        assert_eq!(s.pick(&[3.0, 2.0, 1.0], None), Some(0));
        assert_eq!(s.pick(&[2.4, 2.0, 1.0], None), Some(2));
    }

    #[test]
    fn only_what_the_mask_allows_is_chosen() {
        let mut mask = TokenMask::all(4);
        mask.remove(0);
        mask.remove(2);
        let logits = [3.0, 1.0, 2.0, 0.5];
        assert_eq!(greedy(|_| (), &[]).pick(&logits, Some(&mask)), Some(1));
        for f in [
            &(|_: &mut Sampling| ()) as &dyn Fn(&mut Sampling),
            &|s| s.top_k = 3,
            &|s| s.top_p = 0.9,
            &|s| s.min_p = 0.1,
        ] {
            let mut s = sampler(f);
            let drawn: Vec<_> = (0..100)
                .map(|_| s.pick(&logits, Some(&mask)).unwrap())
                .collect();
            assert!(drawn.iter().all(|&id| mask.contains(id)), "{drawn:?}");
        }
        mask.intersect(&[]);
        assert_eq!(sampler(|_| ()).pick(&logits, Some(&mask)), None);
    }

    #[test]
    fn a_seed_decides() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let run = |seed| {
            let mut s = sampler(|s| s.seed = seed);
            (0..50).map(|_| s.pick(&logits, None)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

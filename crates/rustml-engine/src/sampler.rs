//! Logits to a token.
//!
//! The order is that of Hugging Face's `generate`: repetition penalty,
//! temperature, top-k, top-p, min-p, then one draw. Greedy and top-k neither
//! sort nor exponentiate the vocabulary.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; 0 takes the largest.
    pub temperature: f32,
    /// Only the `k` likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability.
    pub top_p: f32,
    /// Only tokens at least this likely relative to the likeliest.
    pub min_p: f32,
    /// Divisor (multiplier, where negative) of the logits of tokens that
    /// already occurred (Keskar et al., "CTRL"); 1 is none.
    pub repetition_penalty: f32,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.8,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Sampling {
            temperature: 0.0,
            ..Sampling::default()
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        let check = |ok: bool, name: &str, value: f32, range: &str| match ok {
            true => Ok(()),
            false => Err(format!("{name} is {value}, but must be {range}")),
        };
        let (t, p, m, r) = (
            self.temperature,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
        );
        check(
            (0.0..=100.0).contains(&t),
            "the temperature",
            t,
            "from 0 to 100",
        )?;
        check(p > 0.0 && p <= 1.0, "top-p", p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&m), "min-p", m, "from 0 to 1")?;
        check(
            r > 0.0 && r <= 100.0,
            "the repetition penalty",
            r,
            "above 0 and at most 100",
        )
    }
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// Tokens that occurred, each once.
    seen: Vec<u32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler that has seen nothing.
    pub fn new(sampling: Sampling) -> Sampler {
        Sampler {
            sampling,
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            seen: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Counts tokens as having occurred, for the repetition penalty.
    pub fn observe(&mut self, ids: &[u32]) {
        if self.sampling.repetition_penalty != 1.0 {
            self.seen.extend_from_slice(ids);
            self.seen.sort_unstable();
            self.seen.dedup();
        }
    }

    /// The next token. Logits that are no numbers are never chosen; if all
    /// are, the result is token 0.
    pub fn pick(&mut self, logits: &[f32]) -> u32 {
        let s = self.sampling;
        let penalised = |id: usize, logit: f32| {
            let hit = s.repetition_penalty != 1.0 && self.seen.binary_search(&(id as u32)).is_ok();
            match hit {
                true if logit > 0.0 => logit / s.repetition_penalty,
                true => logit * s.repetition_penalty,
                false => logit,
            }
        };
        if s.temperature == 0.0 {
            let mut best = (f32::NEG_INFINITY, 0);
            for (id, &logit) in logits.iter().enumerate() {
                let logit = penalised(id, logit);
                if logit > best.0 {
                    best = (logit, id as u32);
                }
            }
            return best.1;
        }
        let mut c = std::mem::take(&mut self.candidates);
        c.clear();
        let numbered = logits.iter().enumerate().filter(|(_, l)| !l.is_nan());
        c.extend(numbered.map(|(id, &l)| (penalised(id, l) / s.temperature, id as u32)));
        let id = self.draw(&mut c);
        self.candidates = c;
        id
    }

    fn draw(&mut self, c: &mut Vec<(f32, u32)>) -> u32 {
        let s = self.sampling;
        if s.top_k > 0 && s.top_k < c.len() {
            c.select_nth_unstable_by(s.top_k - 1, likelier);
            c.truncate(s.top_k);
        }
        let Some(max) = c.iter().map(|c| c.0).max_by(f32::total_cmp) else {
            return 0;
        };
        // From here on candidates carry weights, not logits.
        for c in c.iter_mut() {
            c.0 = if c.0 == max { 1.0 } else { (c.0 - max).exp() };
        }
        if s.top_p < 1.0 {
            let total: f64 = c.iter().map(|c| f64::from(c.0)).sum();
            let keep = nucleus(c, f64::from(s.top_p) * total);
            c.truncate(keep);
        }
        if s.min_p > 0.0 {
            c.retain(|c| c.0 >= s.min_p);
        }
        // One order whatever was selected before, so that a seed decides alone.
        c.sort_unstable_by_key(|c| c.1);
        let total: f64 = c.iter().map(|c| f64::from(c.0)).sum();
        let unit = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = unit * total;
        for &(weight, id) in c.iter() {
            left -= f64::from(weight);
            if left < 0.0 {
                return id;
            }
        }
        c.last().map_or(0, |c| c.1)
    }
}

/// By descending weight, then by id, so that ties have one order.
fn likelier(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Brings the fewest, likeliest candidates that weigh `enough` to the front;
/// returns how many. Sorts only as many as are needed, doubling.
fn nucleus(c: &mut [(f32, u32)], enough: f64) -> usize {
    let mut sorted = 0;
    let mut weight = 0.0;
    while sorted < c.len() {
        let until = (sorted * 2).clamp(64, c.len().max(64)).min(c.len());
        if until < c.len() {
            c[sorted..].select_nth_unstable_by(until - sorted - 1, likelier);
        }
        c[sorted..until].sort_unstable_by(likelier);
        for (i, c) in c[sorted..until].iter().enumerate() {
            weight += f64::from(c.0);
            if weight >= enough {
                return sorted + i + 1;
            }
        }
        sorted = until;
    }
    c.len()
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
        Sampler::new(s)
    }

    /// How often each token is drawn.
    fn counts(mut s: Sampler, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut n = vec![0; logits.len()];
        for _ in 0..draws {
            n[s.pick(logits) as usize] += 1;
        }
        n
    }

    #[test]
    fn greedy_takes_the_largest_and_never_nan() {
        let mut s = Sampler::new(Sampling::greedy());
        assert_eq!(s.pick(&[0.1, f32::NAN, 3.0, 2.0]), 2);
        assert_eq!(s.pick(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(s.pick(&[f32::NEG_INFINITY, -1e30]), 1);
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

    #[test]
    fn a_nucleus_of_many_needs_no_full_sort() {
        let mut c: Vec<_> = (0..10_000u32)
            .map(|i| ((i * 7919 % 10_000) as f32, i))
            .collect();
        let total: f64 = c.iter().map(|c| f64::from(c.0)).sum();
        let keep = nucleus(&mut c, total * 0.5);
        let mut sorted = c.clone();
        sorted.sort_by(likelier);
        assert_eq!(c[..keep], sorted[..keep]);
        let weight: f64 = c[..keep].iter().map(|c| f64::from(c.0)).sum();
        assert!(weight >= total * 0.5 && weight - f64::from(c[keep - 1].0) < total * 0.5);
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let logits = [1.0, 0.0];
        let hot = counts(sampler(|s| s.temperature = 50.0), &logits, 4_000);
        let cold = counts(sampler(|s| s.temperature = 0.05), &logits, 4_000);
        assert!(hot[1] > 1_700 && cold[1] == 0);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits() {
        let mut s = Sampler::new(Sampling {
            repetition_penalty: 2.0,
            ..Sampling::greedy()
        });
        s.observe(&[0, 3, 0]);
        assert_eq!(s.pick(&[1.0, 0.6, 0.1, -0.1]), 1);
        assert_eq!(s.pick(&[-1.0, -1.5, -3.0, -1.0]), 1);
    }

    #[test]
    fn a_seed_decides() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let run = |seed| {
            let mut s = sampler(|s| s.seed = seed);
            (0..50).map(|_| s.pick(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn ranges_are_checked() {
        for bad in [f32::NAN, -0.1, f32::INFINITY] {
            let s = Sampling {
                temperature: bad,
                ..Sampling::default()
            };
            assert!(s.validate().unwrap_err().contains("temperature"));
        }
        assert!(Sampling {
            top_p: 0.0,
            ..Sampling::default()
        }
        .validate()
        .is_err());
        assert!(Sampling {
            min_p: 1.1,
            ..Sampling::default()
        }
        .validate()
        .is_err());
        assert!(Sampling {
            repetition_penalty: 0.0,
            ..Sampling::default()
        }
        .validate()
        .is_err());
    }
}

//! Tokens guessed ahead from what the text already said.
//!
//! Where the last few tokens stood before, what followed them then is guessed
//! to follow again (prompt lookup; Saxena 2023). A step computes the guesses'
//! rows along with the one it needs, and as many guesses are taken as the
//! sampler picks anyway, row by row; so the tokens are the same, sooner. How
//! often guesses are right, and what more rows cost, is measured all the time,
//! and nothing is guessed where it would not pay.

use std::collections::HashMap;

/// Tokens that must have stood before.
const GRAM: usize = 3;

/// Tokens guessed at a time, at most.
const MOST: usize = 8;

/// What must be gained at least.
const GAIN: f64 = 1.03;

/// After so many chances that were let pass a small guess is made, and after so
/// many guesses one is left out, to measure again.
const PROBE: u32 = 24;

/// How fast what was measured last fades.
const FADE: f64 = 0.9;

/// What steps of some rows take, as measured.
#[derive(Default)]
pub(crate) struct Costs(Vec<Option<f64>>);

impl Costs {
    /// Learns from a step.
    pub fn learn(&mut self, rows: usize, seconds: f64) {
        let len = self.0.len().max(rows + 1);
        self.0.resize(len, None);
        let known = &mut self.0[rows];
        *known = Some(known.map_or(seconds, |k| FADE * k + (1.0 - FADE) * seconds));
    }

    /// Between the nearest that are known; beyond them as these.
    fn of(&self, rows: usize) -> Option<f64> {
        let known = |i: &usize| self.0[*i].is_some();
        let below = (0..self.0.len().min(rows + 1)).rfind(known);
        let above = (rows..self.0.len()).find(known);
        let at = |i: usize| self.0[i].unwrap_or_default();
        match (below, above) {
            (Some(a), Some(b)) if a < b => {
                let part = (rows - a) as f64 / (b - a) as f64;
                Some(at(a) + part * (at(b) - at(a)))
            }
            (a, b) => a.or(b).map(at),
        }
    }

    /// How much faster tokens come if `expected` of `more` rows beside `rows`
    /// give one.
    fn gain(&self, rows: usize, more: usize, expected: f64) -> f64 {
        let tokens = (rows as f64 + expected) / rows as f64;
        match (self.of(rows), self.of(rows + more)) {
            (Some(now), Some(then)) if then > 0.0 => tokens * now / then,
            _ => tokens,
        }
    }
}

/// What a text said, and how well it foretells what it will say.
pub(crate) struct Lookup {
    /// Where each run of tokens last ended, of those that something follows.
    ends: HashMap<[u32; GRAM], usize>,
    /// Runs that begin before are in it.
    indexed: usize,
    /// Guesses that were right, and those that were put to the test.
    right: f64,
    tried: f64,
    /// Chances since the last exception.
    chances: u32,
}

impl Lookup {
    pub fn new() -> Lookup {
        Lookup {
            ends: HashMap::new(),
            indexed: 0,
            // Half of them, for a beginning.
            right: 1.0,
            tried: 2.0,
            chances: 0,
        }
    }

    /// Guesses what follows, `most` tokens at most, in a step that has `rows`
    /// rows without them.
    pub fn draft(&mut self, tokens: &[u32], most: usize, costs: &Costs, rows: usize) -> Vec<u32> {
        let last = tokens.len().saturating_sub(GRAM);
        for at in self.indexed..last {
            if let Some(gram) = tokens[at..].first_chunk::<GRAM>() {
                self.ends.insert(*gram, at + GRAM);
            }
        }
        self.indexed = self.indexed.max(last);
        let end = tokens.last_chunk::<GRAM>().and_then(|g| self.ends.get(g));
        let Some(&end) = end else {
            return Vec::new();
        };
        if most == 0 {
            return Vec::new();
        }
        let mut draft: Vec<u32> = Vec::new();
        for at in end..end + self.worth(most.min(MOST), costs, rows) {
            // Beyond the text what was guessed follows.
            let next = tokens.get(at).copied();
            draft.push(next.unwrap_or_else(|| draft[at - tokens.len()]));
        }
        draft
    }

    /// How many of `most` guesses to make.
    fn worth(&mut self, most: usize, costs: &Costs, rows: usize) -> usize {
        let rate = (self.right / self.tried).min(0.99);
        let (mut best, mut expected, mut right) = ((GAIN, 0), 0.0, 1.0);
        for n in 1..=most {
            right *= rate;
            expected += right;
            let gain = costs.gain(rows, n, expected);
            if gain > best.0 {
                best = (gain, n);
            }
        }
        self.chances += 1;
        if self.chances <= PROBE {
            return best.1;
        }
        self.chances = 0;
        match best.1 {
            0 => most.min(2),
            _ => 0,
        }
    }

    /// Learns how many of the guesses were right.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        // Those after the first wrong one were not put to the test.
        self.right = FADE * self.right + right as f64;
        self.tried = FADE * self.tried + (right + 1).min(guessed) as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        let mut l = Lookup::new();
        let costs = Costs::default();
        let text = [1, 2, 3, 4, 5, 6, 9, 9, 2, 3, 4];
        assert_eq!(l.draft(&text, 3, &costs, 1), [5, 6, 9]);
        assert!(l.draft(&text, 0, &costs, 1).is_empty());
        assert!(l
            .draft(&[&text[..], &[7]].concat(), 3, &costs, 1)
            .is_empty());
        // The last time counts, and the end itself is no earlier time.
        let text = [&text[..], &[8, 2, 3, 4]].concat();
        assert_eq!(l.draft(&text, 2, &costs, 1), [8, 2]);
        assert!(l.draft(&[1, 2], 2, &costs, 1).is_empty());
        assert_eq!(Lookup::new().draft(&[5, 5, 5, 5], 8, &costs, 1), [5; 8]);
    }

    #[test]
    fn costs_are_those_measured() {
        let mut c = Costs::default();
        assert_eq!(c.of(3), None);
        c.learn(1, 1.0);
        c.learn(5, 3.0);
        let all = [0, 1, 3, 5, 100].map(|n| c.of(n).unwrap());
        assert_eq!(all, [1.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(c.gain(1, 4, 2.0), 1.0);
        for _ in 0..100 {
            c.learn(5, 1.5);
        }
        assert!((c.gain(1, 4, 2.0) - 2.0).abs() < 1e-3);
    }

    /// Guesses stop where they are wrong or cost as much as they bring, but
    /// for a few that look whether that is still so.
    #[test]
    fn what_does_not_pay_is_left() {
        let text: Vec<u32> = (0..100).map(|i| i % 7).collect();
        let count = |row: f64, right: fn(usize) -> usize| {
            let mut costs = Costs::default();
            (1..=9).for_each(|rows| costs.learn(rows, 1.0 + row * (rows - 1) as f64));
            let mut l = Lookup::new();
            let mut guesses = 0;
            for _ in 0..200 {
                let n = l.draft(&text, 8, &costs, 1).len();
                if n > 0 {
                    guesses += 1;
                    l.learn(n, right(n));
                }
            }
            guesses
        };
        assert!(count(0.1, |n| n) > 180, "it pays");
        assert!(count(1.0, |n| n) < 20, "rows are dear");
        assert!(count(0.1, |_| 0) < 50, "guesses are wrong");
    }
}

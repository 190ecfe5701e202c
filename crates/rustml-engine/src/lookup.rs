//! Guesses from what the text already said.
//!
//! Where the last few tokens stood before, what followed them then is guessed
//! to follow again (prompt lookup; Saxena 2023).

use crate::speculate::{AcceptanceStats, ProbeSchedule, StepTimeModel, MOST};
use std::collections::HashMap;

/// Tokens that must have stood before.
const GRAM: usize = 3;

/// At least so many guesses are expected to be right, whatever became of other
/// requests: texts that repeat themselves come among such that do not.
const HOPE: f64 = 0.25;

/// What a text said, and how well it foretells what it will say.
pub(crate) struct Lookup {
    /// Where each run of tokens last ended, of those that something follows.
    ends: HashMap<[u32; GRAM], usize>,
    /// Runs that begin before are in it.
    indexed: usize,
    turns: ProbeSchedule,
    pub record: AcceptanceStats,
}

impl Lookup {
    /// Nothing is known of the text; of others, so many guesses were right.
    pub fn new(rate: f64) -> Lookup {
        Lookup {
            ends: HashMap::new(),
            indexed: 0,
            turns: ProbeSchedule::default(),
            record: AcceptanceStats::expecting(rate.max(HOPE)),
        }
    }

    /// Guesses what follows, `most` tokens at most, in a step that has `rows`
    /// rows without them.
    pub fn draft(
        &mut self,
        tokens: &[u32],
        most: usize,
        costs: &StepTimeModel,
        rows: usize,
    ) -> Vec<u32> {
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
    fn worth(&mut self, most: usize, costs: &StepTimeModel, rows: usize) -> usize {
        let rate = self.record.rate();
        let best = costs.best(rows, most, &[rate], &|_, _| 0.0);
        match self.record.decide(best.guesses, most) {
            n if n > 0 && self.turns.is_left_out() => 0,
            n => n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        let mut l = Lookup::new(0.5);
        let costs = StepTimeModel::default();
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
        assert_eq!(Lookup::new(0.5).draft(&[5, 5, 5, 5], 8, &costs, 1), [5; 8]);
    }

    /// Guesses stop where they are wrong or cost as much as they bring, but
    /// for a few that look whether that is still so.
    #[test]
    fn what_does_not_pay_is_left() {
        let text: Vec<u32> = (0..100).map(|i| i % 7).collect();
        let count = |row: f64, right: fn(usize) -> usize| {
            let mut costs = StepTimeModel::default();
            (1..=9).for_each(|rows| costs.learn(rows, 1.0 + row * (rows - 1) as f64));
            let mut l = Lookup::new(0.5);
            let mut guesses = 0;
            for _ in 0..200 {
                let n = l.draft(&text, 8, &costs, 1).len();
                if n > 0 {
                    guesses += 1;
                    l.record.learn(n, right(n));
                }
            }
            guesses
        };
        assert!(count(0.1, |n| n) > 180, "it pays");
        assert!(count(1.0, |n| n) < 20, "rows are dear");
        assert!(count(0.1, |_| 0) < 50, "guesses are wrong");
    }
}

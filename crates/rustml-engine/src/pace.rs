//! How much of the prompts a step may take.

use std::time::Duration;

/// How fast what was measured last fades.
const WEIGHT: f64 = 0.3;

/// As many rows share a pass over the weights at the least: fewer would make
/// the prompt slower without making the step much shorter.
const LEAST: usize = 16;

/// Learns how long steps take, and says how many rows of prompts keep within
/// a time.
pub(crate) struct PrefillBudget {
    target: f64,
    /// Seconds of a step that only decodes.
    decode: Option<f64>,
    /// Seconds that a row of a prompt adds.
    row: Option<f64>,
}

impl PrefillBudget {
    pub fn new(target: Duration) -> PrefillBudget {
        PrefillBudget {
            target: target.as_secs_f64(),
            decode: None,
            row: None,
        }
    }

    /// Rows of prompts, if others decode in the same step; `most` otherwise.
    pub fn rows(&self, decoding: usize, most: usize) -> usize {
        let Some(row) = self.row.filter(|_| decoding > 0) else {
            return most;
        };
        let left = self.target - self.decode.unwrap_or(0.0);
        // Saturates, whatever the quotient.
        let rows = (left / row.max(1e-9)) as usize;
        // Whole tiles of rows.
        (rows / 8 * 8).max(LEAST).min(most)
    }

    /// What so many rows of prompts take.
    pub fn seconds(&self, rows: usize) -> f64 {
        rows as f64 * self.row.unwrap_or(0.0)
    }

    /// Learns from a step.
    pub fn learn(&mut self, decoding: usize, prompt_rows: usize, seconds: f64) {
        let fade = |old: &mut Option<f64>, new: f64| {
            *old = Some(old.map_or(new, |old| old + WEIGHT * (new - old)));
        };
        if prompt_rows == 0 {
            fade(&mut self.decode, seconds);
        } else if prompt_rows >= LEAST {
            let decode = match decoding {
                0 => 0.0,
                _ => self.decode.unwrap_or(0.0),
            };
            fade(
                &mut self.row,
                (seconds - decode).max(0.0) / prompt_rows as f64,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_to_take_the_time_they_should() {
        let mut pace = PrefillBudget::new(Duration::from_millis(50));
        assert_eq!(pace.rows(0, 256), 256, "nobody waits");
        // 5 ms for decoding, 1 ms for a row of a prompt.
        let time = |rows: usize| 0.005 + rows as f64 * 0.001;
        pace.learn(3, 0, time(0));
        let mut rows = 0;
        for _ in 0..20 {
            rows = pace.rows(3, 256);
            pace.learn(3, rows, time(rows));
        }
        assert_eq!(rows, 40);
        assert_eq!(pace.rows(0, 256), 256);
        // A machine that is slower by far still goes on.
        for _ in 0..20 {
            pace.learn(3, 16, 10.0);
        }
        assert_eq!(pace.rows(3, 256), LEAST);
        assert_eq!(pace.rows(3, 8), 8, "never more than there is room for");
    }
}

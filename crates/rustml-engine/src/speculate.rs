//! Whether guessing ahead pays.
//!
//! Tokens may be guessed from what the text already said (`lookup.rs`) or by a
//! smaller model (`draft.rs`). A step computes the guesses' rows along with the
//! one it needs, and as many guesses are taken as the sampler picks anyway, row
//! by row; so the tokens are the same, sooner. How often the guesses of each
//! request are right, and what more rows and guessing itself cost, is measured
//! all the time, and nothing is guessed where it would not pay.

/// Tokens guessed at a time, at most.
pub(crate) const MOST: usize = 8;

/// What must be gained at least.
const GAIN: f64 = 1.03;

/// After so many guesses one is left out, to measure again; and so many chances
/// are let pass at first before it is looked whether guesses pay by now.
const PROBE: u32 = 24;

/// Tokens guessed to see whether guesses pay by now.
const LOOK: usize = 2;

/// How fast what was measured last fades.
const FADE: f64 = 0.9;

/// No time is taken for much more than what is known: a step may have been held
/// up by something else.
const SURPRISE: f64 = 2.0;

/// What steps of some rows take, as measured.
#[derive(Default)]
pub(crate) struct StepTimeModel {
    known: Vec<Option<f64>>,
    /// Guesses that are made whatever they cost.
    always: Option<usize>,
}

/// Which guesses are best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Best {
    /// Of how many sequences.
    pub sequences: usize,
    /// How many of each.
    pub guesses: usize,
    /// How much faster tokens come then.
    pub gain: f64,
}

impl StepTimeModel {
    /// Nothing is known yet. With `always`, so many guesses are best whatever
    /// they cost.
    pub fn new(always: Option<usize>) -> StepTimeModel {
        StepTimeModel {
            known: Vec::new(),
            always,
        }
    }

    /// Learns from a step.
    pub fn learn(&mut self, rows: usize, seconds: f64) {
        let len = self.known.len().max(rows + 1);
        self.known.resize(len, None);
        let known = &mut self.known[rows];
        let mean = |k: f64| FADE * k + (1.0 - FADE) * seconds.min(SURPRISE * k);
        *known = Some(known.map_or(seconds, mean));
    }

    /// Between the nearest that are known; beyond them as these.
    pub fn of(&self, rows: usize) -> Option<f64> {
        let known = |i: &usize| self.known[*i].is_some();
        let below = (0..self.known.len().min(rows + 1)).rfind(known);
        let above = (rows..self.known.len()).find(known);
        let at = |i: usize| self.known[i].unwrap_or_default();
        match (below, above) {
            (Some(a), Some(b)) if a < b => {
                let part = (rows - a) as f64 / (b - a) as f64;
                Some(at(a) + part * (at(b) - at(a)))
            }
            (a, b) => a.or(b).map(at),
        }
    }

    /// How much faster tokens come if `expected` of `more` rows beside `rows`
    /// give one, where guessing takes a time of its `own`.
    fn gain(&self, rows: usize, more: usize, expected: f64, own: f64) -> f64 {
        let tokens = (rows as f64 + expected) / rows as f64;
        match (self.of(rows), self.of(rows + more)) {
            (Some(now), Some(then)) if then > 0.0 => tokens * now / (then + own),
            _ => tokens,
        }
    }

    /// The best guesses in a step of `rows` rows that may take `most` more: so
    /// many of each of the first sequences, whose guesses come true at these
    /// `rates`, the highest first. `own` is what it takes to make so many
    /// guesses of so many sequences.
    pub fn best(
        &self,
        rows: usize,
        most: usize,
        rates: &[f64],
        own: &dyn Fn(usize, usize) -> f64,
    ) -> Best {
        let (sequences, guesses, gain) = (0, 0, 1.0);
        let mut best = Best {
            sequences,
            guesses,
            gain,
        };
        if let Some(always) = self.always {
            best.sequences = rates.len().min(most);
            best.guesses = always.min(MOST).min(most / best.sequences.max(1));
            best.gain = f64::INFINITY;
            return best;
        }
        // What far more rows cost than were ever seen is found out step by step.
        let seen = self.known.len().checked_sub(1);
        let most = seen.map_or(most, |seen| most.min((2 * seen).saturating_sub(rows)));
        for sequences in 1..=rates.len().min(most) {
            let mut expected = 0.0;
            for guesses in 1..=MOST.min(most / sequences) {
                let all = rates[..sequences].iter();
                expected += all.map(|r| r.powi(guesses as i32)).sum::<f64>();
                let own = own(guesses, sequences);
                let gain = self.gain(rows, sequences * guesses, expected, own);
                if gain > best.gain.max(GAIN) {
                    best = Best {
                        sequences,
                        guesses,
                        gain,
                    };
                }
            }
        }
        best
    }
}

/// How well guesses about a request come true, and whether to make any.
pub(crate) struct AcceptanceStats {
    /// Guesses that were right, and those that were put to the test, the last
    /// ones above all.
    right: f64,
    tried: f64,
    /// Whether they did not pay when last looked.
    off: bool,
    /// Chances since then, and how many to let pass before the next look.
    chances: u32,
    patience: u32,
}

impl Default for AcceptanceStats {
    /// Half of them, for a beginning.
    fn default() -> AcceptanceStats {
        AcceptanceStats::expecting(0.5)
    }
}

impl AcceptanceStats {
    /// A record that begins with an expectation.
    pub fn expecting(rate: f64) -> AcceptanceStats {
        AcceptanceStats {
            right: 2.0 * rate,
            tried: 2.0,
            off: false,
            chances: 0,
            patience: PROBE,
        }
    }

    /// The part of the guesses that are right.
    pub fn rate(&self) -> f64 {
        (self.right / self.tried).min(0.99)
    }

    /// Whether guesses do not pay.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Learns how many of the guesses were right.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        // Those after the first wrong one were not put to the test.
        self.right = FADE * self.right + right as f64;
        self.tried = FADE * self.tried + (right + 1).min(guessed) as f64;
    }

    /// How many guesses to make, `best` being what pays: those, or else a few
    /// now and then, at longer and longer intervals, to see whether that is
    /// still so.
    pub fn decide(&mut self, best: usize, most: usize) -> usize {
        if best > 0 {
            (self.off, self.chances, self.patience) = (false, 0, PROBE);
            return best;
        }
        self.off = true;
        self.chances += 1;
        if self.chances <= self.patience {
            return 0;
        }
        self.chances = 0;
        self.patience = self.patience.saturating_mul(2);
        most.min(LOOK)
    }
}

/// Leaves a guess out from time to time, so that what steps cost without stays
/// known.
#[derive(Default)]
pub(crate) struct ProbeSchedule(u32);

impl ProbeSchedule {
    /// Whether this one is left out.
    pub fn is_left_out(&mut self) -> bool {
        self.0 = (self.0 + 1) % (PROBE + 1);
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_measured() {
        let mut c = StepTimeModel::default();
        assert_eq!(c.of(3), None);
        c.learn(1, 1.0);
        c.learn(5, 3.0);
        let all = [0, 1, 3, 5, 100].map(|n| c.of(n).unwrap());
        assert_eq!(all, [1.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(c.gain(1, 4, 2.0, 0.0), 1.0);
        assert_eq!(c.gain(1, 4, 2.0, 3.0), 0.5);
        for _ in 0..100 {
            c.learn(5, 1.5);
        }
        assert!((c.gain(1, 4, 2.0, 0.0) - 2.0).abs() < 1e-3);
    }

    /// Those whose guesses come true are guessed, the others are not; many of
    /// them share what guessing takes.
    #[test]
    fn the_best_guesses_are_found() {
        let mut c = StepTimeModel::default();
        (1..40).for_each(|rows| c.learn(rows, 1.0 + 0.05 * (rows - 1) as f64));
        let free = |_: usize, _: usize| 0.0;
        let best = c.best(4, 32, &[0.9, 0.9, 0.01, 0.0], &free);
        assert_eq!(best.sequences, 2);
        assert!(best.guesses > 2 && best.gain > 1.5, "{best:?}");
        // A guess takes so long, of however many sequences.
        let dear = |n: usize, _: usize| 0.4 * n as f64;
        let one = c.best(4, 32, &[0.7, 0.0, 0.0, 0.0], &dear);
        assert_eq!((one.sequences, one.gain), (0, 1.0));
        assert_eq!(c.best(4, 32, &[0.7; 4], &dear).sequences, 4);
        assert_eq!(c.best(4, 3, &[0.9; 4], &free).sequences, 3, "no more rows");
        assert_eq!(c.best(4, 0, &[0.9; 4], &free).guesses, 0);
        let mut c = StepTimeModel::default();
        assert_eq!(c.best(1, 32, &[0.9], &free).guesses, MOST);
        c.learn(2, 1.0);
        assert_eq!(c.best(1, 32, &[0.9], &free).guesses, 3, "four rows are new");
    }

    /// Without guesses that pay, it is looked ever more rarely.
    #[test]
    fn looks_become_rare() {
        let mut r = AcceptanceStats::default();
        let looks: Vec<usize> = (0..1000).filter(|_| r.decide(0, 8) > 0).collect();
        assert_eq!(looks, [24, 73, 170, 363, 748]);
        assert!(r.is_off());
        assert_eq!((r.decide(3, 8), r.is_off()), (3, false));
    }
}

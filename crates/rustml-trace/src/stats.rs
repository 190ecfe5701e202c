//! Medians, quantiles, and how sure one can be of a change.

use serde::{Deserialize, Serialize};

/// Median and spread of some measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// One in twenty is below.
    pub p5: f64,
    /// One in twenty is above.
    pub p95: f64,
}

impl Spread {
    /// Of all values; zeros if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut v: Vec<f64> = values.into_iter().collect();
        v.sort_by(f64::total_cmp);
        Spread {
            median: quantile(&v, 0.5),
            p5: quantile(&v, 0.05),
            p95: quantile(&v, 0.95),
        }
    }
}

/// The value below which the share `q` lies, between neighbours linearly
/// (Hyndman and Fan's type 7); 0 if there are none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

/// The middle value; 0 if there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).median
}

/// A time and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The time.
    pub value: f64,
    /// Its standard error; infinite if nothing is known of it.
    pub error: f64,
    /// Degrees of freedom of the error.
    pub freedom: f64,
}

/// Steps that follow each other are disturbed together, so they do not count
/// singly: of this many, the median is one sample.
const BLOCK: usize = 8;

impl Estimate {
    /// From the steps of each repetition.
    ///
    /// Two errors are possible: that of the blocks of steps, and that between
    /// the repetitions, whose memory lies elsewhere. The larger one counts.
    pub fn of(runs: &[Vec<f64>]) -> Option<Estimate> {
        let runs = || runs.iter().filter(|r| !r.is_empty());
        let middle = |steps: &[f64]| median(steps.iter().copied());
        let medians: Vec<f64> = runs().map(|r| middle(r)).collect();
        let blocks: Vec<f64> = runs()
            .flat_map(|r| {
                // A rest is no block of its own, or one step would be one.
                let size = r.len() / (r.len() / BLOCK).max(1);
                r.chunks(size).filter(move |b| 2 * b.len() > size)
            })
            .map(middle)
            .collect();
        if medians.is_empty() {
            return None;
        }
        let value = medians.iter().sum::<f64>() / medians.len() as f64;
        let (error, freedom) = [standard_error(&blocks), standard_error(&medians)]
            .into_iter()
            .flatten()
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap_or((f64::INFINITY, 1.0));
        Some(Estimate {
            value,
            error,
            freedom,
        })
    }
}

/// Of the mean, with its degrees of freedom.
fn standard_error(v: &[f64]) -> Option<(f64, f64)> {
    let (n, freedom) = (v.len() as f64, v.len().checked_sub(1)? as f64);
    if freedom == 0.0 {
        return None;
    }
    let mean = v.iter().sum::<f64>() / n;
    let squares = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    Some(((squares / freedom / n).sqrt(), freedom))
}

/// A change, as a share of what was before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The change: 0.05 is 5 % more.
    pub change: f64,
    /// Lower end of the interval that holds the true change with 99 %,
    /// together with all that are judged beside it.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether the interval excludes that nothing changed.
    pub real: bool,
}

impl Change {
    /// From `before` to `after`, by Welch's interval on the logarithms; one of
    /// `of` changes that are judged together. A report has some forty rows,
    /// and a false alarm in any of them is one, so the chance of 1 % for that is
    /// shared among them (Bonferroni).
    pub fn between(before: Estimate, after: Estimate, of: usize) -> Option<Change> {
        if !(before.value > 0.0 && after.value > 0.0) {
            return None;
        }
        let relative = |e: Estimate| (e.error / e.value).powi(2);
        let (a, b) = (relative(before), relative(after));
        let difference = (after.value / before.value).ln();
        let freedom = match a + b > 0.0 && (a + b).is_finite() {
            true => (a + b).powi(2) / (a.powi(2) / before.freedom + b.powi(2) / after.freedom),
            false => 1.0,
        };
        let half = student(0.01 / of.max(1) as f64, freedom) * (a + b).sqrt();
        let (low, high) = (difference - half, difference + half);
        // Where nothing is known of the error, everything is possible.
        let share = |x: f64| x.exp_m1().clamp(-1.0, 1e6);
        Some(Change {
            change: share(difference),
            low: share(low),
            high: share(high),
            real: low > 0.0 || high < 0.0,
        })
    }
}

/// What Student's distribution exceeds, to either side, with the chance `p`.
///
/// With `x = sqrt(freedom) / tan(a)` its density is that of `a` between 0 and a
/// right angle in proportion to `sin(a)^(freedom - 1)`: a sum over small angles
/// until its share is `p`.
fn student(p: f64, freedom: f64) -> f64 {
    const STEPS: usize = 4000;
    // Beyond that it is the normal distribution but for a thousandth.
    let freedom = freedom.clamp(1.0, 1000.0);
    let step = std::f64::consts::FRAC_PI_2 / STEPS as f64;
    let density = |i: usize| ((i as f64 + 0.5) * step).sin().powf(freedom - 1.0);
    let mut left = p * (0..STEPS).map(density).sum::<f64>();
    let mut angle = 0.0;
    for d in (0..STEPS).map(density) {
        if d >= left {
            angle += step * left / d;
            break;
        }
        (angle, left) = (angle + step, left - d);
    }
    freedom.sqrt() / angle.tan()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from 0 to 1, evenly (xorshift64*).
    fn dice(seed: u64) -> impl FnMut() -> f64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Repetitions of steps around `time`: each repetition is off by some 1 %,
    /// each step by 2 %, neighbours together, and some are far too slow.
    fn round(seed: u64, time: f64, runs: usize) -> Vec<Vec<f64>> {
        let mut dice = dice(seed);
        let mut about = move || (0..6).map(|_| dice() - 0.5).sum::<f64>() / 0.707;
        (0..runs)
            .map(|_| {
                let (place, mut drift) = (0.01 * about(), 0.0);
                let mut one = || {
                    drift = 0.7 * drift + 0.014 * about();
                    let slow = if about() > 2.0 { 1.8 } else { 1.0 };
                    time * (1.0 + place + drift) * slow
                };
                (0..63).map(|_| one()).collect()
            })
            .collect()
    }

    fn change(seed: u64, factor: f64, runs: usize) -> Change {
        let estimate = |seed, time| Estimate::of(&round(seed, time, runs)).unwrap();
        let before = estimate(2 * seed + 1, 10.0);
        Change::between(before, estimate(2 * seed + 2, 10.0 * factor), 1).unwrap()
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(quantile(&[3.0], 0.95), 3.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        let s = Spread::of((0..=100).rev().map(f64::from));
        assert_eq!([s.median, s.p5, s.p95], [50.0, 5.0, 95.0]);
    }

    #[test]
    fn a_change_that_is_there_is_found() {
        for factor in [0.9, 1.06, 1.1, 1.5] {
            let found = (0..200).filter(|&seed| {
                let c = change(seed, factor, 5);
                c.real && (c.change > 0.0) == (factor > 1.0)
            });
            let found = found.count();
            assert!(found > 180, "{factor}: {found} of 200");
        }
    }

    #[test]
    fn none_is_found_where_there_is_none() {
        for runs in [2, 3, 5, 8] {
            let wrong = (0..400).filter(|&seed| change(seed, 1.0, runs).real);
            // 1 % of them are expected, 4 of 400.
            let wrong = wrong.count();
            assert!(wrong <= 12, "{runs} repetitions: {wrong} of 400");
        }
    }

    #[test]
    fn the_interval_holds_the_change() {
        let missed = (0..400).filter(|&seed| {
            let c = change(seed, 1.04, 5);
            !(c.low..=c.high).contains(&0.04)
        });
        let missed = missed.count();
        assert!(missed <= 12, "{missed} of 400");
    }

    #[test]
    fn one_measurement_shows_nothing() {
        let e = |v: f64| Estimate::of(&[vec![v]]).unwrap();
        let c = Change::between(e(1.0), e(9.0), 1).unwrap();
        assert!(!c.real && c.change > 7.9 && c.low == -1.0);
        assert_eq!(Estimate::of(&[vec![], vec![]]), None);
        // Without any spread there is no doubt.
        let even = |v: f64| Estimate::of(&[vec![v; 20], vec![v; 20]]).unwrap();
        assert!(Change::between(even(1.0), even(1.01), 40).unwrap().real);
        assert!(!Change::between(even(1.0), even(1.0), 1).unwrap().real);
    }

    #[test]
    fn quantiles_of_student() {
        let table = [
            (0.01, 1.0, 63.657),
            (0.01, 2.0, 9.925),
            (0.01, 10.0, 3.169),
            (0.01, 40.0, 2.704),
            (0.001, 5.0, 6.869),
            (0.0001, 8.0, 7.120),
        ];
        for (p, freedom, expected) in table {
            let t = student(p, freedom);
            assert!((t / expected - 1.0).abs() < 1e-3, "{p} {freedom}: {t}");
        }
        // The normal distribution's.
        assert!((student(0.01, 1e9) / 2.5758 - 1.0).abs() < 3e-3);
    }

    #[test]
    fn many_rows_raise_no_alarm() {
        let estimate = |seed| Estimate::of(&round(seed, 10.0, 5)).unwrap();
        let rounds = 0..50;
        let wrong = rounds.filter(|round| {
            let rows = (0..40).map(|row| 2 * (40 * round + row) + 1);
            let mut rows =
                rows.map(|seed| Change::between(estimate(seed), estimate(seed + 1), 40).unwrap());
            rows.any(|c| c.real)
        });
        // 1 of 100 is expected.
        assert!(wrong.count() <= 3);
    }
}

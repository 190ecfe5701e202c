//! What is asked, and when: drawn by a seed, so that it can be asked again.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

/// Short words that tokenizers have whole.
const WORDS: &str =
    "time year people way day man thing woman life child world school state family \
    student group country problem hand part place case week company system program question work \
    number night point home water room mother area money story fact month lot right study book eye \
    job word business side kind head house service friend father power hour game line end member \
    law car city name president team minute idea body back parent face others level office door \
    health person art war history party result change morning reason research girl guy moment air \
    teacher force education foot boy age policy music market sense nation plan college interest \
    death experience effect use class control field development role effort rate heart drug show \
    leader light voice wife whole police mind price report decision son view relationship town \
    road arm difference value building action season society tax director position player record \
    paper space ground form event official matter center couple site project activity star table \
    need court oil situation cost industry figure street image phone data picture practice piece \
    land product doctor wall patient worker news test movie north love support technology";

/// Prompts of random words.
pub struct Prompts {
    seed: u64,
    lengths: Vec<u32>,
    words: Vec<&'static str>,
}

impl Prompts {
    /// Lengths are in words.
    pub fn new(seed: u64, lengths: &[u32]) -> Prompts {
        Prompts {
            seed,
            lengths: lengths.to_vec(),
            words: WORDS.split_whitespace().collect(),
        }
    }

    /// That of a level's request. No two begin alike, so that no cache of
    /// prompts makes a level look better than it is.
    pub fn text(&self, level: u32, request: u32) -> String {
        let mut dice = self.dice((u64::from(level) << 32) | u64::from(request));
        let length = self.lengths[below(&mut dice, self.lengths.len())];
        let words = (0..length).map(|_| self.words[below(&mut dice, self.words.len())]);
        let words: Vec<_> = words.collect();
        format!("{}. Tell a long story of that.", words.join(" "))
    }

    /// The times of a level's requests, of which there are `rate` a second on
    /// average: gaps of a Poisson process are exponential.
    pub fn arrivals(&self, level: u32, rate: f64) -> impl Iterator<Item = Duration> {
        let mut dice = self.dice((u64::from(level) << 32) | u64::from(u32::MAX));
        let mut at = 0.0;
        std::iter::repeat_with(move || {
            let unit = (dice.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            at -= (1.0 - unit).ln() / rate;
            Duration::from_secs_f64(at)
        })
    }

    fn dice(&self, stream: u64) -> ChaCha8Rng {
        let mut dice = ChaCha8Rng::seed_from_u64(self.seed);
        dice.set_stream(stream);
        dice
    }
}

/// A number below `n`; that some are likelier by n/2^64 matters to nobody.
fn below(dice: &mut ChaCha8Rng, n: usize) -> usize {
    (dice.next_u64() % n as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_the_same() {
        let all = |seed| {
            let prompts = Prompts::new(seed, &[4, 9]);
            (0..50).map(|i| prompts.text(2, i)).collect::<Vec<_>>()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        let lengths = |n| {
            let of = all(7);
            let first = of.iter().filter_map(|p| p.split('.').next());
            first.filter(|p| p.split(' ').count() == n).count()
        };
        assert!(lengths(4) > 10 && lengths(9) > 10 && lengths(4) + lengths(9) == 50);
    }

    /// The mean of n exponential gaps deviates by 1/sqrt(n) of itself; five
    /// times that does not happen.
    #[test]
    fn arrivals_have_their_rate() {
        let prompts = Prompts::new(3, &[1]);
        let times: Vec<_> = prompts.arrivals(0, 50.0).take(10_000).collect();
        assert!(times.is_sorted());
        let mean = times[9_999].as_secs_f64() / 10_000.0;
        assert!((mean * 50.0 - 1.0).abs() < 0.05, "{mean}");
        let short = times
            .windows(2)
            .filter(|t| t[1] - t[0] < Duration::from_secs_f64(0.02));
        let share = short.count() as f64 / 9_999.0;
        let expected = 1.0 - (-1.0f64).exp();
        assert!((share - expected).abs() < 0.025, "{share}");
    }
}

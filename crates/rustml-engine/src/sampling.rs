//! The settings of sampling.

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
    /// occurred in the prompt or since (Keskar et al., "CTRL"); 1 is none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that were generated before, once
    /// (OpenAI's API); 0 is none.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens as often as they were generated before
    /// (OpenAI's API); 0 is none.
    pub frequency_penalty: f32,
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
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
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
        let within = |name: &str, value: f32, least: f32, most: f32| {
            let ok = (least..=most).contains(&value);
            check(ok, name, value, &format!("from {least} to {most}"))
        };
        let (p, r) = (self.top_p, self.repetition_penalty);
        within("the temperature", self.temperature, 0.0, 100.0)?;
        check(p > 0.0 && p <= 1.0, "top-p", p, "above 0 and at most 1")?;
        within("min-p", self.min_p, 0.0, 1.0)?;
        let ok = r > 0.0 && r <= 100.0;
        check(ok, "the repetition penalty", r, "above 0 and at most 100")?;
        within("the presence penalty", self.presence_penalty, -100.0, 100.0)?;
        within(
            "the frequency penalty",
            self.frequency_penalty,
            -100.0,
            100.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

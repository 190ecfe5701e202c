//! Prompts to texts, one or many together.

use crate::error::{Error, Result};
use crate::model::Model;
use rustml_engine::{Engine, Finish, Request, Sampling, Timings, Update};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sequences that are decoded together; more wait.
const SEQUENCES: usize = 32;

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Whether they are the beginning of the text that goes on, rather than a
    /// conversation that is answered.
    pub continues: bool,
}

/// How texts are generated.
#[derive(Clone, Debug)]
pub struct Options {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens at most.
    pub max_tokens: usize,
    /// Time at most, for all prompts together.
    pub timeout: Option<Duration>,
    /// Go on when the model would end the text, for measuring.
    pub ignore_end: bool,
    /// Set from elsewhere, it stops everything after the current step.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sampling: Sampling::default(),
            max_tokens: 256,
            timeout: None,
            ignore_end: false,
            cancel: None,
        }
    }
}

/// A piece of text, as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Which prompt it belongs to.
    pub prompt: usize,
    /// The text; never half a character.
    pub text: &'a str,
}

/// What became of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text, without the prompt.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
    /// How long it took.
    pub timings: Timings,
}

impl Generation {
    pub(crate) fn new(prompt_tokens: usize) -> Generation {
        Generation {
            text: String::new(),
            ids: Vec::new(),
            prompt_tokens,
            finish: Finish::Cancelled,
            timings: Timings::default(),
        }
    }

    pub(crate) fn take(&mut self, update: &Update) {
        self.text.push_str(&update.text);
        self.ids.extend(update.token);
        if let Some((finish, timings)) = &update.finish {
            (self.finish, self.timings) = (finish.clone(), *timings);
        }
    }
}

/// Steps until nothing is left, time is up, or somebody asks to stop.
pub(crate) fn drain(engine: &mut Engine, options: &Options, take: &mut dyn FnMut(&Update) -> bool) {
    let start = Instant::now();
    let mut stop = None;
    while !engine.is_idle() {
        let cancelled = options
            .cancel
            .as_ref()
            .is_some_and(|c| c.load(Ordering::Relaxed));
        if cancelled {
            stop = Some(Finish::Cancelled);
        } else if options.timeout.is_some_and(|t| start.elapsed() >= t) {
            stop = Some(Finish::Timeout);
        }
        let updates = match stop.clone() {
            Some(why) => engine.cancel_all(why),
            None => engine.step(),
        };
        for update in &updates {
            if !take(update) {
                stop = Some(Finish::Cancelled);
            }
        }
    }
}

pub(crate) fn generate(
    model: &Model,
    prompts: Vec<Prompt>,
    options: &Options,
    sink: &mut dyn FnMut(Piece) -> bool,
) -> Result<Vec<Generation>> {
    let sequences = prompts.len().clamp(1, SEQUENCES);
    // Room for the longest of those that run together.
    let context = model.context();
    let block = rustml_model::KV_BLOCK;
    let mut needed: Vec<usize> = prompts
        .iter()
        .map(|p| p.ids.len().saturating_add(options.max_tokens).min(context))
        // A context is bounded, and so is this.
        .map(|positions| positions.next_multiple_of(block))
        .collect();
    needed.sort_unstable_by(|a, b| b.cmp(a));
    let positions = needed.iter().take(sequences).sum::<usize>().max(block);
    let mut engine = model.engine(sequences, positions, false)?;
    let many = prompts.len() > 1;
    let mut results = Vec::with_capacity(prompts.len());
    // Of the prompts, in their order, which is ascending.
    let mut ids = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.into_iter().enumerate() {
        results.push(Generation::new(prompt.ids.len()));
        let request = Request {
            prompt: prompt.ids,
            sampling: Sampling {
                // Prompts of a batch must not all get the same dice.
                seed: options.sampling.seed.wrapping_add(i as u64),
                ..options.sampling
            },
            max_tokens: options.max_tokens,
            continues: prompt.continues,
            ignore_end: options.ignore_end,
            ..Request::default()
        };
        let id = engine.submit(request);
        ids.push(id.map_err(|source| match many {
            true => Error::RefusedOne {
                number: i + 1,
                source,
            },
            false => Error::Refused(source),
        })?);
    }
    drain(&mut engine, options, &mut |update| {
        let Ok(prompt) = ids.binary_search(&update.id) else {
            return true;
        };
        results[prompt].take(update);
        update.text.is_empty()
            || sink(Piece {
                prompt,
                text: &update.text,
            })
    });
    Ok(results)
}

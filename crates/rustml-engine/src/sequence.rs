//! A request at slice.

use crate::constraint::{Constraint, TokenMask};
use crate::draft::Drafted;
use crate::logprobs::Logprobs;
use crate::lookup::Lookup;
use crate::prefix::Keys;
use crate::request::{Finish, Request, RequestId, Timings, Update};
use crate::sampler::Sampler;
use crate::speculate::{AcceptanceStats, StepTimeModel};
use crate::stop::StopStrings;
use rustml_model::KvSequence;
use rustml_tokenizer::{Decode, Detokenizer, Tokenizer};
use std::time::{Duration, Instant};

pub(crate) struct Sequence {
    pub id: RequestId,
    /// Prompt and what was generated; the first `cache.len()` are computed.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens the context has room for.
    pub room: usize,
    pub max_tokens: usize,
    pub cache: KvSequence,
    /// Blocks of the cache that others can find.
    pub sealed: usize,
    /// Requests with another salt share nothing with it.
    salt: u64,
    /// How its positions are rotated: see [`rustml_model::spec::rotated_since`].
    pub rotated_since: usize,
    /// Whether the prefix cache's hits and misses were counted.
    pub counted: bool,
    prompt_logprobs: bool,
    /// Tokens of the prompt, after the first, that were reported.
    reported: usize,
    ignore_end: bool,
    logprobs: Option<usize>,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    detokenizer: Option<Detokenizer>,
    stop: StopStrings,
    lookup: Option<Lookup>,
    /// With a draft model.
    pub drafted: Option<Drafted>,
    /// Guesses made, and those that were right.
    guesses: (usize, usize),
    pub clock: Clock,
}

/// A sequence's part of a step.
pub(crate) struct StepSlice {
    /// Tokens computed.
    pub rows: usize,
    /// Of the last of these, the logits too.
    pub logits: usize,
    /// Whether nothing is pending then, so that a token follows.
    pub complete: bool,
    /// Whether a single row was pending.
    pub decodes: bool,
    /// Draft tokens that follow, which are computed as well, logits and all.
    pub drafts: Vec<u32>,
    /// Whether the draft model was asked for them; it may have made none.
    pub asked: bool,
}

/// When things happened to a sequence.
pub(crate) struct Clock {
    pub submitted: Instant,
    pub started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub cached_tokens: usize,
    pub preemptions: usize,
}

/// Memory that choosing tokens needs, shared by all sequences.
#[derive(Default)]
pub(crate) struct Scratch {
    mask: TokenMask,
    logprobs: Logprobs,
}

impl Sequence {
    /// A sequence with nothing computed; `context` is larger than its prompt.
    pub fn new(
        id: RequestId,
        request: Request,
        context: usize,
        lookup: Option<Lookup>,
        drafted: Option<Drafted>,
    ) -> Sequence {
        let mut sampler = Sampler::new(request.sampling, request.logit_bias);
        sampler.observe_prompt(&request.prompt);
        Sequence {
            id,
            prompt_len: request.prompt.len(),
            room: context - request.prompt.len(),
            max_tokens: request.max_tokens,
            cache: KvSequence::default(),
            sealed: 0,
            salt: request.cache_salt,
            rotated_since: 0,
            counted: false,
            prompt_logprobs: request.prompt_logprobs,
            reported: 0,
            ignore_end: request.ignore_end,
            logprobs: request.logprobs,
            sampler,
            constraint: request.constraint,
            detokenizer: Some(Detokenizer::new(Decode {
                control: false,
                continues: request.continues,
            })),
            stop: StopStrings::new(&request.stop),
            lookup: lookup.filter(|_| request.speculate),
            drafted: drafted.filter(|_| request.speculate),
            guesses: (0, 0),
            tokens: request.prompt,
            clock: Clock {
                submitted: Instant::now(),
                started: None,
                first_token: None,
                last_token: None,
                cached_tokens: 0,
                preemptions: 0,
            },
        }
    }

    /// The keys of its positions, for a model whose phases differ or not.
    pub fn keys(&self, phases_differ: bool) -> Keys<'_> {
        Keys {
            // Texts that are rotated otherwise share nothing.
            salt: self.salt ^ (self.rotated_since as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            tokens: &self.tokens,
            decoded_from: match phases_differ {
                true => self.prompt_len,
                false => usize::MAX,
            },
        }
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that it may still come to generate.
    pub fn left(&self) -> usize {
        self.max_tokens.min(self.room) - self.generated()
    }

    /// A sampler that will choose just as its own.
    pub fn dice(&self) -> Sampler {
        self.sampler.twin()
    }

    /// Whether its guesses have not paid, so that none are made.
    pub fn is_unguessed(&self) -> bool {
        let lookup = self.lookup.as_ref().map(|l| &l.record);
        let drafted = self.drafted.as_ref().map(|d| &d.record);
        let mut kinds = lookup.into_iter().chain(drafted).peekable();
        kinds.peek().is_some() && kinds.all(AcceptanceStats::is_off)
    }

    /// Tokens that are not computed yet; at least one.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.cache.len()..]
    }

    /// Positions it may come to need.
    pub fn positions(&self) -> usize {
        self.prompt_len + self.max_tokens.min(self.room)
    }

    /// Whether it needs no step at all.
    pub fn is_empty(&self) -> bool {
        self.max_tokens == 0 && !self.prompt_logprobs
    }

    /// Whether the logits of all of its rows are wanted, since there are tokens
    /// of the prompt to report.
    pub fn reports_prompt(&self) -> bool {
        self.prompt_logprobs && self.reported + 1 < self.prompt_len
    }

    /// Positions that need not be computed if they are known: not the last,
    /// whose logits are wanted, nor those whose logits are reported.
    pub fn reusable(&self) -> usize {
        match self.reports_prompt() {
            true => self.reported,
            false => self.tokens.len() - 1,
        }
    }

    /// Guesses what follows the next token, `most` tokens at most, in a step of
    /// so many rows.
    pub fn draft(&mut self, most: usize, costs: &StepTimeModel, rows: usize) -> Vec<u32> {
        // The next token comes without a guess.
        let most = most.min(self.left().saturating_sub(1));
        let lookup = self.lookup.as_mut();
        lookup.map_or(Vec::new(), |l| l.draft(&self.tokens, most, costs, rows))
    }

    /// Takes what a step computed. If it comes to its end, the last update, to
    /// be concluded, and the reason.
    pub fn commit<'l>(
        &mut self,
        slice: &StepSlice,
        logits: impl Iterator<Item = &'l [f32]>,
        tokenizer: &Tokenizer,
        scratch: &mut Scratch,
        updates: &mut Vec<Update>,
    ) -> Option<(Update, Finish)> {
        let mut update = Update::of(self.id);
        let rows = slice.rows + slice.drafts.len();
        let first = self.cache.len() + rows - slice.logits;
        self.cache.advance(slice.rows);
        let (mut finish, mut right) = (None, 0);
        for (position, logits) in (first + 1..).zip(logits) {
            if !all_finite(logits) {
                finish = Some(Finish::NotFinite(String::new()));
                break;
            }
            if position < self.prompt_len {
                // It may have been computed and reported before it had to go.
                if position <= self.reported {
                    continue;
                }
                self.reported = position;
                let top = self.logprobs.unwrap_or(0);
                let l = scratch.logprobs.of(logits, self.tokens[position], top);
                update.prompt_logprobs.push(l);
            } else if slice.complete {
                finish = self.next(&mut update, logits, tokenizer, scratch);
                // The next row is computed for the guess, and is right with it.
                if finish.is_some() || slice.drafts.get(right).copied() != update.token {
                    break;
                }
                right += 1;
                self.cache.advance(1);
                updates.push(std::mem::replace(&mut update, Update::of(self.id)));
            }
        }
        self.learn(slice, right);
        match finish {
            Some(why) => Some((update, why)),
            None => {
                let news = update.token.is_some() || !update.prompt_logprobs.is_empty();
                updates.extend(news.then_some(update));
                None
            }
        }
    }

    /// Takes note of how many guesses were right.
    fn learn(&mut self, slice: &StepSlice, right: usize) {
        let guessed = slice.drafts.len();
        if guessed == 0 {
            return;
        }
        self.guesses.0 += guessed;
        self.guesses.1 += right;
        let record = match (&mut self.lookup, &mut self.drafted) {
            (_, Some(d)) if slice.asked => &mut d.record,
            (Some(l), _) => &mut l.record,
            _ => return,
        };
        record.learn(guessed, right);
    }

    /// Chooses the next token by its logits. If it was the last, why.
    fn next(
        &mut self,
        update: &mut Update,
        logits: &[f32],
        tokenizer: &Tokenizer,
        scratch: &mut Scratch,
    ) -> Option<Finish> {
        if self.max_tokens == 0 {
            return Some(Finish::Length);
        }
        let id = match self.choose(logits, &mut scratch.mask) {
            Ok(id) => id,
            Err(why) => return Some(Finish::Failed(why)),
        };
        let now = Instant::now();
        self.clock.first_token.get_or_insert(now);
        if tokenizer.end_tokens().contains(&id) && !(self.ignore_end && self.constraint.is_none()) {
            return Some(Finish::Stop);
        }
        self.clock.last_token = Some(now);
        self.tokens.push(id);
        self.sampler.observe(id);
        update.token = Some(id);
        update.logprobs = self.logprobs.map(|n| scratch.logprobs.of(logits, id, n));
        if let Some(d) = &mut self.detokenizer {
            d.push_to(tokenizer, id, &mut update.text);
        }
        let stop = self.stop.push(&mut update.text);
        self.finish(id, stop)
    }

    fn choose(&mut self, logits: &[f32], mask: &mut TokenMask) -> Result<u32, String> {
        let Some(constraint) = &mut self.constraint else {
            let id = self.sampler.pick(logits, None);
            return Ok(id.expect("nothing is masked"));
        };
        mask.fill(logits.len());
        constraint.mask(mask)?;
        let id = self.sampler.pick(logits, Some(mask));
        id.ok_or_else(|| "the constraint allows no token of the vocabulary here".to_owned())
    }

    /// Whether it ends with this token, and why.
    fn finish(&mut self, id: u32, stop: Option<usize>) -> Option<Finish> {
        if let Some(which) = stop {
            return Some(Finish::StopString(which));
        }
        if let Some(constraint) = &mut self.constraint {
            match constraint.accept(id) {
                Err(why) => return Some(Finish::Failed(why)),
                Ok(()) if constraint.is_complete() => return Some(Finish::Stop),
                Ok(()) => {}
            }
        }
        if self.generated() >= self.max_tokens {
            Some(Finish::Length)
        } else if self.generated() >= self.room {
            Some(Finish::Context)
        } else {
            None
        }
    }

    /// Puts the last words and the reason into the last update.
    pub fn conclude(&mut self, update: &mut Update, why: Finish) {
        if !matches!(why, Finish::StopString(_)) {
            let rest = self.detokenizer.take().and_then(Detokenizer::finish);
            let mut rest = rest.unwrap_or_default();
            let stop = self.stop.push(&mut rest);
            update.text.push_str(&rest);
            update.text.push_str(&self.stop.finish());
            if let (Some(which), false) = (
                stop,
                matches!(why, Finish::Failed(_) | Finish::NotFinite(_)),
            ) {
                update.finish = Some((Finish::StopString(which), self.timings()));
                return;
            }
        }
        update.finish = Some((why, self.timings()));
    }

    fn timings(&self) -> Timings {
        let span = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => b - a,
            _ => Duration::ZERO,
        };
        let c = &self.clock;
        let started = c.started.unwrap_or_else(Instant::now);
        Timings {
            queued: started - c.submitted,
            prefill: span(c.started, c.first_token),
            decode: span(c.first_token, c.last_token),
            prompt_tokens: self.prompt_len,
            cached_tokens: c.cached_tokens,
            tokens: self.generated(),
            preemptions: c.preemptions,
            guessed: self.guesses.0,
            right: self.guesses.1,
            guesses_off: self.is_unguessed(),
        }
    }
}
/// Whether none is NaN or infinite: these have the largest exponent. Whole numbers are
/// compared, for which a compiler makes vectors.
fn all_finite(logits: &[f32]) -> bool {
    let largest = logits.iter().map(|x| x.to_bits() & (u32::MAX >> 1)).max();
    largest.unwrap_or(0) < f32::INFINITY.to_bits()
}

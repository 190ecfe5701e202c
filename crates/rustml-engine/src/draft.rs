//! Guesses of a smaller model.
//!
//! A *draft* model with the same vocabulary continues the texts by some tokens,
//! all of them together, and the model itself checks them in one step
//! (speculative decoding; Leviathan and others 2023). A request's own sampler
//! chooses from the model's logits as ever, and guesses are taken as long as it
//! chooses just them; so what comes out is the same, sooner. The draft model
//! chooses by a copy of that sampler with the same dice, by which two models
//! that think alike also draw alike.
//!
//! The draft model's cache is its own, and so are its prefixes: a sequence may
//! lose its part of it at any time and read its text again, so the caches need
//! not be in step. It reads a text when its guesses are wanted, in pieces that
//! hold up nobody, and no sooner than the time that takes would be won back over
//! as many tokens as the request already has.

use crate::config::EngineConfig;
use crate::pace::PrefillBudget;
use crate::prefix::PrefixCache;
use crate::sampler::Sampler;
use crate::sequence::{Sequence, StepSlice};
use crate::speculate::{AcceptanceStats, ProbeSchedule, StepTimeModel, MOST};
use rustml_model::{Batch, Capacity, Error, Exec, KvPool, KvSequence, Model, Output, KV_BLOCK};
use rustml_tokenizer::Tokenizer;
use rustml_trace::{Detail, Recorder};
use std::sync::Arc;
use std::time::Instant;

/// Tokens it may be behind without having to catch up for it: those of a step
/// and of one that was left out.
const BEHIND: usize = 2 * MOST + 2;

/// Why a model cannot draft for another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyMismatch {
    /// They have different numbers of tokens.
    #[error(
        "the draft model has {draft} tokens and the model {model}; take one of the same family"
    )]
    Size {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the draft model.
        draft: usize,
    },
    /// A token is another one.
    #[error("token {id} is {model:?} to the model and {draft:?} to the draft model; take one of the same family")]
    Token {
        /// The first such token.
        id: u32,
        /// What the model takes it for.
        model: String,
        /// What the draft model takes it for.
        draft: String,
    },
}

/// Checks that tokens mean to a draft model what they mean to the model.
///
/// # Errors
/// The first difference.
pub fn same_vocabulary(model: &Tokenizer, draft: &Tokenizer) -> Result<(), VocabularyMismatch> {
    let sizes = (model.vocab_size(), draft.vocab_size());
    if sizes.0 != sizes.1 {
        let (model, draft) = sizes;
        return Err(VocabularyMismatch::Size { model, draft });
    }
    let ids = 0..u32::try_from(sizes.0).unwrap_or(u32::MAX);
    let differs = |&id: &u32| model.token_bytes(id) != draft.token_bytes(id);
    match ids.into_iter().find(differs) {
        None => Ok(()),
        Some(id) => Err(VocabularyMismatch::Token {
            id,
            model: model.token_str(id).unwrap_or_default().into(),
            draft: draft.token_str(id).unwrap_or_default().into(),
        }),
    }
}

/// What the draft model has of a sequence.
#[derive(Default)]
pub(crate) struct Drafted {
    cache: KvSequence,
    /// Blocks that others can find.
    sealed: usize,
    /// Of the cache, those positions whose tokens are no guesses.
    certain: usize,
    pub record: AcceptanceStats,
}

/// The draft model at work.
pub(crate) struct Drafter {
    model: Arc<Model>,
    exec: Exec,
    kv: KvPool,
    prefixes: PrefixCache,
    /// Tokens that both models know, and whether these are all.
    vocab: usize,
    knows_all: bool,
    /// Of its own steps.
    costs: StepTimeModel,
    pace: PrefillBudget,
    turns: ProbeSchedule,
    /// Of all requests, for those that come.
    record: AcceptanceStats,
    /// Time spent.
    pub seconds: f64,
}

/// A sequence that is being guessed.
struct Guesser {
    /// Among those that run.
    index: usize,
    wanted: usize,
    /// Rows of the first step.
    rows: usize,
    /// Whether these are all that it was behind.
    ready: bool,
    sampler: Sampler,
    guesses: Vec<u32>,
}

impl Drafter {
    /// A drafter for `target`, with as much cache.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(model: Arc<Model>, target: &Model, config: &EngineConfig) -> Result<Drafter, Error> {
        let sequences = config.sequences.max(1);
        let capacity = Capacity {
            rows: config.rows.max(sequences),
            logit_rows: sequences,
        };
        Ok(Drafter {
            kv: KvPool::new(model.spec(), config.cache_positions, config.kv_type)?,
            exec: Exec::new(&model, capacity, Recorder::new(Detail::Off)),
            vocab: model.spec().vocab.min(target.spec().vocab),
            knows_all: model.spec().vocab >= target.spec().vocab,
            model,
            prefixes: PrefixCache::default(),
            costs: StepTimeModel::default(),
            pace: PrefillBudget::new(config.step_target),
            turns: ProbeSchedule::default(),
            record: AcceptanceStats::default(),
            seconds: 0.0,
        })
    }

    /// What a request begins with.
    pub fn begin(&self) -> Drafted {
        Drafted {
            record: AcceptanceStats::expecting(self.record.rate()),
            ..Drafted::default()
        }
    }

    /// How many tokens to guess of each sequence, of a step that decodes them
    /// all and takes `most` rows more.
    pub fn plan(
        &mut self,
        running: &mut [Sequence],
        works: &[StepSlice],
        most: usize,
        costs: &StepTimeModel,
    ) -> Vec<usize> {
        let mut wanted = vec![0; running.len()];
        let rows = works.iter().map(|w| w.rows + w.drafts.len()).sum();
        let able = |(i, s): (usize, &Sequence)| {
            let d = s.drafted.as_ref().filter(|_| works[i].drafts.is_empty())?;
            (self.room(s) > 0).then(|| (d.record.rate(), i))
        };
        let mut able: Vec<_> = running.iter().enumerate().filter_map(able).collect();
        if able.is_empty() {
            return wanted;
        }
        able.sort_by(|a, b| b.0.total_cmp(&a.0));
        let rates: Vec<f64> = able.iter().map(|a| a.0).collect();
        let own = |n: usize, m: usize| n as f64 * self.costs.of(m).unwrap_or(0.0);
        let best = costs.best(rows, most, &rates, &own);
        // What a token of each saves, as far as is known.
        let saved = costs.of(rows).unwrap_or(f64::MAX) * (1.0 - 1.0 / best.gain);
        let left_out = best.guesses > 0 && self.turns.is_left_out();
        let mut left = most;
        for (rank, &(_, i)) in able.iter().enumerate() {
            let s = &mut running[i];
            let (room, said) = (self.room(s), s.generated());
            let Some(d) = &mut s.drafted else { continue };
            let guesses = match rank < best.sequences {
                true => best.guesses,
                false => 0,
            };
            let n = d.record.decide(guesses, MOST).min(room).min(left);
            let behind = s.tokens.len() - d.cache.len();
            let affordable = match guesses {
                _ if behind <= BEHIND => true,
                // A look.
                0 => behind <= BEHIND + said,
                _ => self.pace.seconds(behind) <= said as f64 * saved,
            };
            if n > 0 && !left_out && affordable {
                left -= n;
                wanted[i] = n;
            }
        }
        wanted
    }

    /// Tokens of a sequence that could be guessed.
    fn room(&self, s: &Sequence) -> usize {
        let more = self.model.spec().context.saturating_sub(s.tokens.len());
        let known = |&t: &u32| (t as usize) < self.vocab;
        match self.knows_all || s.tokens.iter().all(known) {
            true => s.left().saturating_sub(1).min(more),
            false => 0,
        }
    }

    /// Guesses so many tokens of each sequence, or fewer.
    pub fn run(&mut self, running: &mut [Sequence], wanted: &[usize]) -> Vec<Vec<u32>> {
        let mut drafts = vec![Vec::new(); running.len()];
        let began = Instant::now();
        let mut guessers = self.begin_all(running, wanted);
        while !guessers.is_empty() {
            self.step(running, &mut guessers);
            for g in guessers.iter().filter(|g| g.is_through()) {
                drafts[g.index] = g.guesses.clone();
            }
            guessers.retain(|g| !g.is_through());
        }
        self.seconds += began.elapsed().as_secs_f64();
        drafts
    }

    /// Those for whom there is room, with what they read first.
    fn begin_all(&mut self, running: &mut [Sequence], wanted: &[usize]) -> Vec<Guesser> {
        let count = wanted.iter().filter(|&&n| n > 0).count();
        let mut more = self.pace.rows(1, self.exec.capacity().rows - count);
        let phases_differ = self.model.phases_differ();
        let mut guessers = Vec::new();
        for (index, (s, &wanted)) in running.iter_mut().zip(wanted).enumerate() {
            if wanted == 0 {
                continue;
            }
            // Out of the sequence, whose keys are read meanwhile.
            let Some(mut d) = s.drafted.take() else {
                continue;
            };
            if d.cache.is_empty() {
                let (keys, most) = (s.keys(phases_differ), s.tokens.len() - 1);
                let (kv, cache) = (&mut self.kv, &mut d.cache);
                self.prefixes.find_blocks(kv, cache, &keys, most);
                self.prefixes.find_rest(kv, cache, &keys, most, None);
                d.sealed = d.cache.len() / KV_BLOCK;
                d.certain = d.cache.len();
            }
            let d = s.drafted.insert(d);
            let behind = s.tokens.len() - d.cache.len();
            let rows = behind.min(more + 1);
            let missing = (rows + wanted - 1).saturating_sub(d.cache.room());
            let blocks = missing.div_ceil(KV_BLOCK);
            if !self.prefixes.make_room(&mut self.kv, blocks) {
                continue;
            }
            let fits = self.kv.reserve(&mut d.cache, rows + wanted - 1);
            assert!(fits, "room was made");
            more -= rows - 1;
            d.certain = d.cache.len() + rows;
            guessers.push(Guesser {
                index,
                wanted,
                rows,
                ready: rows == behind,
                sampler: s.dice(),
                guesses: Vec::new(),
            });
        }
        guessers
    }

    /// A step of the draft model.
    fn step(&mut self, running: &mut [Sequence], guessers: &mut [Guesser]) {
        let mut batch = Batch::default();
        for g in &*guessers {
            let s = &running[g.index];
            let Some(d) = &s.drafted else { continue };
            match g.guesses.last() {
                Some(&last) => batch.push(&d.cache, &[last], s.prompt_len, Output::Logits(1)),
                None => {
                    let next = &s.tokens[d.cache.len()..][..g.rows];
                    let output = Output::Logits(usize::from(g.ready));
                    batch.push(&d.cache, next, s.prompt_len, output);
                }
            }
        }
        let rows = batch.ids.len();
        let start = Instant::now();
        let outputs = self.model.forward(&batch, &mut self.kv, &mut self.exec);
        let mut logits = outputs.logits();
        for g in &mut *guessers {
            let read = match g.guesses.is_empty() {
                true => g.rows,
                false => 1,
            };
            if let Some(d) = &mut running[g.index].drafted {
                d.cache.advance(read);
            }
            if g.ready {
                let logits = logits.next().expect("they were asked for");
                let id = g.sampler.pick(&logits[..self.vocab], None).unwrap_or(0);
                g.sampler.observe(id);
                g.guesses.push(id);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        self.costs.learn(rows, seconds);
        self.pace
            .learn(guessers.len(), rows - guessers.len(), seconds);
    }

    /// Takes note of how many guesses about a sequence were right.
    pub fn commit(&mut self, s: &mut Sequence, guessed: usize, right: usize) {
        let Some(mut d) = s.drafted.take() else {
            return;
        };
        self.record.learn(guessed, right);
        // The last guess was not read.
        d.certain = d.cache.len().min(d.certain + right);
        self.kv.truncate(&mut d.cache, d.certain);
        let keys = s.keys(self.model.phases_differ());
        d.sealed = self
            .prefixes
            .seal(&mut self.kv, &mut d.cache, &keys, d.sealed);
        s.drafted = Some(d);
    }

    /// Takes back what a sequence has of the cache; it stays cached.
    pub fn release(&mut self, s: &mut Sequence) {
        let Some(d) = &mut s.drafted else { return };
        let (cache, sealed) = (std::mem::take(&mut d.cache), d.sealed);
        (d.sealed, d.certain) = (0, 0);
        let keys = s.keys(self.model.phases_differ());
        self.prefixes.release(&mut self.kv, cache, &keys, sealed);
    }

    /// Blocks of its cache that sequences have.
    pub fn used(&self) -> usize {
        self.kv.blocks() - self.kv.free_blocks() - self.prefixes.idle()
    }
}

impl Guesser {
    fn is_through(&self) -> bool {
        !self.ready || self.guesses.len() >= self.wanted
    }
}

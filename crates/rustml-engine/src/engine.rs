//! The loop: plan, forward, sample, commit.

use crate::config::{EngineConfig, Observer, Refusal};
use crate::draft::Drafter;
use crate::lookup::Lookup;
use crate::request::{Finish, Request, RequestId, Update, MAX_LOGPROBS};
use crate::scheduler::Scheduler;
use crate::sequence::{Scratch, Sequence, StepSlice};
use crate::stats::Stats;
use rustml_model::{gather_pages, Batch, Capacity, Exec, KvPool, Model, Output};
use rustml_tokenizer::Tokenizer;
use rustml_trace::{Cost, Detail, LayerTimes, Op, Recorder, StepTimes};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs requests on one model.
///
/// Requests wait until one more may run and the cache has room for it to
/// begin; those that run share every step. The caller steps until
/// [`Engine::is_idle`].
pub struct Engine {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    config: EngineConfig,
    scheduler: Scheduler,
    exec: Exec,
    observer: Option<Observer>,
    next_id: RequestId,
    scratch: Scratch,
    /// Why logits were no finite numbers, once they were.
    not_finite: Option<String>,
    /// Bytes of the weights that every step reads.
    weights: usize,
    /// Seconds that may go to putting memory in order; less than none, if the last
    /// time it took more.
    to_spare: f64,
}

/// The part of the time of steps that may go to putting memory in order beside them.
const SPARE: f64 = 1.0 / 16.0;

/// Seconds of it before one step at most.
const PAUSE: f64 = 0.005;

impl Engine {
    /// An engine with memory for what `config` says.
    ///
    /// # Errors
    /// If the memory cannot be had, or the model has no head.
    pub fn new(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Result<Engine, rustml_model::Error> {
        if model.spec().head.is_none() {
            return Err(rustml_model::Error::NoHead {
                path: model.path().to_owned(),
                arch: model.arch(),
            });
        }
        let sequences = config.sequences.max(1);
        let states = config.states(model.spec());
        let (positions, kv_type) = (config.cache_positions, config.kv_type);
        let kv = KvPool::with_states(model.spec(), positions, kv_type, states)?;
        let capacity = Capacity {
            rows: config.rows.max(sequences),
            logit_rows: sequences + extra_logits(model.spec().vocab),
        };
        let logits = capacity.logit_rows.saturating_mul(4 * model.spec().vocab);
        if !can_be_had(logits) {
            return Err(rustml_model::Error::Memory {
                what: format!("the logits of {sequences} sequences"),
                bytes: logits,
            });
        }
        let exec = Exec::new(&model, capacity, Recorder::new(config.detail));
        let w = model.weights();
        let layers = w.layers.iter().flat_map(|l| l.linears());
        let layers: usize = layers.map(|l| l.weights.bytes()).sum();
        let weights = layers + w.head().map_or(0, |h| h.bytes());
        let phases_differ = model.phases_differ();
        let ropes = model.spec().ropes.clone();
        Ok(Engine {
            model,
            tokenizer,
            scheduler: Scheduler::new(kv, ropes, phases_differ, &config),
            config,
            exec,
            observer: None,
            next_id: 0,
            scratch: Scratch::default(),
            not_finite: None,
            weights,
            to_spare: 0.0,
        })
    }

    /// Shows steps from now on to `observer`, if [`EngineConfig::detail`] is
    /// not off.
    pub fn set_observer(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    /// Has a smaller model guess tokens ahead, which this one then checks
    /// several at a time; they are the same tokens. It gets a cache of as many
    /// positions. If its vocabulary is not the same (see
    /// [`crate::same_vocabulary`]), guesses are wrong, and soon no more made.
    ///
    /// # Errors
    /// If the memory cannot be had, or a model carries recurrent states.
    pub fn set_draft(&mut self, draft: Arc<Model>) -> Result<(), rustml_model::Error> {
        for model in [&self.model, &draft] {
            if model.spec().has_state() {
                return Err(rustml_model::Error::NoDraft {
                    path: model.path().to_owned(),
                    arch: model.arch(),
                });
            }
        }
        let drafter = Drafter::new(draft, &self.model, &self.config)?;
        self.scheduler.drafter = Some(drafter);
        Ok(())
    }

    /// Counts the parts of all steps, for those who watch from another thread. It
    /// grows as long as a step goes on, however long the step takes.
    pub fn progress(&self) -> Arc<AtomicU64> {
        self.exec.progress()
    }

    /// Positions of one sequence.
    pub fn context(&self) -> usize {
        self.config.context
    }

    /// Whether no request is left.
    pub fn is_idle(&self) -> bool {
        self.scheduler.waiting.is_empty() && self.scheduler.running.is_empty()
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// If the request cannot be run; see [`Refusal`].
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        self.check(&request)?;
        let (id, config) = (self.next_id + 1, &self.config);
        let rate = self.scheduler.lookups.rate();
        // A state that has seen a rejected guess cannot go back.
        let speculates = config.speculate && !self.scheduler.kv.has_states();
        let lookup = speculates.then(|| Lookup::new(rate));
        let drafted = self.scheduler.drafter.as_ref().map(Drafter::begin);
        let s = Sequence::new(id, request, config.context, lookup, drafted);
        let (needed, cache) = (s.positions(), self.scheduler.kv.positions());
        if needed > cache {
            return Err(Refusal::CacheTooSmall { needed, cache });
        }
        self.next_id += 1;
        self.scheduler.waiting.push_back(s);
        Ok(self.next_id)
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let context = self.config.context;
        let prompt = request.prompt.len();
        request.sampling.validate().map_err(Refusal::Sampling)?;
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if prompt >= context && !(prompt == context && request.max_tokens == 0) {
            return Err(Refusal::PromptTooLong { prompt, context });
        }
        let vocab = self.model.spec().vocab;
        let biased = request.logit_bias.iter().map(|b| &b.0);
        let mut ids = request.prompt.iter().chain(biased);
        if let Some(&id) = ids.find(|&&id| id as usize >= vocab) {
            return Err(Refusal::UnknownToken { id, vocab });
        }
        let allowed = |bias: f32| (-100.0..=100.0).contains(&bias);
        if let Some(&(id, bias)) = request.logit_bias.iter().find(|b| !allowed(b.1)) {
            return Err(Refusal::Bias { id, bias });
        }
        if request.stop.iter().any(String::is_empty) {
            return Err(Refusal::EmptyStop);
        }
        if let Some(n) = request.logprobs.filter(|&n| n > MAX_LOGPROBS) {
            return Err(Refusal::Logprobs(n));
        }
        let waiting = self.scheduler.waiting.len();
        if waiting >= self.config.queue {
            return Err(Refusal::QueueFull { waiting });
        }
        Ok(())
    }

    /// Ends a request now; its last update, if it was there. Its part of the
    /// cache is free before the next step.
    pub fn cancel(&mut self, id: RequestId, why: Finish) -> Option<Update> {
        let s = self.scheduler.remove(id)?;
        Some(conclude(s, Update::of(id), why))
    }

    /// Ends all requests now.
    pub fn cancel_all(&mut self, why: Finish) -> Vec<Update> {
        let all = self.scheduler.running.iter().chain(&self.scheduler.waiting);
        let ids: Vec<_> = all.map(|s| s.id).collect();
        ids.into_iter()
            .filter_map(|id| self.cancel(id, why.clone()))
            .collect()
    }

    /// What was counted, and how it stands.
    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }

    /// Runs one step of all running requests; what it brought for each.
    pub fn step(&mut self) -> Vec<Update> {
        self.spare_some();
        let began = self.looks().then(Instant::now);
        let mut updates = self.end_empty();
        let slices = self.scheduler.plan(self.exec.capacity());
        if slices.iter().all(|s| s.rows == 0) {
            return updates;
        }
        let start = Instant::now();
        let mut batch = Batch::default();
        for (s, slice) in self.scheduler.running.iter().zip(&slices) {
            let rows = [&s.pending()[..slice.rows], &slice.drafts].concat();
            let output = Output::Logits(slice.logits);
            batch.push(&s.cache, &rows, s.prompt_len, output);
        }
        let size = (batch.ids.len(), batch.outputs());
        let (looks, clock) = (self.looks(), self.exec.recorder.clock());
        let outputs = self
            .model
            .forward(&batch, &mut self.scheduler.kv, &mut self.exec);
        let sampling = looks.then(clock);
        let mut rest: Vec<&[f32]> = outputs.logits().collect();
        let mut ended = Vec::new();
        for (s, slice) in self.scheduler.running.iter_mut().zip(&slices) {
            // It may leave rows of rejected draft tokens, so each has its own.
            let others = rest.split_off(slice.logits);
            let mine = std::mem::replace(&mut rest, others).into_iter();
            let before = s.cache.len() + slice.rows;
            let last = s.commit(
                slice,
                mine,
                &self.tokenizer,
                &mut self.scratch,
                &mut updates,
            );
            ended.extend(last);
            let accepted = s.cache.len() - before;
            self.scheduler.stats.accepted += accepted as u64;
            match &mut self.scheduler.drafter {
                Some(drafter) if slice.asked => drafter.commit(s, slice.drafts.len(), accepted),
                _ => self.scheduler.lookups.learn(slice.drafts.len(), accepted),
            }
        }
        let r = &mut self.exec.recorder;
        r.record(Op::Sample, sampling, Cost::default());
        let seconds = start.elapsed().as_secs_f64();
        self.report_step(began, size);
        self.to_spare = (self.to_spare + seconds * SPARE).min(PAUSE);
        self.count(&slices, seconds);
        self.scheduler.seal();
        for (update, mut why) in ended {
            let s = self.scheduler.remove(update.id).expect("it ran");
            if let Finish::NotFinite(reason) = &mut why {
                let found = self.not_finite.get_or_insert_with(|| {
                    // A search over all weights, so once for all.
                    self.model.why_not_finite(&s.tokens)
                });
                reason.clone_from(found);
            }
            updates.push(conclude(s, update, why));
        }
        updates.sort_by_key(|u| u.id);
        let tokens = updates.iter().filter(|u| u.token.is_some()).count();
        self.scheduler.stats.tokens += tokens as u64;
        updates
    }

    /// Whether anybody looks at steps.
    fn looks(&self) -> bool {
        self.exec.recorder.detail() > Detail::Off
    }

    /// Puts memory in order, so that steps read it faster: that of weights and caches
    /// which had to be taken in small pages, because the system had no others at hand,
    /// moves to large ones. Some milliseconds of it; whether more is left. Steps do a
    /// little of it as they go, so it need not be called; it is for when there is time.
    pub fn tidy(&mut self) -> bool {
        gather_pages(Duration::from_millis(1))
    }

    /// Does what [`Engine::tidy`] does in a part of the time that steps took so far:
    /// before a step, so that nobody waits longer for what the last one brought.
    fn spare_some(&mut self) {
        if self.to_spare > 0.0 {
            let start = Instant::now();
            gather_pages(Duration::from_secs_f64(self.to_spare));
            self.to_spare -= start.elapsed().as_secs_f64();
        }
    }

    /// Ends requests of which nothing is asked.
    fn end_empty(&mut self) -> Vec<Update> {
        let empty = self.scheduler.waiting.iter().filter(|s| s.is_empty());
        let ids: Vec<_> = empty.map(|s| s.id).collect();
        let end = |id| self.cancel(id, Finish::Length);
        ids.into_iter().filter_map(end).collect()
    }

    /// Counts a step that took so long, and learns from it.
    fn count(&mut self, works: &[StepSlice], seconds: f64) {
        let (mut prompt_rows, mut decoding, mut bytes) = (0, 0, self.weights);
        for (s, w) in self.scheduler.running.iter().zip(works) {
            match w.decodes {
                true => decoding += 1,
                false => prompt_rows += w.rows,
            }
            let seen = s.cache.len();
            bytes += self.scheduler.kv.read_bytes(self.model.spec(), seen);
        }
        self.scheduler.pace.learn(decoding, prompt_rows, seconds);
        let stats = &mut self.scheduler.stats;
        stats.steps += 1;
        stats.prefill_tokens += prompt_rows as u64;
        if prompt_rows == 0 {
            let drafts: usize = works.iter().map(|w| w.drafts.len()).sum();
            self.scheduler.costs.learn(decoding + drafts, seconds);
            stats.decode.steps += 1;
            stats.decode.bytes += bytes as u64;
            stats.decode.seconds += seconds;
        }
    }

    /// Logs the step, which began then, and shows it to whoever observes.
    fn report_step(&mut self, began: Option<Instant>, (rows, logit_rows): (usize, usize)) {
        if !self.looks() {
            return;
        }
        let r = &mut self.exec.recorder;
        let total = r.end_step(began);
        let whole = r.step(total, rows, logit_rows);
        if let Some(observer) = &self.observer {
            observer(&whole);
        }
        let step = whole.number;
        tracing::debug!(target: "rustml::step", "step {step}: {}", StepTimes::of(r.events(), total));
        if r.wants_parts() {
            for layer in LayerTimes::of(r.events()) {
                tracing::trace!(target: "rustml::step", "step {step}: {layer}");
            }
        }
    }
}

/// Whether so much memory can be had, as buffers of steps are taken without asking.
fn can_be_had(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Rows of a step whose logits may be computed beside one for each sequence:
/// no more than some megabytes.
fn extra_logits(vocab: usize) -> usize {
    const BYTES: usize = 16 << 20;
    (BYTES / (4 * vocab.max(1))).clamp(8, 64)
}

/// The last update of a request that is over.
fn conclude(mut s: Sequence, mut update: Update, why: Finish) -> Update {
    s.conclude(&mut update, why);
    update
}

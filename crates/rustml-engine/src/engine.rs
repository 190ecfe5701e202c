//! The loop: plan, forward, sample, settle.

use crate::config::{EngineConfig, Observer, Refusal};
use crate::request::{Finish, Request, RequestId, Update, MAX_LOGPROBS};
use crate::sequence::{Scratch, Sequence, Work};
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, Model};
use rustml_tokenizer::Tokenizer;
use rustml_trace::{Cost, Detail, LayerTimes, Op, Recorder, StepTimes};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Runs requests on one model.
///
/// Requests wait until the cache has room for all they may need; those that
/// run share every step. The caller steps until [`Engine::is_idle`].
pub struct Engine {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    config: EngineConfig,
    kv: KvPool,
    exec: Exec,
    observer: Option<Observer>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    kept: HashMap<RequestId, (KvSequence, Vec<u32>)>,
    next_id: RequestId,
    scratch: Scratch,
}

impl Engine {
    /// An engine with memory for what `config` says.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Result<Engine, rustml_model::Error> {
        let kv = KvPool::new(model.spec(), config.cache_positions, config.kv_type)?;
        let capacity = Capacity {
            rows: config.rows.max(config.sequences),
            logit_rows: config.sequences + extra_logits(model.spec().vocab),
        };
        let exec = Exec::new(&model, capacity, Recorder::new(config.detail));
        Ok(Engine {
            model,
            tokenizer,
            config,
            kv,
            exec,
            observer: None,
            waiting: VecDeque::new(),
            running: Vec::new(),
            kept: HashMap::new(),
            next_id: 0,
            scratch: Scratch::default(),
        })
    }

    /// Shows steps from now on to `observer`, if [`EngineConfig::detail`] is
    /// not off.
    pub fn set_observer(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    /// Positions of one sequence.
    pub fn context(&self) -> usize {
        self.config.context
    }

    /// Whether no request is left.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// If the request cannot be run; see [`Refusal`].
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Refusal> {
        self.check(&request)?;
        let resume = request.resume;
        let mut s = Sequence::new(self.next_id + 1, request, self.config.context);
        if s.positions() > self.kv.positions() {
            return Err(Refusal::CacheTooSmall {
                needed: s.positions(),
                cache: self.kv.positions(),
            });
        }
        if let Some((mut cache, tokens)) = resume.and_then(|id| self.kept.remove(&id)) {
            let alike = tokens.iter().zip(&s.tokens).take_while(|(a, b)| a == b);
            // The last token is computed again: its logits are wanted.
            let keep = alike.count().min(s.prompt_len - 1);
            let keep = if s.prompt_logprobs { 0 } else { keep };
            self.kv.truncate(&mut cache, keep);
            s.clock.cached_tokens = keep;
            s.cache = cache;
        }
        self.next_id += 1;
        self.waiting.push_back(s);
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
        let waiting = self.waiting.len();
        if waiting >= self.config.queue {
            return Err(Refusal::QueueFull { waiting });
        }
        Ok(())
    }

    /// Gives back the cache that a finished request kept.
    pub fn forget(&mut self, id: RequestId) {
        if let Some((cache, _)) = self.kept.remove(&id) {
            self.kv.release(cache);
        }
    }

    /// Ends a request now; its last update, if it was there.
    pub fn cancel(&mut self, id: RequestId, why: Finish) -> Option<Update> {
        let waiting = self.waiting.iter().position(|s| s.id == id);
        let sequence = match waiting {
            Some(i) => self.waiting.remove(i)?,
            None => {
                let i = self.running.iter().position(|s| s.id == id)?;
                self.running.remove(i)
            }
        };
        Some(self.settle(sequence, Update::of(id), why))
    }

    /// Ends all requests now.
    pub fn cancel_all(&mut self, why: Finish) -> Vec<Update> {
        let all = self.running.iter().chain(&self.waiting);
        let ids: Vec<_> = all.map(|s| s.id).collect();
        ids.into_iter()
            .filter_map(|id| self.cancel(id, why.clone()))
            .collect()
    }

    /// Lets waiting requests in while there is room for all they may need.
    fn admit(&mut self) {
        while self.running.len() < self.config.sequences {
            let Some(s) = self.waiting.front_mut() else {
                return;
            };
            let needed = s.positions() - s.cache.len();
            if !self.kv.reserve(&mut s.cache, needed) {
                // Caches kept for later stand back before work that waits.
                match self.kept.keys().min().copied() {
                    Some(oldest) => self.forget(oldest),
                    None => return,
                }
                continue;
            }
            s.clock.started = Some(Instant::now());
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Runs one step of all running requests; what it brought for each.
    pub fn step(&mut self) -> Vec<Update> {
        let began = self.exec.recorder.start();
        self.admit();
        let mut updates = Vec::new();
        // Nothing is asked of these.
        while let Some(i) = self.running.iter().position(Sequence::is_empty) {
            let s = self.running.remove(i);
            let update = Update::of(s.id);
            updates.push(self.settle(s, update, Finish::Length));
        }
        let works = plan(&self.running, self.exec.capacity());
        let mut batch = Batch::default();
        for (s, w) in self.running.iter().zip(&works) {
            batch.push(&s.cache, &s.pending()[..w.rows], w.logits);
        }
        if batch.ids.is_empty() {
            return updates;
        }
        let size = (batch.ids.len(), batch.logit_rows.len());
        let logits = self.model.forward(&batch, &mut self.kv, &mut self.exec);
        let sampling = began.map(|_| Instant::now());
        let mut logits = logits.chunks_exact(self.model.spec().vocab);
        let mut ended = Vec::new();
        for (i, (s, w)) in self.running.iter_mut().zip(&works).enumerate() {
            let mine = logits.by_ref().take(w.logits);
            let (update, finish) = s.settle(w, mine, &self.tokenizer, &mut self.scratch);
            match finish {
                Some(why) => ended.push((i, update, why)),
                None => updates.extend(update),
            }
        }
        let r = &mut self.exec.recorder;
        r.record(Op::Sample, sampling, Cost::default());
        // From the last, so that indices of those before stay true.
        for (i, update, why) in ended.into_iter().rev() {
            let s = self.running.remove(i);
            let update = update.unwrap_or(Update::of(s.id));
            updates.push(self.settle(s, update, why));
        }
        updates.sort_by_key(|u| u.id);
        self.report_step(began, size);
        updates
    }

    /// The last update of a sequence; its cache goes back or is kept.
    fn settle(&mut self, mut s: Sequence, mut update: Update, why: Finish) -> Update {
        s.conclude(&mut update, why);
        if s.keep {
            let len = s.cache.len();
            self.kv.truncate(&mut s.cache, len);
            s.tokens.truncate(len);
            self.kept.insert(s.id, (s.cache, s.tokens));
        } else {
            self.kv.release(s.cache);
        }
        update
    }

    /// Logs the step that began then, and shows it to whoever observes.
    fn report_step(&mut self, began: Option<Instant>, (rows, logit_rows): (usize, usize)) {
        let r = &mut self.exec.recorder;
        if r.detail() == Detail::Off {
            return;
        }
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

/// Rows of a step whose logits may be computed beside one for each sequence:
/// no more than some megabytes.
fn extra_logits(vocab: usize) -> usize {
    const BYTES: usize = 16 << 20;
    (BYTES / (4 * vocab.max(1))).clamp(8, 64)
}

/// What the next step computes of each running sequence: a row of those that
/// decode, and as much of the prompts as there is room for.
fn plan(running: &[Sequence], capacity: Capacity) -> Vec<Work> {
    let decoding = running.iter().filter(|s| s.pending().len() == 1).count();
    let mut rows_left = capacity.rows - decoding;
    // Each may come to its last row.
    let mut logits_left = capacity.logit_rows - running.len();
    let work = |s: &Sequence| {
        let pending = s.pending().len();
        let mut rows = pending;
        if pending > 1 {
            rows = pending.min(rows_left);
            if s.prompt_logprobs {
                rows = rows.min(logits_left + 1);
                logits_left -= rows.saturating_sub(1);
            }
            rows_left -= rows;
        }
        let complete = rows == pending;
        let logits = match s.prompt_logprobs && s.generated() == 0 {
            true => rows,
            false => usize::from(complete),
        };
        Work {
            rows,
            logits,
            complete,
        }
    };
    running.iter().map(work).collect()
}

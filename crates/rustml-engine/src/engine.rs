//! The loop: plan, forward, sample, settle.

use crate::sampler::Sampler;
use crate::sequence::{Finish, Request, RequestId, Sequence, Update};
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model};
use rustml_tokenizer::{Decode, Detokenizer, Tokenizer};
use rustml_trace::{Cost, Detail, LayerTimes, Op, Recorder, Step, StepTimes};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Positions of one sequence.
    pub context: usize,
    /// Positions of all sequences together.
    pub cache_positions: usize,
    /// Sequences that run at a time.
    pub sequences: usize,
    /// Rows of a step: prompts are computed in chunks of that size.
    pub rows: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// How closely steps are looked at.
    pub detail: Detail,
}

/// Is shown every step after it was taken.
pub type Observer = Arc<dyn Fn(&Step) + Send + Sync>;

/// Why a request is not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Nothing to continue.
    #[error("the prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    /// More than fits.
    #[error("the prompt is {prompt} tokens long, but the context holds {context}; shorten the prompt or raise --ctx-size")]
    PromptTooLong {
        /// Its tokens.
        prompt: usize,
        /// Positions of a sequence.
        context: usize,
    },
    /// A token the model has no embedding for.
    #[error("token {id} is outside the model's vocabulary of {vocab}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A setting out of range.
    #[error("{0}")]
    Sampling(String),
    /// More than the cache could ever hold.
    #[error("the prompt and the tokens to generate need {needed} positions, but the cache holds {cache}")]
    CacheTooSmall {
        /// Positions.
        needed: usize,
        /// Positions of the cache.
        cache: usize,
    },
}

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
            logit_rows: config.sequences,
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

    /// Accepts a request. With `resume`, the cache kept by that earlier
    /// request serves as far as both begin alike.
    ///
    /// # Errors
    /// If the request cannot be run; see [`Refusal`].
    pub fn submit(
        &mut self,
        request: Request,
        resume: Option<RequestId>,
    ) -> Result<RequestId, Refusal> {
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
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(Refusal::UnknownToken { id, vocab });
        }
        let needed = prompt + request.max_tokens.min(context - prompt);
        if needed > self.kv.positions() {
            let cache = self.kv.positions();
            return Err(Refusal::CacheTooSmall { needed, cache });
        }
        let cache = match resume.and_then(|id| self.kept.remove(&id)) {
            Some((mut cache, tokens)) => {
                let alike = tokens
                    .iter()
                    .zip(&request.prompt)
                    .take_while(|(a, b)| a == b);
                // The last token is computed again: its logits are wanted.
                let keep = alike.count().min(prompt - 1);
                self.kv.truncate(&mut cache, keep);
                cache
            }
            None => KvSequence::default(),
        };
        let mut sampler = Sampler::new(request.sampling);
        sampler.observe(&request.prompt);
        self.next_id += 1;
        self.waiting.push_back(Sequence {
            id: self.next_id,
            prompt_len: prompt,
            room: context - prompt,
            max_tokens: request.max_tokens,
            keep: request.keep,
            ignore_end: request.ignore_end,
            cached_prompt: cache.len(),
            cache,
            sampler,
            detokenizer: Some(Detokenizer::new(Decode {
                control: false,
                continues: request.continues,
            })),
            tokens: request.prompt,
            started: None,
            first_token: None,
            last_token: None,
        });
        Ok(self.next_id)
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
        Some(self.settle(sequence, None, String::new(), why))
    }

    /// Ends all requests now.
    pub fn cancel_all(&mut self, why: Finish) -> Vec<Update> {
        let all = self.running.iter().chain(&self.waiting);
        let ids: Vec<_> = all.map(|s| s.id).collect();
        ids.into_iter()
            .filter_map(|id| self.cancel(id, why))
            .collect()
    }

    /// Lets waiting requests in while there is room for all they may need.
    fn admit(&mut self) {
        while self.running.len() < self.config.sequences {
            let Some(s) = self.waiting.front_mut() else {
                return;
            };
            let needed = s.prompt_len + s.max_tokens.min(s.room) - s.cache.len();
            if !self.kv.reserve(&mut s.cache, needed) {
                // Caches kept for later stand back before work that waits.
                match self.kept.keys().min().copied() {
                    Some(oldest) => self.forget(oldest),
                    None => return,
                }
                continue;
            }
            s.started = Some(Instant::now());
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Runs one step of all running requests; what it brought for each.
    pub fn step(&mut self) -> Vec<Update> {
        let looks = self.exec.recorder.detail() > Detail::Off;
        let began = looks.then(Instant::now);
        self.admit();
        let mut updates = Vec::new();
        // Nothing is asked of these.
        while let Some(i) = self.running.iter().position(|s| s.max_tokens == 0) {
            let s = self.running.remove(i);
            updates.push(self.settle(s, None, String::new(), Finish::Length));
        }
        let (batch, samplers) = plan(&self.running, self.exec.capacity().rows);
        if batch.ids.is_empty() {
            return updates;
        }
        let rows: Vec<usize> = batch.spans.iter().map(|s| s.rows).collect();
        let size = (batch.ids.len(), batch.logit_rows.len());
        let clock = self.exec.recorder.clock();
        let logits = self.model.forward(&batch, &mut self.kv, &mut self.exec);
        let vocab = self.model.spec().vocab;
        let sampling = began.map(|_| clock());
        let mut picks = Vec::new();
        for (&i, logits) in samplers.iter().zip(logits.chunks_exact(vocab)) {
            picks.push((i, self.running[i].sampler.pick(logits)));
        }
        self.exec
            .recorder
            .record(Op::Sample, sampling, Cost::default());
        for (s, rows) in self.running.iter_mut().zip(rows) {
            s.cache.advance(rows);
        }
        // From the last, so that indices of those before stay true.
        for (i, id) in picks.into_iter().rev() {
            let update = self.settle_token(i, id);
            updates.push(update);
        }
        updates.sort_by_key(|u| u.id);
        self.report_step(began, size);
        updates
    }

    /// Gives running sequence `i` its next token.
    fn settle_token(&mut self, i: usize, id: u32) -> Update {
        let s = &mut self.running[i];
        let now = Instant::now();
        s.first_token.get_or_insert(now);
        if !s.ignore_end && self.tokenizer.end_tokens().contains(&id) {
            let s = self.running.remove(i);
            return self.settle(s, None, String::new(), Finish::Stop);
        }
        s.last_token = Some(now);
        s.tokens.push(id);
        s.sampler.observe(&[id]);
        let mut text = String::new();
        if let Some(d) = &mut s.detokenizer {
            d.push_to(&self.tokenizer, id, &mut text);
        }
        let generated = s.generated();
        let finish = if generated >= s.max_tokens {
            Some(Finish::Length)
        } else if generated >= s.room {
            Some(Finish::Context)
        } else {
            None
        };
        match finish {
            Some(why) => {
                let s = self.running.remove(i);
                self.settle(s, Some(id), text, why)
            }
            None => Update {
                id: s.id,
                token: Some(id),
                text,
                finish: None,
            },
        }
    }

    /// The last update of a sequence; its cache goes back or is kept.
    fn settle(
        &mut self,
        mut s: Sequence,
        token: Option<u32>,
        mut text: String,
        why: Finish,
    ) -> Update {
        let timings = s.timings();
        text.extend(s.detokenizer.take().and_then(Detokenizer::finish));
        if s.keep {
            let len = s.cache.len();
            self.kv.truncate(&mut s.cache, len);
            s.tokens.truncate(len);
            self.kept.insert(s.id, (s.cache, s.tokens));
        } else {
            self.kv.release(s.cache);
        }
        Update {
            id: s.id,
            token,
            text,
            finish: Some((why, timings)),
        }
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

/// What the next step computes: a row for every sequence that decodes, and
/// as much of the prompts as there is room for. The second part names the
/// sequences that get a token, in the order of the logits.
///
/// Every sequence has a span, though it may be empty.
fn plan(running: &[Sequence], capacity: usize) -> (Batch<'_>, Vec<usize>) {
    let decoding = running.iter().filter(|s| s.pending().len() == 1).count();
    let mut left = capacity - decoding.min(capacity);
    let (mut batch, mut samplers) = (Batch::default(), Vec::new());
    for (i, s) in running.iter().enumerate() {
        let pending = s.pending();
        let rows = match pending.len() {
            1 => 1,
            n => n.min(left),
        };
        if pending.len() > 1 {
            left -= rows;
        }
        let complete = rows == pending.len();
        batch.push(&s.cache, &pending[..rows], usize::from(complete));
        if complete {
            samplers.push(i);
        }
    }
    (batch, samplers)
}

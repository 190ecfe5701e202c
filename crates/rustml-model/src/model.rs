//! A loaded model and its forward pass.

use crate::arch::Arch;
use crate::batch::Batch;
use crate::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::kv::KvPool;
use crate::load::{load, LoadReport, Progress};
use crate::quantize::Quantize;
use crate::spec::Spec;
use crate::weights::Weights;
use rustml_io::Store;
use rustml_kernels::par::{Cache, SpanView, Team};
use rustml_kernels::{Matrix, Pool};
use rustml_simd::Isa;
use rustml_trace::Op;
use std::sync::Arc;

/// Weights in memory, ready to run.
pub struct Model {
    arch: &'static Arch,
    spec: Spec,
    weights: Weights,
    frequencies: Vec<Vec<f32>>,
    team: Arc<Team>,
    /// Whether prompts are computed apart.
    apart: bool,
    report: LoadReport,
}

/// Starts the compute threads, on the instruction set that `RUSTML_ISA` names
/// or the best this CPU has; with `RUSTML_PIN=1` each on a CPU of its own.
///
/// # Errors
/// If `RUSTML_ISA` names none of this CPU's, or `RUSTML_PIN` is neither 0 nor 1; if
/// the system refuses a thread, or to keep it on a CPU.
pub fn team(threads: usize) -> Result<Arc<Team>> {
    let isa = Isa::from_env().map_err(Error::Isa)?;
    let pin = std::env::var("RUSTML_PIN").unwrap_or_default();
    let pool = match &pin[..] {
        "" | "0" => Pool::new(threads),
        "1" => Pool::pinned(threads),
        _ => return Err(Error::Pin(pin)),
    };
    let pool = pool.map_err(Error::Threads)?;
    Ok(Arc::new(Team { isa, pool }))
}

impl Model {
    /// Loads an open model's weights.
    ///
    /// # Errors
    /// If the architecture is unknown, a setting or tensor is missing or
    /// wrong, or the memory cannot be had.
    pub fn load(
        store: &Store,
        quantize: Quantize,
        team: Arc<Team>,
        progress: Progress,
    ) -> Result<Model> {
        Model::load_with(store, quantize, &mut Calibration::default(), team, progress)
    }

    /// Loads an open model's weights; for [`Quantize::Auto`] with what was
    /// measured before.
    ///
    /// # Errors
    /// As for [`Model::load`].
    pub fn load_with(
        store: &Store,
        quantize: Quantize,
        calibration: &mut Calibration,
        team: Arc<Team>,
        progress: Progress,
    ) -> Result<Model> {
        let arch = Arch::of(store)?;
        let spec = arch.spec(store)?;
        let (weights, report) = load(store, arch, &spec, (quantize, calibration), &team, progress)?;
        let frequencies = spec.ropes.iter().map(|r| r.frequencies()).collect();
        Ok(Model {
            apart: team.prompts_apart() && !weights.are_precise(),
            arch,
            spec,
            weights,
            frequencies,
            team,
            report,
        })
    }

    /// The architecture's name in GGUF.
    pub fn arch(&self) -> &'static str {
        self.arch.gguf
    }
    /// The architecture as data.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
    /// What loading did.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }
    /// Threads and instruction set.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }
    /// Whether rows of prompts are computed in another arithmetic than others, if
    /// [`crate::Span::prompt`] says that they are such; see [`Team::prompts_apart`]. Not if all
    /// weights are in single or half precision. Whoever wants the same bits decides by a
    /// row's position alone.
    pub fn prompts_apart(&self) -> bool {
        self.apart
    }
    /// Whether they are, and cannot be in one step with others; see [`Team::passes_apart`].
    pub fn passes_apart(&self) -> bool {
        self.apart && self.team.passes_apart()
    }
    /// Frequencies of each rope.
    pub(crate) fn frequencies(&self) -> &[Vec<f32>] {
        &self.frequencies
    }

    /// Runs one step; returns the logits, `[batch.logit_rows, vocab]`.
    ///
    /// Keys and values of all rows are stored in the cache; the caller counts
    /// them with [`crate::KvSequence::advance`]. What a row's logits are does
    /// not depend, to the bit, on the other rows of the step, on how its text
    /// was cut into steps, or on the number of threads. Where prompts are
    /// computed apart ([`Model::prompts_apart`]), it depends on which rows of its
    /// text were in spans with [`crate::Span::prompt`]. Even then, what follows the keys and
    /// values of the last layer is computed as for any other row, so that the one row
    /// of a prompt whose logits are wanted needs nothing made for many.
    ///
    /// # Panics
    /// If the batch exceeds the capacity of `exec`, names a token outside the
    /// vocabulary or a position that the model has no vector for, has no room
    /// reserved in its caches, would store to a block that is shared, or names a
    /// cache twice or one of another pool;
    /// or if `kv` or `exec` was made for another model; if rows of prompts are beside
    /// others where they [cannot be](Model::passes_apart).
    pub fn forward<'e>(&self, batch: &Batch, kv: &mut KvPool, exec: &'e mut Exec) -> &'e [f32] {
        let rows = batch.ids.len();
        self.check(batch, kv, exec);
        if rows == 0 {
            return &[];
        }
        let mut row = 0;
        let spans: Vec<SpanView> = batch
            .spans
            .iter()
            .map(|s| {
                row += s.rows;
                SpanView {
                    row: row - s.rows,
                    rows: s.rows,
                    first: s.cache.len(),
                    blocks: s.cache.blocks(),
                    prompt: s.prompt && self.apart,
                }
            })
            .collect();
        exec.prompt = self.passes_apart() && batch.spans.iter().any(|s| s.prompt);
        exec.recorder.begin_step(self.spec.layers.len() * 18 + 4);
        exec.embed(self, &batch.ids, &spans);
        exec.rope_tables(self, &spans);
        for i in 0..self.spec.layers.len() {
            exec.recorder.set_layer(Some(i));
            self.layer(i, &spans, &batch.logit_rows, kv, exec);
        }
        exec.recorder.set_layer(None);
        if !batch.logit_rows.is_empty() {
            exec.head(self, batch.logit_rows.len());
        }
        &exec.buffers.logits[..batch.logit_rows.len() * self.spec.vocab]
    }

    /// Asserts what [`Model::forward`] demands.
    fn check(&self, batch: &Batch, kv: &KvPool, exec: &Exec) {
        let (rows, capacity) = (batch.ids.len(), exec.capacity());
        assert!(
            rows <= capacity.rows && batch.logit_rows.len() <= capacity.logit_rows,
            "a step of {rows} rows with {} logits is more than {capacity:?}",
            batch.logit_rows.len()
        );
        let vocab = self.spec.vocab;
        let unknown = batch.ids.iter().find(|&&id| id as usize >= vocab);
        assert_eq!(unknown, None, "a token outside the vocabulary of {vocab}");
        let ascend = batch.logit_rows.is_sorted_by(|a, b| a < b);
        let last = batch.logit_rows.last();
        assert!(
            ascend && last.is_none_or(|&r| r < rows),
            "rows whose logits are wanted must ascend, and be there"
        );
        let covered: usize = batch.spans.iter().map(|s| s.rows).sum();
        assert_eq!(covered, rows, "the spans must cover the rows");
        let kinds = batch.spans.iter().map(|s| s.prompt);
        assert!(
            !self.passes_apart() || kinds.clone().all(|k| k) || !kinds.into_iter().any(|k| k),
            "rows of prompts beside others"
        );
        let positions = self.weights.positions.as_ref().map(Matrix::rows);
        for (i, s) in batch.spans.iter().enumerate() {
            kv.check_owner(s.cache);
            let (first, room) = (s.cache.len(), s.cache.room());
            assert!(
                s.rows <= room,
                "{} rows in a cache that has room for {room}",
                s.rows
            );
            kv.check_writable(s.cache, s.rows);
            assert!(
                s.rows == 0 || positions.is_none_or(|n| first + s.rows <= n),
                "a position beyond the {} that the model has vectors for",
                self.spec.context
            );
            let mut others = batch.spans[..i].iter();
            assert!(
                !others.any(|o| std::ptr::eq(o.cache, s.cache)),
                "a cache twice in one step"
            );
        }
    }

    /// One layer of all rows; of the last one, what comes after its keys and
    /// values are stored, only for the rows whose logits are wanted, and not as
    /// a prompt's. These then are the first of the stream.
    fn layer(
        &self,
        i: usize,
        spans: &[SpanView],
        wanted: &[usize],
        kv: &mut KvPool,
        exec: &mut Exec,
    ) {
        let (l, w) = (&self.spec.layers[i], &self.weights.layers[i]);
        let rows: usize = spans.iter().map(|s| s.rows).sum();
        let inputs = [&w.query.weights, &w.key.weights, &w.value.weights];
        exec.norm(Op::AttnNorm, &l.norm, &w.attn_norm, rows, &inputs);
        exec.qkv(w, rows);
        let cache = kv.layer(i);
        exec.position(&l.attention, w, &cache, spans, rows);
        let last = i + 1 == self.spec.layers.len();
        if last {
            exec.prompt = false;
        }
        if last && wanted.len() < rows {
            if wanted.is_empty() {
                return;
            }
            exec.select(&l.attention, self.spec.hidden, wanted);
            self.attend(i, &alone(spans, wanted), &cache, exec);
        } else if last {
            let mut spans = spans.to_vec();
            spans.iter_mut().for_each(|s| s.prompt = false);
            self.attend(i, &spans, &cache, exec);
        } else {
            self.attend(i, spans, &cache, exec);
        }
    }

    /// A layer from attention on.
    fn attend(&self, i: usize, spans: &[SpanView], cache: &Cache, exec: &mut Exec) {
        let (l, w) = (&self.spec.layers[i], &self.weights.layers[i]);
        let rows = spans.iter().map(|s| s.rows).sum();
        exec.attend(&l.attention, cache, spans, rows);
        exec.attn_out(w, rows);
        if let Some(post) = &w.attn_post_norm {
            exec.post_norm(Op::AttnPostNorm, &l.norm, post, rows);
        }
        let gate = w.gate.as_ref().map_or(&w.up, |g| g);
        let inputs: [&Matrix; 2] = [&gate.weights, &w.up.weights];
        exec.norm(Op::FfnNorm, &l.norm, &w.ffn_norm, rows, &inputs);
        let activation = l.feed_forward.activation;
        match self.weights.layers.get(i + 1) {
            Some(n) => {
                let next = [&n.query.weights, &n.key.weights, &n.value.weights];
                exec.feed_forward(activation, w, rows, &next)
            }
            None => exec.feed_forward(activation, w, rows, &[self.weights.head()]),
        }
        if let Some(post) = &w.ffn_post_norm {
            exec.post_norm(Op::FfnPostNorm, &l.norm, post, rows);
        }
    }
}

/// The given rows of some spans, each a span of its own, one after the other.
fn alone<'a>(spans: &[SpanView<'a>], rows: &[usize]) -> Vec<SpanView<'a>> {
    let one = |(to, &row): (usize, &usize)| {
        let span = spans.iter().rfind(|s| s.row <= row && s.rows > 0);
        let span = span.expect("rows of the step are in a span");
        SpanView {
            row: to,
            rows: 1,
            first: span.first + row - span.row,
            blocks: span.blocks,
            prompt: false,
        }
    };
    rows.iter().enumerate().map(one).collect()
}

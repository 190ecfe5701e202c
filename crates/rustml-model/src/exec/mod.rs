//! The state of a step: threads, named buffers, and the clock.
//!
//! Every operation of the forward pass is a method here, and only these read
//! the clock. Buffers are allocated once, for the largest step.

mod buffers;
mod cost;

use crate::model::Model;
use crate::spec::{Activation, Attention, Norm};
use crate::weights::{LayerWeights, Linear, NormWeights};
use buffers::Buffers;
use rustml_kernels::attention::AttentionShape;
use rustml_kernels::ops;
use rustml_kernels::par::{self, Cache, Output, Positioning, SpanView, Team};
use rustml_kernels::{Acts, Forms, Matrix};
use rustml_trace::{Cost, Detail, Op, Recorder, Threads};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

/// How large steps may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Rows of a step.
    pub rows: usize,
    /// Rows of a step whose logits are computed.
    pub logit_rows: usize,
}

/// Threads, buffers and recorder for steps of one model.
pub struct Exec {
    team: Arc<Team>,
    capacity: Capacity,
    pub(crate) buffers: Buffers,
    /// Whether products of the rows at hand are computed as those of prompts.
    pub(crate) prompt: bool,
    /// Where the time goes.
    pub recorder: Recorder,
}

fn norm<'a>(n: &Norm, w: &'a NormWeights) -> par::Norm<'a> {
    par::Norm {
        kind: n.kind,
        weight: &w.weight,
        bias: &w.bias,
        eps: n.eps,
    }
}

/// A team that is asked what its threads did.
struct Watched(Arc<Team>);

impl Threads for Watched {
    fn clock(&self) -> fn() -> u64 {
        rustml_kernels::ticks
    }

    fn waited(&mut self) -> u64 {
        self.0.pool.take_waited()
    }

    fn turns(&mut self, take: &mut dyn FnMut(usize, u64, u64)) {
        self.0.pool.drain_turns(take);
    }
}

impl Exec {
    /// Buffers for steps of `model` of up to `capacity`.
    pub fn new(model: &Model, capacity: Capacity, mut recorder: Recorder) -> Exec {
        let team = model.team().clone();
        let looks = recorder.detail() > Detail::Off;
        team.pool.watch(looks);
        if looks {
            recorder.set_threads(Box::new(Watched(team.clone())));
        }
        Exec {
            team,
            buffers: Buffers::new(model, capacity),
            capacity,
            prompt: false,
            recorder,
        }
    }

    /// How large steps may be.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The forms of activations that these read.
    fn forms_for(&self, linears: &[&Matrix]) -> Forms {
        let all = linears.iter().map(|m| match self.prompt {
            true => m.prompt_forms(),
            false => m.forms(),
        });
        all.fold(Forms::default(), Forms::union)
    }

    /// `x[row] = embedding[id] * scale (+ positions[position])`
    pub(crate) fn embed(&mut self, model: &Model, ids: &[u32], spans: &[SpanView]) {
        let start = self.recorder.start();
        let (spec, weights) = (model.spec(), model.weights());
        let hidden = spec.hidden;
        let (isa, scale) = (self.team.isa, spec.embedding.scale);
        let (x, extra) = (&mut self.buffers.x, &mut self.buffers.scratch);
        for span in spans {
            for row in span.row..span.row + span.rows {
                let x = &mut x[row * hidden..][..hidden];
                weights.embedding.decode_row(ids[row] as usize, x);
                if scale != 1.0 {
                    ops::scale(isa, x, scale);
                }
                if let Some(positions) = &weights.positions {
                    let extra = &mut extra[..hidden];
                    positions.decode_row(span.first + row - span.row, extra);
                    ops::add(isa, x, extra);
                }
            }
        }
        let tables = [Some(&weights.embedding), weights.positions.as_ref()];
        let costs = tables.into_iter().flatten();
        let cost = cost::total(costs.map(|m| cost::look_up(ids.len(), m)));
        self.recorder.record(Op::Embed, start, cost);
    }

    /// Cosines and sines of all rows for every rope.
    pub(crate) fn rope_tables(&mut self, model: &Model, spans: &[SpanView]) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        for (i, frequencies) in model.frequencies().iter().enumerate() {
            let pairs = frequencies.len();
            for span in spans {
                for r in 0..span.rows {
                    let position = (span.first + r) as f32;
                    let at = (span.row + r) * pairs;
                    for (j, f) in frequencies.iter().enumerate() {
                        let (sin, cos) = (position * f).sin_cos();
                        (b.sin[i][at + j], b.cos[i][at + j]) = (sin, cos);
                    }
                }
            }
        }
        self.recorder.record(Op::RopeTable, start, Cost::default());
    }

    /// Normalises the stream and prepares it for `linears`.
    pub(crate) fn norm(
        &mut self,
        op: Op,
        n: &Norm,
        w: &NormWeights,
        rows: usize,
        linears: &[&Matrix],
    ) {
        let start = self.recorder.start();
        let forms = self.forms_for(linears);
        let (b, len) = (&mut self.buffers, rows * w.weight.len());
        let (x, scratch) = (&b.x[..len], &mut b.scratch);
        par::norm_rows(&self.team, norm(n, w), x, scratch, &mut b.acts, forms);
        self.recorder.record(op, start, cost::norm(w));
    }

    /// Queries, keys and values of the prepared rows.
    pub(crate) fn qkv(&mut self, w: &LayerWeights, rows: usize) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let output = |l: &'_ Linear| rows * l.weights.rows();
        let mut outputs = [
            output_of(&w.query, &mut b.q[..output(&w.query)]),
            output_of(&w.key, &mut b.k[..output(&w.key)]),
            output_of(&w.value, &mut b.v[..output(&w.value)]),
        ];
        let ops = [Op::Query, Op::Key, Op::Value];
        expect(&self.team, rows, &[&w.attn_out.weights]);
        products(
            &self.team,
            &mut self.recorder,
            Op::Qkv,
            &ops,
            &b.acts,
            &mut outputs,
            start,
        );
    }

    /// Norms and rotations of queries and keys; keys and values are cached.
    pub(crate) fn position(
        &mut self,
        a: &Attention,
        w: &LayerWeights,
        cache: &Cache,
        spans: &[SpanView],
        rows: usize,
    ) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let (q, kv) = (rows * a.heads * a.head_dim, rows * a.kv_heads * a.head_dim);
        let qk_norm = match (&a.qk_norm, &w.query_norm, &w.key_norm) {
            (Some(n), Some(q), Some(k)) => Some((norm(n, q), norm(n, k))),
            _ => None,
        };
        let rope = a.rope.map(|r| {
            let pairs = b.cos[r].len() / self.capacity.rows;
            (&b.cos[r][..rows * pairs], &b.sin[r][..rows * pairs])
        });
        let times = <[AtomicU64; 3]>::default();
        let timing = self.recorder.wants_parts().then_some(&times[..]);
        let how = Positioning { qk_norm, rope };
        let (q, k, v) = (&mut b.q[..q], &mut b.k[..kv], &b.v[..kv]);
        par::position_rows(&self.team, cache, spans, &how, a.heads, q, k, v, timing);
        let norms = [&w.query_norm, &w.key_norm].into_iter().flatten();
        let norms = cost::total(norms.map(cost::norm));
        let stored = cost::store(rows, cache);
        if self.recorder.wants_parts() {
            let [norm, rope, store] = times.map(AtomicU64::into_inner);
            // Where there is neither norm nor rotation, the clock was read
            // between all the same.
            let parts = [
                w.query_norm.is_some().then_some((Op::QkNorm, norm, norms)),
                a.rope.map(|_| (Op::Rope, rope, Cost::default())),
                Some((Op::KvStore, store, stored)),
            ];
            let parts: Vec<_> = parts.into_iter().flatten().collect();
            self.recorder.record_parts(&parts, start);
        } else {
            let cost = cost::total([norms, stored]);
            self.recorder.record(Op::Position, start, cost);
        }
    }

    /// Attention of all rows.
    pub(crate) fn attend(&mut self, a: &Attention, cache: &Cache, spans: &[SpanView], rows: usize) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let shape = AttentionShape {
            heads: a.heads,
            scale: a.scale,
            soft_cap: a.soft_cap,
            window: a.window,
            causal: true,
        };
        let len = rows * a.heads * a.head_dim;
        let times = <[AtomicU64; 3]>::default();
        let timed = self.recorder.wants_parts().then_some(&times[..]);
        let (q, out) = (&b.q[..len], &mut b.mixed[..len]);
        par::attend_rows(&self.team, &shape, cache, spans, q, out, timed);
        if start.is_none() {
            return;
        }
        let half = cost::half_of_attention(a, cache, spans);
        if self.recorder.wants_parts() {
            let [scores, softmax, values] = times.map(AtomicU64::into_inner);
            let parts = [
                (Op::Scores, scores, half),
                (Op::Softmax, softmax, Cost::default()),
                (Op::Values, values, half),
            ];
            self.recorder.record_parts(&parts, start);
        } else {
            self.recorder
                .record(Op::Attend, start, cost::total([half, half]));
        }
    }

    /// The output projection of attention: added to the stream, or to `y`
    /// where a norm comes before that.
    pub(crate) fn attn_out(&mut self, w: &LayerWeights, rows: usize) {
        let start = self.recorder.start();
        let (l, post) = (&w.attn_out, w.attn_post_norm.is_some());
        let (cols, forms) = (l.weights.cols(), self.forms_for(&[&l.weights]));
        let b = &mut self.buffers;
        par::prepare_rows(
            &self.team,
            &b.mixed[..rows * cols],
            cols,
            &mut b.acts,
            forms,
        );
        match &w.gate {
            Some(gate) => expect(&self.team, rows, &[&gate.weights, &w.up.weights]),
            None => expect(&self.team, rows, &[&w.up.weights]),
        }
        self.add_product(Op::AttnOut, l, rows, post, start);
    }

    /// `x += product`, or `y = product` where a norm follows.
    fn add_product(&mut self, op: Op, l: &Linear, rows: usize, post: bool, start: Option<u64>) {
        let (b, len) = (&mut self.buffers, rows * l.weights.rows());
        let out = if post {
            &mut b.y[..len]
        } else {
            &mut b.x[..len]
        };
        let mut output = output_of(l, out);
        output.accumulate = !post;
        let acts = match op {
            Op::Down => &b.inner,
            _ => &b.acts,
        };
        products(
            &self.team,
            &mut self.recorder,
            op,
            &[op],
            acts,
            &mut [output],
            start,
        );
    }

    /// `x += norm(y)`
    pub(crate) fn post_norm(&mut self, op: Op, n: &Norm, w: &NormWeights, rows: usize) {
        let start = self.recorder.start();
        let (b, len) = (&mut self.buffers, rows * w.weight.len());
        let (y, scratch, x) = (&b.y[..len], &mut b.scratch, &mut b.x[..len]);
        par::norm_add_rows(&self.team, norm(n, w), y, scratch, x);
        self.recorder.record(op, start, cost::norm(w));
    }

    /// The feed-forward of the prepared rows, added to the stream or put in `y`.
    /// Weights read by the `next` product are asked for at its end.
    pub(crate) fn feed_forward(
        &mut self,
        f: Activation,
        w: &LayerWeights,
        rows: usize,
        next: &[&Matrix],
    ) {
        let start = self.recorder.start();
        let forms = self.forms_for(&[&w.down.weights]);
        expect(&self.team, rows, &[&w.down.weights]);
        let linears = inner_of(w);
        let inner = par::Inner {
            activation: f,
            linears: &linears,
        };
        let times = <[AtomicU64; 3]>::default();
        let timing = self.recorder.wants_parts().then_some(&times[..]);
        let b = &mut self.buffers;
        let (team, scratch) = (&self.team, &mut b.scratch);
        par::inner_rows(team, &inner, &b.acts, scratch, &mut b.inner, forms, timing);
        let costs = linears
            .iter()
            .map(|(w, bias)| cost::product(&b.acts, w, *bias));
        let whole = match linears.len() {
            2 => &[Op::GateUp, Op::Gate, Op::Up, Op::Activate][..],
            _ => &[Op::Up, Op::Up, Op::Activate],
        };
        if timing.is_some() {
            let costs = costs.chain([Cost::default()]);
            let times = times.into_iter().map(AtomicU64::into_inner);
            let parts = whole[1..].iter().zip(times).zip(costs);
            let parts: Vec<_> = parts.map(|((&op, time), cost)| (op, time, cost)).collect();
            self.recorder.record_parts(&parts, start);
        } else {
            self.recorder.record(whole[0], start, cost::total(costs));
        }
        let start = self.recorder.start();
        expect(&self.team, rows, next);
        self.add_product(Op::Down, &w.down, rows, w.ffn_post_norm.is_some(), start);
    }

    /// Moves the wanted rows of the stream and of the queries to the front;
    /// they ascend, so none is overwritten.
    pub(crate) fn select(&mut self, a: &Attention, hidden: usize, wanted: &[usize]) {
        let b = &mut self.buffers;
        for (x, cols) in [(&mut b.x, hidden), (&mut b.q, a.heads * a.head_dim)] {
            for (to, &from) in wanted.iter().enumerate() {
                x.copy_within(from * cols..(from + 1) * cols, to * cols);
            }
        }
    }

    /// Logits of the first `rows` rows of the stream.
    pub(crate) fn head(&mut self, model: &Model, rows: usize) {
        let (spec, vocab) = (model.spec(), model.spec().vocab);
        let weights = model.weights();
        self.norm(
            Op::FinalNorm,
            &spec.final_norm,
            &weights.final_norm,
            rows,
            &[weights.head()],
        );
        let start = self.recorder.start();
        let first = weights.layers.first().map(|l| [&l.query, &l.key, &l.value]);
        let first = first.map(|linears| linears.map(|l| &l.weights));
        expect(&self.team, rows, first.as_ref().map_or(&[], |f| &f[..]));
        let b = &mut self.buffers;
        let logits = &mut b.logits[..rows * vocab];
        let bias = weights.head.as_ref().and_then(|h| h.bias.as_deref());
        let mut outputs = [Output {
            weights: weights.head(),
            bias,
            accumulate: false,
            out: logits,
        }];
        par::matmul(&self.team, &b.acts, &mut outputs, None);
        if let Some(cap) = spec.head.soft_cap {
            let isa = self.team.isa;
            par::map_rows(&self.team, logits, vocab, &|_, x| {
                ops::soft_cap(isa, x, cap)
            });
        }
        let cost = cost::product(&b.acts, weights.head(), bias);
        self.recorder.record(Op::Head, start, cost);
    }
}

/// Rows up to which reading the weights takes longer than computing with them.
const FEW_ROWS: usize = 4;

/// Says which weights are read after the product that is run next, if that is
/// worth the words.
fn expect(team: &Team, rows: usize, weights: &[&Matrix]) {
    let worth = rows <= FEW_ROWS;
    par::expect(team, if worth { weights } else { &[] });
}

/// The layers of the inner part of a feed-forward: gate and up, or up alone.
fn inner_of(w: &LayerWeights) -> Vec<par::Linear<'_>> {
    let linears = w.gate.iter().chain([&w.up]);
    linears.map(|l| (&l.weights, l.bias.as_deref())).collect()
}

fn output_of<'a>(l: &'a Linear, out: &'a mut [f32]) -> Output<'a> {
    Output {
        weights: &l.weights,
        bias: l.bias.as_deref(),
        accumulate: false,
        out,
    }
}

/// Products in one region, recorded together or each for itself.
fn products(
    team: &Team,
    recorder: &mut Recorder,
    whole: Op,
    parts: &[Op],
    acts: &Acts,
    outputs: &mut [Output],
    start: Option<u64>,
) {
    let times = <[AtomicU64; 4]>::default();
    let wants_parts = recorder.wants_parts() && parts.len() > 1;
    par::matmul(team, acts, outputs, wants_parts.then_some(&times[..]));
    if start.is_none() {
        return;
    }
    let cost = |o: &Output| cost::product(acts, o.weights, o.bias);
    if wants_parts {
        let times = times.into_iter().map(AtomicU64::into_inner);
        let zipped = parts.iter().zip(times).zip(outputs.iter());
        let parts: Vec<_> = zipped.map(|((&op, t), o)| (op, t, cost(o))).collect();
        recorder.record_parts(&parts, start);
    } else {
        recorder.record(whole, start, cost::total(outputs.iter().map(cost)));
    }
}

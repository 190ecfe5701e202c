//! The state of a step: threads, named buffers, and the clock.
//!
//! Every operation of the forward pass is a method here, and only these read
//! the clock. Buffers are allocated once, for the largest step.

mod altup;
mod attention;
mod buffers;
mod cost;
mod experts;
mod latent;
mod per_layer;
mod recurrent;
mod shared;

use crate::forward::Rows;
use crate::model::Model;
use crate::spec::{self, Activation, Attention, Norm};
use crate::weights::{FeedForwardWeights, Linear, NormWeights};
use buffers::Buffers;
use rustml_kernels::ops;
use rustml_kernels::par::{self, Output, SpanView, Team};
use rustml_kernels::{Acts, Forms, Matrix, Phase};
use rustml_trace::{Cost, Detail, Op, Recorder, Threads};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Width of the stream.
    hidden: usize,
    pub(crate) buffers: Buffers,
    /// Where the time goes.
    pub recorder: Recorder,
    /// Blocks of layers that were begun.
    begun: Arc<AtomicU64>,
    /// Whether values are looked at, and where one was no finite number.
    finite: Option<Option<(usize, &'static str)>>,
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
            hidden: model.spec().hidden,
            recorder,
            begun: Arc::default(),
            finite: None,
        }
    }

    /// Looks at the stream after every block from now on.
    pub(crate) fn watch_finite(&mut self) {
        self.finite = Some(None);
    }

    /// The first layer, and its part, after which a value was no finite number.
    pub(crate) fn not_finite(&self) -> Option<(usize, &'static str)> {
        self.finite.flatten()
    }

    /// Looks at the stream, if that is asked for.
    pub(crate) fn look_at(&mut self, layer: usize, part: &spec::Part, rows: usize) {
        if self.finite != Some(None) {
            return;
        }
        let x = &self.buffers.x[..rows * self.hidden];
        if x.iter().any(|x| !x.is_finite()) {
            let part = match part {
                spec::Part::Attention(_) => "attention",
                spec::Part::FeedForward(_) => "feed-forward",
                spec::Part::Experts(_) => "experts",
                spec::Part::Recurrent(_) => "state",
                spec::Part::ReadsPerLayer(_) => "vectors of the layer",
                spec::Part::Predict(_) | spec::Part::Correct(_) => "streams",
                spec::Part::Laurel(_) => "what is beside attention",
                spec::Part::Times(_) => "factor",
                spec::Part::Factor => "layer's factor",
                spec::Part::Parallel(_) => "attention and feed-forward",
            };
            self.finite = Some(Some((layer, part)));
        }
    }

    /// Counts the blocks of layers that were begun. Another thread sees by it
    /// whether a step goes on, however long it takes.
    pub fn progress(&self) -> Arc<AtomicU64> {
        self.begun.clone()
    }

    /// A block of a layer begins.
    pub(crate) fn begin_block(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// How large steps may be.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// `x[row] = embedding[id] * scale (+ positions[position]) (+ types[type])`
    pub(crate) fn embed(
        &mut self,
        model: &Model,
        (ids, types): (&[u32], &[usize]),
        spans: &[SpanView],
    ) {
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
                    let first = span.first + spec.embedding.first_position;
                    positions.decode_row(first + row - span.row, extra);
                    ops::add(isa, x, extra);
                }
                if !weights.types.is_empty() {
                    ops::add(isa, x, &weights.types[types[row] * hidden..][..hidden]);
                }
            }
        }
        if let (Some(n), Some(w)) = (&spec.embedding.norm, &weights.embedding_norm) {
            let len = ids.len() * hidden;
            let (x, y) = (&mut self.buffers.x[..len], &mut self.buffers.y[..len]);
            par::norm_to_rows(&self.team, norm(n, w), x, y);
            x.copy_from_slice(y);
        }
        let tables = [Some(&weights.embedding), weights.positions.as_ref()];
        let costs = tables.into_iter().flatten();
        let cost = cost::total(costs.map(|m| cost::look_up(ids.len(), m)));
        self.recorder.record(Op::Embed, start, cost);
    }

    /// Cosines and sines of all rows for every rope. `lengths` are those of the
    /// texts that the spans are of.
    pub(crate) fn rope_tables(&mut self, model: &Model, spans: &[SpanView], lengths: &[usize]) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        for (i, rope) in model.spec().ropes.iter().enumerate() {
            let usual = &model.frequencies()[i];
            let (pairs, amplitude) = (usual.len(), rope.amplitude());
            for (span, length) in spans.iter().zip(lengths) {
                let stretched;
                let frequencies = match rope.since(*length) {
                    0 => usual,
                    length => {
                        stretched = rope.frequencies_at(length);
                        &stretched
                    }
                };
                for r in 0..span.rows {
                    let position = (span.first + r) as f32;
                    let at = (span.row + r) * pairs;
                    for (j, f) in frequencies.iter().enumerate() {
                        let (sin, cos) = (position * f).sin_cos();
                        b.sin[i][at + j] = amplitude * sin;
                        b.cos[i][at + j] = amplitude * cos;
                    }
                }
            }
        }
        self.recorder.record(Op::RopeTable, start, Cost::default());
    }

    /// Prepares the stream, normalised where `before` says so, for `linears`.
    pub(crate) fn prepare(
        &mut self,
        op: Op,
        before: (Option<Norm>, Option<&NormWeights>),
        rows: &Rows,
        linears: &[&Matrix],
    ) {
        let start = self.recorder.start();
        let forms = forms_for(rows.phase, linears);
        let cols = linears[0].cols();
        let (b, len) = (&mut self.buffers, rows.count * cols);
        let (x, scratch) = (&b.x[..len], &mut b.scratch);
        match before {
            (Some(n), Some(w)) => {
                par::norm_rows(&self.team, norm(&n, w), x, scratch, &mut b.acts, forms);
                self.recorder.record(op, start, cost::norm(w));
            }
            _ => {
                par::prepare_rows(&self.team, x, cols, &mut b.acts, forms);
                self.recorder.record(op, start, Cost::default());
            }
        }
    }

    /// A part's last product.
    fn product_to(&mut self, op: Op, l: &Linear, rows: usize, target: Target, start: Option<u64>) {
        let (b, len) = (&mut self.buffers, rows * l.weights.rows());
        let (out, accumulate) = match target {
            Target::Stream => (&mut b.x, true),
            Target::Part { accumulate } => (&mut b.y, accumulate),
            Target::Sum { accumulate } => (&mut b.sum, accumulate),
            Target::Shared => (&mut b.shared, false),
        };
        let mut output = output_of(l, &mut out[..len]);
        output.accumulate = accumulate;
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

    /// Adds a part's result, normalised and scaled, to the stream or to the sum.
    pub(crate) fn add(
        &mut self,
        op: Op,
        after: (Option<Norm>, Option<&NormWeights>),
        factor: f32,
        to: Target,
        rows: usize,
    ) {
        let b = &mut self.buffers;
        let (y, x, accumulate) = match to {
            Target::Sum { accumulate } => (&b.y, &mut b.sum, accumulate),
            _ => (&b.y, &mut b.x, true),
        };
        let start = self.recorder.start();
        let (team, hidden) = (&self.team, self.hidden);
        let (y, x) = (&y[..rows * hidden], &mut x[..rows * hidden]);
        let cost = after.1.map_or(Cost::default(), cost::norm);
        let after = both(after);
        par::add_rows(
            team,
            after,
            factor,
            y,
            hidden,
            &mut b.scratch,
            x,
            accumulate,
        );
        self.recorder.record(op, start, cost);
    }

    /// Adds the sum of parallel blocks, normalised and scaled, to the stream.
    pub(crate) fn add_sum(
        &mut self,
        after: (Option<Norm>, Option<&NormWeights>),
        factor: f32,
        rows: usize,
    ) {
        let start = self.recorder.start();
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let (y, x) = (&b.sum[..rows * hidden], &mut b.x[..rows * hidden]);
        let cost = after.1.map_or(Cost::default(), cost::norm);
        let after = both(after);
        par::add_rows(team, after, factor, y, hidden, &mut b.scratch, x, true);
        self.recorder.record(Op::FfnPostNorm, start, cost);
    }

    /// `x = norm(x)`: the norm of a sum that was just added.
    pub(crate) fn norm_stream(&mut self, op: Op, n: &Norm, w: &NormWeights, rows: usize) {
        let start = self.recorder.start();
        let len = rows * w.weight.len();
        let b = &mut self.buffers;
        par::norm_to_rows(&self.team, norm(n, w), &b.x[..len], &mut b.y[..len]);
        b.x[..len].copy_from_slice(&b.y[..len]);
        self.recorder.record(op, start, cost::norm(w));
    }

    /// The feed-forward of the prepared rows. Weights read by the `next` product are
    /// prefetched at its end.
    pub(crate) fn feed_forward(
        &mut self,
        f: Activation,
        w: &FeedForwardWeights,
        rows: &Rows,
        target: Target,
        next: &[&Matrix],
    ) {
        let start = self.recorder.start();
        let forms = forms_for(rows.phase, &[&w.down.weights]);
        expect(&self.team, rows.count, &[&w.down.weights]);
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
        expect(&self.team, rows.count, next);
        self.product_to(Op::Down, &w.down, rows.count, target, start);
    }

    /// Moves the wanted rows of the stream and of the queries to the front.
    pub(crate) fn select(&mut self, a: &Attention, hidden: usize, wanted: &[usize]) {
        let b = &mut self.buffers;
        to_front(&mut b.x, hidden, wanted);
        to_front(&mut b.q, a.heads * a.head_dim, wanted);
        b.per_layer.keep(wanted);
        b.altup.keep(wanted);
        if let Some(g) = a.gate {
            let each = if g.per_head { 1 } else { a.head_dim };
            to_front(&mut b.gate, a.heads * each, wanted);
        }
    }

    /// Moves the wanted rows of the stream to the front.
    pub(crate) fn keep(&mut self, wanted: &[usize]) {
        to_front(&mut self.buffers.x, self.hidden, wanted);
        self.buffers.per_layer.keep(wanted);
        self.buffers.altup.keep(wanted);
    }

    /// Logits of the rows of the stream for which `wanted` is true, from row
    /// `first_logits` of the logits on; hidden states of the others, likewise.
    pub(crate) fn head(
        &mut self,
        model: &Model,
        wanted: &[bool],
        first_logits: usize,
        first_hidden: usize,
    ) {
        let (spec, weights) = (model.spec(), model.weights());
        let (hidden, vocab) = (spec.hidden, spec.vocab);
        let states = wanted.iter().enumerate().filter(|(_, logits)| !**logits);
        for (i, (row, _)) in states.enumerate() {
            let b = &mut self.buffers;
            let x = &b.x[row * hidden..][..hidden];
            let out = &mut b.hidden[(first_hidden + i) * hidden..][..hidden];
            match (&spec.final_norm, &weights.final_norm) {
                (Some(n), Some(w)) => par::norm_to_rows(&self.team, norm(n, w), x, out),
                _ => out.copy_from_slice(x),
            }
        }
        let logit_rows = wanted.iter().enumerate().filter(|(_, logits)| **logits);
        let logit_rows: Vec<usize> = logit_rows.map(|(row, _)| row).collect();
        let rows = logit_rows.len();
        if rows == 0 {
            return;
        }
        let (Some(head), Some(matrix)) = (spec.head, weights.head()) else {
            panic!("logits of a model without a head");
        };
        to_front(&mut self.buffers.x, hidden, &logit_rows);
        let start = self.recorder.start();
        let forms = forms_for(Phase::Decode, &[matrix]);
        let b = &mut self.buffers;
        let (x, scratch) = (&b.x[..rows * hidden], &mut b.scratch);
        let acts = &mut b.acts;
        let cost = match (&spec.final_norm, &weights.final_norm) {
            (Some(n), Some(w)) => {
                par::norm_rows(&self.team, norm(n, w), x, scratch, acts, forms);
                cost::norm(w)
            }
            _ => {
                par::prepare_rows(&self.team, x, hidden, acts, forms);
                Cost::default()
            }
        };
        self.recorder.record(Op::FinalNorm, start, cost);

        let start = self.recorder.start();
        expect(&self.team, rows, &weights.inputs_of(0, 0));
        let b = &mut self.buffers;
        let logits = &mut b.logits[first_logits * vocab..][..rows * vocab];
        let bias = weights.head.as_ref().and_then(|h| h.bias.as_deref());
        let mut outputs = [Output {
            weights: matrix,
            bias,
            accumulate: false,
            out: logits,
        }];
        par::matmul(&self.team, &b.acts, &mut outputs, None);
        let isa = self.team.isa;
        if head.scale != 1.0 || head.soft_cap.is_some() {
            par::map_rows(&self.team, logits, vocab, &|_, x| {
                if head.scale != 1.0 {
                    ops::scale(isa, x, head.scale);
                }
                if let Some(cap) = head.soft_cap {
                    ops::soft_cap(isa, x, cap);
                }
            });
        }
        let cost = cost::product(&b.acts, matrix, bias);
        self.recorder.record(Op::Head, start, cost);
    }
}

/// Where the result of a part goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Added to the stream.
    Stream,
    /// To a buffer, since a norm or a factor comes before it is added.
    Part {
        /// Whether something is in it.
        accumulate: bool,
    },
    /// To the sum of parallel blocks.
    Sum {
        /// Whether something is in it.
        accumulate: bool,
    },
    /// To a buffer of its own, as a factor for each row comes before it is added.
    Shared,
}

impl Target {
    /// The same, with something in it.
    pub fn more(self) -> Target {
        match self {
            Target::Part { .. } => Target::Part { accumulate: true },
            Target::Sum { .. } => Target::Sum { accumulate: true },
            other => other,
        }
    }
}

/// Moves some rows to the front; they ascend, so none is overwritten.
fn to_front(x: &mut [f32], cols: usize, rows: &[usize]) {
    for (to, &from) in rows.iter().enumerate().filter(|(to, from)| to != *from) {
        x.copy_within(from * cols..(from + 1) * cols, to * cols);
    }
}

/// The forms of activations that these read.
fn forms_for(phase: Phase, linears: &[&Matrix]) -> Forms {
    let all = linears.iter().map(|m| match phase {
        Phase::Prefill => m.prefill_forms(),
        Phase::Decode => m.forms(),
    });
    all.fold(Forms::default(), Forms::union)
}

/// A norm that is there.
fn both<'a>((n, w): (Option<Norm>, Option<&'a NormWeights>)) -> Option<par::Norm<'a>> {
    Some(norm(&n?, w?))
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
fn inner_of(w: &FeedForwardWeights) -> Vec<par::Linear<'_>> {
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

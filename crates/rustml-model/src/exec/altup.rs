//! Several streams, what stands beside attention, and sparse feed-forwards (Gemma 3n).

use super::{forms_for, norm, output_of, Exec, Target};
use crate::altup::MAX_STREAMS;
use crate::forward::Rows;
use crate::model::Model;
use crate::spec::{self, AltUp, FeedForward, Layer, Norm, Part, Spec};
use crate::weights::{AltUpWeights, FeedForwardWeights, LaurelWeights, NormWeights};
use rustml_kernels::par::{self, Team};
use rustml_kernels::{ops, Aligned, Phase};
use rustml_trace::{Cost, Op};

/// Empty where there is but one stream.
pub(crate) struct AltUpBuffers {
    /// `[rows, streams, hidden]`
    streams: Aligned<f32>,
    /// Values of a row of these.
    total: usize,
    /// Two of `[rows, hidden]`.
    wide: [Aligned<f32>; 2],
    /// Between the products beside attention, or of what reads a layer's vectors.
    low: Aligned<f32>,
    /// Of sparse feed-forwards, `[rows, inner]`.
    inner: [Aligned<f32>; 2],
}

impl AltUpBuffers {
    pub fn new(spec: &Spec, rows: usize) -> AltUpBuffers {
        let streams = spec.streams();
        let hidden = if streams > 1 { spec.hidden } else { 0 };
        let sparse = |l: &Layer| {
            l.feed_forward()
                .filter(|f| f.sparsity.is_some())
                .map(|f| f.inner)
        };
        let inner = spec.layers.iter().filter_map(sparse).max().unwrap_or(0);
        let rank = spec
            .layers
            .iter()
            .flat_map(Layer::parts)
            .filter_map(|p| match p {
                Part::Laurel(l) => Some(l.rank),
                _ => None,
            });
        let width = spec.embedding.per_layer.map_or(0, |p| p.width);
        let low = match streams > 1 {
            true => rank.max().unwrap_or(0).max(width),
            false => 0,
        };
        let of = |width: usize| Aligned::zeroed(rows * width);
        AltUpBuffers {
            streams: of(streams * hidden),
            total: streams * hidden,
            wide: [of(hidden), of(hidden)],
            low: of(low),
            inner: [of(inner), of(inner)],
        }
    }

    /// Moves the wanted rows to the front.
    pub fn keep(&mut self, wanted: &[usize]) {
        super::to_front(&mut self.streams, self.total, wanted);
    }
}

/// The coefficients that a row's values are made to: one for each stream, between -1 and 1.
fn modalities(n: &Norm, w: &AltUpWeights, x: &[f32], streams: usize) -> [f32; MAX_STREAMS] {
    let hidden = x.len() as f32;
    let mean = x.iter().map(|x| x * x).sum::<f32>() / hidden;
    let factor = 1.0 / (mean + n.eps).sqrt() / hidden;
    let mut out = [0.0; MAX_STREAMS];
    for (out, router) in out[..streams]
        .iter_mut()
        .zip(w.router.chunks_exact(x.len()))
    {
        let products = x.iter().zip(&w.norm.weight).zip(router);
        let sum: f32 = products.map(|((x, w), r)| x * factor * w * r).sum();
        *out = sum.tanh();
    }
    out
}

/// Products with a matrix `[rows, streams]`.
fn small(matrix: &[f32], x: &[f32; MAX_STREAMS], row: usize, streams: usize) -> f32 {
    let row = &matrix[row * streams..][..streams];
    row.iter().zip(x).map(|(a, b)| a * b).sum()
}

/// Root of the mean square.
fn magnitude(x: &[f32]) -> f32 {
    (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
}

impl Exec {
    /// The streams of tokens: their vectors, and products with these of the same magnitude.
    pub(crate) fn split_streams(&mut self, model: &Model, rows: usize, phase: Phase) {
        let Some(w) = &model.weights().streams else {
            return;
        };
        let start = self.recorder.start();
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let (x, own) = (&b.x[..rows * hidden], &mut b.altup);
        let total = own.total;
        let streams = &mut own.streams[..rows * total];
        par::map_rows(team, streams, total, &|row, s| {
            s[..hidden].copy_from_slice(&x[row * hidden..][..hidden]);
        });
        for (i, l) in w.into.iter().enumerate() {
            par::prepare_rows(
                team,
                x,
                hidden,
                &mut b.acts,
                forms_for(phase, &[&l.weights]),
            );
            let out = &mut own.wide[0][..rows * hidden];
            par::matmul(team, &b.acts, &mut [output_of(l, &mut *out)], None);
            par::map_rows(team, streams, total, &|row, s| {
                let target = magnitude(&x[row * hidden..][..hidden]);
                let new = &out[row * hidden..][..hidden];
                let factor = target / magnitude(new).max(1e-5_f32.sqrt());
                let to = s[(i + 1) * hidden..][..hidden].iter_mut();
                to.zip(new).for_each(|(to, new)| *to = new * factor);
            });
        }
        self.recorder.record(Op::Embed, start, Cost::default());
    }

    /// The mean of the streams, all made as large as the first.
    pub(crate) fn join_streams(&mut self, model: &Model, rows: usize, phase: Phase) {
        let Some(w) = &model.weights().streams else {
            return;
        };
        let start = self.recorder.start();
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let own = &mut b.altup;
        let total = own.total;
        let streams = &own.streams[..rows * total];
        let x = &mut b.x[..rows * hidden];
        par::map_rows(team, x, hidden, &|row, x| {
            x.copy_from_slice(&streams[row * total..][..hidden]);
        });
        let [input, out] = &mut own.wide;
        let (input, out) = (&mut input[..rows * hidden], &mut out[..rows * hidden]);
        for (i, l) in w.out.iter().enumerate() {
            par::map_rows(team, input, hidden, &|row, to| {
                to.copy_from_slice(&streams[row * total + (i + 1) * hidden..][..hidden]);
            });
            par::prepare_rows(
                team,
                input,
                hidden,
                &mut b.acts,
                forms_for(phase, &[&l.weights]),
            );
            par::matmul(team, &b.acts, &mut [output_of(l, &mut *out)], None);
            par::map_rows(team, x, hidden, &|row, x| {
                let target = magnitude(&streams[row * total..][..hidden]);
                let new = &out[row * hidden..][..hidden];
                let factor = target / magnitude(new).max(1e-5_f32.sqrt());
                x.iter_mut()
                    .zip(new)
                    .for_each(|(x, new)| *x += new * factor);
            });
        }
        let mean = 1.0 / (w.out.len() + 1) as f32;
        par::map_rows(team, x, hidden, &|_, x| ops::scale(team.isa, x, mean));
        self.recorder.record(Op::FinalNorm, start, Cost::default());
    }

    /// Predicts the streams; the first is what the layer computes with.
    pub(crate) fn predict(&mut self, a: &AltUp, w: &AltUpWeights, rows: usize) {
        let start = self.recorder.start();
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let (n, own) = (a.streams, &mut b.altup);
        let streams = &mut own.streams[..rows * own.total];
        par::map_rows(team, streams, own.total, &|_, s| {
            let m = modalities(&a.norm, w, &s[..hidden], n);
            let mut coefficients = [[0.0; MAX_STREAMS]; MAX_STREAMS];
            for (to, row) in coefficients[..n].iter_mut().enumerate() {
                for (from, c) in row[..n].iter_mut().enumerate() {
                    *c = small(&w.coefficients, &m, to * n + from, n);
                }
            }
            for h in 0..hidden {
                let mut before = [0.0; MAX_STREAMS];
                for (i, before) in before[..n].iter_mut().enumerate() {
                    *before = s[i * hidden + h];
                }
                for (to, row) in coefficients[..n].iter().enumerate() {
                    let sum: f32 = row[..n].iter().zip(&before).map(|(c, x)| c * x).sum();
                    s[to * hidden + h] += sum;
                }
            }
        });
        first(team, streams, own.total, &mut b.x[..rows * hidden], hidden);
        self.recorder.record(Op::AttnNorm, start, Cost::default());
    }

    /// Corrects the streams by what the layer made of the first, and adds what reads the
    /// vectors of the layer.
    pub(crate) fn correct(&mut self, a: &AltUp, w: &AltUpWeights, layer: usize, rows: &Rows) {
        let Some((reads, after)) = &w.reads else {
            unreachable!("weights are loaded by the specification");
        };
        let start = self.recorder.start();
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let (n, own) = (a.streams, &mut b.altup);
        let (total, len) = (own.total, rows.count * hidden);
        let streams = &mut own.streams[..rows.count * total];
        let x = &b.x[..len];
        par::map_rows(team, streams, total, &|row, s| {
            let x = &x[row * hidden..][..hidden];
            let m = modalities(&a.norm, w, x, n);
            let mut factors = [0.0; MAX_STREAMS];
            for (i, f) in factors[..n].iter_mut().enumerate() {
                *f = small(&w.coefficients, &m, i, n) + 1.0;
            }
            for h in 0..hidden {
                let innovation = x[h] - s[h];
                for (i, f) in factors[..n].iter().enumerate() {
                    s[i * hidden + h] += innovation * f;
                }
            }
        });
        first(team, streams, total, &mut b.x[..len], hidden);
        let [input, out] = &mut own.wide;
        let (input, out) = (&mut input[..len], &mut out[..len]);
        input.copy_from_slice(&b.x[..len]);
        if !w.scale.is_empty() {
            par::map_rows(team, input, hidden, &|_, x| {
                x.iter_mut().zip(&w.scale).for_each(|(x, s)| *x *= s);
            });
        }
        let (gate, up) = (&reads.gate, &reads.out);
        par::prepare_rows(
            team,
            input,
            hidden,
            &mut b.acts,
            forms_for(rows.phase, &[&gate.weights]),
        );
        let width = gate.weights.rows();
        let low = &mut own.low[..rows.count * width];
        par::matmul(team, &b.acts, &mut [output_of(gate, &mut *low)], None);
        let vectors = &b.per_layer;
        par::map_rows(team, low, width, &|row, gate| {
            ops::activate(team.isa, a.activation, gate, vectors.vector(row, layer));
        });
        par::prepare_rows(
            team,
            low,
            width,
            &mut b.acts,
            forms_for(rows.phase, &[&up.weights]),
        );
        par::matmul(team, &b.acts, &mut [output_of(up, &mut *out)], None);
        par::norm_to_rows(team, norm(&a.norm, after), out, input);
        par::map_rows(team, streams, total, &|row, s| {
            let more = &input[row * hidden..][..hidden];
            for s in s.chunks_exact_mut(hidden).skip(1) {
                ops::add(team.isa, s, more);
            }
        });
        self.recorder
            .record(Op::FfnPostNorm, start, Cost::default());
    }

    /// Adds what stands beside attention to the sum of both.
    pub(crate) fn laurel(
        &mut self,
        l: &spec::Laurel,
        w: &LaurelWeights,
        before: (Option<Norm>, Option<&NormWeights>),
        rows: &Rows,
        target: Target,
    ) {
        let start = self.recorder.start();
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let len = rows.count * hidden;
        let [input, out] = &mut b.altup.wide;
        let (input, out) = (&mut input[..len], &mut out[..len]);
        match before {
            (Some(n), Some(w)) => par::norm_to_rows(team, norm(&n, w), &b.x[..len], input),
            _ => input.copy_from_slice(&b.x[..len]),
        }
        let forms = forms_for(rows.phase, &[&w.left.weights]);
        par::prepare_rows(team, input, hidden, &mut b.acts, forms);
        let low = &mut b.altup.low[..rows.count * l.rank];
        par::matmul(team, &b.acts, &mut [output_of(&w.left, &mut *low)], None);
        let forms = forms_for(rows.phase, &[&w.right.weights]);
        par::prepare_rows(team, low, l.rank, &mut b.acts, forms);
        par::matmul(team, &b.acts, &mut [output_of(&w.right, &mut *out)], None);
        let (sum, accumulate) = match target {
            Target::Sum { accumulate } => (&mut b.sum, accumulate),
            Target::Part { accumulate } => (&mut b.y, accumulate),
            _ => (&mut b.x, true),
        };
        let n = norm(&l.norm, &w.norm);
        par::map_rows(team, &mut sum[..len], hidden, &|row, sum| {
            if !accumulate {
                sum.fill(0.0);
            }
            let at = row * hidden..(row + 1) * hidden;
            ops::add(team.isa, sum, &input[at]);
        });
        par::norm_to_rows(team, n, out, input);
        par::map_rows(team, &mut sum[..len], hidden, &|row, sum| {
            ops::add(team.isa, sum, &input[row * hidden..][..hidden]);
        });
        self.recorder
            .record(Op::AttnPostNorm, start, Cost::default());
    }

    /// A feed-forward that leaves out what is below the mean of its gate's products, plus so
    /// many of their standard deviations.
    pub(crate) fn sparse_feed_forward(
        &mut self,
        f: &FeedForward,
        w: &FeedForwardWeights,
        deviations: f32,
        rows: &Rows,
        target: Target,
    ) {
        let start = self.recorder.start();
        let (b, team) = (&mut self.buffers, &self.team);
        let len = rows.count * f.inner;
        let [gate, up] = &mut b.altup.inner;
        let (gate, up) = (&mut gate[..len], &mut up[..len]);
        let first = w.gate.as_ref().expect("sparse feed-forwards have a gate");
        let mut outputs = [output_of(first, &mut *gate), output_of(&w.up, &mut *up)];
        par::matmul(team, &b.acts, &mut outputs, None);
        par::map_rows(team, gate, f.inner, &|row, gate| {
            let count = gate.len() as f32;
            let mean = gate.iter().sum::<f32>() / count;
            let squares = gate.iter().map(|g| (g - mean) * (g - mean));
            let limit = mean + (squares.sum::<f32>() / count).sqrt() * deviations;
            gate.iter_mut().for_each(|g| *g = (*g - limit).max(0.0));
            ops::activate(
                team.isa,
                f.activation,
                gate,
                &up[row * f.inner..][..f.inner],
            );
        });
        let forms = forms_for(rows.phase, &[&w.down.weights]);
        par::prepare_rows(team, gate, f.inner, &mut b.inner, forms);
        self.recorder.record(Op::GateUp, start, Cost::default());
        let start = self.recorder.start();
        self.product_to(Op::Down, &w.down, rows.count, target, start);
    }
}

/// Takes the first stream.
fn first(team: &Team, streams: &[f32], total: usize, x: &mut [f32], hidden: usize) {
    par::map_rows(team, x, hidden, &|row, x| {
        x.copy_from_slice(&streams[row * total..][..hidden]);
    });
}

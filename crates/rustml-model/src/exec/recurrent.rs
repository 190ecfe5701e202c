//! Parts that carry a state: the convolution, the heads' matrices, and what follows.

use super::{cost, expect, forms_for, output_of, products, Exec, Target};
use crate::forward::Rows;
use crate::spec::{Delta, Gate, GatedNorm, Mamba2, Mixer, NormKind, Recurrent, Spec};
use crate::weights::RecurrentWeights;
use rustml_kernels::ops;
use rustml_kernels::par::{self, Convolution, ScanInput, States, Team};
use rustml_kernels::recurrent::Rule;
use rustml_kernels::{Aligned, Matrix};
use rustml_trace::{Cost, Op};

/// Buffers of recurrent parts, each `[rows, width]`.
pub(crate) struct RecurrentBuffers {
    /// Inputs of the convolution, `channels` wide.
    input: Aligned<f32>,
    /// Its results.
    convolved: Aligned<f32>,
    /// Factors of the inputs, as wide; or how much each head takes in.
    factor: Aligned<f32>,
    /// Factors of the result, `inner` wide.
    gate: Aligned<f32>,
    /// Steps, one for each head.
    step: Aligned<f32>,
    /// What each head's matrix is multiplied by.
    decay: Aligned<f32>,
}

impl RecurrentBuffers {
    pub fn new(spec: &Spec, rows: usize) -> RecurrentBuffers {
        let widest = |f: &dyn Fn(&Recurrent) -> usize| {
            let all = spec.layers.iter().filter_map(|l| l.recurrent());
            Aligned::zeroed(rows * all.map(f).max().unwrap_or(0))
        };
        let factors = |r: &Recurrent| {
            if r.has_factor() {
                r.channels()
            } else {
                r.heads()
            }
        };
        RecurrentBuffers {
            input: widest(&Recurrent::channels),
            convolved: widest(&Recurrent::channels),
            factor: widest(&factors),
            gate: widest(&Recurrent::inner),
            step: widest(&Recurrent::heads),
            decay: widest(&Recurrent::heads),
        }
    }
}

impl Exec {
    /// Everything of a part that reads earlier positions, of the prepared rows; the
    /// result is where attention's would be.
    pub(crate) fn mix(
        &mut self,
        r: &Recurrent,
        w: &RecurrentWeights,
        states: &States,
        rows: &Rows,
    ) {
        let start = self.recorder.start();
        let n = rows.count;
        let b = &mut self.buffers.recurrent;
        let mut outputs = vec![output_of(&w.input, &mut b.input[..n * r.channels()])];
        let ops = [Op::StateIn; 4];
        if let Some(factor) = &w.factor {
            let len = n * factor.weights.rows();
            outputs.push(output_of(factor, &mut b.factor[..len]));
        }
        outputs.push(output_of(&w.gate, &mut b.gate[..n * r.inner()]));
        if let Some(step) = &w.step {
            outputs.push(output_of(step, &mut b.step[..n * r.heads()]));
        }
        expect(&self.team, n, &[&w.out.weights]);
        products(
            &self.team,
            &mut self.recorder,
            Op::StateIn,
            &ops[..outputs.len()],
            &self.buffers.acts,
            &mut outputs,
            start,
        );
        if let Mixer::Mamba2(m) = r.mixer {
            if m.factors.gate != 1.0 {
                let (isa, gate) = (self.team.isa, &mut self.buffers.recurrent.gate);
                ops::scale(isa, &mut gate[..n * r.inner()], m.factors.gate);
            }
        }
        self.convolve(r, w, states, rows);
        if r.heads() > 0 {
            self.scan(r, w, states, rows);
        }
    }

    fn convolve(&mut self, r: &Recurrent, w: &RecurrentWeights, states: &States, rows: &Rows) {
        let start = self.recorder.start();
        let len = rows.count * r.channels();
        let (b, team) = (&mut self.buffers, &self.team);
        let input = &mut b.recurrent.input[..len];
        if r.has_factor() {
            let factors = &b.recurrent.factor;
            par::map_rows(team, input, r.channels(), &|row, x| {
                let factors = &factors[row * x.len()..][..x.len()];
                ops::gate(team.isa, Gate::Plain, x, factors);
            });
        }
        let conv = Convolution {
            weights: &w.convolution,
            bias: &w.convolution_bias,
            taps: r.taps,
            silu: r.heads() > 0,
        };
        // Without heads, this is the result.
        let out = match r.heads() {
            0 => &mut b.mixed[..len],
            _ => &mut b.recurrent.convolved[..len],
        };
        par::convolve_rows(team, states, &rows.states, &conv, input, out);
        let spans = rows.states.len();
        let kept = 4 * r.channels() * (r.taps * 3 - 2);
        let cost = Cost {
            flops: (2 * len * r.taps) as u64,
            ..cost::bytes(spans * kept)
        };
        self.recorder.record(Op::Convolve, start, cost);
    }

    fn scan(&mut self, r: &Recurrent, w: &RecurrentWeights, states: &States, rows: &Rows) {
        let Some(shape) = r.scan() else {
            return;
        };
        let start = self.recorder.start();
        let (n, heads, channels) = (rows.count, r.heads(), r.channels());
        let team = &self.team;
        let b = &mut self.buffers.recurrent;
        let x = &mut b.convolved[..n * channels];
        let (step, decay) = (&mut b.step[..n * heads], &mut b.decay[..n * heads]);
        let each = || 0..n * heads;
        let (rate, rule) = match r.mixer {
            Mixer::Gated { .. } => return,
            Mixer::Delta(d) => {
                for i in each() {
                    let h = i % heads;
                    decay[i] = (w.decay[h] * softplus(step[i] + w.step_bias[h])).exp();
                    b.factor[i] = 1.0 / (1.0 + (-b.factor[i]).exp());
                }
                normalise(team, x, channels, &d);
                (&b.factor[..n * heads], Rule::Delta)
            }
            Mixer::Mamba2(m) => {
                let ((least, most), factor) = (m.steps, m.factors.step);
                for i in each() {
                    let h = i % heads;
                    step[i] = softplus(factor * step[i] + w.step_bias[h]).clamp(least, most);
                    decay[i] = (w.decay[h] * step[i]).exp();
                }
                (&*step, Rule::Add)
            }
        };
        let [keys, queries, values] = r.columns();
        let input = ScanInput {
            x,
            width: channels,
            keys,
            queries,
            values,
            decay,
            rate,
            skip: &w.skip,
            rule,
        };
        let out = &mut self.buffers.mixed[..n * r.inner()];
        par::scan_rows(
            team,
            (states, r.scan_at()),
            &rows.states,
            &shape,
            &input,
            out,
        );
        let products = if rule == Rule::Delta { 8 } else { 6 };
        let matrices = shape.heads * shape.key_dim * shape.value_dim;
        let cost = Cost {
            flops: (products * n * matrices) as u64,
            ..cost::bytes(2 * 4 * rows.states.len() * shape.state())
        };
        self.recorder.record(Op::Scan, start, cost);
    }

    /// Norm, gate and output projection of what was mixed. Weights read by the `next`
    /// product are prefetched at its end.
    pub(crate) fn state_out(
        &mut self,
        r: &Recurrent,
        w: &RecurrentWeights,
        rows: &Rows,
        target: Target,
        next: &[&Matrix],
    ) {
        let start = self.recorder.start();
        let (inner, n) = (r.inner(), rows.count);
        let b = &mut self.buffers;
        let (mixed, gate) = (&mut b.mixed[..n * inner], &b.recurrent.gate[..n * inner]);
        let isa = self.team.isa;
        let gate = |row: usize| &gate[row * inner..][..inner];
        match r.mixer {
            Mixer::Gated { .. } => par::map_rows(&self.team, mixed, inner, &|row, x| {
                ops::gate(isa, Gate::Plain, x, gate(row));
            }),
            Mixer::Delta(d) => par::map_rows(&self.team, mixed, inner, &|row, x| {
                norm_groups(isa, x, d.heads, w, d.eps);
                ops::gate(isa, Gate::Silu, x, gate(row));
            }),
            Mixer::Mamba2(Mamba2 { norm: None, .. }) => {
                par::map_rows(&self.team, mixed, inner, &|row, x| {
                    ops::gate(isa, Gate::Silu, x, gate(row));
                });
            }
            Mixer::Mamba2(Mamba2 {
                norm: Some(norm), ..
            }) => {
                let GatedNorm {
                    eps,
                    groups,
                    gate_first,
                } = norm;
                par::map_rows(&self.team, mixed, inner, &|row, x| {
                    if gate_first {
                        ops::gate(isa, Gate::Silu, x, gate(row));
                    }
                    norm_groups(isa, x, groups, w, eps);
                    if !gate_first {
                        ops::gate(isa, Gate::Silu, x, gate(row));
                    }
                });
            }
        }
        let forms = forms_for(rows.phase, &[&w.out.weights]);
        par::prepare_rows(&self.team, mixed, inner, &mut b.acts, forms);
        expect(&self.team, n, next);
        self.product_to(Op::AttnOut, &w.out, n, target, start);
    }

    /// Moves the wanted rows of the stream and of what was mixed to the front.
    pub(crate) fn select_mixed(&mut self, r: &Recurrent, hidden: usize, wanted: &[usize]) {
        let b = &mut self.buffers;
        super::to_front(&mut b.x, hidden, wanted);
        super::to_front(&mut b.mixed, r.inner(), wanted);
        super::to_front(&mut b.recurrent.gate, r.inner(), wanted);
    }
}

/// Makes keys and queries as long as one, and queries then shorter by the root of their
/// number of values: RMS norms with weights that say so.
fn normalise(team: &Team, x: &mut [f32], channels: usize, d: &Delta) {
    let (dim, keys) = (d.key_dim, d.key_heads * d.key_dim);
    let eps = 1e-6 / dim as f32;
    let of_keys = vec![1.0 / (dim as f32).sqrt(); dim];
    let of_queries = vec![1.0 / dim as f32; dim];
    par::map_rows(team, x, channels, &|_, row| {
        let mut out = vec![0f32; dim];
        let (queries, rest) = row.split_at_mut(keys);
        for (x, weights) in [(queries, &of_queries), (&mut rest[..keys], &of_keys)] {
            for x in x.chunks_exact_mut(dim) {
                ops::norm(team.isa, NormKind::Rms, x, weights, &[], eps, &mut out);
                x.copy_from_slice(&out);
            }
        }
    });
}

/// Normalises a row group by group, with weights for each group or for all values.
fn norm_groups(
    isa: rustml_simd::Isa,
    x: &mut [f32],
    groups: usize,
    w: &RecurrentWeights,
    eps: f32,
) {
    let Some(weights) = &w.norm else {
        return;
    };
    let width = x.len() / groups;
    let mut out = vec![0f32; width];
    for (i, x) in x.chunks_exact_mut(width).enumerate() {
        let first = i * width % weights.weight.len();
        let weight = &weights.weight[first..][..width];
        ops::norm(isa, NormKind::Rms, x, weight, &[], eps, &mut out);
        x.copy_from_slice(&out);
    }
}

/// `ln(1 + e^x)`
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

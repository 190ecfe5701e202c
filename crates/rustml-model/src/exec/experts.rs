//! A mixture of experts: routing, the experts of each row, and the shared one.

use super::{cost, forms_for, norm, Exec, Target};
use crate::forward::Rows;
use crate::spec::{self, Norm};
use crate::weights::{ExpertsWeights, NormWeights};
use rustml_kernels::par::{self, ExpertRows, Output};
use rustml_kernels::Phase;
use rustml_trace::{Cost, Op};

impl Exec {
    /// A mixture of experts of the stream, normalised where `before` says so.
    pub(crate) fn experts(
        &mut self,
        e: &spec::Experts,
        w: &ExpertsWeights,
        before: (Option<Norm>, Option<&NormWeights>),
        rows: &Rows,
        target: Target,
    ) {
        self.expert_input(before, rows.count);
        self.route(e, w, rows);
        let mut target = target;
        if let (Some(shared), Some(s)) = (&w.shared, &e.shared) {
            self.prepare_input(&shared.inputs(), rows);
            match s.gated {
                true => {
                    self.feed_forward(s.expert.activation, shared, rows, Target::Shared, &[]);
                    self.add_gated(&w.shared_gate, target, rows.count);
                }
                false => self.feed_forward(s.expert.activation, shared, rows, target, &[]),
            }
            target = target.more();
        }
        let start = self.recorder.start();
        let (b, team) = (&mut self.buffers, &self.team);
        let len = rows.count * self.hidden;
        let (out, accumulate) = match target {
            Target::Stream => (&mut b.x, true),
            Target::Part { accumulate } => (&mut b.y, accumulate),
            Target::Sum { accumulate } => (&mut b.sum, accumulate),
            Target::Shared => unreachable!("it is for the shared expert"),
        };
        let experts = par::Experts {
            activation: e.expert.activation,
            gate: w.gate.as_ref(),
            up: &w.up,
            down: &w.down,
            weight_on_input: e.weight_on_input,
        };
        let chosen = e.router.chosen;
        let input = ExpertRows {
            x: &b.input[..len],
            choices: &b.choices[..rows.count * chosen],
            chosen,
            phase: rows.phase,
            factor: 1.0,
            accumulate,
        };
        let buffers = b.experts.as_mut().expect("made for a model with experts");
        let touched = par::expert_rows(team, &experts, &input, buffers, &mut out[..len], None);
        let cost = cost::experts(&experts, touched.bytes, rows.count * chosen, rows.phase);
        self.recorder.record(Op::Experts, start, cost);
    }

    /// Puts the stream, normalised where `before` says so, where experts read it.
    fn expert_input(&mut self, before: (Option<Norm>, Option<&NormWeights>), rows: usize) {
        let start = self.recorder.start();
        let (b, len) = (&mut self.buffers, rows * self.hidden);
        let (x, input) = (&b.x[..len], &mut b.input[..len]);
        match before {
            (Some(n), Some(w)) => {
                par::norm_to_rows(&self.team, norm(&n, w), x, input);
                self.recorder.record(Op::FfnNorm, start, cost::norm(w));
            }
            _ => input.copy_from_slice(x),
        }
    }

    /// Prepares it for these products.
    fn prepare_input(&mut self, linears: &[&rustml_kernels::Matrix], rows: &Rows) {
        let forms = forms_for(rows.phase, linears);
        let (b, hidden) = (&mut self.buffers, self.hidden);
        let input = &b.input[..rows.count * hidden];
        par::prepare_rows(&self.team, input, hidden, &mut b.acts, forms);
    }

    /// Chooses the experts of each row, in single precision.
    fn route(&mut self, e: &spec::Experts, w: &ExpertsWeights, rows: &Rows) {
        let start = self.recorder.start();
        let forms = forms_for(Phase::Decode, &[&w.router.weights]);
        let (b, team, hidden) = (&mut self.buffers, &self.team, self.hidden);
        let len = rows.count * hidden;
        let input = match (&e.router_norm, &w.router_norm) {
            (Some(n), Some(w)) => {
                par::norm_to_rows(team, norm(n, w), &b.x[..len], &mut b.y[..len]);
                &b.y[..len]
            }
            _ => &b.input[..len],
        };
        par::prepare_rows(team, input, hidden, &mut b.acts, forms);
        let logits = &mut b.router[..rows.count * e.router.experts];
        let mut outputs = [Output {
            weights: &w.router.weights,
            bias: w.router.bias.as_deref(),
            accumulate: false,
            out: logits,
        }];
        par::matmul(team, &b.acts, &mut outputs, None);
        let choices = &mut b.choices[..rows.count * e.router.chosen];
        par::route_rows(team, &e.router, logits, &w.correction, choices);
        if !w.factors.is_empty() {
            for choice in choices {
                choice.weight *= w.factors[choice.expert as usize];
            }
        }
        let cost = cost::product(&b.acts, &w.router.weights, w.router.bias.as_deref());
        self.recorder.record(Op::Route, start, cost);
    }

    /// Adds the shared expert's result, times the sigmoid of a product.
    fn add_gated(&mut self, gate: &[f32], target: Target, rows: usize) {
        let start = self.recorder.start();
        let (b, hidden) = (&mut self.buffers, self.hidden);
        let (out, accumulate) = match target {
            Target::Stream => (&mut b.x, true),
            Target::Part { accumulate } => (&mut b.y, accumulate),
            Target::Sum { accumulate } => (&mut b.sum, accumulate),
            Target::Shared => unreachable!("it is what is added"),
        };
        let (input, shared) = (&b.input, &b.shared);
        par::map_rows(
            &self.team,
            &mut out[..rows * hidden],
            hidden,
            &|row, out| {
                let at = row * hidden..(row + 1) * hidden;
                let products = input[at.clone()].iter().zip(gate).map(|(x, g)| x * g);
                let factor = 1.0 / (1.0 + (-products.sum::<f32>()).exp());
                for (out, y) in out.iter_mut().zip(&shared[at]) {
                    let before = if accumulate { *out } else { 0.0 };
                    *out = before + factor * y;
                }
            },
        );
        self.recorder.record(Op::Activate, start, Cost::default());
    }
}

//! Attention: its products, norms and rotations, and what it mixes.

use super::{cost, expect, forms_for, norm, output_of, products, Exec, Target};
use crate::forward::Rows;
use crate::spec::{Attention, AttentionGate, NormedOver};
use crate::weights::{AttentionWeights, Linear};
use rustml_kernels::attention::{AttentionShape, Bias};
use rustml_kernels::ops;
use rustml_kernels::par::{self, Cache, Positioning, SpanView, Team};
use rustml_kernels::Matrix;
use rustml_trace::{Cost, Op};
use std::sync::atomic::AtomicU64;

impl Exec {
    /// Queries, keys and values of the prepared rows.
    pub(crate) fn qkv(&mut self, w: &AttentionWeights, rows: usize) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let output = |l: &'_ Linear| rows * l.weights.rows();
        let mut outputs = vec![output_of(&w.query, &mut b.q[..output(&w.query)])];
        let mut ops = vec![Op::Query];
        let others = [
            (Op::Key, &w.key, &mut b.k),
            (Op::Value, &w.value, &mut b.v),
            (Op::AttnGate, &w.gate, &mut b.gate),
        ];
        for (op, linear, buffer) in others {
            if let Some(l) = linear {
                outputs.push(output_of(l, &mut buffer[..output(l)]));
                ops.push(op);
            }
        }
        expect(&self.team, rows, &[&w.out.weights]);
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
        w: &AttentionWeights,
        cache: &Cache,
        spans: &[SpanView],
        rows: usize,
    ) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let (q, kv) = (rows * a.heads * a.head_dim, rows * a.kv_heads * a.head_dim);
        if let Some(limit) = a.clip {
            // After norms of whole rows, which no other norm is used with.
            let norms = [w.query_norm.as_ref(), w.key_norm.as_ref(), None];
            let all = [(&mut b.q, q), (&mut b.k, kv), (&mut b.v, kv)];
            for ((x, len), weights) in all.into_iter().zip(norms) {
                let x = &mut x[..len];
                if let (Some(n), Some(w)) = (&a.qk_norm, weights) {
                    let out = &mut b.mixed[..len];
                    par::norm_to_rows(&self.team, norm(&n.norm, w), x, out);
                    x.copy_from_slice(out);
                }
                x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
            }
        }
        let qk_norm = match (
            &a.qk_norm.filter(|_| a.clip.is_none()),
            &w.query_norm,
            &w.key_norm,
        ) {
            (Some(n), Some(q), Some(k)) => Some(par::QkNorm {
                query: norm(&n.norm, q),
                key: norm(&n.norm, k),
                whole: n.over == NormedOver::Row,
                after_rope: n.after_rope,
            }),
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
        if let Some(t) = a.temperature {
            let width = a.heads * a.head_dim;
            for span in spans {
                for row in 0..span.rows {
                    let q = &mut q[(span.row + row) * width..][..width];
                    ops::scale(self.team.isa, q, t.at(span.first + row));
                }
            }
        }
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
    pub(crate) fn attend(
        &mut self,
        a: &Attention,
        w: &AttentionWeights,
        cache: &Cache,
        spans: &[SpanView],
        rows: usize,
    ) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let shape = AttentionShape {
            soft_cap: a.soft_cap,
            window: a.window,
            chunk: a.chunk,
            causal: a.causal,
            sinks: &w.sinks,
            bias: match a.relative {
                Some(r) => Bias::Relative {
                    table: &w.relative,
                    reach: r.reach,
                },
                None if w.slopes.is_empty() => Bias::No,
                None => Bias::Slopes(&w.slopes),
            },
            ..AttentionShape::plain(a.heads, a.scale)
        };
        let len = rows * a.heads * a.head_dim;
        let times = <[AtomicU64; 3]>::default();
        let timed = self.recorder.wants_parts().then_some(&times[..]);
        let (q, out) = (&b.q[..len], &mut b.mixed[..len]);
        par::attend_rows(&self.team, &shape, cache, spans, q, out, timed);
        if let (Some(g), Some(w)) = (a.gate, &w.gate) {
            let width = a.heads * a.head_dim;
            let gate = &b.gate[..rows * w.weights.rows()];
            multiply(&self.team, g, gate, out, (width, a.head_dim));
        }
        if let Some(l) = a.latent {
            // Values are smaller than heads.
            for i in 0..rows * a.heads {
                let from = i * a.head_dim;
                out.copy_within(from..from + l.value, i * l.value);
            }
        }
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

    /// The output projection of attention. Weights read by the `next` product are
    /// prefetched at its end.
    pub(crate) fn attn_out(
        &mut self,
        w: &AttentionWeights,
        rows: &Rows,
        target: Target,
        next: &[&Matrix],
    ) {
        let start = self.recorder.start();
        let l = &w.out;
        let (cols, forms) = (l.weights.cols(), forms_for(rows.phase, &[&l.weights]));
        let b = &mut self.buffers;
        let mixed = &b.mixed[..rows.count * cols];
        par::prepare_rows(&self.team, mixed, cols, &mut b.acts, forms);
        expect(&self.team, rows.count, next);
        self.product_to(Op::AttnOut, l, rows.count, target, start);
    }
}

/// Multiplies what attention gave by its gate.
fn multiply(
    team: &Team,
    g: AttentionGate,
    gate: &[f32],
    out: &mut [f32],
    (width, head_dim): (usize, usize),
) {
    let isa = team.isa;
    par::map_rows(team, out, width, &|row, x| match g.per_head {
        true => {
            let heads = width / head_dim;
            ops::gate_heads(isa, g.function, x, &gate[row * heads..][..heads]);
        }
        false => ops::gate(isa, g.function, x, &gate[row * width..][..width]),
    });
}

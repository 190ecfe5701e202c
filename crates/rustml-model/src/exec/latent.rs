//! Latent attention: queries, keys and values out of latents.
//!
//! Keys and values of all heads are computed once for each position and cached as those of
//! ordinary attention are.

use super::{cost, forms_for, output_of, products, Exec};
use crate::forward::Rows;
use crate::spec::{Attention, Latent, Spec};
use crate::weights::{AttentionWeights, LatentWeights, Linear, NormWeights};
use rustml_kernels::ops::NormKind;
use rustml_kernels::par;
use rustml_kernels::{Aligned, Phase};
use rustml_trace::Op;

/// Buffers of latent attention, each `[rows, width]`.
pub(crate) struct LatentBuffers {
    /// What queries are made of.
    query: Aligned<f32>,
    /// The latent of keys and values, and the rotated part of the keys.
    both: Aligned<f32>,
    /// The latent alone.
    latent: Aligned<f32>,
    /// Of each head what is not rotated of its key, and its value.
    up: Aligned<f32>,
}

impl LatentBuffers {
    pub fn new(spec: &Spec, rows: usize) -> LatentBuffers {
        let widest = |f: &dyn Fn(&Attention, Latent) -> usize| {
            let all = spec.layers.iter().filter_map(|l| l.attention());
            let widths = all.filter_map(|a| Some(f(a, a.latent?)));
            Aligned::zeroed(rows * widths.max().unwrap_or(0))
        };
        LatentBuffers {
            query: widest(&|_, l| l.query.unwrap_or(0)),
            both: widest(&|_, l| l.rank + l.rotated),
            latent: widest(&|_, l| l.rank),
            up: widest(&|a, l| a.heads * (a.head_dim - l.rotated + l.value)),
        }
    }

    /// The widest row that is normalised.
    pub fn widest(spec: &Spec) -> usize {
        let all = spec.layers.iter().filter_map(|l| l.attention()?.latent);
        all.map(|l| l.rank.max(l.query.unwrap_or(0)))
            .max()
            .unwrap_or(0)
    }
}

impl Exec {
    /// Queries, keys and values of the prepared rows; what is rotated comes first.
    pub(crate) fn latent_qkv(
        &mut self,
        a: &Attention,
        l: &Latent,
        w: &AttentionWeights,
        of: &LatentWeights,
        rows: &Rows,
    ) {
        let (Some(key), Some(value)) = (&w.key, &w.value) else {
            unreachable!("latent attention has keys and values of its own");
        };
        let start = self.recorder.start();
        let n = rows.count;
        let b = &mut self.buffers;
        let both = &mut b.latent.both[..n * (l.rank + l.rotated)];
        let (down, queries) = match &of.query_down {
            Some(down) => (down, &mut b.latent.query[..n * down.weights.rows()]),
            None => (&w.query, &mut b.q[..n * a.heads * a.head_dim]),
        };
        let mut outputs = [output_of(down, queries), output_of(key, both)];
        let ops = [Op::Query, Op::Key];
        products(
            &self.team,
            &mut self.recorder,
            Op::Qkv,
            &ops,
            &b.acts,
            &mut outputs,
            start,
        );
        if let (Some(norm), Some(rank)) = (&of.query_norm, l.query) {
            self.up(Op::Query, l, norm, &w.query, rank, rows.phase, n);
        }
        let latent = &mut self.buffers.latent;
        for (to, from) in latent
            .latent
            .chunks_exact_mut(l.rank)
            .zip(both_rows(&latent.both, l))
            .take(n)
        {
            to.copy_from_slice(&from[..l.rank]);
        }
        self.up(Op::Value, l, &of.norm, value, l.rank, rows.phase, n);
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let (plain, width) = (a.head_dim - l.rotated, a.heads * a.head_dim);
        let each = plain + l.value;
        let (both, up) = (&b.latent.both, &b.latent.up);
        par::map_rows(&self.team, &mut b.k[..n * width], width, &|row, keys| {
            let rotated = &both[row * (l.rank + l.rotated) + l.rank..][..l.rotated];
            for (head, key) in keys.chunks_exact_mut(a.head_dim).enumerate() {
                let up = &up[(row * a.heads + head) * each..][..plain];
                key[..l.rotated].copy_from_slice(rotated);
                key[l.rotated..].copy_from_slice(up);
            }
        });
        par::map_rows(&self.team, &mut b.v[..n * width], width, &|row, values| {
            for (head, value) in values.chunks_exact_mut(a.head_dim).enumerate() {
                let up = &up[(row * a.heads + head) * each + plain..][..l.value];
                value[..l.value].copy_from_slice(up);
                value[l.value..].fill(0.0);
            }
        });
        self.recorder
            .record(Op::Position, start, Default::default());
    }

    /// The product of a normalised latent: that of the queries, or of keys and values.
    #[allow(clippy::too_many_arguments)]
    fn up(
        &mut self,
        op: Op,
        l: &Latent,
        weights: &NormWeights,
        linear: &Linear,
        rank: usize,
        phase: Phase,
        rows: usize,
    ) {
        let start = self.recorder.start();
        let b = &mut self.buffers;
        let norm = par::Norm {
            kind: NormKind::Rms,
            weight: &weights.weight,
            bias: &weights.bias,
            eps: l.eps,
        };
        let (x, out) = match op {
            Op::Query => (&b.latent.query, &mut b.q),
            _ => (&b.latent.latent, &mut b.latent.up),
        };
        let forms = forms_for(phase, &[&linear.weights]);
        let x = &x[..rows * rank];
        par::norm_rows(&self.team, norm, x, &mut b.scratch, &mut b.acts, forms);
        self.recorder.record(Op::QkNorm, start, cost::norm(weights));
        let start = self.recorder.start();
        let mut outputs = [output_of(linear, &mut out[..rows * linear.weights.rows()])];
        products(
            &self.team,
            &mut self.recorder,
            op,
            &[op],
            &b.acts,
            &mut outputs,
            start,
        );
    }
}

fn both_rows<'a>(both: &'a [f32], l: &Latent) -> std::slice::ChunksExact<'a, f32> {
    both.chunks_exact(l.rank + l.rotated)
}

//! Keys and values that are not each a product of their own.

use super::{norm, Exec};
use crate::spec::Attention;
use crate::weights::AttentionWeights;
use rustml_kernels::{ops, par};
use rustml_trace::{Cost, Op};

impl Exec {
    /// Values that are what keys were made of, and the norm of values.
    pub(crate) fn finish_values(&mut self, a: &Attention, w: &AttentionWeights, rows: usize) {
        let start = self.recorder.start();
        let (b, len) = (&mut self.buffers, rows * a.kv_heads * a.head_dim);
        if a.keys_as_values {
            b.v[..len].copy_from_slice(&b.k[..len]);
        }
        if let (Some(n), Some(w)) = (&a.value_norm, &w.value_norm) {
            let (v, out) = (&mut b.v[..len], &mut b.mixed[..len]);
            par::norm_to_rows(&self.team, norm(n, w), v, out);
            v.copy_from_slice(out);
            self.recorder.record(Op::QkNorm, start, Cost::default());
        }
    }

    /// Norms and rotations of queries that read another layer's keys.
    pub(crate) fn position_queries(&mut self, a: &Attention, w: &AttentionWeights, rows: usize) {
        let start = self.recorder.start();
        let (b, team) = (&mut self.buffers, &self.team);
        let width = a.heads * a.head_dim;
        let (q, out) = (&mut b.q[..rows * width], &mut b.mixed[..rows * width]);
        if let (Some(n), Some(w)) = (&a.qk_norm, &w.query_norm) {
            par::norm_to_rows(team, norm(&n.norm, w), q, out);
            q.copy_from_slice(out);
        }
        if let Some(r) = a.rope {
            let pairs = b.cos[r].len() / self.capacity.rows;
            let (cos, sin) = (&b.cos[r], &b.sin[r]);
            par::map_rows(team, q, width, &|row, q| {
                let at = row * pairs..(row + 1) * pairs;
                ops::rope(team.isa, q, a.head_dim, &cos[at.clone()], &sin[at]);
            });
        }
        self.recorder.record(Op::Position, start, Cost::default());
    }
}

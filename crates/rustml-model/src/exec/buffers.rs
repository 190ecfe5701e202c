//! Everything a step writes.

use super::Capacity;
use crate::model::Model;
use crate::spec::{Layer, Wiring};
use rustml_kernels::par::scratch_len;
use rustml_kernels::{Acts, Aligned};

/// Buffers for steps of one model, allocated once for the largest step. Each
/// is `[rows, width]` of the current step.
pub(crate) struct Buffers {
    /// The residual stream, `hidden` wide.
    pub x: Aligned<f32>,
    /// What a part adds to the stream, before its norm; `hidden` wide, empty where no
    /// part has one.
    pub y: Aligned<f32>,
    /// Queries, `heads * head_dim` wide.
    pub q: Aligned<f32>,
    /// Keys, `kv_heads * head_dim` wide.
    pub k: Aligned<f32>,
    /// Values, likewise.
    pub v: Aligned<f32>,
    /// What attention mixed, as wide as the queries.
    pub mixed: Aligned<f32>,
    /// What threads have in hand of norms and feed-forwards.
    pub scratch: Aligned<f32>,
    /// Input of the next product, in the forms its weights read; not `inner` wide.
    pub acts: Acts,
    /// The inner part of a feed-forward, likewise, `inner` wide.
    pub inner: Acts,
    /// Cosines of each rope, `[rope][rows, dims / 2]`.
    pub cos: Vec<Aligned<f32>>,
    /// Sines, likewise.
    pub sin: Vec<Aligned<f32>>,
    /// `[logit rows, vocab]`
    pub logits: Aligned<f32>,
}

impl Buffers {
    pub fn new(model: &Model, capacity: Capacity) -> Buffers {
        let (spec, rows) = (model.spec(), capacity.rows);
        let widest = |f: &dyn Fn(&Layer) -> usize| {
            let widest = spec.layers.iter().map(f).max().unwrap_or(0);
            Aligned::zeroed(rows * widest)
        };
        let (forms, cols) = model.weights().activations();
        let (inner_forms, inner_cols) = model.weights().inner_activations();
        let tables = || {
            let ropes = spec.ropes.iter();
            ropes
                .map(|r| Aligned::zeroed(rows * (r.dims / 2)))
                .collect()
        };
        let q = |l: &Layer| l.attention.heads * l.attention.head_dim;
        let kv = |l: &Layer| l.attention.kv_heads * l.attention.head_dim;
        let y = |l: &Layer| match l.wiring {
            Wiring::Sandwich => spec.hidden,
            _ => 0,
        };
        Buffers {
            x: Aligned::zeroed(rows * spec.hidden),
            y: widest(&y),
            q: widest(&q),
            k: widest(&kv),
            v: widest(&kv),
            mixed: widest(&q),
            scratch: Aligned::zeroed(scratch_len(model.team(), rows, spec.hidden, inner_cols)),
            acts: Acts::new(rows, cols, forms),
            inner: Acts::new(rows, inner_cols, inner_forms),
            cos: tables(),
            sin: tables(),
            logits: Aligned::zeroed(capacity.logit_rows * spec.vocab),
        }
    }
}

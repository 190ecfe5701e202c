//! Everything a step writes.

use super::Capacity;
use crate::model::Model;
use crate::spec::Layer;
use rustml_kernels::{Acts, Forms};

/// Buffers for steps of one model, allocated once for the largest step. Each
/// is `[rows, width]` of the current step.
pub(crate) struct Buffers {
    /// The residual stream, `hidden` wide.
    pub x: Vec<f32>,
    /// What a part adds to the stream, before its norm; `hidden` wide.
    pub y: Vec<f32>,
    /// Normalised rows, `hidden` wide.
    pub normed: Vec<f32>,
    /// Queries, `heads * head_dim` wide.
    pub q: Vec<f32>,
    /// Keys, `kv_heads * head_dim` wide.
    pub k: Vec<f32>,
    /// Values, likewise.
    pub v: Vec<f32>,
    /// What attention mixed, as wide as the queries.
    pub mixed: Vec<f32>,
    /// Feed-forward, `inner` wide; empty where nothing is gated.
    pub gate: Vec<f32>,
    /// Feed-forward, `inner` wide.
    pub up: Vec<f32>,
    /// Input of the next product, in the forms its weights read.
    pub acts: Acts,
    /// The forms that `acts` has room for.
    pub forms: Forms,
    /// Cosines of each rope, `[rope][rows, dims / 2]`.
    pub cos: Vec<Vec<f32>>,
    /// Sines, likewise.
    pub sin: Vec<Vec<f32>>,
    /// `[logit rows, vocab]`
    pub logits: Vec<f32>,
}

impl Buffers {
    pub fn new(model: &Model, capacity: Capacity) -> Buffers {
        let (spec, rows) = (model.spec(), capacity.rows);
        let widest = |f: &dyn Fn(&Layer) -> usize| {
            let widest = spec.layers.iter().map(f).max().unwrap_or(0);
            vec![0f32; rows * widest]
        };
        let (forms, cols) = model.weights().activations();
        let hidden = || vec![0f32; rows * spec.hidden];
        let tables = || {
            let ropes = spec.ropes.iter();
            ropes.map(|r| vec![0f32; rows * (r.dims / 2)]).collect()
        };
        let q = |l: &Layer| l.attention.heads * l.attention.head_dim;
        let kv = |l: &Layer| l.attention.kv_heads * l.attention.head_dim;
        let gate = |l: &Layer| match l.feed_forward.gated {
            true => l.feed_forward.inner,
            false => 0,
        };
        Buffers {
            x: hidden(),
            y: hidden(),
            normed: hidden(),
            q: widest(&q),
            k: widest(&kv),
            v: widest(&kv),
            mixed: widest(&q),
            gate: widest(&gate),
            up: widest(&|l| l.feed_forward.inner),
            acts: Acts::new(rows, cols, forms),
            forms,
            cos: tables(),
            sin: tables(),
            logits: vec![0.0; capacity.logit_rows * spec.vocab],
        }
    }
}

//! What a [`Spec`] amounts to, for reports: nothing here needs the weights.

use crate::spec::{Norm, Spec, Wiring};
use std::fmt;

impl Spec {
    /// Parameters of the model: numbers in its weights, a shared one counted
    /// once.
    ///
    /// [`crate::LoadReport::parameters`] is the same, counted while loading.
    pub fn parameters(&self) -> u64 {
        let norm = |n: &Norm, width: usize| width * (1 + usize::from(n.bias));
        let linear = |outputs: usize, inputs: usize, bias: bool| {
            outputs as u64 * (inputs as u64 + u64::from(bias))
        };
        let table = |rows: usize| linear(rows, self.hidden, false);
        let layers = self.layers.iter().map(|l| {
            let (a, f) = (&l.attention, &l.feed_forward);
            let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
            let norms = match l.wiring {
                Wiring::Pre => 2,
                Wiring::Sandwich => 4,
            };
            let norms = norms * norm(&l.norm, self.hidden)
                + a.qk_norm.map_or(0, |n| 2 * norm(&n, a.head_dim));
            let inner = 1 + u64::from(f.gated);
            norms as u64
                + linear(q + 2 * kv, self.hidden, a.qkv_bias)
                + linear(self.hidden, q, a.out_bias)
                + inner * linear(f.inner, self.hidden, f.bias)
                + linear(self.hidden, f.inner, f.bias)
        });
        let positions = match self.embedding.learned_positions {
            true => self.context,
            false => 0,
        };
        let head = if self.head.tied { 0 } else { self.vocab };
        layers.sum::<u64>()
            + table(self.vocab)
            + table(positions)
            + table(head)
            + norm(&self.final_norm, self.hidden) as u64
    }
}

impl fmt::Display for Spec {
    /// The sizes in one line; heads and widths are those of the first layer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers, width {}", self.layers.len(), self.hidden)?;
        if let Some(first) = self.layers.first() {
            let a = &first.attention;
            write!(f, ", feed-forward {}", first.feed_forward.inner)?;
            write!(f, ", {} heads of {}", a.heads, a.head_dim)?;
            if a.kv_heads != a.heads {
                write!(f, " ({} for keys and values)", a.kv_heads)?;
            }
        }
        write!(f, ", vocabulary {}, context {}", self.vocab, self.context)?;
        let windows = self.layers.iter().filter_map(|l| l.attention.window);
        if let Some(window) = windows.clone().max() {
            write!(f, ", {} layers with a window of {window}", windows.count())?;
        }
        Ok(())
    }
}

//! What a [`Spec`] amounts to, for reports: nothing here needs the weights.

use crate::spec::{Block, FeedForward, Layer, Mixer, Norm, NormedOver, Part, QkNorm, Spec};
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
        let part = |part: &Part| match part {
            Part::Attention(a) => {
                let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
                let qk_norm = |n: QkNorm| match n.over {
                    NormedOver::Head => 2 * norm(&n.norm, a.head_dim),
                    NormedOver::OwnHead | NormedOver::Row => norm(&n.norm, q + kv),
                };
                if let Some(l) = a.latent {
                    let plain = a.head_dim - l.rotated;
                    let queries = match l.query {
                        Some(rank) => {
                            linear(rank, self.hidden, a.qkv_bias)
                                + linear(q, rank, false)
                                + rank as u64
                        }
                        None => linear(q, self.hidden, false),
                    };
                    return queries
                        + linear(l.rank + l.rotated, self.hidden, a.qkv_bias)
                        + l.rank as u64
                        + linear(a.heads * (plain + l.value), l.rank, false)
                        + linear(self.hidden, a.heads * l.value, a.out_bias);
                }
                // What is another layer's, or stands for another, is not there.
                let heads = match (a.shares, a.keys_as_values) {
                    (Some(_), _) => 0,
                    (None, true) => 1,
                    (None, false) => 2,
                };
                if heads < 2 {
                    let norms = a.qk_norm.map_or(0, |n| norm(&n.norm, a.head_dim));
                    let norms = norms * (1 + usize::from(a.shares.is_none()));
                    return norms as u64
                        + linear(q + heads * kv, self.hidden, a.qkv_bias)
                        + linear(self.hidden, q, a.out_bias);
                }
                let sinks = if a.sinks { a.heads } else { 0 };
                (a.qk_norm.map_or(0, qk_norm) + sinks) as u64
                    + linear(q + 2 * kv, self.hidden, a.qkv_bias)
                    + linear(self.hidden, q, a.out_bias)
            }
            Part::FeedForward(f) => {
                let inner = 1 + u64::from(f.gated);
                inner * linear(f.inner, self.hidden, f.bias) + linear(self.hidden, f.inner, f.bias)
            }
            Part::Experts(e) => {
                let of = |f: &FeedForward| {
                    (1 + u64::from(f.gated)) * linear(f.inner, self.hidden, f.bias)
                        + linear(self.hidden, f.inner, f.bias)
                };
                let (router, experts) = (&e.router, e.router.experts as u64);
                let correction = if e.correction { experts } else { 0 };
                let shared = e.shared.map_or(0, |s| {
                    let gate = if s.gated { self.hidden as u64 } else { 0 };
                    of(&s.expert) + gate
                });
                linear(router.experts, self.hidden, e.router_bias)
                    + correction
                    + if e.factors { experts } else { 0 }
                    + e.router_norm.map_or(0, |_| self.hidden as u64)
                    + experts * of(&e.expert)
                    + shared
            }
            Part::Recurrent(r) => {
                let (channels, heads) = (r.channels(), r.heads());
                let widths = [
                    channels,
                    r.inner(),
                    if r.has_factor() { channels } else { 0 },
                    match r.mixer {
                        Mixer::Delta(_) => 2 * heads,
                        _ => heads,
                    },
                ];
                let skip = matches!(r.mixer, Mixer::Mamba2(_));
                let vectors = channels * (r.taps + usize::from(r.conv_bias))
                    + heads * (2 + usize::from(skip))
                    + r.norm_weights();
                linear(widths.iter().sum(), self.hidden, r.in_bias)
                    + linear(self.hidden, r.inner(), r.out_bias)
                    + vectors as u64
            }
            Part::ReadsPerLayer(_) => {
                2 * linear(
                    self.hidden,
                    self.embedding.per_layer.map_or(0, |p| p.width),
                    false,
                )
            }
            Part::Predict(a) => {
                let n = a.streams;
                linear(n, self.hidden, false) + linear(n * n, n, false) + self.hidden as u64
            }
            Part::Correct(a) => {
                let reads = self.embedding.per_layer.map_or(0, |p| p.width);
                let scale = if a.scaled { self.hidden as u64 } else { 0 };
                linear(a.streams, a.streams, false)
                    + 2 * linear(self.hidden, reads, false)
                    + self.hidden as u64
                    + scale
            }
            Part::Laurel(l) => 2 * linear(l.rank, self.hidden, false) + self.hidden as u64,
            Part::Times(_) => 0,
            Part::Factor => 1,
            // Its blocks are counted for themselves.
            Part::Parallel(_) => 0,
        };
        let norms = |b: &Block| {
            let all = [b.norm.before(), b.norm.after()];
            let all = all.iter().flatten().map(|n| norm(n, self.hidden) as u64);
            all.sum::<u64>()
        };
        let within = |b: &Block| match &b.part {
            Part::Parallel(blocks) => blocks.iter().map(norms).sum(),
            _ => 0,
        };
        let block = |b: &Block| norms(b) + within(b) + b.parts().map(part).sum::<u64>();
        let layers = self
            .layers
            .iter()
            .map(|l| l.blocks.iter().map(block).sum::<u64>());
        let positions = match self.embedding.learned_positions {
            true => self.context,
            false => 0,
        };
        let head = match self.head.filter(|h| !h.tied) {
            None => 0,
            Some(head) => linear(self.vocab, self.hidden, head.bias),
        };
        let norms = [self.final_norm, self.embedding.norm];
        let norms = norms.iter().flatten().map(|n| norm(n, self.hidden) as u64);
        let per_layer = self.embedding.per_layer.map_or(0, |p| {
            let all = p.width * self.layers.len();
            linear(all, p.rows + self.hidden, false) + norm(&p.norm, p.width) as u64
        });
        let streams = 2 * (self.streams() - 1) as u64 * table(self.hidden);
        layers.sum::<u64>()
            + streams
            + per_layer
            + table(self.vocab)
            + table(positions)
            + head
            + norms.sum::<u64>()
    }
}

impl fmt::Display for Spec {
    /// The sizes in one line; heads and widths are those of the first layer that has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers, width {}", self.layers.len(), self.hidden)?;
        if let Some(first) = self.layers.iter().find_map(Layer::feed_forward) {
            write!(f, ", feed-forward {}", first.inner)?;
        }
        if let Some(a) = self.layers.iter().find_map(Layer::attention) {
            write!(f, ", {} heads of {}", a.heads, a.head_dim)?;
            if a.kv_heads != a.heads {
                write!(f, " ({} for keys and values)", a.kv_heads)?;
            }
        }
        let states = self
            .layers
            .iter()
            .filter(|l| l.recurrent().is_some())
            .count();
        if states > 0 {
            write!(f, ", {states} layers with a state")?;
        }
        write!(f, ", vocabulary {}, context {}", self.vocab, self.context)?;
        let attentions = self.layers.iter().filter_map(Layer::attention);
        let windows = attentions.filter_map(|a| a.window);
        if let Some(window) = windows.clone().max() {
            write!(f, ", {} layers with a window of {window}", windows.count())?;
        }
        Ok(())
    }
}

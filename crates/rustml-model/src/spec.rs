//! An architecture as data.
//!
//! What differs between models is written here as enums that carry their
//! parameters; the forward pass reads nothing else. What varies from layer to
//! layer is simply another [`Layer`] at that index.

pub use crate::altup::{AltUp, Laurel};
pub use crate::classifier::{Classifier, ClassifierDense};
pub use crate::distance::{slopes, Relative, Temperature};
pub use crate::per_layer::{PerLayer, ReadsPerLayer};
pub use crate::recurrent::{Delta, Factors, GatedNorm, Mamba2, Mixer, Recurrent};
pub use crate::rope::{rotated_since, Rope, RopeScaling};
pub use rustml_kernels::ops::{Activation, Gate, NormKind};
pub use rustml_kernels::router::{GroupScore, Groups, Renormalise, Router, Scores};
use std::collections::HashSet;

/// Everything the forward pass needs to know about a model but its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Tokens of the vocabulary: rows of embedding and head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// How tokens become vectors.
    pub embedding: Embedding,
    /// The rotations that layers refer to.
    pub ropes: Vec<Rope>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// The norm after the last layer, if there is one.
    pub final_norm: Option<Norm>,
    /// How vectors become logits; an encoder of texts has none.
    pub head: Option<Head>,
    /// How a text's states become scores of labels, where they do.
    pub classifier: Option<Classifier>,
}

/// How tokens become vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// Factor of every embedding.
    pub scale: f32,
    /// Whether a learned vector for each of the `context` positions is added.
    pub learned_positions: bool,
    /// The vector of the first position.
    pub first_position: usize,
    /// Whether the vector of the first type of tokens is added.
    pub types: bool,
    /// A norm of the sum.
    pub norm: Option<Norm>,
    /// Vectors that each token has for every layer, if any.
    pub per_layer: Option<PerLayer>,
}

/// How vectors become logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Whether the embedding serves as the head's weights.
    pub tied: bool,
    /// Whether a bias is added.
    pub bias: bool,
    /// Factor of the logits.
    pub scale: f32,
    /// `cap * tanh(logit / cap)`, if any; after the factor.
    pub soft_cap: Option<f32>,
}

/// One layer: residual blocks, first to last.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Llama has two: attention, then a feed-forward.
    pub blocks: Vec<Block>,
}

/// A residual block: `x + scale * f(x)`, with norms around `f`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Where it normalises.
    pub norm: NormPlacement,
    /// What it computes.
    pub part: Part,
    /// Factor of what is added to the stream.
    pub scale: f32,
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormPlacement {
    /// Nowhere: `x + f(x)`.
    None,
    /// Its input: `x + f(norm(x))`.
    Pre(Norm),
    /// Its result: `x + norm(f(x))`.
    Post(Norm),
    /// Both, by norms of their own: `x + norm(f(norm(x)))`.
    Sandwich(Norm),
    /// The sum: `norm(x + f(x))`.
    Sum(Norm),
}

/// What a block computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Attention to earlier positions.
    Attention(Attention),
    /// A feed-forward.
    FeedForward(FeedForward),
    /// A mixture of experts.
    Experts(Experts),
    /// What carries a state from position to position.
    Recurrent(Recurrent),
    /// What reads the vectors that each token has for this layer.
    ReadsPerLayer(ReadsPerLayer),
    /// Predicts several streams, before a layer; nothing is added to that.
    Predict(AltUp),
    /// Corrects them after it, likewise.
    Correct(AltUp),
    /// What stands beside attention.
    Laurel(Laurel),
    /// A number that multiplies the stream; nothing is added to that.
    Times(f32),
    /// A learned number that multiplies the stream; nothing is added to that.
    Factor,
    /// Several blocks of the same input, whose results add up. Each may have
    /// norms of its own, before and after, and none is parallel itself.
    Parallel(Vec<Block>),
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// The formula.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
    /// Whether a bias is added.
    pub bias: bool,
}

/// Attention of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether a query sees only positions up to its own, or those after it as well.
    pub causal: bool,
    /// Index into [`Spec::ropes`], if queries and keys are rotated.
    pub rope: Option<usize>,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Positions a query sees, itself included, if not all; as many after it, where it sees
    /// these.
    pub window: Option<usize>,
    /// A query sees only positions of its own chunk, of so many, if not all.
    pub chunk: Option<usize>,
    /// Whether each head has one more score, which has no value.
    pub sinks: bool,
    /// Queries, keys and values are at most so large, if there is a limit; norms of queries
    /// and keys, which come first, are then of whole rows.
    pub clip: Option<f32>,
    /// A factor of the queries that grows with their positions.
    pub temperature: Option<Temperature>,
    /// A factor of what attention gives, made of the part's input.
    pub gate: Option<AttentionGate>,
    /// Scores fall with the distance, in each head at a slope of its own, times this (Press
    /// et al., "Train Short, Test Long").
    pub alibi: Option<f32>,
    /// Scores have a summand for each distance, which a table of all layers holds for some
    /// ranges of them (Raffel et al., "Exploring the Limits of Transfer Learning with a
    /// Unified Text-to-Text Transformer").
    pub relative: Option<Relative>,
    /// Keys and values are made of a few numbers that all heads share, if they are.
    pub latent: Option<Latent>,
    /// `cap * tanh(score / cap)`, if any.
    pub soft_cap: Option<f32>,
    /// Whether values are what keys are before their norm and rotation.
    pub keys_as_values: bool,
    /// A norm of every value head, without weights.
    pub value_norm: Option<Norm>,
    /// The layer before it whose keys and values it reads, if it has none.
    pub shares: Option<usize>,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
}

impl Attention {
    /// Every query sees all positions up to its own, scores are scaled by the size of a
    /// head, and nothing else is done.
    pub fn plain(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
        Attention {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: true,
            rope: None,
            qk_norm: None,
            window: None,
            chunk: None,
            sinks: false,
            clip: None,
            temperature: None,
            gate: None,
            alibi: None,
            relative: None,
            latent: None,
            keys_as_values: false,
            value_norm: None,
            shares: None,
            soft_cap: None,
            qkv_bias: false,
            out_bias: false,
        }
    }
}

/// Latent attention (DeepSeek-AI, "DeepSeek-V2"): keys and values of all heads are products
/// of one normalised latent, but for a rotated part of the keys, which heads share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Values that queries are made of, normalised, if not of the part's input.
    pub query: Option<usize>,
    /// Values that keys and values are made of.
    pub rank: usize,
    /// Values of a key, and of a query, that are rotated; they come first.
    pub rotated: usize,
    /// Values of a value; the rest, up to the size of a head, are zeros.
    pub value: usize,
    /// Added to the variance by the norms.
    pub eps: f32,
    /// Whether neighbours are rotated in the file.
    pub interleaved: bool,
}

/// A product with the part's input, of which a function multiplies what attention gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionGate {
    /// The function.
    pub function: Gate,
    /// Whether there is one factor for each head, or one for each value.
    pub per_head: bool,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// The formula.
    pub norm: Norm,
    /// What is normalised together.
    pub over: NormedOver,
    /// Whether the rotation comes first.
    pub after_rope: bool,
    /// Whether there are weights; else they are one.
    pub weighted: bool,
}

/// Which values of a row of queries or keys are normalised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormedOver {
    /// Those of a head; all heads have the same weights.
    Head,
    /// Those of a head; each head has weights of its own.
    OwnHead,
    /// All of them.
    Row,
}

impl QkNorm {
    /// Norms of every head before the rotation, the usual kind.
    pub fn heads(norm: Norm) -> QkNorm {
        QkNorm {
            norm,
            over: NormedOver::Head,
            after_rope: false,
            weighted: true,
        }
    }
}

/// A feed-forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeedForward {
    /// Width between the projections.
    pub inner: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// Whether it is `down(f(gate x) * up x)` rather than `down(f(up x))`.
    pub gated: bool,
    /// Whether the projections have biases.
    pub bias: bool,
    /// What of the gate's products is below their mean, plus so many of their standard
    /// deviations, is left out, if anything is.
    pub sparsity: Option<f32>,
}

/// A mixture of experts: feed-forwards of which a few compute each row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// How experts are chosen.
    pub router: Router,
    /// Whether the router's product has a bias.
    pub router_bias: bool,
    /// Whether something is added to the scores for choosing alone.
    pub correction: bool,
    /// An expert.
    pub expert: FeedForward,
    /// Whether a row is multiplied by its weight before the expert.
    pub weight_on_input: bool,
    /// A feed-forward that computes every row beside them.
    pub shared: Option<Shared>,
    /// The norm of what the router reads of the stream, if it does not read what experts do.
    pub router_norm: Option<Norm>,
    /// Whether each expert's result has a factor of its own.
    pub factors: bool,
}

/// The shared expert of a mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shared {
    /// The feed-forward.
    pub expert: FeedForward,
    /// Whether its result is multiplied by the sigmoid of a product.
    pub gated: bool,
}

impl Layer {
    /// Attention, then a feed-forward, normalised alike.
    pub fn of(norm: NormPlacement, attention: Attention, feed_forward: FeedForward) -> Layer {
        let parts = [Part::Attention(attention), Part::FeedForward(feed_forward)];
        let block = |part| Block {
            norm,
            part,
            scale: 1.0,
        };
        Layer {
            blocks: parts.map(block).into(),
        }
    }

    /// Its parts, those that are parallel each for itself.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.blocks.iter().flat_map(Block::parts)
    }

    /// Its attention, if it has one.
    pub fn attention(&self) -> Option<&Attention> {
        self.parts().find_map(|p| match p {
            Part::Attention(a) => Some(a),
            _ => None,
        })
    }

    /// Its mixture of experts, if it has one.
    pub fn experts(&self) -> Option<&Experts> {
        self.parts().find_map(|p| match p {
            Part::Experts(e) => Some(e),
            _ => None,
        })
    }

    /// What of it carries a state, if anything does.
    pub fn recurrent(&self) -> Option<&Recurrent> {
        self.parts().find_map(|p| match p {
            Part::Recurrent(r) => Some(r),
            _ => None,
        })
    }

    /// Its feed-forward, if it has one.
    pub fn feed_forward(&self) -> Option<&FeedForward> {
        self.parts().find_map(|p| match p {
            Part::FeedForward(f) => Some(f),
            _ => None,
        })
    }
}

impl Block {
    /// The part, or those that are parallel.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let (one, several) = match &self.part {
            Part::Parallel(blocks) => (None, &blocks[..]),
            part => (Some(part), &[][..]),
        };
        one.into_iter().chain(several.iter().map(|b| &b.part))
    }
}

impl NormPlacement {
    /// The norm, wherever it is.
    pub fn norm(&self) -> Option<Norm> {
        match *self {
            NormPlacement::None => None,
            NormPlacement::Pre(n)
            | NormPlacement::Post(n)
            | NormPlacement::Sandwich(n)
            | NormPlacement::Sum(n) => Some(n),
        }
    }
    /// The norm of the input.
    pub fn before(&self) -> Option<Norm> {
        match *self {
            NormPlacement::Pre(n) | NormPlacement::Sandwich(n) => Some(n),
            _ => None,
        }
    }
    /// The norm of the result, or of the sum.
    pub fn after(&self) -> Option<Norm> {
        match *self {
            NormPlacement::Post(n) | NormPlacement::Sandwich(n) | NormPlacement::Sum(n) => Some(n),
            _ => None,
        }
    }
}

impl Spec {
    /// Whether every position sees all others of its text, which then cannot be cut.
    pub fn is_encoder(&self) -> bool {
        let mut attentions = self.layers.iter().filter_map(Layer::attention);
        attentions.any(|a| !a.causal)
    }

    /// Streams beside each other; one in most.
    pub fn streams(&self) -> usize {
        let mut parts = self.layers.iter().flat_map(Layer::parts);
        let predicts = parts.find_map(|p| match p {
            Part::Predict(a) => Some(a.streams),
            _ => None,
        });
        predicts.unwrap_or(1)
    }

    /// Whether sequences carry states beside keys and values.
    pub fn has_state(&self) -> bool {
        self.layers.iter().any(|l| l.recurrent().is_some())
    }

    /// More layers than any model has, fewer than would be a burden.
    pub const MAX_LAYERS: usize = 4096;

    /// Checks that the numbers make sense together, so that nothing later
    /// has to: all are positive and bounded, heads divide, rotations fit.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        bounded("the vocabulary size", self.vocab, 1 << 22)?;
        bounded("the hidden size", self.hidden, 1 << 17)?;
        bounded("the context length", self.context, 1 << 28)?;
        bounded("the number of layers", self.layers.len(), Spec::MAX_LAYERS)?;
        positive("the embedding scale", self.embedding.scale)?;
        if let Some(cap) = self.head.and_then(|h| h.soft_cap) {
            positive("the logit soft cap", cap)?;
        }
        for rope in &self.ropes {
            rope.validate()?;
        }
        if let Some(scale) = self
            .head
            .map(|h| h.scale)
            .filter(|s| !s.is_finite() || *s == 0.0)
        {
            return Err(format!("the logits' factor is {scale}"));
        }
        [self.final_norm, self.embedding.norm]
            .iter()
            .flatten()
            .try_for_each(epsilon)?;
        if let Some(c) = self.classifier {
            bounded("the number of labels", c.labels, Classifier::MOST)?;
            let norm = c.dense.and_then(|d| d.norm);
            norm.as_ref().map_or(Ok(()), epsilon)?;
        }
        let last = self.embedding.first_position;
        bounded("the first position's vector", last + 1, self.context)?;
        if let Some(p) = self.embedding.per_layer {
            p.validate(self.layers.len())?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            bounded("the number of a layer's blocks", layer.blocks.len(), 8)?;
            let kinds: HashSet<_> = layer.parts().map(std::mem::discriminant).collect();
            if kinds.len() < layer.parts().count() {
                return Err("a layer has two parts of one kind".into());
            }
            for block in &layer.blocks {
                self.validate_block(block, true)?;
                self.validate_sharing(i, block)?;
            }
        }
        Ok(())
    }

    fn validate_block(&self, block: &Block, outer: bool) -> Result<(), String> {
        if !block.scale.is_finite() {
            return Err(format!("a block's residual factor is {}", block.scale));
        }
        block.norm.norm().as_ref().map_or(Ok(()), epsilon)?;
        match &block.part {
            Part::Attention(a) => self.validate_attention(a),
            Part::FeedForward(f) => bounded("the feed-forward size", f.inner, 1 << 20),
            Part::Experts(e) => validate_experts(e),
            Part::Recurrent(r) => r.validate(),
            Part::Predict(a) | Part::Correct(a) => {
                a.validate()?;
                match self.embedding.per_layer {
                    Some(_) => Ok(()),
                    None => Err("there are several streams, but no vectors of layers".into()),
                }
            }
            Part::Laurel(l) => bounded("laurel_rank", l.rank, 1 << 16),
            Part::Times(f) => finite("a factor of the stream", *f),
            Part::ReadsPerLayer(_) if self.embedding.per_layer.is_none() => {
                Err("a layer reads vectors of tokens for it, but there are none".into())
            }
            Part::ReadsPerLayer(_) | Part::Factor => Ok(()),
            Part::Parallel(_) if !outer => Err("parallel blocks within parallel blocks".into()),
            Part::Parallel(blocks) => {
                bounded("the number of parallel blocks", blocks.len(), 4)?;
                let sums = |b: &Block| matches!(b.norm, NormPlacement::Sum(_));
                if blocks.iter().any(sums) {
                    return Err("a parallel block cannot normalise the sum".into());
                }
                let mut attends = blocks[1..].iter().flat_map(Block::parts);
                if attends.any(|p| matches!(p, Part::Attention(_))) {
                    return Err("attention is the first of parallel blocks".into());
                }
                blocks
                    .iter()
                    .try_for_each(|b| self.validate_block(b, false))
            }
        }
    }

    /// Checks that keys which a layer reads are there.
    fn validate_sharing(&self, layer: usize, block: &Block) -> Result<(), String> {
        let Part::Attention(a) = &block.part else {
            return Ok(());
        };
        let Some(shared) = a.shares else {
            return Ok(());
        };
        let of = self.layers[..layer].get(shared).and_then(Layer::attention);
        let fits = of.is_some_and(|o| {
            o.shares.is_none() && (o.kv_heads, o.head_dim) == (a.kv_heads, a.head_dim)
        });
        match fits && a.latent.is_none() && a.clip.is_none() {
            true => Ok(()),
            false => Err(format!(
                "layer {layer} cannot read the keys and values of layer {shared}"
            )),
        }
    }

    fn validate_attention(&self, a: &Attention) -> Result<(), String> {
        bounded("the number of attention heads", a.heads, 1 << 12)?;
        bounded("the number of key-value heads", a.kv_heads, 1 << 12)?;
        let max = rustml_kernels::attention::MAX_HEAD_DIM;
        bounded("the head size", a.head_dim, max)?;
        positive("the attention scale", a.scale)?;
        if !a.heads.is_multiple_of(a.kv_heads) {
            return Err(format!(
                "{} attention heads cannot be shared among {} key-value heads",
                a.heads, a.kv_heads
            ));
        }
        if let Some(window) = a.window {
            bounded("the sliding window", window, usize::MAX)?;
        }
        if let Some(limit) = a.clip {
            positive("the limit of queries, keys and values", limit)?;
            let whole = a
                .qk_norm
                .is_none_or(|n| n.over == NormedOver::Row && !n.after_rope);
            if !whole {
                return Err(
                    "queries are clipped and their heads normalised, which is not supported".into(),
                );
            }
        }
        if let Some(l) = a.latent {
            bounded("the rank of latent attention", l.rank, 1 << 16)?;
            bounded("the rank of the queries", l.query.unwrap_or(1), 1 << 16)?;
            bounded("the rotated part of a head", l.rotated, a.head_dim - 1)?;
            bounded("the size of a value", l.value, a.head_dim)?;
            positive("the epsilon of the latent norms", l.eps)?;
            let plain = a.qk_norm.is_none() && a.clip.is_none() && a.gate.is_none();
            if !plain || a.kv_heads != a.heads {
                return Err("latent attention with other norms, heads or gates".into());
            }
        }
        if let Some(t) = a.temperature {
            positive("the positions of one temperature", t.every)?;
            finite("the growth of the temperature", t.growth)?;
        }
        if let Some(r) = a.relative {
            bounded("the number of ranges of distances", r.ranges, 1 << 12)?;
            bounded("the largest distance", r.reach, 1 << 16)?;
            if !r.ranges.is_multiple_of(4) || r.reach <= r.ranges / 4 {
                return Err(format!(
                    "{} ranges of distances up to {}",
                    r.ranges, r.reach
                ));
            }
        }
        if let Some(factor) = a.alibi {
            finite("the factor of the slopes", factor)?;
        }
        if let Some(chunk) = a.chunk {
            bounded("the attention chunk", chunk, usize::MAX)?;
        }
        if let Some(cap) = a.soft_cap {
            positive("the attention soft cap", cap)?;
        }
        if let Some(rope) = a.rope {
            let Some(rope) = self.ropes.get(rope) else {
                return Err(format!("a layer has rotation {rope}, which is not there"));
            };
            if rope.dims > a.head_dim {
                return Err(format!(
                    "{} values of a head are rotated, but a head has {}",
                    rope.dims, a.head_dim
                ));
            }
        }
        a.qk_norm.map_or(Ok(()), |n| epsilon(&n.norm))
    }
}

fn validate_experts(e: &Experts) -> Result<(), String> {
    bounded("the number of experts", e.router.experts, 1 << 12)?;
    if let Some(fault) = e.router.fault() {
        return Err(fault);
    }
    bounded("the size of an expert", e.expert.inner, 1 << 20)?;
    let shared = e.shared.map_or(1, |s| s.expert.inner);
    bounded("the size of the shared expert", shared, 1 << 20)?;
    match e.router.scale.is_finite() {
        true => Ok(()),
        false => Err(format!("the experts' factor is {}", e.router.scale)),
    }
}

pub(crate) fn bounded(name: &str, value: usize, max: usize) -> Result<(), String> {
    match value {
        0 => Err(format!("{name} is 0")),
        v if v > max => Err(format!(
            "{name} is {v}, more than the {max} that can be handled"
        )),
        _ => Ok(()),
    }
}

fn finite(name: &str, v: f32) -> Result<(), String> {
    match v.is_finite() {
        true => Ok(()),
        false => Err(format!("{name} is {v}")),
    }
}

pub(crate) fn positive(name: &str, v: f32) -> Result<(), String> {
    match v.is_finite() && v > 0.0 {
        true => Ok(()),
        false => Err(format!("{name} is {v}, but must be positive")),
    }
}

fn epsilon(norm: &Norm) -> Result<(), String> {
    match norm.eps.is_finite() && norm.eps >= 0.0 {
        true => Ok(()),
        false => Err(format!(
            "the epsilon of the norms is {}, but must not be negative",
            norm.eps
        )),
    }
}

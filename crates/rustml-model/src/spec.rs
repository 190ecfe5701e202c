//! An architecture as data.
//!
//! What differs between models is written here as enums that carry their
//! parameters; the forward pass reads nothing else. What varies from layer to
//! layer is simply another [`Layer`] at that index.

pub use rustml_kernels::ops::{Activation, NormKind};

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
    /// The norm after the last layer.
    pub final_norm: Norm,
    /// How vectors become logits.
    pub head: Head,
}

/// How tokens become vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// Factor of every embedding.
    pub scale: f32,
    /// Whether a learned vector for each of the `context` positions is added.
    pub learned_positions: bool,
}

/// How vectors become logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Whether the embedding serves as the head's weights.
    pub tied: bool,
    /// `cap * tanh(logit / cap)`, if any.
    pub soft_cap: Option<f32>,
}

/// One layer: attention, then a feed-forward, each added to the stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Where the norms are.
    pub wiring: Wiring,
    /// All norms of the stream in this layer.
    pub norm: Norm,
    /// Attention.
    pub attention: Attention,
    /// Feed-forward.
    pub feed_forward: FeedForward,
}

/// Where a layer normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Before each part: `x + f(norm(x))`.
    Pre,
    /// Before and after each part: `x + norm(f(norm(x)))`.
    Sandwich,
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
    /// Index into [`Spec::ropes`], if queries and keys are rotated.
    pub rope: Option<usize>,
    /// Norm of every query and key head.
    pub qk_norm: Option<Norm>,
    /// Positions a query sees, itself included, if not all.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)`, if any.
    pub soft_cap: Option<f32>,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
}

/// Feed-forward of one layer.
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
}

/// A rotation of queries and keys by position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Values of a head that are rotated, in pairs `i`, `i + dims / 2`.
    pub dims: usize,
    /// `rope_theta`: the base of the frequencies.
    pub base: f32,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How a rotation's frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by the same factor (Chen et al., "Extending Context Window of
    /// Large Language Models via Positional Interpolation").
    Linear {
        /// Positions are divided by it.
        factor: f32,
    },
    /// By wavelength, as Llama 3.1 does: short ones stay, long ones are
    /// divided by `factor`, those between are blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original / low` are long.
        low: f32,
        /// Wavelengths below `original / high` are short.
        high: f32,
        /// Context before stretching.
        original: f32,
    },
    /// Each frequency by its own divisor, as GGUF files store them.
    Factors(Vec<f32>),
}

impl Rope {
    /// The angle by which each pair turns from one position to the next.
    pub fn frequencies(&self) -> Vec<f32> {
        let pairs = self.dims / 2;
        let plain = (0..pairs).map(|i| {
            let exponent = (2 * i) as f32 / self.dims as f32;
            1.0 / self.base.powf(exponent)
        });
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Factors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
            &RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => plain
                .map(|f| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect(),
        }
    }
}

impl Spec {
    /// More layers than any model has, fewer than would be a burden.
    pub const MAX_LAYERS: usize = 4096;

    /// Checks that the numbers make sense together, so that nothing later
    /// has to: all are positive and bounded, heads divide, rotations fit.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        let bounded = |name: &str, value: usize, max: usize| match value {
            0 => Err(format!("{name} is 0")),
            v if v > max => Err(format!(
                "{name} is {v}, more than the {max} that can be handled"
            )),
            _ => Ok(()),
        };
        let positive = |name: &str, v: f32| match v.is_finite() && v > 0.0 {
            true => Ok(()),
            false => Err(format!("{name} is {v}, but must be positive")),
        };
        bounded("the vocabulary size", self.vocab, 1 << 22)?;
        bounded("the hidden size", self.hidden, 1 << 17)?;
        bounded("the context length", self.context, 1 << 28)?;
        bounded("the number of layers", self.layers.len(), Spec::MAX_LAYERS)?;
        positive("the embedding scale", self.embedding.scale)?;
        if let Some(cap) = self.head.soft_cap {
            positive("the logit soft cap", cap)?;
        }
        for rope in &self.ropes {
            positive("the rope base", rope.base)?;
            bounded("the number of rotated values", rope.dims, 1 << 12)?;
            if !rope.dims.is_multiple_of(2) {
                return Err(format!(
                    "{} values of a head are rotated, an odd number",
                    rope.dims
                ));
            }
            match &rope.scaling {
                RopeScaling::None => {}
                RopeScaling::Linear { factor } => positive("the rope scaling factor", *factor)?,
                RopeScaling::Factors(f) if f.len() != rope.dims / 2 => {
                    return Err(format!(
                        "there are {} rope factors (rope_freqs.weight), but {} pairs are rotated",
                        f.len(),
                        rope.dims / 2
                    ));
                }
                RopeScaling::Factors(f) => {
                    f.iter().try_for_each(|f| positive("a rope factor", *f))?;
                }
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    positive("the rope scaling factor", *factor)?;
                    positive("low_freq_factor", *low)?;
                    positive("original_max_position_embeddings", *original)?;
                    positive("high_freq_factor minus low_freq_factor", high - low)?;
                }
            }
        }
        for layer in &self.layers {
            let a = &layer.attention;
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
            bounded("the feed-forward size", layer.feed_forward.inner, 1 << 20)?;
            let norms = [Some(layer.norm), a.qk_norm, Some(self.final_norm)];
            for norm in norms.into_iter().flatten() {
                if !norm.eps.is_finite() || norm.eps < 0.0 {
                    return Err(format!(
                        "the epsilon of the norms is {}, but must not be negative",
                        norm.eps
                    ));
                }
            }
        }
        Ok(())
    }
}

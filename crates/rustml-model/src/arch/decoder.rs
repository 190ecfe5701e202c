//! Decoders of the usual kind: layers of attention and a feed-forward. What an
//! architecture does not say is as Llama has it.

use super::rope::{gguf_rope_scaling, hf_rope, HfRope};
use super::{head_dim, hf_activation};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

/// How the blocks of a layer are put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Placement {
    /// A norm before each part.
    Pre,
    /// A norm after each part.
    Post,
    /// Both.
    Sandwich,
    /// Both parts read the same normalised input.
    SharedParallel,
    /// Both parts read the same input, each through a norm of its own.
    Parallel,
}

/// A decoder, as its files and its architecture say.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    pub vocab: usize,
    pub hidden: usize,
    pub context: usize,
    pub norm: Norm,
    pub placement: Placement,
    /// Attention of each layer.
    pub attentions: Vec<Attention>,
    /// What carries a state in its place, in those layers that have it; empty where none
    /// has.
    pub recurrent: Vec<Option<Recurrent>>,
    pub feed_forward: FeedForward,
    /// Activations of the layers' feed-forwards, where they differ.
    pub activations: Vec<Activation>,
    /// Experts in place of the feed-forward, of those layers that have them.
    pub experts: Option<(Experts, Vec<bool>)>,
    /// Factor of what experts add.
    pub experts_scale: f32,
    pub ropes: Vec<Rope>,
    pub embedding: Embedding,
    pub head: Head,
    /// Factor of what each block adds to the stream.
    pub residual: f32,
}

/// What config.json need not say, since the class of the model knows it.
pub(super) struct Defaults {
    pub eps: f32,
    pub rope_base: f32,
    pub tied: bool,
    pub kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub activation: &'static str,
    pub context: Option<usize>,
    /// The feed-forward's size in those of the stream, where the file may say none.
    pub inner: Option<usize>,
    /// Part of a head that is rotated.
    pub rotated: f32,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            eps: 1e-6,
            rope_base: 10_000.0,
            tied: false,
            kv_heads: None,
            head_dim: None,
            activation: "silu",
            context: None,
            inner: None,
            rotated: 1.0,
        }
    }
}

/// Types of layers in config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerType {
    Full,
    Sliding,
}

impl Decoder {
    /// A decoder by the usual keys of config.json.
    pub fn from_config(c: &Config, d: Defaults) -> Result<Decoder> {
        let need = |keys: &[&str]| {
            let missing = || c.error(format!("{} is missing", keys[0]));
            c.usize_of(keys)?.ok_or_else(missing)
        };
        let hidden = need(&["hidden_size", "n_embd"])?;
        let heads = need(&["num_attention_heads", "n_head"])?;
        let own = c.usize("head_dim")?.or(d.head_dim);
        let head_dim = match own {
            Some(n) => n,
            None => head_dim(hidden, heads).map_err(|e| c.error(e))?,
        };
        let eps_keys = [
            "rms_norm_eps",
            "layer_norm_eps",
            "norm_eps",
            "norm_epsilon",
            "layer_norm_epsilon",
        ];
        let eps = c.f32_of(&eps_keys)?;
        let rope = rope_of(c, &d, head_dim, None)?;
        let bias = c.bool("attention_bias")?.unwrap_or(false);
        let layers = need(&["num_hidden_layers", "n_layer"])?;
        let kv_heads = c.usize("num_key_value_heads")?.or(d.kv_heads);
        let attention = Attention {
            rope: Some(0),
            qkv_bias: bias,
            out_bias: bias,
            ..Attention::plain(heads, kv_heads.unwrap_or(heads), head_dim)
        };
        let activation = match c.str("hidden_activation")? {
            Some(_) => hf_activation(c, "hidden_activation", d.activation)?,
            None => hf_activation(c, "hidden_act", d.activation)?,
        };
        let context = c.usize_of(&["max_position_embeddings", "n_positions"])?;
        let context = context.or(d.context);
        Ok(Decoder {
            vocab: c.need_usize("vocab_size")?,
            hidden,
            context: rope
                .context(context.ok_or_else(|| c.error("max_position_embeddings is missing"))?),
            norm: rms(eps.unwrap_or(d.eps)),
            placement: Placement::Pre,
            attentions: super::repeat(attention, layers).map_err(|e| c.error(e))?,
            feed_forward: FeedForward {
                sparsity: None,
                inner: match d.inner {
                    Some(times) => c
                        .usize_of(&["intermediate_size", "ffn_hidden_size", "n_inner"])?
                        .unwrap_or(hidden.saturating_mul(times)),
                    None => need(&["intermediate_size"])?,
                },
                activation,
                gated: true,
                bias: c.bool("mlp_bias")?.unwrap_or(false),
            },
            recurrent: Vec::new(),
            activations: Vec::new(),
            experts: None,
            experts_scale: 1.0,
            ropes: vec![rope],
            embedding: plain_embedding(),
            head: plain_head(c.bool("tie_word_embeddings")?.unwrap_or(d.tied)),
            residual: 1.0,
        })
    }

    /// A decoder by the usual keys of GGUF.
    pub fn from_gguf(g: &Gguf) -> Result<Decoder> {
        let d = Decoder::from_gguf_with_experts(g)?;
        match g.usize("expert_count")?.unwrap_or(0) {
            0 => Ok(d),
            _ => Err(g.error("this architecture has no mixture of experts")),
        }
    }

    /// The same where there may be experts.
    pub fn from_gguf_with_experts(g: &Gguf) -> Result<Decoder> {
        let hidden = g.need_usize("embedding_length")?;
        let layers = g.need_usize("block_count")?;
        super::repeat((), layers).map_err(|e| g.error(e))?;
        // Those of the layers may differ; the architecture then looks itself.
        let heads = g.usize_of_layers("attention.head_count", layers)?;
        let heads = heads.into_iter().find(|n| *n > 0).unwrap_or(0);
        let head_dim = match g.usize("attention.key_length")? {
            Some(n) => n,
            None => head_dim(hidden, heads).map_err(|e| g.error(e))?,
        };
        let (of_rms, of_layers) = (
            "attention.layer_norm_rms_epsilon",
            "attention.layer_norm_epsilon",
        );
        let norm = match (g.f32(of_rms)?, g.f32(of_layers)?) {
            (None, Some(eps)) => layer_norm(eps, true),
            _ => rms(g.need_f32(of_rms)?),
        };
        let has = |name: &str| g.has_tensor(name);
        let scale = g.f32("attention.scale")?.filter(|s| *s != 0.0);
        // Layers without attention have none.
        let kv_heads = match g.usize("attention.head_count_kv") {
            Ok(one) => one.unwrap_or(heads),
            Err(error) => {
                let all = g.usize_of_layers("attention.head_count_kv", layers);
                let all = all.map_err(|_| error)?.into_iter();
                all.filter(|n| *n > 0).max().unwrap_or(heads)
            }
        };
        let plain = Attention::plain(heads, kv_heads, head_dim);
        let attention = Attention {
            scale: scale.unwrap_or(plain.scale),
            rope: Some(0),
            qkv_bias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            out_bias: has("blk.0.attn_output.bias"),
            ..plain
        };
        let rope = Rope {
            dims: g.usize("rope.dimension_count")?.unwrap_or(head_dim),
            base: g.f32("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: gguf_rope_scaling(g)?,
        };
        Ok(Decoder {
            vocab: g.tensor_rows("token_embd.weight")?,
            hidden,
            context: rope.context(g.need_usize("context_length")?),
            norm,
            placement: Placement::Pre,
            attentions: super::repeat(attention, layers).map_err(|e| g.error(e))?,
            feed_forward: FeedForward {
                sparsity: None,
                // Of experts alone, this may be missing.
                inner: match g.usize("expert_count")?.unwrap_or(0) {
                    0 => g.need_usize("feed_forward_length")?,
                    _ => g.usize("feed_forward_length")?.unwrap_or(0),
                },
                activation: Activation::Silu,
                gated: true,
                bias: has("blk.0.ffn_up.bias"),
            },
            recurrent: Vec::new(),
            activations: Vec::new(),
            experts: None,
            experts_scale: 1.0,
            ropes: vec![rope],
            embedding: plain_embedding(),
            head: Head {
                bias: has("output.bias"),
                ..plain_head(!has("output.weight"))
            },
            residual: 1.0,
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.attentions.len()
    }

    /// Puts experts in place of the feed-forward of these layers.
    pub fn experts(&mut self, experts: Experts, here: impl Fn(usize) -> bool) {
        let here = (0..self.layers()).map(here).collect();
        self.experts = Some((experts, here));
    }

    /// Changes the attention of all layers.
    pub fn each(&mut self, mut f: impl FnMut(usize, &mut Attention)) {
        self.attentions
            .iter_mut()
            .enumerate()
            .for_each(|(i, a)| f(i, a));
    }

    /// A sliding window in the layers that a GGUF file lists, whose rotation is the second
    /// one. Without a list it is as `usual` says, or none.
    pub fn gguf_windows(&mut self, g: &Gguf, usual: Option<fn(usize) -> bool>) -> Result<()> {
        let window = g.usize("attention.sliding_window")?.filter(|w| *w > 0);
        let listed = match (g.bools("attention.sliding_window_pattern"), usual) {
            (_, _) if window.is_none() => return Ok(()),
            (Some(listed), _) => listed.to_vec(),
            (None, None) => return Ok(()),
            (None, Some(usual)) => (0..self.layers()).map(usual).collect(),
        };
        if listed.len() != self.layers() {
            return Err(g.error(format!(
                "attention.sliding_window_pattern lists {} layers of {}",
                listed.len(),
                self.layers()
            )));
        }
        let of_windows = Rope {
            base: g.f32("rope.freq_base_swa")?.unwrap_or(self.ropes[0].base),
            scaling: RopeScaling::None,
            dims: match g.usize("rope.dimension_count_swa")? {
                Some(dims) => dims,
                None => self.ropes[0].dims,
            },
        };
        self.ropes.push(of_windows);
        self.each(|i, a| {
            a.window = window.filter(|_| listed[i]);
            a.rope = Some(usize::from(listed[i]));
        });
        Ok(())
    }

    /// Puts what carries a state in place of the attention of these layers.
    pub fn recurrent(&mut self, recurrent: Recurrent, here: impl Fn(usize) -> bool) {
        let here = (0..self.layers()).map(|i| here(i).then_some(recurrent));
        self.recurrent = here.collect();
    }

    /// Gives all layers norms of queries and keys.
    pub fn qk_norm(&mut self, over: NormedOver, after_rope: bool) {
        let norm = self.norm;
        self.each(|_, a| {
            a.qk_norm = Some(QkNorm {
                norm,
                over,
                after_rope,
                weighted: true,
            });
        });
    }

    /// A layer norm in place of an RMS norm.
    pub fn layer_norms(&mut self, bias: bool) {
        self.norm = layer_norm(self.norm.eps, bias);
    }

    /// The architecture as data.
    pub fn spec(self) -> Spec {
        let norm = match self.placement {
            Placement::Post => NormPlacement::Post(self.norm),
            Placement::Sandwich => NormPlacement::Sandwich(self.norm),
            _ => NormPlacement::Pre(self.norm),
        };
        let layer = |(i, a): (usize, &Attention)| {
            let mut feed_forward = self.feed_forward;
            if let Some(own) = self.activations.get(i) {
                feed_forward.activation = *own;
            }
            let mut layer = Layer::of(norm, *a, feed_forward);
            if let Some(Some(recurrent)) = self.recurrent.get(i) {
                layer.blocks[0].part = Part::Recurrent(*recurrent);
            }
            if let Some((experts, here)) = &self.experts {
                if here[i] {
                    layer.blocks[1].part = Part::Experts(*experts);
                }
            }
            for block in &mut layer.blocks {
                block.scale = self.residual;
                if matches!(block.part, Part::Experts(_)) {
                    block.scale *= self.experts_scale;
                }
            }
            let (outer, inner) = match self.placement {
                Placement::SharedParallel => (norm, NormPlacement::None),
                Placement::Parallel => (NormPlacement::None, norm),
                _ => return layer,
            };
            for block in &mut layer.blocks {
                block.norm = inner;
                block.scale /= self.residual;
            }
            Layer {
                blocks: vec![Block {
                    norm: outer,
                    part: Part::Parallel(layer.blocks),
                    scale: self.residual,
                }],
            }
        };
        Spec {
            classifier: None,
            vocab: self.vocab,
            hidden: self.hidden,
            context: self.context,
            embedding: self.embedding,
            layers: self.attentions.iter().enumerate().map(layer).collect(),
            ropes: self.ropes,
            final_norm: Some(self.norm),
            head: Some(self.head),
        }
    }
}

/// The rotation that config.json describes, of layers of one type if it is told.
pub(super) fn rope_of(
    c: &Config,
    d: &Defaults,
    head_dim: usize,
    layer_type: Option<&'static str>,
) -> Result<Rope> {
    hf_rope(
        c,
        HfRope {
            layer_type,
            default_base: d.rope_base,
            partial: Some(d.rotated),
            ..HfRope::default()
        },
        head_dim,
    )
}

/// `layer_types` of config.json, where it is set.
pub(super) fn layer_types(c: &Config, layers: usize) -> Result<Option<Vec<LayerType>>> {
    let Some(types) = c.strings("layer_types")? else {
        return Ok(None);
    };
    if types.len() != layers {
        return Err(c.error(format!(
            "layer_types names {} layers, but num_hidden_layers is {layers}",
            types.len()
        )));
    }
    let kinds = types.iter().map(|kind| match *kind {
        "sliding_attention" => Ok(LayerType::Sliding),
        "full_attention" => Ok(LayerType::Full),
        other => Err(c.error(format!(
            "layer_types names {}, but only sliding_attention and full_attention are known",
            show(other)
        ))),
    });
    kinds.collect::<Result<_>>().map(Some)
}

/// Every `period`-th layer sees everything, the others a window.
pub(super) fn period(layers: usize, period: usize) -> Vec<LayerType> {
    let kind = |i: usize| match period > 0 && (i + 1).is_multiple_of(period) {
        true => LayerType::Full,
        false => LayerType::Sliding,
    };
    (0..layers).map(kind).collect()
}

pub(super) fn rms(eps: f32) -> Norm {
    Norm {
        kind: NormKind::Rms,
        eps,
        bias: false,
    }
}

pub(super) fn layer_norm(eps: f32, bias: bool) -> Norm {
    Norm {
        kind: NormKind::Layer,
        eps,
        bias,
    }
}

pub(super) fn plain_embedding() -> crate::spec::Embedding {
    crate::spec::Embedding {
        scale: 1.0,
        learned_positions: false,
        first_position: 0,
        types: false,
        norm: None,
        per_layer: None,
    }
}

pub(super) fn plain_head(tied: bool) -> crate::spec::Head {
    crate::spec::Head {
        tied,
        bias: false,
        scale: 1.0,
        soft_cap: None,
    }
}

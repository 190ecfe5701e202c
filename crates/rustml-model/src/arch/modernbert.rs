//! ModernBERT (Warner et al., "Smarter, Better, Faster, Longer"): an encoder of texts with
//! norms before each part, gates, rotations, and a window in two of three layers.

use super::classifier::{classifies, labels, ranks};
use super::decoder::{layer_norm, layer_types, rope_of, Defaults, LayerType};
use super::{hf_activation, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::{self, *};

pub const ARCH: Arch = Arch {
    gguf: "modern-bert",
    about: "ModernBERT: gte-modernbert, nomic-embed modernbert",
    hf: &[
        "ModernBertModel",
        "ModernBertForMaskedLM",
        "ModernBertForSequenceClassification",
    ],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Embedding, "embeddings.tok_embeddings", AsIs),
        name(EmbeddingNorm, "embeddings.norm", AsIs),
        name(FinalNorm, "final_norm", AsIs),
        name(AttnNorm, "layers.{}.attn_norm", AsIs),
        name(Query, "layers.{}.attn.Wqkv", Fused),
        name(Key, "layers.{}.attn.Wqkv", Fused),
        name(Value, "layers.{}.attn.Wqkv", Fused),
        name(AttnOut, "layers.{}.attn.Wo", AsIs),
        name(FfnNorm, "layers.{}.mlp_norm", AsIs),
        name(Gate, "layers.{}.mlp.Wi", Fused),
        name(Up, "layers.{}.mlp.Wi", Fused),
        name(Down, "layers.{}.mlp.Wo", AsIs),
        name(ClassDense, "head.dense", AsIs),
        name(ClassNorm, "head.norm", AsIs),
        name(ClassOut, "classifier", AsIs),
    ],
    gguf_names: &[
        name(ClassDense, "cls", AsIs),
        name(ClassNorm, "cls.norm", AsIs),
        name(ClassOut, "cls.output", AsIs),
        name(EmbeddingNorm, "token_embd_norm", AsIs),
        name(Query, "blk.{}.attn_qkv", Fused),
        name(Key, "blk.{}.attn_qkv", Fused),
        name(Value, "blk.{}.attn_qkv", Fused),
        name(Gate, "blk.{}.ffn_up", Fused),
        name(Up, "blk.{}.ffn_up", Fused),
    ],
    // What guesses words.
    ignored: &["head.", "decoder.", "cls.", ".rotary_emb.inv_freq"],
};

const GLOBAL: f32 = 160_000.0;
const LOCAL: f32 = 10_000.0;

struct Sizes {
    vocab: usize,
    hidden: usize,
    context: usize,
    heads: usize,
    inner: usize,
    norm: Norm,
    activation: Activation,
    attention_bias: bool,
    mlp_bias: bool,
    /// Of layers that see everything, and of those that do not.
    ropes: [Rope; 2],
    /// Positions before and after.
    window: usize,
    types: Vec<LayerType>,
}

fn from_config(c: &Config) -> Result<Spec> {
    let (hidden, heads) = (
        c.need_usize("hidden_size")?,
        c.need_usize("num_attention_heads")?,
    );
    let head_dim = super::head_dim(hidden, heads).map_err(|e| c.error(e))?;
    let layers = c.need_usize("num_hidden_layers")?;
    super::repeat((), layers).map_err(|e| c.error(e))?;
    let every = c.usize("global_attn_every_n_layers")?.unwrap_or(3).max(1);
    let types = layer_types(c, layers)?.unwrap_or_else(|| every_nth(layers, every));
    let rope = |kind: &'static str, key: &'static str, base: f32| -> Result<Rope> {
        let defaults = Defaults {
            rope_base: c.f32(key)?.unwrap_or(base),
            ..Defaults::default()
        };
        rope_of(c, &defaults, head_dim, Some(kind))
    };
    let s = Sizes {
        vocab: c.need_usize("vocab_size")?,
        hidden,
        context: c.usize("max_position_embeddings")?.unwrap_or(8192),
        heads,
        inner: c.need_usize("intermediate_size")?,
        norm: layer_norm(
            c.f32_of(&["norm_eps", "layer_norm_eps"])?.unwrap_or(1e-5),
            c.bool("norm_bias")?.unwrap_or(false),
        ),
        activation: hf_activation(c, "hidden_activation", "gelu")?,
        attention_bias: c.bool("attention_bias")?.unwrap_or(false),
        mlp_bias: c.bool("mlp_bias")?.unwrap_or(false),
        ropes: [
            rope("full_attention", "global_rope_theta", GLOBAL)?,
            rope("sliding_attention", "local_rope_theta", LOCAL)?,
        ],
        window: c.usize("local_attention")?.unwrap_or(128) / 2,
        types,
    };
    let norm = s.norm;
    let mut spec = encoder(s, head_dim);
    if classifies(c)? {
        spec.classifier = Some(Classifier {
            labels: labels(c)?,
            mean: match c.str("classifier_pooling")? {
                None | Some("cls") => false,
                Some("mean") => true,
                Some(other) => {
                    let says = format!(
                        "classifier_pooling is {}, but must be cls or mean",
                        show(other)
                    );
                    return Err(c.error(says));
                }
            },
            dense: Some(ClassifierDense {
                bias: c.bool("classifier_bias")?.unwrap_or(false),
                activation: hf_activation(c, "classifier_activation", "gelu")?,
                norm: Some(norm),
            }),
            bias: true,
        });
    }
    Ok(spec)
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let (hidden, heads) = (
        g.need_usize("embedding_length")?,
        g.need_usize("attention.head_count")?,
    );
    let head_dim = super::head_dim(hidden, heads).map_err(|e| g.error(e))?;
    let layers = g.need_usize("block_count")?;
    super::repeat((), layers).map_err(|e| g.error(e))?;
    let types = match g.bools("attention.sliding_window_pattern") {
        Some(listed) if listed.len() == layers => {
            let kind = |l: &bool| {
                if *l {
                    LayerType::Sliding
                } else {
                    LayerType::Full
                }
            };
            listed.iter().map(kind).collect()
        }
        _ => every_nth(
            layers,
            g.usize("attention.sliding_window_pattern")
                .ok()
                .flatten()
                .unwrap_or(3)
                .max(1),
        ),
    };
    let rope = |key: &str, base: f32| -> Result<Rope> {
        Ok(Rope {
            dims: g.usize("rope.dimension_count")?.unwrap_or(head_dim),
            base: g.f32(key)?.unwrap_or(base),
            scaling: RopeScaling::None,
        })
    };
    let s = Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden,
        context: g.need_usize("context_length")?,
        heads,
        inner: g.need_usize("feed_forward_length")?,
        norm: layer_norm(
            g.f32("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
            g.has_tensor("output_norm.bias"),
        ),
        activation: Activation::GeluErf,
        attention_bias: g.has_tensor("blk.0.attn_qkv.bias"),
        mlp_bias: g.has_tensor("blk.0.ffn_up.bias"),
        ropes: [
            rope("rope.freq_base", GLOBAL)?,
            rope("rope.freq_base_swa", LOCAL)?,
        ],
        window: g.usize("attention.sliding_window")?.unwrap_or(128) / 2,
        types,
    };
    let norm = Norm {
        bias: g.has_tensor("cls.norm.bias"),
        ..s.norm
    };
    let mut spec = encoder(s, head_dim);
    spec.classifier = ranks(g, Activation::GeluErf, Some(norm))?;
    Ok(spec)
}

/// The first layer sees everything, and every `n`-th after it.
fn every_nth(layers: usize, n: usize) -> Vec<LayerType> {
    let kind = |i: usize| match i.is_multiple_of(n) {
        true => LayerType::Full,
        false => LayerType::Sliding,
    };
    (0..layers).map(kind).collect()
}

fn encoder(s: Sizes, head_dim: usize) -> Spec {
    let layer = |(i, kind): (usize, &LayerType)| {
        let local = *kind == LayerType::Sliding;
        let attention = Attention {
            causal: false,
            rope: Some(usize::from(local)),
            window: local.then_some(s.window + 1),
            qkv_bias: s.attention_bias,
            out_bias: s.attention_bias,
            ..Attention::plain(s.heads, s.heads, head_dim)
        };
        let feed_forward = FeedForward {
            sparsity: None,
            inner: s.inner,
            activation: s.activation,
            gated: true,
            bias: s.mlp_bias,
        };
        let mut layer = Layer::of(NormPlacement::Pre(s.norm), attention, feed_forward);
        if i == 0 {
            // The embedding's norm was just before.
            layer.blocks[0].norm = NormPlacement::None;
        }
        layer
    };
    Spec {
        classifier: None,
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: spec::Embedding {
            scale: 1.0,
            learned_positions: false,
            first_position: 0,
            types: false,
            norm: Some(s.norm),
            per_layer: None,
        },
        layers: s.types.iter().enumerate().map(layer).collect(),
        ropes: s.ropes.into(),
        final_norm: Some(s.norm),
        head: None,
    }
}

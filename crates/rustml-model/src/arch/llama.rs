//! Llama (Touvron et al., "LLaMA: Open and Efficient Foundation Language
//! Models") and the many models built like it.

use super::rope::{gguf_rope_scaling, hf_rope, HfRope};
use super::{hf_activation, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "llama",
    hf: &["LlamaForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[],
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Interleaved),
        name(Key, "blk.{}.attn_k", Interleaved),
    ],
    ignored: &["rope_freqs.weight", ".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let (hidden, heads) = (
        c.need_usize("hidden_size")?,
        c.need_usize("num_attention_heads")?,
    );
    let head_dim = match c.usize("head_dim")? {
        Some(d) => d,
        None => super::head_dim(hidden, heads).map_err(|e| c.error(e))?,
    };
    let (base, scaling) = hf_rope(
        c,
        HfRope {
            layer_type: None,
            base: "rope_theta",
            default_base: 10_000.0,
            scaling: Some("rope_scaling"),
        },
    )?;
    let attention_bias = c.bool("attention_bias")?.unwrap_or(false);
    spec(Sizes {
        vocab: c.need_usize("vocab_size")?,
        hidden,
        context: c.need_usize("max_position_embeddings")?,
        layers: c.need_usize("num_hidden_layers")?,
        heads,
        kv_heads: c.usize("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        inner: c.need_usize("intermediate_size")?,
        eps: c.f32("rms_norm_eps")?.unwrap_or(1e-6),
        activation: hf_activation(c, "hidden_act", "silu")?,
        rope: Rope {
            dims: head_dim,
            base,
            scaling,
        },
        qk_norm: false,
        qkv_bias: attention_bias,
        out_bias: attention_bias,
        mlp_bias: c.bool("mlp_bias")?.unwrap_or(false),
        tied: c.bool("tie_word_embeddings")?.unwrap_or(false),
    })
    .map_err(|what| c.error(what))
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    if g.usize("expert_count")?.unwrap_or(0) > 0 {
        return Err(g.error("mixtures of experts are not supported yet"));
    }
    let (hidden, heads) = (
        g.need_usize("embedding_length")?,
        g.need_usize("attention.head_count")?,
    );
    let head_dim = match g.usize("attention.key_length")? {
        Some(d) => d,
        None => super::head_dim(hidden, heads).map_err(|e| g.error(e))?,
    };
    let dims = g.usize("rope.dimension_count")?.unwrap_or(head_dim);
    spec(Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden,
        context: g.need_usize("context_length")?,
        layers: g.need_usize("block_count")?,
        heads,
        kv_heads: g.usize("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        inner: g.need_usize("feed_forward_length")?,
        eps: g.need_f32("attention.layer_norm_rms_epsilon")?,
        activation: Activation::Silu,
        rope: Rope {
            dims,
            base: g.f32("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: gguf_rope_scaling(g)?,
        },
        qk_norm: false,
        qkv_bias: g.has_tensor("blk.0.attn_q.bias"),
        out_bias: g.has_tensor("blk.0.attn_output.bias"),
        mlp_bias: g.has_tensor("blk.0.ffn_up.bias"),
        tied: !g.has_tensor("output.weight"),
    })
    .map_err(|what| g.error(what))
}

/// What differs among models built like Llama.
pub(super) struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub context: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inner: usize,
    pub eps: f32,
    pub activation: Activation,
    pub rope: Rope,
    /// Norms of every query and key head.
    pub qk_norm: bool,
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    pub tied: bool,
}

pub(super) fn spec(s: Sizes) -> Result<Spec, String> {
    let norm = Norm {
        kind: NormKind::Rms,
        eps: s.eps,
        bias: false,
    };
    let layer = Layer {
        wiring: Wiring::Pre,
        norm,
        attention: Attention {
            heads: s.heads,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            scale: 1.0 / (s.head_dim as f32).sqrt(),
            rope: Some(0),
            qk_norm: s.qk_norm.then_some(norm),
            window: None,
            soft_cap: None,
            qkv_bias: s.qkv_bias,
            out_bias: s.out_bias,
        },
        feed_forward: FeedForward {
            inner: s.inner,
            activation: s.activation,
            gated: true,
            bias: s.mlp_bias,
        },
    };
    Ok(Spec {
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: crate::spec::Embedding {
            scale: 1.0,
            learned_positions: false,
        },
        ropes: vec![s.rope],
        layers: super::repeat(layer, s.layers)?,
        final_norm: norm,
        head: crate::spec::Head {
            tied: s.tied,
            soft_cap: None,
        },
    })
}

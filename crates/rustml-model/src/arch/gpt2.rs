//! GPT-2 (Radford et al., "Language Models are Unsupervised Multitask
//! Learners"): learned positions, LayerNorm, biases everywhere, tied head. StarCoder
//! (Li et al., "StarCoder: may the source be with you!") has one key and value head.

use super::{hf_activation, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "gpt2",
    about: "GPT-2",
    hf: &["GPT2LMHeadModel"],
    from_config,
    from_gguf,
    hf_prefixes: &["transformer.", ""],
    hf_names: &[
        name(Embedding, "wte", AsIs),
        name(Positions, "wpe", AsIs),
        name(FinalNorm, "ln_f", AsIs),
        name(AttnNorm, "h.{}.ln_1", AsIs),
        name(Query, "h.{}.attn.c_attn", FusedTransposed),
        name(Key, "h.{}.attn.c_attn", FusedTransposed),
        name(Value, "h.{}.attn.c_attn", FusedTransposed),
        name(AttnOut, "h.{}.attn.c_proj", Transposed),
        name(FfnNorm, "h.{}.ln_2", AsIs),
        name(Up, "h.{}.mlp.c_fc", Transposed),
        name(Down, "h.{}.mlp.c_proj", Transposed),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_qkv", Fused),
        name(Key, "blk.{}.attn_qkv", Fused),
        name(Value, "blk.{}.attn_qkv", Fused),
    ],
    // Causal masks that the first checkpoints carry along.
    ignored: &[".attn.bias", ".attn.masked_bias"],
};

pub const STARCODER: Arch = Arch {
    gguf: "starcoder",
    about: "StarCoder, GPT-BigCode",
    hf: &["GPTBigCodeForCausalLM"],
    from_config: starcoder,
    from_gguf: starcoder_gguf,
    hf_names: &[
        name(Embedding, "wte", AsIs),
        name(Positions, "wpe", AsIs),
        name(FinalNorm, "ln_f", AsIs),
        name(AttnNorm, "h.{}.ln_1", AsIs),
        name(Query, "h.{}.attn.c_attn", FusedByGroup),
        name(Key, "h.{}.attn.c_attn", FusedByGroup),
        name(Value, "h.{}.attn.c_attn", FusedByGroup),
        name(AttnOut, "h.{}.attn.c_proj", AsIs),
        name(FfnNorm, "h.{}.ln_2", AsIs),
        name(Up, "h.{}.mlp.c_fc", AsIs),
        name(Down, "h.{}.mlp.c_proj", AsIs),
    ],
    ..ARCH
};

fn starcoder(c: &Config) -> Result<Spec> {
    let multi_query = c.bool("multi_query")?.unwrap_or(true);
    from_keys(c, "gelu_pytorch_tanh", multi_query)
}

fn starcoder_gguf(g: &Gguf) -> Result<Spec> {
    let kv_heads = g.usize("attention.head_count_kv")?.unwrap_or(1);
    let inner = g.tensor_rows("blk.0.ffn_up.weight")?;
    gguf(g, Some(kv_heads), inner)
}

fn from_config(c: &Config) -> Result<Spec> {
    from_keys(c, "gelu_new", false)
}

fn from_keys(c: &Config, activation: &str, one_kv_head: bool) -> Result<Spec> {
    if c.bool("scale_attn_by_inverse_layer_idx")? == Some(true) {
        return Err(c.error("scale_attn_by_inverse_layer_idx is not supported"));
    }
    let hidden = c.need_usize("n_embd")?;
    let scaled = c.bool("scale_attn_weights")?.unwrap_or(true);
    spec(Sizes {
        vocab: c.need_usize("vocab_size")?,
        hidden,
        context: c.need_usize("n_positions")?,
        layers: c.need_usize("n_layer")?,
        heads: c.need_usize("n_head")?,
        kv_heads: one_kv_head.then_some(1),
        inner: c.usize("n_inner")?.unwrap_or(hidden.saturating_mul(4)),
        eps: c.f32("layer_norm_epsilon")?.unwrap_or(1e-5),
        activation: hf_activation(c, "activation_function", activation)?,
        tied: c.bool("tie_word_embeddings")?.unwrap_or(true),
        scaled,
    })
    .map_err(|what| c.error(what))
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    gguf(g, None, g.need_usize("feed_forward_length")?)
}

fn gguf(g: &Gguf, kv_heads: Option<usize>, inner: usize) -> Result<Spec> {
    spec(Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden: g.need_usize("embedding_length")?,
        context: g.need_usize("context_length")?,
        layers: g.need_usize("block_count")?,
        heads: g.need_usize("attention.head_count")?,
        kv_heads,
        inner,
        eps: g.need_f32("attention.layer_norm_epsilon")?,
        activation: Activation::GeluTanh,
        tied: !g.has_tensor("output.weight"),
        scaled: true,
    })
    .map_err(|what| g.error(what))
}

struct Sizes {
    vocab: usize,
    hidden: usize,
    context: usize,
    layers: usize,
    heads: usize,
    /// As many as heads, if not said.
    kv_heads: Option<usize>,
    inner: usize,
    eps: f32,
    activation: Activation,
    tied: bool,
    scaled: bool,
}

fn spec(s: Sizes) -> Result<Spec, String> {
    let head_dim = super::head_dim(s.hidden, s.heads)?;
    let norm = Norm {
        kind: NormKind::Layer,
        eps: s.eps,
        bias: true,
    };
    let plain = Attention::plain(s.heads, s.kv_heads.unwrap_or(s.heads), head_dim);
    let layer = Layer::of(
        NormPlacement::Pre(norm),
        Attention {
            scale: match s.scaled {
                true => plain.scale,
                false => 1.0,
            },
            qkv_bias: true,
            out_bias: true,
            ..plain
        },
        FeedForward {
            sparsity: None,
            inner: s.inner,
            activation: s.activation,
            gated: false,
            bias: true,
        },
    );
    Ok(Spec {
        classifier: None,
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: crate::spec::Embedding {
            scale: 1.0,
            learned_positions: true,
            first_position: 0,
            types: false,
            norm: None,
            per_layer: None,
        },
        ropes: Vec::new(),
        layers: super::repeat(layer, s.layers)?,
        final_norm: Some(norm),
        head: Some(crate::spec::Head {
            tied: s.tied,
            bias: false,
            scale: 1.0,
            soft_cap: None,
        }),
    })
}

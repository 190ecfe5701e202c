//! Qwen 2 and 2.5 (Yang et al., "Qwen2 Technical Report"): like Llama, with
//! biases on queries, keys and values. Qwen 3 (Yang et al., "Qwen3 Technical
//! Report"): norms of queries and keys instead. Heads are rotated by halves, in
//! GGUF files too.

use super::llama::{spec, Sizes};
use super::rope::{gguf_rope_scaling, hf_rope, HfRope};
use super::{hf_activation, Arch};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const QWEN2: Arch = Arch {
    gguf: "qwen2",
    hf: &["Qwen2ForCausalLM"],
    from_config: |c| from_config(c, Generation::Two),
    from_gguf: |g| from_gguf(g, Generation::Two),
    hf_prefixes: &["model.", ""],
    hf_names: &[],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const QWEN3: Arch = Arch {
    gguf: "qwen3",
    hf: &["Qwen3ForCausalLM"],
    from_config: |c| from_config(c, Generation::Three),
    from_gguf: |g| from_gguf(g, Generation::Three),
    ..QWEN2
};

#[derive(Clone, Copy, PartialEq)]
enum Generation {
    Two,
    Three,
}

fn from_config(c: &Config, generation: Generation) -> Result<Spec> {
    // transformers then gives a window to the layers from max_window_layers on;
    // no published model asks for that.
    if c.bool("use_sliding_window")? == Some(true) {
        return Err(c.error("use_sliding_window is true, which is not supported"));
    }
    let (hidden, heads) = (
        c.need_usize("hidden_size")?,
        c.need_usize("num_attention_heads")?,
    );
    let head_dim = match (c.usize("head_dim")?, generation) {
        (Some(d), _) => d,
        (None, Generation::Two) => super::head_dim(hidden, heads).map_err(|e| c.error(e))?,
        (None, Generation::Three) => 128,
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
    let third = generation == Generation::Three;
    let attention_bias = third && c.bool("attention_bias")?.unwrap_or(false);
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
        qk_norm: third,
        qkv_bias: !third || attention_bias,
        out_bias: attention_bias,
        mlp_bias: false,
        tied: c.bool("tie_word_embeddings")?.unwrap_or(false),
    })
    .map_err(|what| c.error(what))
}

fn from_gguf(g: &Gguf, generation: Generation) -> Result<Spec> {
    let (hidden, heads) = (
        g.need_usize("embedding_length")?,
        g.need_usize("attention.head_count")?,
    );
    let head_dim = match g.usize("attention.key_length")? {
        Some(d) => d,
        None => super::head_dim(hidden, heads).map_err(|e| g.error(e))?,
    };
    let third = generation == Generation::Three;
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
            dims: g.usize("rope.dimension_count")?.unwrap_or(head_dim),
            base: g.f32("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: gguf_rope_scaling(g)?,
        },
        qk_norm: third,
        qkv_bias: !third || g.has_tensor("blk.0.attn_q.bias"),
        out_bias: g.has_tensor("blk.0.attn_output.bias"),
        mlp_bias: g.has_tensor("blk.0.ffn_up.bias"),
        tied: !g.has_tensor("output.weight"),
    })
    .map_err(|what| g.error(what))
}

//! GPT-NeoX and Pythia (Black et al., "GPT-NeoX-20B"): layer norms, biases everywhere,
//! a quarter of each head rotated, and parallel parts with norms of their own.
//! Falcon (Almazrouei et al., "The Falcon Series of Open Language Models"): parallel
//! parts without biases that share a norm, or have one each.

use super::decoder::{Decoder, Defaults, Placement};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const GPT_NEOX: Arch = Arch {
    gguf: "gptneox",
    about: "GPT-NeoX, Pythia",
    hf: &["GPTNeoXForCausalLM"],
    from_config: neox,
    from_gguf: neox_gguf,
    hf_prefixes: &["gpt_neox.", ""],
    hf_names: &[
        name(Embedding, "embed_in", AsIs),
        name(FinalNorm, "final_layer_norm", AsIs),
        name(Head, "embed_out", AsIs),
        name(AttnNorm, "layers.{}.input_layernorm", AsIs),
        name(Query, "layers.{}.attention.query_key_value", FusedByGroup),
        name(Key, "layers.{}.attention.query_key_value", FusedByGroup),
        name(Value, "layers.{}.attention.query_key_value", FusedByGroup),
        name(AttnOut, "layers.{}.attention.dense", AsIs),
        name(Up, "layers.{}.mlp.dense_h_to_4h", AsIs),
        name(Down, "layers.{}.mlp.dense_4h_to_h", AsIs),
    ],
    gguf_names: QKV,
    ignored: &[
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ],
};

pub const FALCON: Arch = Arch {
    gguf: "falcon",
    about: "Falcon",
    hf: &["FalconForCausalLM", "RWForCausalLM"],
    from_config: falcon,
    from_gguf: falcon_gguf,
    hf_prefixes: &["transformer.", ""],
    hf_names: &[
        name(Embedding, "word_embeddings", AsIs),
        name(FinalNorm, "ln_f", AsIs),
        name(AttnNorm, "h.{}.input_layernorm", AsIs),
        name(AttnNorm, "h.{}.ln_attn", AsIs),
        name(FfnNorm, "h.{}.post_attention_layernorm", AsIs),
        name(FfnNorm, "h.{}.ln_mlp", AsIs),
        name(Query, "h.{}.self_attention.query_key_value", FusedByGroup),
        name(Key, "h.{}.self_attention.query_key_value", FusedByGroup),
        name(Value, "h.{}.self_attention.query_key_value", FusedByGroup),
        name(AttnOut, "h.{}.self_attention.dense", AsIs),
        name(Up, "h.{}.mlp.dense_h_to_4h", AsIs),
        name(Down, "h.{}.mlp.dense_4h_to_h", AsIs),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_qkv", Fused),
        name(Key, "blk.{}.attn_qkv", Fused),
        name(Value, "blk.{}.attn_qkv", Fused),
        // Where there are two, the second one is that of attention.
        name(AttnNorm, "blk.{}.attn_norm_2", AsIs),
        name(AttnNorm, "blk.{}.attn_norm", AsIs),
        name(FfnNorm, "blk.{}.attn_norm", AsIs),
    ],
    ignored: &[".rotary_emb.inv_freq"],
};

const QKV: &[super::Name] = &[
    name(Query, "blk.{}.attn_qkv", Fused),
    name(Key, "blk.{}.attn_qkv", Fused),
    name(Value, "blk.{}.attn_qkv", Fused),
];

fn neox(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            activation: "gelu",
            rotated: 0.25,
            ..Defaults::default()
        },
    )?;
    let bias = c.bool("attention_bias")?.unwrap_or(true);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias, bias));
    // Until transformers 5 the base has a name of its own.
    if let Some(base) = c.f32("rotary_emb_base")? {
        d.ropes[0].base = base;
    }
    let parallel = c.bool("use_parallel_residual")?.unwrap_or(true);
    neox_parts(&mut d, parallel);
    Ok(d.spec())
}

fn neox_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.feed_forward.activation = Activation::GeluErf;
    let parallel = g.bool("use_parallel_residual")?.unwrap_or(true);
    neox_parts(&mut d, parallel);
    Ok(d.spec())
}

fn neox_parts(d: &mut Decoder, parallel: bool) {
    d.layer_norms(true);
    (d.feed_forward.gated, d.feed_forward.bias) = (false, true);
    d.placement = match parallel {
        true => Placement::Parallel,
        false => Placement::Pre,
    };
}

fn falcon(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            tied: true,
            activation: "gelu",
            context: Some(2048),
            inner: Some(4),
            ..Defaults::default()
        },
    )?;
    let new = c.bool("new_decoder_architecture")?.unwrap_or(false);
    let multi_query = c.bool("multi_query")?.unwrap_or(true);
    let heads = d.attentions.first().map_or(1, |a| a.heads);
    let kv_heads = match (new, multi_query) {
        (true, _) => c.usize_of(&["num_kv_heads", "n_head_kv"])?.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    let activation = super::hf_activation(c, "activation", "gelu")?;
    let bias = c.bool("bias")?.unwrap_or(false);
    d.each(|_, a| (a.kv_heads, a.qkv_bias, a.out_bias) = (kv_heads, bias, bias));
    (d.feed_forward.bias, d.feed_forward.activation) = (bias, activation);
    let norms = match (new, c.usize("num_ln_in_parallel_attn")?) {
        (true, n) => n.unwrap_or(2),
        (false, _) => 1,
    };
    let parallel = new || c.bool("parallel_attn")?.unwrap_or(true);
    if c.bool("alibi")? == Some(true) {
        // They are added before the scores are scaled.
        d.each(|_, a| (a.rope, a.alibi) = (None, Some(a.scale)));
        d.ropes.clear();
    }
    falcon_parts(&mut d, parallel, norms == 2);
    Ok(d.spec())
}

fn falcon_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.feed_forward.inner = g.tensor_rows("blk.0.ffn_up.weight")?;
    d.feed_forward.activation = Activation::GeluErf;
    falcon_parts(&mut d, true, g.has_tensor("blk.0.attn_norm_2.weight"));
    Ok(d.spec())
}

fn falcon_parts(d: &mut Decoder, parallel: bool, two_norms: bool) {
    d.layer_norms(true);
    d.feed_forward.gated = false;
    d.placement = match (parallel, two_norms) {
        (true, true) => Placement::Parallel,
        (true, false) => Placement::SharedParallel,
        (false, _) => Placement::Pre,
    };
}

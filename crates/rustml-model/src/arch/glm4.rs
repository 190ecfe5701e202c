//! GLM-4 (GLM Team, "ChatGLM: A Family of Large Language Models from GLM-130B to
//! GLM-4 All Tools"): norms before and after each part, half of each head rotated,
//! by neighbours, gate and up in one tensor.

use super::decoder::{Decoder, Defaults, Placement};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "glm4",
    about: "GLM-4",
    hf: &["Glm4ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Query, "layers.{}.self_attn.q_proj", Interleaved),
        name(Key, "layers.{}.self_attn.k_proj", Interleaved),
        name(AttnPostNorm, "layers.{}.post_self_attn_layernorm", AsIs),
        name(FfnPostNorm, "layers.{}.post_mlp_layernorm", AsIs),
        name(Gate, "layers.{}.mlp.gate_up_proj", Fused),
        name(Up, "layers.{}.mlp.gate_up_proj", Fused),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Interleaved),
        name(Key, "blk.{}.attn_k", Interleaved),
        name(Gate, "blk.{}.ffn_up", Fused),
        name(Up, "blk.{}.ffn_up", Fused),
    ],
    ignored: &[".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1.5625e-7,
            kv_heads: Some(2),
            head_dim: Some(128),
            rotated: 0.5,
            ..Defaults::default()
        },
    )?;
    let bias = c.bool("attention_bias")?.unwrap_or(true);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias, false));
    d.placement = Placement::Sandwich;
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.placement = Placement::Sandwich;
    Ok(d.spec())
}

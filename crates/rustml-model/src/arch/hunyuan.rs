//! Hunyuan (Tencent): Llama with norms of queries and keys after the rotation; the
//! larger ones have experts and a shared one.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "hunyuan-dense",
    about: "Hunyuan",
    hf: &["HunYuanDenseV1ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(QueryNorm, "layers.{}.self_attn.query_layernorm", AsIs),
        name(KeyNorm, "layers.{}.self_attn.key_layernorm", AsIs),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const MOE: Arch = Arch {
    gguf: "hunyuan-moe",
    about: "Hunyuan with experts",
    hf: &["HunYuanMoEV1ForCausalLM"],
    from_config: moe,
    from_gguf: moe_gguf,
    hf_names: &[
        name(QueryNorm, "layers.{}.self_attn.query_layernorm", AsIs),
        name(KeyNorm, "layers.{}.self_attn.key_layernorm", AsIs),
        name(ExpertRouter, "layers.{}.mlp.gate.wg", AsIs),
        name(SharedGate, "layers.{}.mlp.shared_mlp.gate_proj", AsIs),
        name(SharedUp, "layers.{}.mlp.shared_mlp.up_proj", AsIs),
        name(SharedDown, "layers.{}.mlp.shared_mlp.down_proj", AsIs),
    ],
    ..ARCH
};

fn from_config(c: &Config) -> Result<Spec> {
    Ok(dense(c)?.spec())
}

fn moe(c: &Config) -> Result<Spec> {
    let mut d = dense(c)?;
    // Published files have a number for each layer, all the same.
    let number = |key: &str| match c.usizes_if(key)? {
        Some(all) if all.windows(2).any(|w| w[0] != w[1]) => Err(c.error(format!(
            "{key} differs between layers, which is not supported"
        ))),
        Some(all) => Ok(all.first().copied()),
        None => c.usize(key),
    };
    let all = number("num_experts")?.unwrap_or(1);
    let chosen = match number("moe_topk")? {
        Some(chosen) => chosen,
        None => c.usize("num_experts_per_tok")?.unwrap_or(1),
    };
    let inner = match number("moe_intermediate_size")? {
        Some(inner) => inner,
        None => d.feed_forward.inner,
    };
    let shared = inner.saturating_mul(number("num_shared_expert")?.unwrap_or(1));
    let experts = mixture::plain(&d, mixture::softmax(all, chosen, true), inner);
    d.experts(experts.beside(shared, false), |_| true);
    Ok(d.spec())
}

fn moe_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.qk_norm(NormedOver::Head, true);
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::softmax(all, chosen, true))?;
    Ok(d.spec())
}

fn dense(c: &Config) -> Result<Decoder> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            ..Defaults::default()
        },
    )?;
    d.qk_norm(NormedOver::Head, true);
    Ok(d)
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.qk_norm(NormedOver::Head, true);
    Ok(d.spec())
}

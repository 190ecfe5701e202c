//! GLM 4.5 (GLM Team, "GLM-4.5: Agentic, Reasoning, and Coding Foundation Models") and
//! dots.llm1 (rednote-hilab): a sigmoid router with a correction for choosing, groups
//! of experts, a shared expert, and first layers without experts.

use super::decoder::{layer_types, Decoder, Defaults, LayerType};
use super::{mixture, Arch};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const GLM4_MOE: Arch = Arch {
    gguf: "glm4moe",
    about: "GLM 4.5 and 4.6",
    hf: &["Glm4MoeForCausalLM"],
    from_config: glm,
    from_gguf: glm_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[],
    gguf_names: &[super::name(
        super::Role::FfnNorm,
        "blk.{}.post_attention_norm",
        super::Repair::AsIs,
    )],
    // The last are layers that guess a second token, which are not computed.
    ignored: &[".rotary_emb.inv_freq", "nextn."],
};

pub const DOTS1: Arch = Arch {
    gguf: "dots1",
    about: "dots.llm1",
    hf: &["Dots1ForCausalLM"],
    from_config: dots,
    from_gguf: dots_gguf,
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
    ..GLM4_MOE
};

fn glm(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            kv_heads: Some(8),
            rotated: 0.5,
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    d.each(|_, a| a.out_bias = false);
    if c.bool("use_qk_norm")?.unwrap_or(false) {
        d.qk_norm(NormedOver::Head, false);
    }
    experts(c, &mut d, (128, 8), (1, 1))?;
    Ok(d.spec())
}

fn dots(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    d.qk_norm(NormedOver::Head, false);
    let window = c.usize_or("sliding_window", Some(4096))?;
    if let Some(types) = layer_types(c, d.layers())? {
        d.each(|i, a| a.window = window.filter(|_| types[i] == LayerType::Sliding));
    }
    experts(c, &mut d, (128, 6), (2, 0))?;
    Ok(d.spec())
}

/// Of the defaults: all and chosen experts, shared experts and first dense layers.
fn experts(
    c: &Config,
    d: &mut Decoder,
    counts: (usize, usize),
    (shared, dense): (usize, usize),
) -> Result<()> {
    let (all, chosen) = mixture::counts(c, counts)?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(true);
    let count = c.usize("n_group")?.unwrap_or(1);
    let router = Router {
        groups: mixture::groups(count, c.usize("topk_group")?.unwrap_or(1)),
        scale: c.f32("routed_scaling_factor")?.unwrap_or(1.0),
        ..mixture::sigmoid(all, chosen, renormalise)
    };
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(1408);
    let shared = c.usize("n_shared_experts")?.unwrap_or(shared);
    let dense = c.usize("first_k_dense_replace")?.unwrap_or(dense);
    let mut experts = mixture::plain(d, router, inner).beside(inner.saturating_mul(shared), false);
    experts.correction = true;
    d.experts(experts, |i| i >= dense);
    Ok(())
}

fn glm_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    // Those that guess further tokens come last.
    let next = g.usize("nextn_predict_layers")?.unwrap_or(0);
    d.attentions.truncate(d.layers().saturating_sub(next));
    if g.has_tensor("blk.0.attn_q_norm.weight") {
        d.qk_norm(NormedOver::Head, false);
    }
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::sigmoid(all, chosen, true))?;
    Ok(d.spec())
}

fn dots_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.qk_norm(NormedOver::Head, false);
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::sigmoid(all, chosen, true))?;
    Ok(d.spec())
}

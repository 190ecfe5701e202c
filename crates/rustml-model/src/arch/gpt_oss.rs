//! gpt-oss (OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card"): experts with a clamped
//! SwiGLU, one more score for each head, a sliding window in every other layer, and
//! biases everywhere.

use super::decoder::{layer_types, Decoder, Defaults, LayerType};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "gpt-oss",
    about: "gpt-oss",
    hf: &["GptOssForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(ExpertRouter, "layers.{}.mlp.router", AsIs),
        name(
            ExpertGate,
            "layers.{}.mlp.experts.gate_up_proj",
            AlternatingTransposed,
        ),
        name(
            ExpertUp,
            "layers.{}.mlp.experts.gate_up_proj",
            AlternatingTransposed,
        ),
        name(ExpertDown, "layers.{}.mlp.experts.down_proj", Transposed),
    ],
    gguf_names: &[name(FfnNorm, "blk.{}.post_attention_norm", AsIs)],
    ignored: &[".rotary_emb.inv_freq"],
};

/// What the gate is multiplied by in the sigmoid, and where both are clamped.
const ALPHA: f32 = 1.702;
const LIMIT: f32 = 7.0;

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rope_base: 150_000.0,
            kv_heads: Some(8),
            head_dim: Some(64),
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    let bias = c.bool("attention_bias")?.unwrap_or(true);
    let window = c.usize_or("sliding_window", Some(128))?;
    let types = layer_types(c, d.layers())?;
    d.each(|i, a| {
        let sliding = match &types {
            Some(types) => types[i] == LayerType::Sliding,
            None => i % 2 == 0,
        };
        a.window = window.filter(|_| sliding);
        (a.qkv_bias, a.out_bias, a.sinks) = (bias, bias, true);
    });
    let (all, chosen) = mixture::counts(c, (128, 4))?;
    let alpha = c.f32("swiglu_alpha")?.unwrap_or(ALPHA);
    let limit = c.f32("swiglu_limit")?.unwrap_or(LIMIT);
    let inner = c.usize("intermediate_size")?.unwrap_or(2880);
    experts(
        &mut d,
        all,
        chosen,
        inner,
        Activation::ClampedSwiglu { alpha, limit },
    );
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    // Its limits are not rounded to whole pairs, which the file does not say.
    if let RopeScaling::Yarn { truncate, .. } = &mut d.ropes[0].scaling {
        *truncate = false;
    }
    let window = g.need_usize("attention.sliding_window")?;
    d.each(|i, a| {
        a.window = (i % 2 == 0 && window > 0).then_some(window);
        (a.qkv_bias, a.out_bias, a.sinks) = (true, true, true);
    });
    let inner = g.need_usize("expert_feed_forward_length")?;
    let (all, chosen) = (
        g.need_usize("expert_count")?,
        g.need_usize("expert_used_count")?,
    );
    let activation = Activation::ClampedSwiglu {
        alpha: ALPHA,
        limit: LIMIT,
    };
    experts(&mut d, all, chosen, inner, activation);
    Ok(d.spec())
}

fn experts(d: &mut Decoder, all: usize, chosen: usize, inner: usize, activation: Activation) {
    let router = Router {
        scores: Scores::SoftmaxOfChosen,
        ..mixture::softmax(all, chosen, false)
    };
    let mut experts = mixture::plain(d, router, inner);
    (experts.expert.activation, experts.expert.bias) = (activation, true);
    experts.router_bias = true;
    d.experts(experts, |_| true);
}

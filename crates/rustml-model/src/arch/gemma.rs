//! Gemma and Gemma 2 (Gemma Team, "Gemma: Open Models Based on Gemini Research and
//! Technology" and "Gemma 2"): embeddings times the square root of their width,
//! norms stored less one, tied head. Gemma 2 has norms after each part too, soft
//! caps, and a sliding window in every other layer.

use super::decoder::{layer_types, period, Decoder, Defaults, LayerType, Placement};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const GEMMA: Arch = Arch {
    gguf: "gemma",
    about: "Gemma 1",
    hf: &["GemmaForCausalLM"],
    from_config: |c| Ok(common(c)?.spec()),
    from_gguf: |g| Ok(common_gguf(g)?.spec()),
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(FinalNorm, "norm", MinusOne),
        name(AttnNorm, "layers.{}.input_layernorm", MinusOne),
        name(FfnNorm, "layers.{}.post_attention_layernorm", MinusOne),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const GEMMA2: Arch = Arch {
    gguf: "gemma2",
    about: "Gemma 2",
    hf: &["Gemma2ForCausalLM"],
    from_config: from_config_2,
    from_gguf: from_gguf_2,
    hf_names: &[
        name(FinalNorm, "norm", MinusOne),
        name(AttnNorm, "layers.{}.input_layernorm", MinusOne),
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", MinusOne),
        name(FfnNorm, "layers.{}.pre_feedforward_layernorm", MinusOne),
        name(
            FfnPostNorm,
            "layers.{}.post_feedforward_layernorm",
            MinusOne,
        ),
    ],
    ..GEMMA
};

fn common(c: &Config) -> Result<Decoder> {
    if c.bool("use_bidirectional_attention")? == Some(true) {
        return Err(c.error("use_bidirectional_attention is true, which is not supported"));
    }
    let mut d = Decoder::from_config(
        c,
        Defaults {
            tied: true,
            head_dim: Some(256),
            activation: "gelu_pytorch_tanh",
            ..Defaults::default()
        },
    )?;
    // Files name the exact GELU; the published code computes the other, as
    // `hidden_activation`, where it is set, says.
    if c.str("hidden_activation")?.is_none() && c.str("hidden_act")? == Some("gelu") {
        d.feed_forward.activation = Activation::GeluTanh;
    }
    d.embedding.scale = (d.hidden as f32).sqrt();
    Ok(d)
}

fn common_gguf(g: &Gguf) -> Result<Decoder> {
    let mut d = Decoder::from_gguf(g)?;
    d.feed_forward.activation = Activation::GeluTanh;
    d.embedding.scale = (d.hidden as f32).sqrt();
    Ok(d)
}

fn from_config_2(c: &Config) -> Result<Spec> {
    let mut d = common(c)?;
    let types = layer_types(c, d.layers())?.unwrap_or_else(|| period(d.layers(), 2));
    let window = c.usize("sliding_window")?.unwrap_or(4096);
    let scalar = c.f32("query_pre_attn_scalar")?.unwrap_or(256.0);
    let cap = c.f32_or("attn_logit_softcapping", Some(50.0))?;
    second(&mut d, &types, window, 1.0 / scalar.sqrt(), cap);
    d.head.soft_cap = c.f32_or("final_logit_softcapping", Some(30.0))?;
    Ok(d.spec())
}

fn from_gguf_2(g: &Gguf) -> Result<Spec> {
    let mut d = common_gguf(g)?;
    // The file does not say by what queries are scaled; of the published sizes
    // only the 27B, which has 46 layers, is not by its head size.
    let a = d.attentions[0];
    let scalar = match d.layers() {
        46 => d.hidden / a.heads,
        _ => a.head_dim,
    };
    let window = g.usize("attention.sliding_window")?.unwrap_or(4096);
    let cap = g.f32("attn_logit_softcapping")?.unwrap_or(50.0);
    let types = period(d.layers(), 2);
    let scale = 1.0 / (scalar as f32).sqrt();
    second(&mut d, &types, window, scale, Some(cap));
    d.head.soft_cap = Some(g.f32("final_logit_softcapping")?.unwrap_or(30.0));
    Ok(d.spec())
}

/// What Gemma 2 adds.
fn second(d: &mut Decoder, types: &[LayerType], window: usize, scale: f32, cap: Option<f32>) {
    d.placement = Placement::Sandwich;
    d.each(|i, a| {
        a.window = (types[i] == LayerType::Sliding).then_some(window);
        a.scale = scale;
        a.soft_cap = cap;
    });
}

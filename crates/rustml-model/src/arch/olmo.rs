//! OLMo 2 and 3 (OLMo Team, "2 OLMo 2 Furious"): norms after each part alone, and of
//! all of a row's queries and keys. OLMo 3 has a sliding window in three of four
//! layers, and stretches the rotation of the others only. OLMoE (Muennighoff et al.,
//! "OLMoE: Open Mixture-of-Experts Language Models") has experts, and norms before.

use super::decoder::{layer_types, period, rope_of, Decoder, Defaults, LayerType, Placement};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const OLMO2: Arch = Arch {
    gguf: "olmo2",
    about: "OLMo 2 and 3",
    hf: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", AsIs),
        name(FfnPostNorm, "layers.{}.post_feedforward_layernorm", AsIs),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const OLMOE: Arch = Arch {
    gguf: "olmoe",
    about: "OLMoE",
    hf: &["OlmoeForCausalLM"],
    from_config: moe,
    from_gguf: moe_gguf,
    hf_names: &[],
    ..OLMO2
};

fn moe(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            ..Defaults::default()
        },
    )?;
    d.qk_norm(NormedOver::Row, false);
    if let Some(limit) = c.f32("clip_qkv")? {
        d.each(|_, a| a.clip = Some(limit));
    }
    let (all, chosen) = mixture::counts(c, (64, 8))?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(false);
    let experts = mixture::plain(
        &d,
        mixture::softmax(all, chosen, renormalise),
        d.feed_forward.inner,
    );
    d.experts(experts, |_| true);
    Ok(d.spec())
}

fn moe_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.qk_norm(NormedOver::Row, false);
    if let Some(limit) = g.f32("attention.clamp_kqv")?.filter(|c| *c > 0.0) {
        d.each(|_, a| a.clip = Some(limit));
    }
    mixture::from_gguf(&mut d, g, |all, chosen| {
        mixture::softmax(all, chosen, false)
    })?;
    Ok(d.spec())
}

fn from_config(c: &Config) -> Result<Spec> {
    let third = c
        .need_strings("architectures")?
        .contains(&"Olmo3ForCausalLM");
    let defaults = || Defaults {
        eps: 1e-5,
        rope_base: if third { 500_000.0 } else { 10_000.0 },
        ..Defaults::default()
    };
    let mut d = Decoder::from_config(c, defaults())?;
    common(&mut d);
    if third {
        let types = layer_types(c, d.layers())?.unwrap_or_else(|| period(d.layers(), 4));
        let window = c.usize("sliding_window")?.unwrap_or(4096);
        sliding(&mut d, &types, window);
        // transformers 5 may say both apart.
        let nested = c.object("rope_parameters")?;
        if let Some(p) = nested {
            if p.object("full_attention")?.is_some() {
                let head_dim = d.attentions[0].head_dim;
                let of = |kind| rope_of(c, &defaults(), head_dim, Some(kind));
                d.ropes = vec![of("full_attention")?, of("sliding_attention")?];
            }
        }
    }
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    common(&mut d);
    d.gguf_windows(g, Some(|i| i % 4 != 3))?;
    Ok(d.spec())
}

fn common(d: &mut Decoder) {
    d.placement = Placement::Post;
    d.qk_norm(NormedOver::Row, false);
}

/// Windows, and a plain rotation for the layers that have one.
fn sliding(d: &mut Decoder, types: &[LayerType], window: usize) {
    let plain = Rope {
        scaling: RopeScaling::None,
        ..d.ropes[0].clone()
    };
    d.ropes.push(plain);
    d.each(|i, a| {
        let is_sliding = types[i] == LayerType::Sliding;
        a.window = is_sliding.then_some(window);
        a.rope = Some(usize::from(is_sliding));
    });
}

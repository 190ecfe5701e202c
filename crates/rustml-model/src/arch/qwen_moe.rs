//! Qwen 1.5 and 2 with experts: a shared expert whose result is gated. Qwen 3 with
//! experts (Yang et al., "Qwen3 Technical Report"): none. Mellum 2 (JetBrains) is the
//! latter with a sliding window, and a rotation of its own for the layers that have it.

use super::decoder::{layer_types, rope_of, Decoder, Defaults, LayerType};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const QWEN2_MOE: Arch = Arch {
    gguf: "qwen2moe",
    about: "Qwen 1.5 and 2 with experts",
    hf: &["Qwen2MoeForCausalLM"],
    from_config: qwen2,
    from_gguf: |g| gguf(g, false),
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(SharedGate, "layers.{}.mlp.shared_expert.gate_proj", AsIs),
        name(SharedUp, "layers.{}.mlp.shared_expert.up_proj", AsIs),
        name(SharedDown, "layers.{}.mlp.shared_expert.down_proj", AsIs),
    ],
    gguf_names: &[],
    ignored: &["rope_freqs.weight", ".rotary_emb.inv_freq"],
};

pub const QWEN3_MOE: Arch = Arch {
    gguf: "qwen3moe",
    about: "Qwen 3 with experts",
    hf: &["Qwen3MoeForCausalLM"],
    from_config: qwen3,
    from_gguf: |g| gguf(g, true),
    ..QWEN2_MOE
};

pub const MELLUM: Arch = Arch {
    gguf: "mellum",
    about: "Mellum 2",
    hf: &["MellumForCausalLM"],
    from_config: mellum,
    from_gguf: mellum_gguf,
    ..QWEN2_MOE
};

fn qwen2(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            kv_heads: Some(16),
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    if c.bool("use_sliding_window")? == Some(true) {
        let window = c.usize_or("sliding_window", Some(4096))?;
        let first = c.usize("max_window_layers")?.unwrap_or(28);
        let types = layer_types(c, d.layers())?;
        d.each(|i, a| {
            let sliding = match &types {
                Some(types) => types[i] == LayerType::Sliding,
                None => i % 2 == 0 && i < first,
            };
            a.window = window.filter(|_| sliding);
        });
    }
    let bias = c.bool("qkv_bias")?.unwrap_or(true);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias, false));
    experts(c, &mut d, (60, 4), 1408)?;
    let shared = c.usize("shared_expert_intermediate_size")?.unwrap_or(5632);
    if let Some((e, _)) = &mut d.experts {
        *e = e.beside(shared, true);
    }
    Ok(d.spec())
}

fn qwen3(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            kv_heads: Some(4),
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    if c.bool("use_sliding_window")? == Some(true) {
        let window = c.usize_or("sliding_window", Some(4096))?;
        d.each(|_, a| a.window = window);
    }
    d.qk_norm(NormedOver::Head, false);
    experts(c, &mut d, (128, 8), 768)?;
    Ok(d.spec())
}

/// Experts in all layers but those that the settings make dense.
fn experts(c: &Config, d: &mut Decoder, default: (usize, usize), inner: usize) -> Result<()> {
    let (all, chosen) = mixture::counts(c, default)?;
    let step = c.usize("decoder_sparse_step")?.unwrap_or(1).max(1);
    let dense = c.usizes("mlp_only_layers")?.unwrap_or_default();
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(false);
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(inner);
    let experts = mixture::plain(d, mixture::softmax(all, chosen, renormalise), inner);
    d.experts(experts, |i| {
        all > 0 && !dense.contains(&i) && (i + 1).is_multiple_of(step)
    });
    Ok(())
}

fn gguf(g: &Gguf, third: bool) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    if third {
        d.qk_norm(NormedOver::Head, false);
    }
    // llama.cpp knows no other.
    mixture::from_gguf(
        &mut d,
        g,
        match third {
            true => |all, chosen| mixture::softmax(all, chosen, true),
            false => |all, chosen| mixture::softmax(all, chosen, false),
        },
    )?;
    Ok(d.spec())
}

fn mellum(c: &Config) -> Result<Spec> {
    let defaults = |base| Defaults {
        kv_heads: Some(4),
        head_dim: Some(128),
        rope_base: base,
        inner: Some(0),
        ..Defaults::default()
    };
    let mut d = Decoder::from_config(c, defaults(500_000.0))?;
    d.qk_norm(NormedOver::Head, false);
    let head_dim = d.attentions[0].head_dim;
    let of = |kind, base| rope_of(c, &defaults(base), head_dim, Some(kind));
    d.ropes = vec![
        of("full_attention", 500_000.0)?,
        of("sliding_attention", 10_000.0)?,
    ];
    let window = c.usize_or("sliding_window", Some(1024))?;
    let types = layer_types(c, d.layers())?;
    d.each(|i, a| {
        let sliding = types.as_ref().is_some_and(|t| t[i] == LayerType::Sliding);
        a.rope = Some(usize::from(sliding));
        a.window = window.filter(|_| sliding);
    });
    let (all, chosen) = mixture::counts(c, (64, 8))?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(true);
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(896);
    let here = mixture::sparse_layers(c, d.layers())?;
    let experts = mixture::plain(&d, mixture::softmax(all, chosen, renormalise), inner);
    d.experts(experts, |i| here.as_ref().is_none_or(|h| h[i]));
    Ok(d.spec())
}

fn mellum_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.qk_norm(NormedOver::Head, false);
    d.gguf_windows(g, None)?;
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::softmax(all, chosen, true))?;
    Ok(d.spec())
}

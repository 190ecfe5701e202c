//! Qwen 3.5 and what came after it, and Qwen3-Next (Qwen Team's model cards): three of four
//! layers are gated delta nets (Yang et al., "Gated Delta Networks"), attention has a gate
//! for each value, and norms are stored less one in safetensors. Some have experts. Their
//! vision models are these for text.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::{self, *};

pub const DENSE: Arch = Arch {
    gguf: "qwen35",
    about: "Qwen 3.5, 3.6 and 3.8",
    hf: &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"],
    from_config: |c| text(c, |c| Ok(decoder(c)?.spec())),
    from_gguf: |g| Ok(gguf_decoder(g, Decoder::from_gguf(g)?, true)?.spec()),
    hf_prefixes: &["model.language_model.", "model.", ""],
    hf_names: NAMES,
    gguf_names: &[
        name(FfnNorm, "blk.{}.post_attention_norm", AsIs),
        name(Query, "blk.{}.attn_q", QueryAndGate),
        name(AttnGate, "blk.{}.attn_q", QueryAndGate),
        name(StateIn, "blk.{}.attn_qkv", AsIs),
        name(StateGate, "blk.{}.attn_gate", AsIs),
        name(StateRate, "blk.{}.ssm_beta", AsIs),
        name(StateStep, "blk.{}.ssm_alpha", AsIs),
        name(StateRate, "blk.{}.ssm_ba", FusedByKeyHead),
        name(StateStep, "blk.{}.ssm_ba", FusedByKeyHead),
    ],
    // Eyes, and layers that guess a second token, which are not computed.
    ignored: &[
        "model.visual.",
        "visual.",
        "mtp.",
        "model.mtp.",
        "nextn.",
        ".rotary_emb.inv_freq",
    ],
};

pub const MOE: Arch = Arch {
    gguf: "qwen35moe",
    about: "Qwen 3.5 and 3.6 with experts",
    hf: &[
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
    ],
    from_config: |c| text(c, |c| moe(c, (256, 8))),
    from_gguf: |g| moe_gguf(g, true),
    ..DENSE
};

pub const NEXT: Arch = Arch {
    gguf: "qwen3next",
    about: "Qwen3-Next",
    hf: &["Qwen3NextForCausalLM"],
    from_config: |c| moe(c, (512, 10)),
    from_gguf: |g| moe_gguf(g, false),
    ..DENSE
};

const NAMES: &[super::Name] = &[
    name(FinalNorm, "norm", MinusOne),
    name(AttnNorm, "layers.{}.input_layernorm", MinusOne),
    name(FfnNorm, "layers.{}.post_attention_layernorm", MinusOne),
    name(QueryNorm, "layers.{}.self_attn.q_norm", MinusOne),
    name(KeyNorm, "layers.{}.self_attn.k_norm", MinusOne),
    name(Query, "layers.{}.self_attn.q_proj", QueryAndGate),
    name(AttnGate, "layers.{}.self_attn.q_proj", QueryAndGate),
    name(StateIn, "layers.{}.linear_attn.in_proj_qkv", AsIs),
    name(StateGate, "layers.{}.linear_attn.in_proj_z", AsIs),
    name(StateRate, "layers.{}.linear_attn.in_proj_b", AsIs),
    name(StateStep, "layers.{}.linear_attn.in_proj_a", AsIs),
    name(
        StateIn,
        "layers.{}.linear_attn.in_proj_qkvz",
        FusedByKeyHead,
    ),
    name(
        StateGate,
        "layers.{}.linear_attn.in_proj_qkvz",
        FusedByKeyHead,
    ),
    name(
        StateRate,
        "layers.{}.linear_attn.in_proj_ba",
        FusedByKeyHead,
    ),
    name(
        StateStep,
        "layers.{}.linear_attn.in_proj_ba",
        FusedByKeyHead,
    ),
    name(Convolution, "layers.{}.linear_attn.conv1d", AsIs),
    name(Decay, "layers.{}.linear_attn.A_log", NegatedLog),
    name(StepBias, "layers.{}.linear_attn.dt_bias", AsIs),
    name(StateNorm, "layers.{}.linear_attn.norm", AsIs),
    name(StateOut, "layers.{}.linear_attn.out_proj", AsIs),
    name(SharedGate, "layers.{}.mlp.shared_expert.gate_proj", AsIs),
    name(SharedUp, "layers.{}.mlp.shared_expert.up_proj", AsIs),
    name(SharedDown, "layers.{}.mlp.shared_expert.down_proj", AsIs),
];

/// What `of` makes of the settings about text.
fn text(whole: &Config, of: fn(&Config) -> Result<Spec>) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let mut spec = of(text.as_ref().unwrap_or(whole))?;
    // It may be outside.
    if let Some(tied) = whole.bool("tie_word_embeddings")? {
        spec.head = spec.head.map(|head| spec::Head { tied, ..head });
    }
    Ok(spec)
}

fn decoder(c: &Config) -> Result<Decoder> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            kv_heads: Some(4),
            head_dim: Some(256),
            context: Some(32768),
            inner: Some(0),
            rotated: 0.25,
            ..Defaults::default()
        },
    )?;
    gated_attention(&mut d);
    let full = match c.strings("layer_types")? {
        Some(types) if types.len() == d.layers() => {
            let known = |t: &&str| ["linear_attention", "full_attention"].contains(t);
            if let Some(other) = types.iter().find(|t| !known(t)) {
                return Err(c.error(format!(
                    "layer_types names {}, but only linear_attention and full_attention are known",
                    show(other)
                )));
            }
            types.iter().map(|t| *t == "full_attention").collect()
        }
        Some(types) => {
            return Err(c.error(format!(
                "layer_types names {} layers, but num_hidden_layers is {}",
                types.len(),
                d.layers()
            )))
        }
        None => every(d.layers(), c.usize("full_attention_interval")?.unwrap_or(4)),
    };
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let delta = Delta {
        key_heads: size("linear_num_key_heads", 16)?,
        heads: size("linear_num_value_heads", 32)?,
        key_dim: size("linear_key_head_dim", 128)?,
        value_dim: size("linear_value_head_dim", 128)?,
        tiled: false,
        eps: d.norm.eps,
    };
    let taps = size("linear_conv_kernel_dim", 4)?;
    d.recurrent(delta_net(delta, taps), |i| !full[i]);
    Ok(d)
}

/// Attention with a gate for each value, and norms of queries and keys.
fn gated_attention(d: &mut Decoder) {
    d.qk_norm(NormedOver::Head, false);
    d.each(|_, a| {
        a.gate = Some(AttentionGate {
            function: spec::Gate::Sigmoid,
            per_head: false,
        });
    });
}

fn delta_net(delta: Delta, taps: usize) -> Recurrent {
    Recurrent {
        taps,
        conv_bias: false,
        mixer: Mixer::Delta(delta),
        in_bias: false,
        out_bias: false,
    }
}

/// Whether each layer is the last of so many.
fn every(layers: usize, interval: usize) -> Vec<bool> {
    let last = |i: usize| interval > 0 && (i + 1).is_multiple_of(interval);
    (0..layers).map(last).collect()
}

fn moe(c: &Config, counts: (usize, usize)) -> Result<Spec> {
    let mut d = decoder(c)?;
    let (all, chosen) = mixture::counts(c, counts)?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(true);
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(512);
    let shared = c.usize("shared_expert_intermediate_size")?.unwrap_or(512);
    let router = mixture::softmax(all, chosen, renormalise);
    let experts = mixture::plain(&d, router, inner).beside(shared, true);
    let step = c.usize("decoder_sparse_step")?.unwrap_or(1).max(1);
    let dense = c.usizes("mlp_only_layers")?.unwrap_or_default();
    d.experts(experts, |i| {
        all > 0 && !dense.contains(&i) && (i + 1).is_multiple_of(step)
    });
    Ok(d.spec())
}

/// `tiled` says how value heads share key heads.
fn gguf_decoder(g: &Gguf, mut d: Decoder, tiled: bool) -> Result<Decoder> {
    let next = g.usize("nextn_predict_layers")?.unwrap_or(0);
    d.attentions.truncate(d.layers().saturating_sub(next));
    gated_attention(&mut d);
    let full: Vec<bool> = match g.bools("attention.recurrent_layers") {
        Some(listed) if listed.len() >= d.layers() => listed.iter().map(|r| !r).collect(),
        _ => every(d.layers(), g.usize("full_attention_interval")?.unwrap_or(4)),
    };
    let heads = g.need_usize("ssm.time_step_rank")?;
    let delta = Delta {
        key_heads: g.need_usize("ssm.group_count")?,
        heads,
        key_dim: g.need_usize("ssm.state_size")?,
        value_dim: g.need_usize("ssm.inner_size")? / heads.max(1),
        tiled,
        eps: d.norm.eps,
    };
    let taps = g.need_usize("ssm.conv_kernel")?;
    d.recurrent(delta_net(delta, taps), |i| !full[i]);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (false, false));
    Ok(d)
}

fn moe_gguf(g: &Gguf, tiled: bool) -> Result<Spec> {
    let mut d = gguf_decoder(g, Decoder::from_gguf_with_experts(g)?, tiled)?;
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::softmax(all, chosen, true))?;
    Ok(d.spec())
}

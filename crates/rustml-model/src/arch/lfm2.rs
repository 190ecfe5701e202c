//! LFM2 and 2.5 (Liquid AI, "LFM2 Technical Report"): most layers have a short convolution
//! between two products in place of attention; some models have experts.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "lfm2",
    about: "LFM2 and 2.5",
    hf: &["Lfm2ForCausalLM"],
    from_config: |c| Ok(decoder(c)?.spec()),
    from_gguf: |g| Ok(gguf_decoder(g, Decoder::from_gguf(g)?)?.spec()),
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(FinalNorm, "embedding_norm", AsIs),
        name(AttnNorm, "layers.{}.operator_norm", AsIs),
        name(FfnNorm, "layers.{}.ffn_norm", AsIs),
        name(QueryNorm, "layers.{}.self_attn.q_layernorm", AsIs),
        name(KeyNorm, "layers.{}.self_attn.k_layernorm", AsIs),
        name(AttnOut, "layers.{}.self_attn.out_proj", AsIs),
        name(Gate, "layers.{}.feed_forward.w1", AsIs),
        name(Up, "layers.{}.feed_forward.w3", AsIs),
        name(Down, "layers.{}.feed_forward.w2", AsIs),
        name(ExpertRouter, "layers.{}.feed_forward.gate", AsIs),
        name(Correction, "layers.{}.feed_forward.expert_bias", AsIs),
        name(ExpertGate, "layers.{}.feed_forward.experts.{e}.w1", AsIs),
        name(ExpertUp, "layers.{}.feed_forward.experts.{e}.w3", AsIs),
        name(ExpertDown, "layers.{}.feed_forward.experts.{e}.w2", AsIs),
        name(
            ExpertGate,
            "layers.{}.feed_forward.experts.gate_up_proj",
            Fused,
        ),
        name(
            ExpertUp,
            "layers.{}.feed_forward.experts.gate_up_proj",
            Fused,
        ),
        name(ExpertDown, "layers.{}.feed_forward.experts.down_proj", AsIs),
        name(StateFactor, "layers.{}.conv.in_proj", Fused),
        name(StateGate, "layers.{}.conv.in_proj", Fused),
        name(StateIn, "layers.{}.conv.in_proj", Fused),
        name(Convolution, "layers.{}.conv.conv", AsIs),
        name(StateOut, "layers.{}.conv.out_proj", AsIs),
    ],
    gguf_names: &[
        name(FinalNorm, "token_embd_norm", AsIs),
        name(StateFactor, "blk.{}.shortconv.in_proj", Fused),
        name(StateGate, "blk.{}.shortconv.in_proj", Fused),
        name(StateIn, "blk.{}.shortconv.in_proj", Fused),
        name(Convolution, "blk.{}.shortconv.conv", AsIs),
        name(StateOut, "blk.{}.shortconv.out_proj", AsIs),
    ],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const MOE: Arch = Arch {
    gguf: "lfm2moe",
    about: "LFM2 with experts",
    hf: &["Lfm2MoeForCausalLM"],
    from_config: moe,
    from_gguf: moe_gguf,
    ..ARCH
};

fn decoder(c: &Config) -> Result<Decoder> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rope_base: 1e6,
            tied: true,
            kv_heads: Some(8),
            context: Some(128_000),
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    if let Some(tied) = c.bool("tie_embedding")? {
        d.head.tied = tied;
    }
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (false, false));
    d.qk_norm(NormedOver::Head, false);
    let inner = c.usize_of(&["block_ff_dim", "intermediate_size"])?;
    d.feed_forward.inner = match (inner, c.bool("block_auto_adjust_ff_dim")?.unwrap_or(true)) {
        (Some(inner), true) if c.usize("num_experts")?.is_none() => adjusted(c, inner)?,
        (inner, _) => inner.unwrap_or(12288),
    };
    let full = match c.strings("layer_types")? {
        Some(types) if types.len() == d.layers() => {
            let known = |t: &&str| ["conv", "short_conv", "full_attention"].contains(t);
            if let Some(other) = types.iter().find(|t| !known(t)) {
                return Err(c.error(format!(
                    "layer_types names {}, but only conv and full_attention are known",
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
        None => {
            let listed = c.usizes("full_attn_idxs")?;
            let all = || vec![true; d.layers()];
            listed.map_or_else(all, |l| (0..d.layers()).map(|i| l.contains(&i)).collect())
        }
    };
    let bias = c.bool("conv_bias")?.unwrap_or(false);
    let conv = short_conv(d.hidden, c.usize("conv_L_cache")?.unwrap_or(3), bias);
    d.recurrent(conv, |i| !full[i]);
    Ok(d)
}

/// The feed-forward's size of what the settings say, as the class of the model has it.
fn adjusted(c: &Config, inner: usize) -> Result<usize> {
    let times = c.f32("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let unit = c.usize("block_multiple_of")?.unwrap_or(256).max(1);
    let inner = (f64::from(times) * (2 * inner / 3) as f64) as usize;
    Ok(inner.div_ceil(unit).saturating_mul(unit))
}

pub(super) fn short_conv(channels: usize, taps: usize, bias: bool) -> Recurrent {
    Recurrent {
        taps,
        conv_bias: bias,
        mixer: Mixer::Gated { channels },
        in_bias: bias,
        out_bias: bias,
    }
}

fn moe(c: &Config) -> Result<Spec> {
    let mut d = decoder(c)?;
    let (all, chosen) = mixture::counts(c, (32, 4))?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(true);
    let mut router = mixture::sigmoid(all, chosen, renormalise);
    router.renormalise = match renormalise {
        true => Renormalise::Sum { epsilon: 1e-6 },
        false => Renormalise::No,
    };
    router.scale = c.f32("routed_scaling_factor")?.unwrap_or(1.0);
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(1792);
    let mut experts = mixture::plain(&d, router, inner);
    experts.correction = c.bool("use_expert_bias")?.unwrap_or(true);
    let dense = c.usize("num_dense_layers")?.unwrap_or(2);
    d.experts(experts, |i| i >= dense);
    Ok(d.spec())
}

fn gguf_decoder(g: &Gguf, mut d: Decoder) -> Result<Decoder> {
    d.qk_norm(NormedOver::Head, false);
    let conv = |i: usize| g.has_tensor(&format!("blk.{i}.shortconv.conv.weight"));
    let first = (0..d.layers()).find(|i| conv(*i)).unwrap_or(0);
    let bias = g.has_tensor(&format!("blk.{first}.shortconv.in_proj.bias"));
    let recurrent = short_conv(d.hidden, g.need_usize("shortconv.l_cache")?, bias);
    d.recurrent(recurrent, conv);
    // That of layer 0 may be another's.
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (false, false));
    Ok(d)
}

fn moe_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = gguf_decoder(g, Decoder::from_gguf_with_experts(g)?)?;
    mixture::from_gguf(&mut d, g, |all, chosen| Router {
        renormalise: Renormalise::Sum { epsilon: 1e-6 },
        ..mixture::sigmoid(all, chosen, true)
    })?;
    Ok(d.spec())
}

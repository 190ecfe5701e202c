//! Command R and Command R7B (Cohere): one layer norm without bias for both parts,
//! which are parallel, neighbours rotated, a factor of the logits. The second
//! generation has a sliding window in three of four layers, and rotates only these.

use super::decoder::{layer_types, period, Decoder, Defaults, LayerType, Placement};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const COHERE2: Arch = Arch {
    gguf: "cohere2",
    about: "Command R7B, Command A",
    hf: &["Cohere2ForCausalLM"],
    from_config: |c| from_config(c, true),
    from_gguf: |g| from_gguf(g, true),
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Query, "layers.{}.self_attn.q_proj", Interleaved),
        name(Key, "layers.{}.self_attn.k_proj", Interleaved),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Interleaved),
        name(Key, "blk.{}.attn_k", Interleaved),
    ],
    ignored: &[".rotary_emb.inv_freq", "rope_freqs.weight"],
};

pub const COHERE2_MOE: Arch = Arch {
    gguf: "cohere2moe",
    about: "North and other Cohere models with experts",
    hf: &["Cohere2MoeForCausalLM"],
    from_config: moe,
    from_gguf: moe_gguf,
    ..COHERE2
};

pub const COMMAND_R: Arch = Arch {
    gguf: "command-r",
    about: "Command R",
    hf: &["CohereForCausalLM"],
    from_config: |c| from_config(c, false),
    from_gguf: |g| from_gguf(g, false),
    ..COHERE2
};

fn moe(c: &Config) -> Result<Spec> {
    let mut d = decoder(
        c,
        true,
        Defaults {
            head_dim: Some(128),
            ..Defaults::default()
        },
    )?;
    if let Some(eps) = c.f32("rms_norm_eps")? {
        d.norm = super::decoder::rms(eps);
    }
    let first = c.usize("first_k_dense_replace")?.unwrap_or(0);
    let here = match mixture::sparse_layers(c, d.layers())? {
        Some(here) => here,
        None => (0..d.layers()).map(|i| i >= first).collect(),
    };
    if c.usize("prefix_dense_sliding_window_pattern")?.unwrap_or(1) == 1 {
        // The first layers, which have no experts, are rotated even without a window.
        d.each(|i, a| a.rope = if here[i] { a.rope } else { Some(0) });
    }
    let (all, chosen) = mixture::counts(c, (8, 2))?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(true);
    let router = match c.str("expert_selection_fn")?.unwrap_or("softmax") {
        "softmax" => Router {
            scores: Scores::SoftmaxOfChosen,
            ..mixture::softmax(all, chosen, false)
        },
        "sigmoid" => Router {
            scores: Scores::SigmoidOfChosen,
            ..mixture::softmax(all, chosen, renormalise)
        },
        other => {
            return Err(c.error(format!(
                "expert_selection_fn is {}; known are softmax and sigmoid",
                show(other)
            )))
        }
    };
    let inner = d.feed_forward.inner;
    let shared = c.usize("num_shared_experts")?.unwrap_or(0);
    let experts = mixture::plain(&d, router, inner).beside(inner.saturating_mul(shared), false);
    let average = match c
        .str("shared_expert_combination_strategy")?
        .unwrap_or("average")
    {
        "average" => shared > 0,
        "sum" => false,
        other => {
            return Err(c.error(format!(
                "shared_expert_combination_strategy is {}; known are average and sum",
                show(other)
            )))
        }
    };
    d.experts(experts, |i| here[i]);
    if let Some(dense) = c.usize("prefix_dense_intermediate_size")? {
        d.feed_forward.inner = dense;
    }
    d.experts_scale = if average { 0.5 } else { 1.0 };
    Ok(d.spec())
}

fn moe_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = decoder_gguf(g, true)?;
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::softmax(all, chosen, true))?;
    if let Some((e, here)) = &mut d.experts {
        // Experts are chosen by logits, of which these are functions that grow.
        e.router.scores = match e.router.scores {
            Scores::Sigmoid => Scores::SigmoidOfChosen,
            _ => Scores::SoftmaxOfChosen,
        };
        // As llama.cpp has it: what is beside a shared expert is averaged with it, and
        // first layers without experts are rotated even without a window.
        if e.shared.is_some() {
            d.experts_scale = 0.5;
        }
        let first = here.iter().position(|h| *h).unwrap_or(0);
        for a in &mut d.attentions[..first] {
            a.rope = Some(0);
        }
    }
    Ok(d.spec())
}

fn from_config(c: &Config, second: bool) -> Result<Spec> {
    Ok(decoder(c, second, Defaults::default())?.spec())
}

fn decoder(c: &Config, second: bool, defaults: Defaults) -> Result<Decoder> {
    if c.bool("use_qk_norm")? == Some(true) {
        return Err(c.error("use_qk_norm is true, which is not supported"));
    }
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            tied: true,
            context: Some(8192),
            ..defaults
        },
    )?;
    d.layer_norms(false);
    d.head.scale = c.f32("logit_scale")?.unwrap_or(0.0625);
    d.placement = Placement::SharedParallel;
    if second {
        let pattern = c.usize("sliding_window_pattern")?.unwrap_or(4);
        let types = layer_types(c, d.layers())?.unwrap_or_else(|| period(d.layers(), pattern));
        let window = c.usize_or("sliding_window", Some(4096))?;
        sliding(&mut d, &types, window);
    }
    Ok(d)
}

fn from_gguf(g: &Gguf, second: bool) -> Result<Spec> {
    if g.usize("expert_count")?.unwrap_or(0) > 0 {
        return Err(g.error("this architecture has no mixture of experts"));
    }
    Ok(decoder_gguf(g, second)?.spec())
}

fn decoder_gguf(g: &Gguf, second: bool) -> Result<Decoder> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.layer_norms(false);
    d.head.scale = g.need_f32("logit_scale")?;
    d.placement = Placement::SharedParallel;
    if second {
        let types = match g.bools("attention.sliding_window_pattern") {
            Some(listed) if listed.len() == d.layers() => listed
                .iter()
                .map(|l| {
                    if *l {
                        LayerType::Sliding
                    } else {
                        LayerType::Full
                    }
                })
                .collect(),
            _ => period(d.layers(), 4),
        };
        let window = g.need_usize("attention.sliding_window")?;
        sliding(&mut d, &types, Some(window));
    }
    Ok(d)
}

fn sliding(d: &mut Decoder, types: &[LayerType], window: Option<usize>) {
    d.each(|i, a| {
        let is_sliding = types[i] == LayerType::Sliding;
        a.window = window.filter(|_| is_sliding);
        a.rope = is_sliding.then_some(0);
    });
}

//! Phi-3.5 with experts (Abdin et al., "Phi-3 Technical Report"): two experts for each
//! row, chosen one after the other, layer norms, and biases of attention and the head.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "phimoe",
    about: "Phi 3.5 with experts",
    hf: &["PhiMoEForCausalLM", "PhimoeForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(ExpertRouter, "layers.{}.block_sparse_moe.gate", AsIs),
        name(ExpertRouter, "layers.{}.mlp.router", AsIs),
        name(
            ExpertGate,
            "layers.{}.block_sparse_moe.experts.{e}.w1",
            AsIs,
        ),
        name(ExpertUp, "layers.{}.block_sparse_moe.experts.{e}.w3", AsIs),
        name(
            ExpertDown,
            "layers.{}.block_sparse_moe.experts.{e}.w2",
            AsIs,
        ),
    ],
    gguf_names: &[],
    ignored: &[
        "rope_factors_long.weight",
        "rope_factors_short.weight",
        ".rotary_emb.inv_freq",
    ],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            kv_heads: Some(8),
            ..Defaults::default()
        },
    )?;
    d.layer_norms(true);
    d.head.bias = c.bool("lm_head_bias")?.unwrap_or(false);
    let window = c.usize("sliding_window")?;
    d.each(|_, a| a.window = window);
    let (all, chosen) = mixture::counts(c, (16, 2))?;
    experts(
        &mut d,
        all,
        chosen,
        c.f32("router_jitter_noise")?.unwrap_or(0.01),
    );
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.layer_norms(true);
    let (all, chosen) = (
        g.need_usize("expert_count")?,
        g.need_usize("expert_used_count")?,
    );
    // The file does not say the noise; all published models have this.
    experts(&mut d, all, chosen, 0.01);
    Ok(d.spec())
}

fn experts(d: &mut Decoder, all: usize, chosen: usize, jitter: f32) {
    let router = Router {
        scores: Scores::SparseMixer { jitter },
        ..mixture::softmax(all, chosen, false)
    };
    let experts = mixture::plain(d, router, d.feed_forward.inner);
    d.experts(experts, |_| true);
}

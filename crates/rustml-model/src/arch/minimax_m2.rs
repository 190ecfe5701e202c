//! MiniMax M2: a sigmoid router with a correction for choosing, norms of all of a row's
//! queries and keys, half of each head rotated.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "minimax-m2",
    about: "MiniMax M2",
    hf: &["MiniMaxM2ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(ExpertRouter, "layers.{}.block_sparse_moe.gate", AsIs),
        name(
            Correction,
            "layers.{}.block_sparse_moe.e_score_correction_bias",
            AsIs,
        ),
        name(Correction, "layers.{}.mlp.e_score_correction_bias", AsIs),
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
    ignored: &[".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            rope_base: 5_000_000.0,
            kv_heads: Some(8),
            head_dim: Some(128),
            ..Defaults::default()
        },
    )?;
    // Published files say how much of a head is rotated as a count.
    if let Some(dims) = c.usize("rotary_dim")? {
        d.ropes[0].dims = dims;
    }
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (false, false));
    d.qk_norm(NormedOver::Row, false);
    let (all, chosen) = mixture::counts(c, (256, 8))?;
    let router = mixture::sigmoid(all, chosen, true);
    let mut experts = mixture::plain(&d, router, d.feed_forward.inner);
    experts.correction = true;
    d.experts(experts, |_| true);
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.qk_norm(NormedOver::Row, false);
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::sigmoid(all, chosen, true))?;
    Ok(d.spec())
}

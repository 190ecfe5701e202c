//! Llama (Touvron et al., "LLaMA: Open and Efficient Foundation Language
//! Models") and the many models built like it; Mistral (Jiang et al., "Mistral
//! 7B") is one with a sliding window in all layers, Mixtral (Jiang et al., "Mixtral of
//! Experts") one with experts.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "llama",
    about: "Llama 1 to 3, Mistral 7B, Mixtral, and what is built like them",
    hf: &[
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
    ],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(ExpertRouter, "layers.{}.block_sparse_moe.gate", AsIs),
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
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Interleaved),
        name(Key, "blk.{}.attn_k", Interleaved),
    ],
    ignored: &["rope_freqs.weight", ".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let names = c.need_strings("architectures")?;
    let is = |name: &str| names.contains(&name);
    let defaults = Defaults {
        kv_heads: (is("MistralForCausalLM") || is("MixtralForCausalLM")).then_some(8),
        ..Defaults::default()
    };
    if is("MistralForCausalLM") {
        let mut d = Decoder::from_config(c, defaults)?;
        let window = c.usize_or("sliding_window", Some(4096))?;
        d.each(|_, a| a.window = window);
        return Ok(d.spec());
    }
    if !is("MixtralForCausalLM") {
        return Ok(Decoder::from_config(c, defaults)?.spec());
    }
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rope_base: 1_000_000.0,
            ..defaults
        },
    )?;
    let window = c.usize("sliding_window")?;
    d.each(|_, a| a.window = window);
    let (all, chosen) = mixture::counts(c, (8, 2))?;
    let experts = mixture::plain(
        &d,
        mixture::softmax(all, chosen, true),
        d.feed_forward.inner,
    );
    d.experts(experts, |_| true);
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    if g.usize("expert_count")?.unwrap_or(0) > 0 {
        mixture::from_gguf(&mut d, g, |all, chosen| mixture::softmax(all, chosen, true))?;
    }
    Ok(d.spec())
}

//! StableLM 2 (Bellagente et al., "Stable LM 2 1.6B Technical Report"): Llama with layer
//! norms and a quarter of each head rotated; the 12B has parallel parts.

use super::decoder::{Decoder, Defaults, Placement};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "stablelm",
    about: "StableLM 2",
    hf: &["StableLmForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(QueryNorm, "layers.{}.self_attn.q_layernorm", AsIs),
        name(KeyNorm, "layers.{}.self_attn.k_layernorm", AsIs),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rotated: 0.25,
            ..Defaults::default()
        },
    )?;
    d.layer_norms(true);
    let bias = c.bool("use_qkv_bias")?.unwrap_or(false);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias, false));
    if c.bool("qk_layernorm")? == Some(true) {
        own_norms(&mut d);
    }
    if c.bool("use_parallel_residual")? == Some(true) {
        d.placement = Placement::SharedParallel;
    }
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    if g.has_tensor("blk.0.attn_q_norm.weight") {
        own_norms(&mut d);
    }
    if !g.has_tensor("blk.0.ffn_norm.weight") {
        d.placement = Placement::SharedParallel;
    }
    Ok(d.spec())
}

/// A norm without bias of its own for each query and key head.
fn own_norms(d: &mut Decoder) {
    d.qk_norm(NormedOver::OwnHead, false);
    d.each(|_, a| {
        if let Some(n) = &mut a.qk_norm {
            n.norm.bias = false;
        }
    });
}

//! Phi-1 to Phi-2 (Gunasekar et al., "Textbooks Are All You Need"): one layer norm for
//! both parts, which are parallel, biases everywhere, a part of each head rotated.
//! Phi-3, 3.5 and 4 (Abdin et al., "Phi-3 Technical Report"): Llama with query, key and
//! value in one tensor, and gate and up in another.

use super::decoder::{Decoder, Defaults, Placement};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const PHI2: Arch = Arch {
    gguf: "phi2",
    about: "Phi 1 to 2",
    hf: &["PhiForCausalLM"],
    from_config: phi2,
    from_gguf: phi2_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(FinalNorm, "final_layernorm", AsIs),
        name(AttnOut, "layers.{}.self_attn.dense", AsIs),
        name(QueryNorm, "layers.{}.self_attn.q_layernorm", AsIs),
        name(KeyNorm, "layers.{}.self_attn.k_layernorm", AsIs),
        name(Up, "layers.{}.mlp.fc1", AsIs),
        name(Down, "layers.{}.mlp.fc2", AsIs),
    ],
    gguf_names: QKV,
    ignored: &[".rotary_emb.inv_freq"],
};

pub const PHI3: Arch = Arch {
    gguf: "phi3",
    about: "Phi 3, 3.5 and 4",
    hf: &["Phi3ForCausalLM"],
    from_config: phi3,
    from_gguf: phi3_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Query, "layers.{}.self_attn.qkv_proj", Fused),
        name(Key, "layers.{}.self_attn.qkv_proj", Fused),
        name(Value, "layers.{}.self_attn.qkv_proj", Fused),
        name(Gate, "layers.{}.mlp.gate_up_proj", Fused),
        name(Up, "layers.{}.mlp.gate_up_proj", Fused),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_qkv", Fused),
        name(Key, "blk.{}.attn_qkv", Fused),
        name(Value, "blk.{}.attn_qkv", Fused),
        name(Gate, "blk.{}.ffn_up", Fused),
        name(Up, "blk.{}.ffn_up", Fused),
    ],
    ignored: &[
        "rope_factors_long.weight",
        "rope_factors_short.weight",
        ".rotary_emb.inv_freq",
    ],
};

/// Query, key and value in one tensor, as GGUF has them.
const QKV: &[super::Name] = &[
    name(Query, "blk.{}.attn_qkv", Fused),
    name(Key, "blk.{}.attn_qkv", Fused),
    name(Value, "blk.{}.attn_qkv", Fused),
];

fn phi2(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            activation: "gelu_new",
            rotated: 0.5,
            ..Defaults::default()
        },
    )?;
    let qk_norm = c.bool("qk_layernorm")? == Some(true);
    biased(&mut d);
    if qk_norm {
        d.qk_norm(NormedOver::Head, false);
    }
    Ok(d.spec())
}

fn phi2_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.feed_forward.activation = Activation::GeluTanh;
    // What the converter says of it is four times the width, whatever it is.
    d.feed_forward.inner = g.tensor_rows("blk.0.ffn_up.weight")?;
    biased(&mut d);
    Ok(d.spec())
}

fn biased(d: &mut Decoder) {
    d.layer_norms(true);
    d.placement = Placement::SharedParallel;
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (true, true));
    (d.feed_forward.gated, d.feed_forward.bias) = (false, true);
    d.head.bias = !d.head.tied;
}

fn phi3(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            ..Defaults::default()
        },
    )?;
    let window = c.usize("sliding_window")?;
    d.each(|_, a| a.window = window);
    Ok(d.spec())
}

fn phi3_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    let window = g.usize("attention.sliding_window")?.filter(|w| *w > 0);
    d.each(|_, a| a.window = window);
    Ok(d.spec())
}

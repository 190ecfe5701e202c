//! StarCoder 2 (Lozhkov et al., "StarCoder 2 and The Stack v2"): layer norms, biases
//! everywhere, a feed-forward without gate, and a sliding window in all layers.

use super::decoder::{Decoder, Defaults};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "starcoder2",
    about: "StarCoder 2",
    hf: &["Starcoder2ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Up, "layers.{}.mlp.c_fc", AsIs),
        name(Down, "layers.{}.mlp.c_proj", AsIs),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            tied: true,
            kv_heads: Some(2),
            activation: "gelu_pytorch_tanh",
            ..Defaults::default()
        },
    )?;
    d.layer_norms(true);
    let bias = c.bool("use_bias")?.unwrap_or(true);
    let window = c.usize("sliding_window")?;
    d.each(|_, a| (a.qkv_bias, a.out_bias, a.window) = (bias, bias, window));
    (d.feed_forward.gated, d.feed_forward.bias) = (false, bias);
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.feed_forward.gated = false;
    d.feed_forward.activation = Activation::GeluTanh;
    Ok(d.spec())
}

//! Nemotron 4 and Minitron (Parmar et al., "Nemotron-4 15B Technical Report"): layer
//! norms stored less one, half of each head rotated, and a feed-forward of a squared
//! ReLU without gate. Arcee's AFM has the feed-forward, and is a Llama else.

use super::decoder::{Decoder, Defaults};
use super::{llama, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const NEMOTRON: Arch = Arch {
    gguf: "nemotron",
    about: "Nemotron 3 and 4, Minitron",
    hf: &["NemotronForCausalLM"],
    from_config: nemotron,
    from_gguf: nemotron_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(FinalNorm, "norm", MinusOne),
        name(AttnNorm, "layers.{}.input_layernorm", MinusOne),
        name(FfnNorm, "layers.{}.post_attention_layernorm", MinusOne),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const ARCEE: Arch = Arch {
    gguf: "arcee",
    about: "Arcee AFM",
    hf: &["ArceeForCausalLM"],
    from_config: arcee,
    from_gguf: arcee_gguf,
    ..llama::ARCH
};

fn nemotron(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            activation: "relu2",
            rotated: 0.5,
            ..Defaults::default()
        },
    )?;
    d.layer_norms(true);
    d.feed_forward.gated = false;
    Ok(d.spec())
}

fn nemotron_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    // The file has both epsilons.
    d.layer_norms(true);
    squared(&mut d);
    Ok(d.spec())
}

fn arcee(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            activation: "relu2",
            ..Defaults::default()
        },
    )?;
    d.feed_forward.gated = false;
    Ok(d.spec())
}

fn arcee_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    squared(&mut d);
    Ok(d.spec())
}

fn squared(d: &mut Decoder) {
    d.feed_forward.gated = false;
    d.feed_forward.activation = Activation::SquaredRelu;
}

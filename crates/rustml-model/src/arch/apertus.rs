//! Apertus (Swiss AI, "Apertus: Democratizing Open and Compliant LLMs for Global
//! Language Environments"): Llama with norms of queries and keys, and a feed-forward
//! without gate whose activation, xIELU, has numbers of its own in each layer.

use super::decoder::{Decoder, Defaults};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "apertus",
    about: "Apertus",
    hf: &["ApertusForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(AttnNorm, "layers.{}.attention_layernorm", AsIs),
        name(FfnNorm, "layers.{}.feedforward_layernorm", AsIs),
    ],
    gguf_names: &[],
    ignored: &[
        ".mlp.act_fn.alpha_n",
        ".mlp.act_fn.alpha_p",
        ".mlp.act_fn.beta",
        ".mlp.act_fn.eps",
        "rope_freqs.weight",
        ".rotary_emb.inv_freq",
    ],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rope_base: 12_000_000.0,
            activation: "xielu",
            ..Defaults::default()
        },
    )?;
    let number = |layer: usize, what: &str, default: f32| -> Result<f32> {
        let name = format!("model.layers.{layer}.mlp.act_fn.{what}");
        Ok(c.number(&name)?.unwrap_or(default))
    };
    // What is stored makes 0.8 of both.
    let (p, n) = (0.8f32.exp_m1().ln(), 0.3f32.exp_m1().ln());
    let activations = (0..d.layers()).map(|i| {
        let beta = number(i, "beta", 0.5)?;
        let (alpha_p, alpha_n) = (number(i, "alpha_p", p)?, number(i, "alpha_n", n)?);
        Ok(xielu(alpha_p, alpha_n, beta, number(i, "eps", -1e-6)?))
    });
    d.activations = activations.collect::<Result<_>>()?;
    parts(&mut d);
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    let all = |key: &str| g.floats_of_layers(key, d.layers());
    let (p, n) = (all("xielu.alpha_p")?, all("xielu.alpha_n")?);
    let (beta, eps) = (all("xielu.beta")?, all("xielu.eps")?);
    let activation = |i: usize| xielu(p[i], n[i], beta[i], eps[i]);
    d.activations = (0..d.layers()).map(activation).collect();
    parts(&mut d);
    Ok(d.spec())
}

fn parts(d: &mut Decoder) {
    d.feed_forward.gated = false;
    d.qk_norm(NormedOver::Head, false);
}

fn xielu(p: f32, n: f32, beta: f32, eps: f32) -> Activation {
    let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
    Activation::Xielu {
        alpha_p: softplus(p),
        alpha_n: beta + softplus(n),
        beta,
        eps,
    }
}

//! Falcon-H1 (Zuo et al., "Falcon-H1"): in each layer attention and Mamba-2 read the same
//! input, and a dozen factors scale what goes in and out. Bamba (IBM): layers of either.

use super::decoder::{Decoder, Defaults, Placement};
use super::mamba2::{self, beside_attention, gguf_mamba};
use super::{name, Arch, Name, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "falcon-h1",
    about: "Falcon-H1",
    hf: &["FalconH1ForCausalLM"],
    from_config,
    from_gguf,
    hf_names: &NAMES,
    gguf_names: &[],
    ..super::seed_oss::ARCH
};

pub const BAMBA: Arch = Arch {
    // llama.cpp's converter calls it so, and computes another model of it.
    gguf: "bamba",
    about: "Bamba",
    hf: &["BambaForCausalLM"],
    from_config: bamba,
    from_gguf: |g| Err(g.error("Bamba runs from safetensors alone")),
    ..ARCH
};

const NAMES: [Name; 14] = {
    let [a, b, c, d, e, f, g, h, i] = mamba2::NAMES;
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        name(FinalNorm, "final_layernorm", AsIs),
        name(FfnNorm, "layers.{}.pre_ff_layernorm", AsIs),
        name(super::Role::Gate, "layers.{}.feed_forward.gate_proj", AsIs),
        name(Up, "layers.{}.feed_forward.up_proj", AsIs),
        name(Down, "layers.{}.feed_forward.down_proj", AsIs),
    ]
};

fn defaults() -> Defaults {
    Defaults {
        eps: 1e-5,
        kv_heads: Some(8),
        inner: Some(0),
        ..Defaults::default()
    }
}

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(c, defaults())?;
    let factor = |key: &str| -> Result<f32> { Ok(c.f32(key)?.unwrap_or(1.0)) };
    let list = |key: &str, len: usize| -> Result<Vec<f32>> {
        match c.numbers(key)? {
            None => Ok(vec![1.0; len]),
            Some(all) if all.len() == len => Ok(all),
            Some(all) => Err(c.error(format!("{key} has {} numbers in place of {len}", all.len()))),
        }
    };
    d.embedding.scale = factor("embedding_multiplier")?;
    d.head.scale = factor("lm_head_multiplier")?;
    let into = factor("attention_in_multiplier")?;
    let key = factor("key_multiplier")?;
    let mut mamba = beside_attention(c, d.hidden, d.norm.eps)?;
    mamba.out_bias = c.bool("projectors_bias")?.unwrap_or(false);
    let into_mamba = factor("ssm_in_multiplier")?;
    let biased = (into != 1.0 || key != 1.0) && d.attentions.iter().any(|a| a.qkv_bias);
    if biased || (into_mamba != 1.0 && mamba.in_bias) {
        return Err(c.error("factors of inputs together with biases are not supported"));
    }
    // A factor of the input is one of queries, keys and values.
    d.each(|_, a| a.scale *= into * into * key);
    if let Mixer::Mamba2(m) = &mut mamba.mixer {
        let all = list("ssm_multipliers", 5)?;
        m.factors = Factors {
            gate: into_mamba * all[0],
            inputs: [1, 2, 3].map(|i| into_mamba * all[i]),
            step: into_mamba * all[4],
        };
        let normed = c.bool("mamba_rms_norm")?.unwrap_or(false);
        let gate_first = !c.bool("mamba_norm_before_gate")?.unwrap_or(true);
        m.norm = m
            .norm
            .filter(|_| normed)
            .map(|n| GatedNorm { gate_first, ..n });
    }
    let mlp = list("mlp_multipliers", 2)?;
    if mlp[0] != 1.0 {
        d.feed_forward.activation = Activation::ScaledSilu { factor: mlp[0] };
    }
    let scales = (
        into * factor("attention_out_multiplier")?,
        factor("ssm_out_multiplier")?,
        mlp[1],
    );
    Ok(side_by_side(d, mamba, scales))
}

/// Attention and Mamba-2 of the same input, then a feed-forward; `scales` are the factors
/// of their results.
fn side_by_side(d: Decoder, mamba: Recurrent, scales: (f32, f32, f32)) -> Spec {
    let mut spec = d.spec();
    for layer in &mut spec.layers {
        let [attention, feed_forward] = &mut layer.blocks[..] else {
            continue;
        };
        let outer = attention.norm;
        attention.norm = NormPlacement::None;
        attention.scale = scales.0;
        feed_forward.scale = scales.2;
        let mamba = Block {
            norm: NormPlacement::None,
            part: Part::Recurrent(mamba),
            scale: scales.1,
        };
        layer.blocks[0] = Block {
            norm: outer,
            part: Part::Parallel(vec![attention.clone(), mamba]),
            scale: 1.0,
        };
    }
    spec
}

/// What converters have multiplied by all factors already.
fn from_gguf(g: &Gguf) -> Result<Spec> {
    let d = Decoder::from_gguf(g)?;
    let mut mamba = gguf_mamba(g, d.norm.eps, 0)?;
    if let Mixer::Mamba2(m) = &mut mamba.mixer {
        m.norm = m.norm.map(|n| GatedNorm {
            gate_first: false,
            ..n
        });
    }
    Ok(side_by_side(d, mamba, (1.0, 1.0, 1.0)))
}

fn bamba(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            // Whatever the settings say.
            rotated: 0.5,
            ..defaults()
        },
    )?;
    debug_assert!(d.placement == Placement::Pre);
    let full = c.usizes("attn_layer_indices")?.unwrap_or_default();
    let mamba = beside_attention(c, d.hidden, d.norm.eps)?;
    d.recurrent(mamba, |i| !full.contains(&i));
    Ok(d.spec())
}

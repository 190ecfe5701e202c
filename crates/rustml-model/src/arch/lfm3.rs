//! LFM3 (Liquid AI): short convolutions as in LFM2, between attention to everything and
//! attention with a window, each head of which has a gate; norms before and after each part.

use super::decoder::{rope_of, Decoder, Defaults, Placement};
use super::{lfm2, name, Arch, Name, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::Config;
use crate::spec::{self, *};

pub const ARCH: Arch = Arch {
    gguf: "lfm3",
    about: "LFM3",
    hf: &["Lfm3ForCausalLM"],
    from_config,
    from_gguf: |g| Err(g.error("LFM3 runs from safetensors alone")),
    hf_names: NAMES,
    ..lfm2::ARCH
};

const NAMES: &[Name] = &[
    name(FinalNorm, "embedding_norm", AsIs),
    name(AttnNorm, "layers.{}.operator_norm", AsIs),
    name(AttnPostNorm, "layers.{}.post_operator_norm", AsIs),
    name(FfnNorm, "layers.{}.ffn_norm", AsIs),
    name(FfnPostNorm, "layers.{}.post_ffn_norm", AsIs),
    name(AttnGate, "layers.{}.self_attn.gate_proj", AsIs),
    name(AttnGate, "layers.{}.self_attn.g_proj", AsIs),
    name(super::Role::Gate, "layers.{}.feed_forward.w1", AsIs),
    name(Up, "layers.{}.feed_forward.w3", AsIs),
    name(Down, "layers.{}.feed_forward.w2", AsIs),
    name(StateFactor, "layers.{}.conv.in_proj", Fused),
    name(StateGate, "layers.{}.conv.in_proj", Fused),
    name(StateIn, "layers.{}.conv.in_proj", Fused),
    name(Convolution, "layers.{}.conv.conv", AsIs),
    name(StateOut, "layers.{}.conv.out_proj", AsIs),
];

fn from_config(c: &Config) -> Result<Spec> {
    let defaults = |base| Defaults {
        eps: 1e-5,
        rope_base: base,
        tied: true,
        kv_heads: Some(4),
        head_dim: Some(128),
        context: Some(128_000),
        inner: Some(0),
        ..Defaults::default()
    };
    let mut d = Decoder::from_config(c, defaults(1e6))?;
    d.qk_norm(NormedOver::Head, false);
    if c.bool("use_sandwich_norm")?.unwrap_or(true) {
        d.placement = Placement::Sandwich;
    }
    let gate = c.bool("use_attention_gate")?.unwrap_or(true);
    let gate = gate.then_some(AttentionGate {
        function: spec::Gate::Sigmoid,
        per_head: true,
    });
    let kinds: Vec<String> = match c.strings("layer_types")? {
        Some(types) if types.len() == d.layers() => types.iter().map(|t| t.to_string()).collect(),
        Some(types) => {
            return Err(c.error(format!(
                "layer_types names {} layers, but num_hidden_layers is {}",
                types.len(),
                d.layers()
            )))
        }
        None => (0..d.layers()).map(|i| usual(i).to_owned()).collect(),
    };
    let known = ["conv", "sliding_attention", "full_attention"];
    if let Some(other) = kinds.iter().find(|k| !known.contains(&k.as_str())) {
        return Err(c.error(format!(
            "layer_types names {}; known are conv, sliding_attention and full_attention",
            show(other)
        )));
    }
    let head_dim = d.attentions[0].head_dim;
    let of = |kind, base| rope_of(c, &defaults(base), head_dim, Some(kind));
    d.ropes = vec![of("full_attention", 1e6)?, of("sliding_attention", 1e4)?];
    let window = c.usize_or("sliding_window", Some(256))?;
    d.each(|i, a| {
        let sliding = kinds[i] == "sliding_attention";
        a.gate = gate;
        a.rope = Some(usize::from(sliding));
        a.window = window.filter(|_| sliding);
    });
    let bias = c.bool("conv_bias")?.unwrap_or(false);
    let taps = c.usize("conv_L_cache")?.unwrap_or(7);
    let conv = lfm2::short_conv(d.hidden, taps, bias);
    d.recurrent(conv, |i| kinds[i] == "conv");
    Ok(d.spec())
}

/// What a layer is where the settings do not say it.
fn usual(layer: usize) -> &'static str {
    match layer % 4 {
        2 => "full_attention",
        0 if layer > 0 => "sliding_attention",
        _ => "conv",
    }
}

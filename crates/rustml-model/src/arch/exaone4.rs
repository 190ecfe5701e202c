//! EXAONE 4 (LG AI Research, "EXAONE 4.0"): norms after each part alone, norms of
//! queries and keys, and where there is a sliding window, three of four layers have
//! it, and only these are rotated.

use super::decoder::{layer_types, period, Decoder, Defaults, LayerType, Placement};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "exaone4",
    about: "EXAONE 4",
    hf: &["Exaone4ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", AsIs),
        name(FfnPostNorm, "layers.{}.post_feedforward_layernorm", AsIs),
    ],
    gguf_names: &[],
    ignored: &["rope_freqs.weight", ".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            kv_heads: Some(32),
            ..Defaults::default()
        },
    )?;
    let pattern = match c.str_if("sliding_window_pattern") {
        // A pattern such as LLLG.
        Some(pattern) => pattern.len(),
        None => c.usize("sliding_window_pattern")?.unwrap_or(4),
    };
    let types = layer_types(c, d.layers())?.unwrap_or_else(|| {
        let mut types = period(d.layers(), pattern);
        // The last layer always sees everything.
        if let Some(last) = types.last_mut() {
            *last = LayerType::Full;
        }
        types
    });
    common(&mut d, &types, c.usize_or("sliding_window", Some(4096))?);
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    let window = g.usize("attention.sliding_window")?.filter(|w| *w > 0);
    let types = match g.bools("attention.sliding_window_pattern") {
        Some(listed) if listed.len() == d.layers() => listed
            .iter()
            .map(|l| {
                if *l {
                    LayerType::Sliding
                } else {
                    LayerType::Full
                }
            })
            .collect(),
        _ => period(d.layers(), 4),
    };
    common(&mut d, &types, window);
    Ok(d.spec())
}

fn common(d: &mut Decoder, types: &[LayerType], window: Option<usize>) {
    d.placement = Placement::Post;
    d.qk_norm(NormedOver::Head, false);
    d.each(|i, a| {
        let sliding = types[i] == LayerType::Sliding;
        a.window = window.filter(|_| sliding);
        a.rope = (window.is_none() || sliding).then_some(0);
    });
}

//! SmolLM3 (Hugging Face): Llama without rotation in every fourth layer (Yang et
//! al., "Rope to Nope and Back Again").

use super::decoder::{Decoder, Defaults};
use super::{llama, Arch};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "smollm3",
    about: "SmolLM 3",
    hf: &["SmolLM3ForCausalLM"],
    from_config,
    from_gguf,
    ..llama::ARCH
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            rope_base: 2_000_000.0,
            tied: true,
            kv_heads: Some(4),
            ..Defaults::default()
        },
    )?;
    let interval = c.usize("no_rope_layer_interval")?.unwrap_or(4).max(1);
    let listed = c.usizes("no_rope_layers")?;
    if let Some(list) = listed.as_ref().filter(|l| l.len() != d.layers()) {
        return Err(c.error(format!(
            "no_rope_layers names {} layers, but num_hidden_layers is {}",
            list.len(),
            d.layers()
        )));
    }
    // The key's name says the opposite of what it means.
    let rotates = |i: usize| match &listed {
        Some(list) => list[i] != 0,
        None => !(i + 1).is_multiple_of(interval),
    };
    let window = match c.bool("use_sliding_window")? {
        Some(true) => c.usize("sliding_window")?,
        _ => None,
    };
    let types = super::decoder::layer_types(c, d.layers())?;
    d.each(|i, a| {
        a.rope = rotates(i).then_some(0);
        // Layers with a rotation have the window, where there is one.
        let sliding = match &types {
            Some(types) => types[i] == super::decoder::LayerType::Sliding,
            None => rotates(i),
        };
        a.window = window.filter(|_| sliding);
    });
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    d.each(|i, a| a.rope = (!(i + 1).is_multiple_of(4)).then_some(0));
    Ok(d.spec())
}

//! Qwen 2 and 2.5 (Yang et al., "Qwen2 Technical Report"): like Llama, with
//! biases on queries, keys and values. Qwen 3 (Yang et al., "Qwen3 Technical
//! Report"): norms of queries and keys instead. Heads are rotated by halves, in
//! GGUF files too. The vision models are these for text: positions of text are
//! the same in all their sections.

use super::decoder::{layer_types, Decoder, Defaults, LayerType};
use super::Arch;
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const QWEN2: Arch = Arch {
    gguf: "qwen2",
    about: "Qwen 2 and 2.5",
    hf: &["Qwen2ForCausalLM"],
    from_config: |c| from_config(c, Generation::Two),
    from_gguf: |g| from_gguf(g, Generation::Two),
    hf_prefixes: &["model.", ""],
    hf_names: &[],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const QWEN3: Arch = Arch {
    gguf: "qwen3",
    about: "Qwen 3",
    hf: &["Qwen3ForCausalLM"],
    from_config: |c| from_config(c, Generation::Three),
    from_gguf: |g| from_gguf(g, Generation::Three),
    ..QWEN2
};

pub const QWEN2_VL: Arch = Arch {
    gguf: "qwen2vl",
    about: "Qwen 2 and 2.5 VL, their language models",
    hf: &[
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2VLForConditionalGeneration",
    ],
    from_config: |c| text(c, Generation::Two),
    hf_prefixes: &["model.language_model.", "language_model.model.", "model."],
    // The eyes, which text does not need.
    ignored: &["model.visual.", "visual.", ".rotary_emb.inv_freq"],
    ..QWEN2
};

pub const QWEN3_VL: Arch = Arch {
    gguf: "qwen3vl",
    about: "Qwen 3 VL, its language model",
    hf: &["Qwen3VLForConditionalGeneration"],
    from_config: |c| text(c, Generation::Three),
    from_gguf: |g| from_gguf(g, Generation::Three),
    ..QWEN2_VL
};

#[derive(Clone, Copy, PartialEq)]
enum Generation {
    Two,
    Three,
}

/// The part of a vision model's settings that is about text.
fn text(whole: &Config, generation: Generation) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let mut spec = from_config(text.as_ref().unwrap_or(whole), generation)?;
    // It may be outside.
    if let Some(tied) = whole.bool("tie_word_embeddings")? {
        spec.head = spec.head.map(|head| Head { tied, ..head });
    }
    Ok(spec)
}

fn from_config(c: &Config, generation: Generation) -> Result<Spec> {
    let third = generation == Generation::Three;
    let mut d = Decoder::from_config(
        c,
        Defaults {
            head_dim: third.then_some(128),
            ..Defaults::default()
        },
    )?;
    let bias = third && c.bool("attention_bias")?.unwrap_or(false);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias || !third, bias));
    if third {
        d.qk_norm(NormedOver::Head, false);
    }
    if c.bool("use_sliding_window")? == Some(true) {
        let window = c.usize_or("sliding_window", Some(4096))?;
        // Without a list, the layers from `max_window_layers` on have it.
        let first = c.usize("max_window_layers")?.unwrap_or(28);
        let types = layer_types(c, d.layers())?;
        d.each(|i, a| {
            let sliding = match &types {
                Some(types) => types[i] == LayerType::Sliding,
                None => i >= first,
            };
            a.window = window.filter(|_| sliding);
        });
    }
    Ok(d.spec())
}

fn from_gguf(g: &Gguf, generation: Generation) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    match generation {
        Generation::Two => d.each(|_, a| a.qkv_bias = true),
        Generation::Three => d.qk_norm(NormedOver::Head, false),
    }
    Ok(d.spec())
}

//! Ministral 3 and Mistral Small 3 (Mistral AI): Llama with YaRN, and queries that grow
//! with their positions. What sees pictures in these is not loaded.

use super::decoder::{Decoder, Defaults};
use super::{llama, Arch};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "mistral3",
    about: "Ministral 3, Mistral Small 3, Devstral Small 2",
    hf: &["Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"],
    from_config,
    from_gguf,
    hf_prefixes: &[
        "model.language_model.",
        "language_model.model.",
        "model.",
        "",
    ],
    hf_names: &[],
    ignored: &[
        "vision_tower.",
        "model.vision_tower.",
        "multi_modal_projector.",
        "model.multi_modal_projector.",
        "rope_freqs.weight",
        ".rotary_emb.inv_freq",
    ],
    ..llama::ARCH
};

fn from_config(whole: &Config) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let c = text.as_ref().unwrap_or(whole);
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rope_base: 1_000_000.0,
            kv_heads: Some(8),
            head_dim: (c.str("model_type")? == Some("ministral3")).then_some(128),
            ..Defaults::default()
        },
    )?;
    if let Some(tied) = whole.bool("tie_word_embeddings")? {
        d.head.tied = tied;
    }
    let window = c.usize("sliding_window")?;
    d.each(|_, a| a.window = window);
    let settings = match c.object("rope_parameters")? {
        Some(settings) => Some(settings),
        None => c.object("rope_scaling")?,
    };
    if let Some(settings) = settings {
        if let Some(growth) = settings.f32("llama_4_scaling_beta")? {
            let every = settings.need_f32("original_max_position_embeddings")?;
            warm(&mut d, growth, every);
        }
    }
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    if let Some(growth) = g.f32("attention.temperature_scale")?.filter(|s| *s != 0.0) {
        warm(
            &mut d,
            growth,
            g.need_f32("rope.scaling.original_context_length")?,
        );
    }
    Ok(d.spec())
}

fn warm(d: &mut Decoder, growth: f32, every: f32) {
    let temperature = Temperature {
        every,
        growth,
        ahead: 0.0,
    };
    d.each(|_, a| a.temperature = Some(temperature));
}

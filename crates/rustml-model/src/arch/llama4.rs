//! Llama 4 (Meta, "The Llama 4 herd"), the part that reads text: attention in chunks in
//! three of four layers, whose queries and keys are normalised after the rotation; the
//! fourth sees everything, is not rotated, and its queries grow with their positions.
//! One expert computes a row, times its weight, beside a shared one.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "llama4",
    about: "Llama 4, its language model",
    hf: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
    from_config,
    from_gguf,
    hf_prefixes: &[
        "language_model.model.",
        "model.language_model.",
        "model.",
        "",
    ],
    hf_names: &[
        name(Query, "layers.{}.self_attn.q_proj", Interleaved),
        name(Key, "layers.{}.self_attn.k_proj", Interleaved),
        name(Gate, "layers.{}.feed_forward.gate_proj", AsIs),
        name(Up, "layers.{}.feed_forward.up_proj", AsIs),
        name(Down, "layers.{}.feed_forward.down_proj", AsIs),
        name(ExpertRouter, "layers.{}.feed_forward.router", AsIs),
        name(
            ExpertGate,
            "layers.{}.feed_forward.experts.gate_up_proj",
            FusedTransposed,
        ),
        name(
            ExpertUp,
            "layers.{}.feed_forward.experts.gate_up_proj",
            FusedTransposed,
        ),
        name(
            ExpertDown,
            "layers.{}.feed_forward.experts.down_proj",
            Transposed,
        ),
        name(
            SharedGate,
            "layers.{}.feed_forward.shared_expert.gate_proj",
            AsIs,
        ),
        name(
            SharedUp,
            "layers.{}.feed_forward.shared_expert.up_proj",
            AsIs,
        ),
        name(
            SharedDown,
            "layers.{}.feed_forward.shared_expert.down_proj",
            AsIs,
        ),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Interleaved),
        name(Key, "blk.{}.attn_k", Interleaved),
    ],
    ignored: &[
        "vision_model.",
        "model.vision_model.",
        "multi_modal_projector.",
        "model.multi_modal_projector.",
        "rope_freqs.weight",
        ".rotary_emb.inv_freq",
    ],
};

fn from_config(whole: &Config) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let c = text.as_ref().unwrap_or(whole);
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            kv_heads: Some(8),
            head_dim: Some(128),
            inner: Some(0),
            ..Defaults::default()
        },
    )?;
    let interval = c.usize("no_rope_layer_interval")?.unwrap_or(4);
    let rotated = match c.usizes("no_rope_layers")?.filter(|l| !l.is_empty()) {
        Some(listed) if listed.len() != d.layers() => {
            return Err(c.error(format!(
                "no_rope_layers lists {} layers, but num_hidden_layers is {}",
                listed.len(),
                d.layers()
            )))
        }
        Some(listed) => listed.iter().map(|l| *l != 0).collect(),
        None => pattern(d.layers(), interval),
    };
    let temperature = Temperature {
        every: c.f32("floor_scale")?.unwrap_or(8192.0),
        growth: c.f32("attn_scale")?.unwrap_or(0.1),
        ahead: 1.0,
    };
    let tuned = c.bool("attn_temperature_tuning")?.unwrap_or(true);
    let chunk = c.usize_or("attention_chunk_size", Some(8192))?;
    let qk_norm = c.bool("use_qk_norm")?.unwrap_or(true);
    attention(
        &mut d,
        &rotated,
        chunk,
        tuned.then_some(temperature),
        qk_norm,
    );
    // The layers' types say where there are chunks.
    if let Some(types) = c.strings("layer_types")? {
        if types.len() != d.layers() {
            return Err(c.error(format!(
                "layer_types names {} layers, but num_hidden_layers is {}",
                types.len(),
                d.layers()
            )));
        }
        d.each(|i, a| a.chunk = chunk.filter(|_| types[i] == "chunked_attention"));
    }
    let (all, chosen) = mixture::counts(c, (16, 1))?;
    let inner = c.usize("intermediate_size")?.unwrap_or(8192);
    d.feed_forward.inner = c.usize("intermediate_size_mlp")?.unwrap_or(16_384);
    let step = c.usize("interleave_moe_layer_step")?.unwrap_or(1).max(1);
    let listed = c.usizes("moe_layers")?;
    let mut experts = mixture::plain(&d, router(all, chosen), inner).beside(inner, false);
    experts.weight_on_input = true;
    d.experts(experts, |i| match &listed {
        Some(listed) => listed.contains(&i),
        None => (i + 1).is_multiple_of(step),
    });
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    // What llama.cpp takes it to be: the file says none of this.
    let rotated = match g.usize("attention.sliding_window")? {
        Some(0) => vec![true; d.layers()],
        _ => pattern(d.layers(), 4),
    };
    let temperature = Temperature {
        every: 8192.0,
        growth: 0.1,
        ahead: 1.0,
    };
    let qk_norm = g.need_usize("expert_count")? != 128;
    attention(&mut d, &rotated, Some(8192), Some(temperature), qk_norm);
    mixture::from_gguf(&mut d, g, router)?;
    if let Some((experts, _)) = &mut d.experts {
        experts.weight_on_input = true;
    }
    Ok(d.spec())
}

fn router(all: usize, chosen: usize) -> Router {
    Router {
        scores: Scores::SigmoidOfChosen,
        ..mixture::softmax(all, chosen, false)
    }
}

/// Which layers are rotated: all but every `interval`-th.
fn pattern(layers: usize, interval: usize) -> Vec<bool> {
    let rotated = |i: usize| interval == 0 || !(i + 1).is_multiple_of(interval);
    (0..layers).map(rotated).collect()
}

fn attention(
    d: &mut Decoder,
    rotated: &[bool],
    chunk: Option<usize>,
    temperature: Option<Temperature>,
    qk_norm: bool,
) {
    if qk_norm {
        d.qk_norm(NormedOver::Head, true);
    }
    d.each(|i, a| {
        if let Some(n) = &mut a.qk_norm {
            n.weighted = false;
        }
        if rotated[i] {
            a.chunk = chunk;
        } else {
            (a.rope, a.qk_norm, a.temperature) = (None, None, temperature);
        }
    });
}

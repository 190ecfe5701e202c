//! Granite 3 and 4 (IBM): Llama with factors of the embedding, the scores, what
//! blocks add to the stream, and the logits; some have experts. MiniCPM (Hu et al., "MiniCPM: Unveiling
//! the Potential of Small Language Models") has three of these.

use super::decoder::{Decoder, Defaults};
use super::{llama, mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const GRANITE: Arch = Arch {
    gguf: "granite",
    about: "Granite 3 and 4",
    hf: &["GraniteForCausalLM"],
    from_config,
    from_gguf,
    ..llama::ARCH
};

pub const GRANITE_MOE: Arch = Arch {
    gguf: "granitemoe",
    about: "Granite 3 with experts",
    hf: &["GraniteMoeForCausalLM"],
    from_config: moe,
    from_gguf: moe_gguf,
    hf_names: &[
        name(
            ExpertRouter,
            "layers.{}.block_sparse_moe.router.layer",
            AsIs,
        ),
        name(ExpertRouter, "layers.{}.block_sparse_moe.router", AsIs),
        name(ExpertGate, "layers.{}.block_sparse_moe.input_linear", Fused),
        name(ExpertUp, "layers.{}.block_sparse_moe.input_linear", Fused),
        name(ExpertDown, "layers.{}.block_sparse_moe.output_linear", AsIs),
        name(
            ExpertGate,
            "layers.{}.block_sparse_moe.experts.gate_up_proj",
            Fused,
        ),
        name(
            ExpertUp,
            "layers.{}.block_sparse_moe.experts.gate_up_proj",
            Fused,
        ),
        name(
            ExpertDown,
            "layers.{}.block_sparse_moe.experts.down_proj",
            AsIs,
        ),
    ],
    ..llama::ARCH
};

pub const MINICPM: Arch = Arch {
    gguf: "minicpm",
    about: "MiniCPM 1 and 2",
    hf: &["MiniCPMForCausalLM"],
    from_config: minicpm,
    from_gguf: minicpm_gguf,
    ..llama::ARCH
};

fn from_config(c: &Config) -> Result<Spec> {
    Ok(granite(c)?.spec())
}

fn moe(c: &Config) -> Result<Spec> {
    let mut d = granite(c)?;
    let (all, chosen) = mixture::counts(c, (8, 2))?;
    let experts = mixture::plain(&d, of_chosen(all, chosen), d.feed_forward.inner);
    d.experts(experts, |_| true);
    Ok(d.spec())
}

pub(super) fn of_chosen(all: usize, chosen: usize) -> Router {
    Router {
        scores: Scores::SoftmaxOfChosen,
        ..mixture::softmax(all, chosen, false)
    }
}

pub(super) fn granite(c: &Config) -> Result<Decoder> {
    let mut d = Decoder::from_config(c, Defaults::default())?;
    let scale = c.f32("attention_multiplier")?.unwrap_or(1.0);
    d.each(|_, a| a.scale = scale);
    d.embedding.scale = c.f32("embedding_multiplier")?.unwrap_or(1.0);
    d.residual = c.f32("residual_multiplier")?.unwrap_or(1.0);
    d.head.scale = 1.0 / c.f32("logits_scaling")?.unwrap_or(1.0);
    Ok(d)
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    factors(&mut d, g)?;
    Ok(d.spec())
}

fn moe_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    factors(&mut d, g)?;
    mixture::from_gguf(&mut d, g, of_chosen)?;
    Ok(d.spec())
}

/// The factors, as far as a file has them; 0 is none.
pub(super) fn factors(d: &mut Decoder, g: &Gguf) -> Result<()> {
    let factor = |key: &str| -> Result<Option<f32>> { Ok(g.f32(key)?.filter(|f| *f != 0.0)) };
    let set = |to: &mut f32, value: Option<f32>| *to = value.unwrap_or(*to);
    set(&mut d.embedding.scale, factor("embedding_scale")?);
    set(&mut d.residual, factor("residual_scale")?);
    set(&mut d.head.scale, factor("logit_scale")?.map(|f| 1.0 / f));
    Ok(())
}

fn minicpm(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(c, Defaults::default())?;
    d.embedding.scale = c.f32("scale_emb")?.unwrap_or(1.0);
    let depth = c.f32("scale_depth")?;
    d.residual = depth.map_or(1.0, |depth| depth / (d.layers() as f32).sqrt());
    let base = c.f32("dim_model_base")?;
    d.head.scale = base.map_or(1.0, |base| base / d.hidden as f32);
    Ok(d.spec())
}

fn minicpm_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    // What the first files, which do not say it, were made of.
    d.embedding.scale = 12.0;
    d.residual = 1.4 / (d.layers() as f32).sqrt();
    d.head.scale = 256.0 / d.hidden as f32;
    factors(&mut d, g)?;
    Ok(d.spec())
}

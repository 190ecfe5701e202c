//! Mamba-2 (Dao and Gu, "Transformers are SSMs") by itself, and its settings, which others
//! share.

use super::decoder::rms;
use super::{name, Arch, Name, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "mamba2",
    about: "Mamba-2",
    hf: &["Mamba2ForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["backbone.", "model.backbone.", "model.", ""],
    hf_names: &[
        name(Embedding, "embeddings", AsIs),
        name(FinalNorm, "norm_f", AsIs),
        name(AttnNorm, "layers.{}.norm", AsIs),
        name(StateGate, "layers.{}.mixer.in_proj", Fused),
        name(StateIn, "layers.{}.mixer.in_proj", Fused),
        name(StateStep, "layers.{}.mixer.in_proj", Fused),
        name(Convolution, "layers.{}.mixer.conv1d", AsIs),
        name(Decay, "layers.{}.mixer.A_log", NegatedLog),
        name(StepBias, "layers.{}.mixer.dt_bias", AsIs),
        name(Skip, "layers.{}.mixer.D", AsIs),
        name(StateNorm, "layers.{}.mixer.norm", AsIs),
        name(StateOut, "layers.{}.mixer.out_proj", AsIs),
    ],
    gguf_names: &[],
    ignored: &[],
};

/// The usual names of Mamba-2's tensors beside attention.
pub(super) const NAMES: [Name; 9] = [
    name(StateGate, "layers.{}.mamba.in_proj", Fused),
    name(StateIn, "layers.{}.mamba.in_proj", Fused),
    name(StateStep, "layers.{}.mamba.in_proj", Fused),
    name(Convolution, "layers.{}.mamba.conv1d", AsIs),
    name(Decay, "layers.{}.mamba.A_log", NegatedLog),
    name(StepBias, "layers.{}.mamba.dt_bias", AsIs),
    name(Skip, "layers.{}.mamba.D", AsIs),
    name(StateNorm, "layers.{}.mamba.norm", AsIs),
    name(StateOut, "layers.{}.mamba.out_proj", AsIs),
];

fn from_config(c: &Config) -> Result<Spec> {
    let hidden = c.need_usize("hidden_size")?;
    let eps = c.f32("layer_norm_epsilon")?.unwrap_or(1e-5);
    let heads = c.usize("num_heads")?.unwrap_or(128);
    let head_dim = c.usize("head_dim")?.unwrap_or(64);
    let groups = c.usize("n_groups")?.unwrap_or(8);
    let bias = c.bool("use_bias")?.unwrap_or(false);
    let mamba = Recurrent {
        taps: c.usize("conv_kernel")?.unwrap_or(4),
        conv_bias: c.bool("use_conv_bias")?.unwrap_or(true),
        mixer: Mixer::Mamba2(Mamba2 {
            heads,
            head_dim,
            groups,
            state: c.usize("state_size")?.unwrap_or(128),
            steps: steps(c, "time_step_limit")?,
            norm: Some(GatedNorm {
                eps,
                groups,
                gate_first: true,
            }),
            factors: Factors::ONE,
        }),
        in_bias: bias,
        out_bias: bias,
    };
    let layers = c.need_usize("num_hidden_layers")?;
    let tied = c.bool("tie_word_embeddings")?.unwrap_or(false);
    let context = c.usize("max_position_embeddings")?;
    spec(
        mamba,
        layers,
        (c.need_usize("vocab_size")?, hidden, eps),
        tied,
        context,
    )
    .map_err(|e| c.error(e))
}

/// Mamba-2 by the keys of models that have attention as well.
pub(super) fn beside_attention(c: &Config, hidden: usize, eps: f32) -> Result<Recurrent> {
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let (heads, groups) = (size("mamba_n_heads", 128)?, size("mamba_n_groups", 1)?);
    let inner = match c.usize("mamba_d_ssm")? {
        Some(inner) => inner,
        None => size("mamba_expand", 2)?.saturating_mul(hidden),
    };
    let bias = c.bool("mamba_proj_bias")?.unwrap_or(false);
    Ok(Recurrent {
        taps: size("mamba_d_conv", 4)?,
        conv_bias: c.bool("mamba_conv_bias")?.unwrap_or(true),
        mixer: Mixer::Mamba2(Mamba2 {
            heads,
            head_dim: inner / heads.max(1),
            groups,
            state: size("mamba_d_state", 256)?,
            steps: steps(c, "time_step_limit")?,
            norm: Some(GatedNorm {
                eps,
                groups,
                gate_first: true,
            }),
            factors: Factors::ONE,
        }),
        in_bias: bias,
        out_bias: bias,
    })
}

/// The least and the largest step that the settings allow.
pub(super) fn steps(c: &Config, key: &str) -> Result<(f32, f32)> {
    match c.numbers(key)?.as_deref() {
        None => Ok((0.0, f32::INFINITY)),
        Some([least, most]) => Ok((*least, *most)),
        Some(other) => Err(c.error(format!("{key} has {} numbers in place of two", other.len()))),
    }
}

/// Settings of GGUF; without limits of a step.
pub(super) fn gguf_mamba(g: &Gguf, eps: f32, first: usize) -> Result<Recurrent> {
    let heads = g.need_usize("ssm.time_step_rank")?;
    let groups = g.usize("ssm.group_count")?.unwrap_or(1);
    let has = |what: &str| g.has_tensor(&format!("blk.{first}.{what}"));
    Ok(Recurrent {
        taps: g.need_usize("ssm.conv_kernel")?,
        conv_bias: has("ssm_conv1d.bias"),
        mixer: Mixer::Mamba2(Mamba2 {
            heads,
            head_dim: g.need_usize("ssm.inner_size")? / heads.max(1),
            groups,
            state: g.need_usize("ssm.state_size")?,
            steps: (0.0, f32::INFINITY),
            norm: has("ssm_norm.weight").then_some(GatedNorm {
                eps,
                groups,
                gate_first: true,
            }),
            factors: Factors::ONE,
        }),
        in_bias: has("ssm_in.bias"),
        out_bias: has("ssm_out.bias"),
    })
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let eps = g.need_f32("attention.layer_norm_rms_epsilon")?;
    let sizes = (
        g.tensor_rows("token_embd.weight")?,
        g.need_usize("embedding_length")?,
        eps,
    );
    let tied = !g.has_tensor("output.weight");
    let mamba = gguf_mamba(g, eps, 0)?;
    let context = g.usize("context_length")?;
    spec(mamba, g.need_usize("block_count")?, sizes, tied, context).map_err(|e| g.error(e))
}

/// Layers of nothing but this; `sizes` are vocabulary, width and epsilon.
fn spec(
    mamba: Recurrent,
    layers: usize,
    (vocab, hidden, eps): (usize, usize, f32),
    tied: bool,
    context: Option<usize>,
) -> std::result::Result<Spec, String> {
    let layer = Layer {
        blocks: vec![Block {
            norm: NormPlacement::Pre(rms(eps)),
            part: Part::Recurrent(mamba),
            scale: 1.0,
        }],
    };
    Ok(Spec {
        classifier: None,
        vocab,
        hidden,
        // Any text will do; nothing depends on its length.
        context: context.unwrap_or(1 << 20),
        embedding: super::decoder::plain_embedding(),
        ropes: Vec::new(),
        layers: super::repeat(layer, layers)?,
        final_norm: Some(rms(eps)),
        head: Some(super::decoder::plain_head(tied)),
    })
}

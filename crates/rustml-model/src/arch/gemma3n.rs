//! Gemma 3n (Gemma Team's model cards): four streams of which each layer computes one, a
//! vector of each token for every layer, a narrow product beside attention, last layers that
//! read the keys and values of earlier ones, and first feed-forwards that leave out most.

use super::decoder::{layer_types, period, rms, rope_of, Defaults, LayerType};
use super::gemma4::{attention, share};
use super::rope::{hf_rope, HfRope};
use super::{gemma4, hf_activation, name, Arch, Repair::*, Role::*};
use crate::altup::deviations;
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "gemma3n",
    about: "Gemma 3n, its language model",
    hf: &["Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"],
    from_config,
    from_gguf,
    hf_names: &[
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", AsIs),
        name(FfnNorm, "layers.{}.pre_feedforward_layernorm", AsIs),
        name(FfnPostNorm, "layers.{}.post_feedforward_layernorm", AsIs),
        name(PerLayerEmbedding, "embed_tokens_per_layer", AsIs),
        name(PerLayerProjection, "per_layer_model_projection", AsIs),
        name(PerLayerNorm, "per_layer_projection_norm", AsIs),
        name(PerLayerGate, "layers.{}.per_layer_input_gate", AsIs),
        name(PerLayerOut, "layers.{}.per_layer_projection", AsIs),
        name(
            PerLayerPostNorm,
            "layers.{}.post_per_layer_input_norm",
            AsIs,
        ),
        name(StreamIn, "altup_projections", AsIs),
        name(StreamOut, "altup_unembed_projections", AsIs),
        name(StreamRouter, "layers.{}.altup.modality_router", AsIs),
        name(StreamRouterNorm, "layers.{}.altup.router_norm", AsIs),
        name(StreamPredict, "layers.{}.altup.prediction_coefs", AsIs),
        name(StreamCorrect, "layers.{}.altup.correction_coefs", AsIs),
        name(StreamScale, "layers.{}.altup.correct_output_scale", AsIs),
        name(LaurelLeft, "layers.{}.laurel.linear_left", AsIs),
        name(LaurelRight, "layers.{}.laurel.linear_right", AsIs),
        name(LaurelNorm, "layers.{}.laurel.post_laurel_norm", AsIs),
    ],
    gguf_names: &[
        name(PerLayerEmbedding, "per_layer_token_embd", AsIs),
        name(PerLayerProjection, "per_layer_model_proj", AsIs),
        name(PerLayerNorm, "per_layer_proj_norm", AsIs),
        name(PerLayerGate, "blk.{}.inp_gate", AsIs),
        name(PerLayerOut, "blk.{}.proj", AsIs),
        name(PerLayerPostNorm, "blk.{}.post_norm", AsIs),
        name(StreamIn, "altup_proj", AsIs),
        name(StreamOut, "altup_unembd_proj", AsIs),
        name(StreamRouter, "blk.{}.altup_router", AsIs),
        name(StreamRouterNorm, "blk.{}.altup_router_norm", AsIs),
        name(StreamPredict, "blk.{}.altup_predict_coef", AsIs),
        name(StreamCorrect, "blk.{}.altup_correct_coef", AsIs),
        name(StreamScale, "blk.{}.altup_correct_scale", AsIs),
        name(LaurelLeft, "blk.{}.laurel_l", AsIs),
        name(LaurelRight, "blk.{}.laurel_r", AsIs),
        name(LaurelNorm, "blk.{}.laurel_post_norm", AsIs),
    ],
    ..gemma4::ARCH
};

fn from_config(whole: &Config) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let c = text.as_ref().unwrap_or(whole);
    let tied = match whole.bool("tie_word_embeddings")? {
        Some(tied) => tied,
        None => c.bool("tie_word_embeddings")?.unwrap_or(true),
    };
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let count = size("num_hidden_layers", 35)?;
    super::repeat((), count).map_err(|e| c.error(e))?;
    let types = match layer_types(c, count)? {
        Some(types) => types,
        None => period(count, 5),
    };
    let eps = c.f32("rms_norm_eps")?.unwrap_or(1e-6);
    let head_dim = size("head_dim", 256)?;
    let heads = (
        size("num_attention_heads", 8)?,
        size("num_key_value_heads", 2)?,
        head_dim,
    );
    let window = size("sliding_window", 512)?;
    let bias = c.bool("attention_bias")?.unwrap_or(false);
    let attentions = types.iter().map(|kind| {
        let full = *kind == LayerType::Full;
        Attention {
            window: (!full).then_some(window),
            qkv_bias: bias,
            out_bias: bias,
            ..attention(heads, full, eps)
        }
    });
    let mut attentions: Vec<Attention> = attentions.collect();
    share(&mut attentions, size("num_kv_shared_layers", 15)?).map_err(|e| c.error(e))?;
    if size("altup_active_idx", 0)? != 0 {
        return Err(c.error("altup_active_idx is not 0, which is not supported"));
    }
    let defaults = Defaults {
        rope_base: 1_000_000.0,
        ..Defaults::default()
    };
    let of_local = HfRope {
        layer_type: Some("sliding_attention"),
        base: "rope_local_base_freq",
        scaling: None,
        ..HfRope::default()
    };
    let global = rope_of(c, &defaults, head_dim, Some("full_attention"))?;
    let inners = match c.usizes_if("intermediate_size")? {
        Some(list) if list.len() == count => list,
        Some(_) => return Err(c.error("intermediate_size does not list every layer")),
        None => vec![size("intermediate_size", 16_384)?; count],
    };
    let sparse = match c.numbers("activation_sparsity_pattern")? {
        Some(list) if list.len() == count => list,
        Some(_) => return Err(c.error("activation_sparsity_pattern does not list every layer")),
        None if count > 10 => (0..count)
            .map(|i| if i < 10 { 0.95 } else { 0.0 })
            .collect(),
        None => vec![0.0; count],
    };
    Ok(spec(Sizes {
        vocab: size("vocab_size", 262_400)?,
        hidden: size("hidden_size", 2048)?,
        context: global.context(size("max_position_embeddings", 32_768)?),
        eps,
        activation: hf_activation(c, "hidden_activation", "gelu_pytorch_tanh")?,
        attentions,
        inners,
        sparsities: deviations_of(&sparse),
        per_layer: (
            size("vocab_size_per_layer_input", 262_144)?,
            size("hidden_size_per_layer_input", 256)?,
        ),
        streams: size("altup_num_inputs", 4)?,
        scaled: c.bool("altup_correct_scale")?.unwrap_or(true),
        rank: size("laurel_rank", 64)?,
        ropes: vec![global, hf_rope(c, of_local, head_dim)?],
        soft_cap: c.f32_or("final_logit_softcapping", Some(30.0))?,
        tied,
    }))
}

/// What parts that are left out amount to.
fn deviations_of(parts: &[f32]) -> Vec<Option<f32>> {
    let mut known: Vec<(f32, f32)> = Vec::new();
    let mut of = |p: f32| match known.iter().find(|(part, _)| *part == p) {
        Some((_, d)) => *d,
        None => {
            let d = deviations(f64::from(p)) as f32;
            known.push((p, d));
            d
        }
    };
    parts.iter().map(|&p| (p > 0.0).then(|| of(p))).collect()
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let count = g.need_usize("block_count")?;
    super::repeat((), count).map_err(|e| g.error(e))?;
    let eps = g.need_f32("attention.layer_norm_rms_epsilon")?;
    let local: Vec<bool> = match g.bools("attention.sliding_window_pattern") {
        Some(local) if local.len() == count => local.to_vec(),
        Some(_) => {
            return Err(g.error("attention.sliding_window_pattern does not list every layer"))
        }
        None => (0..count).map(|i| !(i + 1).is_multiple_of(5)).collect(),
    };
    let head_dim = g.need_usize("attention.key_length")?;
    let (all, kv) = (
        g.need_usize("attention.head_count")?,
        g.need_usize("attention.head_count_kv")?,
    );
    let window = g.need_usize("attention.sliding_window")?;
    let attentions = local.iter().map(|&local| Attention {
        window: local.then_some(window),
        ..attention((all, kv, head_dim), !local, eps)
    });
    let mut attentions: Vec<Attention> = attentions.collect();
    let shared = g.usize("attention.shared_kv_layers")?;
    let shared = shared.unwrap_or(count.saturating_sub(20));
    share(&mut attentions, shared).map_err(|e| g.error(e))?;
    let dims = g.usize("rope.dimension_count")?.unwrap_or(head_dim);
    let rope = |base| Rope {
        dims,
        base,
        scaling: RopeScaling::None,
    };
    let bases = (
        g.f32("rope.freq_base")?.unwrap_or(1_000_000.0),
        g.f32("rope.freq_base_swa")?.unwrap_or(10_000.0),
    );
    let sparse = g.floats_of_layers("gemma3n.activation_sparsity_scale", count)?;
    let width = g.need_usize("embedding_length_per_layer_input")?;
    if g.usize("altup.active_idx")?.unwrap_or(0) != 0 {
        return Err(g.error("altup.active_idx is not 0, which is not supported"));
    }
    Ok(spec(Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden: g.need_usize("embedding_length")?,
        context: g.need_usize("context_length")?,
        eps,
        activation: Activation::GeluTanh,
        attentions,
        inners: g.usize_of_layers("feed_forward_length", count)?,
        sparsities: sparse
            .iter()
            .map(|s| Some(*s).filter(|s| s.is_finite()))
            .collect(),
        per_layer: (g.tensor_rows("per_layer_token_embd.weight")?, width),
        streams: g.usize("altup.num_inputs")?.unwrap_or(4),
        scaled: g.has_tensor("blk.0.altup_correct_scale.weight"),
        rank: g.tensor_rows("blk.0.laurel_l.weight")?,
        ropes: vec![rope(bases.0), rope(bases.1)],
        soft_cap: Some(g.f32("final_logit_softcapping")?.unwrap_or(30.0)),
        tied: !g.has_tensor("output.weight"),
    }))
}

struct Sizes {
    vocab: usize,
    hidden: usize,
    context: usize,
    eps: f32,
    activation: Activation,
    attentions: Vec<Attention>,
    inners: Vec<usize>,
    sparsities: Vec<Option<f32>>,
    per_layer: (usize, usize),
    streams: usize,
    scaled: bool,
    rank: usize,
    ropes: Vec<Rope>,
    soft_cap: Option<f32>,
    tied: bool,
}

fn spec(s: Sizes) -> Spec {
    let norm = rms(s.eps);
    let block = |norm, part| Block {
        norm,
        part,
        scale: 1.0,
    };
    let streams = AltUp {
        streams: s.streams,
        norm,
        activation: s.activation,
        scaled: s.scaled,
    };
    let laurel = Laurel { rank: s.rank, norm };
    let layer = |i: usize| {
        let attention = Part::Attention(s.attentions[i]);
        let beside = vec![
            block(NormPlacement::Post(norm), attention),
            block(NormPlacement::None, Part::Laurel(laurel)),
        ];
        let feed_forward = Part::FeedForward(FeedForward {
            inner: s.inners[i],
            activation: s.activation,
            gated: true,
            bias: false,
            sparsity: s.sparsities[i],
        });
        let times = Part::Times(std::f32::consts::FRAC_1_SQRT_2);
        Layer {
            blocks: vec![
                block(NormPlacement::None, Part::Predict(streams)),
                block(NormPlacement::Pre(norm), Part::Parallel(beside)),
                block(NormPlacement::None, times),
                block(NormPlacement::Sandwich(norm), feed_forward),
                block(NormPlacement::None, Part::Correct(streams)),
            ],
        }
    };
    let (rows, width) = s.per_layer;
    Spec {
        classifier: None,
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: crate::spec::Embedding {
            scale: (s.hidden as f32).sqrt(),
            per_layer: Some(PerLayer { rows, width, norm }),
            ..super::decoder::plain_embedding()
        },
        layers: (0..s.attentions.len()).map(layer).collect(),
        ropes: s.ropes,
        final_norm: Some(norm),
        head: Some(crate::spec::Head {
            soft_cap: s.soft_cap,
            ..super::decoder::plain_head(s.tied)
        }),
    }
}

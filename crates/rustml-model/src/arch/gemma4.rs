//! Gemma 4 (Gemma Team's model cards): Gemma 3 with heads of another size in layers that see
//! everything, where keys may be values, too; values are normalised. The last layers may read
//! the keys and values of earlier ones. The small sizes have a vector of each token for every
//! layer, one of the large ones has experts beside the feed-forward.

use super::decoder::{layer_types, period, rms, rope_of, Defaults, LayerType};
use super::rope::{gguf_rope_scaling, hf_rope, HfRope};
use super::{hf_activation, mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "gemma4",
    about: "Gemma 4, its language model",
    hf: &[
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForCausalLM",
        "Gemma4UnifiedForConditionalGeneration",
    ],
    from_config,
    from_gguf,
    hf_prefixes: &[
        "model.language_model.",
        "model.",
        "language_model.model.",
        "",
    ],
    hf_names: &[
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", AsIs),
        name(FfnNorm, "layers.{}.pre_feedforward_layernorm", AsIs),
        name(FfnPostNorm, "layers.{}.post_feedforward_layernorm", AsIs),
        name(MlpPostNorm, "layers.{}.post_feedforward_layernorm_1", AsIs),
        name(ExpertsNorm, "layers.{}.pre_feedforward_layernorm_2", AsIs),
        name(
            ExpertsPostNorm,
            "layers.{}.post_feedforward_layernorm_2",
            AsIs,
        ),
        name(ExpertRouter, "layers.{}.router.proj", AsIs),
        name(RouterNorm, "layers.{}.router.scale", AsIs),
        name(ExpertFactors, "layers.{}.router.per_expert_scale", AsIs),
        name(ExpertGate, "layers.{}.experts.gate_up_proj", Fused),
        name(ExpertUp, "layers.{}.experts.gate_up_proj", Fused),
        name(ExpertDown, "layers.{}.experts.down_proj", AsIs),
        name(ExpertGate, "layers.{}.experts.{e}.gate_proj", AsIs),
        name(ExpertUp, "layers.{}.experts.{e}.up_proj", AsIs),
        name(ExpertDown, "layers.{}.experts.{e}.down_proj", AsIs),
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
        name(LayerFactor, "layers.{}.layer_scalar", AsIs),
    ],
    gguf_names: &[
        name(MlpPostNorm, "blk.{}.post_ffw_norm_1", AsIs),
        name(ExpertsNorm, "blk.{}.pre_ffw_norm_2", AsIs),
        name(ExpertsPostNorm, "blk.{}.post_ffw_norm_2", AsIs),
        name(RouterNorm, "blk.{}.ffn_gate_inp.scale", AsIs),
        name(ExpertFactors, "blk.{}.ffn_down_exps.scale", AsIs),
        name(PerLayerEmbedding, "per_layer_token_embd", AsIs),
        name(PerLayerProjection, "per_layer_model_proj", AsIs),
        name(PerLayerNorm, "per_layer_proj_norm", AsIs),
        name(PerLayerGate, "blk.{}.inp_gate", AsIs),
        name(PerLayerOut, "blk.{}.proj", AsIs),
        name(PerLayerPostNorm, "blk.{}.post_norm", AsIs),
        name(LayerFactor, "blk.{}.layer_output_scale", AsIs),
    ],
    // Eyes and ears.
    ignored: &[
        "vision_tower.",
        "audio_tower.",
        "embed_vision.",
        "embed_audio.",
        "vision_embedder.",
        "model.vision_tower.",
        "model.audio_tower.",
        "model.embed_vision.",
        "model.embed_audio.",
        "model.vision_embedder.",
        "rope_freqs.weight",
    ],
};

/// Index among [`Spec::ropes`].
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

fn from_config(whole: &Config) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let c = text.as_ref().unwrap_or(whole);
    let names = whole.need_strings("architectures")?;
    let unified = names.iter().any(|n| n.starts_with("Gemma4Unified"));
    let tied = match whole.bool("tie_word_embeddings")? {
        Some(tied) => tied,
        None => c.bool("tie_word_embeddings")?.unwrap_or(true),
    };
    if c.str_if("use_bidirectional_attention") == Some("all") {
        return Err(c.error("use_bidirectional_attention is all, which is not supported"));
    }
    let count = c.need_usize("num_hidden_layers")?;
    super::repeat((), count).map_err(|e| c.error(e))?;
    let mut types = match layer_types(c, count)? {
        Some(types) => types,
        None => period(count, 6),
    };
    if let Some(last) = types.last_mut() {
        *last = LayerType::Full;
    }
    let eps = c.f32("rms_norm_eps")?.unwrap_or(1e-6);
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let heads = size("num_attention_heads", 8)?;
    let kv_heads = size("num_key_value_heads", 4)?;
    let head_dim = size("head_dim", 256)?;
    let keys_as_values = c.bool("attention_k_eq_v")?.unwrap_or(false);
    let own = c.object("per_layer_config")?;
    let (wide, few) = (
        c.usize("global_head_dim")?,
        c.usize("num_global_key_value_heads")?,
    );
    // Head sizes, and heads of keys, of a layer that sees everything.
    let of_full = |i: usize| -> Result<(usize, usize)> {
        let of_layer = own.as_ref().map(|o| o.object(&i.to_string())).transpose()?;
        match (of_layer.flatten(), &own) {
            (Some(l), _) => Ok((
                l.usize("head_dim")?.or(wide).unwrap_or(head_dim),
                l.usize("num_key_value_heads")?.unwrap_or(kv_heads),
            )),
            (None, Some(_)) => Ok((wide.unwrap_or(head_dim), kv_heads)),
            (None, None) => {
                let few = few.filter(|_| keys_as_values);
                Ok((wide.unwrap_or(512), few.unwrap_or(kv_heads)))
            }
        }
    };
    let (mut attentions, window) = (Vec::new(), size("sliding_window", 512)?);
    for (i, kind) in types.iter().enumerate() {
        let full = *kind == LayerType::Full;
        let (head_dim, kv_heads) = match full {
            true => of_full(i)?,
            false => (head_dim, kv_heads),
        };
        attentions.push(Attention {
            window: (!full).then_some(window),
            keys_as_values: full && keys_as_values,
            ..attention((heads, kv_heads, head_dim), full, eps)
        });
    }
    let bias = c.bool("attention_bias")?.unwrap_or(false);
    let shared = size("num_kv_shared_layers", 0)?;
    share(&mut attentions, shared).map_err(|e| c.error(e))?;
    let first_shared = count.saturating_sub(shared);
    let full_dim = attentions.iter().find(|a| a.window.is_none());
    let full_dim = full_dim.map_or(head_dim, |a| a.head_dim);
    attentions
        .iter_mut()
        .for_each(|a| (a.qkv_bias, a.out_bias) = (bias, bias));
    let defaults = Defaults {
        rope_base: 1_000_000.0,
        rotated: 0.25,
        ..Defaults::default()
    };
    let has_ropes = c.object("rope_parameters")?.is_some();
    let global = match has_ropes {
        true => rope_of(c, &defaults, full_dim, Some("full_attention"))?,
        false => Rope {
            dims: full_dim,
            base: 1_000_000.0,
            scaling: RopeScaling::Proportional {
                pairs: full_dim / 8,
                factor: 1.0,
            },
        },
    };
    let of_local = HfRope {
        layer_type: Some("sliding_attention"),
        ..HfRope::default()
    };
    let inner = size("intermediate_size", 9216)?;
    let twice = c.bool("use_double_wide_mlp")?.unwrap_or(false);
    let inners = (0..count).map(|i| match twice && i >= first_shared {
        true => inner.saturating_mul(2),
        false => inner,
    });
    let width = match c.usize_or("hidden_size_per_layer_input", Some(256))? {
        Some(0) | None => None,
        Some(_) if unified => None,
        width => width,
    };
    let vocab = size("vocab_size", 262_144)?;
    let per_layer = match width {
        Some(width) => Some((size("vocab_size_per_layer_input", 262_144)?, width)),
        None => None,
    };
    let experts = match c.bool("enable_moe_block")?.unwrap_or(false) {
        true => Some((
            (c.need_usize("num_experts")?, c.need_usize("top_k_experts")?),
            c.need_usize("moe_intermediate_size")?,
        )),
        false => None,
    };
    Ok(spec(Sizes {
        vocab,
        hidden: size("hidden_size", 2304)?,
        context: global.context(size("max_position_embeddings", 131_072)?),
        eps,
        activation: hf_activation(c, "hidden_activation", "gelu_pytorch_tanh")?,
        attentions,
        inners: inners.collect(),
        experts,
        per_layer,
        factors: vec![true; count],
        ropes: vec![global, hf_rope(c, of_local, head_dim)?],
        soft_cap: c.f32("final_logit_softcapping")?,
        tied,
    }))
}

pub(super) fn attention(
    (heads, kv_heads, head_dim): (usize, usize, usize),
    full: bool,
    eps: f32,
) -> Attention {
    Attention {
        scale: 1.0,
        rope: Some(if full { GLOBAL } else { LOCAL }),
        qk_norm: Some(QkNorm::heads(rms(eps))),
        value_norm: Some(rms(eps)),
        ..Attention::plain(heads, kv_heads, head_dim)
    }
}

/// Lets the last `count` layers read the keys and values of the last layer before them that
/// sees as much.
pub(super) fn share(attentions: &mut [Attention], count: usize) -> Result<(), String> {
    let Some(first) = attentions.len().checked_sub(count) else {
        return Err(format!(
            "{count} layers share keys and values, of {}",
            attentions.len()
        ));
    };
    let (own, others) = attentions.split_at_mut(first);
    for a in others {
        let same = |o: &Attention| o.window.is_some() == a.window.is_some();
        let Some(source) = own.iter().rposition(same) else {
            return Err("no layer has the keys and values that others share".into());
        };
        a.shares = Some(source);
    }
    Ok(())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let count = g.need_usize("block_count")?;
    super::repeat((), count).map_err(|e| g.error(e))?;
    let eps = g.need_f32("attention.layer_norm_rms_epsilon")?;
    let local = match g.bools("attention.sliding_window_pattern") {
        Some(local) if local.len() == count => local,
        _ => return Err(g.error("attention.sliding_window_pattern does not list every layer")),
    };
    let heads = g.usize_of_layers("attention.head_count", count)?;
    let kv_heads = g.usize_of_layers("attention.head_count_kv", count)?;
    let wide = g.need_usize("attention.key_length")?;
    let head_dim = g.usize("attention.key_length_swa")?.unwrap_or(wide);
    let window = g.need_usize("attention.sliding_window")?;
    let has = |i: usize, name: &str| g.has_tensor(&format!("blk.{i}.{name}"));
    let mut attentions: Vec<Attention> = (0..count)
        .map(|i| {
            let dim = if local[i] { head_dim } else { wide };
            Attention {
                window: local[i].then_some(window),
                keys_as_values: !has(i, "attn_v.weight"),
                ..attention((heads[i], kv_heads[i], dim), !local[i], eps)
            }
        })
        .collect();
    let shared = g.usize("attention.shared_kv_layers")?.unwrap_or(0);
    share(&mut attentions, shared).map_err(|e| g.error(e))?;
    let global = Rope {
        dims: g.usize("rope.dimension_count")?.unwrap_or(wide),
        base: g.f32("rope.freq_base")?.unwrap_or(1_000_000.0),
        scaling: gguf_rope_scaling(g)?,
    };
    let of_local = Rope {
        dims: g.usize("rope.dimension_count_swa")?.unwrap_or(head_dim),
        base: g.f32("rope.freq_base_swa")?.unwrap_or(10_000.0),
        scaling: RopeScaling::None,
    };
    let width = g.usize("embedding_length_per_layer_input")?;
    let experts = match g.usize("expert_count")?.unwrap_or(0) {
        0 => None,
        all => Some((
            (all, g.need_usize("expert_used_count")?),
            g.need_usize("expert_feed_forward_length")?,
        )),
    };
    Ok(spec(Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden: g.need_usize("embedding_length")?,
        context: global.context(g.need_usize("context_length")?),
        eps,
        activation: Activation::GeluTanh,
        attentions,
        inners: g.usize_of_layers("feed_forward_length", count)?,
        experts,
        per_layer: match width.filter(|w| *w > 0) {
            Some(width) => Some((g.tensor_rows("per_layer_token_embd.weight")?, width)),
            None => None,
        },
        factors: (0..count)
            .map(|i| has(i, "layer_output_scale.weight"))
            .collect(),
        ropes: vec![global, of_local],
        soft_cap: g.f32("final_logit_softcapping")?.filter(|c| *c != 0.0),
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
    /// Of each layer's feed-forward.
    inners: Vec<usize>,
    /// All and chosen experts, and their size.
    experts: Option<((usize, usize), usize)>,
    /// Tokens that have vectors for layers, and the width of these.
    per_layer: Option<(usize, usize)>,
    /// Whether a number multiplies the stream after each layer.
    factors: Vec<bool>,
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
    let sandwich = |part| block(NormPlacement::Sandwich(norm), part);
    let layer = |i: usize| {
        let feed_forward = FeedForward {
            sparsity: None,
            inner: s.inners[i],
            activation: s.activation,
            gated: true,
            bias: false,
        };
        let mut blocks = vec![sandwich(Part::Attention(s.attentions[i]))];
        let dense = sandwich(Part::FeedForward(feed_forward));
        blocks.push(match s.experts {
            None => dense,
            Some(((all, chosen), inner)) => {
                let experts = Experts {
                    router_norm: Some(norm),
                    factors: true,
                    ..mixture::of(
                        mixture::softmax(all, chosen, true),
                        FeedForward {
                            inner,
                            ..feed_forward
                        },
                    )
                };
                let both = vec![dense, sandwich(Part::Experts(experts))];
                block(NormPlacement::Post(norm), Part::Parallel(both))
            }
        });
        if s.per_layer.is_some() {
            let activation = s.activation;
            let reads = Part::ReadsPerLayer(ReadsPerLayer { activation });
            blocks.push(block(NormPlacement::Post(norm), reads));
        }
        if s.factors[i] {
            blocks.push(block(NormPlacement::None, Part::Factor));
        }
        Layer { blocks }
    };
    Spec {
        classifier: None,
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: crate::spec::Embedding {
            scale: (s.hidden as f32).sqrt(),
            per_layer: s
                .per_layer
                .map(|(rows, width)| PerLayer { rows, width, norm }),
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

//! Gemma 3 (Gemma Team, "Gemma 3 Technical Report"): norms before and after
//! each part, norms of queries and keys, five layers with a sliding window
//! and a rotation of their own to each one that sees everything, embeddings
//! times the square root of their width, tied head.

use super::decoder::{rope_of, Defaults};
use super::rope::{gguf_rope_scaling, hf_rope, HfRope};
use super::{hf_activation, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

/// Index among [`Spec::ropes`].
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

pub const ARCH: Arch = Arch {
    gguf: "gemma3",
    about: "Gemma 3, its language model",
    hf: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    from_config,
    from_gguf,
    hf_prefixes: &[
        "model.",
        "language_model.model.",
        "model.language_model.",
        "",
    ],
    hf_names: &[
        name(FinalNorm, "norm", MinusOne),
        name(AttnNorm, "layers.{}.input_layernorm", MinusOne),
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", MinusOne),
        name(FfnNorm, "layers.{}.pre_feedforward_layernorm", MinusOne),
        name(
            FfnPostNorm,
            "layers.{}.post_feedforward_layernorm",
            MinusOne,
        ),
        name(QueryNorm, "layers.{}.self_attn.q_norm", MinusOne),
        name(KeyNorm, "layers.{}.self_attn.k_norm", MinusOne),
    ],
    gguf_names: &[],
    // The eyes of the larger models, which text does not need.
    ignored: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
        "rope_freqs.weight",
    ],
};

/// EmbeddingGemma (Vera et al., "EmbeddingGemma: Powerful and Lightweight Text
/// Representations"): an encoder of texts, every position of which sees all others.
pub const EMBEDDING: Arch = Arch {
    gguf: "gemma-embedding",
    about: "EmbeddingGemma",
    hf: &["Gemma3TextModel"],
    from_config: |c| {
        let mut spec = of_config(c)?;
        if c.bool("use_bidirectional_attention")? == Some(true) {
            both_ways(&mut spec);
        }
        spec.head = None;
        Ok(spec)
    },
    from_gguf: |g| {
        let mut spec = from_gguf(g)?;
        both_ways(&mut spec);
        spec.head = None;
        Ok(spec)
    },
    ignored: &["dense_2.", "dense_3.", "rope_freqs.weight", "lm_head."],
    ..ARCH
};

/// Lets every position see those after it as well; a window is of both sides together.
fn both_ways(spec: &mut Spec) {
    for layer in &mut spec.layers {
        for block in &mut layer.blocks {
            if let Part::Attention(a) = &mut block.part {
                a.causal = false;
                a.window = a.window.map(|w| w / 2 + 1);
            }
        }
    }
}

fn from_config(whole: &Config) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let c = text.as_ref().unwrap_or(whole);
    if c.bool("use_bidirectional_attention")? == Some(true) {
        return Err(c.error("use_bidirectional_attention is true, which is not supported"));
    }
    of_config(whole)
}

fn of_config(whole: &Config) -> Result<Spec> {
    let text = whole.object("text_config")?;
    let c = text.as_ref().unwrap_or(whole);
    // With several modalities the settings of the text are nested; this one
    // may be outside, inside, or left out.
    let tied = match whole.bool("tie_word_embeddings")? {
        Some(tied) => tied,
        None => c.bool("tie_word_embeddings")?.unwrap_or(true),
    };
    // transformers reads it, and does nothing with it.
    if c.f32("attn_logit_softcapping")?.is_some() {
        return Err(c.error("attn_logit_softcapping is set, but Gemma 3 has no such thing"));
    }
    let layers = c.need_usize("num_hidden_layers")?;
    super::repeat((), layers).map_err(|e| c.error(e))?;
    let is_local = match c.strings("layer_types")? {
        Some(types) if types.len() != layers => {
            return Err(c.error(format!(
                "layer_types names {} layers, but num_hidden_layers is {layers}",
                types.len()
            )));
        }
        Some(types) => {
            let kinds = types.iter().map(|kind| match *kind {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                other => Err(c.error(format!(
                    "layer_types names {}, but only sliding_attention and full_attention are known",
                    show(other)
                ))),
            });
            kinds.collect::<Result<_>>()?
        }
        None => pattern(layers, c.usize("sliding_window_pattern")?.unwrap_or(6)),
    };
    let head_dim = c.usize("head_dim")?.unwrap_or(256);
    let heads = c.usize("num_attention_heads")?.unwrap_or(8);
    let scalar = c.f32("query_pre_attn_scalar")?.unwrap_or(256.0);
    if scalar.is_nan() || scalar <= 0.0 {
        return Err(c.error(format!(
            "query_pre_attn_scalar is {scalar}, but must be positive"
        )));
    }
    let attention_bias = c.bool("attention_bias")?.unwrap_or(false);
    let defaults = Defaults {
        rope_base: 1_000_000.0,
        ..Defaults::default()
    };
    let global = rope_of(c, &defaults, head_dim, Some("full_attention"))?;
    let local = hf_rope(
        c,
        HfRope {
            layer_type: Some("sliding_attention"),
            base: "rope_local_base_freq",
            scaling: None,
            ..HfRope::default()
        },
        head_dim,
    )?;
    Ok(spec(Sizes {
        vocab: c.usize("vocab_size")?.unwrap_or(262_208),
        hidden: c.need_usize("hidden_size")?,
        heads,
        kv_heads: c.usize("num_key_value_heads")?.unwrap_or(4),
        head_dim,
        scale: 1.0 / scalar.sqrt(),
        window: c.usize("sliding_window")?.unwrap_or(4096),
        is_local,
        inner: c.need_usize("intermediate_size")?,
        eps: c.f32("rms_norm_eps")?.unwrap_or(1e-6),
        activation: hf_activation(c, "hidden_activation", "gelu_pytorch_tanh")?,
        attention_bias,
        attention_soft_cap: None,
        logit_soft_cap: c.f32("final_logit_softcapping")?,
        context: global.context(c.usize("max_position_embeddings")?.unwrap_or(131_072)),
        local,
        global,
        tied,
    }))
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let (hidden, heads) = (
        g.need_usize("embedding_length")?,
        g.need_usize("attention.head_count")?,
    );
    let layers = g.need_usize("block_count")?;
    super::repeat((), layers).map_err(|e| g.error(e))?;
    let head_dim = g.need_usize("attention.key_length")?;
    // The file does not say by what queries are scaled; of the published
    // sizes only the 27B, which has 62 layers, is not by its head size.
    let scalar = match layers {
        62 => super::head_dim(hidden, heads).map_err(|e| g.error(e))?,
        _ => head_dim,
    };
    let scale = match g.f32("attention.scale")? {
        Some(scale) => scale,
        None => 1.0 / (scalar as f32).sqrt(),
    };
    // No window, or one of 0, says that all layers see everything.
    let window = g.usize("attention.sliding_window")?.unwrap_or(0);
    let key = "attention.sliding_window_pattern";
    let is_local = match g.bools(key) {
        _ if window == 0 => vec![false; layers],
        Some(local) if local.len() != layers => {
            return Err(g.error(format!(
                "the metadata key `gemma3.{key}` names {} layers, but there are {layers}",
                local.len()
            )));
        }
        Some(local) => local.to_vec(),
        None => pattern(layers, g.usize(key)?.unwrap_or(6)),
    };
    let dims = g.usize("rope.dimension_count")?.unwrap_or(head_dim);
    Ok(spec(Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden,
        context: g.need_usize("context_length")?,
        heads,
        kv_heads: g.usize("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        scale,
        window,
        is_local,
        inner: g.need_usize("feed_forward_length")?,
        eps: g.need_f32("attention.layer_norm_rms_epsilon")?,
        activation: Activation::GeluTanh,
        attention_bias: g.has_tensor("blk.0.attn_q.bias"),
        attention_soft_cap: g.f32("attn_logit_softcapping")?,
        logit_soft_cap: g.f32("final_logit_softcapping")?,
        global: Rope {
            dims,
            base: g.f32("rope.freq_base")?.unwrap_or(1_000_000.0),
            scaling: gguf_rope_scaling(g)?,
        },
        local: Rope {
            dims,
            base: g.f32("rope.freq_base_swa")?.unwrap_or(10_000.0),
            scaling: RopeScaling::None,
        },
        tied: !g.has_tensor("output.weight"),
    }))
}

/// Every `period`-th layer sees everything, the others a window.
fn pattern(layers: usize, period: usize) -> Vec<bool> {
    (0..layers)
        .map(|i| period == 0 || !(i + 1).is_multiple_of(period))
        .collect()
}

struct Sizes {
    vocab: usize,
    hidden: usize,
    context: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    window: usize,
    is_local: Vec<bool>,
    inner: usize,
    eps: f32,
    activation: Activation,
    attention_bias: bool,
    attention_soft_cap: Option<f32>,
    logit_soft_cap: Option<f32>,
    global: Rope,
    local: Rope,
    tied: bool,
}

fn spec(s: Sizes) -> Spec {
    let norm = Norm {
        kind: NormKind::Rms,
        eps: s.eps,
        bias: false,
    };
    let layer = |local: bool| {
        Layer::of(
            NormPlacement::Sandwich(norm),
            Attention {
                scale: s.scale,
                rope: Some(if local { LOCAL } else { GLOBAL }),
                qk_norm: Some(QkNorm::heads(norm)),
                window: local.then_some(s.window),
                soft_cap: s.attention_soft_cap,
                qkv_bias: s.attention_bias,
                out_bias: s.attention_bias,
                ..Attention::plain(s.heads, s.kv_heads, s.head_dim)
            },
            FeedForward {
                sparsity: None,
                inner: s.inner,
                activation: s.activation,
                gated: true,
                bias: false,
            },
        )
    };
    // The reference rounds this factor to bfloat16 with the weights it is
    // stored beside; in single precision it is exact.
    let scale = (s.hidden as f32).sqrt();
    Spec {
        classifier: None,
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: crate::spec::Embedding {
            scale,
            learned_positions: false,
            first_position: 0,
            types: false,
            norm: None,
            per_layer: None,
        },
        layers: s.is_local.iter().map(|&local| layer(local)).collect(),
        ropes: vec![s.global, s.local],
        final_norm: Some(norm),
        head: Some(crate::spec::Head {
            tied: s.tied,
            bias: false,
            scale: 1.0,
            soft_cap: s.logit_soft_cap,
        }),
    }
}

//! Encoders of texts built like BERT (Devlin et al., "BERT: Pre-training of Deep
//! Bidirectional Transformers"): norms of the sums after each part, biases everywhere,
//! learned positions. RoBERTa (Liu et al.) counts these from a later one, DistilBERT
//! (Sanh et al.) has no types of tokens, MPNet (Song et al.) adds summands of distances,
//! nomic-embed (Nussbaum et al., "Nomic Embed") rotates instead, and gates.

use super::classifier::{classifier, ranks};
use super::decoder::{layer_norm, rope_of, Defaults};
use super::{hf_activation, name, repeat, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::{self, *};

pub const BERT: Arch = Arch {
    gguf: "bert",
    about: "BERT: MiniLM, bge, e5, gte, arctic-embed, mxbai",
    hf: &[
        "BertModel",
        "BertForMaskedLM",
        "BertForSequenceClassification",
    ],
    from_config: |c| classifier(c, bert(c, 0)?, Activation::Tanh),
    from_gguf,
    hf_prefixes: &["", "bert."],
    hf_names: &[
        name(Embedding, "embeddings.word_embeddings", AsIs),
        name(Positions, "embeddings.position_embeddings", AsIs),
        name(TokenTypes, "embeddings.token_type_embeddings", AsIs),
        name(EmbeddingNorm, "embeddings.LayerNorm", AsIs),
        name(Query, "encoder.layer.{}.attention.self.query", AsIs),
        name(Key, "encoder.layer.{}.attention.self.key", AsIs),
        name(Value, "encoder.layer.{}.attention.self.value", AsIs),
        name(AttnOut, "encoder.layer.{}.attention.output.dense", AsIs),
        name(
            AttnPostNorm,
            "encoder.layer.{}.attention.output.LayerNorm",
            AsIs,
        ),
        name(Up, "encoder.layer.{}.intermediate.dense", AsIs),
        name(Down, "encoder.layer.{}.output.dense", AsIs),
        name(FfnPostNorm, "encoder.layer.{}.output.LayerNorm", AsIs),
        // A classifier's, outside of what the prefix names. RoBERTa has other names.
        name(ClassDense, "bert.pooler.dense", AsIs),
        name(ClassDense, "classifier.dense", AsIs),
        name(ClassOut, "classifier", AsIs),
        name(ClassOut, "classifier.out_proj", AsIs),
    ],
    gguf_names: &[
        name(ClassDense, "cls", AsIs),
        name(ClassOut, "cls.output", AsIs),
        name(TokenTypes, "token_types", AsIs),
        name(EmbeddingNorm, "token_embd_norm", AsIs),
        name(AttnPostNorm, "blk.{}.attn_output_norm", AsIs),
        name(FfnPostNorm, "blk.{}.layer_output_norm", AsIs),
    ],
    // What pools or guesses words, and is not needed for embeddings.
    ignored: &[
        "pooler.",
        "bert.pooler.",
        "cls.",
        "embeddings.position_ids",
        ".position_ids",
    ],
};

pub const ROBERTA: Arch = Arch {
    gguf: "bert",
    about: "RoBERTa and XLM-RoBERTa: bge-m3, multilingual e5, arctic-embed-l-v2",
    hf: &[
        "RobertaModel",
        "RobertaForMaskedLM",
        "XLMRobertaModel",
        "XLMRobertaForMaskedLM",
        "RobertaForSequenceClassification",
        "XLMRobertaForSequenceClassification",
    ],
    // Positions begin after that of padding.
    from_config: |c| {
        let spec = bert(c, c.usize("pad_token_id")?.unwrap_or(1) + 1)?;
        classifier(c, spec, Activation::Tanh)
    },
    hf_prefixes: &["", "roberta."],
    ignored: &["pooler.", "roberta.pooler.", "lm_head.", ".position_ids"],
    ..BERT
};

pub const DISTILBERT: Arch = Arch {
    gguf: "bert",
    about: "DistilBERT",
    hf: &[
        "DistilBertModel",
        "DistilBertForMaskedLM",
        "DistilBertForSequenceClassification",
    ],
    from_config: |c| classifier(c, distilbert(c)?, Activation::Relu),
    hf_prefixes: &["", "distilbert."],
    hf_names: &[
        name(Embedding, "embeddings.word_embeddings", AsIs),
        name(Positions, "embeddings.position_embeddings", AsIs),
        name(EmbeddingNorm, "embeddings.LayerNorm", AsIs),
        name(Query, "transformer.layer.{}.attention.q_lin", AsIs),
        name(Key, "transformer.layer.{}.attention.k_lin", AsIs),
        name(Value, "transformer.layer.{}.attention.v_lin", AsIs),
        name(AttnOut, "transformer.layer.{}.attention.out_lin", AsIs),
        name(AttnPostNorm, "transformer.layer.{}.sa_layer_norm", AsIs),
        name(Up, "transformer.layer.{}.ffn.lin1", AsIs),
        name(Down, "transformer.layer.{}.ffn.lin2", AsIs),
        name(FfnPostNorm, "transformer.layer.{}.output_layer_norm", AsIs),
        name(ClassDense, "pre_classifier", AsIs),
        name(ClassOut, "classifier", AsIs),
    ],
    ignored: &[
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
        ".position_ids",
    ],
    ..BERT
};

pub const MPNET: Arch = Arch {
    gguf: "mpnet",
    about: "MPNet: all-mpnet-base",
    hf: &["MPNetModel", "MPNetForMaskedLM"],
    from_config: mpnet,
    hf_prefixes: &["", "mpnet."],
    hf_names: &[
        name(Embedding, "embeddings.word_embeddings", AsIs),
        name(Positions, "embeddings.position_embeddings", AsIs),
        name(EmbeddingNorm, "embeddings.LayerNorm", AsIs),
        name(RelativeBias, "encoder.relative_attention_bias", AsIs),
        name(Query, "encoder.layer.{}.attention.attn.q", AsIs),
        name(Key, "encoder.layer.{}.attention.attn.k", AsIs),
        name(Value, "encoder.layer.{}.attention.attn.v", AsIs),
        name(AttnOut, "encoder.layer.{}.attention.attn.o", AsIs),
        name(AttnPostNorm, "encoder.layer.{}.attention.LayerNorm", AsIs),
        name(Up, "encoder.layer.{}.intermediate.dense", AsIs),
        name(Down, "encoder.layer.{}.output.dense", AsIs),
        name(FfnPostNorm, "encoder.layer.{}.output.LayerNorm", AsIs),
    ],
    ignored: &["pooler.", "mpnet.pooler.", "lm_head.", ".position_ids"],
    ..BERT
};

pub const NOMIC: Arch = Arch {
    gguf: "nomic-bert",
    about: "nomic-embed 1.5",
    hf: &["NomicBertModel", "NomicBertForMaskedLM"],
    from_config: nomic,
    from_gguf: nomic_gguf,
    hf_prefixes: &["", "model.", "bert."],
    hf_names: &[
        name(Embedding, "embeddings.word_embeddings", AsIs),
        name(TokenTypes, "embeddings.token_type_embeddings", AsIs),
        name(EmbeddingNorm, "embeddings.LayerNorm", AsIs),
        name(EmbeddingNorm, "emb_ln", AsIs),
        name(AttnPostNorm, "layers.{}.post_attention_layernorm", AsIs),
        name(FfnPostNorm, "layers.{}.post_mlp_layernorm", AsIs),
        // As the hub's files have them.
        name(Query, "encoder.layers.{}.attn.Wqkv", Fused),
        name(Key, "encoder.layers.{}.attn.Wqkv", Fused),
        name(Value, "encoder.layers.{}.attn.Wqkv", Fused),
        name(AttnOut, "encoder.layers.{}.attn.out_proj", AsIs),
        name(AttnOut, "layers.{}.self_attn.o_proj", AsIs),
        name(AttnPostNorm, "encoder.layers.{}.norm1", AsIs),
        name(Up, "encoder.layers.{}.mlp.fc11", AsIs),
        name(Up, "layers.{}.mlp.up_proj", AsIs),
        name(Gate, "encoder.layers.{}.mlp.fc12", AsIs),
        name(Gate, "layers.{}.mlp.gate_proj", AsIs),
        name(Down, "encoder.layers.{}.mlp.fc2", AsIs),
        name(Down, "layers.{}.mlp.down_proj", AsIs),
        name(FfnPostNorm, "encoder.layers.{}.norm2", AsIs),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_qkv", Fused),
        name(Key, "blk.{}.attn_qkv", Fused),
        name(Value, "blk.{}.attn_qkv", Fused),
        name(TokenTypes, "token_types", AsIs),
        name(EmbeddingNorm, "token_embd_norm", AsIs),
        name(AttnPostNorm, "blk.{}.attn_output_norm", AsIs),
        name(FfnPostNorm, "blk.{}.layer_output_norm", AsIs),
    ],
    ignored: &["pooler.", "cls.", ".rotary_emb.inv_freq"],
};

/// What such encoders differ in.
struct Sizes {
    vocab: usize,
    hidden: usize,
    /// Texts' tokens.
    context: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    eps: f32,
    activation: Activation,
    first_position: usize,
    types: bool,
}

fn bert(c: &Config, first_position: usize) -> Result<Spec> {
    if let Some(kind @ ("relative_key" | "relative_key_query")) =
        c.str("position_embedding_type")?
    {
        return Err(c.error(format!(
            "position_embedding_type is {kind}, which is not supported"
        )));
    }
    let positions = c.need_usize("max_position_embeddings")?;
    let s = Sizes {
        vocab: c.need_usize("vocab_size")?,
        hidden: c.need_usize("hidden_size")?,
        context: positions.saturating_sub(first_position),
        layers: c.need_usize("num_hidden_layers")?,
        heads: c.need_usize("num_attention_heads")?,
        inner: c.need_usize("intermediate_size")?,
        eps: c.f32("layer_norm_eps")?.unwrap_or(1e-12),
        activation: hf_activation(c, "hidden_act", "gelu")?,
        first_position,
        types: true,
    };
    encoder(s).map_err(|e| c.error(e))
}

fn distilbert(c: &Config) -> Result<Spec> {
    let s = Sizes {
        vocab: c.need_usize("vocab_size")?,
        hidden: c.need_usize("dim")?,
        context: c.need_usize("max_position_embeddings")?,
        layers: c.need_usize("n_layers")?,
        heads: c.need_usize("n_heads")?,
        inner: c.need_usize("hidden_dim")?,
        eps: 1e-12,
        activation: hf_activation(c, "activation", "gelu")?,
        first_position: 0,
        types: false,
    };
    encoder(s).map_err(|e| c.error(e))
}

fn mpnet(c: &Config) -> Result<Spec> {
    let mut spec = bert(c, c.usize("pad_token_id")?.unwrap_or(1) + 1)?;
    spec.embedding.types = false;
    let relative = Relative {
        ranges: c.usize("relative_attention_num_buckets")?.unwrap_or(32),
        reach: 128,
    };
    each(&mut spec, |a, _| a.relative = Some(relative));
    Ok(spec)
}

fn nomic(c: &Config) -> Result<Spec> {
    let number = |keys: &[&str]| {
        let missing = || c.error(format!("{} is missing", keys[0]));
        c.usize_of(keys)?.ok_or_else(missing)
    };
    let s = Sizes {
        vocab: c.need_usize("vocab_size")?,
        hidden: number(&["hidden_size", "n_embd"])?,
        context: number(&[
            "max_position_embeddings",
            "n_positions",
            "max_trained_positions",
        ])?,
        layers: number(&["num_hidden_layers", "n_layer"])?,
        heads: number(&["num_attention_heads", "n_head"])?,
        inner: number(&["intermediate_size", "n_inner"])?,
        eps: c
            .f32_of(&["layer_norm_eps", "layer_norm_epsilon"])?
            .unwrap_or(1e-12),
        activation: match c.str("activation_function")? {
            Some("swiglu") | None => hf_activation(c, "hidden_act", "silu")?,
            Some(_) => {
                return Err(c.error("activation_function is not swiglu, which is not supported"))
            }
        },
        first_position: 0,
        types: true,
    };
    let head_dim = super::head_dim(s.hidden, s.heads).map_err(|e| c.error(e))?;
    let defaults = Defaults {
        rope_base: c.f32("rotary_emb_base")?.unwrap_or(1000.0),
        ..Defaults::default()
    };
    let rope = rope_of(c, &defaults, head_dim, None)?;
    let spec = encoder(s).map_err(|e| c.error(e))?;
    Ok(rotated(spec, rope))
}

fn sizes_of_gguf(g: &Gguf) -> Result<Sizes> {
    Ok(Sizes {
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden: g.need_usize("embedding_length")?,
        context: g.need_usize("context_length")?,
        layers: g.need_usize("block_count")?,
        heads: g.need_usize("attention.head_count")?,
        inner: g.need_usize("feed_forward_length")?,
        eps: g.need_f32("attention.layer_norm_epsilon")?,
        activation: Activation::GeluErf,
        first_position: 0,
        types: g.has_tensor("token_types.weight"),
    })
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut s = sizes_of_gguf(g)?;
    // That of padding may be left out of the table.
    s.context = s.context.min(g.tensor_rows("position_embd.weight")?);
    let mut spec = encoder(s).map_err(|e| g.error(e))?;
    spec.classifier = ranks(g, Activation::Tanh, None)?;
    Ok(spec)
}

fn nomic_gguf(g: &Gguf) -> Result<Spec> {
    let mut s = sizes_of_gguf(g)?;
    s.activation = Activation::Silu;
    let head_dim = super::head_dim(s.hidden, s.heads).map_err(|e| g.error(e))?;
    let rope = Rope {
        dims: g.usize("rope.dimension_count")?.unwrap_or(head_dim),
        base: g.f32("rope.freq_base")?.unwrap_or(1000.0),
        scaling: super::rope::gguf_rope_scaling(g)?,
    };
    let spec = encoder(s).map_err(|e| g.error(e))?;
    Ok(rotated(spec, rope))
}

/// With a rotation in place of positions, and gates in place of biases.
fn rotated(mut spec: Spec, rope: Rope) -> Spec {
    spec.ropes = vec![rope];
    spec.embedding.learned_positions = false;
    each(&mut spec, |a, f| {
        (a.rope, a.qkv_bias, a.out_bias) = (Some(0), false, false);
        (f.gated, f.bias) = (true, false);
    });
    spec
}

/// Changes the parts of all layers.
fn each(spec: &mut Spec, change: impl Fn(&mut Attention, &mut FeedForward)) {
    for layer in &mut spec.layers {
        if let [Block {
            part: Part::Attention(a),
            ..
        }, Block {
            part: Part::FeedForward(f),
            ..
        }] = &mut layer.blocks[..]
        {
            change(a, f);
        }
    }
}

fn encoder(s: Sizes) -> Result<Spec, String> {
    let head_dim = super::head_dim(s.hidden, s.heads)?;
    let norm = layer_norm(s.eps, true);
    let layer = Layer::of(
        NormPlacement::Sum(norm),
        Attention {
            causal: false,
            qkv_bias: true,
            out_bias: true,
            ..Attention::plain(s.heads, s.heads, head_dim)
        },
        FeedForward {
            sparsity: None,
            inner: s.inner,
            activation: s.activation,
            gated: false,
            bias: true,
        },
    );
    Ok(Spec {
        classifier: None,
        vocab: s.vocab,
        hidden: s.hidden,
        context: s.context,
        embedding: spec::Embedding {
            scale: 1.0,
            learned_positions: true,
            first_position: s.first_position,
            types: s.types,
            norm: Some(norm),
            per_layer: None,
        },
        ropes: Vec::new(),
        layers: repeat(layer, s.layers)?,
        final_norm: None,
        head: None,
    })
}

//! Nemotron-H and Nemotron 3 (NVIDIA, "Nemotron-H" and "Nemotron 3 Nano"): each layer is one
//! block, Mamba-2, attention without positions, a feed-forward or experts; these square
//! what is above zero, and have no gate.

use super::decoder::{plain_embedding, plain_head, rms};
use super::mamba2::gguf_mamba;
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "nemotron_h",
    about: "Nemotron-H and Nemotron 3",
    hf: &["NemotronHForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["backbone.", "model.", ""],
    hf_names: &[
        name(Embedding, "embeddings", AsIs),
        name(FinalNorm, "norm_f", AsIs),
        name(AttnNorm, "layers.{}.norm", AsIs),
        name(FfnNorm, "layers.{}.norm", AsIs),
        name(Query, "layers.{}.mixer.q_proj", AsIs),
        name(Key, "layers.{}.mixer.k_proj", AsIs),
        name(Value, "layers.{}.mixer.v_proj", AsIs),
        name(AttnOut, "layers.{}.mixer.o_proj", AsIs),
        name(Up, "layers.{}.mixer.up_proj", AsIs),
        name(Down, "layers.{}.mixer.down_proj", AsIs),
        name(ExpertRouter, "layers.{}.mixer.gate", AsIs),
        name(
            Correction,
            "layers.{}.mixer.gate.e_score_correction_bias",
            AsIs,
        ),
        name(ExpertUp, "layers.{}.mixer.experts.{e}.up_proj", AsIs),
        name(ExpertDown, "layers.{}.mixer.experts.{e}.down_proj", AsIs),
        name(ExpertUp, "layers.{}.mixer.experts.up_proj", AsIs),
        name(ExpertDown, "layers.{}.mixer.experts.down_proj", AsIs),
        name(SharedUp, "layers.{}.mixer.shared_experts.up_proj", AsIs),
        name(SharedDown, "layers.{}.mixer.shared_experts.down_proj", AsIs),
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
    gguf_names: &[name(FfnNorm, "blk.{}.attn_norm", AsIs)],
    // Layers that guess a second token.
    ignored: &["mtp.", "nextn."],
};

pub const MOE: Arch = Arch {
    gguf: "nemotron_h_moe",
    about: "Nemotron 3 with experts",
    hf: &[],
    ..ARCH
};

/// What a layer is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mamba,
    Attention,
    FeedForward,
    Experts,
}

/// The blocks that layers are made of.
struct Parts {
    norm: Norm,
    mamba: Option<Recurrent>,
    attention: Attention,
    feed_forward: FeedForward,
    experts: Option<Experts>,
}

impl Parts {
    fn layer(&self, kind: Kind) -> std::result::Result<Layer, String> {
        let missing =
            |what: &str| format!("a layer is of {what}, which the settings do not describe");
        let part = match kind {
            Kind::Mamba => Part::Recurrent(self.mamba.ok_or_else(|| missing("Mamba-2"))?),
            Kind::Attention => Part::Attention(self.attention),
            Kind::FeedForward => Part::FeedForward(self.feed_forward),
            Kind::Experts => Part::Experts(self.experts.ok_or_else(|| missing("experts"))?),
        };
        let block = Block {
            norm: NormPlacement::Pre(self.norm),
            part,
            scale: 1.0,
        };
        Ok(Layer {
            blocks: vec![block],
        })
    }
}

fn from_config(c: &Config) -> Result<Spec> {
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let eps = c.f32("layer_norm_epsilon")?.unwrap_or(1e-5);
    let (heads, kv_heads) = (
        size("num_attention_heads", 32)?,
        size("num_key_value_heads", 8)?,
    );
    let head_dim = c
        .usize_of(&["head_dim", "attention_head_dim"])?
        .unwrap_or(128);
    let groups = size("n_groups", 8)?;
    let in_bias = c.bool("use_bias")?.unwrap_or(false);
    let mamba = Recurrent {
        taps: size("conv_kernel", 4)?,
        conv_bias: c.bool("use_conv_bias")?.unwrap_or(true),
        mixer: Mixer::Mamba2(Mamba2 {
            heads: size("mamba_num_heads", 128)?,
            head_dim: size("mamba_head_dim", 64)?,
            groups,
            state: size("ssm_state_size", 128)?,
            steps: (c.f32("time_step_min")?.unwrap_or(0.001), f32::INFINITY),
            norm: Some(GatedNorm {
                eps,
                groups,
                gate_first: true,
            }),
            factors: Factors::ONE,
        }),
        in_bias,
        out_bias: in_bias,
    };
    let feed_forward = FeedForward {
        sparsity: None,
        inner: size("intermediate_size", 21504)?,
        activation: super::hf_activation(c, "mlp_hidden_act", "relu2")?,
        gated: false,
        bias: c.bool("mlp_bias")?.unwrap_or(false),
    };
    if c.usize("moe_latent_size")?.is_some() {
        return Err(
            c.error("moe_latent_size is set: experts of a latent size are not supported yet")
        );
    }
    let (all, chosen) = mixture::counts(c, (8, 2))?;
    let renormalise = c.bool("norm_topk_prob")?.unwrap_or(true);
    let mut router = mixture::sigmoid(all, chosen, renormalise);
    router.scale = c.f32("routed_scaling_factor")?.unwrap_or(1.0);
    router.groups = mixture::groups(size("n_group", 1)?, size("topk_group", 1)?);
    let expert = |inner| FeedForward {
        inner,
        bias: false,
        ..feed_forward
    };
    let experts = Experts {
        router,
        router_bias: false,
        correction: true,
        expert: expert(size("moe_intermediate_size", 7688)?),
        weight_on_input: false,
        router_norm: None,
        factors: false,
        shared: Some(Shared {
            expert: FeedForward {
                inner: size("moe_shared_expert_intermediate_size", 7688)?,
                ..feed_forward
            },
            gated: false,
        }),
    };
    let parts = Parts {
        norm: rms(eps),
        mamba: Some(mamba),
        attention: Attention::plain(heads, kv_heads, head_dim),
        feed_forward,
        experts: Some(experts),
    };
    let kinds = kinds(c)?;
    super::repeat((), kinds.len()).map_err(|e| c.error(e))?;
    let layers = kinds.into_iter().map(|kind| parts.layer(kind));
    Ok(Spec {
        classifier: None,
        vocab: c.need_usize("vocab_size")?,
        hidden: c.need_usize("hidden_size")?,
        context: size("max_position_embeddings", 4096)?,
        embedding: plain_embedding(),
        ropes: Vec::new(),
        layers: layers
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| c.error(e))?,
        final_norm: Some(rms(eps)),
        head: Some(plain_head(c.bool("tie_word_embeddings")?.unwrap_or(false))),
    })
}

/// What each layer is, by a list or a pattern of letters.
fn kinds(c: &Config) -> Result<Vec<Kind>> {
    if let Some(types) = c.strings("layers_block_type")? {
        let kind = |t: &&str| match *t {
            "mamba" | "linear_attention" => Ok(Kind::Mamba),
            "attention" | "full_attention" => Ok(Kind::Attention),
            "mlp" => Ok(Kind::FeedForward),
            "moe" => Ok(Kind::Experts),
            other => Err(c.error(format!(
                "layers_block_type names {}; known are mamba, attention, mlp and moe",
                show(other)
            ))),
        };
        return types.iter().map(kind).collect();
    }
    let pattern = c.str("hybrid_override_pattern")?;
    let pattern = pattern.ok_or_else(|| c.error("hybrid_override_pattern is missing"))?;
    let kind = |letter: char| match letter {
        'M' => Ok(Kind::Mamba),
        '*' => Ok(Kind::Attention),
        '-' => Ok(Kind::FeedForward),
        'E' => Ok(Kind::Experts),
        other => Err(c.error(format!(
            "hybrid_override_pattern has {other:?}; known are M, *, - and E"
        ))),
    };
    pattern.chars().map(kind).collect()
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let all = g.need_usize("block_count")?;
    let layers = all.saturating_sub(g.usize("nextn_predict_layers")?.unwrap_or(0));
    super::repeat((), layers).map_err(|e| g.error(e))?;
    let eps = match g.f32("attention.layer_norm_rms_epsilon")? {
        Some(eps) => eps,
        None => g.need_f32("attention.layer_norm_epsilon")?,
    };
    let has = |i: usize, what: &str| g.has_tensor(&format!("blk.{i}.{what}.weight"));
    let kinds: Vec<Kind> = (0..layers)
        .map(|i| match () {
            () if has(i, "ssm_conv1d") => Kind::Mamba,
            () if has(i, "attn_q") || has(i, "attn_qkv") => Kind::Attention,
            () if has(i, "ffn_gate_inp") => Kind::Experts,
            () => Kind::FeedForward,
        })
        .collect();
    let first = |kind| kinds.iter().position(|k| *k == kind);
    let of = |list: Vec<usize>, kind| first(kind).map_or(0, |i| list[i]);
    let heads = of(
        g.usize_of_layers("attention.head_count", all)?,
        Kind::Attention,
    );
    let kv_heads = of(
        g.usize_of_layers("attention.head_count_kv", all)?,
        Kind::Attention,
    );
    let feed_forward = FeedForward {
        sparsity: None,
        // Where others have experts, files do not count these.
        inner: match first(Kind::FeedForward) {
            Some(i) => g.tensor_rows(&format!("blk.{i}.ffn_up.weight"))?,
            None => 0,
        },
        activation: Activation::SquaredRelu,
        gated: false,
        bias: first(Kind::FeedForward)
            .is_some_and(|i| g.has_tensor(&format!("blk.{i}.ffn_up.bias"))),
    };
    let mamba = first(Kind::Mamba)
        .map(|i| gguf_mamba(g, eps, i))
        .transpose()?;
    let parts = Parts {
        norm: rms(eps),
        mamba,
        attention: Attention::plain(heads, kv_heads, g.need_usize("attention.key_length")?),
        feed_forward,
        experts: match first(Kind::Experts) {
            Some(i) => Some(gguf_experts(g, feed_forward, i)?),
            None => None,
        },
    };
    let layers = kinds.iter().map(|kind| parts.layer(*kind));
    Ok(Spec {
        classifier: None,
        vocab: g.tensor_rows("token_embd.weight")?,
        hidden: g.need_usize("embedding_length")?,
        context: g.need_usize("context_length")?,
        embedding: plain_embedding(),
        ropes: Vec::new(),
        layers: layers
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| g.error(e))?,
        final_norm: Some(rms(eps)),
        head: Some(plain_head(!g.has_tensor("output.weight"))),
    })
}

fn gguf_experts(g: &Gguf, feed_forward: FeedForward, first: usize) -> Result<Experts> {
    if g.usize("moe_latent_size")?.unwrap_or(0) > 0 {
        return Err(
            g.error("moe_latent_size is set: experts of a latent size are not supported yet")
        );
    }
    let renormalise = g.bool("expert_weights_norm")?.unwrap_or(true);
    let chosen = g.need_usize("expert_used_count")?;
    let mut router = mixture::sigmoid(g.need_usize("expert_count")?, chosen, renormalise);
    router.scale = g.f32("expert_weights_scale")?.unwrap_or(1.0);
    let groups = g.usize("expert_group_count")?.unwrap_or(1);
    router.groups = mixture::groups(groups, g.usize("expert_group_used_count")?.unwrap_or(1));
    let expert = |inner| FeedForward {
        inner,
        bias: false,
        ..feed_forward
    };
    let shared = format!("blk.{first}.ffn_up_shexp.weight");
    Ok(Experts {
        router,
        router_bias: false,
        correction: g.has_tensor(&format!("blk.{first}.exp_probs_b.bias")),
        expert: expert(g.need_usize("expert_feed_forward_length")?),
        weight_on_input: false,
        router_norm: None,
        factors: false,
        shared: match g.has_tensor(&shared) {
            true => Some(Shared {
                expert: expert(g.tensor_rows(&shared)?),
                gated: false,
            }),
            false => None,
        },
    })
}

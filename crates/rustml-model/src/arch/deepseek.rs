//! DeepSeek V2 and V3 (DeepSeek-AI, "DeepSeek-V2" and "DeepSeek-V3") and what is built
//! like them: latent attention, first layers without experts, a shared expert. Moonlight
//! and GigaChat 3 are V3; GLM-4.7-Flash and Youtu have other defaults.
//! MiniCPM 3 (Hu et al., "MiniCPM") has this attention and factors of its own.

use super::decoder::{rope_of, Decoder, Defaults};
use super::{mixture, name, Arch, Repair, Repair::*, Role::*};
use crate::error::Result;
use crate::rope::yarn_amplitude;
use crate::source::{Config, Gguf};
use crate::spec::{self, *};

pub const V2: Arch = Arch {
    gguf: "deepseek2",
    about: "DeepSeek V2 and V2 Lite",
    hf: &["DeepseekV2ForCausalLM"],
    from_config: |c| deepseek(c, Kind::V2),
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Query, "layers.{}.self_attn.q_proj", Repair::Latent),
        name(Query, "layers.{}.self_attn.q_b_proj", Repair::Latent),
        name(QueryDown, "layers.{}.self_attn.q_a_proj", AsIs),
        name(QueryNorm, "layers.{}.self_attn.q_a_layernorm", AsIs),
        name(
            Key,
            "layers.{}.self_attn.kv_a_proj_with_mqa",
            Repair::Latent,
        ),
        name(KeyNorm, "layers.{}.self_attn.kv_a_layernorm", AsIs),
        name(Value, "layers.{}.self_attn.kv_b_proj", AsIs),
        name(LatentKeys, "layers.{}.self_attn.k_b_proj", AsIs),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Repair::Latent),
        name(Query, "blk.{}.attn_q_b", Repair::Latent),
        name(QueryDown, "blk.{}.attn_q_a", AsIs),
        name(QueryNorm, "blk.{}.attn_q_a_norm", AsIs),
        name(Key, "blk.{}.attn_kv_a_mqa", Repair::Latent),
        name(KeyNorm, "blk.{}.attn_kv_a_norm", AsIs),
        name(Value, "blk.{}.attn_kv_b", AsIs),
        name(Value, "blk.{}.attn_v_b", AsIs),
        name(LatentKeys, "blk.{}.attn_k_b", AsIs),
    ],
    ignored: &[".rotary_emb.inv_freq", "nextn."],
};

pub const V3: Arch = Arch {
    about: "DeepSeek V3, Moonlight, GigaChat 3",
    hf: &["DeepseekV3ForCausalLM"],
    from_config: |c| deepseek(c, Kind::V3),
    ..V2
};

pub const GLM_LITE: Arch = Arch {
    about: "GLM-4.7-Flash",
    hf: &["Glm4MoeLiteForCausalLM"],
    from_config: |c| deepseek(c, Kind::GlmLite),
    ..V2
};

pub const YOUTU: Arch = Arch {
    about: "Youtu-LLM",
    hf: &["YoutuForCausalLM"],
    from_config: |c| deepseek(c, Kind::Youtu),
    ..V2
};

pub const MINICPM3: Arch = Arch {
    gguf: "minicpm3",
    about: "MiniCPM 3",
    hf: &["MiniCPM3ForCausalLM"],
    from_config: minicpm,
    from_gguf: minicpm_gguf,
    ignored: &[
        ".rotary_emb.inv_freq",
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    ],
    ..V2
};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    V2,
    V3,
    GlmLite,
    Youtu,
}

/// The epsilon of the latents' norms, whatever that of the others is.
const EPS: f32 = 1e-6;

fn deepseek(c: &Config, kind: Kind) -> Result<Spec> {
    let defaults = Defaults {
        eps: if kind == Kind::GlmLite { 1e-5 } else { 1e-6 },
        // That of the rotated part.
        head_dim: Some(64),
        tied: kind == Kind::Youtu,
        context: Some(2048),
        inner: Some(0),
        ..Defaults::default()
    };
    let mut d = Decoder::from_config(c, defaults)?;
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let query = match (c.mentions("q_lora_rank"), kind) {
        (true, _) => c.usize("q_lora_rank")?,
        (false, Kind::GlmLite) => Some(768),
        (false, _) => Some(1536),
    };
    let (nope, value) = match kind {
        Kind::GlmLite => (192, 256),
        _ => (128, 128),
    };
    let rotated = size("qk_rope_head_dim", 64)?;
    let latent = spec::Latent {
        query,
        rank: size("kv_lora_rank", 512)?,
        rotated,
        value: size("v_head_dim", value)?,
        eps: EPS,
        interleaved: kind == Kind::V2 || c.bool("rope_interleave")?.unwrap_or(true),
    };
    let head_dim = size("qk_nope_head_dim", nope)?.saturating_add(rotated);
    let defaults = Defaults {
        head_dim: Some(rotated),
        ..Defaults::default()
    };
    d.ropes = vec![rope_of(c, &defaults, rotated, None)?];
    set_attention(&mut d, latent, head_dim, scale_factor(c)?);
    d.each(|_, a| a.qkv_bias = a.out_bias);
    if kind == Kind::Youtu {
        return Ok(d.spec());
    }
    let (all, chosen) = mixture::counts(c, if kind == Kind::V2 { (64, 6) } else { (256, 8) })?;
    let scale = c.f32("routed_scaling_factor")?;
    let mut router = match kind {
        // Weights are never made to add up to one there, whatever the settings say.
        Kind::V2 => mixture::softmax(all, chosen, false),
        _ => mixture::sigmoid(all, chosen, c.bool("norm_topk_prob")?.unwrap_or(true)),
    };
    router.scale = scale.unwrap_or(match kind {
        Kind::V2 => 1.0,
        Kind::V3 => 2.5,
        _ => 1.8,
    });
    let (groups, of) = match kind {
        Kind::V3 => (8, 4),
        _ => (1, 1),
    };
    let grouped = kind != Kind::V2 || c.str("topk_method")? == Some("group_limited_greedy");
    router.groups = mixture::groups(size("n_group", groups)?, size("topk_group", of)?);
    router.groups = router.groups.filter(|_| grouped);
    if let (Kind::V2, Some(groups)) = (kind, &mut router.groups) {
        groups.by = GroupScore::Best;
    }
    let inner = size("moe_intermediate_size", 2048)?;
    let shared = size("n_shared_experts", if kind == Kind::V2 { 2 } else { 1 })?;
    let mut experts = mixture::plain(&d, router, inner);
    experts.correction = kind != Kind::V2;
    let experts = experts.beside(inner.saturating_mul(shared), false);
    let first = match kind {
        Kind::V2 => size("first_k_dense_replace", 0)?,
        Kind::V3 => size("first_k_dense_replace", 3)?,
        _ => 1,
    };
    let sparse = mixture::sparse_layers(c, d.layers())?;
    d.experts(experts, |i| sparse.as_ref().map_or(i >= first, |s| s[i]));
    Ok(d.spec())
}

fn set_attention(d: &mut Decoder, latent: spec::Latent, head_dim: usize, factor: f32) {
    d.each(|_, a| {
        a.latent = Some(latent);
        a.kv_heads = a.heads;
        a.head_dim = head_dim;
        a.scale = factor / (head_dim as f32).sqrt();
    });
}

/// What YaRN multiplies the scores by: a square, for queries and keys.
fn scale_factor(c: &Config) -> Result<f32> {
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(rope) = c.object(key)? {
            let all = rope.f32("mscale_all_dim")?.unwrap_or(0.0);
            let factor = rope.f32("factor")?.unwrap_or(1.0);
            if all != 0.0 {
                return Ok(yarn_amplitude(factor, all).powi(2));
            }
        }
    }
    Ok(1.0)
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    let next = g.usize("nextn_predict_layers")?.unwrap_or(0);
    d.attentions.truncate(d.layers().saturating_sub(next));
    // Older files say the sizes of heads, newer ones those of the latent there.
    let of = |mla: &str, old: &str| -> Result<usize> {
        match g.usize(mla)? {
            Some(n) => Ok(n),
            None => g.need_usize(old),
        }
    };
    let head_dim = of("attention.key_length_mla", "attention.key_length")?;
    let latent = spec::Latent {
        query: g.usize("attention.q_lora_rank")?,
        rank: g.need_usize("attention.kv_lora_rank")?,
        rotated: g.need_usize("rope.dimension_count")?,
        value: of("attention.value_length_mla", "attention.value_length")?,
        eps: EPS,
        interleaved: true,
    };
    let mut factor = 1.0;
    if let RopeScaling::Yarn {
        factor: stretched,
        amplitude,
        ..
    } = &mut d.ropes[0].scaling
    {
        // A tenth of what the settings say, for queries and keys.
        let all = g.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
        factor = yarn_amplitude(*stretched, 10.0 * all).powi(2);
        // Its twin, of which nothing is written, is the same in all that was published.
        if all != 0.0 {
            *amplitude = 1.0;
        }
    }
    set_attention(&mut d, latent, head_dim, factor);
    let bias = g.has_tensor("blk.0.attn_kv_a_mqa.bias");
    d.each(|_, a| a.qkv_bias = bias);
    if g.usize("expert_count")?.unwrap_or(0) > 0 {
        // Files of V2 do not say how experts are scored, nor do some of its heirs, which
        // have a correction.
        let corrected = (0..d.layers()).any(|i| {
            let name = |suffix: &str| format!("blk.{i}.exp_probs_b.{suffix}");
            g.has_tensor(&name("bias")) || g.has_tensor(&name("weight"))
        });
        let router = match corrected {
            true => |all, chosen| mixture::sigmoid(all, chosen, false),
            false => |all, chosen| mixture::softmax(all, chosen, false),
        };
        mixture::from_gguf(&mut d, g, router)?;
        if let Some((experts, _)) = &mut d.experts {
            let router = &mut experts.router;
            if let (Scores::Softmax, Some(groups)) = (router.scores, &mut router.groups) {
                groups.by = GroupScore::Best;
            }
        }
    }
    Ok(d.spec())
}

fn minicpm(c: &Config) -> Result<Spec> {
    let defaults = Defaults {
        eps: 1e-5,
        head_dim: Some(32),
        tied: true,
        ..Defaults::default()
    };
    let mut d = Decoder::from_config(c, defaults)?;
    let size = |key: &str, default| -> Result<usize> { Ok(c.usize(key)?.unwrap_or(default)) };
    let (rotated, heads) = (size("qk_rope_head_dim", 32)?, d.attentions[0].heads);
    let value = match c.usize("v_head_dim")? {
        Some(value) => value,
        None => super::head_dim(d.hidden, heads).map_err(|e| c.error(e))?,
    };
    let latent = spec::Latent {
        query: c.usize_or("q_lora_rank", Some(768))?,
        rank: size("kv_lora_rank", 256)?,
        rotated,
        value,
        eps: EPS,
        interleaved: false,
    };
    let head_dim = size("qk_nope_head_dim", 64)?.saturating_add(rotated);
    d.ropes = vec![rope_of(c, &Defaults::default(), rotated, None)?];
    set_attention(&mut d, latent, head_dim, scale_factor(c)?);
    d.each(|_, a| a.qkv_bias = a.out_bias);
    d.embedding.scale = c.f32("scale_emb")?.unwrap_or(12.0);
    if let Some(depth) = c.f32_or("scale_depth", Some(1.4))? {
        d.residual = depth / (d.layers() as f32).sqrt();
    }
    if let Some(base) = c.f32_or("dim_model_base", Some(256.0))? {
        d.head.scale = base / d.hidden as f32;
    }
    Ok(d.spec())
}

fn minicpm_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf(g)?;
    let heads = g.need_usize("attention.head_count")?;
    let latent = spec::Latent {
        query: g.usize("attention.q_lora_rank")?,
        rank: g.need_usize("attention.kv_lora_rank")?,
        rotated: g.need_usize("rope.dimension_count")?,
        value: super::head_dim(d.hidden, heads).map_err(|e| g.error(e))?,
        eps: EPS,
        interleaved: false,
    };
    set_attention(&mut d, latent, g.need_usize("attention.key_length")?, 1.0);
    let bias = g.has_tensor("blk.0.attn_kv_a_mqa.bias");
    d.each(|_, a| a.qkv_bias = bias);
    // What the one published size has; files do not say it.
    d.embedding.scale = 12.0;
    d.residual = 1.4 / (d.layers() as f32).sqrt();
    d.head.scale = 256.0 / d.hidden as f32;
    Ok(d.spec())
}

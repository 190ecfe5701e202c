//! ERNIE 4.5 (Baidu, "ERNIE 4.5 Technical Report"): Llama that rotates neighbours. Some
//! have experts, chosen with a correction, beside shared ones.

use super::decoder::{Decoder, Defaults};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "ernie4_5",
    about: "ERNIE 4.5",
    hf: &["Ernie4_5ForCausalLM"],
    from_config,
    from_gguf: |g| Ok(Decoder::from_gguf(g)?.spec()),
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(Query, "layers.{}.self_attn.q_proj", Interleaved),
        name(Key, "layers.{}.self_attn.k_proj", Interleaved),
    ],
    gguf_names: &[
        name(Query, "blk.{}.attn_q", Interleaved),
        name(Key, "blk.{}.attn_k", Interleaved),
    ],
    ignored: &[".rotary_emb.inv_freq"],
};

pub const MOE: Arch = Arch {
    gguf: "ernie4_5-moe",
    about: "ERNIE 4.5 with experts",
    hf: &["Ernie4_5_MoeForCausalLM"],
    from_config: moe,
    from_gguf: moe_gguf,
    hf_names: &[
        name(Query, "layers.{}.self_attn.q_proj", Interleaved),
        name(Key, "layers.{}.self_attn.k_proj", Interleaved),
        name(
            Correction,
            "layers.{}.mlp.moe_statics.e_score_correction_bias",
            AsIs,
        ),
        name(
            Correction,
            "layers.{}.mlp.gate.moe_statics.e_score_correction_bias",
            AsIs,
        ),
    ],
    ..ARCH
};

fn from_config(c: &Config) -> Result<Spec> {
    let defaults = Defaults {
        kv_heads: Some(2),
        head_dim: Some(128),
        ..Defaults::default()
    };
    Ok(dense(c, defaults)?.spec())
}

fn moe(c: &Config) -> Result<Spec> {
    let defaults = Defaults {
        kv_heads: Some(4),
        inner: Some(0),
        ..Defaults::default()
    };
    let mut d = dense(c, defaults)?;
    let (all, chosen) = mixture::counts(c, (64, 6))?;
    let router = Router {
        renormalise: Renormalise::AtLeast {
            least: c.f32("moe_norm_min")?.unwrap_or(1e-12),
        },
        ..mixture::softmax(all, chosen, true)
    };
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(1536);
    let shared = c.usize("moe_num_shared_experts")?.unwrap_or(2);
    let mut experts = mixture::plain(&d, router, inner).beside(inner.saturating_mul(shared), false);
    experts.correction = true;
    let first = c.usize("moe_layer_start_index")?.unwrap_or(1);
    // -1 is the last one.
    let last = match c.f32("moe_layer_end_index")? {
        Some(last) if last >= 0.0 => last as usize,
        _ => usize::MAX,
    };
    let step = c.usize("moe_layer_interval")?.unwrap_or(1).max(1);
    d.experts(experts, |i| {
        (first..=last).contains(&i) && (i + 1).is_multiple_of(step)
    });
    Ok(d.spec())
}

fn moe_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    mixture::from_gguf(&mut d, g, |all, chosen| Router {
        renormalise: Renormalise::AtLeast { least: 1e-12 },
        ..mixture::softmax(all, chosen, true)
    })?;
    Ok(d.spec())
}

fn dense(c: &Config, defaults: Defaults) -> Result<Decoder> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            eps: 1e-5,
            rope_base: 500_000.0,
            tied: true,
            ..defaults
        },
    )?;
    let bias = c.bool("use_bias")?.unwrap_or(false);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias, bias));
    d.feed_forward.bias = bias;
    Ok(d)
}

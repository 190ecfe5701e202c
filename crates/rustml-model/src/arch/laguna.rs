//! Laguna (poolside): experts with a sigmoid router, what each head gives times a factor
//! of its own, heads and rotations that differ between layers with a window and without.

use super::decoder::{layer_types, rope_of, Decoder, Defaults, LayerType};
use super::{mixture, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::{self, *};

pub const ARCH: Arch = Arch {
    gguf: "laguna",
    about: "Laguna",
    hf: &["LagunaForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &[
        name(
            Correction,
            "layers.{}.mlp.experts.e_score_correction_bias",
            AsIs,
        ),
        name(SharedGate, "layers.{}.mlp.shared_expert.gate_proj", AsIs),
        name(SharedUp, "layers.{}.mlp.shared_expert.up_proj", AsIs),
        name(SharedDown, "layers.{}.mlp.shared_expert.down_proj", AsIs),
    ],
    gguf_names: &[],
    ignored: &[".rotary_emb.inv_freq"],
};

const FULL: f32 = 500_000.0;
const SLIDING: f32 = 10_000.0;

fn from_config(c: &Config) -> Result<Spec> {
    let defaults = |base, rotated| Defaults {
        rope_base: base,
        kv_heads: Some(8),
        head_dim: Some(128),
        inner: Some(0),
        rotated,
        ..Defaults::default()
    };
    let mut d = Decoder::from_config(c, defaults(FULL, 0.5))?;
    d.qk_norm(NormedOver::Head, false);
    if c.object("rope_parameters")?.is_some() {
        let head_dim = d.attentions[0].head_dim;
        let of = |kind, base, part| rope_of(c, &defaults(base, part), head_dim, Some(kind));
        let full = of("full_attention", FULL, 1.0)?;
        d.ropes = vec![full, of("sliding_attention", SLIDING, 1.0)?];
    } else {
        let sliding = Rope {
            dims: d.attentions[0].head_dim,
            base: SLIDING,
            scaling: RopeScaling::None,
        };
        d.ropes.push(sliding);
    }
    let heads = c.usizes("num_attention_heads_per_layer")?;
    if let Some(heads) = &heads {
        if heads.len() != d.layers() {
            return Err(c.error(format!(
                "num_attention_heads_per_layer lists {} layers, but num_hidden_layers is {}",
                heads.len(),
                d.layers()
            )));
        }
    }
    let per_head = match (c.str_if("gating"), c.str_if("gating").is_none()) {
        (Some("per-head"), _) | (None, true) => true,
        (Some("per-element" | "per-value"), _) => false,
        (other, _) => {
            return Err(c.error(format!(
                "gating is {}; known are per-head and per-element",
                show(other.unwrap_or_default())
            )))
        }
    };
    let window = c.usize_or("sliding_window", Some(512))?;
    let types = layer_types(c, d.layers())?;
    d.each(|i, a| {
        let sliding = types.as_ref().is_some_and(|t| t[i] == LayerType::Sliding);
        a.heads = heads.as_ref().map_or(a.heads, |h| h[i]);
        a.window = window.filter(|_| sliding);
        a.rope = Some(usize::from(sliding));
        a.gate = Some(softplus(per_head));
    });
    let (all, chosen) = mixture::counts(c, (256, 8))?;
    let cap = c.f32("moe_router_logit_softcapping")?;
    let router = Router {
        soft_cap: cap.filter(|c| *c > 0.0),
        scale: c.f32("moe_routed_scaling_factor")?.unwrap_or(1.0),
        ..mixture::sigmoid(all, chosen, true)
    };
    let inner = c.usize("moe_intermediate_size")?.unwrap_or(512);
    let shared = c.usize("shared_expert_intermediate_size")?.unwrap_or(512);
    let mut experts = mixture::plain(&d, router, inner).beside(shared, false);
    experts.correction = true;
    let here = mixture::sparse_layers(c, d.layers())?;
    d.experts(experts, |i| here.as_ref().map_or(i > 0, |h| h[i]));
    Ok(d.spec())
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    d.qk_norm(NormedOver::Head, false);
    let heads = g.usize_of_layers("attention.head_count", d.layers())?;
    d.each(|i, a| {
        a.heads = heads[i];
        let rows = g.tensor_rows(&format!("blk.{i}.attn_gate.weight"));
        a.gate = Some(softplus(rows.is_ok_and(|rows| rows == heads[i])));
    });
    d.gguf_windows(g, Some(|i| i % 4 != 0))?;
    mixture::from_gguf(&mut d, g, |all, chosen| mixture::sigmoid(all, chosen, true))?;
    Ok(d.spec())
}

fn softplus(per_head: bool) -> AttentionGate {
    AttentionGate {
        function: spec::Gate::Softplus,
        per_head,
    }
}

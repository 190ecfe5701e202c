//! Granite 4 (IBM): most layers are Mamba-2 in place of attention, which mostly has no
//! positions; Granite's four factors; a feed-forward, or experts beside one.

use super::granite::{factors, granite, of_chosen};
use super::mamba2::{self, beside_attention, gguf_mamba};
use super::{decoder::Decoder, mixture, name, Arch, Repair::*, Role::*};
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "granitehybrid",
    about: "Granite 4",
    hf: &["GraniteMoeHybridForCausalLM"],
    from_config,
    from_gguf,
    hf_prefixes: &["model.", ""],
    hf_names: &{
        let [a, b, c, d, e, f, g, h, i] = mamba2::NAMES;
        [
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            name(Gate, "layers.{}.shared_mlp.input_linear", Fused),
            name(Up, "layers.{}.shared_mlp.input_linear", Fused),
            name(Down, "layers.{}.shared_mlp.output_linear", AsIs),
            name(SharedGate, "layers.{}.shared_mlp.input_linear", Fused),
            name(SharedUp, "layers.{}.shared_mlp.input_linear", Fused),
            name(SharedDown, "layers.{}.shared_mlp.output_linear", AsIs),
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
        ]
    },
    ..super::llama::ARCH
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = granite(c)?;
    if c.str("position_embedding_type")? != Some("rope") {
        d.each(|_, a| a.rope = None);
        d.ropes.clear();
    }
    let full: Vec<bool> = match c.strings("layer_types")? {
        Some(types) if types.len() == d.layers() => {
            let known = |t: &&str| ["mamba", "linear_attention"].contains(t) || is_full(t);
            if let Some(other) = types.iter().find(|t| !known(t)) {
                return Err(c.error(format!(
                    "layer_types names {}, but only mamba and attention are known",
                    show(other)
                )));
            }
            types.iter().map(|t| is_full(t)).collect()
        }
        Some(types) => {
            return Err(c.error(format!(
                "layer_types names {} layers, but num_hidden_layers is {}",
                types.len(),
                d.layers()
            )))
        }
        None => vec![false; d.layers()],
    };
    let mamba = beside_attention(c, d.hidden, d.norm.eps)?;
    d.recurrent(mamba, |i| !full[i]);
    let (all, chosen) = mixture::counts(c, (8, 2))?;
    let shared = c.usize("shared_intermediate_size")?.unwrap_or(1024);
    let inner = d.feed_forward.inner;
    d.feed_forward.inner = shared;
    if all > 0 {
        let experts = mixture::plain(&d, of_chosen(all, chosen), inner);
        d.experts(experts.beside(shared, false), |_| true);
    }
    Ok(d.spec())
}

fn is_full(layer_type: &str) -> bool {
    ["attention", "full_attention"].contains(&layer_type)
}

fn from_gguf(g: &Gguf) -> Result<Spec> {
    let mut d = Decoder::from_gguf_with_experts(g)?;
    factors(&mut d, g)?;
    let mamba = |i: usize| g.has_tensor(&format!("blk.{i}.ssm_conv1d.weight"));
    if g.bool("rope.scaling.finetuned")? == Some(false) {
        d.each(|_, a| a.rope = None);
        d.ropes.clear();
    }
    if let Some(first) = (0..d.layers()).find(|i| mamba(*i)) {
        d.recurrent(gguf_mamba(g, d.norm.eps, first)?, mamba);
    }
    // Files made of transformers 5's names of layers count no heads of keys.
    let key = |i: usize| format!("blk.{i}.attn_k.weight");
    let kv_heads = match (0..d.layers()).find(|i| g.has_tensor(&key(*i))) {
        Some(i) => Some(g.tensor_rows(&key(i))? / d.attentions[i].head_dim.max(1)),
        None => None,
    };
    d.each(|_, a| {
        a.kv_heads = kv_heads.unwrap_or(a.kv_heads);
        (a.qkv_bias, a.out_bias) = (false, false);
    });
    if g.has_tensor("blk.0.ffn_gate.weight") {
        // That of experts may be another.
        d.feed_forward.inner = g.tensor_rows("blk.0.ffn_gate.weight")?;
    }
    if g.usize("expert_count")?.unwrap_or(0) > 0 {
        mixture::from_gguf(&mut d, g, of_chosen)?;
    }
    Ok(d.spec())
}

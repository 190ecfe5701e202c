//! Seed-OSS (ByteDance): Llama with biases of queries, keys and values.

use super::decoder::{Decoder, Defaults};
use super::{name, Arch, Repair::*, Role::*};
use crate::error::Result;
use crate::source::Config;
use crate::spec::*;

pub const ARCH: Arch = Arch {
    gguf: "seed_oss",
    about: "Seed-OSS",
    hf: &["SeedOssForCausalLM"],
    from_config,
    from_gguf: |g| Ok(Decoder::from_gguf(g)?.spec()),
    hf_prefixes: &["model.", ""],
    hf_names: &[],
    gguf_names: &[name(FfnNorm, "blk.{}.post_attention_norm", AsIs)],
    ignored: &[".rotary_emb.inv_freq"],
};

fn from_config(c: &Config) -> Result<Spec> {
    let mut d = Decoder::from_config(
        c,
        Defaults {
            kv_heads: Some(8),
            head_dim: Some(128),
            ..Defaults::default()
        },
    )?;
    let bias = c.bool("attention_bias")?.unwrap_or(true);
    let out = c.bool("attention_out_bias")?.unwrap_or(false);
    d.each(|_, a| (a.qkv_bias, a.out_bias) = (bias, out));
    Ok(d.spec())
}

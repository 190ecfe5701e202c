//! The architectures: one file each, and what they have in common.

mod gemma3;
mod gpt2;
mod llama;
mod qwen;
mod rope;

use crate::error::{show, Error, Result};
use crate::source::{Config, Gguf};
use crate::spec::{Activation, Layer, Spec};
use rustml_io::{FileFormat, Store};
use std::path::Path;

/// An architecture: how to recognise it, its [`Spec`], and its tensors' names.
pub struct Arch {
    /// The name in `general.architecture` of GGUF files.
    pub gguf: &'static str,
    /// The names in `architectures` of config.json.
    pub hf: &'static [&'static str],
    /// The settings of a config.json.
    pub from_config: fn(&Config) -> Result<Spec>,
    /// The settings of a GGUF file.
    pub from_gguf: fn(&Gguf) -> Result<Spec>,
    /// Names in safetensors that deviate from [`HF_NAMES`].
    pub hf_names: &'static [Name],
    /// Names in GGUF that deviate from [`GGUF_NAMES`].
    pub gguf_names: &'static [Name],
    /// Prefixes that safetensors names may have, tried in this order.
    pub hf_prefixes: &'static [&'static str],
    /// Tensors that hold no weights of the language model: names that begin,
    /// or end, with one of these are left alone.
    pub ignored: &'static [&'static str],
}

/// What a tensor is for. Those of a layer are numbered by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Vectors of the tokens.
    Embedding,
    /// Vectors of the positions.
    Positions,
    /// After the last layer.
    FinalNorm,
    /// From vectors to logits, where the embedding does not serve for that.
    Head,
    /// Before attention.
    AttnNorm,
    /// Projection to the queries.
    Query,
    /// Projection to the keys.
    Key,
    /// Projection to the values.
    Value,
    /// Of every query head.
    QueryNorm,
    /// Of every key head.
    KeyNorm,
    /// Projection of what attention mixed.
    AttnOut,
    /// After attention.
    AttnPostNorm,
    /// Before the feed-forward.
    FfnNorm,
    /// The projection of the feed-forward that the activation is applied to,
    /// where there are two.
    Gate,
    /// The other, or the only one.
    Up,
    /// Back to the width of the stream.
    Down,
    /// After the feed-forward.
    FfnPostNorm,
}

/// What is done to a tensor when it is loaded, so that the forward pass knows
/// one convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    AsIs,
    /// Stored `[inputs, outputs]` (GPT-2's Conv1D).
    Transposed,
    /// A part of query, key and value in one tensor, one after the other.
    Fused,
    /// Both.
    FusedTransposed,
    /// Rows of each head in the order that rotates neighbours; they are put
    /// in the order that rotates halves (`LlamaModel.permute` in llama.cpp's
    /// converter).
    Interleaved,
    /// A norm's weight stored less one (Gemma).
    MinusOne,
}

/// The name of a tensor without `.weight` or `.bias`; `{}` is the layer.
pub struct Name {
    /// What it is for.
    pub role: Role,
    /// The name.
    pub name: &'static str,
    /// What is done to it.
    pub repair: Repair,
}

const fn name(role: Role, name: &'static str, repair: Repair) -> Name {
    Name { role, name, repair }
}

use Repair::AsIs;
use Role::*;

/// The usual names in safetensors, after the prefix.
pub const HF_NAMES: &[Name] = &[
    name(Embedding, "embed_tokens", AsIs),
    name(FinalNorm, "norm", AsIs),
    name(Head, "lm_head", AsIs),
    name(AttnNorm, "layers.{}.input_layernorm", AsIs),
    name(Query, "layers.{}.self_attn.q_proj", AsIs),
    name(Key, "layers.{}.self_attn.k_proj", AsIs),
    name(Value, "layers.{}.self_attn.v_proj", AsIs),
    name(QueryNorm, "layers.{}.self_attn.q_norm", AsIs),
    name(KeyNorm, "layers.{}.self_attn.k_norm", AsIs),
    name(AttnOut, "layers.{}.self_attn.o_proj", AsIs),
    name(FfnNorm, "layers.{}.post_attention_layernorm", AsIs),
    name(Gate, "layers.{}.mlp.gate_proj", AsIs),
    name(Up, "layers.{}.mlp.up_proj", AsIs),
    name(Down, "layers.{}.mlp.down_proj", AsIs),
];

/// The usual names in GGUF files.
pub const GGUF_NAMES: &[Name] = &[
    name(Embedding, "token_embd", AsIs),
    name(Positions, "position_embd", AsIs),
    name(FinalNorm, "output_norm", AsIs),
    name(Head, "output", AsIs),
    name(AttnNorm, "blk.{}.attn_norm", AsIs),
    name(Query, "blk.{}.attn_q", AsIs),
    name(Key, "blk.{}.attn_k", AsIs),
    name(Value, "blk.{}.attn_v", AsIs),
    name(QueryNorm, "blk.{}.attn_q_norm", AsIs),
    name(KeyNorm, "blk.{}.attn_k_norm", AsIs),
    name(AttnOut, "blk.{}.attn_output", AsIs),
    name(AttnPostNorm, "blk.{}.post_attention_norm", AsIs),
    name(FfnNorm, "blk.{}.ffn_norm", AsIs),
    name(Gate, "blk.{}.ffn_gate", AsIs),
    name(Up, "blk.{}.ffn_up", AsIs),
    name(Down, "blk.{}.ffn_down", AsIs),
    name(FfnPostNorm, "blk.{}.post_ffw_norm", AsIs),
];

/// All architectures.
pub const ALL: &[&Arch] = &[
    &gpt2::ARCH,
    &llama::ARCH,
    &gemma3::ARCH,
    &qwen::QWEN2,
    &qwen::QWEN3,
];

impl Role {
    /// `[outputs, inputs]` of a matrix by the settings.
    pub fn shape(self, s: &Spec, layer: Option<&Layer>) -> (usize, usize) {
        let dims = layer.map(|l| {
            let a = &l.attention;
            let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
            (q, kv, l.feed_forward.inner)
        });
        match (self, dims) {
            (Query, Some((q, _, _))) => (q, s.hidden),
            (Key | Value, Some((_, kv, _))) => (kv, s.hidden),
            (AttnOut, Some((q, _, _))) => (s.hidden, q),
            (Gate | Up, Some((_, _, inner))) => (inner, s.hidden),
            (Down, Some((_, _, inner))) => (s.hidden, inner),
            (Positions, _) => (s.context, s.hidden),
            _ => (s.vocab, s.hidden),
        }
    }
}

impl Arch {
    /// The architecture of an open model.
    ///
    /// # Errors
    /// If it says none, or one that is not supported.
    pub fn of(store: &Store) -> Result<&'static Arch> {
        match store.format() {
            FileFormat::Gguf { .. } => {
                let name = Gguf::new(store, "general").need_str("architecture")?;
                let found = ALL.iter().find(|a| a.gguf == name);
                known(found, show(name), store.path())
            }
            FileFormat::Safetensors => Arch::named(&Config::new(store)?, store.path()),
        }
    }

    /// The architecture that a config.json names; `path` is the model's.
    fn named(config: &Config, path: &Path) -> Result<&'static Arch> {
        let names = config.need_strings("architectures")?;
        let found = ALL.iter().find(|a| a.hf.iter().any(|n| names.contains(n)));
        known(found, show(&names.join(", ")), path)
    }

    /// Architecture and settings of a config.json alone.
    ///
    /// # Errors
    /// As for [`Arch::of`] and [`Arch::spec`].
    pub fn of_config(config: &Config) -> Result<(&'static Arch, Spec)> {
        let arch = Arch::named(config, config.path())?;
        Ok((arch, arch.spec_of_config(config)?))
    }

    fn spec_of_config(&self, config: &Config) -> Result<Spec> {
        if config.object("quantization_config")?.is_some() {
            return Err(config.error(
                "quantization_config is set, but quantised weights are only read from GGUF; \
                 take that, or a checkpoint in float types",
            ));
        }
        valid((self.from_config)(config)?, config.path())
    }

    /// The settings of an open model.
    ///
    /// # Errors
    /// If one is missing or makes no sense.
    pub fn spec(&self, store: &Store) -> Result<Spec> {
        match store.format() {
            FileFormat::Gguf { .. } => {
                let spec = (self.from_gguf)(&Gguf::new(store, self.gguf))?;
                valid(spec, store.path())
            }
            FileFormat::Safetensors => self.spec_of_config(&Config::new(store)?),
        }
    }

    /// The name of the tensor for `role`, and what is done to it.
    pub fn tensor(&self, role: Role, format: FileFormat) -> Option<&Name> {
        let (own, usual) = match format {
            FileFormat::Gguf { .. } => (self.gguf_names, GGUF_NAMES),
            FileFormat::Safetensors => (self.hf_names, HF_NAMES),
        };
        own.iter().chain(usual).find(|n| n.role == role)
    }
}

/// The architecture, if there is one by that name.
fn known(found: Option<&&'static Arch>, name: String, path: &Path) -> Result<&'static Arch> {
    found.copied().ok_or_else(|| Error::UnknownArchitecture {
        path: path.to_owned(),
        name,
        known: ALL
            .iter()
            .flat_map(|a| a.hf.iter().copied().chain([a.gguf]))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

fn valid(spec: Spec, path: &Path) -> Result<Spec> {
    match spec.validate() {
        Ok(()) => Ok(spec),
        Err(what) => Err(Error::Config {
            path: path.to_owned(),
            what,
        }),
    }
}

/// The activation that config.json names under `key`.
fn hf_activation(c: &Config, key: &str, default: &str) -> Result<Activation> {
    match c.str(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => Err(c.error(format!(
            "{key} is {}, which is not supported; supported are silu, gelu_new, gelu_pytorch_tanh, relu",
            show(other)
        ))),
    }
}

/// Values of a head where the width divides evenly among the heads.
fn head_dim(hidden: usize, heads: usize) -> Result<usize, String> {
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(format!(
            "the hidden size {hidden} cannot be divided among {heads} attention heads"
        ));
    }
    Ok(hidden / heads)
}

/// `count` layers alike, if that many can be.
fn repeat<T: Clone>(layer: T, count: usize) -> Result<Vec<T>, String> {
    match count > Spec::MAX_LAYERS {
        true => Err(format!(
            "the number of layers is {count}, more than the {} that can be handled",
            Spec::MAX_LAYERS
        )),
        false => Ok(vec![layer; count]),
    }
}

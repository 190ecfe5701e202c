//! The architectures: one file each, and what they have in common.

mod apertus;
mod bert;
mod classifier;
mod cohere;
mod decoder;
mod deepseek;
mod ernie4_5;
mod exaone4;
mod falcon_h1;
mod gemma;
mod gemma3;
mod gemma3n;
mod gemma4;
mod glm4;
mod glm4_moe;
mod gpt2;
mod gpt_oss;
mod granite;
mod granite_hybrid;
mod hunyuan;
mod laguna;
mod lfm2;
mod lfm3;
mod llama;
mod llama4;
mod mamba2;
mod minimax_m2;
mod mistral3;
mod mixture;
mod modernbert;
mod nemotron;
mod nemotron_h;
mod neox;
mod olmo;
mod phi;
mod phimoe;
mod qwen;
mod qwen3_5;
mod qwen_moe;
mod rope;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use crate::error::{show, Error, Result};
use crate::load::Scheme;
use crate::source::{Config, Gguf};
use crate::spec::{Activation, Attention, Block, Layer, Part, Spec};
use rustml_io::{FileFormat, Store};
use std::path::Path;

/// An architecture: how to recognise it, its [`Spec`], and its tensors' names.
pub struct Arch {
    /// The name in `general.architecture` of GGUF files.
    pub gguf: &'static str,
    /// The models people know it by.
    pub about: &'static str,
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
    /// Vectors of the types of tokens.
    TokenTypes,
    /// Of a classifier, before its last layer.
    ClassDense,
    /// After that one.
    ClassNorm,
    /// To the scores of its labels.
    ClassOut,
    /// Of the sum of these three.
    EmbeddingNorm,
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
    /// To what the queries of latent attention are made of.
    QueryDown,
    /// What is not rotated of the keys of latent attention, where it is by itself.
    LatentKeys,
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
    /// To the factors of what attention gives.
    AttnGate,
    /// Summands of scores by distance, of all layers.
    RelativeBias,
    /// One more score for each query head.
    Sinks,
    /// After a feed-forward that experts are beside.
    MlpPostNorm,
    /// Before experts that are beside a feed-forward.
    ExpertsNorm,
    /// After them.
    ExpertsPostNorm,
    /// Of what the router reads.
    RouterNorm,
    /// Factor of each expert's result.
    ExpertFactors,
    /// Vectors of the tokens for every layer.
    PerLayerEmbedding,
    /// From a token's vector to those of every layer.
    PerLayerProjection,
    /// Of each of these.
    PerLayerNorm,
    /// To what a layer's vector multiplies.
    PerLayerGate,
    /// Back to the width of the stream.
    PerLayerOut,
    /// Of that.
    PerLayerPostNorm,
    /// To all streams but the first.
    StreamIn,
    /// From them.
    StreamOut,
    /// To the coefficients of streams.
    StreamRouter,
    /// Of what these are made of.
    StreamRouterNorm,
    /// From these to how streams are predicted.
    StreamPredict,
    /// And how they are corrected.
    StreamCorrect,
    /// Factors of what reads a layer's vectors.
    StreamScale,
    /// Beside attention, to a small width.
    LaurelLeft,
    /// And back.
    LaurelRight,
    /// Of that.
    LaurelNorm,
    /// What multiplies the stream after a layer.
    LayerFactor,
    /// From a row to a score of each expert.
    ExpertRouter,
    /// Added to the scores for choosing.
    Correction,
    /// Experts' projections, as those of a feed-forward.
    ExpertGate,
    /// Likewise.
    ExpertUp,
    /// Likewise.
    ExpertDown,
    /// Those of the shared expert.
    SharedGate,
    /// Likewise.
    SharedUp,
    /// Likewise.
    SharedDown,
    /// What the shared expert's factor is a product with.
    SharedRouter,
    /// To the inputs of a recurrent part's convolution.
    StateIn,
    /// To the factors of these.
    StateFactor,
    /// To the factors of what the part gives (z, or C of LFM2).
    StateGate,
    /// To how much of a value is taken in (b).
    StateRate,
    /// To the steps, on which the decay depends (dt, or a).
    StateStep,
    /// Added to these.
    StepBias,
    /// The convolution.
    Convolution,
    /// How fast each head's matrix decays.
    Decay,
    /// Factor of the value in each head's result (D).
    Skip,
    /// Of what the part gives.
    StateNorm,
    /// Projection of that.
    StateOut,
}

/// What is done to a tensor when it is loaded, so that the forward pass knows
/// one convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    AsIs,
    /// Stored `[inputs, outputs]` (GPT-2's Conv1D).
    Transposed,
    /// A part of query, key and value in one tensor, or of gate and up, one after
    /// the other.
    Fused,
    /// Both.
    FusedTransposed,
    /// A part of what reads a recurrent part's input, where what belongs to a key head
    /// lies together.
    FusedByKeyHead,
    /// Rows of latent attention: what is rotated comes last in each head, perhaps as
    /// neighbours.
    Latent,
    /// Each query head, followed by the factors of what it gives.
    QueryAndGate,
    /// A part of query, key and value in one tensor, where the queries of each key
    /// head come first, then this key head, then its value head.
    FusedByGroup,
    /// Rows of each head in the order that rotates neighbours; they are put
    /// in the order that rotates halves (`LlamaModel.permute` in llama.cpp's
    /// converter).
    Interleaved,
    /// The logarithm of the negated value.
    NegatedLog,
    /// A norm's weight stored less one (Gemma).
    MinusOne,
    /// Gate and up of all experts in one tensor, `[experts, inputs, outputs]`, their
    /// outputs in turn (gpt-oss).
    AlternatingTransposed,
}

/// The name of a tensor without `.weight` or `.bias`; `{}` is the layer, `{e}` the expert.
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

use Repair::{AsIs, Fused};
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
    name(AttnGate, "layers.{}.self_attn.g_proj", AsIs),
    name(Sinks, "layers.{}.self_attn.sinks", AsIs),
    name(ExpertRouter, "layers.{}.mlp.gate", AsIs),
    name(
        Correction,
        "layers.{}.mlp.gate.e_score_correction_bias",
        AsIs,
    ),
    name(ExpertGate, "layers.{}.mlp.experts.{e}.gate_proj", AsIs),
    name(ExpertUp, "layers.{}.mlp.experts.{e}.up_proj", AsIs),
    name(ExpertDown, "layers.{}.mlp.experts.{e}.down_proj", AsIs),
    name(ExpertGate, "layers.{}.mlp.experts.gate_up_proj", Fused),
    name(ExpertUp, "layers.{}.mlp.experts.gate_up_proj", Fused),
    name(ExpertDown, "layers.{}.mlp.experts.down_proj", AsIs),
    name(SharedGate, "layers.{}.mlp.shared_experts.gate_proj", AsIs),
    name(SharedUp, "layers.{}.mlp.shared_experts.up_proj", AsIs),
    name(SharedDown, "layers.{}.mlp.shared_experts.down_proj", AsIs),
    name(SharedRouter, "layers.{}.mlp.shared_expert_gate", AsIs),
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
    name(AttnGate, "blk.{}.attn_gate", AsIs),
    name(Sinks, "blk.{}.attn_sinks", AsIs),
    name(ExpertRouter, "blk.{}.ffn_gate_inp", AsIs),
    name(Correction, "blk.{}.exp_probs_b", AsIs),
    name(ExpertGate, "blk.{}.ffn_gate_exps", AsIs),
    name(ExpertUp, "blk.{}.ffn_up_exps", AsIs),
    name(ExpertDown, "blk.{}.ffn_down_exps", AsIs),
    name(ExpertGate, "blk.{}.ffn_gate_up_exps", Fused),
    name(ExpertUp, "blk.{}.ffn_gate_up_exps", Fused),
    name(ExpertGate, "blk.{}.ffn_gate.{e}", AsIs),
    name(ExpertUp, "blk.{}.ffn_up.{e}", AsIs),
    name(ExpertDown, "blk.{}.ffn_down.{e}", AsIs),
    name(SharedGate, "blk.{}.ffn_gate_shexp", AsIs),
    name(SharedUp, "blk.{}.ffn_up_shexp", AsIs),
    name(SharedDown, "blk.{}.ffn_down_shexp", AsIs),
    name(SharedRouter, "blk.{}.ffn_gate_inp_shexp", AsIs),
    name(StateGate, "blk.{}.ssm_in", Fused),
    name(StateIn, "blk.{}.ssm_in", Fused),
    name(StateStep, "blk.{}.ssm_in", Fused),
    name(Convolution, "blk.{}.ssm_conv1d", AsIs),
    name(Decay, "blk.{}.ssm_a", AsIs),
    name(StepBias, "blk.{}.ssm_dt", AsIs),
    name(Skip, "blk.{}.ssm_d", AsIs),
    name(StateNorm, "blk.{}.ssm_norm", AsIs),
    name(StateOut, "blk.{}.ssm_out", AsIs),
];

/// All architectures.
pub const ALL: &[&Arch] = &[
    &gpt2::ARCH,
    &gpt2::STARCODER,
    &llama::ARCH,
    &gemma3::ARCH,
    &gemma3::EMBEDDING,
    &gemma4::ARCH,
    &gemma3n::ARCH,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN2_VL,
    &qwen::QWEN3_VL,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &granite::MINICPM,
    &smollm3::ARCH,
    &olmo::OLMO2,
    &olmo::OLMOE,
    &glm4::ARCH,
    &hunyuan::ARCH,
    &hunyuan::MOE,
    &ernie4_5::ARCH,
    &ernie4_5::MOE,
    &exaone4::ARCH,
    &cohere::COHERE2,
    &cohere::COHERE2_MOE,
    &cohere::COMMAND_R,
    &starcoder2::ARCH,
    &stablelm::ARCH,
    &phi::PHI2,
    &phi::PHI3,
    &neox::GPT_NEOX,
    &neox::FALCON,
    &nemotron::NEMOTRON,
    &nemotron::ARCEE,
    &seed_oss::ARCH,
    &qwen_moe::QWEN2_MOE,
    &qwen_moe::QWEN3_MOE,
    &qwen_moe::MELLUM,
    &gpt_oss::ARCH,
    &glm4_moe::GLM4_MOE,
    &glm4_moe::DOTS1,
    &phimoe::ARCH,
    &minimax_m2::ARCH,
    &mistral3::ARCH,
    &llama4::ARCH,
    &laguna::ARCH,
    &deepseek::V2,
    &deepseek::V3,
    &deepseek::GLM_LITE,
    &deepseek::YOUTU,
    &deepseek::MINICPM3,
    &apertus::ARCH,
    &lfm2::ARCH,
    &lfm2::MOE,
    &qwen3_5::DENSE,
    &qwen3_5::MOE,
    &qwen3_5::NEXT,
    &lfm3::ARCH,
    &mamba2::ARCH,
    &falcon_h1::ARCH,
    &falcon_h1::BAMBA,
    &granite_hybrid::ARCH,
    &nemotron_h::ARCH,
    &nemotron_h::MOE,
    &bert::BERT,
    &bert::ROBERTA,
    &bert::DISTILBERT,
    &bert::MPNET,
    &bert::NOMIC,
    &modernbert::ARCH,
];

impl Role {
    /// Whether files differ about it: GGUF files hold queries, keys and values in one tensor
    /// or in three, and transformers 5 spells the experts of all architectures alike.
    fn has_spellings(self) -> bool {
        let of_attention = [Query, Key, Value];
        let of_experts = [ExpertRouter, Correction, ExpertGate, ExpertUp, ExpertDown];
        of_attention.contains(&self) || of_experts.contains(&self)
    }

    /// The norms before and after a part.
    pub fn norms(part: &Part) -> (Role, Role) {
        match part {
            Part::Attention(_) | Part::Recurrent(_) => (AttnNorm, AttnPostNorm),
            Part::FeedForward(_) | Part::Experts(_) | Part::Factor => (FfnNorm, FfnPostNorm),
            Part::ReadsPerLayer(_) => (FfnNorm, PerLayerPostNorm),
            // They have no such norms.
            Part::Predict(_) | Part::Correct(_) | Part::Laurel(_) | Part::Times(_) => {
                (AttnNorm, AttnPostNorm)
            }
            Part::Parallel(_) => (AttnNorm, FfnPostNorm),
        }
    }

    /// Those of a part among parallel blocks.
    pub fn norms_within(blocks: &[Block], part: &Part) -> (Role, Role) {
        let mut all = blocks.iter();
        let beside = all.any(|b| matches!(b.part, Part::FeedForward(_)));
        match part {
            Part::FeedForward(_) => (FfnNorm, MlpPostNorm),
            Part::Experts(_) if beside => (ExpertsNorm, ExpertsPostNorm),
            part => Role::norms(part),
        }
    }

    /// Whether its products are always in single precision: those that decide by small
    /// differences, and are small themselves.
    pub fn is_precise(self) -> bool {
        matches!(self, ExpertRouter | StateRate | StateStep)
    }

    /// `[outputs, inputs]` of a matrix by the settings.
    pub fn shape(self, s: &Spec, layer: Option<&Layer>) -> (usize, usize) {
        let dims = layer.map(|l| {
            let of = |a: &Attention| (a.heads * a.head_dim, a.kv_heads * a.head_dim);
            let (q, kv) = l.attention().map_or((0, 0), of);
            (q, kv, l.feed_forward().map_or(0, |f| f.inner))
        });
        if let Some(r) = layer.and_then(Layer::recurrent) {
            match self {
                StateIn | StateFactor => return (r.channels(), s.hidden),
                StateGate => return (r.inner(), s.hidden),
                StateRate | StateStep => return (r.heads(), s.hidden),
                StateOut => return (s.hidden, r.inner()),
                _ => {}
            }
        }
        let experts = layer.and_then(Layer::experts);
        if let Some(e) = experts {
            let shared = e.shared.map_or(0, |s| s.expert.inner);
            match self {
                ExpertRouter => return (e.router.experts, s.hidden),
                ExpertGate | ExpertUp => return (e.expert.inner, s.hidden),
                ExpertDown => return (s.hidden, e.expert.inner),
                SharedGate | SharedUp => return (shared, s.hidden),
                SharedDown => return (s.hidden, shared),
                SharedRouter => return (1, s.hidden),
                _ => {}
            }
        }
        if let Some((a, l)) = layer
            .and_then(Layer::attention)
            .and_then(|a| Some((a, a.latent?)))
        {
            let plain = a.head_dim - l.rotated;
            match self {
                Query => return (a.heads * a.head_dim, l.query.unwrap_or(s.hidden)),
                QueryDown => return (l.query.unwrap_or(0), s.hidden),
                Key => return (l.rank + l.rotated, s.hidden),
                Value => return (a.heads * (plain + l.value), l.rank),
                AttnOut => return (s.hidden, a.heads * l.value),
                _ => {}
            }
        }
        let per_layer = s.embedding.per_layer.map_or(0, |p| p.width);
        let mut parts = layer.into_iter().flat_map(Layer::parts);
        let laurel = parts.find_map(|p| match p {
            Part::Laurel(l) => Some(l.rank),
            _ => None,
        });
        let laurel = laurel.unwrap_or(0);
        match self {
            PerLayerEmbedding => {
                return (
                    s.embedding.per_layer.map_or(0, |p| p.rows),
                    s.layers.len() * per_layer,
                )
            }
            PerLayerProjection => return (s.layers.len() * per_layer, s.hidden),
            PerLayerGate => return (per_layer, s.hidden),
            PerLayerOut => return (s.hidden, per_layer),
            LaurelLeft => return (laurel, s.hidden),
            LaurelRight => return (s.hidden, laurel),
            _ => {}
        }
        match (self, dims) {
            (Query, Some((q, _, _))) => (q, s.hidden),
            (Key | Value, Some((_, kv, _))) => (kv, s.hidden),
            (AttnOut, Some((q, _, _))) => (s.hidden, q),
            (AttnGate, Some((q, _, _))) => {
                let attention = layer.and_then(Layer::attention);
                let of_heads = attention.filter(|a| a.gate.is_some_and(|g| g.per_head));
                (of_heads.map_or(q, |a| a.heads), s.hidden)
            }
            (Gate | Up, Some((_, _, inner))) => (inner, s.hidden),
            (Down, Some((_, _, inner))) => (s.hidden, inner),
            (Positions, _) => (s.context + s.embedding.first_position, s.hidden),
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
                let general = Gguf::new(store, "general");
                let name = general.need_str("architecture")?;
                // What llama.cpp calls the eyes and ears that go beside a model.
                if name == "clip" {
                    return Err(general.error(
                        "this is a projector (mmproj): the part of a model that sees or hears, \
                         not the one that writes; open the GGUF file of the model itself",
                    ));
                }
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
        Scheme::of(config)?;
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
        self.names(role, format).next()
    }

    /// The names that it may have: its own, or else the usual ones. Some may have either.
    pub fn names(&self, role: Role, format: FileFormat) -> impl Iterator<Item = &Name> {
        let (own, usual) = match format {
            FileFormat::Gguf { .. } => (self.gguf_names, GGUF_NAMES),
            FileFormat::Safetensors => (self.hf_names, HF_NAMES),
        };
        let has_own = own.iter().any(|n| n.role == role);
        let usual = if has_own && !role.has_spellings() {
            &[]
        } else {
            usual
        };
        own.iter().chain(usual).filter(move |n| n.role == role)
    }
}

/// The architecture, if there is one by that name.
fn known(found: Option<&&'static Arch>, name: String, path: &Path) -> Result<&'static Arch> {
    found.copied().ok_or_else(|| Error::UnknownArchitecture {
        path: path.to_owned(),
        name,
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
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "gelu" | "gelu_python" => Ok(Activation::GeluErf),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::SquaredRelu),
        // Its numbers are among the tensors.
        "xielu" => Ok(Activation::Xielu {
            alpha_p: 0.8,
            alpha_n: 0.8,
            beta: 0.5,
            eps: -1e-6,
        }),
        other => Err(c.error(format!(
            "{key} is {}, which is not supported; supported are silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, relu2",
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

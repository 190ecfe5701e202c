//! What is recorded: operations, their cost, events and turns.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an operation computed, by its role in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Op {
    Embed,
    /// Cosines and sines of a step's positions.
    RopeTable,
    AttnNorm,
    /// The products that read a recurrent part's input.
    StateIn,
    /// The convolution of a recurrent part.
    Convolve,
    /// What goes through the matrices of a recurrent part's heads.
    Scan,
    /// All of query, key and value, where they are not told apart.
    Qkv,
    Query,
    Key,
    Value,
    /// The product of the factors of what attention gives.
    AttnGate,
    /// Head norms, rotation and storing, where they are not told apart.
    Position,
    QkNorm,
    Rope,
    KvStore,
    /// Scores, softmax and values, where they are not told apart.
    Attend,
    Scores,
    Softmax,
    Values,
    AttnOut,
    AttnPostNorm,
    FfnNorm,
    /// Gate and up, where they are not told apart.
    GateUp,
    Gate,
    Up,
    Activate,
    Down,
    /// The router's product, and the choice of experts.
    Route,
    /// The products of the experts that were chosen.
    Experts,
    FfnPostNorm,
    FinalNorm,
    Head,
    /// Choosing tokens from logits.
    Sample,
}

/// The part of a step that an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Part {
    Embedding,
    Attention,
    FeedForward,
    /// After the last layer.
    Norm,
    /// The product with the head.
    Projection,
    Sampling,
}

impl Op {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Op::Embed => "embedding",
            Op::RopeTable => "rope tables",
            Op::AttnNorm | Op::FfnNorm => "norm",
            Op::StateIn => "state inputs",
            Op::Convolve => "short convolution",
            Op::Scan => "state scan",
            Op::Qkv => "query, key, value",
            Op::Query => "query",
            Op::Key => "key",
            Op::Value => "value",
            Op::AttnGate => "output gate",
            Op::Position => "qk-norm, rope, kv-store",
            Op::QkNorm => "qk-norm",
            Op::Rope => "rope",
            Op::KvStore => "kv-store",
            Op::Attend => "scores, softmax, values",
            Op::Scores => "scores",
            Op::Softmax => "softmax",
            Op::Values => "values",
            Op::AttnOut => "output projection",
            Op::AttnPostNorm | Op::FfnPostNorm => "post-norm",
            Op::GateUp => "gate, up",
            Op::Gate => "gate",
            Op::Up => "up",
            Op::Activate => "activation",
            Op::Down => "down",
            Op::Route => "router",
            Op::Experts => "experts",
            Op::FinalNorm => "final norm",
            Op::Head => "lm_head",
            Op::Sample => "sampling",
        }
    }

    /// The part of the step it belongs to.
    pub fn part(self) -> Part {
        match self {
            Op::Embed | Op::RopeTable => Part::Embedding,
            Op::AttnNorm | Op::Qkv | Op::Query | Op::Key | Op::Value => Part::Attention,
            Op::StateIn | Op::Convolve | Op::Scan => Part::Attention,
            Op::AttnGate | Op::Position | Op::QkNorm => Part::Attention,
            Op::Rope | Op::KvStore => Part::Attention,
            Op::Attend | Op::Scores | Op::Softmax | Op::Values => Part::Attention,
            Op::AttnOut | Op::AttnPostNorm => Part::Attention,
            Op::FfnNorm | Op::GateUp | Op::Gate | Op::Up => Part::FeedForward,
            Op::Activate | Op::Down | Op::FfnPostNorm => Part::FeedForward,
            Op::Route | Op::Experts => Part::FeedForward,
            Op::FinalNorm => Part::Norm,
            Op::Head => Part::Projection,
            Op::Sample => Part::Sampling,
        }
    }

    /// Whether it is a product with weights.
    pub fn is_product(self) -> bool {
        use Op::*;
        matches!(
            self,
            StateIn
                | Qkv
                | Query
                | Key
                | Value
                | AttnOut
                | GateUp
                | Gate
                | Up
                | Down
                | Experts
                | Head
        )
    }
}

impl Part {
    /// Whether layers consist of it.
    pub fn is_in_layers(self) -> bool {
        matches!(self, Part::Attention | Part::FeedForward)
    }

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Embedding => "embedding",
            Part::Attention => "attention",
            Part::FeedForward => "feed-forward",
            Part::Norm => "norm",
            Part::Projection => "projection",
            Part::Sampling => "sampling",
        }
    }
}

/// What an operation had to do, from its shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Bytes of weights and cache read or written.
    pub bytes: u64,
    /// Multiplications and additions of floats in single precision.
    pub flops: u64,
    /// Multiplications and additions of bfloat16, which many processors do faster.
    #[serde(default)]
    pub bf16_ops: u64,
    /// Multiplications and additions of 8-bit integers.
    pub int_ops: u64,
}

impl Cost {
    /// Multiplications and additions of whatever kind.
    pub fn operations(&self) -> u64 {
        self.flops + self.bf16_ops + self.int_ops
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.bytes += other.bytes;
        self.flops += other.flops;
        self.bf16_ops += other.bf16_ops;
        self.int_ops += other.int_ops;
    }
}

/// One operation, as it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Number of the step.
    pub step: u32,
    /// Layer, if it belongs to one.
    pub layer: Option<u16>,
    /// What it was.
    pub op: Op,
    /// Since the recorder was made.
    pub start: Duration,
    /// Wall time.
    pub time: Duration,
    /// Of it, the time in which the caller had nothing left to do and waited
    /// for other threads.
    pub waiting: Duration,
    /// What it had to do.
    pub cost: Cost,
}

/// What one thread did in one parallel region: a worker worked, the caller
/// waited for the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// 0 is the caller.
    pub thread: usize,
    /// The operation, as an index into the step's events.
    pub event: usize,
    /// Since the recorder was made.
    pub start: Duration,
    /// Likewise.
    pub end: Duration,
}

/// One step, as it was.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// From 1.
    pub number: u32,
    /// Since the recorder was made.
    pub start: Duration,
    /// Wall time, with what no event accounts for.
    pub total: Duration,
    /// Rows computed.
    pub rows: usize,
    /// Rows whose logits were computed.
    pub logit_rows: usize,
    /// What it consisted of, in order of time.
    pub events: &'a [Event],
    /// Who worked when.
    pub turns: &'a [Turn],
}

//! What was measured of one model on one machine, as plain data.
//!
//! A [`Round`] is all that a report is made of. Times are kept step by step,
//! operation by operation, so that later rounds can be compared with it by
//! statistics; costs are sums, since they follow from shapes.

use crate::lost::Lost;
use crate::{Cost, Op, Part, Step};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Measurements of one model on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// When, with what, and how it was asked for.
    pub setup: Setup,
    /// Where it ran.
    pub machine: Machine,
    /// What ran.
    pub model: ModelInfo,
    /// The most the machine can do.
    pub roofs: Roofs,
    /// The repetitions.
    pub runs: Vec<Run>,
    /// The text of the first repetition.
    pub text: String,
}

/// When, with what, and how a round was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Beginning, in UTC (RFC 3339).
    pub date: String,
    /// Version of the program.
    pub version: String,
    /// Its commit, if known.
    pub commit: Option<String>,
    /// The model as it was named, for measuring it again.
    pub source: String,
    /// Whether `source` is a shape, so that the weights mean nothing.
    pub synthetic: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were to be generated.
    pub max_tokens: usize,
    /// Repetitions.
    pub repeat: usize,
    /// The format asked for.
    pub quantize: Option<String>,
    /// How keys and values were to be stored; else as usual.
    #[serde(default)]
    pub kv_type: Option<String>,
    /// Threads asked for; else as many as the process may use.
    pub threads: Option<usize>,
    /// Whether the model was warmed up after loading.
    pub warm_up: bool,
}

/// A machine, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Its architecture.
    pub arch: String,
    /// Its features that kernels use.
    pub features: Vec<String>,
    /// The instruction set in use.
    pub isa: String,
    /// The best that the CPU has.
    pub best_isa: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// CPUs that the process may run on.
    pub allowed_cpus: usize,
    /// Physical cores among them, if known.
    pub allowed_cores: Option<usize>,
    /// CPUs that the cgroup grants, if it is limited.
    pub quota: Option<f64>,
    /// Compute threads.
    pub threads: usize,
    /// The system's mode of transparent huge pages, if it has any.
    pub huge_pages: Option<String>,
    /// Bytes of memory.
    pub memory: u64,
}

/// A model, as it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// The architecture.
    pub arch: String,
    /// The file's format.
    pub format: String,
    /// Numbers in its weights.
    pub parameters: u64,
    /// Layers.
    pub layers: usize,
    /// Width of the stream.
    pub hidden: usize,
    /// Width of the feed-forward in the first layer.
    pub feed_forward: usize,
    /// Query heads of the first layer.
    pub heads: usize,
    /// Key and value heads of the first layer.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// How keys and values are stored.
    pub kv_type: String,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// Types of the weights of each operation.
    pub types: Vec<TypeCount>,
    /// What was converted on loading.
    pub quantised: Vec<Converted>,
    /// Formats chosen by measurement.
    pub choices: Vec<Choice>,
    /// Operations that are done in one pass.
    pub fused: Vec<String>,
}

/// An operation's matrices of one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeCount {
    /// The operation that multiplies with them.
    pub op: Op,
    /// The type.
    pub dtype: String,
    /// Matrices.
    pub matrices: usize,
    /// Weights in them.
    pub values: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Linear layers converted on loading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Converted {
    /// Type in the file.
    pub from: String,
    /// Type in memory; as before, where the width does not allow another.
    pub to: String,
    /// Layers.
    pub layers: usize,
}

/// A format that was chosen for a shape by measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Outputs of the layer.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Layers of this shape.
    pub layers: usize,
    /// Type in the file.
    pub stored: String,
    /// Type chosen.
    pub chosen: String,
    /// Microseconds of a product at one row in the type of the file.
    pub stored_us: f64,
    /// Microseconds in each type that was tried.
    pub tried_us: Vec<(String, f64)>,
}

/// The most the machine can do, measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Roofs {
    /// Bytes of the set that was read: what a step reads.
    pub working_set: u64,
    /// Bytes a second, for each number of threads; the last is that in use.
    pub read: Vec<(usize, f64)>,
    /// 8-bit integer operations a second, of all threads.
    pub int_ops: f64,
    /// Operations on floats in single precision a second, of all threads.
    pub flops: f64,
    /// Operations on bfloat16 a second, of all threads, if the model has any.
    #[serde(default)]
    pub bf16_ops: f64,
    /// Seconds it took to measure them.
    pub seconds: f64,
}

/// One repetition: loading, a prompt, and tokens after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Seconds of each phase of loading.
    pub load: Vec<(String, f64)>,
    /// Seconds from the request to the last token.
    pub wall: f64,
    /// Seconds to the first token.
    pub first_token: f64,
    /// The prompt; its steps are one here.
    pub prefill: Phase,
    /// The tokens after the first.
    pub decode: Phase,
    /// The most memory the process has had until then, in bytes.
    pub peak_bytes: Option<u64>,
    /// Bytes of memory in huge pages.
    pub huge_bytes: Option<u64>,
    /// Times that the cgroup's quota stopped the process meanwhile.
    pub throttled: Option<u64>,
    /// Megahertz of the CPUs right after the last token, and what they can have at most.
    #[serde(default)]
    pub megahertz: Option<[f64; 2]>,
}

/// Steps of one kind. All columns have an entry for each step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Rows of all steps.
    pub rows: u64,
    /// Wall time in nanoseconds.
    pub total: Vec<u64>,
    /// Operations, in order of first appearance.
    pub ops: Vec<OpColumn>,
    /// Layers, first to last.
    pub layers: Vec<LayerColumn>,
    /// What the machine gave to others meanwhile, if that is known.
    #[serde(default)]
    pub lost: Option<Lost>,
}

/// What one operation took in each step, in all layers together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpColumn {
    /// The operation.
    pub op: Op,
    /// Wall time in nanoseconds.
    pub time: Vec<u64>,
    /// Of it, waiting for other threads.
    pub waiting: Vec<u64>,
    /// What it had to do in all steps.
    pub cost: Cost,
}

/// What one layer took in each step, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerColumn {
    /// Attention.
    pub attention: Vec<u64>,
    /// Feed-forward.
    pub feed_forward: Vec<u64>,
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Roofs {
    /// The better of two measurements, since what disturbs one makes it lower.
    pub fn or(mut self, again: &Roofs) -> Roofs {
        for (threads, rate) in &mut self.read {
            let other = again.read.iter().find(|r| r.0 == *threads);
            *rate = other.map_or(*rate, |r| r.1.max(*rate));
        }
        self.int_ops = self.int_ops.max(again.int_ops);
        self.flops = self.flops.max(again.flops);
        self.bf16_ops = self.bf16_ops.max(again.bf16_ops);
        self.seconds += again.seconds;
        self
    }
}

impl Phase {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.total.len()
    }

    /// Adds a step.
    pub fn push(&mut self, step: &Step) {
        self.total.push(0);
        for op in &mut self.ops {
            op.time.push(0);
            op.waiting.push(0);
        }
        for layer in &mut self.layers {
            layer.attention.push(0);
            layer.feed_forward.push(0);
        }
        self.extend(step);
    }

    /// Counts a step as part of the last one.
    pub fn extend(&mut self, step: &Step) {
        if self.total.is_empty() {
            return self.push(step);
        }
        let last = self.total.len() - 1;
        self.rows += step.rows as u64;
        self.total[last] += ns(step.total);
        for e in step.events {
            let at = self.ops.iter().position(|o| o.op == e.op);
            let at = at.unwrap_or_else(|| {
                self.ops.push(OpColumn {
                    op: e.op,
                    time: vec![0; last + 1],
                    waiting: vec![0; last + 1],
                    cost: Cost::default(),
                });
                self.ops.len() - 1
            });
            let op = &mut self.ops[at];
            op.time[last] += ns(e.time);
            op.waiting[last] += ns(e.waiting);
            op.cost += e.cost;
            let Some(layer) = e.layer.map(usize::from) else {
                continue;
            };
            if self.layers.len() <= layer {
                let empty = LayerColumn {
                    attention: vec![0; last + 1],
                    feed_forward: vec![0; last + 1],
                };
                self.layers.resize(layer + 1, empty);
            }
            let layer = &mut self.layers[layer];
            match e.op.part() {
                Part::FeedForward => layer.feed_forward[last] += ns(e.time),
                _ => layer.attention[last] += ns(e.time),
            }
        }
    }
}

impl Run {
    /// Adds a step, to the prompt of so many tokens or to what follows it. A
    /// prompt's last chunk may be a single row, as a decode step's is.
    pub fn push(&mut self, step: &Step, prompt_tokens: usize) {
        match self.prefill.rows < prompt_tokens as u64 {
            true => self.prefill.extend(step),
            false => self.decode.push(step),
        }
    }
}

impl Round {
    /// Whether every column has as many entries as there are steps: false for
    /// files that were changed by hand.
    pub fn is_whole(&self) -> bool {
        let phase = |p: &Phase| {
            let n = p.steps();
            let ops = p.ops.iter();
            let ops = ops.map(|o| o.time.len() == n && o.waiting.len() == n);
            let layers = p.layers.iter();
            let layers = layers.map(|l| l.attention.len() == n && l.feed_forward.len() == n);
            ops.chain(layers).all(|ok| ok)
        };
        !self.runs.is_empty()
            && self
                .runs
                .iter()
                .all(|r| phase(&r.prefill) && phase(&r.decode))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Event;

    pub(crate) fn event(layer: Option<u16>, op: Op, us: u64, bytes: u64) -> Event {
        Event {
            step: 1,
            layer,
            op,
            start: Duration::ZERO,
            time: Duration::from_micros(us),
            waiting: Duration::from_nanos(us * 100),
            cost: Cost {
                bytes,
                int_ops: 2 * bytes,
                ..Cost::default()
            },
        }
    }

    pub(crate) fn step(events: &[Event], us: u64, rows: usize, logit_rows: usize) -> Step<'_> {
        Step {
            number: 1,
            start: Duration::ZERO,
            total: Duration::from_micros(us),
            rows,
            logit_rows,
            events,
            turns: &[],
        }
    }

    #[test]
    fn the_better_roof_counts() {
        let first = Roofs {
            working_set: 5,
            read: vec![(1, 10.0), (2, 15.0)],
            int_ops: 7.0,
            flops: 3.0,
            bf16_ops: 9.0,
            seconds: 0.5,
        };
        let again = Roofs {
            read: vec![(2, 20.0), (1, 9.0)],
            int_ops: 6.0,
            flops: 4.0,
            bf16_ops: 8.0,
            ..first.clone()
        };
        let best = first.clone().or(&again);
        assert_eq!(best.read, [(1, 10.0), (2, 20.0)]);
        assert_eq!((best.int_ops, best.flops, best.bf16_ops), (7.0, 4.0, 9.0));
        assert_eq!(best.seconds, 1.0);
    }

    #[test]
    fn steps_become_columns() {
        let mut run = Run::default();
        let prompt = [event(Some(0), Op::Qkv, 50, 7), event(None, Op::Head, 9, 1)];
        run.push(&step(&prompt, 70, 10, 0), 11);
        run.push(&step(&prompt, 80, 1, 1), 11);
        let first = [event(None, Op::Embed, 1, 1), event(Some(0), Op::Qkv, 5, 7)];
        let second = [
            event(Some(0), Op::Qkv, 6, 7),
            event(Some(1), Op::Qkv, 7, 7),
            event(Some(1), Op::Down, 8, 2),
        ];
        run.push(&step(&first, 10, 1, 1), 11);
        run.push(&step(&second, 30, 1, 1), 11);
        // The prompt's two steps are one.
        assert_eq!((run.prefill.rows, &run.prefill.total), (11, &vec![150_000]));
        assert_eq!(run.prefill.ops[0].time, [100_000]);
        assert_eq!(run.decode.total, [10_000, 30_000]);
        let ops: Vec<_> = run.decode.ops.iter().map(|o| (o.op, &o.time[..])).collect();
        let expected: [(Op, &[u64]); 3] = [
            (Op::Embed, &[1_000, 0]),
            (Op::Qkv, &[5_000, 13_000]),
            (Op::Down, &[0, 8_000]),
        ];
        assert_eq!(ops, expected);
        assert_eq!(run.decode.ops[1].waiting, [500, 1_300]);
        assert_eq!(run.decode.ops[1].cost.bytes, 21);
        let layers = &run.decode.layers;
        assert_eq!(layers[0].attention, [5_000, 6_000]);
        assert_eq!(layers[1].attention, [0, 7_000]);
        assert_eq!(layers[1].feed_forward, [0, 8_000]);
    }
}

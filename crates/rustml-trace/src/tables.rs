//! What follows from a round: the tables of a report.
//!
//! Where a figure must add up with others it is a mean over the *middle half*
//! of the steps, those that were neither fast nor slow by their total: means
//! add up as medians do not, and the odd disturbed step is not among them.
//! The first decode step of each repetition is shown apart.

mod advice;

pub(crate) use advice::full_name;
pub use advice::{findings, Finding, Of};

use crate::lost::Lost;
use crate::round::{Phase, Roofs, Round};
use crate::stats::{median, quantile, Spread};
use crate::{Cost, Op, Part};
use serde::{Deserialize, Serialize};

/// All tables of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tables {
    /// How fast it is.
    pub timing: Timing,
    /// Where the prompt's time goes; the prompt is one step.
    pub prefill: Breakdown,
    /// Where a decode step's time goes.
    pub decode: Breakdown,
    /// Layers of a decode step.
    pub layers: Vec<LayerRow>,
    /// What to look at, the most rewarding first.
    pub findings: Vec<Finding>,
}

/// How fast it is. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Loading, by phase: medians over the repetitions.
    pub load: Vec<(String, f64)>,
    /// From the request to the first token.
    pub first_token: Spread,
    /// Prompt tokens a second.
    pub prefill_tokens_per_second: Spread,
    /// A decode step that is not the first.
    pub decode: Spread,
    /// Tokens a second at the median.
    pub decode_tokens_per_second: f64,
    /// The first decode step: median over the repetitions.
    pub first_decode: f64,
    /// Decode steps measured, without the first ones.
    pub steps: usize,
    /// Share of the wall time that lies in steps: the rest is between them.
    pub in_steps: f64,
    /// The most memory the process had, in bytes.
    pub peak_bytes: Option<u64>,
}

/// Where a step's time goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Steps in the means.
    pub steps: usize,
    /// Rows of a step.
    pub rows: f64,
    /// Milliseconds of a step.
    pub ms: f64,
    /// What it would take at the roofs.
    pub roof_ms: f64,
    /// Milliseconds that the caller waited for other threads.
    pub waiting_ms: f64,
    /// Share of the time that the machine gave to others.
    #[serde(default)]
    pub lost: f64,
    /// The same of the steps in the means, at least: what was lost may lie in the others.
    #[serde(default)]
    pub lost_in_means: f64,
    /// Bytes of weights and cache.
    pub bytes: f64,
    /// Embedding, layers, norm, projection, sampling, other.
    pub parts: Vec<PartRow>,
    /// Operations in the order of a step.
    pub ops: Vec<OpRow>,
}

/// A part of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartRow {
    /// Its name.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
    /// Share of the step.
    pub share: f64,
}

/// An operation, in all layers together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpRow {
    /// The operation.
    pub op: Op,
    /// Milliseconds.
    pub ms: f64,
    /// Share of the step.
    pub share: f64,
    /// Milliseconds that the caller waited for other threads.
    pub waiting_ms: f64,
    /// Bytes of weights and cache.
    pub bytes: f64,
    /// 10^9 of them a second.
    pub gb_per_second: f64,
    /// Operations on floats and integers.
    pub operations: f64,
    /// 10^9 of them a second.
    pub gop_per_second: f64,
    /// The roof that binds it, unless it has nothing to read or multiply.
    pub roof: Option<RoofRow>,
}

/// How far an operation is from the roof that binds it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoofRow {
    /// Which.
    pub which: Roof,
    /// Milliseconds it would take there.
    pub ms: f64,
    /// Share of the roof that is reached.
    pub share: f64,
}

/// What can bind an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roof {
    /// Reading memory.
    Memory,
    /// Dot products of integers.
    Integers,
    /// Multiplying and adding floats in single precision.
    Floats,
    /// Multiplying and adding bfloat16.
    Bf16,
}

impl Roof {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Roof::Memory => "memory",
            Roof::Integers => "integers",
            Roof::Floats => "floats",
            Roof::Bf16 => "bf16",
        }
    }
}

/// A layer, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerRow {
    /// Attention.
    pub attention: f64,
    /// Feed-forward.
    pub feed_forward: f64,
    /// Both.
    pub total: f64,
    /// Share of the step.
    pub share: f64,
    /// Both, over all steps.
    pub spread: Spread,
}

impl Op {
    /// The row that counts it: parts that say little alone share one.
    pub fn row(self) -> Op {
        match self {
            Op::Query | Op::Key | Op::Value | Op::AttnGate => Op::Qkv,
            Op::Scores | Op::Softmax | Op::Values => Op::Attend,
            other => other,
        }
    }
}

impl Roofs {
    /// What binds an operation, and the seconds it takes at best.
    /// Operations are those on floats, on bfloat16 and on integers.
    pub fn bound(&self, bytes: f64, operations: [f64; 3]) -> Option<(Roof, f64)> {
        let read = self.read.last().map_or(0.0, |r| r.1);
        let [flops, bf16_ops, int_ops] = operations;
        let at = |amount: f64, peak: f64| match amount > 0.0 && peak > 0.0 {
            true => amount / peak,
            false => 0.0,
        };
        let kinds = [
            (Roof::Floats, at(flops, self.flops)),
            (Roof::Bf16, at(bf16_ops, self.bf16_ops)),
            (Roof::Integers, at(int_ops, self.int_ops)),
        ];
        let computing: f64 = kinds.iter().map(|k| k.1).sum();
        let most = kinds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let memory = at(bytes, read);
        let (which, seconds) = match most {
            Some((kind, _)) if computing > memory => (kind, computing),
            _ => (Roof::Memory, memory),
        };
        (seconds > 0.0).then_some((which, seconds))
    }
}

/// A step among all repetitions.
type At = (usize, usize);

/// The steps of all repetitions from the `from`th on whose totals are in the
/// middle half.
fn middle_half(phases: &[&Phase], from: usize) -> Vec<At> {
    let mut all: Vec<(u64, At)> = Vec::new();
    for (run, phase) in phases.iter().enumerate() {
        let steps = phase.total.iter().enumerate().skip(from);
        all.extend(steps.map(|(step, &total)| (total, (run, step))));
    }
    all.sort_unstable();
    let cut = all.len() / 4;
    all[cut..all.len() - cut].iter().map(|a| a.1).collect()
}

/// Mean over the steps of a column, in milliseconds.
fn mean_ms(steps: &[At], value: impl Fn(At) -> u64) -> f64 {
    let sum: f64 = steps.iter().map(|&at| value(at) as f64).sum();
    sum / steps.len().max(1) as f64 / 1e6
}

pub(crate) fn share(part: f64, whole: f64) -> f64 {
    match whole > 0.0 {
        true => part / whole,
        false => 0.0,
    }
}

impl Breakdown {
    /// Of the phases of all repetitions, without their first `skip` steps.
    fn of(phases: &[&Phase], skip: usize, roofs: &Roofs) -> Breakdown {
        let typical = middle_half(phases, skip);
        let total_ms = mean_ms(&typical, |(run, step)| phases[run].total[step]);
        let steps: usize = phases.iter().map(|p| p.steps()).sum();
        let per_step = |sum: u64| sum as f64 / steps.max(1) as f64;
        let mut found: Vec<Op> = Vec::new();
        for column in phases.iter().flat_map(|p| &p.ops) {
            if !found.contains(&column.op.row()) {
                found.push(column.op.row());
            }
        }
        // The order of the enum is that of a step.
        found.sort_unstable();
        let ops: Vec<OpRow> = found
            .into_iter()
            .map(|op| {
                let columns = |run: usize| phases[run].ops.iter().filter(|c| c.op.row() == op);
                let ms = mean_ms(&typical, |(run, step)| {
                    columns(run).map(|c| c.time[step]).sum()
                });
                let waiting_ms = mean_ms(&typical, |(run, step)| {
                    columns(run).map(|c| c.waiting[step]).sum()
                });
                let mut cost = Cost::default();
                (0..phases.len()).for_each(|run| columns(run).for_each(|c| cost += c.cost));
                let [bytes, operations] = [cost.bytes, cost.operations()].map(per_step);
                let kinds = [cost.flops, cost.bf16_ops, cost.int_ops].map(per_step);
                let roof = roofs.bound(bytes, kinds);
                OpRow {
                    op,
                    ms,
                    share: share(ms, total_ms),
                    waiting_ms,
                    bytes,
                    gb_per_second: share(bytes / 1e6, ms),
                    operations,
                    gop_per_second: share(operations / 1e6, ms),
                    roof: roof.map(|(which, seconds)| RoofRow {
                        which,
                        ms: seconds * 1e3,
                        share: share(seconds * 1e3, ms),
                    }),
                }
            })
            .collect();
        let rows: u64 = phases.iter().map(|p| p.rows).sum();
        let lost = lost(phases).unwrap_or_default();
        let lost_in_means = lost.within(total_ms * steps as f64 / 1e3);
        Breakdown {
            steps: typical.len(),
            rows: per_step(rows),
            ms: total_ms,
            roof_ms: ops.iter().filter_map(|o| o.roof).map(|r| r.ms).sum(),
            waiting_ms: ops.iter().map(|o| o.waiting_ms).sum(),
            lost: lost.share(),
            lost_in_means,
            bytes: ops.iter().map(|o| o.bytes).sum(),
            parts: parts(&ops, total_ms),
            ops,
        }
    }

    /// The time of one part.
    pub fn part_ms(&self, part: Part) -> f64 {
        let mine = self.ops.iter().filter(|o| o.op.part() == part);
        mine.map(|o| o.ms).sum()
    }

    /// What no operation accounts for, as a share of the step.
    pub fn unaccounted(&self) -> f64 {
        let known: f64 = self.ops.iter().map(|o| o.ms).sum();
        share(self.ms - known, self.ms)
    }
}

/// What was lost in the phases of all repetitions.
fn lost(phases: &[&Phase]) -> Option<Lost> {
    let known = phases.iter().filter_map(|p| p.lost.clone());
    known.reduce(|a, b| a.and(&b))
}

fn parts(ops: &[OpRow], total_ms: f64) -> Vec<PartRow> {
    let sum = |parts: &[Part]| -> f64 {
        let mine = ops.iter().filter(|o| parts.contains(&o.op.part()));
        // The sum of nothing would be -0.
        mine.fold(0.0, |sum, o| sum + o.ms)
    };
    let known: f64 = ops.iter().map(|o| o.ms).sum();
    let rows = [
        ("embedding", sum(&[Part::Embedding])),
        ("layers", sum(&[Part::Attention, Part::FeedForward])),
        ("norm", sum(&[Part::Norm])),
        ("projection", sum(&[Part::Projection])),
        ("sampling", sum(&[Part::Sampling])),
        ("other", total_ms - known),
    ];
    let row = |(name, ms): (&str, f64)| PartRow {
        name: name.to_owned(),
        ms,
        share: share(ms, total_ms),
    };
    rows.map(row).into()
}

impl Tables {
    /// All that follows from a round whose columns are whole.
    pub fn of(round: &Round) -> Tables {
        let prefill: Vec<&Phase> = round.runs.iter().map(|r| &r.prefill).collect();
        let decode: Vec<&Phase> = round.runs.iter().map(|r| &r.decode).collect();
        let mut tables = Tables {
            timing: timing(round),
            prefill: Breakdown::of(&prefill, 0, &round.roofs),
            decode: Breakdown::of(&decode, 1, &round.roofs),
            layers: layers(&decode),
            findings: Vec::new(),
        };
        tables.findings = findings(round, &tables);
        tables
    }
}

fn timing(round: &Round) -> Timing {
    let runs = &round.runs;
    let mut load: Vec<(String, f64)> = Vec::new();
    for (name, _) in runs.iter().flat_map(|r| &r.load) {
        if load.iter().any(|(n, _)| n == name) {
            continue;
        }
        let all = runs.iter().flat_map(|r| &r.load);
        let seconds = all.filter(|(n, _)| n == name).map(|(_, s)| s * 1e3);
        load.push((name.clone(), median(seconds)));
    }
    let steady = || runs.iter().flat_map(|r| r.decode.total.iter().skip(1));
    let decode = Spread::of(steady().map(|&t| t as f64 / 1e6));
    let first = runs.iter().filter_map(|r| r.decode.total.first());
    let prefill = runs.iter().filter(|r| r.first_token > 0.0);
    let steps = |r: &crate::round::Run| -> f64 {
        let all = r.prefill.total.iter().chain(&r.decode.total);
        all.map(|&t| t as f64 / 1e9).sum()
    };
    Timing {
        load,
        first_token: Spread::of(runs.iter().map(|r| r.first_token * 1e3)),
        prefill_tokens_per_second: Spread::of(
            prefill.map(|r| r.prefill.rows as f64 / r.first_token),
        ),
        decode,
        decode_tokens_per_second: share(1e3, decode.median),
        first_decode: median(first.map(|&t| t as f64 / 1e6)),
        steps: steady().count(),
        in_steps: share(
            runs.iter().map(steps).sum(),
            runs.iter().map(|r| r.wall).sum(),
        ),
        peak_bytes: runs.iter().filter_map(|r| r.peak_bytes).max(),
    }
}

fn layers(phases: &[&Phase]) -> Vec<LayerRow> {
    let typical = middle_half(phases, 1);
    let count = phases.iter().map(|p| p.layers.len()).max().unwrap_or(0);
    let total_ms = mean_ms(&typical, |(run, step)| phases[run].total[step]);
    (0..count)
        .map(|i| {
            let of = |(run, step): At| match phases[run].layers.get(i) {
                Some(l) => (l.attention[step], l.feed_forward[step]),
                None => (0, 0),
            };
            let attention = mean_ms(&typical, |at| of(at).0);
            let feed_forward = mean_ms(&typical, |at| of(at).1);
            let all = phases.iter().enumerate();
            let all = all.flat_map(|(run, p)| (1..p.steps()).map(move |step| (run, step)));
            let both = all.map(of).map(|(a, f)| (a + f) as f64 / 1e6);
            LayerRow {
                attention,
                feed_forward,
                total: attention + feed_forward,
                share: share(attention + feed_forward, total_ms),
                spread: Spread::of(both),
            }
        })
        .collect()
}

/// Of the layers' totals: how much slower than the median the slowest is.
pub(crate) fn slowest_layer(layers: &[LayerRow]) -> Option<(usize, f64)> {
    let mut totals: Vec<f64> = layers.iter().map(|l| l.total).collect();
    let slowest = (0..totals.len()).max_by(|&a, &b| totals[a].total_cmp(&totals[b]))?;
    let most = totals[slowest];
    totals.sort_by(f64::total_cmp);
    let middle = quantile(&totals, 0.5);
    (middle > 0.0).then(|| (slowest, most / middle - 1.0))
}

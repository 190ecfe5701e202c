//! What to look at, ranked by what it could bring.
//!
//! An operation that takes the share `s` of a step and reaches the share `r` of
//! its roof could shorten the step by `s (1 - r)` and no more (Amdahl): that
//! ranks it. Everything said is decided by what was measured.

use super::{slowest_layer, Breakdown, OpRow, Roof, Tables};
use crate::round::{Machine, Round};
use crate::{Op, Part};
use serde::{Deserialize, Serialize};

/// Something that costs time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Of what the shares are: a decode step, the prompt, or neither.
    pub of: Of,
    /// What it is.
    pub what: String,
    /// Its share of the time.
    pub share: Option<f64>,
    /// Share of the roof that it reaches.
    pub roof_share: Option<f64>,
    /// The most that could be gained, as a share of the time.
    pub gain: Option<f64>,
    /// What would help here.
    pub advice: String,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Of {
    Decode,
    Prompt,
    Machine,
}

impl Of {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Of::Decode => "decode",
            Of::Prompt => "prompt",
            Of::Machine => "machine",
        }
    }
}

/// Gains below this share of the time are not worth a line.
const WORTH: f64 = 0.01;
/// From here on an operation counts as being at its roof.
const AT_ROOF: f64 = 0.8;
/// Below this no roof can be what holds an operation.
const NEAR_NOTHING: f64 = 0.2;
/// More waiting than this share of an operation is remarked.
const MUCH_WAITING: f64 = 0.15;
/// Bits a weight of the smallest format that is offered when loading (Q4_0).
const SMALLEST_BITS: f64 = 4.5;
/// Bits a value of the smallest type of the cache (q8_0).
const SMALLEST_KV_BITS: f64 = 8.5;

/// All findings of a round: what concerns decoding, prompts, the machine; each
/// by what it could bring.
pub fn findings(round: &Round, tables: &Tables) -> Vec<Finding> {
    let mut all = Vec::new();
    for (of, breakdown) in [(Of::Decode, &tables.decode), (Of::Prompt, &tables.prefill)] {
        let mut mine: Vec<Finding> = breakdown
            .ops
            .iter()
            .filter_map(|op| operation(round, of, op, breakdown.lost_in_means))
            .collect();
        mine.extend(lost(round, of, breakdown));
        mine.extend(unaccounted(of, breakdown));
        if of == Of::Decode {
            mine.extend(weights(round, breakdown));
            mine.extend(cache(round, breakdown));
            mine.extend(steadiness(round, tables));
        }
        mine.retain(|f| f.gain.is_none_or(|g| g >= WORTH));
        mine.sort_by(|a, b| {
            let key = |f: &Finding| f.gain.unwrap_or(0.0);
            key(b).total_cmp(&key(a))
        });
        all.extend(mine);
    }
    all.extend(machine(round));
    all
}

fn percent(share: f64) -> String {
    match share.abs() < 0.0995 {
        true => format!("{:.1} %", share * 100.0),
        false => format!("{:.0} %", share * 100.0),
    }
}

/// An operation with its part, where its name is not enough.
pub(crate) fn full_name(op: Op) -> String {
    match op.part() {
        part @ (Part::Attention | Part::FeedForward) => {
            format!("{}: {}", part.name(), op.name())
        }
        _ => op.name().to_owned(),
    }
}

/// `lost` is the share of the time that the machine gave to others, which no kernel can gain.
fn operation(round: &Round, of: Of, op: &OpRow, lost: f64) -> Option<Finding> {
    let reached = op.roof.map(|r| r.share.min(1.0));
    let gain = op.share * (1.0 - lost - reached.unwrap_or(0.0));
    (gain >= WORTH).then(|| Finding {
        of,
        what: full_name(op.op),
        share: Some(op.share),
        roof_share: op.roof.map(|r| r.share),
        gain: Some(gain),
        advice: advice(round, of, op),
    })
}

fn advice(round: &Round, of: Of, op: &OpRow) -> String {
    let m = &round.machine;
    let mut all = Vec::new();
    let waits = op.waiting_ms / op.ms.max(1e-9);
    if waits > MUCH_WAITING {
        all.push(format!(
            "{} of it is waiting for other threads: another process may hold a core, or the chunks \
             are too coarse for this width",
            percent(waits)
        ));
    }
    match op.roof {
        None if of == Of::Decode => all.push(
            "it reads no weights and multiplies nothing to speak of; several sequences in one \
             step share part of it"
                .into(),
        ),
        None => all.push("it reads no weights; nothing but a faster kernel helps".into()),
        Some(r) if r.share >= AT_ROOF && r.which == Roof::Memory => {
            all.push("it is at the roof of memory: only fewer bytes help".into())
        }
        Some(r) if r.share >= AT_ROOF => {
            all.push("it is at the roof of the instructions: only fewer operations help".into())
        }
        Some(r) if !op.op.is_product() && r.share < NEAR_NOTHING => all.push(
            "neither memory nor arithmetic binds it, but short loops that depend on each other"
                .into(),
        ),
        Some(r) if r.which == Roof::Memory => {
            all.push(format!(
                "it reads {:.1} GB/s where {:.1} are possible",
                op.gb_per_second,
                round.roofs.read.last().map_or(0.0, |r| r.1) / 1e9
            ));
            all.extend(more_threads(m));
        }
        Some(r) => {
            let types = types_of(round, op.op);
            all.push(format!(
                "the kernel{} reaches {} of the peak of {}",
                types.map_or(String::new(), |t| format!(" for {t}")),
                percent(r.share),
                r.which.name()
            ));
            all.extend(more_threads(m));
        }
    }
    all.join("; ")
}

fn types_of(round: &Round, op: Op) -> Option<String> {
    let mine = round.model.types.iter().filter(|t| t.op.row() == op);
    let mut names: Vec<&str> = mine.map(|t| t.dtype.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| names.join(" and "))
}

fn more_threads(m: &Machine) -> Option<String> {
    let cores = m.allowed_cores.unwrap_or(m.allowed_cpus);
    (m.threads < cores).then(|| format!("--threads {cores} would use all cores"))
}

/// What a smaller format would save.
fn weights(round: &Round, decode: &Breakdown) -> Option<Finding> {
    let types = &round.model.types;
    let bytes: u64 = types.iter().map(|t| t.bytes).sum();
    let values: u64 = types.iter().map(|t| t.values).sum();
    let products = || decode.ops.iter().filter(|o| o.op.is_product());
    let bound = products().filter(|o| o.roof.is_some_and(|r| r.which == Roof::Memory));
    // What is not at the roof gains less from fewer bytes.
    let reading: f64 = bound.filter_map(|o| o.roof).map(|r| r.ms).sum();
    let bits = 8.0 * bytes as f64 / values.max(1) as f64;
    if values == 0 || bits < SMALLEST_BITS + 0.6 || decode.ms <= 0.0 {
        return None;
    }
    let floats = types
        .iter()
        .any(|t| t.op != Op::Head && 8 * t.bytes >= 15 * t.values);
    let advice = match (floats, round.setup.synthetic) {
        (true, _) => "--quantize q8_0 or q4_0 makes them smaller; q4_0 is the less exact",
        (_, true) => "--quantize q4_0 makes them smaller, as a file in that format would be",
        _ => "a file of the model in Q4_0 or Q4_K would be read faster, and be less exact",
    };
    Some(Finding {
        of: Of::Decode,
        what: format!("weights of {bits:.1} bits"),
        share: Some(products().map(|o| o.share).sum()),
        roof_share: None,
        gain: Some(reading / decode.ms * (1.0 - SMALLEST_BITS / bits)),
        advice: advice.into(),
    })
}

/// What a smaller cache would save.
fn cache(round: &Round, decode: &Breakdown) -> Option<Finding> {
    let bits = match round.model.kv_type.as_str() {
        "F32" => 32.0,
        "F16" => 16.0,
        _ => return None,
    };
    let attend = decode.ops.iter().find(|o| o.op == Op::Attend)?;
    let roof = attend.roof.filter(|r| r.which == Roof::Memory)?;
    (decode.ms > 0.0).then(|| Finding {
        of: Of::Decode,
        what: format!("keys and values of {bits:.0} bits"),
        share: Some(attend.share),
        roof_share: None,
        gain: Some(roof.ms / decode.ms * (1.0 - SMALLEST_KV_BITS / bits)),
        advice: "--kv-type q8_0 makes them smaller, and is the less exact".into(),
    })
}

/// What the machine gave to others.
fn lost(round: &Round, of: Of, breakdown: &Breakdown) -> Option<Finding> {
    let phases = round.runs.iter().map(|r| match of {
        Of::Prompt => &r.prefill,
        _ => &r.decode,
    });
    let lost = phases.filter_map(|p| p.lost.clone());
    let lost = lost.reduce(|a, b| a.and(&b))?;
    let mut advice = vec![format!(
        "the threads ran {} of the time, and one of them was ready to run and did not for {}",
        percent(lost.ran()),
        percent((breakdown.lost - lost.stolen).max(0.0))
    )];
    if lost.stolen >= WORTH {
        advice.push(format!(
            "the host took {} of the CPUs",
            percent(lost.stolen)
        ));
    }
    let m = &round.machine;
    if m.threads > m.allowed_cpus {
        let (threads, cpus) = (m.threads, m.allowed_cpus);
        advice.push(format!(
            "{threads} threads on {cpus} CPUs wait for each other, too"
        ));
    }
    if let Some(times) = throttled(round) {
        advice.push(format!("the cgroup's quota stopped them {times} times"));
    }
    advice.push("end what else runs on these CPUs, or look on a quieter machine".into());
    Some(Finding {
        of,
        what: "time that the machine gave to others".into(),
        share: Some(breakdown.lost),
        roof_share: None,
        gain: Some(breakdown.lost),
        advice: advice.join("; "),
    })
}

fn unaccounted(of: Of, breakdown: &Breakdown) -> Option<Finding> {
    let share = breakdown.unaccounted();
    (share > 0.03).then(|| Finding {
        of,
        what: "time that no operation accounts for".into(),
        share: Some(share),
        roof_share: None,
        gain: Some(share),
        advice: "in a step this short the clock itself and what lies between operations count"
            .into(),
    })
}

/// The first step, the layers and the steps beside each other.
fn steadiness(round: &Round, tables: &Tables) -> Vec<Finding> {
    let t = &tables.timing;
    let mut all = Vec::new();
    let finding = |what: String, advice: String| Finding {
        of: Of::Decode,
        what,
        share: None,
        roof_share: None,
        gain: None,
        advice,
    };
    if t.steps == 0 || t.decode.median <= 0.0 {
        return all;
    }
    let cold = t.first_decode / t.decode.median - 1.0;
    if cold > 0.2 {
        let advice = match round.setup.warm_up {
            true => {
                "it follows the prompt, whose activations have displaced the weights in the caches"
            }
            false => "loading did not warm up (--no-warmup)",
        };
        all.push(finding(
            format!("the first step takes {} longer", percent(cold)),
            advice.into(),
        ));
    }
    let jitter = t.decode.p95 / t.decode.median - 1.0;
    if jitter > 0.25 {
        let threads = round.machine.threads;
        let fewer = match threads {
            0 | 1 => String::new(),
            n => format!(", or --threads {}", n - 1),
        };
        all.push(finding(
            format!(
                "one step in twenty takes {} longer or more",
                percent(jitter)
            ),
            format!("something else runs on these cores; a quieter machine{fewer} is steadier"),
        ));
    }
    if let Some((layer, more)) = slowest_layer(&tables.layers).filter(|s| s.1 > 0.2) {
        all.push(finding(
            format!(
                "layer {layer} takes {} longer than the middle one",
                percent(more)
            ),
            match layer {
                0 => "the other threads sleep between steps, and wake up there",
                _ => "see the table of layers: other types, a wider window, or weights that lie badly",
            }
            .into(),
        ));
    }
    all
}

/// How often the cgroup's quota stopped the process, if it did.
fn throttled(round: &Round) -> Option<u64> {
    let times: u64 = round.runs.iter().filter_map(|r| r.throttled).sum();
    (times > 0).then_some(times)
}

/// Less than this share of what CPUs can have at most is slow. With all cores at work few have
/// more than four fifths of what one has alone.
const FAST: f64 = 0.7;

fn machine(round: &Round) -> Vec<Finding> {
    let m = &round.machine;
    let mut all = Vec::new();
    let mut add = |what: String, advice: String| {
        all.push(Finding {
            of: Of::Machine,
            what,
            share: None,
            roof_share: None,
            gain: None,
            advice,
        })
    };
    if let Some(times) = throttled(round) {
        add(
            format!("the cgroup's quota stopped the process {times} times"),
            "fewer threads (--threads) than the quota has CPUs, or a larger quota".into(),
        );
    }
    let slowest = round.runs.iter().filter_map(|r| r.megahertz);
    let slowest = slowest.min_by(|a, b| (a[0] / a[1]).total_cmp(&(b[0] / b[1])));
    if let Some([now, most]) = slowest.filter(|[now, most]| now / most < FAST) {
        add(
            format!("the CPUs ran at {now:.0} of {most:.0} MHz"),
            "heat, a limit of power or a governor that saves it (scaling_governor of cpufreq) \
             slows all kernels alike"
                .into(),
        );
    }
    if let Some(quota) = m.quota.filter(|&q| q < m.threads as f64) {
        add(
            format!("{} threads share {quota} CPUs of quota", m.threads),
            format!(
                "--threads {:.0}, as many as the quota has whole CPUs",
                quota.floor().max(1.0)
            ),
        );
    }
    if let Some(cores) = m.allowed_cores.filter(|&cores| m.threads > cores) {
        add(
            "two threads share a core".into(),
            format!("--threads {cores}: siblings share the units that multiply"),
        );
    }
    if m.threads > m.allowed_cpus {
        add(
            format!("{} threads on {} CPUs", m.threads, m.allowed_cpus),
            format!("--threads {}, no more than CPUs", m.allowed_cpus),
        );
    }
    if m.isa != m.best_isa {
        add(
            format!("kernels for {} on a CPU that has {}", m.isa, m.best_isa),
            "unset RUSTML_ISA".into(),
        );
    }
    let huge = round.runs.iter().filter_map(|r| r.huge_bytes).max();
    if huge.is_some_and(|huge| 2 * huge < round.model.weight_bytes) {
        let mode = m.huge_pages.as_deref().unwrap_or("unknown");
        let advice = match mode {
            "never" => {
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, if the \
                        machine is yours"
            }
            off if off.contains("RUSTML_HUGE_PAGES") => "unset RUSTML_HUGE_PAGES",
            _ => {
                "echo 1 > /proc/sys/vm/compact_memory before, if the machine is yours: none \
                  were free"
            }
        };
        add(
            format!("most weights lie in small pages (transparent huge pages: {mode})"),
            advice.into(),
        );
    }
    all
}

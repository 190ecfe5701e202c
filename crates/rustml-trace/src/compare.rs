//! Two rounds beside each other: what changed, and what only seems so.

use crate::round::{Phase, Round};
use crate::stats::{Change, Estimate};
use crate::tables::{full_name, share, Of};
use crate::{Op, Part};
use serde::{Deserialize, Serialize};

/// How two rounds differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// In what the rounds were not alike, though they should be.
    pub unlike: Vec<String>,
    /// What else was not the same: it may be what made the difference.
    #[serde(default)]
    pub settings: Vec<Setting>,
    /// The rows: totals first.
    pub rows: Vec<Row>,
}

/// What a round was measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// What it is.
    pub what: String,
    /// In the first round.
    pub before: String,
    /// In the second.
    pub after: String,
}

/// One time in both rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is of.
    pub of: Of,
    /// The operation or part.
    pub name: String,
    /// Milliseconds in the first round.
    pub before: f64,
    /// Milliseconds in the second.
    pub after: f64,
    /// The larger one of its shares of a step in the two rounds.
    pub share: f64,
    /// The change; none where it cannot be said. What takes less than 1 % of a
    /// step is never called real: where memory happens to lie decides on it.
    pub change: Option<Change>,
}

/// Rows that take a smaller share of a step are no reason to fail.
const MATTERS: f64 = 0.02;
/// Of smaller ones, it is not said whether they changed.
pub(crate) const JUDGED: f64 = 0.01;

impl Comparison {
    /// From one round to another whose columns are whole.
    pub fn of(before: &Round, after: &Round) -> Comparison {
        let mut rows: Vec<Unjudged> = Vec::new();
        for (of, phase, skip) in [
            (
                Of::Decode,
                (|r| &r.decode) as fn(&crate::round::Run) -> &Phase,
                1,
            ),
            (Of::Prompt, |r| &r.prefill, 0),
        ] {
            let phases = |round: &'_ Round| -> Vec<Phase> {
                round.runs.iter().map(|r| phase(r).clone()).collect()
            };
            rows.extend(compare(of, &phases(before), &phases(after), skip));
        }
        let judged = rows.iter().filter(|r| r.row.share >= JUDGED).count();
        let rows = rows.into_iter().map(|r| r.judge(judged)).collect();
        Comparison {
            unlike: unlike(before, after),
            settings: settings(before, after),
            rows,
        }
    }

    /// Rows that became slower by more than `limit`, without doubt, and that
    /// take enough of a step to matter.
    pub fn slower(&self, limit: f64) -> Vec<&Row> {
        let rows = self.rows.iter().filter(|r| r.share >= MATTERS);
        rows.filter(|r| {
            let change = r.change.filter(|c| c.real);
            change.is_some_and(|c| c.change > limit)
        })
        .collect()
    }
}

/// In what two rounds differ, though they must not for their times to be
/// comparable.
pub fn unlike(a: &Round, b: &Round) -> Vec<String> {
    let mut all = Vec::new();
    let mut same = |what: &str, a: String, b: String| {
        if a != b {
            all.push(format!("{what}: {a} and {b}"));
        }
    };
    same("model", a.model.name.clone(), b.model.name.clone());
    let shape = |r: &Round| {
        let m = &r.model;
        format!(
            "{} with {} parameters in {} layers",
            m.arch, m.parameters, m.layers
        )
    };
    same("architecture", shape(a), shape(b));
    same("CPU", a.machine.cpu.clone(), b.machine.cpu.clone());
    let cpus = |r: &Round| r.machine.cpus.to_string();
    same("CPUs", cpus(a), cpus(b));
    let prompt = |r: &Round| r.setup.prompt_tokens.to_string();
    same("prompt tokens", prompt(a), prompt(b));
    let tokens = |r: &Round| r.setup.max_tokens.to_string();
    same("tokens to generate", tokens(a), tokens(b));
    all
}

/// The share of the time that the machine gave to others, in whole percent.
fn given(round: &Round) -> String {
    let phases = round.runs.iter().flat_map(|r| [&r.prefill, &r.decode]);
    let lost = phases.filter_map(|p| p.lost.clone());
    let lost = lost.reduce(|a, b| a.and(&b));
    lost.map_or("-".into(), |l| format!("{:.0} %", 100.0 * l.share()))
}

/// What the CPUs had right after the last tokens, on average.
fn frequency(round: &Round) -> String {
    let all: Vec<f64> = round
        .runs
        .iter()
        .flat_map(|r| r.megahertz)
        .map(|m| m[0])
        .collect();
    match all.is_empty() {
        true => "-".into(),
        false => {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            format!("{:.1} GHz", mean / 1e3)
        }
    }
}

/// What two rounds were measured with, where it is not the same.
fn settings(a: &Round, b: &Round) -> Vec<Setting> {
    let asked = |what: &Option<String>| what.clone().unwrap_or("-".into());
    let all = |r: &Round| {
        let commit = r.setup.commit.as_ref();
        let commit = commit.map_or(String::new(), |c| format!(", commit {c}"));
        [
            ("date", r.setup.date.clone()),
            ("program", format!("{}{commit}", r.setup.version)),
            ("threads", r.machine.threads.to_string()),
            ("instruction set", r.machine.isa.clone()),
            ("quantised to", asked(&r.setup.quantize)),
            ("bytes of weights", r.model.weight_bytes.to_string()),
            ("keys and values", r.model.kv_type.clone()),
            ("warm-up", if r.setup.warm_up { "yes" } else { "no" }.into()),
            ("huge pages", asked(&r.machine.huge_pages)),
            ("time given to others", given(r)),
            ("frequency", frequency(r)),
        ]
    };
    let both = all(a).into_iter().zip(all(b));
    let both = both.map(|((what, before), (_, after))| Setting {
        what: what.to_owned(),
        before,
        after,
    });
    both.filter(|s| s.before != s.after).collect()
}

/// A row before it is known how many there are.
struct Unjudged {
    row: Row,
    times: [Estimate; 2],
}

impl Unjudged {
    fn judge(mut self, among: usize) -> Row {
        let [before, after] = self.times;
        self.row.change = Change::between(before, after, among).map(|c| Change {
            real: c.real && self.row.share >= JUDGED,
            ..c
        });
        self.row
    }
}

/// A time of each step, from one phase.
type Column<'a> = Box<dyn Fn(&Phase) -> Vec<u64> + 'a>;

fn compare(of: Of, before: &[Phase], after: &[Phase], skip: usize) -> Vec<Unjudged> {
    let mut ops: Vec<Op> = Vec::new();
    for column in before.iter().chain(after).flat_map(|p| &p.ops) {
        if !ops.contains(&column.op.row()) {
            ops.push(column.op.row());
        }
    }
    ops.sort_unstable();
    let sum = |phase: &Phase, wanted: &dyn Fn(Op) -> bool| -> Vec<u64> {
        let mut out = vec![0; phase.steps()];
        for column in phase.ops.iter().filter(|c| wanted(c.op)) {
            out.iter_mut().zip(&column.time).for_each(|(o, t)| *o += t);
        }
        out
    };
    let sum = &sum;
    let mut columns: Vec<(String, Column)> =
        vec![("total".into(), Box::new(|p: &Phase| p.total.clone()))];
    for part in [Part::Attention, Part::FeedForward] {
        columns.push((
            format!("{}, all", part.name()),
            Box::new(move |p| sum(p, &|op| op.part() == part)),
        ));
    }
    for op in ops {
        let name = full_name(op);
        columns.push((name, Box::new(move |p| sum(p, &|o| o.row() == op))));
    }
    columns.push((
        "other".into(),
        Box::new(move |p| {
            let known = sum(p, &|_| true);
            p.total
                .iter()
                .zip(known)
                .map(|(t, k)| t.saturating_sub(k))
                .collect()
        }),
    ));
    let estimate = |phases: &[Phase], column: &Column| {
        let runs: Vec<Vec<f64>> = phases
            .iter()
            .map(|p| {
                column(p)
                    .iter()
                    .skip(skip)
                    .map(|&t| t as f64 / 1e6)
                    .collect()
            })
            .collect();
        Estimate::of(&runs)
    };
    let total = |phases| estimate(phases, &columns[0].1).map_or(0.0, |e| e.value);
    let totals = [total(before), total(after)];
    columns
        .iter()
        .filter_map(|(name, column)| {
            let (a, b) = (estimate(before, column)?, estimate(after, column)?);
            let shares = [share(a.value, totals[0]), share(b.value, totals[1])];
            let row = Row {
                of,
                name: name.clone(),
                before: a.value,
                after: b.value,
                share: shares[0].max(shares[1]),
                change: None,
            };
            let times = [a, b];
            (a.value > 0.0 || b.value > 0.0).then_some(Unjudged { row, times })
        })
        .collect()
}

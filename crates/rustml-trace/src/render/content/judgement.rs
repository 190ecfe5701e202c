//! How good that is: roofs, bottlenecks, and another round beside it.

use super::{bytes, ms, number, percent, some, table, Block, Chart, Section, Table};
use crate::compare::{Comparison, JUDGED};
use crate::round::Round;
use crate::tables::{full_name, Finding, Tables};

pub fn roofline(round: &Round, tables: &Tables) -> Section {
    let r = &round.roofs;
    let mut rows = Vec::new();
    for (threads, rate) in &r.read {
        let name = format!("reading {}, {threads} threads, GB/s", bytes(r.working_set));
        let name = if *threads == 1 {
            name.replace("threads", "thread")
        } else {
            name
        };
        rows.push(vec![name, number(rate / 1e9)]);
    }
    let all = round.machine.threads;
    rows.push(vec![
        format!(
            "8-bit integers in {}, {all} threads, Gop/s",
            round.machine.isa
        ),
        number(r.int_ops / 1e9),
    ]);
    rows.push(vec![
        format!("floats in {}, {all} threads, Gop/s", round.machine.isa),
        number(r.flops / 1e9),
    ]);
    if r.bf16_ops > 0.0 {
        let name = format!("bf16 in {}, {all} threads, Gop/s", round.machine.isa);
        rows.push(vec![name, number(r.bf16_ops / 1e9)]);
    }
    let mut ops = Vec::new();
    for (name, b) in [("decode", &tables.decode), ("prompt", &tables.prefill)] {
        for o in &b.ops {
            let Some(roof) = o.roof else { continue };
            ops.push(vec![
                format!("{name}, {}", full_name(o.op)),
                roof.which.name().to_owned(),
                some(o.operations / o.bytes.max(1.0)),
                ms(roof.ms),
                ms(o.ms),
                percent(roof.share),
            ]);
        }
    }
    Section {
        title: "Roofline",
        blocks: vec![
            Block::Note(format!(
                "The most this machine can do, measured before the model ran and after it, {:.1} s \
                 in all; the better one counts.",
                r.seconds
            )),
            table(&["roof", ""], rows),
            table(
                &[
                    "operation",
                    "bound by",
                    "operations a byte",
                    "at the roof, ms",
                    "ms",
                    "reached",
                ],
                ops,
            ),
            Block::Chart(Chart::Roofline),
        ],
    }
}

pub fn bottlenecks(tables: &Tables) -> Section {
    let dash = |x: Option<f64>| x.map_or("-".into(), percent);
    let row = |(i, f): (usize, &Finding)| {
        vec![
            (i + 1).to_string(),
            f.of.name().to_owned(),
            f.what.clone(),
            dash(f.share),
            dash(f.roof_share),
            dash(f.gain),
            f.advice.clone(),
        ]
    };
    let findings = tables.findings.iter().enumerate().map(row);
    let findings: Vec<_> = findings.collect();
    let blocks = match findings.is_empty() {
        true => vec![Block::Note("None that is worth a line.".into())],
        false => vec![
            Block::Note(
                "Ranked by the most that a decode step, or the prompt, could gain if the operation \
                 reached its roof."
                    .into(),
            ),
            Block::Table(Table {
                head: vec!["", "of", "what", "share", "of its roof", "gain at most", "what would help"],
                rows: findings,
                text: true,
            }),
        ],
    };
    Section {
        title: "Bottlenecks, ranked",
        blocks,
    }
}

/// The section on a comparison, which is also shown alone.
pub fn comparison(c: &Comparison) -> Section {
    let mut blocks: Vec<Block> = Vec::new();
    if !c.unlike.is_empty() {
        let unlike = c.unlike.join("; ");
        blocks.push(Block::Note(format!("The rounds are not alike: {unlike}.")));
    }
    if !c.settings.is_empty() {
        let rows = c.settings.iter();
        let rows = rows.map(|s| vec![s.what.clone(), s.before.clone(), s.after.clone()]);
        blocks.push(Block::Table(Table {
            head: vec!["not the same", "before", "after"],
            rows: rows.collect(),
            text: true,
        }));
    }
    blocks.push(Block::Note(
        "All intervals together hold the true changes with 99 %, as far as the repeated steps \
         tell; where one excludes that nothing changed, the change is real. What takes less than \
         1 % of a step is not judged."
            .into(),
    ));
    let rows = c.rows.iter().map(|r| {
        let (change, interval, verdict) = match r.change {
            Some(c) => (
                signed(c.change),
                format!("{} to {}", signed(c.low), signed(c.high)),
                match (c.real, c.change > 0.0) {
                    (false, _) if r.share < JUDGED => "-",
                    (false, _) => "noise",
                    (true, true) => "slower",
                    (true, false) => "faster",
                },
            ),
            None => ("-".into(), "-".into(), "-"),
        };
        vec![
            format!("{}, {}", r.of.name(), r.name),
            ms(r.before),
            ms(r.after),
            change,
            interval,
            verdict.to_owned(),
        ]
    });
    blocks.push(table(
        &["", "before, ms", "after, ms", "change", "interval", ""],
        rows.collect(),
    ));
    Section {
        title: "Round against round",
        blocks,
    }
}

fn signed(share: f64) -> String {
    match share {
        s if s >= 1e5 => "any".into(),
        s => format!("{:+.1} %", s * 100.0),
    }
}

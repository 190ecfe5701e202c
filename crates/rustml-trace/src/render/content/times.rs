//! How long everything takes: runs, steps, operations, layers.

use super::{megabytes, ms, number, percent, some, table, Block, Chart, Section};
use crate::round::Round;
use crate::stats::Spread;
use crate::tables::{Breakdown, OpRow, PartRow, Tables};
use crate::Part;

pub fn timing(round: &Round, tables: &Tables) -> Section {
    let t = &tables.timing;
    let spread = |name: &str, s: &Spread, show: &dyn Fn(f64) -> String| {
        vec![name.to_owned(), show(s.median), show(s.p5), show(s.p95)]
    };
    let mut rows = vec![
        spread("time to first token, ms", &t.first_token, &ms),
        spread("prompt, tokens/s", &t.prefill_tokens_per_second, &number),
        spread("decode, ms a token", &t.decode, &ms),
    ];
    rows.push(vec![
        "decode, tokens/s".into(),
        number(t.decode_tokens_per_second),
        String::new(),
        String::new(),
    ]);
    rows.push(vec![
        "first decode step, ms".into(),
        ms(t.first_decode),
        String::new(),
        String::new(),
    ]);
    let lost = [("prompt", &tables.prefill), ("decode", &tables.decode)];
    for (phase, b) in lost.into_iter().filter(|(_, b)| b.lost > 0.0) {
        rows.push(vec![
            format!("{phase}, of the time given to others"),
            percent(b.lost),
            String::new(),
            String::new(),
        ]);
    }
    let blocks = vec![
        table(&["", "median", "p5", "p95"], rows),
        Block::Note(format!(
            "Of {} decode steps after the first of each repetition; {} of the wall time lies in \
             steps.",
            t.steps,
            percent(t.in_steps)
        )),
        Block::Note("Generated text:".into()),
        Block::Quote(round.text.clone()),
    ];
    Section {
        title: "High-level timing",
        blocks,
    }
}

pub fn steps(tables: &Tables) -> Section {
    let (d, p) = (&tables.decode, &tables.prefill);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let cells = |part: Option<&PartRow>| match part {
        Some(part) => [ms(part.ms), percent(part.share)],
        None => ["-".into(), "-".into()],
    };
    for (i, part) in d.parts.iter().enumerate() {
        let mut row = vec![part.name.clone()];
        row.extend(cells(Some(part)));
        row.extend(cells(p.parts.get(i)));
        rows.push(row);
    }
    rows.push(vec![
        "total".into(),
        ms(d.ms),
        percent(1.0),
        ms(p.ms),
        percent(1.0),
    ]);
    if d.lost_in_means > 0.0 || p.lost_in_means > 0.0 {
        let mut row = vec!["of it given to others, at least".to_owned()];
        for b in [d, p] {
            row.extend([ms(b.ms * b.lost_in_means), percent(b.lost_in_means)]);
        }
        rows.push(row);
    }
    Section {
        title: "Per step",
        blocks: vec![
            Block::Note(format!(
                "Means over the middle half of the steps by their total: {} decode steps; {} \
                 prompts of {:.0} tokens, each counted as one step.",
                d.steps, p.steps, p.rows
            )),
            table(&["", "decode, ms", "share", "prompt, ms", "share"], rows),
            Block::Chart(Chart::Steps),
        ],
    }
}

/// Rows of one breakdown: each part of a layer with its operations.
fn breakdown(b: &Breakdown) -> Block {
    let mut rows = Vec::new();
    let row = |name: String, op: [f64; 6], waiting: f64| {
        let [time, share, bytes, gbs, gops, roof] = op;
        vec![
            name,
            ms(time),
            percent(share),
            megabytes(bytes),
            some(gbs),
            some(gops),
            if roof > 0.0 {
                percent(roof)
            } else {
                "-".into()
            },
            ms(waiting),
        ]
    };
    let parts = [
        Part::Embedding,
        Part::Attention,
        Part::FeedForward,
        Part::Norm,
        Part::Projection,
        Part::Sampling,
    ];
    for part in parts {
        let ops: Vec<_> = b.ops.iter().filter(|o| o.op.part() == part).collect();
        let inner = matches!(part, Part::Attention | Part::FeedForward);
        if inner && !ops.is_empty() {
            let sum = |f: &dyn Fn(&OpRow) -> f64| ops.iter().map(|o| f(o)).sum();
            let (time, bytes, work): (f64, f64, f64) =
                (sum(&|o| o.ms), sum(&|o| o.bytes), sum(&|o| o.operations));
            let roof: f64 = sum(&|o| o.roof.map_or(0.0, |r| r.ms));
            let per = |x: f64| if time > 0.0 { x / time } else { 0.0 };
            let all = [
                time,
                sum(&|o| o.share),
                bytes,
                per(bytes / 1e6),
                per(work / 1e6),
                per(roof),
            ];
            rows.push(row(
                format!("{}, all", part.name()),
                all,
                sum(&|o| o.waiting_ms),
            ));
        }
        for o in ops {
            let name = match inner {
                true => format!("- {}", o.op.name()),
                false => o.op.name().to_owned(),
            };
            let roof = o.roof.map_or(0.0, |r| r.share);
            let all = [
                o.ms,
                o.share,
                o.bytes,
                o.gb_per_second,
                o.gop_per_second,
                roof,
            ];
            rows.push(row(name, all, o.waiting_ms));
        }
    }
    let rest = b.unaccounted();
    rows.push(row(
        "unaccounted".into(),
        [rest * b.ms, rest, 0.0, 0.0, 0.0, 0.0],
        0.0,
    ));
    let per = |x: f64| if b.ms > 0.0 { x / b.ms } else { 0.0 };
    let work: f64 = b.ops.iter().map(|o| o.operations).sum();
    let total = [
        b.ms,
        1.0,
        b.bytes,
        per(b.bytes / 1e6),
        per(work / 1e6),
        per(b.roof_ms),
    ];
    rows.push(row("total".into(), total, b.waiting_ms));
    table(
        &[
            "",
            "ms",
            "share",
            "MB",
            "GB/s",
            "Gop/s",
            "of its roof",
            "waiting, ms",
        ],
        rows,
    )
}

pub fn operations(round: &Round, tables: &Tables) -> Section {
    let mut blocks = vec![
        Block::Note(
            "All layers together. Bytes are those of weights and cache; operations are \
             multiplications and additions, of 8-bit integers where weights are quantised. \
             Waiting is time in which the calling thread had nothing left to do and others \
             still worked."
                .into(),
        ),
        Block::Note("A decode step:".into()),
        breakdown(&tables.decode),
        Block::Chart(Chart::Operations),
        Block::Note("The prompt:".into()),
        breakdown(&tables.prefill),
    ];
    if !tables.layers.is_empty() {
        blocks.push(Block::Note("Layers of a decode step:".into()));
        let rows = tables.layers.iter().enumerate().map(|(i, l)| {
            vec![
                i.to_string(),
                ms(l.attention),
                ms(l.feed_forward),
                ms(l.total),
                percent(l.share),
                ms(l.spread.p5),
                ms(l.spread.p95),
            ]
        });
        blocks.push(table(
            &[
                "layer",
                "attention, ms",
                "feed-forward, ms",
                "total, ms",
                "share",
                "p5",
                "p95",
            ],
            rows.collect(),
        ));
        blocks.push(Block::Chart(Chart::Layers));
    }
    if round.machine.threads == 1 {
        blocks.push(Block::Note("With one thread nobody waits.".into()));
    }
    Section {
        title: "Per layer and per operation",
        blocks,
    }
}

//! The sections of a report as text and tables, however they are shown.

use crate::compare::Comparison;
use crate::document::Document;
use crate::round::{Choice, Round};
use crate::stats::Spread;
use crate::tables::{full_name, Breakdown, Finding, Tables};
use crate::{Op, Part};

/// A table; the first column is text, the others are numbers, unless `text`.
pub struct Table {
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// Whether all columns are text.
    pub text: bool,
}

/// A part of a section.
pub enum Block {
    /// A paragraph.
    Note(String),
    /// A table.
    Table(Table),
    /// Text of a model.
    Quote(String),
    /// The place of a chart, for those who can draw.
    Chart(Chart),
}

/// The charts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Chart {
    Steps,
    Operations,
    Layers,
    Roofline,
}

/// A titled part of the report.
pub struct Section {
    pub title: &'static str,
    pub blocks: Vec<Block>,
}

fn table(head: &[&'static str], rows: Vec<Vec<String>>) -> Block {
    Block::Table(Table {
        head: head.to_vec(),
        rows,
        text: false,
    })
}

fn facts(rows: Vec<(&str, String)>) -> Block {
    let rows = rows.into_iter().filter(|r| !r.1.is_empty());
    Block::Table(Table {
        head: vec!["", ""],
        rows: rows.map(|(a, b)| vec![a.to_owned(), b]).collect(),
        text: true,
    })
}

pub fn percent(share: f64) -> String {
    match share {
        s if !s.is_finite() => "-".into(),
        s if s.abs() < 0.0995 => format!("{:.1} %", s * 100.0),
        s => format!("{:.0} %", s * 100.0),
    }
}

/// Milliseconds, to four digits or so.
pub fn ms(ms: f64) -> String {
    match ms.abs() {
        a if a < 0.1 => format!("{ms:.4}"),
        a if a < 10.0 => format!("{ms:.3}"),
        a if a < 100.0 => format!("{ms:.2}"),
        a if a < 1000.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

fn number(x: f64) -> String {
    match x.abs() {
        a if a < 10.0 => format!("{x:.2}"),
        a if a < 100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

/// A number, or a dash where there is nothing to count.
fn some(x: f64) -> String {
    match x > 0.0 {
        true => number(x),
        false => "-".into(),
    }
}

fn megabytes(bytes: f64) -> String {
    match bytes > 0.0 {
        true if bytes < 1e6 => format!("{:.3}", bytes / 1e6),
        true => number(bytes / 1e6),
        false => "-".into(),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b => format!("{:.1} MB", b / 1e6),
    }
}

fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// The title of a report.
pub fn title(round: &Round) -> String {
    let m = &round.model.name;
    match round.setup.synthetic {
        true => format!("Where the time goes: the shape of {m}"),
        false => format!("Where the time goes: {m}"),
    }
}

/// All sections of a report.
pub fn sections(document: &Document) -> Vec<Section> {
    let round = &document.round;
    let owned;
    let tables = match &document.tables {
        Some(tables) => tables,
        None => {
            owned = Tables::of(round);
            &owned
        }
    };
    let mut all = vec![
        setup(round, tables),
        timing(round, tables),
        steps(tables),
        operations(round, tables),
        roofline(round, tables),
        bottlenecks(tables),
    ];
    all.extend(document.comparison.as_ref().map(comparison));
    all
}

fn setup(round: &Round, tables: &Tables) -> Section {
    let (s, m, model) = (&round.setup, &round.machine, &round.model);
    let mut blocks = Vec::new();
    if s.synthetic {
        blocks.push(Block::Note(
            "The weights are synthetic: only the shape is that of the model. The text means \
             nothing; the times do."
                .into(),
        ));
    }
    let commit = s
        .commit
        .as_ref()
        .map_or(String::new(), |c| format!(", commit {c}"));
    let cores = m
        .allowed_cores
        .map_or(String::new(), |c| format!(" on {c} cores"));
    let quota = m
        .quota
        .map_or("no quota known".into(), |q| format!("a quota of {q} CPUs"));
    let why = match s.threads {
        Some(_) => "as asked for",
        None => "as many as the process may use",
    };
    let threads = format!(
        "{}, {why}: {} of {} CPUs allowed{cores}, {quota}",
        m.threads, m.allowed_cpus, m.cpus
    );
    let quantised = model.quantised.iter().map(|q| match q.from == q.to {
        true => format!(
            "{} kept in {}, as their width allows no other",
            q.layers, q.from
        ),
        false => format!("{} from {} to {}", q.layers, q.from, q.to),
    });
    let quantised: Vec<String> = quantised.collect();
    let isa = match m.isa == m.best_isa {
        true => m.isa.clone(),
        false => format!("{}, though the CPU has {}", m.isa, m.best_isa),
    };
    blocks.push(facts(vec![
        ("date", s.date.clone()),
        ("program", format!("rustml {}{commit}", s.version)),
        (
            "measured",
            format!(
                "{} tokens of prompt, {} generated, {} times{}",
                s.prompt_tokens,
                s.max_tokens,
                s.repeat,
                if s.warm_up { "" } else { ", without warm-up" }
            ),
        ),
        ("CPU", format!("{} ({})", m.cpu, m.arch)),
        ("features", m.features.join(", ")),
        ("instruction set", isa),
        ("threads", threads),
        ("memory", bytes(m.memory)),
        ("huge pages", m.huge_pages.clone().unwrap_or_default()),
        ("model", model.name.clone()),
        ("format", format!("{}, {}", model.format, model.arch)),
        ("parameters", count(model.parameters)),
        (
            "shape",
            format!(
                "{} layers, width {}, feed-forward {}, {} heads of {}, {} for keys and values, \
                 vocabulary {}",
                model.layers,
                model.hidden,
                model.feed_forward,
                model.heads,
                model.head_dim,
                model.kv_heads,
                model.vocab
            ),
        ),
        ("weights", bytes(model.weight_bytes)),
        ("keys and values", model.kv_type.clone()),
        (
            "quantised",
            match quantised.is_empty() {
                true => "nothing: the file's types".into(),
                false => quantised.join("; "),
            },
        ),
        ("in one pass", model.fused.join("; ")),
        (
            "peak memory",
            tables.timing.peak_bytes.map_or(String::new(), bytes),
        ),
    ]));
    blocks.push(types(round));
    if !model.choices.is_empty() {
        blocks.push(Block::Note(
            "Formats chosen by measurement on this machine: microseconds of one product at one \
             row, in the type of the file and in those tried."
                .into(),
        ));
        blocks.push(table(
            &[
                "layers of shape",
                "layers",
                "in the file",
                "tried",
                "chosen",
            ],
            model.choices.iter().map(choice).collect(),
        ));
    }
    Section {
        title: "Setup",
        blocks,
    }
}

fn choice(c: &Choice) -> Vec<String> {
    let tried = c.tried_us.iter();
    let tried = tried.map(|(dtype, us)| format!("{dtype} {}", number(*us)));
    vec![
        format!("{} x {}", c.outputs, c.inputs),
        c.layers.to_string(),
        format!("{} {}", c.stored, number(c.stored_us)),
        tried.collect::<Vec<_>>().join(", "),
        c.chosen.clone(),
    ]
}

fn types(round: &Round) -> Block {
    let rows = round.model.types.iter().map(|t| {
        vec![
            full_name(t.op),
            t.dtype.clone(),
            t.matrices.to_string(),
            format!("{:.2}", 8.0 * t.bytes as f64 / t.values.max(1) as f64),
            megabytes(t.bytes as f64),
        ]
    });
    table(
        &["weights of", "type", "matrices", "bits a weight", "MB"],
        rows.collect(),
    )
}

fn timing(round: &Round, tables: &Tables) -> Section {
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
    let mut blocks = vec![
        table(&["", "median", "p5", "p95"], rows),
        Block::Note(format!(
            "Of {} decode steps after the first of each repetition; {} of the wall time lies in \
             steps.",
            t.steps,
            percent(t.in_steps)
        )),
    ];
    if !t.load.is_empty() {
        let rows = t.load.iter();
        let rows = rows.map(|(name, time)| vec![name.clone(), ms(*time)]);
        blocks.push(table(&["loading", "ms"], rows.collect()));
    }
    blocks.push(Block::Note("Generated text:".into()));
    blocks.push(Block::Quote(round.text.clone()));
    Section {
        title: "High-level timing",
        blocks,
    }
}

fn steps(tables: &Tables) -> Section {
    let (d, p) = (&tables.decode, &tables.prefill);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let cells = |part: Option<&crate::tables::PartRow>| match part {
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
            let sum = |f: &dyn Fn(&crate::tables::OpRow) -> f64| ops.iter().map(|o| f(o)).sum();
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

fn operations(round: &Round, tables: &Tables) -> Section {
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

fn roofline(round: &Round, tables: &Tables) -> Section {
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
                "The most this machine can do, measured in {:.1} s before the model ran.",
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

fn bottlenecks(tables: &Tables) -> Section {
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
    blocks.push(Block::Note(
        "Intervals hold the true change with 99 %, as far as the repeated steps tell; where \
         one excludes that nothing changed, the change is real."
            .into(),
    ));
    let rows = c.rows.iter().map(|r| {
        let (change, interval, verdict) = match r.change {
            Some(c) => (
                signed(c.change),
                format!("{} to {}", signed(c.low), signed(c.high)),
                match (c.real, c.change > 0.0) {
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

/// The operation's colour class: its part.
pub fn class(op: Op) -> &'static str {
    match op.part() {
        Part::Embedding => "c1",
        Part::Attention => "c2",
        Part::FeedForward => "c3",
        Part::Norm => "c4",
        Part::Projection => "c5",
        Part::Sampling => "c6",
    }
}

//! The sections of a report as text and tables, however they are shown.

mod judgement;
mod setup;
mod times;

pub use judgement::comparison;

use crate::document::Document;
use crate::round::Round;
use crate::tables::{share, Breakdown, Of, Tables};
use crate::{Op, Part};
use judgement::{bottlenecks, roofline};
use setup::setup;
use std::borrow::Cow;
use times::{operations, steps, timing};

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
        0.0 => "0".into(),
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

/// What follows from the round.
pub fn tables(document: &Document) -> Cow<'_, Tables> {
    match &document.tables {
        Some(tables) => Cow::Borrowed(tables),
        None => Cow::Owned(Tables::of(&document.round)),
    }
}

/// Less lost time than this is no news.
const LOST: f64 = 0.02;

/// The report in some sentences, for those who read no further.
pub fn summary(document: &Document) -> String {
    let (round, t) = (&document.round, tables(document));
    let reached = |b: &Breakdown| percent(share(b.roof_ms, b.ms));
    let mut all = Vec::new();
    let lost = [
        (t.decode.lost, "generating"),
        (t.prefill.lost, "reading the prompt"),
    ];
    if let Some((lost, when)) = lost.into_iter().find(|l| l.0 >= LOST) {
        all.push(format!(
            "The machine gave {} of the time to others while {when}: without them it is faster \
             than what follows.",
            percent(lost)
        ));
    }
    if t.decode.ms > 0.0 {
        all.push(format!(
            "A token takes {} ms, {} tokens/s: {} of what the roofs of this machine allow.",
            ms(t.timing.decode.median),
            number(t.timing.decode_tokens_per_second),
            reached(&t.decode)
        ));
    }
    if t.prefill.ms > 0.0 {
        all.push(format!(
            "The prompt of {} tokens takes {} ms, {} tokens/s: {} of that.",
            round.setup.prompt_tokens,
            ms(t.timing.first_token.median),
            number(t.timing.prefill_tokens_per_second.median),
            reached(&t.prefill)
        ));
    }
    let first = t.findings.iter().find(|f| f.gain.is_some());
    if let Some(f) = first.filter(|f| f.of != Of::Machine) {
        all.push(format!(
            "What could bring most in {}, {} at most: {} ({}).",
            match f.of {
                Of::Prompt => "reading prompts",
                _ => "decoding",
            },
            percent(f.gain.unwrap_or(0.0)),
            f.what,
            f.advice
        ));
    }
    all.join(" ")
}

/// All sections of a report.
pub fn sections(document: &Document) -> Vec<Section> {
    let (round, tables) = (&document.round, &*tables(document));
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

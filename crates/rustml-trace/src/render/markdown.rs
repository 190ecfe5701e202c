//! Reports as Markdown.

use super::content::{comparison, sections, summary, title, Block, Section, Table};
use crate::compare::Comparison;
use crate::document::Document;

/// A report.
pub fn markdown(document: &Document) -> String {
    let mut out = format!("# {}\n", escape(&title(&document.round)));
    out += &format!("\n{}\n", escape(&summary(document)));
    for (i, section) in sections(document).iter().enumerate() {
        out += &format!("\n## {}. {}\n", i + 1, section.title);
        put(&mut out, section);
    }
    out
}

/// A comparison alone.
pub fn markdown_of_comparison(c: &Comparison) -> String {
    let section = comparison(c);
    let mut out = format!("# {}\n", section.title);
    put(&mut out, &section);
    out
}

fn put(out: &mut String, section: &Section) {
    for block in &section.blocks {
        match block {
            Block::Note(text) => *out += &format!("\n{}\n", escape(text)),
            Block::Table(t) => *out += &table(t),
            Block::Quote(text) => *out += &quote(text),
            Block::Chart(_) => {}
        }
    }
}

/// Wider cells than this do not widen their column.
const WIDEST: usize = 44;

/// A table whose columns are aligned, for those who read it as it is.
fn table(t: &Table) -> String {
    let head = t.head.iter().map(|h| escape(h)).collect();
    let rows = t.rows.iter();
    let rows = rows.map(|row| row.iter().map(|c| escape(c)).collect());
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |i: usize| {
        let cells = all.iter().filter_map(|row| row.get(i));
        let lengths = cells.map(|c| c.chars().count());
        lengths.filter(|&n| n <= WIDEST).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..t.head.len()).map(width).collect();
    let is_text = |i: usize| t.text || i == 0;
    let line = |cells: &Vec<String>| {
        let cells = cells.iter().zip(&widths).enumerate();
        let cells = cells.map(|(i, (c, w))| match is_text(i) {
            true => format!("{c:w$}"),
            false => format!("{c:>w$}"),
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut out = format!("\n{}|", line(&all[0]));
    for (i, w) in widths.iter().enumerate() {
        out += &match is_text(i) {
            true => format!("{}|", "-".repeat(w + 2)),
            false => format!("{}:|", "-".repeat(w + 1)),
        };
    }
    out.push('\n');
    all[1..].iter().for_each(|row| out += &line(row));
    out
}

/// A model's text, whatever is in it, as an indented block.
fn quote(text: &str) -> String {
    let mut out = String::from("\n");
    for line in text.lines() {
        let harmless: String = line
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        out += &format!("    {harmless}\n");
    }
    out
}

/// What means something in Markdown, or would steer a terminal.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '<' | '[' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

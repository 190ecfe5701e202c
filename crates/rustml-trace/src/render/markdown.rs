//! Reports as Markdown.

use super::content::{comparison, sections, title, Block, Section, Table};
use crate::compare::Comparison;
use crate::document::Document;

/// A report.
pub fn markdown(document: &Document) -> String {
    let mut out = format!("# {}\n", escape(&title(&document.round)));
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

fn table(t: &Table) -> String {
    let mut out = format!("\n| {} |\n|", t.head.join(" | "));
    for i in 0..t.head.len() {
        out += if t.text || i == 0 { "---|" } else { "---:|" };
    }
    out.push('\n');
    for row in &t.rows {
        let cells: Vec<String> = row.iter().map(|c| escape(c)).collect();
        out += &format!("| {} |\n", cells.join(" | "));
    }
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

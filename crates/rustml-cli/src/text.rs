//! Numbers and tables, for people and for programs.

use clap::ValueEnum;
use indicatif::{DecimalBytes, HumanCount};
use rustml_nlp::cli::harmless;
use serde_json::Value;

/// `98.36 MB`
pub fn bytes(n: u64) -> String {
    DecimalBytes(n).to_string()
}

/// `134,515,008`
pub fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// Foreign text on one line, at most `longest` characters of it.
pub fn cut(text: &str, longest: usize) -> String {
    // What is cut off need not be looked at, however long it is.
    match text.char_indices().nth(longest) {
        Some((end, _)) => harmless(&text[..end]) + "...",
        None => harmless(text),
    }
}

/// How measurements are printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For reading
    Table,
    /// Comma-separated values under a header
    Csv,
    /// One list of objects, with all there is
    Json,
    /// A table in Markdown
    Md,
}

/// A CSV file, after RFC 4180: rows of one shape, their fields with names. The
/// first row names the columns.
pub fn csv(rows: impl Iterator<Item = Vec<(String, Value)>>) -> String {
    let mut out = String::new();
    for (i, row) in rows.enumerate() {
        if i == 0 {
            let names: Vec<_> = row.iter().map(|(name, _)| name.as_str()).collect();
            out += &(names.join(",") + "\n");
        }
        let fields: Vec<_> = row.iter().map(|(_, value)| field(value)).collect();
        out += &(fields.join(",") + "\n");
    }
    out
}

fn field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) if s.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", s.replace('"', "\"\""))
        }
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Where the cells of a column stand.
#[derive(Clone, Copy, PartialEq)]
pub enum Align {
    Left,
    Right,
}

/// Rows with their columns one below the other, two spaces apart.
pub fn table(rows: &[Vec<String>], align: &[Align]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..align.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for ((cell, &width), align) in row.iter().zip(&widths).zip(align) {
            let cell = match align {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            line.push_str(&cell);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_one_below_the_other() {
        let rows = [["a", "1"], ["bcé", "200"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(
            table(&rows, &[Align::Left, Align::Right]),
            "  a      1\n  bcé  200\n"
        );
    }

    #[test]
    fn csv_quotes_what_it_must() {
        let row = |a: &str, b: Value| vec![("a".into(), a.into()), ("b".into(), b)];
        let rows = [row("x,\"y\"", 1.5.into()), row("plain", Value::Null)];
        assert_eq!(csv(rows.into_iter()), "a,b\n\"x,\"\"y\"\"\",1.5\nplain,\n");
    }

    #[test]
    fn long_and_strange_text_is_cut_and_escaped() {
        assert_eq!(cut("äöü\n", 4), "äöü\\n");
        assert_eq!(cut("äöü\n", 3), "äöü...");
    }
}

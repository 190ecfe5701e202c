//! Reports as one HTML file that needs nothing else.

use super::content::{sections, summary, tables, title, Block, Chart, Section, Table};
use super::svg;
use crate::document::Document;
use crate::tables::Tables;

/// Text that means nothing to HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A report.
pub fn html(document: &Document) -> String {
    let tables = &*tables(document);
    let title = escape(&title(&document.round));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
        include_str!("report.css")
    );
    out += &format!("<p class=\"summary\">{}</p>\n", escape(&summary(document)));
    for (i, section) in sections(document).iter().enumerate() {
        out += &format!("<h2>{}. {}</h2>\n", i + 1, section.title);
        put(&mut out, section, document, tables);
    }
    out + "</body>\n</html>\n"
}

fn put(out: &mut String, section: &Section, document: &Document, tables: &Tables) {
    for block in &section.blocks {
        match block {
            Block::Note(text) => *out += &format!("<p>{}</p>\n", escape(text)),
            Block::Quote(text) => *out += &format!("<blockquote>{}</blockquote>\n", escape(text)),
            Block::Table(t) => *out += &table(t),
            Block::Chart(chart) => {
                let drawn = match chart {
                    Chart::Steps => svg::steps(document, tables),
                    Chart::Operations => svg::operations(&tables.decode),
                    Chart::Layers => svg::layers(&tables.layers),
                    Chart::Roofline => svg::roofline(&document.round.roofs, tables),
                };
                if !drawn.is_empty() {
                    *out += &format!("<figure class=\"scroll\">{drawn}</figure>\n");
                }
            }
        }
    }
}

/// Tables of text that have more columns become paragraphs on a phone.
const CARDS: usize = 4;

fn table(t: &Table) -> String {
    let class = match t.text {
        true if t.head.len() > CARDS => "text cards",
        true => "text",
        false => "numbers",
    };
    let mut out = format!("<div class=\"scroll\"><table class=\"{class}\">\n");
    if t.head.iter().any(|h| !h.is_empty()) {
        out += "<thead><tr>";
        for h in &t.head {
            out += &format!("<th scope=\"col\">{}</th>", escape(h));
        }
        out += "</tr></thead>\n";
    }
    out += "<tbody>\n";
    for row in &t.rows {
        out += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            out += &match i {
                0 => format!("<th scope=\"row\">{cell}</th>"),
                _ if class.ends_with("cards") => {
                    format!("<td data-label=\"{}\">{cell}</td>", escape(t.head[i]))
                }
                _ => format!("<td>{cell}</td>"),
            };
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

//! Values as text: `str`, `repr` and JSON of Python.

use crate::error::{fail, Fault};
use crate::meter::Meter;
use crate::text::{Builder, Text};
use crate::value::{python_float, Key, Value};

/// What `{{ value }}` writes.
pub(crate) fn display(value: &Value, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
    match value {
        Value::Text(text) => {
            meter.make(text.len())?;
            out.push_all(text);
            Ok(())
        }
        Value::Undefined(_) => Ok(()),
        other => repr(other, out, meter),
    }
}

/// A value as text.
pub(crate) fn text_of(value: &Value, meter: &Meter) -> Result<Text, Fault> {
    if let Value::Text(text) = value {
        return Ok(text.clone());
    }
    let mut out = Builder::default();
    display(value, &mut out, meter)?;
    Ok(out.finish())
}

fn plain(text: &str, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
    meter.make(text.len())?;
    out.push_str(text, false);
    Ok(())
}

/// What Python writes of values within others.
fn repr(value: &Value, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
    meter.work(1)?;
    match value {
        Value::Undefined(_) => plain("Undefined", out, meter),
        Value::None => plain("None", out, meter),
        Value::Bool(true) => plain("True", out, meter),
        Value::Bool(false) => plain("False", out, meter),
        Value::Int(n) => plain(&n.to_string(), out, meter),
        Value::Float(n) => plain(&python_float(*n), out, meter),
        Value::Text(text) => quoted(text, out, meter),
        Value::List(list) => {
            plain("[", out, meter)?;
            sequence(&list.items, out, meter)?;
            plain("]", out, meter)
        }
        Value::Tuple(list) => {
            plain("(", out, meter)?;
            sequence(&list.items, out, meter)?;
            plain(if list.items.len() == 1 { ",)" } else { ")" }, out, meter)
        }
        Value::Dict(dict) => {
            plain("{", out, meter)?;
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                if i > 0 {
                    plain(", ", out, meter)?;
                }
                repr(&key.value(), out, meter)?;
                plain(": ", out, meter)?;
                repr(value, out, meter)?;
            }
            plain("}", out, meter)
        }
        // It may hold itself.
        Value::Namespace(_) => fail("a namespace cannot be written"),
        other => plain(&format!("<{}>", other.type_name()), out, meter),
    }
}

fn sequence(items: &[Value], out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            plain(", ", out, meter)?;
        }
        repr(item, out, meter)?;
    }
    Ok(())
}

fn quoted(text: &Text, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
    let hidden = text.as_str().chars().filter(|c| !printable(*c)).count();
    meter.make(2 * text.len() + 2)?;
    meter.make_times(10, hidden)?;
    let quote = match text.as_str().contains('\'') && !text.as_str().contains('"') {
        true => "\"",
        false => "'",
    };
    out.push_str(quote, false);
    mapped(text, out, |c, piece| match c {
        '\\' => piece.push_str("\\\\"),
        '\n' => piece.push_str("\\n"),
        '\r' => piece.push_str("\\r"),
        '\t' => piece.push_str("\\t"),
        '\'' if quote == "'" => piece.push_str("\\'"),
        c if printable(c) => piece.push(c),
        c => piece.push_str(&match c as u32 {
            code @ ..=0xff => format!("\\x{code:02x}"),
            code @ ..=0xffff => format!("\\u{code:04x}"),
            code => format!("\\U{code:08x}"),
        }),
    });
    out.push_str(quote, false);
    Ok(())
}

/// Whether Python's `repr` writes a character as it is.
fn printable(c: char) -> bool {
    // Rust escapes the same ones, and combining ones where a text begins.
    c.is_ascii_graphic() || c == ' ' || (!c.is_ascii() && !escapes(c))
}

fn escapes(c: char) -> bool {
    let mut pair = String::from("a");
    pair.push(c);
    pair.escape_debug().nth(1) == Some('\\')
}

/// Every character in the place of which others stand, from the same source.
fn mapped(text: &Text, out: &mut Builder, map: impl Fn(char, &mut String)) {
    let mut piece = String::new();
    for (run, input) in text.runs(0..text.len()) {
        piece.clear();
        text.as_str()[run].chars().for_each(|c| map(c, &mut piece));
        out.push_str(&piece, input);
    }
}

/// Safe for HTML.
pub(crate) fn escape(text: &Text, meter: &Meter) -> Result<Text, Fault> {
    meter.make(2 * text.len())?;
    let mut out = Builder::default();
    let special = |c| matches!(c, '&' | '<' | '>' | '\'' | '"');
    meter.make_times(5, text.as_str().matches(special).count())?;
    mapped(text, &mut out, |c, piece| match c {
        '&' => piece.push_str("&amp;"),
        '<' => piece.push_str("&lt;"),
        '>' => piece.push_str("&gt;"),
        '\'' => piece.push_str("&#39;"),
        '"' => piece.push_str("&#34;"),
        c => piece.push(c),
    });
    Ok(out.finish().with_safe(true))
}

/// How JSON is written.
pub(crate) struct Json {
    pub indent: Option<usize>,
    pub item: String,
    pub key: String,
    pub ascii: bool,
    pub sort: bool,
}

impl Json {
    /// Python's `json.dumps`.
    pub fn write(&self, value: &Value, meter: &Meter) -> Result<Text, Fault> {
        let mut out = Builder::default();
        self.value(value, 0, &mut out, meter)?;
        Ok(out.finish())
    }

    fn value(
        &self,
        value: &Value,
        depth: usize,
        out: &mut Builder,
        meter: &Meter,
    ) -> Result<(), Fault> {
        meter.work(1)?;
        match value {
            Value::None => plain("null", out, meter),
            Value::Bool(b) => plain(if *b { "true" } else { "false" }, out, meter),
            Value::Int(n) => plain(&n.to_string(), out, meter),
            Value::Float(n) => plain(&float(*n), out, meter),
            Value::Text(text) => self.string(text, out, meter),
            Value::List(list) | Value::Tuple(list) => {
                plain("[", out, meter)?;
                for (i, item) in list.items.iter().enumerate() {
                    self.before(i, depth + 1, out, meter)?;
                    self.value(item, depth + 1, out, meter)?;
                }
                self.close("]", list.items.is_empty(), depth, out, meter)
            }
            Value::Dict(dict) => {
                let mut entries: Vec<_> = dict.entries.iter().collect();
                meter.make_values(entries.len())?;
                if self.sort {
                    crate::filters::sort(&mut entries, meter, |a, b| {
                        crate::ops::order(&a.0.value(), &b.0.value(), meter)
                    })?;
                }
                plain("{", out, meter)?;
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.before(i, depth + 1, out, meter)?;
                    match key {
                        Key::Text(text) => self.string(text, out, meter)?,
                        other => {
                            plain("\"", out, meter)?;
                            self.value(&other.value(), depth, out, meter)?;
                            plain("\"", out, meter)?;
                        }
                    }
                    plain(&self.key, out, meter)?;
                    self.value(value, depth + 1, out, meter)?;
                }
                self.close("}", dict.entries.is_empty(), depth, out, meter)
            }
            Value::Undefined(what) => fail(format!("{what} is undefined, which is no JSON")),
            other => fail(format!("a {} is no JSON", other.type_name())),
        }
    }

    fn before(
        &self,
        i: usize,
        depth: usize,
        out: &mut Builder,
        meter: &Meter,
    ) -> Result<(), Fault> {
        if i > 0 {
            plain(&self.item, out, meter)?;
        }
        self.line(depth, out, meter)
    }

    fn close(
        &self,
        bracket: &str,
        empty: bool,
        depth: usize,
        out: &mut Builder,
        meter: &Meter,
    ) -> Result<(), Fault> {
        if !empty {
            self.line(depth, out, meter)?;
        }
        plain(bracket, out, meter)
    }

    fn line(&self, depth: usize, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
        let Some(indent) = self.indent else {
            return Ok(());
        };
        meter.make_times(indent, depth)?;
        plain("\n", out, meter)?;
        out.push_str(&" ".repeat(indent * depth), false);
        Ok(())
    }

    fn string(&self, text: &Text, out: &mut Builder, meter: &Meter) -> Result<(), Fault> {
        // What becomes six bytes, or twelve, is counted.
        let long = |c: char| c < ' ' || (self.ascii && c > '~');
        meter.make(2 * text.len() + 2)?;
        meter.make_times(12, text.as_str().matches(long).count())?;
        out.push_str("\"", false);
        mapped(text, out, |c, piece| match c {
            '"' => piece.push_str("\\\""),
            '\\' => piece.push_str("\\\\"),
            '\n' => piece.push_str("\\n"),
            '\r' => piece.push_str("\\r"),
            '\t' => piece.push_str("\\t"),
            '\u{8}' => piece.push_str("\\b"),
            '\u{c}' => piece.push_str("\\f"),
            c if long(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    piece.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => piece.push(c),
        });
        out.push_str("\"", false);
        Ok(())
    }
}

fn float(n: f64) -> String {
    match n {
        n if n.is_nan() => "NaN".into(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        n => python_float(n),
    }
}

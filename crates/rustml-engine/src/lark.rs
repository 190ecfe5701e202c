//! Grammars in Lark's syntax, bounded before they are compiled.
//!
//! A schema within one is put in the form of schemas alone. Intersections and
//! complements of terminals are refused: whether anything is left by them may
//! take for ever to find out.

use crate::grammar::prepared;
use serde_json::Value;

/// The grammar as the compiler gets it.
pub(crate) fn bounded(grammar: &str) -> Result<String, String> {
    let (mut out, mut rest) = (String::with_capacity(grammar.len()), grammar);
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("%json") {
            let (schema, len) = value(after)?;
            let schema = prepared(&schema).map_err(|e| format!("in %json, {e}"))?;
            out += &format!("%json {schema}");
            rest = &after[len..];
            continue;
        }
        let len = match first {
            '"' => quoted(rest, '"'),
            '#' => line(rest),
            '/' if rest.starts_with("//") => line(rest),
            '/' => quoted(rest, '/'),
            // `x~3` repeats x.
            '~' if rest[1..]
                .trim_start()
                .starts_with(|c: char| c.is_ascii_digit()) =>
            {
                1
            }
            '&' | '~' => {
                return Err(format!(
                    "{first:?} at line {}: intersections and complements are not supported, \
                     since what they take has no bound",
                    out.lines().count().max(1)
                ))
            }
            _ => first.len_utf8(),
        };
        out += &rest[..len];
        rest = &rest[len..];
    }
    Ok(out)
}

/// The value that a text begins with, and how long it is.
fn value(text: &str) -> Result<(Value, usize), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    match values.next() {
        Some(Ok(value)) => Ok((value, values.byte_offset())),
        Some(Err(e)) => Err(format!("%json is followed by no JSON: {e}")),
        None => Err("%json is followed by nothing".to_owned()),
    }
}

/// How long a text is that begins with a quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return i,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

fn line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_bound_is_refused() {
        for kept in [
            "start: \"a&b~\" /[~&]\\/~/ // & and ~\nx: y~3 # ~\nz: w ~ 2..4",
            "start: A+\nA: \"\\\"~\"",
        ] {
            assert_eq!(bounded(kept).as_deref(), Ok(kept));
        }
        for refused in [
            "start: A\nA: /a/ & /b/",
            "start: A\nA: ~/a/",
            "A: \"x\"\nB: ~ A",
        ] {
            assert!(bounded(refused).unwrap_err().contains("line"), "{refused}");
        }
        let schema = |by: u32| {
            format!("start: x\nx: %json {{\"type\": \"integer\", \"multipleOf\": {by}}} \"b\"")
        };
        assert!(bounded(&schema(99_999_989))
            .unwrap_err()
            .contains("multipleOf"));
        assert!(bounded(&schema(5)).unwrap().ends_with("} \"b\""));
        assert!(bounded("start: %json {").is_err());
    }
}

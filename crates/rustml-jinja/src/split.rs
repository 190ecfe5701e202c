//! Texts cut at separators.

use crate::error::{fail, Fault};
use crate::meter::Meter;
use crate::methods::python_space;
use crate::text::{Builder, Text};
use crate::value::{List, Value};
use memchr::memmem;
use std::ops::Range;
use std::rc::Rc;

/// The parts at these places.
fn parts(text: &Text, ranges: Vec<Range<usize>>, meter: &Meter) -> Result<Rc<List>, Fault> {
    meter.make_values(ranges.len())?;
    meter.make_times(32, ranges.len())?;
    meter.make(text.len())?;
    let part = |range| Value::Text(text.slice(range));
    List::new(ranges.into_iter().map(part).collect())
}

/// `split` and `rsplit`: at a separator or white space, so many times at most.
pub(crate) fn split(
    text: &Text,
    separator: Option<&Text>,
    most: Option<usize>,
    from_right: bool,
    meter: &Meter,
) -> Result<Value, Fault> {
    let s = text.as_str();
    let mut ranges = Vec::new();
    let most = most.unwrap_or(usize::MAX);
    match separator {
        Some(separator) if separator.is_empty() => return fail("empty separator"),
        Some(separator) => {
            let mut cuts = memmem::find_iter(s.as_bytes(), separator.as_str());
            let mut back = s.rmatch_indices(separator.as_str());
            let mut found: Vec<usize> = Vec::new();
            while found.len() < most {
                let Some(at) = (match from_right {
                    true => back.next().map(|(at, _)| at),
                    false => cuts.next(),
                }) else {
                    break;
                };
                meter.make(24)?;
                found.push(at);
            }
            if from_right {
                found.reverse();
            }
            let mut start = 0;
            for at in found {
                ranges.push(start..at);
                start = at + separator.len();
            }
            ranges.push(start..s.len());
        }
        None => {
            let mut rest = 0..s.len();
            loop {
                let part = &s[rest.clone()];
                let trimmed = match from_right {
                    true => part.trim_end_matches(python_space),
                    false => part.trim_start_matches(python_space),
                };
                let dropped = part.len() - trimmed.len();
                match from_right {
                    true => rest.end -= dropped,
                    false => rest.start += dropped,
                }
                if trimmed.is_empty() {
                    break;
                }
                meter.make(24)?;
                if ranges.len() == most {
                    // What is left keeps the white space at its other end.
                    ranges.push(rest.clone());
                    break;
                }
                let cut = match from_right {
                    true => trimmed.rfind(python_space).map_or(0, |at| {
                        at + trimmed[at..].chars().next().map_or(0, char::len_utf8)
                    }),
                    false => trimmed.find(python_space).unwrap_or(trimmed.len()),
                };
                let cut = rest.start + cut;
                match from_right {
                    true => {
                        ranges.push(cut..rest.end);
                        rest.end = cut;
                    }
                    false => {
                        ranges.push(rest.start..cut);
                        rest.start = cut;
                    }
                }
            }
            if from_right {
                ranges.reverse();
            }
        }
    }
    Ok(Value::List(parts(text, ranges, meter)?))
}

/// The lines.
pub(crate) fn lines(text: &Text, keep: bool, meter: &Meter) -> Result<Rc<List>, Fault> {
    let s = text.as_str();
    let mut ranges = Vec::new();
    let mut start = 0;
    let breaks = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    while start < s.len() {
        meter.make(24)?;
        let end = s[start..].find(breaks).map_or(s.len(), |at| start + at);
        let length = match &s[end..] {
            rest if rest.starts_with("\r\n") => 2,
            rest => rest.chars().next().map_or(0, char::len_utf8),
        };
        ranges.push(start..if keep { end + length } else { end });
        start = end + length;
    }
    parts(text, ranges, meter)
}

/// What is before, the separator, what is behind.
pub(crate) fn partition(
    text: &Text,
    separator: &Text,
    last: bool,
    meter: &Meter,
) -> Result<Value, Fault> {
    if separator.is_empty() {
        return fail("empty separator");
    }
    let (s, sep) = (text.as_str(), separator.as_str());
    meter.make(text.len() + separator.len())?;
    let found = match last {
        true => s.rfind(sep),
        false => s.find(sep),
    };
    let empty = || Text::template("");
    let parts = match found {
        Some(at) => [
            text.slice(0..at),
            separator.clone(),
            text.slice(at + sep.len()..s.len()),
        ],
        None if last => [empty(), empty(), text.clone()],
        None => [text.clone(), empty(), empty()],
    };
    let parts = parts.map(Value::Text).to_vec();
    Ok(Value::Tuple(List::new(parts)?))
}

/// Other text in the place of some.
pub(crate) fn replace(
    text: &Text,
    old: &Text,
    new: &Text,
    most: Option<usize>,
    meter: &Meter,
) -> Result<Text, Fault> {
    let s = text.as_str();
    let most = most.unwrap_or(usize::MAX);
    let mut out = Builder::default();
    let mut done = 0;
    meter.make(text.len())?;
    if old.is_empty() {
        let ends = s.char_indices().map(|(at, c)| at + c.len_utf8());
        for end in std::iter::once(0).chain(ends).take(most) {
            meter.make(new.len())?;
            out.push(text, done..end);
            out.push_all(new);
            done = end;
        }
    } else {
        for at in memmem::find_iter(s.as_bytes(), old.as_str()).take(most) {
            meter.make(new.len())?;
            out.push(text, done..at);
            out.push_all(new);
            done = at + old.len();
        }
    }
    out.push(text, done..s.len());
    Ok(out.finish())
}

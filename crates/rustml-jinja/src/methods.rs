//! Methods of Python's strings, lists and dictionaries.

use crate::args::Args;
use crate::error::{fail, mistake, shown, Fault};
use crate::meter::Meter;
use crate::ops;
use crate::split;
use crate::text::{Builder, Text};
use crate::value::{List, Value};
use memchr::memmem;
use std::ops::Range;

const STRING: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Whether a value has a method of this name.
pub(crate) fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => STRING.contains(&name),
        Value::List(_) | Value::Tuple(_) => matches!(name, "index" | "count" | "copy"),
        Value::Dict(_) => matches!(name, "items" | "keys" | "values" | "get" | "copy"),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        _ => false,
    }
}

/// Calls a method that there is.
pub(crate) fn call(value: &Value, name: &str, args: Args, meter: &Meter) -> Result<Value, Fault> {
    meter.work(1)?;
    match value {
        Value::Text(text) => string(text, name, args, meter),
        Value::Dict(dict) => match name {
            "get" => {
                let args = args.bind("get", ["key", "default"])?;
                let found = ops::item(value, args.need(0)?, meter)?;
                Ok(found.unwrap_or_else(|| args.get(1).cloned().unwrap_or(Value::None)))
            }
            "copy" => args.none("copy").map(|()| value.clone()),
            _ => {
                args.none(name)?;
                meter.make_values(3 * dict.entries.len())?;
                let pair = |(key, value): (_, &Value)| {
                    let key: &crate::value::Key = key;
                    Ok(match name {
                        "keys" => key.value(),
                        "values" => value.clone(),
                        _ => Value::Tuple(List::new(vec![key.value(), value.clone()])?),
                    })
                };
                let items = dict
                    .entries
                    .iter()
                    .map(pair)
                    .collect::<Result<_, Fault>>()?;
                Ok(Value::List(List::new(items)?))
            }
        },
        Value::List(list) | Value::Tuple(list) => {
            if name == "copy" {
                args.none("copy")?;
                return Ok(value.clone());
            }
            let args = args.bind(name, ["value"])?;
            let mut count = 0;
            for (at, item) in list.items.iter().enumerate() {
                if ops::equal(item, args.need(0)?, meter)? {
                    if name == "index" {
                        return Ok(Value::Int(at as i64));
                    }
                    count += 1;
                }
            }
            match name {
                "index" => fail("the value is not in the list"),
                _ => Ok(Value::Int(count)),
            }
        }
        Value::Loop(state) => {
            if name == "cycle" {
                args.bind_list("cycle", state.at.get())
            } else {
                let changed = state.last.borrow().as_ref().map_or(Ok(true), |last| {
                    let mut same = last.len() == args.positional.len();
                    for (a, b) in last.iter().zip(&args.positional) {
                        same = same && ops::equal(a, b, meter)?;
                    }
                    Ok::<_, Fault>(!same)
                })?;
                if state.ended.get() {
                    return fail("the loop has ended");
                }
                meter.make_values(args.positional.len())?;
                state.last.replace(Some(args.positional));
                Ok(Value::Bool(changed))
            }
        }
        Value::Cycler(cycler) => {
            args.none(name)?;
            if name == "reset" {
                cycler.at.set(0);
                return Ok(Value::None);
            }
            let at = cycler.at.get();
            cycler.at.set((at + 1) % cycler.items.items.len());
            Ok(cycler.items.items[at].clone())
        }
        other => fail(format!(
            "a {} has no method {:?}",
            other.type_name(),
            shown(name)
        )),
    }
}

impl Args {
    /// One of the arguments, over and over.
    fn bind_list(self, what: &str, at: usize) -> Result<Value, Fault> {
        match self.positional.len() {
            0 => fail(format!("{what} needs arguments")),
            n => Ok(self.positional[at % n].clone()),
        }
    }
}

fn string(text: &Text, name: &str, args: Args, meter: &Meter) -> Result<Value, Fault> {
    let s = text.as_str();
    meter.look(s.len())?;
    let all = |fits: fn(char) -> bool| Ok(Value::Bool(!s.is_empty() && s.chars().all(fits)));
    let cased = |wrong: fn(char) -> bool, right: fn(char) -> bool| {
        Ok(Value::Bool(s.chars().any(right) && !s.chars().any(wrong)))
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let args = args.bind(name, ["chars"])?;
            let set = args.text(0)?.map(Text::as_str);
            strip(text, set, name != "rstrip", name != "lstrip", meter).map(Value::Text)
        }
        "startswith" | "endswith" => {
            let args = args.bind(name, ["prefix", "start", "end"])?;
            let part = span(text, args.int(1)?, args.int(2)?);
            let part = &s[part];
            let check = |affix: &Value| match affix {
                Value::Text(affix) if name == "startswith" => Ok(part.starts_with(affix.as_str())),
                Value::Text(affix) => Ok(part.ends_with(affix.as_str())),
                other => fail(format!(
                    "{name} needs a string, not a {}",
                    other.type_name()
                )),
            };
            let found = match args.need(0)? {
                Value::Tuple(list) => {
                    let mut found = false;
                    for affix in &list.items {
                        meter.look(affix.as_text().map_or(0, Text::len))?;
                        found = found || check(affix)?;
                    }
                    found
                }
                affix => check(affix)?,
            };
            Ok(Value::Bool(found))
        }
        "upper" | "lower" | "title" | "capitalize" | "swapcase" | "casefold" => {
            args.none(name)?;
            case(text, name, meter).map(Value::Text)
        }
        "split" | "rsplit" => {
            let args = args.bind(name, ["sep", "maxsplit"])?;
            let most = args.int(1)?.and_then(|n| usize::try_from(n).ok());
            split::split(text, args.text(0)?, most, name == "rsplit", meter)
        }
        "splitlines" => {
            let args = args.bind(name, ["keepends"])?;
            split::lines(text, args.is(0, false), meter).map(Value::List)
        }
        "partition" | "rpartition" => {
            let args = args.bind(name, ["sep"])?;
            split::partition(text, args.need_text(0)?, name == "rpartition", meter)
        }
        "replace" => {
            let args = args.bind(name, ["old", "new", "count"])?;
            let most = args.int(2)?.and_then(|n| usize::try_from(n).ok());
            split::replace(text, args.need_text(0)?, args.need_text(1)?, most, meter)
                .map(Value::Text)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let args = args.bind(name, ["sub", "start", "end"])?;
            let sub = args.need_text(0)?.as_str();
            let range = span(text, args.int(1)?, args.int(2)?);
            let (start, part) = (range.start, &s[range]);
            if name == "count" {
                let count = match sub.is_empty() {
                    true => part.chars().count() + 1,
                    false => memmem::find_iter(part.as_bytes(), sub).count(),
                };
                return Ok(Value::Int(count as i64));
            }
            let found = match name {
                "find" | "index" => memmem::find(part.as_bytes(), sub.as_bytes()),
                _ => memmem::rfind(part.as_bytes(), sub.as_bytes()),
            };
            match found {
                Some(at) => Ok(Value::Int(s[..start + at].chars().count() as i64)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => fail("substring not found"),
            }
        }
        "join" => {
            let args = args.bind(name, ["list"])?;
            let list = args.need(0)?.items(meter)?;
            let mut out = Builder::default();
            for (i, item) in list.items.iter().enumerate() {
                let Value::Text(item) = item else {
                    return fail(format!("join takes strings, not a {}", item.type_name()));
                };
                if i > 0 {
                    meter.make(text.len())?;
                    out.push_all(text);
                }
                meter.make(item.len())?;
                out.push_all(item);
            }
            Ok(Value::Text(out.finish()))
        }
        "format" => crate::format::braces(text, &args.positional, &args.named, meter),
        "removeprefix" | "removesuffix" => {
            let args = args.bind(name, ["affix"])?;
            let affix = args.need_text(0)?.as_str();
            let range = match name {
                "removeprefix" if s.starts_with(affix) => affix.len()..s.len(),
                "removesuffix" if s.ends_with(affix) => 0..s.len() - affix.len(),
                _ => 0..s.len(),
            };
            meter.make(range.len())?;
            Ok(Value::Text(text.slice(range)))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let args = args.bind(name, ["width", "fillchar"])?;
            args.need(0)?;
            let fill = args.text(1)?.cloned();
            let fill =
                fill.unwrap_or_else(|| Text::template(if name == "zfill" { "0" } else { " " }));
            justify(text, name, args.size(0, 0)?, &fill, meter).map(Value::Text)
        }
        "expandtabs" => {
            let args = args.bind(name, ["tabsize"])?;
            let (mut out, size, mut column) = (Builder::default(), args.size(0, 8)?, 0);
            meter.make(s.len())?;
            for (at, c) in s.char_indices() {
                if c == '\t' {
                    let pad = if size == 0 { 0 } else { size - column % size };
                    meter.make(pad)?;
                    out.push_str(&" ".repeat(pad), false);
                    column += pad;
                } else {
                    out.push(text, at..at + c.len_utf8());
                    column = if matches!(c, '\n' | '\r') {
                        0
                    } else {
                        column + 1
                    };
                }
            }
            Ok(Value::Text(out.finish()))
        }
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdecimal" => all(|c| c.is_ascii_digit()),
        "isdigit" => all(|c| c.is_ascii_digit() || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(char::is_whitespace),
        "isascii" => Ok(Value::Bool(s.is_ascii())),
        "isidentifier" => {
            let start = s.starts_with(|c: char| c == '_' || c.is_alphabetic());
            Ok(Value::Bool(
                start && s.chars().all(|c| c == '_' || c.is_alphanumeric()),
            ))
        }
        "isupper" => cased(char::is_lowercase, char::is_uppercase),
        "islower" => cased(char::is_uppercase, char::is_lowercase),
        "istitle" => {
            let titled = case(text, "title", meter)?;
            Ok(Value::Bool(
                s.chars().any(char::is_alphabetic) && titled == *text,
            ))
        }
        other => fail(format!("a string has no method {:?}", shown(other))),
    }
}

/// The bytes from one character to another, as slices have it.
fn span(text: &Text, start: Option<i64>, end: Option<i64>) -> Range<usize> {
    let s = text.as_str();
    if start.is_none() && end.is_none() {
        return 0..s.len();
    }
    let count = text.chars() as i64;
    let place = |n: i64| {
        let n = if n < 0 {
            (n + count).max(0)
        } else {
            n.min(count)
        };
        let found = s.char_indices().nth(n as usize);
        found.map_or(s.len(), |(at, _)| at)
    };
    let (start, end) = (start.map_or(0, place), end.map_or(s.len(), place));
    start..end.max(start)
}

/// Without white space, or these characters, at its ends.
pub(crate) fn strip(
    text: &Text,
    set: Option<&str>,
    left: bool,
    right: bool,
    meter: &Meter,
) -> Result<Text, Fault> {
    let s = text.as_str();
    // Each character is looked up among the set's.
    let set: Option<Vec<char>> = match set {
        Some(set) => {
            meter.make_times(4, set.len())?;
            let mut set: Vec<char> = set.chars().collect();
            set.sort_unstable();
            Some(set)
        }
        None => None,
    };
    meter.work((s.len() / 16) as u64)?;
    let drop = |c: char| match &set {
        Some(set) => set.binary_search(&c).is_ok(),
        None => python_space(c),
    };
    let start = if left {
        s.len() - s.trim_start_matches(drop).len()
    } else {
        0
    };
    let end = if right {
        s.trim_end_matches(drop).len()
    } else {
        s.len()
    };
    meter.make(end.saturating_sub(start))?;
    Ok(text.slice(start..end.max(start)))
}

/// What Python takes for white space.
pub(crate) fn python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// In other letters.
pub(crate) fn case(text: &Text, how: &str, meter: &Meter) -> Result<Text, Fault> {
    // A letter can become three.
    meter.make(3 * text.len())?;
    let mut out = Builder::default();
    let (mut begins, mut first) = (true, true);
    let mut piece = String::new();
    for (run, input) in text.runs(0..text.len()) {
        piece.clear();
        let run = &text.as_str()[run];
        match how {
            // Whole runs, for letters that depend on those beside them.
            "lower" | "casefold" => piece.push_str(&run.to_lowercase()),
            "upper" => piece.push_str(&run.to_uppercase()),
            _ => {
                for c in run.chars() {
                    let up = match how {
                        "swapcase" => c.is_lowercase(),
                        "title" => begins,
                        _ => first,
                    };
                    match up {
                        true => piece.extend(c.to_uppercase()),
                        false => piece.extend(c.to_lowercase()),
                    }
                    begins = !c.is_alphabetic();
                    first = false;
                }
            }
        }
        out.push_str(&piece, input);
    }
    Ok(out.finish().with_safe(text.safe))
}

pub(crate) fn justify(
    text: &Text,
    how: &str,
    width: usize,
    fill: &Text,
    meter: &Meter,
) -> Result<Text, Fault> {
    if fill.chars() != 1 {
        return Err(mistake(format!("{how} fills with one character")));
    }
    let chars = text.chars();
    let pad = width.saturating_sub(chars);
    meter.make_times(fill.len(), pad)?;
    meter.make(text.len())?;
    let before = match how {
        "ljust" => 0,
        // As Python has it: the odd one goes left if the width is odd.
        "center" => pad / 2 + (pad & width & 1),
        _ => pad,
    };
    let mut out = Builder::default();
    let signed = how == "zfill" && text.as_str().starts_with(['+', '-']);
    let sign = usize::from(signed);
    out.push(text, 0..sign);
    (0..before).for_each(|_| out.push_all(fill));
    out.push(text, sign..text.len());
    (before..pad).for_each(|_| out.push_all(fill));
    Ok(out.finish())
}

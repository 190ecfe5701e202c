//! Jinja's filters.

use crate::args::Args;
use crate::ast::Binary;
use crate::error::{fail, shown, Fault};
use crate::lists;
use crate::meter::Meter;
use crate::methods::{case, justify, strip};
use crate::ops;
use crate::split;
use crate::text::{Builder, Text};
use crate::value::{Key, List, Value};
use crate::write::{self, text_of, Json};
use std::cmp::Ordering;

/// Applies the filter of this name.
pub(crate) fn apply(name: &str, value: &Value, args: Args, meter: &Meter) -> Result<Value, Fault> {
    meter.work(1)?;
    let text = || {
        let text = text_of(value, meter)?;
        meter.look(text.len())?;
        Ok::<_, Fault>(text)
    };
    match name {
        "default" | "d" => {
            let args = args.bind(name, ["default_value", "boolean"])?;
            let missing = value.is_undefined() || (args.is(1, false) && !value.is_true());
            let other = || args.get(0).cloned().unwrap_or_else(|| Value::text(""));
            Ok(if missing { other() } else { value.clone() })
        }
        "tojson" => json(value, args, meter),
        "string" => text().map(Value::Text),
        "safe" => {
            args.none(name)?;
            Ok(Value::Text(text()?.with_safe(true)))
        }
        "escape" | "e" | "forceescape" => {
            args.none(name)?;
            let text = text()?;
            match text.safe && name != "forceescape" {
                true => Ok(Value::Text(text)),
                false => write::escape(&text, meter).map(Value::Text),
            }
        }
        "trim" => {
            let args = args.bind(name, ["chars"])?;
            let set = args.text(0)?.map(Text::as_str);
            strip(&text()?, set, true, true, meter).map(Value::Text)
        }
        "lower" | "upper" | "capitalize" => {
            args.none(name)?;
            case(&text()?, name, meter).map(Value::Text)
        }
        "title" => {
            args.none(name)?;
            title(&text()?, meter).map(Value::Text)
        }
        "replace" => {
            let args = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (
                text_of(args.need(0)?, meter)?,
                text_of(args.need(1)?, meter)?,
            );
            let most = args.int(2)?.and_then(|n| usize::try_from(n).ok());
            split::replace(&text()?, &old, &new, most, meter).map(Value::Text)
        }
        "format" => {
            let arguments = match args.named.is_empty() {
                true => Value::Tuple(List::new(args.positional)?),
                false => {
                    let entry = |(name, v): (String, Value)| (Key::Text(Text::template(&name)), v);
                    let entries = args.named.into_iter().map(entry).collect();
                    Value::Dict(crate::value::Dict::new(entries)?)
                }
            };
            crate::format::percent(&text()?, &arguments, meter)
        }
        "center" => {
            let args = args.bind(name, ["width"])?;
            justify(
                &text()?,
                name,
                args.size(0, 80)?,
                &Text::template(" "),
                meter,
            )
            .map(Value::Text)
        }
        "indent" => indent(&text()?, args, meter).map(Value::Text),
        "truncate" => truncate(&text()?, args, meter).map(Value::Text),
        "wordcount" => {
            args.none(name)?;
            let text = text()?;
            let words = text
                .as_str()
                .split(|c: char| c != '_' && !c.is_alphanumeric());
            Ok(Value::Int(
                words.filter(|word| !word.is_empty()).count() as i64
            ))
        }
        "urlencode" => {
            args.none(name)?;
            urlencode(value, meter).map(Value::Text)
        }
        "int" => {
            ops::defined(value)?;
            let args = args.bind(name, ["default", "base"])?;
            let default = args.get(0).cloned().unwrap_or(Value::Int(0));
            let base = args.size(1, 10)?;
            Ok(to_int(value, base, meter)?.map_or(default, Value::Int))
        }
        "float" => {
            ops::defined(value)?;
            let args = args.bind(name, ["default"])?;
            let default = args.get(0).cloned().unwrap_or(Value::Float(0.0));
            let number = match value {
                Value::Text(text) => to_float(text, meter)?,
                other => other.as_float(),
            };
            Ok(number.map_or(default, Value::Float))
        }
        "abs" => {
            args.none(name)?;
            match value.as_int() {
                Some(n) if n < 0 => ops::negate(value),
                None if value.as_float().is_some_and(|n| n < 0.0) => ops::negate(value),
                _ => ops::plus(value),
            }
        }
        "round" => round(value, args),
        "length" | "count" => {
            args.none(name)?;
            match value.length(meter)? {
                Some(n) => Ok(Value::Int(n as i64)),
                None => fail(format!("a {} has no length", value.type_name())),
            }
        }
        "attr" => {
            let args = args.bind(name, ["name"])?;
            let name = args.need_text(0)?;
            match crate::methods::has(value, name.as_str()) {
                true => crate::value::Method::bind(value.clone(), name.clone()),
                false => Ok(Value::undefined(shown(name.as_str()))),
            }
        }
        _ => lists::apply(name, value, args, meter),
    }
}

fn json(value: &Value, args: Args, meter: &Meter) -> Result<Value, Fault> {
    // Jinja's own first argument is the indentation; that of `transformers` is not.
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let args = args.bind("tojson", names)?;
    let indent = match args.get(1) {
        Some(Value::Text(text)) => Some(text.len()),
        _ => args.int(1)?.map(|n| usize::try_from(n).unwrap_or(0)),
    };
    if indent.is_some_and(|n| n > 1000) {
        return fail("tojson indents by 1000 at most");
    }
    let (mut item, mut key) = (
        if indent.is_some() { "," } else { ", " }.to_owned(),
        ": ".to_owned(),
    );
    if let Some(pair) = args.get(2).filter(|pair| !matches!(pair, Value::None)) {
        match &pair.items(meter)?.items[..] {
            [Value::Text(a), Value::Text(b)] => {
                meter.look(a.len() + b.len())?;
                (item, key) = (a.as_str().to_owned(), b.as_str().to_owned());
            }
            _ => return fail("the separators of tojson are two strings"),
        }
    }
    let json = Json {
        indent,
        item,
        key,
        ascii: args.is(0, false),
        sort: args.is(3, false),
    };
    json.write(value, meter).map(Value::Text)
}

/// Every word with a capital; words begin after spaces and brackets.
fn title(text: &Text, meter: &Meter) -> Result<Text, Fault> {
    meter.make(3 * text.len())?;
    let mut out = Builder::default();
    let mut begins = true;
    let mut piece = String::new();
    for (run, input) in text.runs(0..text.len()) {
        piece.clear();
        for c in text.as_str()[run].chars() {
            match begins {
                true => piece.extend(c.to_uppercase()),
                false => piece.extend(c.to_lowercase()),
            }
            begins = c.is_whitespace() || "-({[<".contains(c);
        }
        out.push_str(&piece, input);
    }
    Ok(out.finish())
}

fn indent(text: &Text, args: Args, meter: &Meter) -> Result<Text, Fault> {
    let args = args.bind("indent", ["width", "first", "blank"])?;
    let by = match args.get(0) {
        Some(Value::Text(text)) => text.clone(),
        _ => {
            let width = args.size(0, 4)?;
            meter.make(width)?;
            Text::template(&" ".repeat(width))
        }
    };
    let (first, blank) = (args.is(1, false), args.is(2, false));
    let mut whole = Builder::default();
    meter.make(text.len() + 1)?;
    whole.push_all(text);
    whole.push_str("\n", false);
    let lines = split::lines(&whole.finish(), false, meter)?;
    let mut out = Builder::default();
    for (i, line) in lines.items.iter().enumerate() {
        let line = text_of(line, meter)?;
        meter.make(1 + line.len())?;
        if i > 0 {
            out.push_str("\n", false);
        }
        let wanted = match i {
            0 => first,
            _ => blank || !line.is_empty(),
        };
        if wanted {
            meter.make(by.len())?;
            out.push_all(&by);
        }
        out.push_all(&line);
    }
    Ok(out.finish())
}

fn truncate(text: &Text, args: Args, meter: &Meter) -> Result<Text, Fault> {
    let args = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let (length, leeway) = (args.size(0, 255)?, args.size(3, 5)?);
    let end = args.as_text(2, "...", meter)?;
    if text.chars() <= length.saturating_add(leeway) {
        return Ok(text.clone());
    }
    let Some(keep) = length.checked_sub(end.chars()) else {
        return fail("truncate leaves less than its end is long");
    };
    let cut = text.as_str().char_indices().nth(keep);
    let mut cut = cut.map_or(text.len(), |(at, _)| at);
    if !args.is(1, false) {
        cut = text.as_str()[..cut].rfind(' ').unwrap_or(cut);
    }
    meter.make(cut + end.len())?;
    let mut out = Builder::default();
    out.push(text, 0..cut);
    out.push_all(&end);
    Ok(out.finish())
}

fn urlencode(value: &Value, meter: &Meter) -> Result<Text, Fault> {
    let mut out = Builder::default();
    let encode = |text: &Text, safe: &str, out: &mut Builder| {
        meter.make(3 * text.len())?;
        for (run, input) in text.runs(0..text.len()) {
            for b in text.as_str()[run].bytes() {
                let c = b as char;
                if c == ' ' && safe.is_empty() {
                    out.push_str("+", input);
                    continue;
                }
                match c.is_ascii_alphanumeric() || "_.-~".contains(c) || safe.contains(c) {
                    true => out.push_str(c.encode_utf8(&mut [0; 4]), input),
                    false => out.push_str(&format!("%{b:02X}"), input),
                }
            }
        }
        Ok::<_, Fault>(())
    };
    match value {
        Value::Dict(dict) => {
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                if i > 0 {
                    out.push_str("&", false);
                }
                encode(&text_of(&key.value(), meter)?, "", &mut out)?;
                out.push_str("=", false);
                encode(&text_of(value, meter)?, "", &mut out)?;
            }
        }
        other => encode(&text_of(other, meter)?, "/", &mut out)?,
    }
    Ok(out.finish())
}

fn to_int(value: &Value, base: usize, meter: &Meter) -> Result<Option<i64>, Fault> {
    let from_float = |n: f64| (n.abs() < 9e18).then_some(n as i64);
    let text = match value {
        Value::Text(text) => text,
        Value::Float(n) => return Ok(from_float(*n)),
        other => return Ok(other.as_int()),
    };
    meter.look(2 * text.len())?;
    if text.len() > 400 {
        return Ok(None);
    }
    let plain = text.as_str().trim().replace('_', "").to_lowercase();
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let digits = match base {
        16 => digits.strip_prefix("0x").unwrap_or(digits),
        8 => digits.strip_prefix("0o").unwrap_or(digits),
        2 => digits.strip_prefix("0b").unwrap_or(digits),
        _ => digits,
    };
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return Ok(None);
    }
    let n = i64::from_str_radix(digits, base as u32).ok();
    let n = n.map(|n| if negative { -n } else { n });
    Ok(match n {
        Some(n) => Some(n),
        None => to_float(text, meter)?.and_then(from_float),
    })
}

fn to_float(text: &Text, meter: &Meter) -> Result<Option<f64>, Fault> {
    meter.look(text.len())?;
    if text.len() > 400 {
        return Ok(None);
    }
    Ok(text.as_str().trim().replace('_', "").parse().ok())
}

fn round(value: &Value, args: Args) -> Result<Value, Fault> {
    let args = args.bind("round", ["precision", "method"])?;
    let places = args.int(0)?.unwrap_or(0).clamp(-300, 300) as i32;
    let Some(n) = value.as_float() else {
        return fail(format!("a {} cannot be rounded", value.type_name()));
    };
    let scale = 10f64.powi(places);
    let common = args
        .text(1)?
        .is_none_or(|method| method.as_str() == "common");
    if let (Some(whole), true) = (value.as_int(), common) {
        let exact = (n * scale).round_ties_even() / scale;
        return Ok(Value::Int(if places < 0 { exact as i64 } else { whole }));
    }
    let rounded = match args.text(1)?.map_or("common", Text::as_str) {
        "ceil" => (n * scale).ceil() / scale,
        "floor" => (n * scale).floor() / scale,
        // The text of a number is rounded half to even, as Python's `round`.
        "common" if places >= 0 => format!("{n:.*}", places as usize).parse().unwrap_or(n),
        "common" => (n * scale).round_ties_even() / scale,
        other => return fail(format!("round has no method {:?}", shown(other))),
    };
    Ok(Value::Float(rounded))
}

/// Sorts, and stays sane with whatever order.
pub(crate) fn sort<T: Clone>(
    items: &mut Vec<T>,
    meter: &Meter,
    mut order: impl FnMut(&T, &T) -> Result<Option<Ordering>, Fault>,
) -> Result<(), Fault> {
    meter.make_times(size_of::<T>() + 8, items.len())?;
    let mut width = 1;
    while width < items.len() {
        meter.make_times(size_of::<T>(), items.len())?;
        let mut merged = Vec::with_capacity(items.len());
        for pair in items.chunks(2 * width) {
            let (mut a, mut b) = pair.split_at(width.min(pair.len()));
            while let (Some(x), Some(y)) = (a.first(), b.first()) {
                meter.work(1)?;
                match order(y, x)? == Some(Ordering::Less) {
                    true => {
                        merged.push(y.clone());
                        b = &b[1..];
                    }
                    false => {
                        merged.push(x.clone());
                        a = &a[1..];
                    }
                }
            }
            merged.extend_from_slice(a);
            merged.extend_from_slice(b);
        }
        *items = merged;
        width *= 2;
    }
    Ok(())
}

/// Adds values up.
pub(crate) fn sum(items: &[Value], start: Value, meter: &Meter) -> Result<Value, Fault> {
    let mut sum = start;
    for item in items {
        sum = ops::binary(Binary::Add, &sum, item, meter)?;
    }
    Ok(sum)
}

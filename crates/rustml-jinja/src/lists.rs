//! Filters of lists, and Jinja's tests.

use crate::args::Args;
use crate::error::{fail, mistake, shown, Fault};
use crate::filters::{self, sort, sum};
use crate::meter::Meter;
use crate::ops;
use crate::text::{Builder, Text};
use crate::value::{Dict, List, Value};
use crate::write::text_of;
use std::cmp::Ordering;
use std::rc::Rc;

pub(crate) fn apply(name: &str, value: &Value, args: Args, meter: &Meter) -> Result<Value, Fault> {
    let items = || match name {
        // These look at nothing if there is nothing, not even whether it is a list.
        "map" | "select" | "reject" | "selectattr" | "rejectattr" if !value.is_true() => {
            List::new(Vec::new())
        }
        _ => value.items(meter),
    };
    match name {
        "list" => {
            args.none(name)?;
            Ok(Value::List(items()?))
        }
        "items" => {
            args.none(name)?;
            match value {
                Value::Undefined(_) => Ok(Value::List(items()?)),
                Value::Dict(_) => crate::methods::call(value, "items", Args::default(), meter),
                other => fail(format!("items is for a dict, not a {}", other.type_name())),
            }
        }
        "first" | "last" => {
            args.none(name)?;
            let items = items()?;
            let found = match name {
                "first" => items.items.first(),
                _ => items.items.last(),
            };
            Ok(found
                .cloned()
                .unwrap_or_else(|| Value::undefined(format!("the {name} item"))))
        }
        "reverse" => {
            args.none(name)?;
            let items = items()?;
            meter.make_values(items.items.len())?;
            let reversed: Vec<Value> = items.items.iter().rev().cloned().collect();
            match value {
                Value::Text(_) => ops::concat(&reversed, meter),
                _ => Ok(Value::List(List::new(reversed)?)),
            }
        }
        "join" => {
            let args = args.bind(name, ["d", "attribute"])?;
            let separator = args.as_text(0, "", meter)?;
            let mut out = Builder::default();
            for (i, item) in items()?.items.iter().enumerate() {
                if i > 0 {
                    meter.make(separator.len())?;
                    out.push_all(&separator);
                }
                match args.get(1) {
                    Some(path) => {
                        crate::write::display(&attribute(item, path, meter)?, &mut out, meter)?
                    }
                    None => crate::write::display(item, &mut out, meter)?,
                }
            }
            Ok(Value::Text(out.finish()))
        }
        "map" => map(&items()?, args, meter),
        "select" | "reject" => pick(&items()?, None, name == "select", args, meter),
        "selectattr" | "rejectattr" => {
            let mut args = args;
            if args.positional.is_empty() {
                return fail(format!("{name} needs an attribute"));
            }
            let path = args.positional.remove(0);
            pick(&items()?, Some(path), name == "selectattr", args, meter)
        }
        "sum" => {
            let args = args.bind(name, ["attribute", "start"])?;
            let values = by(&items()?, args.get(0), meter)?;
            sum(
                &values,
                args.get(1).cloned().unwrap_or(Value::Int(0)),
                meter,
            )
        }
        "min" | "max" => {
            let args = args.bind(name, ["case_sensitive", "attribute"])?;
            let items = items()?;
            let keys = keys(&items, args.get(1), args.is(0, false), meter)?;
            let mut best: Option<usize> = None;
            for (i, key) in keys.iter().enumerate() {
                let better = match best {
                    None => true,
                    Some(old) => {
                        let wanted = if name == "min" {
                            Ordering::Less
                        } else {
                            Ordering::Greater
                        };
                        ops::order(key, &keys[old], meter)? == Some(wanted)
                    }
                };
                if better {
                    best = Some(i);
                }
            }
            let missing = || Value::undefined(format!("the {name} of nothing"));
            Ok(best.map_or_else(missing, |i| items.items[i].clone()))
        }
        "sort" => {
            let args = args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let sorted = sorted(
                &items()?,
                args.get(2),
                args.is(1, false),
                args.is(0, false),
                meter,
            )?;
            Ok(Value::List(List::new(sorted)?))
        }
        "dictsort" => {
            let args = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let at = match args.text(1)?.map_or("key", Text::as_str) {
                "key" => Value::Int(0),
                "value" => Value::Int(1),
                _ => return fail("dictsort sorts by \"key\" or \"value\""),
            };
            let pairs = apply("items", value, Args::default(), meter)?.items(meter)?;
            let sorted = sorted(
                &pairs,
                Some(&at),
                args.is(0, false),
                args.is(2, false),
                meter,
            )?;
            Ok(Value::List(List::new(sorted)?))
        }
        "unique" => {
            let args = args.bind(name, ["case_sensitive", "attribute"])?;
            let items = items()?;
            let keys = keys(&items, args.get(1), args.is(0, false), meter)?;
            let mut seen = std::collections::HashSet::new();
            meter.make_times(64, keys.len())?;
            let mut unique = Vec::new();
            for (key, item) in keys.iter().zip(&items.items) {
                if seen.insert(key.key(meter)?) {
                    unique.push(item.clone());
                }
            }
            Ok(Value::List(List::new(unique)?))
        }
        "groupby" => {
            let args = args.bind(name, ["attribute", "default", "case_sensitive"])?;
            let sorted = sorted(
                &items()?,
                Some(args.need(0)?),
                args.is(2, false),
                false,
                meter,
            )?;
            let sorted = List::new(sorted)?;
            let keys = keys(&sorted, args.get(0), args.is(2, false), meter)?;
            let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
            let mut last: Option<&Value> = None;
            for (key, item) in keys.iter().zip(&sorted.items) {
                let same = match last {
                    Some(last) => ops::equal(last, key, meter)?,
                    None => false,
                };
                last = Some(key);
                match groups.last_mut().filter(|_| same) {
                    Some((_, group)) => group.push(item.clone()),
                    None => {
                        groups.push((attribute(item, args.need(0)?, meter)?, vec![item.clone()]))
                    }
                }
            }
            meter.make_values(4 * groups.len())?;
            let tuple = |(key, group)| {
                let group = Value::List(List::new(group)?);
                Ok(Value::Tuple(List::new(vec![key, group])?))
            };
            let groups = groups
                .into_iter()
                .map(tuple)
                .collect::<Result<_, Fault>>()?;
            Ok(Value::List(List::new(groups)?))
        }
        "batch" => {
            let args = args.bind(name, ["linecount", "fill_with"])?;
            let size = args.size(0, 0)?;
            if size == 0 {
                return fail("batch needs a size of at least 1");
            }
            let items = items()?;
            meter.make_values(2 * items.items.len())?;
            let mut batches = Vec::new();
            for chunk in items.items.chunks(size) {
                let mut batch = chunk.to_vec();
                if let Some(fill) = args.get(1).filter(|f| !matches!(f, Value::None)) {
                    meter.make_values(size - batch.len())?;
                    batch.resize(size, fill.clone());
                }
                batches.push(Value::List(List::new(batch)?));
            }
            Ok(Value::List(List::new(batches)?))
        }
        "slice" => {
            let args = args.bind(name, ["slices", "fill_with"])?;
            let (count, items) = (args.size(0, 0)?, items()?);
            if count == 0 {
                return fail("slice needs at least 1 slice");
            }
            meter.make_values(count)?;
            meter.make_values(items.items.len())?;
            let (each, more) = (items.items.len() / count, items.items.len() % count);
            let mut slices = Vec::new();
            let mut start = 0;
            for i in 0..count {
                let end = start + each + usize::from(i < more);
                let mut slice = items.items[start..end].to_vec();
                if let Some(fill) = args.get(1).filter(|_| more > 0 && i >= more) {
                    slice.push(fill.clone());
                }
                slices.push(Value::List(List::new(slice)?));
                start = end;
            }
            Ok(Value::List(List::new(slices)?))
        }
        other => fail(format!("there is no filter {:?}", shown(other))),
    }
}

/// What a path like `a.b.0` leads to.
fn attribute(value: &Value, path: &Value, meter: &Meter) -> Result<Value, Fault> {
    let Value::Text(path) = path else {
        let found = ops::item(value, path, meter)?;
        return Ok(found.unwrap_or_else(|| Value::undefined("the item")));
    };
    meter.look(path.len())?;
    let mut value = value.clone();
    for part in path.as_str().split('.') {
        ops::defined(&value)?;
        let key = match part.parse() {
            Ok(n) => Value::Int(n),
            Err(_) => Value::text(part),
        };
        let found = ops::item(&value, &key, meter)?;
        value = found.unwrap_or_else(|| Value::undefined(shown(part)));
    }
    Ok(value)
}

/// The items, or an attribute of each.
fn by(items: &Rc<List>, path: Option<&Value>, meter: &Meter) -> Result<Vec<Value>, Fault> {
    meter.make_values(items.items.len())?;
    match path.filter(|path| !matches!(path, Value::None)) {
        None => Ok(items.items.clone()),
        Some(path) => items
            .items
            .iter()
            .map(|item| attribute(item, path, meter))
            .collect(),
    }
}

/// What items are compared by.
fn keys(
    items: &Rc<List>,
    path: Option<&Value>,
    case_sensitive: bool,
    meter: &Meter,
) -> Result<Vec<Value>, Fault> {
    let fold = |key: Value| match key {
        Value::Text(text) if !case_sensitive => {
            crate::methods::case(&text, "lower", meter).map(Value::Text)
        }
        other => Ok(other),
    };
    by(items, path, meter)?.into_iter().map(fold).collect()
}

fn sorted(
    items: &Rc<List>,
    path: Option<&Value>,
    case_sensitive: bool,
    reverse: bool,
    meter: &Meter,
) -> Result<Vec<Value>, Fault> {
    // Several attributes, with commas between them, count one after another.
    let paths: Vec<Value> = match path {
        Some(Value::Text(text)) => text.as_str().split(',').map(Value::text).collect(),
        Some(Value::None) | None => Vec::new(),
        Some(other) => vec![other.clone()],
    };
    let keys = match &paths[..] {
        [] => keys(items, None, case_sensitive, meter)?,
        paths => {
            let mut all: Vec<Vec<Value>> = vec![Vec::new(); items.items.len()];
            for path in paths {
                let column = keys(items, Some(path), case_sensitive, meter)?;
                all.iter_mut()
                    .zip(column)
                    .for_each(|(row, key)| row.push(key));
            }
            let row = |row| Ok(Value::Tuple(List::new(row)?));
            all.into_iter().map(row).collect::<Result<_, Fault>>()?
        }
    };
    let mut places: Vec<usize> = (0..keys.len()).collect();
    sort(&mut places, meter, |a, b| {
        let order = ops::order(&keys[*a], &keys[*b], meter)?;
        Ok(order.map(|order| if reverse { order.reverse() } else { order }))
    })?;
    meter.make_values(places.len())?;
    Ok(places
        .into_iter()
        .map(|at| items.items[at].clone())
        .collect())
}

fn map(items: &Rc<List>, mut args: Args, meter: &Meter) -> Result<Value, Fault> {
    meter.make_values(items.items.len())?;
    if args.positional.is_empty() {
        let args = args.bind("map", ["attribute", "default"])?;
        let (path, default) = (args.need(0)?, args.get(1));
        let value = |item| {
            let value = attribute(item, path, meter)?;
            Ok(match default {
                Some(default) if value.is_undefined() => default.clone(),
                _ => value,
            })
        };
        let mapped = items
            .items
            .iter()
            .map(value)
            .collect::<Result<_, Fault>>()?;
        return Ok(Value::List(List::new(mapped)?));
    }
    let name = args.positional.remove(0);
    let name = name
        .as_text()
        .ok_or_else(|| mistake("map takes the name of a filter"))?;
    let mut mapped = Vec::new();
    for item in &items.items {
        let args = copy(&args, meter)?;
        mapped.push(meter.deeper(|| filters::apply(name.as_str(), item, args, meter))?);
    }
    Ok(Value::List(List::new(mapped)?))
}

fn copy(args: &Args, meter: &Meter) -> Result<Args, Fault> {
    meter.make_values(args.positional.len() + args.named.len())?;
    Ok(Args {
        positional: args.positional.clone(),
        named: args.named.clone(),
    })
}

fn pick(
    items: &Rc<List>,
    path: Option<Value>,
    wanted: bool,
    mut args: Args,
    meter: &Meter,
) -> Result<Value, Fault> {
    let name = match args.positional.is_empty() {
        true => None,
        false => Some(args.positional.remove(0)),
    };
    let mut picked = Vec::new();
    meter.make_values(items.items.len())?;
    for item in &items.items {
        let value = match &path {
            Some(path) => attribute(item, path, meter)?,
            None => item.clone(),
        };
        let holds = match &name {
            None => value.is_true(),
            Some(Value::Text(name)) => test(name.as_str(), &value, copy(&args, meter)?, meter)?,
            Some(_) => return fail("select takes the name of a test"),
        };
        if holds == wanted {
            picked.push(item.clone());
        }
    }
    Ok(Value::List(List::new(picked)?))
}

/// Jinja's test of this name.
pub(crate) fn test(name: &str, value: &Value, args: Args, meter: &Meter) -> Result<bool, Fault> {
    use crate::ast::Comparison::*;
    meter.work(1)?;
    let comparison = match name {
        "eq" | "equalto" | "==" => Some(Equal),
        "ne" | "!=" => Some(NotEqual),
        "lt" | "lessthan" | "<" => Some(Less),
        "le" | "<=" => Some(LessEqual),
        "gt" | "greaterthan" | ">" => Some(Greater),
        "ge" | ">=" => Some(GreaterEqual),
        "in" => Some(In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let args = args.bind(name, ["other"])?;
        return ops::compare(comparison, value, args.need(0)?, meter);
    }
    let cased = |method: &str| {
        let text = Value::Text(text_of(value, meter)?);
        let result = crate::methods::call(&text, method, Args::default(), meter)?;
        Ok::<_, Fault>(result.is_true())
    };
    match name {
        "divisibleby" => {
            let args = args.bind(name, ["num"])?;
            let rest = ops::binary(crate::ast::Binary::Remainder, value, args.need(0)?, meter)?;
            return Ok(!rest.is_true());
        }
        "sameas" => {
            let args = args.bind(name, ["other"])?;
            let other = args.need(0)?;
            let same = value.type_name() == other.type_name();
            return Ok(same && ops::equal(value, other, meter)?);
        }
        _ => args.none(name)?,
    }
    let odd = || {
        let n = crate::value::integer(value, name)?;
        Ok::<_, Fault>(n % 2 != 0)
    };
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Text(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Undefined(_)
        ),
        "iterable" => matches!(
            value,
            Value::Text(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Undefined(_)
                | Value::Loop(_)
        ),
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Undefined(_)
        ),
        "odd" => odd()?,
        "even" => !odd()?,
        "lower" => cased("islower")?,
        "upper" => cased("isupper")?,
        "escaped" => value.as_text().is_some_and(|text| text.safe),
        "filter" | "test" => match value {
            Value::Text(_) => return fail(format!("the test {name:?} is not known here")),
            _ => false,
        },
        other => return fail(format!("there is no test {:?}", shown(other))),
    })
}

/// `dict(pairs, name=value)`.
pub(crate) fn dict(args: Args, meter: &Meter) -> Result<Value, Fault> {
    let mut entries = indexmap::IndexMap::new();
    for from in &args.positional {
        if let Value::Dict(dict) = from {
            meter.make_values(4 * dict.entries.len())?;
            entries.extend(dict.entries.iter().map(|(k, v)| (k.clone(), v.clone())));
            continue;
        }
        for pair in &from.items(meter)?.items {
            meter.make_values(4)?;
            match &pair.items(meter)?.items[..] {
                [key, value] => drop(entries.insert(key.key(meter)?, value.clone())),
                _ => return fail("dict takes pairs of a key and a value"),
            }
        }
    }
    for (name, value) in args.named {
        meter.make_values(4)?;
        entries.insert(crate::value::Key::Text(Text::template(&name)), value);
    }
    Ok(Value::Dict(Dict::new(entries)?))
}

//! Operators, as Python has them.

use crate::ast::{Binary, Comparison};
use crate::error::{fail, mistake, Fault, Limit};
use crate::format;
use crate::meter::Meter;
use crate::text::{Builder, Text};
use crate::value::{Dict, List, Value};
use crate::write;
use std::cmp::Ordering;
use std::rc::Rc;

/// Says that a name has no value, where one is needed.
pub(crate) fn defined(value: &Value) -> Result<(), Fault> {
    match value {
        Value::Undefined(what) => fail(format!("undefined value ({what} is not there)")),
        _ => Ok(()),
    }
}

pub(crate) fn binary(op: Binary, a: &Value, b: &Value, meter: &Meter) -> Result<Value, Fault> {
    meter.work(1)?;
    defined(a)?;
    defined(b)?;
    match (op, a, b) {
        (Binary::Add, Value::Text(a), Value::Text(b)) => add_texts(a, b, meter),
        (Binary::Add, Value::List(a), Value::List(b)) => Ok(Value::List(join(a, b, meter)?)),
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => Ok(Value::Tuple(join(a, b, meter)?)),
        (Binary::Multiply, Value::Text(text), n) | (Binary::Multiply, n, Value::Text(text))
            if n.as_int().is_some() =>
        {
            repeat(text, times(n), meter)
        }
        (Binary::Multiply, Value::List(list), n) | (Binary::Multiply, n, Value::List(list))
            if n.as_int().is_some() =>
        {
            let count = times(n);
            let all = list.items.len().checked_mul(count).ok_or(Limit::Memory)?;
            meter.make_values(all)?;
            let items = list.items.iter().cycle().take(all).cloned();
            Ok(Value::List(List::new(items.collect())?))
        }
        (Binary::Remainder, Value::Text(pattern), arguments) => {
            format::percent(pattern, arguments, meter)
        }
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => integers(op, a, b),
            (_, _, Some(a), Some(b)) => floats(op, a, b),
            _ => fail(format!(
                "{} is not for a {} and a {}",
                sign(op),
                a.type_name(),
                b.type_name()
            )),
        },
    }
}

fn sign(op: Binary) -> &'static str {
    match op {
        Binary::Add => "+",
        Binary::Subtract => "-",
        Binary::Multiply => "*",
        Binary::Divide => "/",
        Binary::FloorDivide => "//",
        Binary::Remainder => "%",
        Binary::Power => "**",
    }
}

fn times(n: &Value) -> usize {
    usize::try_from(n.as_int().unwrap_or(0)).unwrap_or(0)
}

fn join(a: &Rc<List>, b: &Rc<List>, meter: &Meter) -> Result<Rc<List>, Fault> {
    meter.make_values(a.items.len() + b.items.len())?;
    List::new(a.items.iter().chain(&b.items).cloned().collect())
}

fn repeat(text: &Text, count: usize, meter: &Meter) -> Result<Value, Fault> {
    let count = if text.is_empty() { 0 } else { count };
    meter.make_times(text.len(), count)?;
    let mut builder = Builder::default();
    (0..count).for_each(|_| builder.push_all(text));
    Ok(Value::Text(builder.finish().with_safe(text.safe)))
}

/// Where one is safe for HTML, the other is made so.
fn add_texts(a: &Text, b: &Text, meter: &Meter) -> Result<Value, Fault> {
    meter.make(a.len() + b.len())?;
    let mut builder = Builder::default();
    let safe = a.safe || b.safe;
    for text in [a, b] {
        match safe && !text.safe {
            true => builder.push_all(&write::escape(text, meter)?),
            false => builder.push_all(text),
        }
    }
    Ok(Value::Text(builder.finish().with_safe(safe)))
}

fn overflow() -> Fault {
    mistake("a number has more than 64 bits")
}

fn integers(op: Binary, a: i64, b: i64) -> Result<Value, Fault> {
    let zero = || mistake("division by zero");
    let int = |n: Option<i64>| n.map(Value::Int).ok_or_else(overflow);
    match op {
        Binary::Add => int(a.checked_add(b)),
        Binary::Subtract => int(a.checked_sub(b)),
        Binary::Multiply => int(a.checked_mul(b)),
        Binary::Divide if b == 0 => Err(zero()),
        Binary::Divide => Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDivide | Binary::Remainder if b == 0 => Err(zero()),
        Binary::FloorDivide => {
            let quotient = a.checked_div(b).ok_or_else(overflow)?;
            let down = a.wrapping_rem(b) != 0 && (a < 0) != (b < 0);
            Ok(Value::Int(quotient - i64::from(down)))
        }
        Binary::Remainder => {
            let rest = a.wrapping_rem(b);
            let other_sign = rest != 0 && (rest < 0) != (b < 0);
            Ok(Value::Int(if other_sign { rest + b } else { rest }))
        }
        Binary::Power if b < 0 => floats(op, a as f64, b as f64),
        Binary::Power => match (a, u32::try_from(b)) {
            (0 | 1, _) => Ok(Value::Int(if b == 0 { 1 } else { a })),
            (-1, _) => Ok(Value::Int(if b % 2 == 0 { 1 } else { -1 })),
            (_, Ok(b)) if b <= 64 => int(a.checked_pow(b)),
            _ => Err(overflow()),
        },
    }
}

fn floats(op: Binary, a: f64, b: f64) -> Result<Value, Fault> {
    if b == 0.0 && matches!(op, Binary::Divide | Binary::FloorDivide | Binary::Remainder) {
        return fail("division by zero");
    }
    Ok(Value::Float(match op {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::FloorDivide => (a / b).floor(),
        Binary::Remainder => a - b * (a / b).floor(),
        Binary::Power => a.powf(b),
    }))
}

/// `a ~ b ~ c`: whatever they are, as text.
pub(crate) fn concat(values: &[Value], meter: &Meter) -> Result<Value, Fault> {
    let mut builder = Builder::default();
    for value in values {
        write::display(value, &mut builder, meter)?;
    }
    Ok(Value::Text(builder.finish()))
}

pub(crate) fn compare(
    comparison: Comparison,
    a: &Value,
    b: &Value,
    meter: &Meter,
) -> Result<bool, Fault> {
    let ordered = || order(a, b, meter);
    Ok(match comparison {
        Comparison::Equal => equal(a, b, meter)?,
        Comparison::NotEqual => !equal(a, b, meter)?,
        Comparison::Less => ordered()? == Some(Ordering::Less),
        Comparison::LessEqual => matches!(ordered()?, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => ordered()? == Some(Ordering::Greater),
        Comparison::GreaterEqual => matches!(ordered()?, Some(Ordering::Greater | Ordering::Equal)),
        Comparison::In => contains(b, a, meter)?,
        Comparison::NotIn => !contains(b, a, meter)?,
    })
}

pub(crate) fn equal(a: &Value, b: &Value, meter: &Meter) -> Result<bool, Fault> {
    meter.work(1)?;
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Text(a), Value::Text(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            meter.look(a.len())?;
            a == b
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(a, b, meter)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => equal_dicts(a, b, meter)?,
        (Value::Namespace(a), Value::Namespace(b)) => a == b,
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => a == b,
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => a == b,
            (_, _, Some(a), Some(b)) => a == b,
            _ => false,
        },
    })
}

fn equal_dicts(a: &Dict, b: &Dict, meter: &Meter) -> Result<bool, Fault> {
    if a.entries.len() != b.entries.len() {
        return Ok(false);
    }
    for (key, value) in &a.entries {
        if let crate::value::Key::Text(text) = key {
            meter.look(text.len())?;
        }
        match b.entries.get(key) {
            Some(other) if equal(value, other, meter)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// None for what is neither less nor more, as numbers that are none.
pub(crate) fn order(a: &Value, b: &Value, meter: &Meter) -> Result<Option<Ordering>, Fault> {
    meter.work(1)?;
    defined(a)?;
    defined(b)?;
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            meter.look(a.len().min(b.len()))?;
            Ok(Some(a.as_str().cmp(b.as_str())))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (x, y) in a.items.iter().zip(&b.items) {
                if !equal(x, y, meter)? {
                    return order(x, y, meter);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
            (_, _, Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => fail(format!(
                "a {} and a {} have no order",
                a.type_name(),
                b.type_name()
            )),
        },
    }
}

/// `item in container`.
pub(crate) fn contains(container: &Value, item: &Value, meter: &Meter) -> Result<bool, Fault> {
    meter.work(1)?;
    match container {
        Value::Undefined(_) => Ok(false),
        Value::Text(text) => {
            let Value::Text(part) = item else {
                defined(item)?;
                return fail(format!("a string contains no {}", item.type_name()));
            };
            meter.look(text.len() + part.len())?;
            let found = memchr::memmem::find(text.as_str().as_bytes(), part.as_str().as_bytes());
            Ok(found.is_some())
        }
        Value::Dict(dict) => Ok(match item.is_undefined() {
            true => false,
            false => dict.entries.contains_key(&item.key(meter)?),
        }),
        Value::List(list) | Value::Tuple(list) => {
            for candidate in &list.items {
                if equal(candidate, item, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        other => fail(format!("a {} contains nothing", other.type_name())),
    }
}

/// A place from the end or the beginning, if there is one.
fn place(at: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let at = if at < 0 { at.checked_add(length)? } else { at };
    (0..length).contains(&at).then_some(at as usize)
}

/// `value[key]`, or none if there is no such thing.
pub(crate) fn item(value: &Value, key: &Value, meter: &Meter) -> Result<Option<Value>, Fault> {
    meter.work(1)?;
    match value {
        Value::Dict(dict) => match key.key(meter) {
            Ok(key) => Ok(dict.entries.get(&key).cloned()),
            Err(Fault::Failed { .. }) => Ok(None),
            Err(limit) => Err(limit),
        },
        Value::List(list) | Value::Tuple(list) => {
            let at = key.as_int().and_then(|at| place(at, list.items.len()));
            Ok(at.map(|at| list.items[at].clone()))
        }
        Value::Text(text) => {
            let Some(at) = key.as_int() else {
                return Ok(None);
            };
            meter.look(text.len())?;
            let all = text.as_str();
            let found = match usize::try_from(at) {
                Ok(at) => all.char_indices().nth(at),
                Err(_) => usize::try_from(at.unsigned_abs() - 1)
                    .ok()
                    .and_then(|back| all.char_indices().nth_back(back)),
            };
            let part = found.map(|(at, c)| text.slice(at..at + c.len_utf8()));
            Ok(part.map(Value::Text))
        }
        _ => Ok(None),
    }
}

/// `value[start:stop:step]`.
pub(crate) fn slice(value: &Value, parts: [Value; 3], meter: &Meter) -> Result<Value, Fault> {
    defined(value)?;
    let part = |value: &Value| match value {
        Value::None => Ok(None),
        value => crate::value::integer(value, "a part of a slice").map(Some),
    };
    let [start, stop, step] = [part(&parts[0])?, part(&parts[1])?, part(&parts[2])?];
    let step = step.unwrap_or(1);
    if step == 0 {
        return fail("the step of a slice is 0");
    }
    let Some(length) = value
        .length(meter)?
        .filter(|_| !matches!(value, Value::Dict(_) | Value::Loop(_)))
    else {
        return fail(format!("a {} cannot be sliced", value.type_name()));
    };
    let length = length as i64;
    // As Python has it: counted from the end, then kept within the value.
    let clamp = |at: i64| {
        let at = if at < 0 {
            at.saturating_add(length)
        } else {
            at
        };
        match step > 0 {
            true => at.clamp(0, length),
            false => at.clamp(-1, length - 1),
        }
    };
    let (first, last) = match step > 0 {
        true => (start.map_or(0, clamp), stop.map_or(length, clamp)),
        false => (start.map_or(length - 1, clamp), stop.map_or(-1, clamp)),
    };
    if let (Value::Text(text), 1) = (value, step) {
        let (first, last) = (first as usize, last.max(first) as usize);
        let offset = |n: usize| {
            let found = text.as_str().char_indices().nth(n);
            found.map_or(text.len(), |(at, _)| at)
        };
        let range = offset(first)..offset(last);
        meter.make(range.len())?;
        return Ok(Value::Text(text.slice(range)));
    }
    let mut places = Vec::new();
    let mut at = first;
    while (step > 0 && at < last) || (step < 0 && at > last) {
        meter.make(8)?;
        places.push(at as usize);
        at = at.saturating_add(step);
    }
    match value {
        Value::Text(text) => {
            meter.make_times(8, length as usize)?;
            let offsets: Vec<_> = text.as_str().char_indices().collect();
            meter.make_times(4, places.len())?;
            let mut builder = Builder::default();
            for at in places {
                let (at, c) = offsets[at];
                builder.push(text, at..at + c.len_utf8());
            }
            Ok(Value::Text(builder.finish()))
        }
        Value::List(list) | Value::Tuple(list) => {
            meter.make_values(places.len())?;
            let items = places.iter().map(|&at| list.items[at].clone()).collect();
            let items = List::new(items)?;
            Ok(match value {
                Value::Tuple(_) => Value::Tuple(items),
                _ => Value::List(items),
            })
        }
        _ => fail(format!("a {} cannot be sliced", value.type_name())),
    }
}

pub(crate) fn negate(value: &Value) -> Result<Value, Fault> {
    defined(value)?;
    match (value.as_int(), value) {
        (Some(n), _) => n.checked_neg().map(Value::Int).ok_or_else(overflow),
        (_, Value::Float(n)) => Ok(Value::Float(-n)),
        _ => fail(format!("- is not for a {}", value.type_name())),
    }
}

pub(crate) fn plus(value: &Value) -> Result<Value, Fault> {
    defined(value)?;
    match (value.as_int(), value) {
        (Some(n), _) => Ok(Value::Int(n)),
        (_, Value::Float(_)) => Ok(value.clone()),
        _ => fail(format!("+ is not for a {}", value.type_name())),
    }
}

//! Keywords of plain values: types, numbers, counts, and lists of values.

use super::refs::Place;
use super::Kept;
use serde_json::{json, Map, Number, Value};
use std::collections::HashSet;

/// Values to choose from.
const MAX_VALUES: usize = 2_000;

/// Characters, items and properties that are counted.
const MAX_COUNT: u64 = 1_000_000;

/// The numbers that a divisor's digits may be: as many states a number's
/// grammar has.
pub(super) const MAX_DIVISOR: u64 = 1_000;

/// Whole numbers up to here are exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The largest and the least whole numbers of 64 bits that are exact.
const LARGEST: i64 = 9_223_372_036_854_774_784;
const LEAST: i64 = -LARGEST;

/// Values of an array without repetitions, all of whose orders are written out.
pub(super) const MAX_UNIQUE: usize = 6;

const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];

/// `type`, `const` and `enum`.
pub(super) fn check(place: &Place, key: &str) -> Kept<()> {
    let values = match (key, place.node) {
        ("type", Value::Array(all)) if all.is_empty() => {
            return Err(place.fault("it has to name a type at least"))
        }
        ("type", node) => {
            let all = node.as_array().map_or(std::slice::from_ref(node), |a| a);
            let unknown = |t: &&Value| t.as_str().is_none_or(|t| !TYPES.contains(&t));
            return match all.iter().find(unknown) {
                Some(t) => Err(place.fault(format!("{t} is none of {}", TYPES.join(", ")))),
                None => Ok(()),
            };
        }
        ("enum", Value::Array(all)) => all.as_slice(),
        ("enum", _) => return Err(place.fault("it has to be a list of values")),
        (_, one) => std::slice::from_ref(one),
    };
    if values.is_empty() {
        return Err(place.fault("it has to have a value at least"));
    }
    if values.len() > MAX_VALUES {
        let says = format!("{} values are more than {MAX_VALUES}", values.len());
        return Err(place.fault(says));
    }
    let inexact = |v: &&Value| {
        v.as_f64()
            .is_some_and(|v| v.abs() > EXACT && v.fract() == 0.0)
    };
    match values.iter().find(inexact) {
        Some(v) => Err(place.fault(format!(
            "{v} has more digits than a number here can have; write it as a string"
        ))),
        None => Ok(()),
    }
}

/// A count of something.
pub(super) fn count(place: &Place) -> Kept<u64> {
    let whole = |v: &Value| match v.as_f64() {
        Some(f) if f >= 0.0 && f.fract() == 0.0 && f < 1e19 => Some(f as u64),
        _ => None,
    };
    match whole(place.node) {
        Some(n) if n <= MAX_COUNT => Ok(n),
        Some(n) => Err(place.fault(format!("{n} is more than {MAX_COUNT}, which are the most"))),
        None => Err(place.fault("it has to be a whole number of at least 0")),
    }
}

/// Names of properties, each once.
pub(super) fn names(place: &Place) -> Kept<Vec<String>> {
    let (mut names, mut seen) = (Vec::new(), HashSet::new());
    // Draft 3 had a word there.
    if place.node.is_boolean() {
        return Ok(names);
    }
    for item in place.items()? {
        let name = item.text()?;
        if seen.insert(name) {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// A bound or a divisor.
pub(super) fn number(
    place: &Place,
    key: &str,
    map: &Map<String, Value>,
    out: &mut Map<String, Value>,
) -> Kept<()> {
    let (lower, upper) = (key.ends_with("inimum"), key.ends_with("aximum"));
    // Draft 4: whether the other bound is itself out of range.
    let (value, key) = match (place.node, key) {
        (Value::Bool(false), "exclusiveMinimum" | "exclusiveMaximum") => return Ok(()),
        (Value::Bool(true), "exclusiveMinimum" | "exclusiveMaximum") => {
            let other = if lower { "minimum" } else { "maximum" };
            match map.get(other) {
                Some(value) => (value, key),
                None => return Ok(()),
            }
        }
        (value, key) => (value, key),
    };
    let Some(float) = value.as_f64().filter(|f| f.is_finite()) else {
        return Err(place.fault("it has to be a number"));
    };
    if key == "multipleOf" {
        if float <= 0.0 {
            return Err(place.fault("it has to be more than 0"));
        }
        if divisor(value).is_none_or(|d| d > MAX_DIVISOR) {
            return Err(place.fault(format!(
                "\"multipleOf\" cannot be kept for {value}: its digits are to be {MAX_DIVISOR} at most"
            )));
        }
    }
    // Bounds that no float is go inwards.
    let near = value
        .as_number()
        .and_then(Number::as_i128)
        .filter(|n| float as i128 != *n);
    let float = match near {
        Some(n) if upper && float as i128 > n => float.next_down(),
        Some(n) if lower && (float as i128) < n => float.next_up(),
        _ => float,
    };
    // The compiler counts with 64 bits: what lies beyond is not written.
    let beyond = float.abs() > LARGEST as f64 && key != "multipleOf";
    if beyond && (float < 0.0) == lower {
        out.insert(key.into(), if lower { LEAST } else { LARGEST }.into());
        return Ok(());
    }
    let value = match near.and(Number::from_f64(float)) {
        Some(inward) => inward.into(),
        None => value.clone(),
    };
    out.insert(key.into(), value);
    Ok(())
}

/// A number without its zeros at the end and its point.
pub(super) fn divisor(value: &Value) -> Option<u64> {
    let text = format!("{}", value.as_f64()?);
    let text = match text.contains('.') {
        true => text.replace('.', ""),
        false => text.trim_end_matches('0').to_owned(),
    };
    text.parse().ok()
}

/// The least common multiple, as far as it can be counted.
pub(super) fn common(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}

/// Whether numbers are whole ones.
fn whole(map: &Map<String, Value>) -> bool {
    match map.get("type") {
        Some(Value::String(t)) => t == "integer",
        Some(Value::Array(all)) => {
            all.contains(&json!("integer")) && !all.contains(&json!("number"))
        }
        _ => false,
    }
}

/// Whole numbers that the schema does not bound have 64 bits at most.
pub(super) fn bound_integers(out: &mut Map<String, Value>) {
    if !whole(out) || out.contains_key("const") || out.contains_key("enum") {
        return;
    }
    let bound = |keys: [&str; 2]| keys.iter().find_map(|k| out.get(*k)?.as_f64());
    let lower = bound(["minimum", "exclusiveMinimum"]);
    let upper = bound(["maximum", "exclusiveMaximum"]);
    if lower.is_none() && upper.is_none_or(|u| u > LEAST as f64) {
        out.insert("minimum".into(), json!(LEAST));
    }
    if upper.is_none() && lower.is_none_or(|l| l < LARGEST as f64) {
        out.insert("maximum".into(), json!(LARGEST));
    }
}

/// An array of these values, none of them twice. A few are written out, in the
/// order of the schema; of many there are not more than these.
pub(super) fn unique(of: Value, out: &mut Map<String, Value>, all: &mut Vec<Value>) {
    let Value::Array(mut of) = of else { return };
    let mut seen = Vec::new();
    of.retain(|v| {
        let new = !seen.contains(v);
        seen.push(v.clone());
        new
    });
    let bound = |key: &str, without| out.get(key).and_then(Value::as_u64).unwrap_or(without);
    let (min, max) = (bound("minItems", 0), bound("maxItems", u64::MAX));
    let max = max.min(of.len() as u64);
    if of.len() > MAX_UNIQUE || min > max {
        out.insert("maxItems".into(), json!(max));
        return;
    }
    let mut forms: Vec<Value> = (0..1u32 << of.len())
        .filter(|set| (min..=max).contains(&u64::from(set.count_ones())))
        .map(|set| {
            let chosen = of.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
            let chosen: Vec<Value> = chosen.map(|(_, v)| json!({ "const": v })).collect();
            let n = chosen.len();
            match n {
                0 => json!({"type": "array", "maxItems": 0}),
                _ => json!({"type": "array", "prefixItems": chosen, "minItems": n, "maxItems": n}),
            }
        })
        .collect();
    if out.get("type") != Some(&json!("array")) {
        let others = ["null", "boolean", "number", "string", "object"];
        forms.push(json!({ "type": others }));
    }
    out.remove("items");
    all.push(json!({ "anyOf": forms }));
}

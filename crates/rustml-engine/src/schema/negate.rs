//! `not`, and `if` with `then` and `else`: what a schema leaves, where that can
//! be said.

use super::refs::Place;
use super::{json, Kept, Map, Pass, Value};

/// What a value may be, where integers are numbers.
const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// Keywords that change nothing.
const ANNOTATIONS: [&str; 9] = [
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
];

impl<'a> Pass<'a> {
    /// `if A then B else C` is `A and B`, or `not A and C`.
    pub(super) fn condition(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
    ) -> Kept<Option<Value>> {
        let Some(condition) = map.get("if") else {
            return Ok(None);
        };
        if !map.contains_key("then") && !map.contains_key("else") {
            return Ok(None);
        }
        let condition = place.child("if", condition);
        let mut part = |key: &str, with: Value| match map.get(key) {
            Some(part) => {
                let part = self.node(&place.child(key, part), true)?;
                Ok(json!({"allOf": [with, part]}))
            }
            None => Ok(with),
        };
        let no = part("else", json!({}))?;
        let yes = part("then", json!({}))?;
        let yes = json!({"allOf": [self.node(&condition, true)?, yes]});
        let no = json!({"allOf": [self.negated(&condition, Some(place))?, no]});
        Ok(Some(json!({"anyOf": [yes, no]})))
    }

    /// What is not valid by the schema at `place`. `beside` is the schema that
    /// says what else the value is.
    pub(super) fn negated(&mut self, place: &Place<'a>, beside: Option<&Place<'a>>) -> Kept {
        self.enter(place)?;
        let map = match place.node {
            Value::Bool(b) => return Ok(json!(!b)),
            Value::Object(map) => map,
            _ => return Err(place.fault("a schema is an object, or true or false")),
        };
        let mut parts = Vec::new();
        for (key, value) in map {
            let at = place.child(key, value);
            let bound = |key: &str, by: i64| -> Kept {
                let n = super::values::count(&at)? as i64 + by;
                Ok(match n >= 0 {
                    true => json!({"type": "string", key: n}),
                    false => json!(false),
                })
            };
            parts.push(match key.as_str() {
                key if ANNOTATIONS.contains(&key) => continue,
                "type" if map.contains_key("const") || map.contains_key("enum") => continue,
                "type" if beside.is_some_and(|b| is_within(b.node, value)) => continue,
                "type" => others(&at)?,
                "additionalProperties" if value == &json!(true) => continue,
                "format" | "$defs" | "definitions" => continue,
                "const" | "enum" => self.other_values(&at, beside)?,
                "required" => {
                    let names = super::values::names(&at)?;
                    let without = names.iter().map(|n| json!({"properties": {n: false}}));
                    json!({"anyOf": without.collect::<Vec<_>>()})
                }
                "properties" => self.other_properties(&at, beside)?,
                "minimum" => json!({"type": "number", "exclusiveMaximum": value}),
                "maximum" => json!({"type": "number", "exclusiveMinimum": value}),
                "exclusiveMinimum" if value.is_number() => {
                    json!({"type": "number", "maximum": value})
                }
                "exclusiveMaximum" if value.is_number() => {
                    json!({"type": "number", "minimum": value})
                }
                "minLength" => bound("maxLength", -1)?,
                "maxLength" => bound("minLength", 1)?,
                "not" => self.node(&at, true)?,
                "anyOf" => json!({"allOf": self.all_negated(&at, beside)?}),
                "allOf" => json!({"anyOf": self.all_negated(&at, beside)?}),
                _ => return Err(at.lost()),
            });
        }
        Ok(match parts.len() {
            0 => json!(false),
            1 => parts.remove(0),
            _ => json!({ "anyOf": parts }),
        })
    }

    fn all_negated(&mut self, place: &Place<'a>, beside: Option<&Place<'a>>) -> Kept<Vec<Value>> {
        let items = place.items()?;
        items.iter().map(|p| self.negated(p, beside)).collect()
    }

    /// An object that has one of these properties otherwise than here.
    fn other_properties(&mut self, place: &Place<'a>, beside: Option<&Place<'a>>) -> Kept {
        let mut parts = Vec::new();
        for (name, child) in place.fields()? {
            let known = beside.and_then(|b| self.property(b, name));
            let other = self.negated(&child, known.as_ref())?;
            parts.push(json!({"type": "object", "properties": {name: other}, "required": [name]}));
        }
        Ok(match parts.len() {
            0 => json!(false),
            _ => json!({ "anyOf": parts }),
        })
    }

    /// The schema of a property, where it stands.
    fn property(&self, of: &Place<'a>, name: &str) -> Option<Place<'a>> {
        let properties = of.node.get("properties")?;
        let at = of.child("properties", properties);
        Some(at.child(name, properties.get(name)?))
    }

    /// Values other than these: those of the schema beside, or of other types.
    fn other_values(&mut self, place: &Place<'a>, beside: Option<&Place<'a>>) -> Kept {
        let but: Vec<&Value> = match place.node {
            Value::Array(all) if place.at.ends_with("/enum") => all.iter().collect(),
            one => vec![one],
        };
        let left = match beside {
            Some(beside) => self.finite(beside),
            None => None,
        };
        if let Some(left) = left {
            let left: Vec<_> = left.into_iter().filter(|v| !but.contains(&v)).collect();
            return Ok(match left.is_empty() {
                true => json!(false),
                false => json!({ "enum": left }),
            });
        }
        let others: Vec<_> = TYPES
            .iter()
            .filter(|t| !but.iter().any(|v| is(v, t)))
            .collect();
        let mut parts = match others.is_empty() {
            true => Vec::new(),
            false => vec![json!({ "type": others })],
        };
        let (mut texts, mut numbers, mut booleans) = (Vec::new(), Vec::new(), Vec::new());
        for value in but {
            match value {
                Value::Null => {}
                Value::Bool(b) => booleans.push(*b),
                Value::Number(n) => numbers.extend(n.as_f64()),
                Value::String(text) => texts.push(text.as_str()),
                Value::Array(_) | Value::Object(_) => return Err(place.lost()),
            }
        }
        if !texts.is_empty() {
            let regex = super::pattern::others(&texts).ok_or_else(|| place.lost())?;
            parts.push(json!({"type": "string", "pattern": regex}));
        }
        if let [one] = booleans[..] {
            parts.push(json!({ "const": !one }));
        }
        numbers.sort_unstable_by(f64::total_cmp);
        for (i, n) in numbers.iter().enumerate() {
            let below = json!({"type": "number", "exclusiveMaximum": n});
            parts.push(match i.checked_sub(1) {
                None => below,
                Some(last) => json!({"allOf": [below, {"exclusiveMinimum": numbers[last]}]}),
            });
        }
        if let Some(last) = numbers.last() {
            parts.push(json!({"type": "number", "exclusiveMinimum": last}));
        }
        Ok(json!({ "anyOf": parts }))
    }
}

/// Whether a value is of a type.
fn is(value: &Value, kind: &str) -> bool {
    match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Number(_) => kind == "number",
        Value::String(_) => kind == "string",
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object",
    }
}

/// Whether a schema's values all are of these types.
fn is_within(node: &Value, types: &Value) -> bool {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_else(|| vec![v.clone()]);
    let (Some(own), types) = (node.get("type"), list(types)) else {
        return false;
    };
    let number = types.contains(&json!("number"));
    let fits = |t: &Value| types.contains(t) || number && t == "integer";
    list(own).iter().all(fits)
}

/// All types but these.
fn others(place: &Place) -> Kept {
    super::values::check(place, "type")?;
    let these = place.node.as_array();
    let these = these.map_or(std::slice::from_ref(place.node), |a| a);
    if these.contains(&json!("integer")) && !these.contains(&json!("number")) {
        return Err(place.lost());
    }
    let left: Vec<_> = TYPES
        .iter()
        .filter(|t| !these.contains(&json!(t)))
        .collect();
    Ok(match left.is_empty() {
        true => json!(false),
        false => json!({ "type": left }),
    })
}

//! `oneOf`: exactly one of several schemas.
//!
//! Where no value of one is valid by another, that is `anyOf`. Where some are,
//! they are taken out, if what is left can be said.

use super::objects::Known;
use super::refs::Place;
use super::{json, Kept, Pass, Value};

/// References and properties that are followed to tell two schemas apart.
const MAX_STEPS: usize = 8;

const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];

impl<'a> Pass<'a> {
    pub(super) fn one_of(&mut self, place: &Place<'a>, open: bool) -> Kept<Vec<Value>> {
        let items = place.items()?;
        if items.is_empty() {
            return Err(place.fault("it has to name a schema at least"));
        }
        let mut parts = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let mut all = vec![self.node(item, open)?];
            let others = items.iter().enumerate().filter(|(j, _)| *j != i);
            for (j, other) in others {
                self.enter(other)?;
                if self.excludes(item, other, open, MAX_STEPS) {
                    continue;
                }
                let (this, that) = (self.behind(item), self.behind(other));
                let rest = self.negated(&that, Some(&this)).map_err(|fault| {
                    let keyword = fault.at.rsplit('/').next().unwrap_or_default().to_owned();
                    place.fault(format!(
                        "what is valid by {i} may be valid by {j} as well, and {keyword:?} of it \
                         cannot be ruled out; give both a property with another \"const\" each, \
                         or use \"anyOf\""
                    ))
                })?;
                all.push(rest);
            }
            parts.push(match all.len() {
                1 => all.remove(0),
                _ => json!({ "allOf": all }),
            });
        }
        Ok(parts)
    }

    /// What a schema refers to, if that is all it does.
    fn behind(&mut self, place: &Place<'a>) -> Place<'a> {
        let mut place = place.clone();
        for _ in 0..MAX_STEPS {
            let Some(to) = place.node.get("$ref") else {
                break;
            };
            match self.resolve(&place.child("$ref", to)) {
                Ok(target) => place = target,
                Err(_) => break,
            }
        }
        place
    }

    /// Whether no value that is written by schema `a` is valid by `b`.
    fn excludes(&mut self, a: &Place<'a>, b: &Place<'a>, open: bool, steps: usize) -> bool {
        let Some(steps) = steps.checked_sub(1) else {
            return false;
        };
        let (a, b) = (self.behind(a), self.behind(b));
        let (of_a, of_b) = (self.types(&a), self.types(&b));
        if !of_a.iter().any(|t| of_b.contains(t)) {
            return true;
        }
        if let (Some(one), Some(other)) = (self.finite(&a), self.finite(&b)) {
            return !one.iter().any(|v| other.contains(v));
        }
        let bound = |p: &Place, key: &str| p.node.get(key).and_then(Value::as_f64);
        let below = |p: &Place, q: &Place| {
            let pair = |upper, lower| Some((bound(p, upper)?, bound(q, lower)?));
            pair("maximum", "minimum").is_some_and(|(u, l)| u < l)
                || pair("exclusiveMaximum", "minimum").is_some_and(|(u, l)| u <= l)
                || pair("maximum", "exclusiveMinimum").is_some_and(|(u, l)| u <= l)
        };
        let numbers = |types: &[&str]| types.iter().all(|t| matches!(*t, "integer" | "number"));
        if numbers(&of_a) && numbers(&of_b) && (below(&a, &b) || below(&b, &a)) {
            return true;
        }
        if of_a != ["object"] && of_b != ["object"] {
            return false;
        }
        self.excludes_objects(&a, &b, open, steps)
    }

    fn excludes_objects(&mut self, a: &Place<'a>, b: &Place<'a>, open: bool, steps: usize) -> bool {
        let required = |p: &Place, name: &str| {
            let names = p.node.get("required").and_then(Value::as_array);
            names.is_some_and(|all| all.iter().any(|n| n == name))
        };
        let wanted = b.node.get("required").and_then(Value::as_array);
        let wanted: Vec<&str> = wanted
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut known = Known::default();
        let closed = !open && self.known(a, &mut known);
        if closed && wanted.iter().any(|n| !known.has.contains(*n)) {
            return true;
        }
        let property = |p: &Place<'a>, name: &str| {
            let all = p.node.get("properties")?;
            Some(p.child("properties", all).child(name, all.get(name)?))
        };
        let names = a.node.get("required").and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(Value::as_str);
        names
            .filter(|n| required(b, n))
            .any(|name| match (property(a, name), property(b, name)) {
                (Some(one), Some(other)) => self.excludes(&one, &other, false, steps),
                _ => false,
            })
    }

    /// The types that a value may have.
    fn types(&mut self, place: &Place<'a>) -> Vec<&'static str> {
        let all = match place.node {
            Value::Bool(false) => return Vec::new(),
            node => node.get("type"),
        };
        if let Some(values) = self.finite(place) {
            let of = |v: &Value| match v {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            return values.iter().map(of).collect();
        }
        let named = |t: &str| match all {
            None => true,
            Some(Value::Array(all)) => all.iter().any(|a| a == t),
            Some(one) => one == t,
        };
        let mut types: Vec<_> = TYPES.into_iter().filter(|t| named(t)).collect();
        // Whole numbers are numbers.
        if types.contains(&"integer") && !types.contains(&"number") {
            types.push("number");
        }
        types
    }
}

//! JSON schemas as people write them, in the form that the grammar compiler
//! reads.
//!
//! What libraries write is more than what can be compiled: keywords that a
//! grammar has no word for are said by those it has. Every reference becomes one
//! to a definition at the root, whatever it looked like; annotations go. What
//! cannot be kept is refused, by its keyword and place.
//!
//! Objects with `properties` and no word on others are closed: small models fill
//! them with keys of their own until there is no room. `additionalProperties`,
//! also `true`, is kept as it is.

mod choice;
mod negate;
mod objects;
mod pattern;
mod refs;
mod values;

pub(crate) use pattern::check as check_regex;

use refs::{Index, Place};
use serde_json::{json, Map, Value};
use std::collections::HashMap;

/// Schemas within a schema, each as often as it is written out.
const MAX_NODES: usize = 10_000;

/// Bytes that may be written out more than once.
const MAX_COPIES: usize = 1 << 20;

/// Keywords that apply schemas to the same value.
const IN_PLACE: [&str; 9] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "dependentSchemas",
    "dependencies",
];

/// Why a schema cannot be kept, and where.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    /// A JSON pointer.
    pub at: String,
    pub why: String,
}

type Kept<T = Value> = Result<T, Fault>;

/// Puts a schema in that form.
pub(crate) fn normalize(schema: &Value) -> Kept {
    let mut pass = Pass {
        root: schema,
        names: HashMap::new(),
        waiting: Vec::new(),
        index: Index::default(),
        nodes: 0,
        copies: 0,
        divisors: Vec::new(),
        divided: false,
    };
    let mut root = pass.node(&Place::root(schema), false)?;
    let mut defs = Map::new();
    while let Some((name, place, open)) = pass.waiting.pop() {
        let normal = pass.node(&place, open)?;
        defs.insert(name, normal);
    }
    if let (Value::Object(root), false) = (&mut root, defs.is_empty()) {
        root.insert("$defs".into(), defs.into());
    }
    Ok(root)
}

/// The way through a schema.
struct Pass<'a> {
    root: &'a Value,
    /// Definitions by their schema's address, and whether they stay open.
    names: HashMap<(usize, bool), String>,
    waiting: Vec<(String, Place<'a>, bool)>,
    index: Index<'a>,
    nodes: usize,
    copies: usize,
    /// Digits of all divisors, and whether some may have to hold at once.
    divisors: Vec<u64>,
    divided: bool,
}

impl<'a> Pass<'a> {
    /// Counts a schema.
    fn enter(&mut self, place: &Place) -> Kept<()> {
        self.nodes += 1;
        match self.nodes > MAX_NODES {
            true => Err(place.fault(format!(
                "there are more than {MAX_NODES} schemas up to here"
            ))),
            false => Ok(()),
        }
    }

    /// Counts so many copies of a value, before they are made.
    fn copy(&mut self, place: &Place, value: &Value, times: usize) -> Kept<()> {
        self.copies = self
            .copies
            .saturating_add(weight(value).saturating_mul(times));
        match self.copies > MAX_COPIES {
            true => Err(place.fault("this takes too much once it is written out")),
            false => Ok(()),
        }
    }

    /// A schema in its new form. One that is `open` shares its object with
    /// others, which know more properties.
    fn node(&mut self, place: &Place<'a>, open: bool) -> Kept {
        self.enter(place)?;
        let map = match place.node {
            Value::Bool(_) => return Ok(place.node.clone()),
            Value::Object(map) => map,
            _ => return Err(place.fault("a schema is an object, or true or false")),
        };
        let parts_open = open || !is_union(map);
        let (mut out, mut all) = (Map::new(), Vec::new());
        for (key, value) in map {
            let at = || place.child(key, value);
            match key.as_str() {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    let name = self.reference(&at(), parts_open)?;
                    let target = format!("#/$defs/{name}");
                    match key.as_str() {
                        "$ref" => drop(out.insert("$ref".into(), target.into())),
                        _ => all.push(json!({ "$ref": target })),
                    }
                }
                "oneOf" => {
                    let parts = self.one_of(&at(), parts_open)?;
                    match out.contains_key("anyOf") || map.contains_key("anyOf") {
                        true => all.push(json!({ "anyOf": parts })),
                        false => drop(out.insert("anyOf".into(), parts.into())),
                    }
                }
                "anyOf" | "allOf" => {
                    let parts = self.list(&at(), parts_open)?;
                    if parts.is_empty() {
                        return Err(at().fault("it has to name a schema at least"));
                    }
                    match key.as_str() {
                        "allOf" => all.extend(parts),
                        _ => drop(out.insert(key.clone(), parts.into())),
                    }
                }
                "not" => all.push(self.negated(&at(), Some(place))?),
                "if" => all.extend(self.condition(place, map)?),
                "const" | "enum" | "type" => {
                    values::check(&at(), key)?;
                    // As OpenAPI 3.0 says it.
                    let or_null = key == "type" && map.get("nullable") == Some(&json!(true));
                    let value = match or_null && value.is_string() {
                        true => json!([value, "null"]),
                        false => value.clone(),
                    };
                    out.insert(key.clone(), value);
                }
                "properties" | "patternProperties" => {
                    let children = self.properties(&at(), key == "patternProperties")?;
                    out.insert(key.clone(), children);
                }
                "additionalProperties" => {
                    let child = self.node(&at(), false)?;
                    out.insert(key.clone(), child);
                }
                "prefixItems" => {
                    let items = self.list(&at(), false)?;
                    out.insert(key.clone(), items.into());
                }
                // As before 2020-12.
                "items" if value.is_array() => {
                    let items = self.list(&at(), false)?;
                    out.insert("prefixItems".into(), items.into());
                    if let Some(rest) = map.get("additionalItems") {
                        let rest = self.node(&place.child("additionalItems", rest), false)?;
                        out.insert("items".into(), rest);
                    }
                }
                "items" => {
                    let child = self.node(&at(), false)?;
                    out.insert(key.clone(), child);
                }
                "dependentRequired" | "dependentSchemas" | "dependencies" => {
                    all.extend(self.dependencies(&at())?);
                }
                "pattern" => all.extend(pattern::keep(&at(), map, &mut out)?),
                "format" => {
                    let format = at().text()?;
                    if pattern::is_known_format(format) {
                        out.insert(key.clone(), value.clone());
                    }
                }
                "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
                | "maxProperties" => drop(out.insert(key.clone(), values::count(&at())?.into())),
                "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                    values::number(&at(), key, map, &mut out)?;
                }
                "required" => drop(out.insert(key.clone(), values::names(&at())?.into())),
                "unevaluatedItems" if value == &json!(false) => match map.get("prefixItems") {
                    Some(_) => drop(out.insert("items".into(), json!(false))),
                    None => return Err(at().lost()),
                },
                "unevaluatedProperties" | "unevaluatedItems" => {
                    let allowed = [json!(true), json!(false), json!({})];
                    if !allowed.contains(value) {
                        return Err(at().lost());
                    }
                }
                "maxContains" if map.contains_key("contains") => return Err(at().lost()),
                // Annotations, and what belongs to another keyword.
                _ => {}
            }
        }
        self.arrays(place, map, &mut out, &mut all)?;
        self.names(place, map, &mut out)?;
        self.close(place, map, open, &mut out)?;
        values::bound_integers(&mut out);
        self.divide(place, &out, all.len())?;
        if !all.is_empty() {
            out.insert("allOf".into(), all.into());
        }
        Ok(out.into())
    }

    /// Bounds divisors that hold at once, by all that there are.
    fn divide(&mut self, place: &Place, out: &Map<String, Value>, all: usize) -> Kept<()> {
        let mut parts = all;
        if let Some(by) = out.get("multipleOf").and_then(values::divisor) {
            parts += 1;
            self.divisors.push(by);
        }
        parts += ["$ref", "anyOf"]
            .iter()
            .filter(|k| out.contains_key(**k))
            .count();
        self.divided |= parts > 1;
        self.divisors.sort_unstable();
        self.divisors.dedup();
        let least = self.divisors.iter().fold(1, |a, b| values::common(a, *b));
        match self.divided && least > values::MAX_DIVISOR {
            true => Err(place.fault(format!(
                "\"multipleOf\" cannot be kept for several divisors at once whose least common \
                 multiple has digits beyond {}",
                values::MAX_DIVISOR
            ))),
            false => Ok(()),
        }
    }

    fn list(&mut self, place: &Place<'a>, open: bool) -> Kept<Vec<Value>> {
        let items = place.items()?;
        let node = |place: &Place<'a>| self.node(place, open);
        items.iter().map(node).collect()
    }

    /// `contains` and `uniqueItems`. What an array has to contain comes first
    /// in it.
    fn arrays(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
        all: &mut Vec<Value>,
    ) -> Kept<()> {
        const MOST: u64 = 20;
        if let Some(contains) = map.get("contains") {
            let least = match map.get("minContains") {
                Some(least) => values::count(&place.child("minContains", least))?,
                None => 1,
            };
            if least > MOST {
                let says = format!("{least} is more than {MOST}, which are the most");
                return Err(place.child("minContains", contains).fault(says));
            }
            let wanted = self.node(&place.child("contains", contains), false)?;
            let wanted = match out.get("items") {
                Some(items) => {
                    self.copy(place, items, 1)?;
                    json!({"allOf": [items, wanted]})
                }
                None => wanted,
            };
            self.copy(place, &wanted, least as usize)?;
            let mut first = match out.remove("prefixItems") {
                Some(Value::Array(first)) => first,
                _ => Vec::new(),
            };
            first.extend((0..least).map(|_| wanted.clone()));
            let min = out.get("minItems").and_then(Value::as_u64).unwrap_or(0);
            if least > 0 {
                out.insert("minItems".into(), json!(min.max(first.len() as u64)));
            }
            if !first.is_empty() {
                out.insert("prefixItems".into(), first.into());
            }
        }
        let Some(unique) = map.get("uniqueItems").filter(|u| **u != json!(false)) else {
            return Ok(());
        };
        if unique != &json!(true) {
            return Err(place
                .child("uniqueItems", unique)
                .fault("it is true or false"));
        }
        let items = map.get("items").filter(|i| !i.is_array());
        let of = match items {
            Some(items) => self.finite(&place.child("items", items)),
            None => None,
        };
        if let (Some(of), None) = (of, out.get("prefixItems")) {
            let of = Value::from(of);
            self.copy(place, &of, 1 << values::MAX_UNIQUE)?;
            values::unique(of, out, all);
        }
        Ok(())
    }

    /// The values that a schema has, if they can be counted.
    fn finite(&mut self, place: &Place<'a>) -> Option<Vec<Value>> {
        let mut place = place.clone();
        for _ in 0..8 {
            let map = place.node.as_object()?;
            match map.get("$ref") {
                Some(to) => place = self.resolve(&place.child("$ref", to)).ok()?,
                None => {
                    let booleans = || vec![json!(false), json!(true)];
                    return match (map.get("enum"), map.get("const"), map.get("type")) {
                        (Some(Value::Array(all)), ..) => Some(all.clone()),
                        (_, Some(one), _) => Some(vec![one.clone()]),
                        (.., Some(Value::String(t))) if t == "boolean" => Some(booleans()),
                        (.., Some(Value::String(t))) if t == "null" => Some(vec![Value::Null]),
                        _ => None,
                    };
                }
            }
        }
        None
    }
}

/// Whether a schema is nothing but others in its place, one of which an object
/// is: each closes it for itself.
fn is_union(map: &Map<String, Value>) -> bool {
    let parts = IN_PLACE.iter().filter(|k| map.contains_key(**k)).count();
    let apart = ["if", "dependentSchemas", "dependencies"];
    let own = map.keys().any(|k| objects::KEYWORDS.contains(&k.as_str()));
    let several = map.get("allOf").and_then(Value::as_array);
    let several = several.is_some_and(|all| all.len() > 1);
    parts == 1 && !own && !several && !apart.iter().any(|k| map.contains_key(*k))
}

/// About the bytes of a value.
fn weight(value: &Value) -> usize {
    let (mut sum, mut open) = (0, vec![value]);
    while let Some(value) = open.pop() {
        sum += 8;
        match value {
            Value::String(text) => sum += text.len(),
            Value::Array(all) => open.extend(all),
            Value::Object(all) => {
                sum += all.keys().map(|k| k.len() + 8).sum::<usize>();
                open.extend(all.values());
            }
            _ => {}
        }
    }
    sum
}

//! Keywords of objects.

use super::refs::Place;
use super::{json, pattern, Kept, Map, Pass, Value, IN_PLACE};
use std::collections::HashSet;

/// Keywords that say what an object has.
pub(super) const KEYWORDS: [&str; 7] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "required",
    "dependentRequired",
];

/// Properties of a schema.
const MAX_PROPERTIES: usize = 2_000;

/// What depends on a property doubles what an object may be.
const MAX_DEPENDENCIES: usize = 8;

impl<'a> Pass<'a> {
    pub(super) fn properties(&mut self, place: &Place<'a>, patterns: bool) -> Kept {
        let fields = place.fields()?;
        if fields.len() > MAX_PROPERTIES {
            let says = format!("{} properties are more than {MAX_PROPERTIES}", fields.len());
            return Err(place.fault(says));
        }
        let mut out = Map::new();
        for (name, child) in fields {
            if patterns {
                pattern::check(name).map_err(|e| child.fault(e))?;
            }
            let node = self.node(&child, false)?;
            out.insert(name.clone(), node);
        }
        Ok(out.into())
    }

    /// `propertyNames`: the properties that have such names, or a pattern of
    /// them.
    pub(super) fn names(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Kept<()> {
        let Some(names) = map.get("propertyNames") else {
            return Ok(());
        };
        let mut names = place.child("propertyNames", names);
        for _ in 0..8 {
            match names.node.get("$ref") {
                Some(to) => names = self.resolve(&names.child("$ref", to))?,
                None => break,
            }
        }
        let of = match names.node {
            Value::Bool(true) => return Ok(()),
            Value::Object(of) => of,
            _ => return Err(names.lost()),
        };
        let rest = match out.get("additionalProperties") {
            Some(rest) => rest.clone(),
            None => json!(true),
        };
        if let Some(values) = self.finite(&names) {
            if out.contains_key("patternProperties") {
                return Err(names.lost());
            }
            let given = match out.remove("properties") {
                Some(Value::Object(given)) => given,
                _ => Map::new(),
            };
            self.copy(&names, &rest, values.len())?;
            let named = values.iter().filter_map(Value::as_str);
            let named = named.map(|n| (n.to_owned(), given.get(n).unwrap_or(&rest).clone()));
            out.insert("properties".into(), Value::Object(named.collect()));
            out.insert("additionalProperties".into(), json!(false));
            return Ok(());
        }
        let Some(regex) = pattern::of_names(&names, of)? else {
            return Ok(());
        };
        if out.contains_key("patternProperties") || out.contains_key("properties") {
            return Err(names.lost());
        }
        out.insert("patternProperties".into(), json!({ regex: rest }));
        out.insert("additionalProperties".into(), json!(false));
        Ok(())
    }

    /// Closes an object that says nothing on other properties.
    pub(super) fn close(
        &mut self,
        place: &Place<'a>,
        map: &'a Map<String, Value>,
        open: bool,
        out: &mut Map<String, Value>,
    ) -> Kept<()> {
        if open || super::is_union(map) || out.contains_key("additionalProperties") {
            return Ok(());
        }
        let mut known = Known::default();
        if !self.known(place, &mut known) || !(known.any || known.asked) {
            return Ok(());
        }
        let names = known.names.into_iter().map(Value::from).collect();
        self.copy(place, &names, 1)?;
        let properties = out.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            for name in names
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                properties.entry(name).or_insert(json!(true));
            }
        }
        out.insert("additionalProperties".into(), json!(false));
        Ok(())
    }

    /// Collects what properties are known in a place; `false` if others are
    /// let in.
    pub(super) fn known(&mut self, place: &Place<'a>, known: &mut Known) -> bool {
        let Some(map) = place.node.as_object() else {
            return true;
        };
        if !known.seen.insert(std::ptr::from_ref(map) as usize) {
            return true;
        }
        for (key, value) in map {
            let at = place.child(key, value);
            match key.as_str() {
                "properties" => {
                    known.any = true;
                    let names = value.as_object().into_iter().flat_map(Map::keys);
                    known.add(names.map(String::as_str));
                }
                "required" => {
                    let names = value.as_array().into_iter().flatten();
                    known.add(names.filter_map(Value::as_str));
                }
                "unevaluatedProperties" if value == &json!(false) => known.asked = true,
                "additionalProperties" if value == &json!(false) => {}
                "patternProperties"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "propertyNames" => return false,
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    if let Ok(to) = self.resolve(&at) {
                        if !self.known(&to, known) {
                            return false;
                        }
                    }
                }
                "then" | "else" | "if" if !self.known(&at, known) => return false,
                "then" | "else" | "if" => {}
                "dependentSchemas" | "dependencies" => {
                    for (_, part) in at.fields().unwrap_or_default() {
                        if !self.known(&part, known) {
                            return false;
                        }
                    }
                }
                key if IN_PLACE.contains(&key) => {
                    for part in at.items().unwrap_or_default() {
                        if !self.known(&part, known) {
                            return false;
                        }
                    }
                }
                _ => {}
            }
        }
        true
    }

    /// What an object has to be like that has a certain property.
    pub(super) fn dependencies(&mut self, place: &Place<'a>) -> Kept<Vec<Value>> {
        let fields = place.fields()?;
        if fields.len() > MAX_DEPENDENCIES {
            let says = format!("{} are more than {MAX_DEPENDENCIES}", fields.len());
            return Err(place.fault(says));
        }
        let mut all = Vec::new();
        for (name, child) in fields {
            let wanted = match child.node {
                Value::Array(_) => {
                    let mut required = super::values::names(&child)?;
                    required.insert(0, name.clone());
                    required.dedup();
                    json!({ "required": required })
                }
                _ => {
                    let wanted = self.node(&child, true)?;
                    json!({"required": [name], "allOf": [wanted]})
                }
            };
            all.push(json!({"anyOf": [{"properties": {name: false}}, wanted]}));
        }
        Ok(all)
    }
}

/// Properties that are known.
#[derive(Default)]
pub(super) struct Known {
    names: Vec<String>,
    pub has: HashSet<String>,
    seen: HashSet<usize>,
    /// Whether `properties` stands somewhere.
    any: bool,
    /// Whether the schema itself asks for no others.
    asked: bool,
}

impl Known {
    fn add<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        for name in names {
            if self.has.insert(name.into()) {
                self.names.push(name.into());
            }
        }
    }
}

//! Where in a schema one is, and where its references lead.

use super::{Fault, Kept, Pass};
use serde_json::Value;
use std::collections::HashMap;

/// A value within the schema.
#[derive(Clone)]
pub(super) struct Place<'a> {
    pub node: &'a Value,
    /// Its JSON pointer.
    pub at: String,
    /// The resource it is in, whose root `#` is: the nearest schema around it
    /// that has an `$id`.
    base: &'a Value,
    base_at: String,
}

impl<'a> Place<'a> {
    pub fn root(node: &'a Value) -> Place<'a> {
        Place {
            node,
            at: String::new(),
            base: node,
            base_at: String::new(),
        }
    }

    pub fn child(&self, key: &str, node: &'a Value) -> Place<'a> {
        let key = key.replace('~', "~0").replace('/', "~1");
        let at = format!("{}/{key}", self.at);
        match id(node) {
            Some(_) => Place {
                node,
                base: node,
                base_at: at.clone(),
                at,
            },
            None => Place {
                node,
                at,
                base: self.base,
                base_at: self.base_at.clone(),
            },
        }
    }

    /// The root of its resource.
    fn base(&self) -> Place<'a> {
        Place {
            node: self.base,
            at: self.base_at.clone(),
            base: self.base,
            base_at: self.base_at.clone(),
        }
    }

    pub fn fault(&self, why: impl Into<String>) -> Fault {
        let why = why.into();
        Fault {
            at: self.at.clone(),
            why,
        }
    }

    /// What cannot be kept.
    pub fn lost(&self) -> Fault {
        let keyword = self.at.rsplit('/').next().unwrap_or_default();
        self.fault(format!(
            "{keyword:?} cannot be kept in an answer in this form; leave it out"
        ))
    }

    pub fn text(&self) -> Kept<&'a str> {
        let text = self.node.as_str();
        text.ok_or_else(|| self.fault("it has to be a string"))
    }

    pub fn items(&self) -> Kept<Vec<Place<'a>>> {
        let items = self.node.as_array();
        let items = items.ok_or_else(|| self.fault("it has to be a list"))?;
        let place = |(i, v): (usize, &'a Value)| self.child(&i.to_string(), v);
        Ok(items.iter().enumerate().map(place).collect())
    }

    pub fn fields(&self) -> Kept<Vec<(&'a String, Place<'a>)>> {
        let fields = self.node.as_object();
        let fields = fields.ok_or_else(|| self.fault("it has to be an object"))?;
        Ok(fields.iter().map(|(k, v)| (k, self.child(k, v))).collect())
    }
}

/// The name of a resource.
fn id(node: &Value) -> Option<&str> {
    let id = node.get("$id")?.as_str()?;
    (!id.starts_with('#')).then(|| id.trim_end_matches('#'))
}

impl<'a> Pass<'a> {
    /// The name of the definition that a reference becomes.
    pub fn reference(&mut self, from: &Place<'a>, open: bool) -> Kept<String> {
        let target = self.resolve(from)?;
        let key = (std::ptr::from_ref(target.node) as usize, open);
        if let Some(name) = self.names.get(&key) {
            return Ok(name.clone());
        }
        let name = format!("d{}", self.names.len());
        self.names.insert(key, name.clone());
        self.waiting.push((name.clone(), target, open));
        Ok(name)
    }

    /// The schema that a reference means.
    pub fn resolve(&mut self, from: &Place<'a>) -> Kept<Place<'a>> {
        let text = from.text()?;
        let nowhere = || {
            from.fault(format!(
                "{text:?} refers to nothing in this schema; definitions have to be part of it"
            ))
        };
        let (resource, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut place = match resource {
            "" => from.base(),
            _ if id(from.base).is_some_and(|id| same(id, resource)) => from.base(),
            _ => {
                let index = self.index.of(self.root);
                let named = |p: &&Place| id(p.node).is_some_and(|id| same(id, resource));
                index.ids.iter().find(named).cloned().ok_or_else(nowhere)?
            }
        };
        let fragment = unescape(fragment);
        if fragment.is_empty() || fragment == "/" {
            return Ok(place);
        }
        let Some(pointer) = fragment.strip_prefix('/') else {
            let key = (std::ptr::from_ref(place.base) as usize, fragment);
            let anchors = &self.index.of(self.root).anchors;
            return anchors.get(&key).cloned().ok_or_else(nowhere);
        };
        for key in pointer.split('/') {
            let key = key.replace("~1", "/").replace("~0", "~");
            let next = match place.node {
                Value::Array(all) => key.parse().ok().and_then(|i: usize| all.get(i)),
                node => node.get(&key),
            };
            place = place.child(&key, next.ok_or_else(nowhere)?);
        }
        Ok(place)
    }
}

/// Whether a reference's address is a resource's, be it relative.
fn same(id: &str, resource: &str) -> bool {
    id == resource || id.strip_suffix(resource).is_some_and(|a| a.ends_with('/'))
}

/// What has a name of its own, found once.
#[derive(Default)]
pub(super) struct Index<'a> {
    ids: Vec<Place<'a>>,
    /// By resource and name.
    anchors: HashMap<(usize, String), Place<'a>>,
    made: bool,
}

impl<'a> Index<'a> {
    fn of(&mut self, root: &'a Value) -> &Index<'a> {
        if std::mem::replace(&mut self.made, true) {
            return self;
        }
        let mut open = vec![Place::root(root)];
        while let Some(place) = open.pop() {
            for key in ["$anchor", "$dynamicAnchor"] {
                if let Some(name) = place.node.get(key).and_then(Value::as_str) {
                    let key = (std::ptr::from_ref(place.base) as usize, name.to_owned());
                    self.anchors.entry(key).or_insert_with(|| place.clone());
                }
            }
            match place.node {
                Value::Array(all) => {
                    let children = all.iter().enumerate().rev();
                    open.extend(children.map(|(i, v)| place.child(&i.to_string(), v)));
                }
                Value::Object(all) => {
                    open.extend(all.iter().rev().map(|(k, v)| place.child(k, v)));
                }
                _ => {}
            }
            if id(place.node).is_some() {
                self.ids.push(place);
            }
        }
        self
    }
}

/// `%25` is `%`, as addresses write it.
fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        rest = match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                &after[2..]
            }
            _ => {
                bytes.push(first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

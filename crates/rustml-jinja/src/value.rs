//! What a template computes with.
//!
//! Lists and dictionaries never change. Only namespaces do, and these are held
//! by number, so that nothing can hold itself. A value says how deep it is, and
//! none gets deeper than can be walked.

use crate::error::{fail, mistake, Fault, Limit};
use crate::meter::Meter;
use crate::text::Text;
use indexmap::IndexMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Lists within lists.
const MAX_DEPTH: u32 = 100;

#[derive(Clone)]
pub(crate) enum Value {
    /// Nothing; and what it was that there is not.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text),
    List(Rc<List>),
    Tuple(Rc<List>),
    Dict(Rc<Dict>),
    /// Which of the rendering's namespaces.
    Namespace(usize),
    Loop(Rc<Loop>),
    Macro(Rc<Macro>),
    Function(&'static str),
    Method(Rc<Method>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<Joiner>),
}

pub(crate) struct List {
    pub items: Vec<Value>,
    depth: u32,
}

pub(crate) struct Dict {
    pub entries: IndexMap<Key, Value>,
    depth: u32,
}

/// What dictionaries find their entries by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    None,
    /// Booleans are 0 and 1, as in Python.
    Int(i64),
    /// The bits of a number that is no integer.
    Float(u64),
    Text(Text),
}

/// A loop that is under way.
pub(crate) struct Loop {
    pub items: Rc<List>,
    pub at: Cell<usize>,
    /// Loops of the same recursion around it.
    pub level: usize,
    /// Which of the template's loops, if it can call itself.
    pub recursive: Option<usize>,
    /// What `changed` was last asked about, while the loop runs.
    pub last: RefCell<Option<Vec<Value>>>,
    pub ended: Cell<bool>,
}

/// A macro and what was around it where it was defined.
pub(crate) struct Macro {
    pub index: usize,
    pub around: Vec<(Arc<str>, Value)>,
    depth: u32,
}

/// A method with its value.
pub(crate) struct Method {
    pub of: Value,
    pub name: Text,
}

pub(crate) struct Cycler {
    pub items: Rc<List>,
    pub at: Cell<usize>,
}

pub(crate) struct Joiner {
    pub separator: Text,
    pub used: Cell<bool>,
}

impl Value {
    pub fn undefined(what: impl Into<Rc<str>>) -> Value {
        Value::Undefined(what.into())
    }

    pub fn text(text: &str) -> Value {
        Value::Text(Text::template(text))
    }

    pub fn depth(&self) -> u32 {
        match self {
            Value::List(list) | Value::Tuple(list) => list.depth,
            Value::Dict(dict) => dict.depth,
            Value::Loop(state) => state.items.depth + 1,
            Value::Macro(m) => m.depth,
            Value::Method(m) => m.of.depth() + 1,
            Value::Cycler(c) => c.items.depth + 1,
            _ => 0,
        }
    }

    /// What Python calls its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "undefined",
            Value::None => "none",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "string",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Namespace(_) => "namespace",
            Value::Loop(_) => "loop",
            Value::Macro(_) => "macro",
            Value::Function(_) => "function",
            Value::Method(_) => "method",
            Value::Cycler(_) => "cycler",
            Value::Joiner(_) => "joiner",
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) | Value::Tuple(list) => !list.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer, also a boolean.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some((*b).into()),
            _ => None,
        }
    }

    /// A number, also a boolean.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(n) => Some(*n),
            other => other.as_int().map(|n| n as f64),
        }
    }

    /// How many items there are, for what has any.
    pub fn length(&self, meter: &Meter) -> Result<Option<usize>, Fault> {
        Ok(match self {
            Value::Undefined(_) => Some(0),
            Value::Text(text) => {
                meter.look(text.len())?;
                Some(text.chars())
            }
            Value::List(list) | Value::Tuple(list) => Some(list.items.len()),
            Value::Dict(dict) => Some(dict.entries.len()),
            Value::Loop(state) => Some(state.items.items.len()),
            _ => None,
        })
    }

    /// What a loop over it goes over.
    pub fn items(&self, meter: &Meter) -> Result<Rc<List>, Fault> {
        match self {
            Value::List(list) | Value::Tuple(list) => Ok(list.clone()),
            Value::Undefined(_) => List::new(Vec::new()),
            Value::Dict(dict) => {
                meter.make_values(dict.entries.len())?;
                List::new(dict.entries.keys().map(Key::value).collect())
            }
            Value::Text(text) => {
                let count = text.chars();
                meter.make_values(count)?;
                meter.make_times(32, count)?;
                let chars = text.as_str().char_indices();
                let part = |(at, c): (usize, char)| text.slice(at..at + c.len_utf8());
                List::new(chars.map(part).map(Value::Text).collect())
            }
            Value::Loop(state) => Ok(state.items.clone()),
            other => fail(format!("a {} has no items to go over", other.type_name())),
        }
    }

    pub fn key(&self, meter: &Meter) -> Result<Key, Fault> {
        Ok(match self {
            Value::None => Key::None,
            Value::Text(text) => {
                meter.look(text.len())?;
                Key::Text(text.clone())
            }
            Value::Float(n) if n.fract() == 0.0 && n.abs() < 9e18 => Key::Int(*n as i64),
            Value::Float(n) => Key::Float(n.to_bits()),
            other => match other.as_int() {
                Some(n) => Key::Int(n),
                None => return fail(format!("a {} cannot be a key", other.type_name())),
            },
        })
    }

    /// What input says in JSON. `trusted` text counts as the template's.
    pub fn from_json(
        json: &serde_json::Value,
        trusted: &dyn Fn(&str) -> bool,
        meter: &Meter,
    ) -> Result<Value, Fault> {
        use serde_json::Value as Json;
        meter.make_values(1)?;
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Value::Int(n),
                (None, Some(n)) => Value::Float(n),
                _ => return fail(format!("{n} is no number of 64 bits")),
            },
            Json::String(text) => {
                meter.make(text.len())?;
                Value::Text(match trusted(text) {
                    true => Text::template(text),
                    false => Text::input(text),
                })
            }
            Json::Array(items) => {
                let convert = |item| Value::from_json(item, trusted, meter);
                let items = meter.deeper(|| items.iter().map(convert).collect())?;
                Value::List(List::new(items)?)
            }
            Json::Object(object) => {
                let entries = meter.deeper(|| {
                    let entry = |(key, value): (&String, &Json)| {
                        meter.make(64 + key.len())?;
                        let value = Value::from_json(value, trusted, meter)?;
                        Ok((Key::Text(Text::input(key)), value))
                    };
                    object.iter().map(entry).collect()
                })?;
                Value::Dict(Dict::new(entries)?)
            }
        })
    }

    /// Messages: their roles count as the template's, if these are `trusted`.
    pub fn from_messages(
        json: &serde_json::Value,
        trusted: fn(&str) -> bool,
        meter: &Meter,
    ) -> Result<Value, Fault> {
        let Some(messages) = json.as_array() else {
            return Value::from_json(json, &|_| false, meter);
        };
        let message = |json: &serde_json::Value| {
            let value = Value::from_json(json, &|_| false, meter)?;
            let (Value::Dict(dict), Some(role)) = (&value, json["role"].as_str()) else {
                return Ok(value);
            };
            if !trusted(role) {
                return Ok(value);
            }
            let mut entries = dict.entries.clone();
            entries.insert(Key::Text(Text::template("role")), Value::text(role));
            Ok(Value::Dict(Dict::new(entries)?))
        };
        meter.make_values(messages.len())?;
        let messages = messages.iter().map(message).collect::<Result<_, Fault>>()?;
        Ok(Value::List(List::new(messages)?))
    }
}

/// One more than the deepest.
fn deeper<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<u32, Fault> {
    let deepest = values.into_iter().map(Value::depth).max().unwrap_or(0);
    match deepest < MAX_DEPTH {
        true => Ok(deepest + 1),
        false => Err(Limit::Depth.into()),
    }
}

impl List {
    /// The memory is paid for already.
    pub fn new(items: Vec<Value>) -> Result<Rc<List>, Fault> {
        let depth = deeper(&items)?;
        Ok(Rc::new(List { items, depth }))
    }
}

impl Dict {
    /// The memory is paid for already.
    pub fn new(entries: IndexMap<Key, Value>) -> Result<Rc<Dict>, Fault> {
        let depth = deeper(entries.values())?;
        Ok(Rc::new(Dict { entries, depth }))
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(&Key::Text(Text::template(key)))
    }
}

impl Key {
    pub fn value(&self) -> Value {
        match self {
            Key::None => Value::None,
            Key::Int(n) => Value::Int(*n),
            Key::Float(bits) => Value::Float(f64::from_bits(*bits)),
            Key::Text(text) => Value::Text(text.clone()),
        }
    }
}

impl Macro {
    pub fn new(index: usize, around: Vec<(Arc<str>, Value)>) -> Result<Rc<Macro>, Fault> {
        let depth = deeper(around.iter().map(|(_, value)| value))?;
        Ok(Rc::new(Macro {
            index,
            around,
            depth,
        }))
    }
}

impl Method {
    pub fn bind(of: Value, name: Text) -> Result<Value, Fault> {
        deeper([&of])?;
        Ok(Value::Method(Rc::new(Method { of, name })))
    }
}

/// A number as Python's `repr` writes it: the shortest digits that read back
/// the same, with an exponent below 1e-4 and from 1e16.
pub(crate) fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

/// An argument that has to be an integer.
pub(crate) fn integer(value: &Value, what: &str) -> Result<i64, Fault> {
    let wrong = || {
        mistake(format!(
            "{what} has to be an integer, not a {}",
            value.type_name()
        ))
    };
    value.as_int().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_are_pythons() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e16, "1e+16"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (1e300, "1e+300"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(python_float(number), text);
        }
    }
}

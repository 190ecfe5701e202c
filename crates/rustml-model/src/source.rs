//! Reading a model's settings: from config.json, and from GGUF metadata.
//!
//! Settings are not trusted: one that is there with another type than it must
//! have is an error, never taken for absent.

use crate::error::{show, Error, Result};
use rustml_io::Store;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The settings of config.json, or an object within it.
pub struct Config<'a> {
    path: PathBuf,
    json: &'a Value,
    /// The model, if it is open.
    store: Option<&'a Store>,
}

impl<'a> Config<'a> {
    /// The settings beside a safetensors model.
    ///
    /// # Errors
    /// If there is no config.json.
    pub fn new(store: &'a Store) -> Result<Self> {
        let json = store.config();
        let json = json.ok_or_else(|| Error::NoConfig(store.directory().to_owned()))?;
        let path = store.directory().join("config.json");
        Ok(Config {
            path,
            json,
            store: Some(store),
        })
    }

    /// The settings of a config.json that was read from `path`.
    pub fn of(path: PathBuf, json: &'a Value) -> Self {
        Config {
            path,
            json,
            store: None,
        }
    }

    /// The value of a tensor that holds one number, if there is one and the model is open.
    ///
    /// # Errors
    /// If it holds more.
    pub fn number(&self, name: &str) -> Result<Option<f32>> {
        let Some(store) = self.store.filter(|s| s.find(name).is_some()) else {
            return Ok(None);
        };
        let t = store.tensor(name)?;
        if t.info.len() != 1 {
            let len = t.info.len();
            return Err(self.error(format!(
                "the tensor {name} holds {len} values, but must hold one"
            )));
        }
        let mut out = [0.0];
        rustml_kernels::formats::decode_row(t.dtype, t.data, &mut out);
        Ok(Some(out[0]))
    }

    /// The object at `key`, as settings, if set.
    ///
    /// # Errors
    /// If it is no object.
    pub fn object(&self, key: &str) -> Result<Option<Config<'a>>> {
        let json = self.get(key, "an object", |v| v.is_object().then_some(v))?;
        let of = |json| Config {
            path: self.path.clone(),
            json,
            store: self.store,
        };
        Ok(json.map(of))
    }

    /// The objects within the one at `key`, with their names; none if it is not set.
    ///
    /// # Errors
    /// If there is something else at `key`.
    pub fn objects(&self, key: &str) -> Result<Vec<(&'a str, Config<'a>)>> {
        let object = self.object(key)?;
        Ok(object.map_or_else(Vec::new, |o| o.objects_if().collect()))
    }

    /// How many entries the object at `key` has, if set.
    ///
    /// # Errors
    /// If it is no object.
    pub fn named(&self, key: &str) -> Result<Option<usize>> {
        let object = self.get(key, "an object", Value::as_object)?;
        Ok(object.map(|o| o.len()))
    }

    /// The objects among these settings, with their names.
    pub fn objects_if(&self) -> impl Iterator<Item = (&'a str, Config<'a>)> + '_ {
        let all = self.json.as_object().into_iter().flatten();
        all.filter(|(_, json)| json.is_object()).map(|(key, json)| {
            let path = self.path.clone();
            let store = self.store;
            (key.as_str(), Config { path, json, store })
        })
    }

    /// Whether a key is there, if only as null.
    pub fn mentions(&self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    /// Whether a key is set.
    pub fn has(&self, key: &str) -> bool {
        self.json.get(key).is_some_and(|v| !v.is_null())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.json.as_object().is_none_or(|o| o.is_empty())
    }

    /// The file they are in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about these settings.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    fn get<T>(
        &self,
        key: &str,
        kind: &str,
        f: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.json.get(key).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(v) => match f(v) {
                Some(v) => Ok(Some(v)),
                None => {
                    let v = show(&v.to_string());
                    Err(self.error(format!("{key} is {v}, but must be {kind}")))
                }
            },
        }
    }

    /// An unsigned integer, if set.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number, not negative", |v| {
            v.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }
    /// A number, if set.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", |v| v.as_f64().map(|v| v as f32))
    }
    /// A number, or `default` if the key is missing; none if it is null.
    pub fn f32_or(&self, key: &str, default: Option<f32>) -> Result<Option<f32>> {
        match self.json.get(key) {
            None => Ok(default),
            Some(_) => self.f32(key),
        }
    }
    /// An unsigned integer, or `default` if the key is missing; none if it is null.
    pub fn usize_or(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.json.get(key) {
            None => Ok(default),
            Some(_) => self.usize(key),
        }
    }
    /// The first of some keys that is set, an unsigned integer.
    pub fn usize_of(&self, keys: &[&str]) -> Result<Option<usize>> {
        let mut all = keys.iter().map(|key| self.usize(key).transpose());
        all.find_map(|v| v).transpose()
    }
    /// The first of some keys that is set, a number.
    pub fn f32_of(&self, keys: &[&str]) -> Result<Option<f32>> {
        let mut all = keys.iter().map(|key| self.f32(key).transpose());
        all.find_map(|v| v).transpose()
    }
    /// A list of unsigned integers, if set.
    pub fn usizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.get(key, "a list of whole numbers", |v| {
            let one = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok());
            v.as_array()?.iter().map(one).collect()
        })
    }
    /// A list of whole numbers, if it is one; no error if it is something else.
    pub fn usizes_if(&self, key: &str) -> Result<Option<Vec<usize>>> {
        match self.json.get(key) {
            Some(Value::Array(_)) => self.usizes(key),
            _ => Ok(None),
        }
    }
    /// A text, if it is one; no error if it is something else.
    pub fn str_if(&self, key: &str) -> Option<&'a str> {
        self.json.get(key)?.as_str()
    }
    /// A truth value, if set.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }
    /// A text, if set.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "a string", Value::as_str)
    }
    /// A list of texts, if set.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.get(key, "a list of strings", |v| {
            v.as_array()?.iter().map(Value::as_str).collect()
        })
    }
    /// A list of numbers, which may be infinite, if set.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let infinite = |v: &Value| match v.get("__float__").and_then(Value::as_str) {
            Some("Infinity") => Some(f32::INFINITY),
            Some("-Infinity") => Some(f32::NEG_INFINITY),
            _ => None,
        };
        self.get(key, "a list of numbers", |v| {
            let number = |v: &Value| v.as_f64().map(|v| v as f32).or_else(|| infinite(v));
            v.as_array()?.iter().map(number).collect()
        })
    }
    /// A list of numbers that must be set.
    pub fn need_floats(&self, key: &str) -> Result<Vec<f32>> {
        let list = self.get(key, "a list of numbers", |v| {
            let number = |v: &Value| v.as_f64().map(|v| v as f32);
            v.as_array()?.iter().map(number).collect()
        })?;
        self.need(key, list)
    }
    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("{key} is missing")))
    }
    /// A list of texts that must be set.
    pub fn need_strings(&self, key: &str) -> Result<Vec<&'a str>> {
        self.need(key, self.strings(key)?)
    }
    /// An unsigned integer that must be set.
    pub fn need_usize(&self, key: &str) -> Result<usize> {
        self.need(key, self.usize(key)?)
    }
    /// A number that must be set.
    pub fn need_f32(&self, key: &str) -> Result<f32> {
        self.need(key, self.f32(key)?)
    }
}

/// The metadata of a GGUF file under its architecture's prefix.
pub struct Gguf<'a> {
    store: &'a Store,
    arch: &'a str,
}

impl<'a> Gguf<'a> {
    /// The metadata of an open file of this architecture.
    pub fn new(store: &'a Store, arch: &'a str) -> Self {
        Gguf { store, arch }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }
    /// An error about these settings.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::Config {
            path: self.store.path().to_owned(),
            what: what.into(),
        }
    }
    /// Errors about metadata do not say which file they are of.
    fn named<T>(&self, value: rustml_io::Result<T>) -> Result<T> {
        value.map_err(|e| self.error(e.to_string()))
    }
    /// An unsigned integer, if set.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.named(self.store.metadata().usize(&self.key(key)))
    }
    /// A number, if set.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.named(self.store.metadata().f32(&self.key(key)))
    }
    /// A text, if set.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.named(self.store.metadata().str(&self.key(key)))
    }
    /// A truth value, if set.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.named(self.store.metadata().bool(&self.key(key)))
    }
    /// An unsigned integer of each layer: a list, or one for all.
    ///
    /// # Errors
    /// If it is missing, or the list has another length.
    pub fn usize_of_layers(&self, key: &str, layers: usize) -> Result<Vec<usize>> {
        let whole = self.key(key);
        let list = match self.store.metadata().i32s(&whole) {
            Ok(Some(list)) => list,
            _ => return Ok(vec![self.need_usize(key)?; layers]),
        };
        if list.len() != layers {
            return Err(self.wrong_length(&whole, list.len(), layers));
        }
        let number = |n: &i32| usize::try_from(*n).ok();
        let numbers: Option<Vec<usize>> = list.iter().map(number).collect();
        numbers
            .ok_or_else(|| self.error(format!("the metadata key `{whole}` lists a number below 0")))
    }
    /// The numbers of all layers at a key without the architecture's name.
    ///
    /// # Errors
    /// If there is no list of this length.
    pub fn floats_of_layers(&self, key: &str, layers: usize) -> Result<Vec<f32>> {
        match self.named(self.store.metadata().f32s(key))? {
            Some(list) if list.len() == layers => Ok(list.to_vec()),
            Some(list) => Err(self.wrong_length(key, list.len(), layers)),
            None => Err(self.error(format!("the metadata key `{key}` is missing"))),
        }
    }
    fn wrong_length(&self, key: &str, len: usize, layers: usize) -> Error {
        self.error(format!(
            "the metadata key `{key}` lists {len} layers of {layers}"
        ))
    }
    /// A list of truth values, if set; no error if it is something else.
    pub fn bools(&self, key: &str) -> Option<&'a [bool]> {
        self.store.metadata().bools(&self.key(key)).ok()?
    }
    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("the metadata key `{}` is missing", self.key(key))))
    }
    /// A text that must be set.
    pub fn need_str(&self, key: &str) -> Result<&'a str> {
        self.need(key, self.str(key)?)
    }
    /// An unsigned integer that must be set.
    pub fn need_usize(&self, key: &str) -> Result<usize> {
        self.need(key, self.usize(key)?)
    }
    /// A number that must be set.
    pub fn need_f32(&self, key: &str) -> Result<f32> {
        self.need(key, self.f32(key)?)
    }
    /// Whether the file holds this tensor.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.store.find(name).is_some()
    }
    /// Rows of a tensor: its outermost dimension.
    pub fn tensor_rows(&self, name: &str) -> Result<usize> {
        let info = self.store.tensor(name)?.info;
        Ok(info.shape.first().copied().unwrap_or(0))
    }
    /// The values of a tensor that holds at most `max`, if there is one.
    pub fn floats(&self, name: &str, max: usize) -> Result<Option<Vec<f32>>> {
        if !self.has_tensor(name) {
            return Ok(None);
        }
        let t = self.store.tensor(name)?;
        let len = t.info.len();
        if len > max {
            return Err(self.error(format!(
                "the tensor {name} holds {len} values, but {max} at most make sense"
            )));
        }
        let mut out = vec![0.0; len];
        rustml_kernels::formats::decode_row(t.dtype, t.data, &mut out);
        Ok(Some(out))
    }
}

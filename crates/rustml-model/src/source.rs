//! Reading a model's settings: from config.json, and from GGUF metadata.

use crate::error::{Error, Result};
use rustml_io::Store;
use serde_json::Value;

/// The settings of config.json, or the nested `text_config` of a model with
/// several modalities.
pub struct Config<'a> {
    store: &'a Store,
    json: &'a Value,
}

impl<'a> Config<'a> {
    /// The settings beside a safetensors model.
    ///
    /// # Errors
    /// If there is no config.json.
    pub fn new(store: &'a Store) -> Result<Self> {
        let json = store.config();
        let json = json.ok_or_else(|| Error::NoConfig(store.directory().to_owned()))?;
        Ok(Config { store, json })
    }

    /// The settings nested under `key`, or these if there are none.
    pub fn nested(&self, key: &str) -> Config<'a> {
        let json = match self.json.get(key) {
            Some(nested) if nested.is_object() => nested,
            _ => self.json,
        };
        Config {
            store: self.store,
            json,
        }
    }

    /// The object at `key`, as settings, if there is one.
    pub fn object(&self, key: &str) -> Option<Config<'a>> {
        let json = self.json.get(key).filter(|v| v.is_object())?;
        Some(Config {
            store: self.store,
            json,
        })
    }

    /// An error about these settings.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::Config {
            path: self.store.directory().join("config.json"),
            what: what.into(),
        }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    fn get<T>(
        &self,
        key: &str,
        kind: &str,
        f: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(v) => match f(v) {
                Some(v) => Ok(Some(v)),
                None => Err(self.error(format!("{key} is {v}, but must be {kind}"))),
            },
        }
    }

    /// An unsigned integer, if set.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number", |v| {
            v.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }
    /// A number, if set.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", |v| v.as_f64().map(|v| v as f32))
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
    /// `value`, or an error that says `key` is missing.
    pub fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("{key} is missing")))
    }
    /// An unsigned integer that must be set.
    pub fn need_usize(&self, key: &str) -> Result<usize> {
        self.need(key, self.usize(key)?)
    }
    /// A number that must be set.
    pub fn need_f32(&self, key: &str) -> Result<f32> {
        self.need(key, self.f32(key)?)
    }
    /// Whether the model holds this tensor.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.store.find(name).is_some()
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
    /// An unsigned integer, if set.
    pub fn usize(&self, key: &str) -> Result<Option<usize>> {
        Ok(self.store.metadata().usize(&self.key(key))?)
    }
    /// A number, if set.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        Ok(self.store.metadata().f32(&self.key(key))?)
    }
    /// A text, if set.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.store.metadata().str(&self.key(key))?)
    }
    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("the metadata key {} is missing", self.key(key))))
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
    /// The values of a small tensor, if there is one.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        if !self.has_tensor(name) {
            return Ok(None);
        }
        let t = self.store.tensor(name)?;
        let mut out = vec![0.0; t.info.len()];
        rustml_kernels::formats::decode_row(t.dtype, t.data, &mut out);
        Ok(Some(out))
    }
}

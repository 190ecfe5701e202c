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
        Ok(Config { path, json })
    }

    /// The settings of a config.json that was read from `path`.
    pub fn of(path: PathBuf, json: &'a Value) -> Self {
        Config { path, json }
    }

    /// The object at `key`, as settings, if set.
    ///
    /// # Errors
    /// If it is no object.
    pub fn object(&self, key: &str) -> Result<Option<Config<'a>>> {
        let json = self.get(key, "an object", |v| v.is_object().then_some(v))?;
        let path = self.path.clone();
        Ok(json.map(|json| Config { path, json }))
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

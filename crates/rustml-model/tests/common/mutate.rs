//! Copies of tiny models with something changed.

use super::{f32s, tiny};
use rustml_io::{write_safetensors, DType, FileFormat, GgufWriter, Metadata, Store};
use rustml_kernels::formats::{convert_row, encode_row};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A tensor that can be changed.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn new(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Tensor {
            name: name.into(),
            dtype: DType::F32,
            shape: shape.into(),
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, DType::F32);
        f32s(&self.data)
    }

    /// The same in another type.
    pub fn to(&self, dtype: DType) -> Tensor {
        let cols = *self.shape.last().unwrap();
        let values = self.values();
        let mut data = vec![0; values.len() / cols * dtype.row_bytes(cols).unwrap()];
        let rows = data.chunks_exact_mut(dtype.row_bytes(cols).unwrap());
        for (row, out) in values.chunks_exact(cols).zip(rows) {
            encode_row(dtype, row, out);
        }
        Tensor {
            dtype,
            data,
            ..self.clone()
        }
    }

    /// In single precision, whatever it is.
    pub fn to_f32(&self) -> Tensor {
        let len: usize = self.shape.iter().product();
        let mut data = vec![0; 4 * len];
        convert_row(self.dtype, &self.data, DType::F32, &mut data, len);
        Tensor {
            dtype: DType::F32,
            data,
            ..self.clone()
        }
    }
}

/// A model in memory, to be changed and written.
pub struct Copy {
    pub tensors: Vec<Tensor>,
    /// Of GGUF.
    pub metadata: Metadata,
    /// Beside safetensors; not written if null.
    pub config: Value,
    pub format: FileFormat,
}

impl Copy {
    /// A copy of a tiny model: `gpt2`, or `gpt2/model.gguf`.
    pub fn of(path: &str) -> Copy {
        Copy::open(&tiny(path))
    }

    /// A copy of any model.
    pub fn open(path: &Path) -> Copy {
        let store = Store::open(path).unwrap();
        let tensors = store.tensors().iter().map(|info| {
            let tensor = store.tensor(&info.name);
            let tensor = tensor.unwrap_or_else(|e| panic!("{e}"));
            Tensor {
                name: info.name.clone(),
                dtype: tensor.dtype,
                shape: info.shape.clone(),
                data: tensor.data.to_vec(),
            }
        });
        Copy {
            tensors: tensors.collect(),
            metadata: store.metadata().clone(),
            config: store.config().cloned().unwrap_or(Value::Null),
            format: store.format(),
        }
    }

    pub fn get(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|t| t.name == name);
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn remove(&mut self, name: &str) -> Tensor {
        let at = self.tensors.iter().position(|t| t.name == name);
        self.tensors
            .remove(at.unwrap_or_else(|| panic!("no tensor {name}")))
    }

    /// Sets a value of config.json; `a.b` is `b` within `a`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let mut at = &mut self.config;
        for key in key.split('.') {
            at = &mut at[key];
        }
        *at = value.into();
        self
    }

    /// Removes a value of config.json.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        let removed = self.config.as_object_mut().unwrap().shift_remove(key);
        assert!(removed.is_some(), "no {key} to remove");
        self
    }

    /// Removes a pair of GGUF metadata.
    pub fn unset_metadata(&mut self, key: &str) -> &mut Self {
        let mut without = Metadata::new();
        for (k, v) in self.metadata.iter().filter(|(k, _)| *k != key) {
            without.insert(k, v.clone());
        }
        assert!(without.len() < self.metadata.len(), "no {key} to remove");
        self.metadata = without;
        self
    }

    /// The bytes of a GGUF file.
    pub fn gguf(&self) -> Vec<u8> {
        let mut plan = GgufWriter::new();
        plan.set_all(&self.metadata);
        for t in &self.tensors {
            plan.tensor(&t.name, t.dtype, &t.shape);
        }
        let data: Vec<&[u8]> = self.tensors.iter().map(|t| t.data.as_slice()).collect();
        plan.to_bytes(&data).unwrap()
    }

    /// Writes the model into a new directory.
    pub fn write(&self) -> Written {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        if let FileFormat::Gguf { .. } = self.format {
            std::fs::write(path.join("model.gguf"), self.gguf()).unwrap();
            return Written { directory };
        }
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|t| {
                (
                    t.name.as_str(),
                    t.dtype,
                    t.shape.as_slice(),
                    t.data.as_slice(),
                )
            })
            .collect();
        write_safetensors(&path.join("model.safetensors"), &tensors, &[]).unwrap();
        if !self.config.is_null() {
            std::fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        }
        Written { directory }
    }
}

/// A model in a directory that goes away with this.
pub struct Written {
    directory: TempDir,
}

impl Written {
    /// What to open.
    pub fn path(&self) -> PathBuf {
        let gguf = self.directory.path().join("model.gguf");
        match gguf.exists() {
            true => gguf,
            false => self.directory.path().to_owned(),
        }
    }
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

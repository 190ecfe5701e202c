//! Models with the shape of a real one and random weights, as GGUF files.
//!
//! How fast a model runs depends on its shape and on the types of its weights,
//! not on what they say; so a machine can be judged, and engines compared,
//! without downloading gigabytes. A shape is a config.json, of which some are
//! kept here by name.
//!
//! ```
//! use rustml_io::{DType, Store};
//! use rustml_model::synth::{Shape, Synth};
//!
//! let json = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 100,
//!     "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
//!     "max_position_embeddings": 128}"#;
//! let shape = Shape::from_json("tiny", &serde_json::from_str(json)?)?;
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("tiny.gguf");
//! Synth::new(shape, DType::Q8_0).write(&path, &mut |_done, _total| {})?;
//! assert_eq!(Store::open(&path)?.tensor("blk.1.ffn_up.weight")?.dtype, DType::Q8_0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod metadata;
mod weights;

use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::load::Progress;
use crate::source::Config;
use crate::spec::Spec;
use rustml_io::{Array, DType, Metadata, Value};
use std::path::{Path, PathBuf};

/// Settings of well-known models, by name; what is not said is as config.json
/// takes it.
const SHAPES: &str = include_str!("shapes.json");

/// A config.json larger than this is none.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The shape of a model.
#[derive(Clone)]
pub struct Shape {
    name: String,
    arch: &'static Arch,
    spec: Spec,
}

impl Shape {
    /// The names that [`Shape::named`] knows.
    pub fn names() -> Vec<String> {
        table().keys().cloned().collect()
    }

    /// The shape of a well-known model.
    pub fn named(name: &str) -> Option<Shape> {
        let config = table().remove(name)?;
        Some(Shape::from_json(name, &config).expect("the table's shapes are tested"))
    }

    /// The shape that a config.json describes, in whatever file.
    ///
    /// # Errors
    /// If it cannot be read, or describes no model that runs here.
    pub fn from_file(path: &Path) -> Result<Shape> {
        let error = |what: String| Error::Config {
            path: path.to_owned(),
            what,
        };
        let bytes = rustml_io::read_small(path, LARGEST_CONFIG)?;
        let json = serde_json::from_slice(&bytes);
        let json = json.map_err(|e| error(format!("is no valid JSON: {e}")))?;
        let stem = path.parent().and_then(Path::file_name);
        let name = stem.map_or("config".into(), |s| s.to_string_lossy().into_owned());
        Shape::of(&name, Config::of(path.to_owned(), &json))
    }

    /// The shape that the contents of a config.json describe.
    ///
    /// # Errors
    /// If that is no model that runs here.
    pub fn from_json(name: &str, config: &serde_json::Value) -> Result<Shape> {
        Shape::of(name, Config::of(PathBuf::from(name), config))
    }

    fn of(name: &str, config: Config) -> Result<Shape> {
        let (arch, spec) = Arch::of_config(&config)?;
        Ok(Shape {
            name: name.to_owned(),
            arch,
            spec,
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The architecture's name in GGUF.
    pub fn arch(&self) -> &'static str {
        self.arch.gguf
    }
    /// The architecture as data.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
}

fn table() -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(SHAPES).expect("the table is tested")
}

/// A file to be made.
pub struct Synth {
    shape: Shape,
    dtype: DType,
    vocabulary: Metadata,
    seed: u64,
}

impl Synth {
    /// A file of that shape whose matrices are in `dtype`. Those that are too
    /// narrow for its blocks take the type that llama.cpp takes in its place,
    /// and norms, biases and positions are in single precision.
    pub fn new(shape: Shape, dtype: DType) -> Synth {
        Synth {
            shape,
            dtype,
            vocabulary: Metadata::new(),
            seed: 0,
        }
    }

    /// Start of the random numbers.
    pub fn seed(mut self, seed: u64) -> Synth {
        self.seed = seed;
        self
    }

    /// Takes the vocabulary of a GGUF file, and its size, so that other
    /// engines load the file and text can be fed to it.
    ///
    /// # Errors
    /// A sentence if there is none, or one larger than any model's.
    pub fn like(mut self, metadata: &Metadata) -> Result<Synth, String> {
        match metadata.get("tokenizer.ggml.tokens") {
            Some(Value::Array(Array::String(tokens))) => self.shape.spec.vocab = tokens.len(),
            _ => return Err("it holds no vocabulary (tokenizer.ggml.tokens)".into()),
        }
        self.shape.spec.validate()?;
        for (key, value) in metadata.iter() {
            if key.starts_with("tokenizer.") {
                self.vocabulary.insert(key, value.clone());
            }
        }
        Ok(self)
    }

    /// The shape of the model in the file.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Writes the file, whole or not at all; `progress` hears of bytes.
    /// Returns the bytes of all weights.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path, progress: Progress) -> Result<usize> {
        let tensors = weights::plan(&self.shape, self.dtype);
        let plan = self.plan(&tensors);
        let mut file = plan.create(path)?;
        let bytes = weights::write(&mut file, &tensors, self.seed, progress)?;
        file.finish()?;
        Ok(bytes)
    }
}

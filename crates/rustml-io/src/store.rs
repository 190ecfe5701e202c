//! One or more model files as a set of named tensors.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{malformed, show};
use crate::mmap::Bytes;
use crate::value::Metadata;
use crate::{DType, Error, Result};

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the model.
    pub name: String,
    /// The type, if it is one that is computed with.
    pub dtype: Option<DType>,
    /// The type as the file names it, whatever it is.
    pub type_name: String,
    /// Sizes, outermost first: a matrix is `[rows, columns]` and a row lies in
    /// one piece. (GGUF writes the sizes the other way round.)
    pub shape: Vec<usize>,
    /// Bytes of the data. In the case of a GGUF type that is unknown, an upper
    /// bound: the distance to the next tensor.
    pub bytes: usize,
    /// Which of the model's files.
    pub(crate) file: usize,
    /// Where in that file.
    pub(crate) offset: usize,
}

impl TensorInfo {
    /// Number of values: the product of the shape. Parsers guarantee that it
    /// does not overflow.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Where the data lies in its file.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// A tensor that can be computed with.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name, shape...
    pub info: &'a TensorInfo,
    /// The type.
    pub dtype: DType,
    /// The data: `info.bytes` bytes, little-endian, row by row, without any
    /// guaranteed alignment.
    pub data: &'a [u8],
}

/// Which kind of files a model is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// GGUF.
    Gguf {
        /// 2 or 3.
        version: u32,
    },
    /// Safetensors.
    Safetensors,
}

/// An open model: its tensors, metadata and configuration.
///
/// Files are memory-mapped; opening one reads its header alone.
pub struct Store {
    pub(crate) path: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) format: FileFormat,
    pub(crate) metadata: Metadata,
    pub(crate) config: Option<serde_json::Value>,
    pub(crate) files: Vec<(PathBuf, Bytes)>,
    tensors: Vec<TensorInfo>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<usize>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("files", &self.files.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// A file that has been mapped and whose header has been read.
pub(crate) struct Opened {
    pub path: PathBuf,
    pub bytes: Bytes,
    pub format: FileFormat,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

impl Store {
    /// Puts files together. The metadata are those of the first one.
    pub(crate) fn assemble(
        path: PathBuf,
        directory: PathBuf,
        config: Option<serde_json::Value>,
        opened: Vec<Opened>,
    ) -> Result<Store> {
        let mut format = None;
        let mut metadata = None;
        let mut files = Vec::new();
        let mut tensors = Vec::new();
        for (file, one) in opened.into_iter().enumerate() {
            format.get_or_insert(one.format);
            metadata.get_or_insert(one.metadata);
            files.push((one.path, one.bytes));
            tensors.extend(
                one.tensors
                    .into_iter()
                    .map(|info| TensorInfo { file, ..info }),
            );
        }
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_unstable_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
        for pair in by_name.windows(2) {
            let (a, b): (&TensorInfo, &TensorInfo) = (&tensors[pair[0]], &tensors[pair[1]]);
            if a.name == b.name {
                let problem = malformed!(
                    "tensor {} is both in {} and in {}; which is right cannot be told",
                    show(&a.name),
                    files[a.file].0.display(),
                    files[b.file].0.display()
                );
                return problem.map_err(Error::file(&path));
            }
        }
        Ok(Store {
            format: format.unwrap_or(FileFormat::Safetensors),
            metadata: metadata.unwrap_or_default(),
            path,
            directory,
            config,
            files,
            tensors,
            by_name,
        })
    }

    /// Which kind of files these are.
    pub fn format(&self) -> FileFormat {
        self.format
    }

    /// What was opened: a file, or a directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the model's other files are (`tokenizer.json`...).
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The pairs of a GGUF file, or the `__metadata__` of a safetensors file
    /// (of the first, if there are several) as strings.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// `config.json` beside safetensors files.
    pub fn config(&self) -> Option<&serde_json::Value> {
        self.config.as_ref()
    }

    /// All tensors, in the order in which they lie in the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What the files say about a tensor.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let at = self
            .by_name
            .binary_search_by(|&i| self.tensors[i].name.as_str().cmp(name));
        at.ok().map(|at| &self.tensors[self.by_name[at]])
    }

    /// A tensor and its data.
    ///
    /// # Errors
    /// If there is none of this name, if its type is not computed with, or if
    /// it has no values.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let Some(info) = self.find(name) else {
            return Err(Error::MissingTensor {
                path: self.path.clone(),
                name: name.into(),
            });
        };
        let Some(dtype) = info.dtype else {
            return Err(Error::UnsupportedType {
                path: self.path.clone(),
                name: name.into(),
                type_name: info.type_name.clone(),
            });
        };
        if info.is_empty() {
            let (path, shape) = (self.path.clone(), info.shape.clone());
            return Err(Error::EmptyTensor {
                path,
                name: name.into(),
                shape,
            });
        }
        // In bounds, since the parsers check every range against the file.
        let data = &self.files[info.file].1[info.range()];
        Ok(Tensor { info, dtype, data })
    }

    /// Gives the memory pages of a tensor that has been copied elsewhere back
    /// to the system: those that lie wholly inside it. The data stays readable
    /// and is read from disk again where necessary.
    ///
    /// `info` must come from this store; of another's, nothing happens but
    /// that some other pages are read again.
    pub fn release(&self, info: &TensorInfo) {
        self.release_part(info, 0..usize::MAX);
    }

    /// The same of a part of the tensor, in bytes from its beginning.
    pub fn release_part(&self, info: &TensorInfo, part: Range<usize>) {
        if let Some((_, bytes)) = self.files.get(info.file) {
            let (start, end) = (info.range().start, info.range().end);
            let at = |offset: usize| start.saturating_add(offset).min(end);
            bytes.release(at(part.start)..at(part.end));
        }
    }

    /// Tells the system to start reading a tensor in the background.
    pub fn will_need(&self, info: &TensorInfo) {
        if let Some((_, bytes)) = self.files.get(info.file) {
            bytes.will_need(info.range());
        }
    }

    /// Tells the system that the files will be read front to back, so that it
    /// reads ahead generously.
    pub fn advise_sequential(&self) {
        for (_, bytes) in &self.files {
            bytes.advise_sequential();
        }
    }
}

//! The tensors that make up a quantised matrix, looked up and checked.

use super::Loader;
use crate::arch::Role;
use crate::error::{show, Error, Result};
use rustml_io::{DType, TensorInfo};
use rustml_kernels::formats::decode_row;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

/// A tensor of any type, or an expert's part of one.
pub(super) struct Raw<'a> {
    pub info: &'a TensorInfo,
    pub data: Vec<u8>,
    pub shape: Vec<usize>,
}

/// The tensors of one matrix.
pub(super) struct Parts<'l, 'a> {
    pub loader: &'l mut Loader<'a>,
    pub role: Role,
    /// Name of the layer that they belong to.
    pub base: String,
    /// Rows and columns by the configuration.
    pub shape: (usize, usize),
    /// Which expert's, of how many, where a tensor holds all of them.
    pub expert: Option<(usize, usize)>,
    pub found: Vec<&'a TensorInfo>,
}

impl<'a> Parts<'_, 'a> {
    /// The type of a tensor, if it is there.
    pub fn type_of(&self, suffix: &str) -> Option<&'a str> {
        let name = self.loader.find(self.role, &self.base, suffix)?;
        let store = self.loader.store;
        store.find(&name).map(|info| info.type_name.as_str())
    }

    /// A tensor of one of these types, if it is there.
    pub fn optional(&mut self, suffix: &str, types: &[&str]) -> Result<Option<Raw<'a>>> {
        let Some(name) = self.loader.find(self.role, &self.base, suffix) else {
            return Ok(None);
        };
        let store = self.loader.store;
        let info = store.find(&name).expect("it was found");
        self.loader.used.insert(name);
        if !types.contains(&info.type_name.as_str()) {
            return Err(self.loader.error(format!(
                "the tensor {} is of the type {}, but its quantisation needs {}",
                show(&info.name),
                show(&info.type_name),
                types.join(" or ")
            )));
        }
        if info.is_empty() {
            return Err(self
                .loader
                .error(format!("the tensor {} holds no values", show(&info.name))));
        }
        self.found.push(info);
        let mut range = info.range();
        let mut raw = Raw {
            info,
            data: Vec::new(),
            shape: info.shape.clone(),
        };
        if let Some((expert, experts)) = self.expert {
            if raw.shape.first() != Some(&experts) {
                return Err(self.loader.error(format!(
                    "the tensor {} has the shape {:?}, but by the configuration it is of {experts} experts",
                    show(&info.name),
                    info.shape
                )));
            }
            raw.shape.remove(0);
            let size = range.len() / experts;
            range.start += expert * size;
            range.end = range.start + size;
        }
        raw.data = self.read(info, range)?;
        Ok(Some(raw))
    }

    /// Bytes of the file that a tensor is in.
    fn read(&self, info: &TensorInfo, range: Range<usize>) -> Result<Vec<u8>> {
        let store = self.loader.store;
        let home = self.loader.homes.get(&info.name).map(PathBuf::as_path);
        let path = home.or_else(|| store.files().next());
        let path = path.unwrap_or(store.path());
        let mut data = Vec::new();
        let len = range.len();
        data.try_reserve_exact(len).map_err(|_| Error::Memory {
            what: format!("the tensor {}", show(&info.name)),
            bytes: len,
        })?;
        let read = |data: &mut Vec<u8>| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(range.start as u64))?;
            let read = file.take(len as u64).read_to_end(data)?;
            match read == len {
                true => Ok(()),
                false => Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        };
        read(&mut data).map_err(|e: std::io::Error| {
            self.loader.error(format!(
                "the tensor {} cannot be read from {}: {e}",
                show(&info.name),
                path.display()
            ))
        })?;
        Ok(data)
    }

    /// A tensor of one of these types and shapes.
    pub fn need(&mut self, suffix: &str, types: &[&str], shapes: &[&[usize]]) -> Result<Raw<'a>> {
        let Some(raw) = self.optional(suffix, types)? else {
            let base = &self.base;
            let name = show(&format!("{}{base}{suffix}", self.loader.prefix));
            return Err(self.loader.error(format!(
                "the tensor {name} is missing, which its quantisation needs"
            )));
        };
        match shapes.contains(&raw.shape.as_slice()) {
            true => Ok(raw),
            false => Err(self.misshapen(&raw, shapes)),
        }
    }

    /// That a tensor has none of the shapes it may have.
    pub fn misshapen(&self, raw: &Raw, shapes: &[&[usize]]) -> crate::Error {
        let shapes: Vec<String> = shapes.iter().map(|s| format!("{s:?}")).collect();
        self.loader.error(format!(
            "the tensor {} has the shape {:?}, but by the configuration it is {}",
            show(&raw.info.name),
            raw.shape,
            shapes.join(" or ")
        ))
    }

    /// The numbers of a tensor of scales or offsets, all of them finite.
    pub fn floats(&self, raw: &Raw) -> Result<Vec<f32>> {
        let mut out = vec![0.0; raw.shape.iter().product()];
        match raw.info.type_name.as_str() {
            "F16" => decode_row(DType::F16, &raw.data, &mut out),
            "BF16" => decode_row(DType::BF16, &raw.data, &mut out),
            "F32" => decode_row(DType::F32, &raw.data, &mut out),
            // A power of two; the last byte stands for no number.
            _ => {
                for (out, &e) in out.iter_mut().zip(&raw.data) {
                    *out = match e {
                        255 => f32::NAN,
                        0 => f32::from_bits(1 << 22),
                        e => f32::from_bits(u32::from(e) << 23),
                    };
                }
            }
        }
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(out),
            Some(at) => Err(self.loader.error(format!(
                "the tensor {} holds {} at {at}, but scales must be finite numbers; \
                 the file is damaged",
                show(&raw.info.name),
                out[at]
            ))),
        }
    }

    /// Tensors that are known, and mean nothing here.
    pub fn skip(&mut self, suffixes: &[&str]) {
        for suffix in suffixes {
            if let Some(name) = self.loader.find(self.role, &self.base, suffix) {
                self.loader.used.insert(name);
            }
        }
    }
}

/// The types that scales have.
pub(super) const FLOATS: &[&str] = &["F16", "BF16", "F32"];

/// A whole number from little-endian bytes.
pub(super) fn word(data: &[u8], at: usize) -> u32 {
    let bytes = data[4 * at..][..4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}

//! Checkpoints whose linear layers are quantised in safetensors.
//!
//! There a matrix is several tensors: codes, scales, perhaps zero points. A method's file
//! says what they are called and what a row of them means. Rows are put into a block format
//! that holds the same numbers, where there is one, and else into the nearest; the report
//! says which, and what rounding it cost. The codes of one
//! matrix at a time are held beside the packed weights.

mod compressed;
mod fp8;
mod gptq;
mod integers;
mod mlx;
mod mxfp4;
mod parts;
mod scheme;
mod table;

pub(crate) use scheme::Scheme;

use super::Loader;
use crate::arch::Role;
use crate::error::Result;
use parts::Parts;
use rustml_io::{DType, Store, TensorInfo};
use rustml_kernels::formats::{decode_row, encode_row};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

/// Suffixes of the tensors that hold codes, by which a quantised matrix is found.
pub(super) const SUFFIXES: &[&str] = &["_blocks", ".qweight", ".weight_packed"];

/// The format that rows are put into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Kept {
    pub dtype: DType,
    /// Codes go over as they are, rather than by way of real numbers.
    pub direct: bool,
    /// The numbers are the same.
    pub exact: bool,
}

impl Kept {
    /// For numbers that no block format holds: that with the finest steps.
    fn nearest(cols: usize) -> Kept {
        let fits = cols.is_multiple_of(DType::Q8_0.block_len());
        Kept {
            dtype: if fits { DType::Q8_0 } else { DType::F32 },
            direct: false,
            exact: !fits,
        }
    }
}

/// Which file each tensor is in, if there are several.
pub(super) fn homes(store: &Store) -> Result<HashMap<String, PathBuf>> {
    let mut homes = HashMap::new();
    if store.files().len() > 1 {
        for path in store.files() {
            let one = Store::open(path)?;
            let names = one.tensors().iter().map(|t| t.name.clone());
            homes.extend(names.map(|name| (name, path.to_owned())));
        }
    }
    Ok(homes)
}

/// A quantised matrix, by its rows.
trait Coded: Sync {
    /// The format that rows are put into.
    fn kept(&self) -> Kept;
    /// The numbers of a row.
    fn values(&self, row: usize, out: &mut [f32]);
    /// The row in the format of [`Coded::kept`], if that is direct.
    fn pack(&self, _row: usize, _dtype: DType, _out: &mut [u8]) {}
}

/// A quantised matrix.
pub(super) struct Quantised<'a> {
    coded: Box<dyn Coded>,
    pub kept: Kept,
    pub method: &'static str,
    pub rows: usize,
    pub cols: usize,
    /// The tensors it is made of.
    pub tensors: Vec<&'a TensorInfo>,
    /// Squares of what was rounded off, and of the numbers.
    missed: Mutex<(f64, f64)>,
}

impl Quantised<'_> {
    /// Writes row `row` in type `to`.
    pub fn read(&self, row: usize, to: DType, out: &mut [u8]) {
        let same = to == self.kept.dtype;
        if same && self.kept.direct {
            self.coded.pack(row, to, out);
            if self.kept.exact {
                return;
            }
        }
        let mut values = vec![0.0; self.cols];
        self.coded.values(row, &mut values);
        if !(same && self.kept.direct) {
            encode_row(to, &values, out);
        }
        if to == DType::F32 {
            return;
        }
        let mut back = vec![0.0; self.cols];
        decode_row(to, out, &mut back);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let missed = values
            .iter()
            .zip(&back)
            .map(|(a, b)| square(a - b))
            .sum::<f64>();
        let all = values.iter().map(|v| square(*v)).sum::<f64>();
        let mut sums = self.missed.lock().unwrap_or_else(|e| e.into_inner());
        (sums.0, sums.1) = (sums.0 + missed, sums.1 + all);
    }

    /// Bytes of all rows in the file.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Squares of what was rounded off so far, and of the numbers.
    pub fn missed(&self) -> (f64, f64) {
        *self.missed.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<'a> Loader<'a> {
    /// The matrix of this name, if it is quantised in safetensors; `expert` says which of how
    /// many, if a tensor holds all.
    pub(super) fn quantised(
        &mut self,
        role: Role,
        base: &str,
        (rows, cols): (usize, usize),
        expert: Option<(usize, usize)>,
    ) -> Result<Option<Quantised<'a>>> {
        let Some(scheme) = self.scheme.clone() else {
            return Ok(None);
        };
        let mut parts = Parts {
            loader: self,
            role,
            base: base.to_owned(),
            shape: (rows, cols),
            expert,
            found: Vec::new(),
        };
        let p = &mut parts;
        let is = |p: &Parts, suffix: &str, kind: &str| p.type_of(suffix) == Some(kind);
        let weight = [".weight", ""].into_iter().find(|s| p.type_of(s).is_some());
        let weight = weight.unwrap_or(".weight");
        let (method, coded) = match scheme {
            Scheme::Fp8 { block } if is(p, weight, "F8_E4M3") => {
                ("FP8", fp8::open(p, weight, block)?)
            }
            Scheme::Mxfp4 if p.type_of("_blocks").is_some() => ("MXFP4", mxfp4::open(p)?),
            Scheme::Compressed { block, .. } if is(p, weight, "F8_E4M3") => {
                ("FP8", fp8::open(p, weight, block)?)
            }
            Scheme::Compressed { groups, .. } if p.type_of(".weight_packed").is_some() => {
                ("packed integers", compressed::packed(p, &groups)?)
            }
            Scheme::Compressed { groups, .. } if is(p, weight, "I8") => {
                ("bytes", compressed::bytes(p, &groups)?)
            }
            Scheme::Gptq { layout, zeros } if p.type_of(".qweight").is_some() => {
                ("GPTQ", gptq::gptq(p, layout, zeros)?)
            }
            Scheme::Awq { layout } if p.type_of(".qweight").is_some() => {
                ("AWQ", gptq::awq(p, layout)?)
            }
            Scheme::Mlx { layout, layers } if is(p, weight, "U32") => {
                ("MLX", mlx::open(p, layout, &layers)?)
            }
            Scheme::Table if is(p, weight, "U8") => ("bitsandbytes", table::open(p)?),
            _ => return Ok(None),
        };
        let tensors = parts.found;
        Ok(Some(Quantised {
            kept: coded.kept(),
            coded,
            method,
            rows,
            cols,
            tensors,
            missed: Mutex::default(),
        }))
    }
}

//! Small tables in single precision: types of tokens, and heads that give labels.

use super::Loader;
use crate::arch::Role;
use crate::error::{show, Result};
use crate::spec::Classifier;
use crate::weights::ClassifierWeights;
use rustml_io::Tensor;
use rustml_kernels::formats::decode_row;

impl Loader<'_> {
    /// All rows of a table.
    fn rows(&self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Vec<f32>> {
        let bytes = tensor.dtype.row_bytes(cols).unwrap_or(0);
        if bytes == 0 || tensor.data.len() != rows * bytes {
            return Err(self.error(format!(
                "the tensor {} has no whole rows",
                show(&tensor.info.name)
            )));
        }
        let mut out = vec![0.0; rows * cols];
        let stored = tensor.data.chunks_exact(bytes);
        for (row, out) in stored.zip(out.chunks_exact_mut(cols)) {
            decode_row(tensor.dtype, row, out);
        }
        Ok(out)
    }

    /// What is added to tokens of each type.
    pub(super) fn types(&mut self) -> Result<Vec<f32>> {
        let (tensor, _) = self.tensor(Role::TokenTypes, None, ".weight")?;
        let (shape, hidden) = (&tensor.info.shape, self.spec.hidden);
        let rows = match shape[..] {
            [n] if n == hidden => 1,
            [rows, n] if n == hidden && rows > 0 => rows,
            _ => {
                return Err(self.error(format!(
                    "the tensor {} has the shape {shape:?}, but by the configuration its rows have {hidden} values",
                    show(&tensor.info.name),
                )))
            }
        };
        let out = self.rows(&tensor, rows, hidden)?;
        self.report.parameters += out.len();
        Ok(out)
    }

    /// A matrix and its bias.
    fn small(&mut self, role: Role, rows: usize, bias: bool) -> Result<(Vec<f32>, Vec<f32>)> {
        let cols = self.spec.hidden;
        let (tensor, _) = self.tensor(role, None, ".weight")?;
        self.check_shape(&tensor, &[rows, cols])?;
        let weights = self.rows(&tensor, rows, cols)?;
        let bias = match bias {
            true => {
                let (tensor, _) = self.tensor(role, None, ".bias")?;
                self.floats(&tensor, rows)?
            }
            false => Vec::new(),
        };
        self.report.parameters += weights.len() + bias.len();
        Ok((weights, bias))
    }

    pub(super) fn classifier(&mut self, c: &Classifier) -> Result<ClassifierWeights> {
        let hidden = self.spec.hidden;
        let dense = match c.dense {
            Some(d) => Some(self.small(Role::ClassDense, hidden, d.bias)?),
            None => None,
        };
        let norm = match c.dense.and_then(|d| d.norm) {
            Some(n) => {
                let norm = self.norm(Role::ClassNorm, None, n.bias)?;
                Some((norm.weight, norm.bias))
            }
            None => None,
        };
        let (out, bias) = self.small(Role::ClassOut, c.labels, c.bias)?;
        Ok(ClassifierWeights {
            dense,
            norm,
            out,
            bias,
        })
    }
}

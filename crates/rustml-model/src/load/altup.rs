//! Weights of several streams (Gemma 3n).

use super::Loader;
use crate::arch::Role;
use crate::error::{show, Error, Result};
use crate::quantize::wanted;
use crate::spec::{AltUp, Laurel};
use crate::weights::{AltUpWeights, LaurelWeights, Linear, StreamsWeights};
use rustml_io::FileFormat;
use rustml_kernels::formats::{convert_row, decode_row};
use rustml_kernels::par::pack_rows;
use rustml_kernels::Matrix;

impl Loader<'_> {
    pub(super) fn streams(&mut self, count: usize) -> Result<StreamsWeights> {
        Ok(StreamsWeights {
            into: self.matrices(Role::StreamIn, count)?,
            out: self.matrices(Role::StreamOut, count)?,
        })
    }

    /// As many square matrices, of a tensor each or all in one.
    fn matrices(&mut self, role: Role, count: usize) -> Result<Vec<Linear>> {
        let hidden = self.spec.hidden;
        let is_one = matches!(self.store.format(), FileFormat::Gguf { .. });
        let (base, _) = self.base_name(role, None)?;
        let mut all = Vec::with_capacity(count);
        for i in 0..count {
            let (tensor, first) = match is_one {
                true => {
                    let tensor = self.tensor_named(role, &base, ".weight")?;
                    self.check_shape(&tensor, &[count, hidden, hidden])?;
                    (tensor, i * hidden)
                }
                false => {
                    let tensor = self.tensor_named(role, &format!("{base}.{i}"), ".weight")?;
                    self.check_shape(&tensor, &[hidden, hidden])?;
                    (tensor, 0)
                }
            };
            let name = show(&tensor.info.name);
            let stored = tensor.dtype;
            let Some(size) = stored.row_bytes(hidden) else {
                return Err(self.error(format!(
                    "the tensor {name} has rows of {hidden} values, no whole number of {stored} blocks"
                )));
            };
            let dtype = wanted(self.quantize, stored, hidden);
            let matrix = Matrix::zeroed(dtype, hidden, hidden, self.team.isa);
            let mut matrix = matrix.ok_or_else(|| Error::Memory {
                what: format!("the tensor {name} of {}", self.store.path().display()),
                bytes: dtype.row_bytes(hidden).unwrap_or(0).saturating_mul(hidden),
            })?;
            pack_rows(self.team, &mut matrix, &|row, out| {
                let bytes = &tensor.data[(first + row) * size..][..size];
                convert_row(stored, bytes, dtype, out, hidden);
                Ok::<(), Error>(())
            })?;
            self.report.parameters += hidden * hidden;
            self.done += size * hidden;
            all.push(Linear {
                weights: matrix,
                bias: None,
            });
        }
        Ok(all)
    }

    pub(super) fn predicts(&mut self, i: usize, a: &AltUp) -> Result<AltUpWeights> {
        let (n, hidden) = (a.streams, self.spec.hidden);
        Ok(AltUpWeights {
            router: self.coefficients(Role::StreamRouter, i, &[n, hidden])?,
            norm: self.norm_of(Role::StreamRouterNorm, Some(i), hidden, false)?,
            coefficients: self.coefficients(Role::StreamPredict, i, &[n * n, n])?,
            scale: Vec::new(),
            reads: None,
        })
    }

    pub(super) fn corrects(&mut self, i: usize, a: &AltUp) -> Result<AltUpWeights> {
        let (n, hidden) = (a.streams, self.spec.hidden);
        let after = self.norm_of(Role::PerLayerPostNorm, Some(i), hidden, false)?;
        let weights = AltUpWeights {
            router: self.coefficients(Role::StreamRouter, i, &[n, hidden])?,
            norm: self.norm_of(Role::StreamRouterNorm, Some(i), hidden, false)?,
            coefficients: self.coefficients(Role::StreamCorrect, i, &[n, n])?,
            scale: match a.scaled {
                true => self.vector(Role::StreamScale, i, hidden)?,
                false => Vec::new(),
            },
            reads: Some((self.reads_per_layer(i)?, after)),
        };
        // These are those of what predicts them.
        self.report.parameters -= weights.router.len() + weights.norm.weight.len();
        Ok(weights)
    }

    /// The numbers of a small matrix.
    fn coefficients(&mut self, role: Role, layer: usize, shape: &[usize]) -> Result<Vec<f32>> {
        let (tensor, _) = self.tensor(role, Some(layer), ".weight")?;
        self.check_shape(&tensor, shape)?;
        let mut out = vec![0.0; shape.iter().product()];
        decode_row(tensor.dtype, tensor.data, &mut out);
        self.report.parameters += out.len();
        Ok(out)
    }

    pub(super) fn laurel(&mut self, i: usize, l: &Laurel) -> Result<LaurelWeights> {
        let at = Some(i);
        Ok(LaurelWeights {
            left: self.linear(Role::LaurelLeft, at, false)?,
            right: self.linear(Role::LaurelRight, at, false)?,
            norm: self.norm(Role::LaurelNorm, at, l.norm.bias)?,
        })
    }
}

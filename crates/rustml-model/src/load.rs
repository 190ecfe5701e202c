//! From the tensors of a file to packed weights.
//!
//! Tensor by tensor: rows are read from the mapped file, repaired, converted
//! and packed in one pass by all threads, and the file's pages are given back
//! before the next tensor; so memory peaks at the packed weights and one
//! tensor. A tensor that nobody asked for is an error, because the model would
//! not be the one in the file.

use crate::arch::{Arch, Repair, Role};
use crate::error::{Error, Result};
use crate::quantize::{choose, Quantize};
use crate::spec::{Layer, Spec};
use crate::weights::{LayerWeights, Linear, NormWeights, Weights};
use rustml_io::{DType, FileFormat, Store, Tensor};
use rustml_kernels::formats::{convert_row, decode_row};
use rustml_kernels::par::{pack_rows, Team};
use rustml_kernels::Matrix;
use std::collections::HashSet;

/// What loading did with the linear layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Linear layers converted: from, to, how many.
    pub quantised: Vec<(DType, DType, usize)>,
    /// Linear layers that were to be converted but whose width does not
    /// allow it: type kept, width, how many.
    pub kept: Vec<(DType, usize, usize)>,
    /// Bytes of packed weights.
    pub bytes: usize,
    /// Parameters of the model.
    pub parameters: usize,
}

/// Called with the bytes of the file read so far, and all there are.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Loads all weights of an open model.
pub(crate) fn load(
    store: &Store,
    arch: &Arch,
    spec: &Spec,
    quantize: Quantize,
    team: &Team,
    progress: Progress,
) -> Result<(Weights, LoadReport)> {
    let mut l = Loader {
        store,
        arch,
        spec,
        quantize,
        team,
        used: HashSet::new(),
        report: LoadReport::default(),
        total: store.tensors().iter().map(|t| t.bytes).sum(),
        done: 0,
        progress,
    };
    l.check_names()?;
    let head_is_tied = spec.head.tied;
    let embedding = l.matrix(Role::Embedding, None, head_is_tied)?;
    let positions = match spec.embedding.learned_positions {
        true => Some(l.matrix(Role::Positions, None, false)?),
        false => None,
    };
    let layers = (0..spec.layers.len()).map(|i| l.layer(i));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let final_norm = l.norm(Role::FinalNorm, None, spec.final_norm.bias)?;
    let head = match head_is_tied {
        true => None,
        false => Some(l.linear(Role::Head, None, false)?),
    };
    l.check_leftovers()?;
    let weights = Weights {
        embedding,
        positions,
        layers,
        final_norm,
        head,
    };
    let mut report = l.report;
    report.bytes = weights.bytes();
    Ok((weights, report))
}

struct Loader<'a> {
    store: &'a Store,
    arch: &'a Arch,
    spec: &'a Spec,
    quantize: Quantize,
    team: &'a Team,
    used: HashSet<String>,
    report: LoadReport,
    total: usize,
    done: usize,
    progress: Progress<'a>,
}

/// A tensor as the forward pass wants it: which stored row is which.
struct View<'a> {
    tensor: Tensor<'a>,
    transposed: bool,
    first_row: usize,
    /// Values of a head, where rows alternate between its halves.
    interleaved: Option<usize>,
    rows: usize,
    cols: usize,
    /// Whether no later part of a fused tensor is still to be read.
    is_last_part: bool,
}

impl View<'_> {
    fn stored_row(&self, row: usize) -> usize {
        let row = match self.interleaved {
            None => row,
            Some(hd) => {
                let (head, i) = (row / hd, row % hd);
                head * hd + (i % (hd / 2)) * 2 + i / (hd / 2)
            }
        };
        self.first_row + row
    }

    /// Writes row `row` in type `to`.
    fn read(&self, row: usize, to: DType, out: &mut [u8]) {
        let (row, from) = (self.stored_row(row), self.tensor.dtype);
        let size = from.row_bytes(self.cols).expect("whole blocks");
        if !self.transposed {
            let bytes = &self.tensor.data[row * size..][..size];
            convert_row(from, bytes, to, out, self.cols);
            return;
        }
        let (value, stride) = (from.block_bytes(), self.tensor.info.shape[1]);
        let mut gathered = vec![0u8; size];
        for (i, v) in gathered.chunks_exact_mut(value).enumerate() {
            v.copy_from_slice(&self.tensor.data[(i * stride + row) * value..][..value]);
        }
        convert_row(from, &gathered, to, out, self.cols);
    }
}

impl<'a> Loader<'a> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.store.path().to_owned(),
            what: what.into(),
        }
    }

    fn is_gguf(&self) -> bool {
        matches!(self.store.format(), FileFormat::Gguf { .. })
    }

    fn base_name(&self, role: Role, layer: Option<usize>) -> Result<(String, Repair)> {
        let name = self.arch.tensor(role, self.store.format());
        let name = name.ok_or_else(|| {
            self.error(format!(
                "this architecture has no tensor for {role:?} in this format"
            ))
        })?;
        let base = match layer {
            Some(i) => name.name.replace("{}", &i.to_string()),
            None => name.name.to_owned(),
        };
        Ok((base, name.repair))
    }

    /// The stored name: as it is in GGUF, after a prefix in safetensors.
    fn find(&self, base: &str, suffix: &str) -> Option<String> {
        let prefixes = match self.is_gguf() {
            true => &[""],
            false => self.arch.hf_prefixes,
        };
        // The head stands outside the model that the prefix names.
        let extra = ["", "language_model."];
        let mut names = prefixes
            .iter()
            .chain(&extra)
            .map(|p| format!("{p}{base}{suffix}"));
        names.find(|n| self.store.find(n).is_some())
    }

    fn tensor(
        &mut self,
        role: Role,
        layer: Option<usize>,
        suffix: &str,
    ) -> Result<(Tensor<'a>, Repair)> {
        let (base, repair) = self.base_name(role, layer)?;
        let Some(name) = self.find(&base, suffix) else {
            return Err(self.error(format!("the tensor {base}{suffix} is missing")));
        };
        let tensor = self.store.tensor(&name)?;
        self.used.insert(name);
        Ok((tensor, repair))
    }

    /// `[outputs, inputs]` of a matrix by the configuration.
    fn shape(&self, role: Role, layer: Option<&Layer>) -> (usize, usize) {
        let s = self.spec;
        let dims = layer.map(|l| {
            let a = &l.attention;
            let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
            (q, kv, l.feed_forward.inner)
        });
        match (role, dims) {
            (Role::Query, Some((q, _, _))) => (q, s.hidden),
            (Role::Key | Role::Value, Some((_, kv, _))) => (kv, s.hidden),
            (Role::AttnOut, Some((q, _, _))) => (s.hidden, q),
            (Role::Gate | Role::Up, Some((_, _, inner))) => (inner, s.hidden),
            (Role::Down, Some((_, _, inner))) => (s.hidden, inner),
            (Role::Positions, _) => (s.context, s.hidden),
            _ => (s.vocab, s.hidden),
        }
    }

    /// Rows before this role's in a fused tensor, and all its rows.
    fn fused(&self, role: Role, layer: &Layer) -> (usize, usize) {
        let q = self.shape(Role::Query, Some(layer)).0;
        let kv = self.shape(Role::Key, Some(layer)).0;
        let before = match role {
            Role::Query => 0,
            Role::Key => q,
            _ => q + kv,
        };
        (before, q + 2 * kv)
    }

    fn view(&mut self, role: Role, layer: Option<usize>) -> Result<View<'a>> {
        let (tensor, repair) = self.tensor(role, layer, ".weight")?;
        let layer = layer.map(|i| &self.spec.layers[i]);
        let (rows, cols) = self.shape(role, layer);
        let (first_row, all_rows) = match (repair, layer) {
            (Repair::Fused | Repair::FusedTransposed, Some(layer)) => self.fused(role, layer),
            _ => (0, rows),
        };
        let transposed = matches!(repair, Repair::Transposed | Repair::FusedTransposed);
        let expected = match transposed {
            true => [cols, all_rows],
            false => [all_rows, cols],
        };
        if tensor.info.shape != expected {
            return Err(self.error(format!(
                "the tensor {} has the shape {:?}, but the configuration says {expected:?}",
                tensor.info.name, tensor.info.shape
            )));
        }
        if transposed && !tensor.dtype.is_float() {
            return Err(self.error(format!(
                "the tensor {} is stored transposed and in {}; only float types can be",
                tensor.info.name, tensor.dtype
            )));
        }
        if tensor.dtype.row_bytes(cols).is_none() {
            return Err(self.error(format!(
                "the tensor {} has rows of {cols} values, no whole number of {} blocks",
                tensor.info.name, tensor.dtype
            )));
        }
        let interleaved = match (repair, layer) {
            (Repair::Interleaved, Some(layer)) => Some(layer.attention.head_dim),
            _ => None,
        };
        Ok(View {
            tensor,
            transposed,
            first_row,
            interleaved,
            rows,
            cols,
            is_last_part: first_row + rows == all_rows,
        })
    }

    fn matrix(&mut self, role: Role, layer: Option<usize>, linear: bool) -> Result<Matrix> {
        let view = self.view(role, layer)?;
        let (rows, cols, stored) = (view.rows, view.cols, view.tensor.dtype);
        let dtype = match linear {
            true => choose(self.quantize, stored, rows, cols),
            false => stored,
        };
        if linear {
            self.count(stored, dtype, cols);
        }
        self.store.will_need(view.tensor.info);
        let matrix = Matrix::zeroed(dtype, rows, cols, self.team.isa);
        let mut matrix = matrix.ok_or_else(|| Error::Memory {
            what: format!("the tensor {}", view.tensor.info.name),
            bytes: dtype.row_bytes(cols).unwrap_or(0).saturating_mul(rows),
        })?;
        pack_rows(self.team, &mut matrix, &|row, out| {
            view.read(row, dtype, out);
            Ok::<(), Error>(())
        })?;
        if view.is_last_part {
            self.store.release(view.tensor.info);
        }
        self.report.parameters += rows * cols;
        self.done += (view.tensor.info.bytes / view.tensor.info.len().max(1)) * rows * cols;
        (self.progress)(self.done.min(self.total), self.total);
        Ok(matrix)
    }

    fn count(&mut self, from: DType, to: DType, cols: usize) {
        if from != to {
            let found = self
                .report
                .quantised
                .iter_mut()
                .find(|q| (q.0, q.1) == (from, to));
            match found {
                Some(q) => q.2 += 1,
                None => self.report.quantised.push((from, to, 1)),
            }
        } else if matches!(self.quantize, Quantize::To(t) if t != from && from.is_float()) {
            let found = self
                .report
                .kept
                .iter_mut()
                .find(|k| (k.0, k.1) == (from, cols));
            match found {
                Some(k) => k.2 += 1,
                None => self.report.kept.push((from, cols, 1)),
            }
        }
    }

    fn linear(&mut self, role: Role, layer: Option<usize>, bias: bool) -> Result<Linear> {
        let weights = self.matrix(role, layer, true)?;
        let bias = match bias {
            true => Some(self.bias(role, layer, weights.rows())?),
            false => None,
        };
        Ok(Linear { weights, bias })
    }

    /// The bias of a linear layer, with the repair that its rows had.
    fn bias(&mut self, role: Role, layer: Option<usize>, rows: usize) -> Result<Vec<f32>> {
        let (tensor, repair) = self.tensor(role, layer, ".bias")?;
        let layer = layer.map(|i| &self.spec.layers[i]);
        let (first_row, all) = match (repair, layer) {
            (Repair::Fused | Repair::FusedTransposed, Some(layer)) => self.fused(role, layer),
            _ => (0, rows),
        };
        let stored = self.floats(&tensor, all)?;
        let interleaved = match (repair, layer) {
            (Repair::Interleaved, Some(layer)) => Some(layer.attention.head_dim),
            _ => None,
        };
        let order = View {
            tensor,
            transposed: false,
            first_row,
            interleaved,
            rows,
            cols: 1,
            is_last_part: first_row + rows == all,
        };
        self.report.parameters += rows;
        Ok((0..rows).map(|r| stored[order.stored_row(r)]).collect())
    }

    fn floats(&self, tensor: &Tensor, len: usize) -> Result<Vec<f32>> {
        if tensor.info.shape != [len] {
            return Err(self.error(format!(
                "the tensor {} has the shape {:?}, but the configuration says [{len}]",
                tensor.info.name, tensor.info.shape
            )));
        }
        let mut out = vec![0.0; len];
        decode_row(tensor.dtype, tensor.data, &mut out);
        Ok(out)
    }

    fn norm(&mut self, role: Role, layer: Option<usize>, bias: bool) -> Result<NormWeights> {
        let len = match (role, layer) {
            (Role::QueryNorm | Role::KeyNorm, Some(i)) => self.spec.layers[i].attention.head_dim,
            _ => self.spec.hidden,
        };
        let (tensor, repair) = self.tensor(role, layer, ".weight")?;
        let mut weight = self.floats(&tensor, len)?;
        if repair == Repair::MinusOne {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        let bias = match bias {
            true => {
                let (tensor, _) = self.tensor(role, layer, ".bias")?;
                self.floats(&tensor, len)?
            }
            false => Vec::new(),
        };
        self.report.parameters += weight.len() + bias.len();
        Ok(NormWeights { weight, bias })
    }

    fn layer(&mut self, i: usize) -> Result<LayerWeights> {
        use crate::spec::Wiring;
        let Layer {
            wiring,
            norm,
            attention,
            feed_forward,
        } = self.spec.layers[i];
        let at = Some(i);
        let sandwich = wiring == Wiring::Sandwich;
        let mut optional = |has: bool, role, bias| -> Result<Option<NormWeights>> {
            has.then(|| self.norm(role, at, bias)).transpose()
        };
        let qk = attention.qk_norm;
        let qk_bias = qk.is_some_and(|n| n.bias);
        let query_norm = optional(qk.is_some(), Role::QueryNorm, qk_bias)?;
        let key_norm = optional(qk.is_some(), Role::KeyNorm, qk_bias)?;
        let attn_post_norm = optional(sandwich, Role::AttnPostNorm, norm.bias)?;
        let ffn_post_norm = optional(sandwich, Role::FfnPostNorm, norm.bias)?;
        let gate = match feed_forward.gated {
            true => Some(self.linear(Role::Gate, at, feed_forward.bias)?),
            false => None,
        };
        Ok(LayerWeights {
            attn_norm: self.norm(Role::AttnNorm, at, norm.bias)?,
            query: self.linear(Role::Query, at, attention.qkv_bias)?,
            key: self.linear(Role::Key, at, attention.qkv_bias)?,
            value: self.linear(Role::Value, at, attention.qkv_bias)?,
            query_norm,
            key_norm,
            attn_out: self.linear(Role::AttnOut, at, attention.out_bias)?,
            attn_post_norm,
            ffn_norm: self.norm(Role::FfnNorm, at, norm.bias)?,
            gate,
            up: self.linear(Role::Up, at, feed_forward.bias)?,
            down: self.linear(Role::Down, at, feed_forward.bias)?,
            ffn_post_norm,
        })
    }

    /// Says early, and in one sentence, that a file is of other tensors
    /// altogether.
    fn check_names(&self) -> Result<()> {
        let (base, _) = self.base_name(Role::Embedding, None)?;
        match self.find(&base, ".weight") {
            Some(_) => Ok(()),
            None => Err(self.error(format!(
                "the tensor {base}.weight is missing, among {} tensors that begin with {:?}",
                self.store.tensors().len(),
                self.store.tensors().first().map_or("", |t| t.name.as_str()),
            ))),
        }
    }

    fn check_leftovers(&self) -> Result<()> {
        // A tied head may be stored all the same; the embedding stands for it.
        let head = match self.spec.head.tied && !self.is_gguf() {
            true => self.find("lm_head", ".weight"),
            false => None,
        };
        let leftovers: Vec<&str> = self
            .store
            .tensors()
            .iter()
            .map(|t| t.name.as_str())
            .filter(|n| !self.used.contains(*n) && Some(*n) != head.as_deref())
            .filter(|n| {
                let ignored = self.arch.ignored;
                !ignored.iter().any(|i| n.starts_with(i) || n.ends_with(i))
            })
            .collect();
        match leftovers.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(self.error(format!(
                "{} tensor{} nothing in this architecture uses, the first {first}: \
                 the file is of another model than its configuration says",
                leftovers.len(),
                if leftovers.len() == 1 {
                    " is there that"
                } else {
                    "s are there that"
                },
            ))),
        }
    }
}

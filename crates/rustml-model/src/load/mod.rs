//! From the tensors of a file to packed weights.
//!
//! Tensor by tensor: rows are read from the mapped file, repaired, converted
//! and packed in one pass by all threads, and the file's pages are given back
//! before the next tensor; so memory peaks at the packed weights and one
//! tensor. Nothing is allocated for a tensor before its stored shape is that
//! of the configuration, so no setting can ask for more memory than the file
//! is large. A tensor that nobody asked for is an error, because the model
//! would not be the one in the file.

mod names;
mod view;

use crate::arch::{Arch, Repair, Role};
use crate::calibrate::{Calibration, Timings};
use crate::error::{show, Error, Result};
use crate::quantize::{wanted, Quantize};
use crate::spec::{Layer, Spec, Wiring};
use crate::weights::{LayerWeights, Linear, NormWeights, Weights};
use rustml_io::{DType, Store, Tensor};
use rustml_kernels::formats::decode_row;
use rustml_kernels::par::{pack_rows, Team};
use rustml_kernels::{ticks, ticks_since, Matrix};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
    /// Formats of linear layers that were chosen by measurement.
    pub choices: Vec<Choice>,
    /// What the packed matrices took.
    pub times: LoadTimes,
}

/// A format that was chosen for linear layers of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Outputs of a layer.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Layers of that shape.
    pub layers: usize,
    /// Type in the file.
    pub stored: DType,
    /// Type in memory.
    pub chosen: DType,
    /// Time of a product of one row, in the type of the file and in those that
    /// were tried.
    pub timings: Timings,
}

/// Wall time of loading matrices. Threads read and pack side by side; the time
/// is divided as theirs is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTimes {
    /// Reading rows that keep their type.
    pub read: Duration,
    /// Reading rows and converting them.
    pub quantise: Duration,
    /// Packing.
    pub pack: Duration,
    /// Measuring formats.
    pub calibrate: Duration,
}

/// Called with the bytes of the file read so far, and all there are; in the
/// end both are the same.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Loads all weights of an open model.
pub(crate) fn load(
    store: &Store,
    arch: &Arch,
    spec: &Spec,
    (quantize, calibration): (Quantize, &mut Calibration),
    team: &Team,
    progress: Progress,
) -> Result<(Weights, LoadReport)> {
    let mut l = Loader {
        store,
        arch,
        spec,
        quantize,
        calibration,
        team,
        prefix: "",
        used: HashSet::new(),
        report: LoadReport::default(),
        total: store.tensors().iter().map(|t| t.bytes).sum(),
        done: 0,
        progress,
    };
    l.find_prefix()?;
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
    // Small tensors and those that are ignored.
    (l.progress)(l.total, l.total);
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
    calibration: &'a mut Calibration,
    team: &'a Team,
    /// What stands before all names, in safetensors.
    prefix: &'static str,
    used: HashSet<String>,
    report: LoadReport,
    total: usize,
    done: usize,
    progress: Progress<'a>,
}

impl Loader<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.store.path().to_owned(),
            what: what.into(),
        }
    }

    /// Packs the matrix for `role`; converted, if it is that of a linear layer.
    fn matrix(&mut self, role: Role, layer: Option<usize>, linear: bool) -> Result<Matrix> {
        let view = self.view(role, layer)?;
        let (rows, cols, stored) = (view.rows, view.cols, view.tensor.dtype);
        let dtype = match linear {
            true => self.choose(stored, rows, cols),
            false => stored,
        };
        if linear {
            self.count(stored, dtype, cols);
        }
        self.store.will_need(view.tensor.info);
        let matrix = Matrix::zeroed(dtype, rows, cols, self.team.isa);
        let mut matrix = matrix.ok_or_else(|| Error::Memory {
            what: format!(
                "the tensor {} of {}",
                show(&view.tensor.info.name),
                self.store.path().display()
            ),
            bytes: dtype.row_bytes(cols).unwrap_or(0).saturating_mul(rows),
        })?;
        // A row takes less than the system's clock to be read twice.
        let (start, start_ticks, reading) = (Instant::now(), ticks(), AtomicU64::new(0));
        pack_rows(self.team, &mut matrix, &|row, out| {
            let start = ticks();
            view.read(row, dtype, out);
            reading.fetch_add(ticks_since(start), Relaxed);
            if let Some(part) = view.through(row) {
                self.store.release_part(view.tensor.info, part);
            }
            Ok::<(), Error>(())
        })?;
        let (wall, all) = (start.elapsed(), ticks_since(start_ticks).max(1));
        let share = reading.into_inner() as f64 / (all * self.team.pool.threads() as u64) as f64;
        let reading = wall.mul_f64(share.min(1.0));
        let times = &mut self.report.times;
        times.pack += wall - reading;
        match stored == dtype {
            true => times.read += reading,
            false => times.quantise += reading,
        }
        if view.is_last_part {
            self.store.release(view.tensor.info);
        }
        self.report.parameters += rows * cols;
        self.done += view.bytes();
        (self.progress)(self.done, self.total);
        Ok(matrix)
    }

    /// The format of a linear layer.
    fn choose(&mut self, stored: DType, outputs: usize, inputs: usize) -> DType {
        if self.quantize != Quantize::Auto {
            return wanted(self.quantize, stored, inputs);
        }
        let (start, shape) = (Instant::now(), (outputs, inputs));
        let chosen = self
            .calibration
            .choose(self.team, stored, shape, self.total);
        self.report.times.calibrate += start.elapsed();
        let (chosen, Some(timings)) = chosen else {
            return stored;
        };
        let all = &mut self.report.choices;
        let same = |c: &&mut Choice| (c.stored, c.outputs, c.inputs) == (stored, outputs, inputs);
        match all.iter_mut().find(same) {
            Some(choice) => choice.layers += 1,
            None => all.push(Choice {
                outputs,
                inputs,
                layers: 1,
                stored,
                chosen,
                timings,
            }),
        }
        chosen
    }

    /// Notes what became of a linear layer.
    fn count(&mut self, from: DType, to: DType, cols: usize) {
        let r = &mut self.report;
        if from != to {
            let same = r.quantised.iter_mut().find(|q| (q.0, q.1) == (from, to));
            match same {
                Some(q) => q.2 += 1,
                None => r.quantised.push((from, to, 1)),
            }
        } else if matches!(self.quantize, Quantize::To(t) if t != from && from.is_float()) {
            let same = r.kept.iter_mut().find(|k| (k.0, k.1) == (from, cols));
            match same {
                Some(k) => k.2 += 1,
                None => r.kept.push((from, cols, 1)),
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
        let (order, all) = self.order(role, repair, layer);
        let stored = self.floats(&tensor, all)?;
        self.report.parameters += rows;
        Ok((0..rows).map(|r| stored[order.stored(r)]).collect())
    }

    fn floats(&self, tensor: &Tensor, len: usize) -> Result<Vec<f32>> {
        self.check_shape(tensor, &[len])?;
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
}

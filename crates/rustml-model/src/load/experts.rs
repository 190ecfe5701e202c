//! The weights of a mixture of experts.
//!
//! Files have a tensor for each expert, or one for all: `[experts, rows, cols]`, or
//! with rows and columns exchanged. Gate and up may lie in one tensor.

use super::quantised::SUFFIXES;
use super::view::Held;
use super::Loader;
use crate::arch::{Name, Repair, Role};
use crate::error::{show, Error, Result};
use crate::spec::Experts;
use crate::weights::{ExpertsWeights, NormWeights};
use rustml_io::DType;
use rustml_kernels::formats::{convert_row, decode_row};
use rustml_kernels::par::{pack_expert, ExpertMatrix};

/// Where the rows of an expert's matrix are.
struct Source<'a> {
    held: Held<'a>,
    /// The expert's first value, and the row's, as stored.
    first: usize,
    /// Values from one row to the next, and from one column to the next; of what is
    /// quantised, everything is counted in rows.
    strides: (usize, usize),
    cols: usize,
    /// Whether a tensor holds all experts.
    is_of_all: bool,
}

impl Source<'_> {
    /// The tensor's name, if it is of another type than another expert's. Formats that
    /// are chosen for what the numbers are may differ.
    fn differs_from(&self, other: &Source) -> Option<String> {
        let name = || show(self.held.tensors().next().map_or("", |t| &t.name));
        match (&self.held, &other.held) {
            (Held::Plain(a), Held::Plain(b)) if a.dtype == b.dtype => None,
            (Held::Quantised(a), Held::Quantised(b)) if a.method == b.method => None,
            _ => Some(name()),
        }
    }

    /// Writes a row in type `to`.
    fn read(&self, row: usize, to: DType, out: &mut [u8]) {
        let at = self.first + row * self.strides.0;
        let tensor = match &self.held {
            Held::Plain(tensor) => tensor,
            Held::Quantised(q) => return q.read(at, to, out),
        };
        let from = tensor.dtype;
        if self.strides.1 == 1 {
            // Rows are whole blocks.
            let size = from.row_bytes(self.cols).expect("whole blocks");
            let start = from.row_bytes(at).expect("whole blocks");
            convert_row(from, &tensor.data[start..][..size], to, out, self.cols);
            return;
        }
        let value = from.block_bytes();
        let mut gathered = vec![0u8; value * self.cols];
        for (i, v) in gathered.chunks_exact_mut(value).enumerate() {
            let at = (at + i * self.strides.1) * value;
            v.copy_from_slice(&tensor.data[at..][..value]);
        }
        convert_row(from, &gathered, to, out, self.cols);
    }
}

impl<'a> Loader<'a> {
    pub(super) fn experts(&mut self, i: usize, e: &Experts) -> Result<ExpertsWeights> {
        let at = Some(i);
        let router = self.linear(Role::ExpertRouter, at, e.router_bias)?;
        let correction = match e.correction {
            true => self.vector(Role::Correction, i, e.router.experts)?,
            false => Vec::new(),
        };
        let f = &e.expert;
        let gate = f.gated.then(|| self.expert_matrix(Role::ExpertGate, i, e));
        let shared = e.shared.map(|s| {
            let roles = [Role::SharedGate, Role::SharedUp, Role::SharedDown];
            self.feed_forward(i, &s.expert, roles)
        });
        Ok(ExpertsWeights {
            router,
            correction,
            gate: gate.transpose()?,
            up: self.expert_matrix(Role::ExpertUp, i, e)?,
            down: self.expert_matrix(Role::ExpertDown, i, e)?,
            shared: shared.transpose()?,
            shared_gate: match e.shared {
                Some(s) if s.gated => self.vector(Role::SharedRouter, i, self.spec.hidden)?,
                _ => Vec::new(),
            },
            router_norm: match e.router_norm {
                Some(_) => Some(self.router_norm(i)?),
                None => None,
            },
            factors: match e.factors {
                true => self.vector(Role::ExpertFactors, i, e.router.experts)?,
                false => Vec::new(),
            },
        })
    }

    /// What the router reads is divided by the square root of its width, too.
    fn router_norm(&mut self, layer: usize) -> Result<NormWeights> {
        let hidden = self.spec.hidden;
        let mut weight = self.vector(Role::RouterNorm, layer, hidden)?;
        let root = (hidden as f32).sqrt();
        weight.iter_mut().for_each(|w| *w /= root);
        let bias = Vec::new();
        Ok(NormWeights { weight, bias })
    }

    /// The numbers of a tensor that is a vector, whatever comes after its name.
    pub(super) fn vector(&mut self, role: Role, layer: usize, len: usize) -> Result<Vec<f32>> {
        let suffix = self.suffix(role, layer, &[".weight", "", ".bias"]);
        let (tensor, _) = self.tensor(role, Some(layer), suffix)?;
        let shape = &tensor.info.shape;
        if shape.iter().product::<usize>() != len || shape.iter().filter(|n| **n != 1).count() > 1 {
            return Err(self.error(format!(
                "the tensor {} has the shape {shape:?}, but by the configuration it has {len} values",
                show(&tensor.info.name),
            )));
        }
        let mut out = vec![0.0; len];
        decode_row(tensor.dtype, tensor.data, &mut out);
        self.report.parameters += len;
        Ok(out)
    }

    /// The first of some suffixes with which the tensor for `role` is there.
    fn suffix(&self, role: Role, layer: usize, all: &[&'static str]) -> &'static str {
        let names: Vec<String> = self
            .names_of(role)
            .map(|n| n.name.replace("{}", &layer.to_string()))
            .collect();
        let is_there = |suffix: &&&'static str| {
            let mut names = names.iter();
            names.any(|base| self.find(role, base, suffix).is_some())
        };
        all.iter().find(is_there).copied().unwrap_or(all[0])
    }

    /// Packs a layer's matrices of all experts for `role`.
    fn expert_matrix(&mut self, role: Role, layer: usize, e: &Experts) -> Result<ExpertMatrix> {
        let (rows, cols) = role.shape(self.spec, Some(&self.spec.layers[layer]));
        let (experts, team) = (e.router.experts, self.team);
        let first = self.source(role, layer, 0, (experts, rows, cols))?;
        let stored = first.held.dtype();
        let dtype = self.choose(&first.held, rows, cols);
        let matrix = ExpertMatrix::zeroed(dtype, experts, rows, cols, team.isa);
        let bytes = dtype.row_bytes(cols).unwrap_or(0).saturating_mul(rows);
        let mut matrix = matrix.ok_or_else(|| Error::Memory {
            what: format!(
                "the experts of layer {layer} of {}",
                self.store.path().display()
            ),
            bytes: bytes.saturating_mul(experts),
        })?;
        for expert in 0..experts {
            let source = self.source(role, layer, expert, (experts, rows, cols))?;
            if let Some(name) = source.differs_from(&first) {
                return Err(self.error(format!(
                    "the tensor {name} is {}, but that of the first expert is {stored}",
                    source.held.dtype(),
                )));
            }
            self.count(&source.held, dtype, cols);
            pack_expert(team, &mut matrix, expert, &|_, row, out| {
                source.read(row, dtype, out);
                Ok::<(), Error>(())
            })?;
            self.report.parameters += rows * cols;
            self.note(&source.held, dtype);
            self.done += match &source.held {
                Held::Plain(_) => stored.row_bytes(cols).unwrap_or(0) * rows,
                Held::Quantised(q) => q.bytes() / if first.is_of_all { experts } else { 1 },
            };
            (self.progress)(self.done.min(self.total), self.total);
            if !first.is_of_all {
                source.held.tensors().for_each(|t| self.store.release(t));
            }
        }
        if first.is_of_all && role != Role::ExpertGate {
            first.held.tensors().for_each(|t| self.store.release(t));
        }
        if e.expert.bias {
            matrix.set_bias(&self.expert_bias(role, layer, experts, rows)?);
        }
        Ok(matrix)
    }

    /// The biases of all experts, `[experts, rows]`.
    fn expert_bias(
        &mut self,
        role: Role,
        layer: usize,
        experts: usize,
        rows: usize,
    ) -> Result<Vec<f32>> {
        let suffix = self.suffix(role, layer, &[".bias", "_bias"]);
        let (tensor, repair) = self.tensor(role, Some(layer), suffix)?;
        let (first, step, all) = part_of(role, repair, rows);
        self.check_shape(&tensor, &[experts, all])?;
        let mut stored = vec![0.0; experts * all];
        decode_row(tensor.dtype, tensor.data, &mut stored);
        self.report.parameters += experts * rows;
        let at = |i: usize| stored[i / rows * all + first + i % rows * step];
        Ok((0..experts * rows).map(at).collect())
    }

    /// Where an expert's matrix is.
    fn source(
        &mut self,
        role: Role,
        layer: usize,
        expert: usize,
        (experts, rows, cols): (usize, usize, usize),
    ) -> Result<Source<'a>> {
        let number = layer.to_string();
        let base = |n: &Name| {
            n.name
                .replace("{}", &number)
                .replace("{e}", &expert.to_string())
        };
        // Whose first expert is there.
        let first = |n: &Name| n.name.replace("{}", &number).replace("{e}", "0");
        let suffixes = [&[".weight", ""], SUFFIXES].concat();
        let names: Vec<&Name> = self.names_of(role).collect();
        let there = names.iter().find_map(|name| {
            let suffix = suffixes
                .iter()
                .find(|suffix| self.find(role, &first(name), suffix).is_some())?;
            Some((*name, *suffix))
        });
        let (name, suffix) = there.unwrap_or((names[0], suffixes[0]));
        let each = name.name.contains("{e}");
        let repair = name.repair;
        let (first, step, all) = part_of(role, repair, rows);
        let of_all = (!each).then_some((expert, experts));
        if let Some(quantised) = self.quantised(role, &base(name), (all, cols), of_all)? {
            return Ok(Source {
                held: Held::Quantised(quantised),
                first,
                strides: (step, 1),
                cols,
                is_of_all: !each,
            });
        }
        let tensor = self.tensor_named(role, &base(name), suffix)?;
        let transposed = matches!(
            repair,
            Repair::Transposed | Repair::FusedTransposed | Repair::AlternatingTransposed
        );
        let (expected, strides) = match transposed {
            true => (vec![experts, cols, all], (step, all)),
            false => (vec![experts, all, cols], (step * cols, 1)),
        };
        let expected = &expected[usize::from(each)..];
        self.check_shape(&tensor, expected)?;
        if transposed && !tensor.dtype.is_float() {
            return Err(self.error(format!(
                "the tensor {} is stored transposed and in {}; only float types can be",
                show(&tensor.info.name),
                tensor.dtype
            )));
        }
        if tensor.dtype.row_bytes(cols).is_none() {
            return Err(self.error(format!(
                "the tensor {} has rows of {cols} values, no whole number of {} blocks",
                show(&tensor.info.name),
                tensor.dtype
            )));
        }
        let before = if each { 0 } else { expert * all * cols };
        let first = match transposed {
            true => first,
            false => first * cols,
        };
        Ok(Source {
            held: Held::Plain(tensor),
            first: before + first,
            strides,
            cols,
            is_of_all: !each,
        })
    }
}

/// Of a tensor that may hold gate and up: the first output of the part, the distance
/// to the next one, and how many there are in all.
fn part_of(role: Role, repair: Repair, rows: usize) -> (usize, usize, usize) {
    let second = usize::from(role == Role::ExpertUp);
    match repair {
        Repair::Fused | Repair::FusedTransposed => (second * rows, 1, 2 * rows),
        Repair::AlternatingTransposed if role != Role::ExpertDown => (second, 2, 2 * rows),
        _ => (0, 1, rows),
    }
}

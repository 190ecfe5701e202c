//! From the tensors of a file to packed weights.
//!
//! Tensor by tensor: rows are read from the mapped file, repaired, converted
//! and packed in one pass by all threads, and the file's pages are given back
//! before the next tensor; so memory peaks at the packed weights and one
//! tensor. Nothing is allocated for a tensor before its stored shape is that
//! of the configuration, so no setting can ask for more memory than the file
//! is large. A tensor that nobody asked for is an error, because the model
//! would not be the one in the file.

mod altup;
mod classifier;
mod experts;
mod latent;
mod names;
mod per_layer;
mod quantised;
mod recurrent;
mod report;
mod tied;
mod view;

pub(crate) use quantised::Scheme;
pub use report::{Choice, LoadReport, LoadTimes, Recoded};

use crate::arch::{Arch, Repair, Role};
use crate::calibrate::Calibration;
use crate::error::{show, Error, Result};
use crate::quantize::{fits, wanted, Quantize};
use crate::source::Config;
use crate::spec::{Attention, Block, FeedForward, Norm, NormedOver, Part, Relative, Spec};
use crate::weights::*;
use rustml_io::{DType, FileFormat, Store, Tensor};
use rustml_kernels::formats::decode_row;
use rustml_kernels::par::{pack_rows, Team};
use rustml_kernels::{ticks, ticks_since, Matrix};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use view::Held;

/// Called with the bytes of the file read so far, and all there are; in the
/// end both are the same.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Loads all weights of an open model. `spec` is corrected where the file says
/// better whether the head is tied.
pub(crate) fn load(
    store: &Store,
    arch: &Arch,
    spec: &mut Spec,
    (quantize, calibration): (Quantize, &mut Calibration),
    team: &Team,
    progress: Progress,
) -> Result<(Weights, LoadReport)> {
    let tied = spec.head.as_mut().filter(|head| head.tied);
    let apart = tied.filter(|_| tied::is_stored_apart(store, arch));
    let untied = apart.map(|head| head.tied = false).is_some();
    let scheme = match store.format() {
        FileFormat::Safetensors => Scheme::of(&Config::new(store)?)?,
        FileFormat::Gguf { .. } => None,
    };
    let mut l = Loader {
        store,
        arch,
        spec: &*spec,
        quantize,
        calibration,
        team,
        prefix: "",
        homes: match &scheme {
            Some(_) => quantised::homes(store)?,
            None => HashMap::new(),
        },
        scheme,
        used: HashSet::new(),
        report: LoadReport {
            untied,
            ..LoadReport::default()
        },
        total: store.tensors().iter().map(|t| t.bytes).sum(),
        done: 0,
        caches: 0,
        states: 0,
        progress,
    };
    l.find_prefix()?;
    let spec = l.spec;
    let head_is_tied = spec.head.is_some_and(|h| h.tied);
    let embedding = l.matrix(Role::Embedding, None, head_is_tied)?;
    let positions = match spec.embedding.learned_positions {
        true => Some(l.matrix(Role::Positions, None, false)?),
        false => None,
    };
    let types = match spec.embedding.types {
        true => l.types()?,
        false => Vec::new(),
    };
    let norm = spec
        .embedding
        .norm
        .map(|n| l.norm(Role::EmbeddingNorm, None, n.bias));
    let embedding_norm = norm.transpose()?;
    let per_layer = spec.embedding.per_layer.map(|p| l.per_layer(&p));
    let per_layer = per_layer.transpose()?.map(Box::new);
    let streams = match spec.streams() {
        1 => None,
        n => Some(l.streams(n - 1)?),
    };
    let layers = (0..spec.layers.len()).map(|i| l.layer(i));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let norm = |l: &mut Loader, role, n: Option<Norm>| {
        let norm = n.map(|n| l.norm(role, None, n.bias));
        norm.transpose()
    };
    let final_norm = norm(&mut l, Role::FinalNorm, spec.final_norm)?;
    let head = match spec.head.filter(|h| !h.tied) {
        None => None,
        Some(head) => Some(l.linear(Role::Head, None, head.bias)?),
    };
    let classifier = spec.classifier.map(|c| l.classifier(&c)).transpose()?;
    l.check_leftovers()?;
    // Small tensors and those that are ignored.
    (l.progress)(l.total, l.total);
    let weights = Weights {
        embedding,
        positions,
        types,
        embedding_norm,
        per_layer,
        streams,
        layers,
        final_norm,
        head,
        tied: head_is_tied,
        classifier,
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
    /// How the checkpoint is quantised.
    scheme: Option<Scheme>,
    /// Then the files of the tensors, where there are several.
    homes: HashMap<String, PathBuf>,
    used: HashSet<String>,
    report: LoadReport,
    total: usize,
    done: usize,
    /// Layers of the cache so far.
    caches: usize,
    /// Parts of a slot of states so far.
    states: usize,
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
        let (rows, cols, stored) = (view.rows, view.cols, view.held.dtype());
        let dtype = match (linear, role) {
            (true, role) if role.is_precise() => DType::F32,
            (true, _) => self.choose(&view.held, rows, cols),
            (false, _) => stored,
        };
        if linear && !role.is_precise() {
            self.count(&view.held, dtype, cols);
        }
        for tensor in view.held.tensors() {
            self.store.will_need(tensor);
        }
        let matrix = Matrix::zeroed(dtype, rows, cols, self.team.isa);
        let mut matrix = matrix.ok_or_else(|| Error::Memory {
            what: format!(
                "the tensor {} of {}",
                show(view.held.tensors().next().map_or("", |t| &t.name)),
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
            if let Some((tensor, part)) = view.through(row) {
                self.store.release_part(tensor, part);
            }
            Ok::<(), Error>(())
        })?;
        let (wall, all) = (start.elapsed(), ticks_since(start_ticks).max(1));
        let share = reading.into_inner() as f64 / (all * self.team.pool.threads() as u64) as f64;
        let reading = wall.mul_f64(share.min(1.0));
        let times = &mut self.report.times;
        times.pack += wall - reading;
        match view.held.is_copied(dtype) {
            true => times.read += reading,
            false => times.quantise += reading,
        }
        if view.is_last_part {
            for tensor in view.held.tensors() {
                self.store.release(tensor);
            }
        }
        self.note(&view.held, dtype);
        self.report.parameters += rows * cols;
        self.done += view.bytes();
        (self.progress)(self.done.min(self.total), self.total);
        Ok(matrix)
    }

    /// The format of a linear layer.
    fn choose(&mut self, held: &Held, outputs: usize, inputs: usize) -> DType {
        let stored = held.dtype();
        if let Held::Quantised(q) = held {
            // What would be rounded anyway may as well be what was asked for.
            return match self.quantize {
                Quantize::To(to) if !q.kept.exact && fits(to, inputs) => to,
                _ => stored,
            };
        }
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
    fn count(&mut self, held: &Held, to: DType, cols: usize) {
        let Held::Plain(tensor) = held else {
            return;
        };
        let from = tensor.dtype;
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

    /// Notes what became of a quantised matrix, once it is read.
    fn note(&mut self, held: &Held, to: DType) {
        if let Held::Quantised(q) = held {
            self.report.recode(q.method, to, q.missed());
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

    /// The summand of each distance, from the table of ranges `[ranges, heads]`.
    fn relative(&mut self, r: &Relative, heads: usize) -> Result<Vec<f32>> {
        let (tensor, _) = self.tensor(Role::RelativeBias, None, ".weight")?;
        self.check_shape(&tensor, &[r.ranges, heads])?;
        let mut table = vec![0.0; r.ranges * heads];
        decode_row(tensor.dtype, tensor.data, &mut table);
        let reach = r.reach as isize;
        let of = |head: usize| (-reach..=reach).map(move |ahead| (head, ahead));
        let all = (0..heads).flat_map(of);
        Ok(all
            .map(|(head, ahead)| table[r.range(ahead) * heads + head])
            .collect())
    }

    fn norm(&mut self, role: Role, layer: Option<usize>, bias: bool) -> Result<NormWeights> {
        self.norm_of(role, layer, self.spec.hidden, bias)
    }

    fn norm_of(
        &mut self,
        role: Role,
        layer: Option<usize>,
        len: usize,
        bias: bool,
    ) -> Result<NormWeights> {
        // Some files leave the suffix out.
        let (base, repair) = self.base_name(role, layer)?;
        let bare = self.find(role, &base, ".weight").is_none();
        let bare = bare && self.find(role, &base, "").is_some();
        let suffix = if bare { "" } else { ".weight" };
        let tensor = self.tensor_named(role, &base, suffix)?;
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

    /// Norms of heads, one after the other: each in a tensor of its own, or all in one.
    fn norms_of_heads(
        &mut self,
        role: Role,
        layer: usize,
        heads: usize,
        head_dim: usize,
    ) -> Result<NormWeights> {
        let each = |head: usize| format!(".norms.{head}.weight");
        let (base, _) = self.base_name(role, Some(layer))?;
        if self.find(role, &base, &each(0)).is_none() {
            let (tensor, _) = self.tensor(role, Some(layer), ".weight")?;
            self.check_shape(&tensor, &[heads, head_dim])?;
            let mut weight = vec![0.0; heads * head_dim];
            decode_row(tensor.dtype, tensor.data, &mut weight);
            self.report.parameters += weight.len();
            let bias = Vec::new();
            return Ok(NormWeights { weight, bias });
        }
        let mut weight = Vec::with_capacity(heads * head_dim);
        for head in 0..heads {
            let (tensor, _) = self.tensor(role, Some(layer), &each(head))?;
            weight.extend(self.floats(&tensor, head_dim)?);
        }
        self.report.parameters += weight.len();
        let bias = Vec::new();
        Ok(NormWeights { weight, bias })
    }

    fn layer(&mut self, i: usize) -> Result<LayerWeights> {
        let blocks = self.spec.layers[i].blocks.iter();
        let blocks = blocks.map(|block| self.block(i, block, Role::norms(&block.part)));
        Ok(LayerWeights {
            blocks: blocks.collect::<Result<_>>()?,
        })
    }

    fn block(
        &mut self,
        i: usize,
        block: &Block,
        (before, after): (Role, Role),
    ) -> Result<BlockWeights> {
        let mut norm = |norm: Option<Norm>, role| {
            let norm = norm.map(|n| self.norm(role, Some(i), n.bias));
            norm.transpose()
        };
        let before = norm(block.norm.before(), before)?;
        let after = norm(block.norm.after(), after)?;
        let part = match &block.part {
            Part::Attention(a) => PartWeights::Attention(Box::new(self.attention(i, a)?)),
            Part::FeedForward(f) => {
                let roles = [Role::Gate, Role::Up, Role::Down];
                PartWeights::FeedForward(Box::new(self.feed_forward(i, f, roles)?))
            }
            Part::Experts(e) => PartWeights::Experts(Box::new(self.experts(i, e)?)),
            Part::Recurrent(r) => PartWeights::Recurrent(Box::new(self.recurrent(i, r)?)),
            Part::ReadsPerLayer(_) => {
                PartWeights::ReadsPerLayer(Box::new(self.reads_per_layer(i)?))
            }
            Part::Predict(a) => PartWeights::AltUp(Box::new(self.predicts(i, a)?)),
            Part::Correct(a) => PartWeights::AltUp(Box::new(self.corrects(i, a)?)),
            Part::Laurel(l) => PartWeights::Laurel(Box::new(self.laurel(i, l)?)),
            Part::Times(factor) => PartWeights::Factor(*factor),
            Part::Factor => PartWeights::Factor(self.vector(Role::LayerFactor, i, 1)?[0]),
            Part::Parallel(blocks) => {
                let all = blocks.iter();
                let blocks = all.map(|b| self.block(i, b, Role::norms_within(blocks, &b.part)));
                PartWeights::Parallel(blocks.collect::<Result<_>>()?)
            }
        };
        Ok(BlockWeights {
            before,
            part,
            after,
        })
    }

    fn attention(&mut self, i: usize, a: &Attention) -> Result<AttentionWeights> {
        if let Some(l) = &a.latent {
            return self.latent_attention(i, a, l);
        }
        let at = Some(i);
        let mut norm = |role, heads: usize| {
            let norm = a.qk_norm.map(|n| {
                let len = match n.over {
                    NormedOver::Head => a.head_dim,
                    NormedOver::OwnHead | NormedOver::Row => heads * a.head_dim,
                };
                match (n.weighted, n.over) {
                    (false, _) => Ok(NormWeights {
                        weight: vec![1.0; len],
                        bias: Vec::new(),
                    }),
                    (true, NormedOver::OwnHead) => self.norms_of_heads(role, i, heads, a.head_dim),
                    (true, _) => self.norm_of(role, at, len, n.norm.bias),
                }
            });
            norm.transpose()
        };
        let query_norm = norm(Role::QueryNorm, a.heads)?;
        let key_norm = match a.shares {
            Some(_) => None,
            None => norm(Role::KeyNorm, a.kv_heads)?,
        };
        let has = |there: bool, role| there.then_some(role);
        let own = a.shares.is_none();
        let (key, value) = (
            has(own, Role::Key),
            has(own && !a.keys_as_values, Role::Value),
        );
        let optional = |l: &mut Self, role: Option<Role>| {
            let linear = role.map(|role| l.linear(role, at, a.qkv_bias));
            linear.transpose()
        };
        Ok(AttentionWeights {
            cache: self.cache_of(i, a),
            query: self.linear(Role::Query, at, a.qkv_bias)?,
            key: optional(self, key)?,
            value: optional(self, value)?,
            value_norm: a.value_norm.map(|_| NormWeights {
                weight: vec![1.0; a.head_dim],
                bias: Vec::new(),
            }),
            query_norm,
            key_norm,
            out: self.linear(Role::AttnOut, at, a.out_bias)?,
            gate: match a.gate {
                Some(_) => Some(self.linear(Role::AttnGate, at, false)?),
                None => None,
            },
            slopes: a.alibi.map_or_else(Vec::new, |factor| {
                let slopes = crate::spec::slopes(a.heads).into_iter();
                slopes.map(|s| s * factor).collect()
            }),
            relative: match a.relative {
                Some(r) => self.relative(&r, a.heads)?,
                None => Vec::new(),
            },
            sinks: match a.sinks {
                true => self.vector(Role::Sinks, i, a.heads)?,
                false => Vec::new(),
            },
            latent: None,
        })
    }

    fn feed_forward(
        &mut self,
        i: usize,
        f: &FeedForward,
        [gate, up, down]: [Role; 3],
    ) -> Result<FeedForwardWeights> {
        let at = Some(i);
        let gate = f.gated.then(|| self.linear(gate, at, f.bias));
        Ok(FeedForwardWeights {
            gate: gate.transpose()?,
            up: self.linear(up, at, f.bias)?,
            down: self.linear(down, at, f.bias)?,
        })
    }
}

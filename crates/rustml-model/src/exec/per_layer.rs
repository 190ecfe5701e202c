//! Vectors that each token has for every layer, and what multiplies the stream.

use super::{cost, forms_for, norm, output_of, Exec, Target};
use crate::forward::Rows;
use crate::model::Model;
use crate::spec::{ReadsPerLayer, Spec};
use crate::weights::{PerLayerWeights, ReadsPerLayerWeights};
use rustml_kernels::par::{self, Output};
use rustml_kernels::{ops, Aligned, Phase};
use rustml_trace::{Cost, Op};

/// `[rows, layers * width]`, empty where there are none.
pub(crate) struct PerLayerBuffers {
    /// The vectors.
    vectors: Aligned<f32>,
    /// What they are made of; then what was read of one of them.
    spare: Aligned<f32>,
    /// Values of a row.
    total: usize,
    /// Values of one layer's vector.
    width: usize,
}

impl PerLayerBuffers {
    pub fn new(spec: &Spec, rows: usize) -> PerLayerBuffers {
        let width = spec.embedding.per_layer.map_or(0, |p| p.width);
        let total = width * spec.layers.len();
        PerLayerBuffers {
            vectors: Aligned::zeroed(rows * total),
            spare: Aligned::zeroed(rows * total),
            total,
            width,
        }
    }

    /// A row's vector of a layer.
    pub fn vector(&self, row: usize, layer: usize) -> &[f32] {
        &self.vectors[row * self.total + layer * self.width..][..self.width]
    }

    /// Moves the wanted rows to the front.
    pub fn keep(&mut self, wanted: &[usize]) {
        super::to_front(&mut self.vectors, self.total, wanted);
    }
}

impl Exec {
    /// The vectors of all layers, of the tokens whose own are the stream.
    pub(crate) fn per_layer(&mut self, model: &Model, ids: &[u32], phase: Phase) {
        let (p, w) = (
            &model.spec().embedding.per_layer,
            &model.weights().per_layer,
        );
        let (Some(p), Some(w)) = (p, w) else {
            return;
        };
        let PerLayerWeights {
            table,
            projection,
            norm: weights,
        } = &**w;
        let start = self.recorder.start();
        let (team, hidden, isa) = (&self.team, self.hidden, self.team.isa);
        let b = &mut self.buffers;
        let own = &mut b.per_layer;
        let len = ids.len() * own.total;
        let forms = forms_for(phase, &[&projection.weights]);
        let x = &b.x[..ids.len() * hidden];
        par::prepare_rows(team, x, hidden, &mut b.acts, forms);
        let (spare, vectors) = (&mut own.spare[..len], &mut own.vectors[..len]);
        let mut outputs = [output_of(projection, &mut *spare)];
        par::matmul(team, &b.acts, &mut outputs, None);
        let factor = 1.0 / (hidden as f32).sqrt();
        par::map_rows(team, spare, own.total, &|_, x| ops::scale(isa, x, factor));
        par::norm_to_rows(team, norm(&p.norm, weights), spare, vectors);
        for (row, &id) in spare.chunks_exact_mut(own.total).zip(ids) {
            let known = Some(id as usize).filter(|id| *id < table.rows());
            table.decode_row(known.unwrap_or(0), row);
        }
        let scale = (p.width as f32).sqrt();
        let half = std::f32::consts::FRAC_1_SQRT_2;
        par::map_rows(team, vectors, own.total, &|row, out| {
            let of_table = &spare[row * out.len()..][..out.len()];
            for (out, x) in out.iter_mut().zip(of_table) {
                *out = (*out + x * scale) * half;
            }
        });
        let costs = [
            cost::product(&b.acts, &projection.weights, None),
            cost::look_up(ids.len(), table),
        ];
        self.recorder.record(Op::Embed, start, cost::total(costs));
    }

    /// What reads the vectors of a layer.
    pub(crate) fn read_per_layer(
        &mut self,
        r: &ReadsPerLayer,
        w: &ReadsPerLayerWeights,
        layer: usize,
        rows: &Rows,
        target: Target,
    ) {
        let start = self.recorder.start();
        let (b, team, isa) = (&mut self.buffers, &self.team, self.team.isa);
        let own = &mut b.per_layer;
        let width = own.width;
        let out = &mut own.spare[..rows.count * width];
        let mut outputs = [Output {
            weights: &w.gate.weights,
            bias: None,
            accumulate: false,
            out: &mut *out,
        }];
        par::matmul(team, &b.acts, &mut outputs, None);
        let cost = cost::product(&b.acts, &w.gate.weights, None);
        let (vectors, total) = (&own.vectors, own.total);
        par::map_rows(team, out, width, &|row, gate| {
            let vector = &vectors[row * total + layer * width..][..width];
            ops::activate(isa, r.activation, gate, vector);
        });
        let forms = forms_for(rows.phase, &[&w.out.weights]);
        par::prepare_rows(team, out, width, &mut b.acts, forms);
        self.recorder.record(Op::GateUp, start, cost);
        let start = self.recorder.start();
        self.product_to(Op::Up, &w.out, rows.count, target, start);
    }

    /// Multiplies the stream.
    pub(crate) fn scale_stream(&mut self, factor: f32, rows: usize) {
        let start = self.recorder.start();
        let (team, hidden) = (&self.team, self.hidden);
        let x = &mut self.buffers.x[..rows * hidden];
        par::map_rows(team, x, hidden, &|_, x| ops::scale(team.isa, x, factor));
        self.recorder
            .record(Op::FfnPostNorm, start, Cost::default());
    }
}

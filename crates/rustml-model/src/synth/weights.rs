//! The tensors of a shape, and random numbers for them.

use super::metadata::rope_divisors;
use super::Shape;
use crate::arch::{Repair, Role};
use crate::error::Result;
use crate::load::Progress;
use crate::spec::{Block, Layer, NormedOver, Part};
use rustml_io::{DType, FileFormat, GgufFile};
use rustml_kernels::formats::encode_row;
use std::collections::HashMap;

/// One tensor.
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// What is in it.
pub enum Values {
    /// These.
    Exactly(Vec<f32>),
    /// Random ones around a mean.
    Random { mean: f32, deviation: f32 },
}

/// Different rows of one tensor; it is filled with these in random order.
/// Finding the scales of some formats takes microseconds a block, which would
/// be minutes for a billion weights, and repeated rows are as slow to compute
/// with as others.
const ROWS: usize = 128;

/// Values of all these rows at most.
const ROW_VALUES: usize = 4 << 20;

/// All tensors of a shape, the matrices in `dtype` where it fits.
pub fn plan(shape: &Shape, dtype: DType) -> Vec<Tensor> {
    let spec = &shape.spec;
    let mut plan = Plan {
        shape,
        dtype,
        tensors: Vec::new(),
    };
    plan.matrix(Role::Embedding, None, false);
    if spec.embedding.learned_positions {
        plan.matrix(Role::Positions, None, false);
    }
    if let Some(divisors) = rope_divisors(spec) {
        plan.tensors.push(Tensor {
            name: "rope_freqs.weight".into(),
            dtype: DType::F32,
            shape: vec![divisors.len()],
            values: Values::Exactly(divisors),
        });
    }
    for (i, layer) in spec.layers.iter().enumerate() {
        plan.layer((i, layer));
    }
    if let Some(n) = spec.final_norm {
        plan.norm(Role::FinalNorm, None, spec.hidden, n.bias);
    }
    if let Some(head) = spec.head.filter(|h| !h.tied) {
        plan.matrix(Role::Head, None, head.bias);
    }
    plan.tensors
}

struct Plan<'a> {
    shape: &'a Shape,
    dtype: DType,
    tensors: Vec<Tensor>,
}

type At<'a> = Option<(usize, &'a Layer)>;

impl Plan<'_> {
    fn layer(&mut self, (i, l): (usize, &Layer)) {
        for block in &l.blocks {
            self.block(Some((i, l)), block);
        }
    }

    fn block(&mut self, at: At, block: &Block) {
        let hidden = self.shape.spec.hidden;
        let (before, after) = Role::norms(&block.part);
        if let Some(n) = block.norm.before() {
            self.norm(before, at, hidden, n.bias);
        }
        match &block.part {
            Part::Attention(a) => {
                for role in [Role::Query, Role::Key, Role::Value] {
                    self.matrix(role, at, a.qkv_bias);
                }
                if let Some(n) = a.qk_norm {
                    let width = |heads: usize| match n.over {
                        NormedOver::Head => a.head_dim,
                        NormedOver::OwnHead | NormedOver::Row => heads * a.head_dim,
                    };
                    self.norm(Role::QueryNorm, at, width(a.heads), n.norm.bias);
                    self.norm(Role::KeyNorm, at, width(a.kv_heads), n.norm.bias);
                }
                self.matrix(Role::AttnOut, at, a.out_bias);
            }
            Part::FeedForward(f) => {
                if f.gated {
                    self.matrix(Role::Gate, at, f.bias);
                }
                self.matrix(Role::Up, at, f.bias);
                self.matrix(Role::Down, at, f.bias);
            }
            // No shape of these is made yet.
            Part::Experts(_)
            | Part::Recurrent(_)
            | Part::ReadsPerLayer(_)
            | Part::Factor
            | Part::Predict(_)
            | Part::Correct(_)
            | Part::Laurel(_)
            | Part::Times(_) => {
                unreachable!("no shape has experts or states")
            }
            Part::Parallel(blocks) => blocks.iter().for_each(|b| self.block(at, b)),
        }
        if let Some(n) = block.norm.after() {
            self.norm(after, at, hidden, n.bias);
        }
    }

    /// The name in GGUF without `.weight` or `.bias`, and whether it is that
    /// of query, key and value together.
    fn name(&self, role: Role, at: At) -> (String, bool) {
        let format = FileFormat::Gguf { version: 3 };
        let name = self.shape.arch.tensor(role, format);
        let name = name.expect("GGUF has a name for every role");
        let layer = at.map_or(String::new(), |(i, _)| i.to_string());
        let fused = name.repair == Repair::Fused;
        (name.name.replace("{}", &layer), fused)
    }

    fn random(&mut self, name: String, dtype: DType, shape: &[usize], mean: f32, deviation: f32) {
        self.tensors.push(Tensor {
            name,
            dtype,
            shape: shape.to_vec(),
            values: Values::Random { mean, deviation },
        });
    }

    fn matrix(&mut self, role: Role, at: At, bias: bool) {
        let spec = &self.shape.spec;
        let layer = at.map(|(_, l)| l);
        let (name, fused) = self.name(role, at);
        let (mut rows, cols) = role.shape(spec, layer);
        match (fused, role) {
            (true, Role::Query) => rows += 2 * Role::Key.shape(spec, layer).0,
            (true, _) => return,
            (false, _) => {}
        }
        let dtype = match role {
            Role::Positions => DType::F32,
            _ => fitting(self.dtype, cols),
        };
        // Sums of `cols` products stay as large as their inputs; what is added
        // to the stream by all layers together, too.
        let layers = (2 * spec.layers.len()) as f32;
        let deviation = match role {
            Role::Embedding | Role::Positions => 1.0 / (spec.hidden as f32).sqrt(),
            Role::AttnOut | Role::Down => 1.0 / (cols as f32 * layers).sqrt(),
            _ => 1.0 / (cols as f32).sqrt(),
        };
        self.random(
            format!("{name}.weight"),
            dtype,
            &[rows, cols],
            0.0,
            deviation,
        );
        if bias {
            self.random(format!("{name}.bias"), DType::F32, &[rows], 0.0, 0.01);
        }
    }

    fn norm(&mut self, role: Role, at: At, width: usize, bias: bool) {
        let name = self.name(role, at).0;
        self.random(format!("{name}.weight"), DType::F32, &[width], 1.0, 0.05);
        if bias {
            self.random(format!("{name}.bias"), DType::F32, &[width], 0.0, 0.01);
        }
    }
}

/// The type itself if rows of this width are whole blocks, else what
/// llama.cpp's quantiser falls back to.
fn fitting(dtype: DType, cols: usize) -> DType {
    use DType::*;
    let fits = |d: DType| cols.is_multiple_of(d.block_len());
    let narrow = match dtype {
        Q2_K | Q3_K | IQ4_XS => IQ4_NL,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        other => other,
    };
    let candidates = [dtype, narrow, F16];
    candidates.into_iter().find(|&d| fits(d)).unwrap_or(F16)
}

/// Writes all values; returns the bytes of them all.
pub fn write(
    file: &mut GgufFile,
    tensors: &[Tensor],
    seed: u64,
    progress: Progress,
) -> Result<usize> {
    let bytes = |t: &Tensor| {
        let (cols, rows) = t.shape.split_last().expect("no tensor is a number");
        t.dtype.row_bytes(*cols).unwrap_or(0) * rows.iter().product::<usize>()
    };
    let total = tensors.iter().map(bytes).sum();
    let (mut dice, mut pools, mut done) = (Dice(seed), HashMap::new(), 0);
    for t in tensors {
        let cols = *t.shape.last().expect("no tensor is a number");
        let rows: usize = t.shape[..t.shape.len() - 1].iter().product();
        let row_bytes = t.dtype.row_bytes(cols).expect("the type fits the width");
        match &t.values {
            Values::Exactly(values) => {
                let mut row = vec![0; row_bytes];
                encode_row(t.dtype, values, &mut row);
                file.write(&t.name, &row)?;
            }
            Values::Random { mean, deviation } => {
                let kind = (t.dtype, cols, mean.to_bits(), deviation.to_bits());
                let pool = pools
                    .entry(kind)
                    .or_insert_with(|| pool(&mut dice, t.dtype, cols, *mean, *deviation));
                let different = (pool.len() / row_bytes) as u64;
                for _ in 0..rows {
                    let at = (dice.roll() % different) as usize * row_bytes;
                    file.write(&t.name, &pool[at..at + row_bytes])?;
                }
            }
        }
        done += bytes(t);
        progress(done, total);
    }
    Ok(total)
}

/// Different rows, one after the other.
fn pool(dice: &mut Dice, dtype: DType, cols: usize, mean: f32, deviation: f32) -> Vec<u8> {
    let rows = (ROW_VALUES / cols).clamp(1, ROWS);
    let row_bytes = dtype.row_bytes(cols).expect("the type fits the width");
    let (mut pool, mut values) = (vec![0; rows * row_bytes], vec![0.0; cols]);
    for row in pool.chunks_exact_mut(row_bytes) {
        values.fill_with(|| mean + deviation * dice.normal());
        encode_row(dtype, &values, row);
    }
    pool
}

/// SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number
/// Generators"): good enough for weights, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Nearly normal, by Irwin and Hall: mean 0, deviation 1, within 3.5.
    fn normal(&mut self) -> f32 {
        let r = self.roll();
        let sum: u64 = (0..4).map(|i| r >> (16 * i) & 0xFFFF).sum();
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_matrices_take_another_type() {
        assert_eq!(fitting(DType::Q4_K, 512), DType::Q4_K);
        assert_eq!(fitting(DType::Q4_K, 576), DType::Q5_0);
        assert_eq!(fitting(DType::Q6_K, 640), DType::Q8_0);
        assert_eq!(fitting(DType::Q4_0, 33), DType::F16);
        for dtype in DType::ALL {
            assert!(1000 % fitting(dtype, 1000).block_len() == 0);
            assert_eq!(fitting(dtype, 1024), dtype);
        }
    }

    #[test]
    fn numbers_are_nearly_normal() {
        let mut dice = Dice(7);
        let n: Vec<f64> = (0..100_000).map(|_| dice.normal().into()).collect();
        let mean = n.iter().sum::<f64>() / 1e5;
        let variance = n.iter().map(|x| x * x).sum::<f64>() / 1e5;
        // Ten deviations of either estimate.
        assert!(mean.abs() < 0.032 && (variance - 1.0).abs() < 0.045);
    }
}

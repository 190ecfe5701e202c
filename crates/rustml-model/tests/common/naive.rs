//! The forward pass once more, as plainly as it can be written and in double
//! precision: no packing, no cache, no batches, rows in the order of the file.
//! It is itself compared with PyTorch's logits.

use super::mutate::{Copy, Tensor};
use rustml_io::FileFormat;
use rustml_model::arch::{Arch, Repair, Role};
use rustml_model::spec::*;
use std::f64::consts::PI;

/// A model, to be computed naively.
pub struct Naive<'a> {
    pub arch: &'a Arch,
    pub spec: &'a Spec,
    pub copy: &'a Copy,
    /// What stands before the names of all but the head.
    pub prefix: &'a str,
}

impl Naive<'_> {
    fn values(&self, role: Role, layer: usize, suffix: &str) -> Option<Vec<f64>> {
        let name = self.arch.tensor(role, self.copy.format).unwrap();
        let base = name.name.replace("{}", &layer.to_string());
        let prefix = match role {
            Role::Head => "",
            _ => self.prefix,
        };
        let full = format!("{prefix}{base}{suffix}");
        let found = self.copy.tensors.iter().find(|t| t.name == full)?;
        let values = found.values().into_iter().map(f64::from);
        Some(match name.repair {
            Repair::MinusOne => values.map(|v| v + 1.0).collect(),
            Repair::AsIs | Repair::Interleaved => values.collect(),
            other => panic!("{other:?} is not for naive minds"),
        })
    }

    /// `[rows, inputs]` to `[rows, outputs]`; a bias is added if it is stored.
    fn linear(&self, role: Role, layer: usize, x: &[f64], inputs: usize) -> Vec<f64> {
        let w = self.values(role, layer, ".weight").unwrap();
        let bias = self.values(role, layer, ".bias");
        let mut out = Vec::new();
        for x in x.chunks_exact(inputs) {
            for (o, w) in w.chunks_exact(inputs).enumerate() {
                let dot: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                out.push(dot + bias.as_ref().map_or(0.0, |b| b[o]));
            }
        }
        out
    }

    fn norm(&self, role: Role, layer: usize, norm: &Norm, x: &[f64]) -> Vec<f64> {
        let w = self.values(role, layer, ".weight").unwrap();
        assert!(!norm.bias && norm.kind == NormKind::Rms);
        let rows = x.chunks_exact(w.len()).flat_map(|x| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + f64::from(norm.eps)).sqrt();
            x.iter().zip(&w).map(move |(x, w)| x * scale * w)
        });
        rows.collect()
    }

    fn angles(&self, rope: &Rope) -> Vec<f64> {
        let pairs = (0..rope.dims / 2).map(|i| {
            let f = f64::from(rope.base).powf(-2.0 * i as f64 / rope.dims as f64);
            match &rope.scaling {
                RopeScaling::None => f,
                RopeScaling::Linear { factor } => f / f64::from(*factor),
                RopeScaling::Factors(divisors) => f / f64::from(divisors[i]),
                &RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let turns = f64::from(original) * f / (2.0 * PI);
                    let (low, high) = (f64::from(low), f64::from(high));
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    f * (keep + (1.0 - keep) / f64::from(factor))
                }
                // Compared with transformers, in tests/rope.rs.
                other => panic!("{other:?} is not written here"),
            }
        });
        pairs.collect()
    }

    /// Rotates heads where they are; in GGUF files of some architectures,
    /// the rotated pairs are neighbours.
    fn rotate(&self, role: Role, a: &Attention, x: &mut [f64], cols: usize) {
        let Some(rope) = a.rope.map(|r| &self.spec.ropes[r]) else {
            return;
        };
        let stored = self.arch.tensor(role, self.copy.format).unwrap().repair;
        let pairs = rope.dims / 2;
        let angles = self.angles(rope);
        for (position, row) in x.chunks_exact_mut(cols).enumerate() {
            for head in row.chunks_exact_mut(a.head_dim) {
                for (i, angle) in angles.iter().enumerate() {
                    let (p, q) = match stored {
                        Repair::Interleaved => (2 * i, 2 * i + 1),
                        _ => (i, i + pairs),
                    };
                    let (sin, cos) = (position as f64 * angle).sin_cos();
                    let (x, y) = (head[p], head[q]);
                    (head[p], head[q]) = (x * cos - y * sin, y * cos + x * sin);
                }
            }
        }
    }

    fn attention(&self, layer: usize, a: &Attention, x: &[f64]) -> Vec<f64> {
        let hidden = self.spec.hidden;
        let (q_cols, kv_cols) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let mut q = self.linear(Role::Query, layer, x, hidden);
        let mut k = self.linear(Role::Key, layer, x, hidden);
        let v = self.linear(Role::Value, layer, x, hidden);
        if let Some(n) = &a.qk_norm {
            q = self.norm(Role::QueryNorm, layer, &n.norm, &q);
            k = self.norm(Role::KeyNorm, layer, &n.norm, &k);
        }
        self.rotate(Role::Query, a, &mut q, q_cols);
        self.rotate(Role::Key, a, &mut k, kv_cols);
        let n = x.len() / hidden;
        let mut mixed = vec![0.0; n * q_cols];
        for at in 0..n {
            for head in 0..a.heads {
                let kv_head = head / (a.heads / a.kv_heads);
                let kv = |x: &[f64], p: usize| {
                    x[p * kv_cols + kv_head * a.head_dim..][..a.head_dim].to_vec()
                };
                let from = at * q_cols + head * a.head_dim;
                let q = &q[from..][..a.head_dim];
                let first = a.window.map_or(0, |w| (at + 1).saturating_sub(w));
                let scores = (first..=at).map(|p| {
                    let dot: f64 = q.iter().zip(kv(&k, p)).map(|(q, k)| q * k).sum();
                    let score = dot * f64::from(a.scale);
                    match a.soft_cap.map(f64::from) {
                        Some(cap) => cap * (score / cap).tanh(),
                        None => score,
                    }
                });
                let weights: Vec<f64> = scores.map(f64::exp).collect();
                let total: f64 = weights.iter().sum();
                for (p, weight) in (first..=at).zip(weights) {
                    for (i, v) in kv(&v, p).into_iter().enumerate() {
                        mixed[from + i] += weight / total * v;
                    }
                }
            }
        }
        self.linear(Role::AttnOut, layer, &mixed, q_cols)
    }

    fn feed_forward(&self, layer: usize, f: &FeedForward, x: &[f64]) -> Vec<f64> {
        let hidden = self.spec.hidden;
        let act = |x: f64| match f.activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::ScaledSilu { factor } => {
                let y = f64::from(factor) * x;
                y / (1.0 + (-y).exp())
            }
            Activation::Relu => x.max(0.0),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
            other => unimplemented!("no test's model has {other:?}"),
        };
        let mut up = self.linear(Role::Up, layer, x, hidden);
        if f.gated {
            let gate = self.linear(Role::Gate, layer, x, hidden);
            up.iter_mut().zip(gate).for_each(|(u, g)| *u *= act(g));
        } else {
            up.iter_mut().for_each(|u| *u = act(*u));
        }
        self.linear(Role::Down, layer, &up, f.inner)
    }

    /// What a block adds to the stream, but for its factor.
    fn block(&self, layer: usize, block: &Block, x: &[f64]) -> Vec<f64> {
        let (before, after) = Role::norms(&block.part);
        let normed = match block.norm.before() {
            Some(n) => self.norm(before, layer, &n, x),
            None => x.to_vec(),
        };
        let y = match &block.part {
            Part::Attention(a) => self.attention(layer, a, &normed),
            Part::FeedForward(f) => self.feed_forward(layer, f, &normed),
            Part::Experts(_)
            | Part::Recurrent(_)
            | Part::ReadsPerLayer(_)
            | Part::Factor
            | Part::Predict(_)
            | Part::Correct(_)
            | Part::Laurel(_)
            | Part::Times(_) => {
                unimplemented!("compared with the reference alone")
            }
            Part::Parallel(blocks) => {
                let mut sum = vec![0.0; x.len()];
                for b in blocks {
                    let x = if b.norm.before().is_some() {
                        x
                    } else {
                        &normed
                    };
                    let y = self.block(layer, b, x);
                    let scale = f64::from(b.scale);
                    sum.iter_mut().zip(y).for_each(|(s, y)| *s += scale * y);
                }
                sum
            }
        };
        match block.norm {
            NormPlacement::Post(n) | NormPlacement::Sandwich(n) => self.norm(after, layer, &n, &y),
            _ => y,
        }
    }

    /// Logits of all positions, `[ids, vocab]`.
    pub fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let s = self.spec;
        let table = self.values(Role::Embedding, 0, ".weight").unwrap();
        let embedded = ids
            .iter()
            .flat_map(|&id| &table[id as usize * s.hidden..][..s.hidden]);
        let mut x: Vec<f64> = embedded.map(|v| v * f64::from(s.embedding.scale)).collect();
        assert!(!s.embedding.learned_positions);
        for (i, layer) in s.layers.iter().enumerate() {
            for block in &layer.blocks {
                let y = self.block(i, block, &x);
                let scale = f64::from(block.scale);
                x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
                if let NormPlacement::Sum(n) = block.norm {
                    x = self.norm(Role::norms(&block.part).1, i, &n, &x);
                }
            }
        }
        let x = self.norm(Role::FinalNorm, 0, &s.final_norm.unwrap(), &x);
        let head = match s.head.unwrap().tied {
            true => Role::Embedding,
            false => Role::Head,
        };
        let logits = self.linear(head, 0, &x, s.hidden).into_iter();
        let capped = logits.map(|x| match s.head.unwrap().soft_cap.map(f64::from) {
            Some(cap) => cap * (x / cap).tanh(),
            None => x,
        });
        capped.map(|x| x as f32).collect()
    }
}

/// Random values, the same every time.
pub fn random(name: &str, shape: &[usize], scale: f32) -> Tensor {
    let mut state = name.bytes().fold(0x9e37_79b9u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| scale * next())
        .collect();
    Tensor::new(name, shape, &values)
}

/// What stands before the names in a format.
pub fn prefix(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Gguf { .. } => "",
        FileFormat::Safetensors => "model.",
    }
}

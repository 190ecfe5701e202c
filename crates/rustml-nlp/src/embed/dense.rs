//! Layers after the pooling.

use super::files::{damaged, json};
use crate::error::Result;
use rustml_io::Store;
use rustml_kernels::formats::decode_row;
use std::path::Path;

/// Outputs of a dense layer at most: far more than any has.
const WIDEST: usize = 1 << 16;

/// A layer after the pooling.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    /// `[outputs, inputs]`
    pub weights: Vec<f32>,
    bias: Vec<f32>,
    tanh: bool,
}

impl Dense {
    /// Its outputs.
    pub fn run(&self, x: &[f32]) -> Vec<f32> {
        let row = |(i, w): (usize, &[f32])| {
            let sum: f64 = w
                .iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum();
            let sum = sum as f32 + self.bias.get(i).copied().unwrap_or(0.0);
            if self.tanh {
                sum.tanh()
            } else {
                sum
            }
        };
        self.weights
            .chunks_exact(x.len())
            .enumerate()
            .map(row)
            .collect()
    }
}
/// The dense layer in a folder.
pub(super) fn dense_of(folder: &Path, inputs: usize) -> Result<Dense> {
    let path = folder.join("config.json");
    let settings = json(&path)?.ok_or_else(|| damaged(&path, "is missing"))?;
    let function = settings["activation_function"]
        .as_str()
        .unwrap_or("Identity");
    let tanh = match function.rsplit('.').next().unwrap_or_default() {
        "Identity" => false,
        "Tanh" => true,
        other => {
            return Err(damaged(
                &path,
                format_args!("activation_function is {other}; known are Identity and Tanh"),
            ))
        }
    };
    let store = Store::open(&folder.join("model.safetensors"))?;
    let bias = settings["bias"]
        .as_bool()
        .unwrap_or(true)
        .then_some("linear.bias");
    dense(&store, "linear.weight", bias, inputs, tanh)
}

pub(super) fn dense(
    store: &Store,
    weights: &str,
    bias: Option<&str>,
    inputs: usize,
    tanh: bool,
) -> Result<Dense> {
    let t = store.tensor(weights)?;
    let wrong = |what: &str| damaged(store.path(), format_args!("the tensor {weights} {what}"));
    let outputs = match t.info.shape[..] {
        [outputs, n] if n == inputs && (1..=WIDEST).contains(&outputs) => outputs,
        _ => {
            return Err(wrong(&format!(
                "has the shape {:?}, but {inputs} values are put in",
                t.info.shape
            )))
        }
    };
    let Some(bytes) = t.dtype.row_bytes(inputs) else {
        return Err(wrong("has rows of no whole number of blocks"));
    };
    let mut values = vec![0.0; outputs * inputs];
    for (row, out) in t
        .data
        .chunks_exact(bytes)
        .zip(values.chunks_exact_mut(inputs))
    {
        decode_row(t.dtype, row, out);
    }
    let bias = match bias {
        None => Vec::new(),
        Some(name) => {
            let t = store.tensor(name)?;
            if t.info.shape[..] != [outputs] {
                return Err(wrong("and its bias have different sizes"));
            }
            let mut out = vec![0.0; outputs];
            decode_row(t.dtype, t.data, &mut out);
            out
        }
    };
    Ok(Dense {
        weights: values,
        bias,
        tanh,
    })
}

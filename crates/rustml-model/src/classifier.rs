//! From a text's states to a score of each label.

use crate::model::Model;
use crate::spec::Norm;
use rustml_kernels::ops::{self, Activation};

/// How a text's states become scores of labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classifier {
    /// How many labels.
    pub labels: usize,
    /// Whether the mean of the states is taken, or else the first.
    pub mean: bool,
    /// What comes before the last layer.
    pub dense: Option<ClassifierDense>,
    /// Whether scores have a bias.
    pub bias: bool,
}

/// A layer as wide as the states, an activation, and perhaps a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierDense {
    /// Whether it has a bias.
    pub bias: bool,
    /// What follows it.
    pub activation: Activation,
    /// What follows that.
    pub norm: Option<Norm>,
}

impl Classifier {
    /// Labels at most: far more than any has.
    pub(crate) const MOST: usize = 1 << 16;
}

/// A classifier's weights, in single precision.
pub struct ClassifierWeights {
    /// `[hidden, hidden]`, and its bias.
    pub dense: Option<(Vec<f32>, Vec<f32>)>,
    /// Factors and summands of the norm.
    pub norm: Option<(Vec<f32>, Vec<f32>)>,
    /// `[labels, hidden]`
    pub out: Vec<f32>,
    /// One for each label, or nothing.
    pub bias: Vec<f32>,
}

/// `weights x + bias`
fn product(weights: &[f32], bias: &[f32], x: &[f32]) -> Vec<f32> {
    let row = |(i, w): (usize, &[f32])| {
        let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        (terms.sum::<f64>() + f64::from(bias.get(i).copied().unwrap_or(0.0))) as f32
    };
    weights.chunks_exact(x.len()).enumerate().map(row).collect()
}

/// The mean of 0 and the spread of 1, then factors and summands.
fn normed(x: &[f32], eps: f32, (weight, bias): &(Vec<f32>, Vec<f32>)) -> Vec<f32> {
    let n = x.len() as f64;
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = x
        .iter()
        .map(|x| (f64::from(*x) - mean).powi(2))
        .sum::<f64>()
        / n;
    let by = 1.0 / (variance + f64::from(eps)).sqrt();
    let one = |(i, (x, w)): (usize, (&f32, &f32))| {
        let y = (f64::from(*x) - mean) * by * f64::from(*w);
        (y + f64::from(bias.get(i).copied().unwrap_or(0.0))) as f32
    };
    x.iter().zip(weight).enumerate().map(one).collect()
}

impl Model {
    /// How many types of tokens there are; none where they make no difference.
    pub fn token_types(&self) -> usize {
        self.weights().types.len() / self.spec().hidden
    }

    /// The score of each label, of the states of all of a text's tokens. `None` if the model
    /// has no labels.
    pub fn scores(&self, states: &[&[f32]]) -> Option<Vec<f32>> {
        let c = self.spec().classifier?;
        let w = self.weights().classifier.as_ref()?;
        let first = states.first()?;
        let mut x = match c.mean {
            false => first.to_vec(),
            true => {
                let sum = |i| states.iter().map(|s| f64::from(s[i])).sum::<f64>();
                let mean = |i| (sum(i) / states.len() as f64) as f32;
                (0..first.len()).map(mean).collect()
            }
        };
        if let (Some(d), Some((weights, bias))) = (c.dense, &w.dense) {
            x = product(weights, bias, &x);
            ops::activate(self.team().isa, d.activation, &mut x, &[]);
            if let (Some(n), Some(w)) = (d.norm, &w.norm) {
                x = normed(&x, n.eps, w);
            }
        }
        Some(product(&w.out, &w.bias, &x))
    }
}

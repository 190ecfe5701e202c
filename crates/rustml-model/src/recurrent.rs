//! Parts that carry a state of fixed size from position to position.

use crate::spec::{bounded, positive};
use rustml_kernels::par::{convolution_state, ScanShape};
use rustml_kernels::recurrent::STATE_COLUMNS;

/// A part that carries a state: a convolution over the last inputs of each channel, and
/// what mixes its results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrent {
    /// Inputs that the convolution sees, a row's own included.
    pub taps: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// What follows it.
    pub mixer: Mixer,
    /// Whether the products with the part's input have biases.
    pub in_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
}

/// What becomes of a convolution's results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixer {
    /// They are multiplied by a product; another product multiplies the convolution's
    /// inputs (LFM2).
    Gated {
        /// As wide as this.
        channels: usize,
    },
    /// Gated delta net (Yang et al., "Gated Delta Networks").
    Delta(Delta),
    /// Mamba-2 (Dao and Gu, "Transformers are SSMs").
    Mamba2(Mamba2),
}

/// Heads of a gated delta net: `S = decay S + key (rate (value - decay S key))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delta {
    /// Heads of keys and queries.
    pub key_heads: usize,
    /// Heads of values, a multiple of these.
    pub heads: usize,
    /// Values of a key.
    pub key_dim: usize,
    /// Values of a value.
    pub value_dim: usize,
    /// Whether head `h` has the key head `h % key_heads`; else neighbours share one.
    pub tiled: bool,
    /// Added to the variance by the norm of each head's result.
    pub eps: f32,
}

/// Heads of Mamba-2: `S = decay S + key (step value)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mamba2 {
    /// Heads.
    pub heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Groups of heads that share keys and queries (B and C).
    pub groups: usize,
    /// Values of a key.
    pub state: usize,
    /// The least and the largest step.
    pub steps: (f32, f32),
    /// The norm of the result.
    pub norm: Option<GatedNorm>,
    /// What the products with the part's input are multiplied by.
    pub factors: Factors,
}

/// Factors of the products with the input of Mamba-2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Of the gate (z).
    pub gate: f32,
    /// Of values, keys and queries (x, B and C).
    pub inputs: [f32; 3],
    /// Of the steps (dt).
    pub step: f32,
}

impl Factors {
    /// None: all are one.
    pub const ONE: Factors = Factors {
        gate: 1.0,
        inputs: [1.0; 3],
        step: 1.0,
    };
}

/// A norm of what is multiplied by the SiLU of a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Groups of values that are normalised apart.
    pub groups: usize,
    /// Whether the gate comes first.
    pub gate_first: bool,
}

impl Recurrent {
    /// Channels of the convolution.
    pub fn channels(&self) -> usize {
        match self.mixer {
            Mixer::Gated { channels } => channels,
            Mixer::Delta(d) => 2 * d.key_heads * d.key_dim + d.heads * d.value_dim,
            Mixer::Mamba2(m) => m.heads * m.head_dim + 2 * m.groups * m.state,
        }
    }

    /// Width of the result, before the output projection.
    pub fn inner(&self) -> usize {
        match self.mixer {
            Mixer::Gated { channels } => channels,
            Mixer::Delta(d) => d.heads * d.value_dim,
            Mixer::Mamba2(m) => m.heads * m.head_dim,
        }
    }

    /// Its heads, each of which has a decay; none where nothing but the convolution
    /// carries a state.
    pub fn heads(&self) -> usize {
        self.scan().map_or(0, |s| s.heads)
    }

    /// The matrices of its heads, if it has any.
    pub fn scan(&self) -> Option<ScanShape> {
        match self.mixer {
            Mixer::Gated { .. } => None,
            Mixer::Delta(d) => Some(ScanShape {
                heads: d.heads,
                key_heads: d.key_heads,
                key_dim: d.key_dim,
                value_dim: d.value_dim,
                tiled: d.tiled,
            }),
            Mixer::Mamba2(m) => Some(ScanShape {
                heads: m.heads,
                key_heads: m.groups,
                key_dim: m.state,
                value_dim: m.head_dim,
                tiled: false,
            }),
        }
    }

    /// Where in a row of the convolution's results keys, queries and values begin.
    pub fn columns(&self) -> [usize; 3] {
        match self.mixer {
            Mixer::Gated { .. } => [0; 3],
            Mixer::Delta(d) => {
                let keys = d.key_heads * d.key_dim;
                [keys, 0, 2 * keys]
            }
            Mixer::Mamba2(m) => {
                let inner = m.heads * m.head_dim;
                [inner, inner + m.groups * m.state, 0]
            }
        }
    }

    /// Values that the norm of the result has weights for; 0 without one.
    pub fn norm_weights(&self) -> usize {
        match self.mixer {
            Mixer::Gated { .. } => 0,
            Mixer::Delta(d) => d.value_dim,
            Mixer::Mamba2(m) => m.norm.map_or(0, |_| m.heads * m.head_dim),
        }
    }

    /// Values of its state: those of the convolution, then the matrices.
    pub fn state(&self) -> usize {
        self.scan_at() + self.scan().map_or(0, |s| s.state())
    }

    /// Where in its state the matrices begin.
    pub fn scan_at(&self) -> usize {
        convolution_state(self.taps, self.channels()).next_multiple_of(STATE_COLUMNS)
    }

    /// Whether its inputs are products of two.
    pub fn has_factor(&self) -> bool {
        matches!(self.mixer, Mixer::Gated { .. })
    }

    /// Checks that the numbers make sense together.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(crate) fn validate(&self) -> Result<(), String> {
        bounded("the width of the short convolution", self.taps, 64)?;
        match self.mixer {
            Mixer::Gated { channels } => bounded("the convolution's channels", channels, 1 << 17)?,
            Mixer::Delta(d) => {
                bounded("the number of key heads", d.key_heads, 1 << 12)?;
                bounded("the size of a key", d.key_dim, 1 << 10)?;
                bounded("the size of a value", d.value_dim, 1 << 10)?;
                heads(d.heads, d.key_heads, "key heads")?;
                positive("the epsilon of the gated norm", d.eps)?;
            }
            Mixer::Mamba2(m) => {
                bounded("the number of groups", m.groups, 1 << 12)?;
                bounded("the size of a state", m.state, 1 << 10)?;
                bounded("the size of a head", m.head_dim, 1 << 14)?;
                heads(m.heads, m.groups, "groups")?;
                let f = m.factors;
                let all = [f.gate, f.step, f.inputs[0], f.inputs[1], f.inputs[2]];
                if all.iter().any(|f| !f.is_finite()) {
                    return Err("a factor of Mamba-2's inputs is no finite number".into());
                }
                let (least, most) = m.steps;
                if least.is_nan() || most.is_nan() || least > most {
                    return Err(format!("the limits of a step are {least} and {most}"));
                }
                if let Some(n) = m.norm {
                    positive("the epsilon of the gated norm", n.eps)?;
                    bounded("the number of groups", n.groups, 1 << 12)?;
                    if !(m.heads * m.head_dim).is_multiple_of(n.groups) {
                        return Err(format!(
                            "{} values cannot be normalised in {} groups",
                            m.heads * m.head_dim,
                            n.groups
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

fn heads(heads: usize, shared: usize, name: &str) -> Result<(), String> {
    bounded("the number of recurrent heads", heads, 1 << 12)?;
    match heads.is_multiple_of(shared) {
        true => Ok(()),
        false => Err(format!(
            "{heads} recurrent heads cannot share {shared} {name}"
        )),
    }
}

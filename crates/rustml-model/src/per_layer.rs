//! Vectors that each token has for every layer (Gemma Team, "Gemma 3n").

use crate::spec::{bounded, Activation, Norm};

/// A vector of each token for every layer: one of a table, and a part of one product with the
/// token's vector, normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerLayer {
    /// Tokens that have such vectors; others have those of token 0.
    pub rows: usize,
    /// Values of a vector.
    pub width: usize,
    /// Of the product's parts.
    pub norm: Norm,
}

/// What reads it: `out(activation(gate x) * vector)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadsPerLayer {
    /// The non-linearity.
    pub activation: Activation,
}

impl PerLayer {
    pub(crate) fn validate(&self, layers: usize) -> Result<(), String> {
        bounded("vocab_size_per_layer_input", self.rows, 1 << 22)?;
        bounded("hidden_size_per_layer_input", self.width, 1 << 16)?;
        bounded("the vectors of all layers", self.width * layers, 1 << 24)
    }
}

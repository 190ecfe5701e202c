//! A model's weights, in the one convention that the forward pass knows.

use rustml_io::DType;
use rustml_kernels::{Forms, Matrix};

/// A linear layer: `y = weights x (+ bias)`.
pub struct Linear {
    /// `[outputs, inputs]`
    pub weights: Matrix,
    /// One value for each output.
    pub bias: Option<Vec<f32>>,
}

/// Weights of a norm.
pub struct NormWeights {
    /// One factor for each value.
    pub weight: Vec<f32>,
    /// One summand for each value, or nothing.
    pub bias: Vec<f32>,
}

/// Weights of one layer. What its [`crate::spec::Layer`] does not have is `None`.
///
/// Shapes are `[outputs, inputs]`, with `q = heads * head_dim` and
/// `kv = kv_heads * head_dim`.
pub struct LayerWeights {
    /// Before attention, `hidden` wide.
    pub attn_norm: NormWeights,
    /// `[q, hidden]`
    pub query: Linear,
    /// `[kv, hidden]`
    pub key: Linear,
    /// `[kv, hidden]`
    pub value: Linear,
    /// Of every query head, `head_dim` wide.
    pub query_norm: Option<NormWeights>,
    /// Of every key head, `head_dim` wide.
    pub key_norm: Option<NormWeights>,
    /// `[hidden, q]`
    pub attn_out: Linear,
    /// After attention, `hidden` wide.
    pub attn_post_norm: Option<NormWeights>,
    /// Before the feed-forward, `hidden` wide.
    pub ffn_norm: NormWeights,
    /// `[inner, hidden]`
    pub gate: Option<Linear>,
    /// `[inner, hidden]`
    pub up: Linear,
    /// `[hidden, inner]`
    pub down: Linear,
    /// After the feed-forward, `hidden` wide.
    pub ffn_post_norm: Option<NormWeights>,
}

/// All weights of a model.
pub struct Weights {
    /// `[vocab, hidden]`; the head too, where it is tied.
    pub embedding: Matrix,
    /// `[context, hidden]`, where positions are learned.
    pub positions: Option<Matrix>,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// After the last layer.
    pub final_norm: NormWeights,
    /// `[vocab, hidden]`, where it is not tied.
    pub head: Option<Linear>,
}

impl LayerWeights {
    /// The linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.query, &self.key, &self.value, &self.attn_out]
            .into_iter()
            .chain(&self.gate)
            .chain([&self.up, &self.down])
    }
}

impl Weights {
    /// The head's weights.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().map_or(&self.embedding, |h| &h.weights)
    }

    /// Every packed matrix.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(LayerWeights::linears);
        let linears = layers.chain(&self.head).map(|l| &l.weights);
        linears.chain([&self.embedding]).chain(&self.positions)
    }

    /// Whether the weights of all layers are in single or half precision: then nothing should
    /// be rounded more than these say.
    pub fn are_precise(&self) -> bool {
        let mut linears = self.layers.iter().flat_map(LayerWeights::linears);
        linears.all(|l| matches!(l.weights.dtype(), DType::F32 | DType::F16))
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        self.matrices().map(Matrix::bytes).sum()
    }

    /// The forms of activations that any product reads, of prompts or not, but those of the
    /// inner part of a feed-forward, and the widest input of these.
    pub fn activations(&self) -> (Forms, usize) {
        let of = |l| LayerWeights::linears(l).filter(|linear| !std::ptr::eq(*linear, &l.down));
        read_by(
            self.layers
                .iter()
                .flat_map(of)
                .map(|l| &l.weights)
                .chain([self.head()]),
        )
    }

    /// The same of the inner part of a feed-forward.
    pub fn inner_activations(&self) -> (Forms, usize) {
        read_by(self.layers.iter().map(|l| &l.down.weights))
    }
}

/// The forms of activations that these products read, of prompts or not, and the widest
/// input.
fn read_by<'a>(linears: impl Iterator<Item = &'a Matrix>) -> (Forms, usize) {
    linears.fold((Forms::default(), 0), |(forms, cols), m| {
        let forms = forms.union(m.forms()).union(m.prompt_forms());
        (forms, cols.max(m.cols()))
    })
}

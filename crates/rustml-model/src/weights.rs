//! A model's weights, in the one convention that the forward pass knows.

pub use crate::classifier::ClassifierWeights;
use rustml_io::DType;
use rustml_kernels::par::ExpertMatrix;
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

/// Weights of one layer, block by block as in its [`crate::spec::Layer`].
pub struct LayerWeights {
    /// First to last.
    pub blocks: Vec<BlockWeights>,
}

/// Weights of one block. What its [`crate::spec::Block`] does not have is `None`.
pub struct BlockWeights {
    /// Before the part, `hidden` wide.
    pub before: Option<NormWeights>,
    /// The part's.
    pub part: PartWeights,
    /// After the part, or of the sum, `hidden` wide.
    pub after: Option<NormWeights>,
}

/// Weights of what a block computes; see [`crate::spec::Part`].
pub enum PartWeights {
    /// Attention.
    Attention(Box<AttentionWeights>),
    /// A feed-forward.
    FeedForward(Box<FeedForwardWeights>),
    /// A mixture of experts.
    Experts(Box<ExpertsWeights>),
    /// What carries a state.
    Recurrent(Box<RecurrentWeights>),
    /// What reads the vectors that each token has for this layer.
    ReadsPerLayer(Box<ReadsPerLayerWeights>),
    /// What predicts several streams, or corrects them.
    AltUp(Box<AltUpWeights>),
    /// What stands beside attention.
    Laurel(Box<LaurelWeights>),
    /// What multiplies the stream.
    Factor(f32),
    /// Several blocks of one input.
    Parallel(Vec<BlockWeights>),
}

/// Weights of attention. Shapes are `[outputs, inputs]`, with `q = heads * head_dim`
/// and `kv = kv_heads * head_dim`.
pub struct AttentionWeights {
    /// Which of the cache's layers it stores to.
    pub cache: usize,
    /// `[q, hidden]`
    pub query: Linear,
    /// `[kv, hidden]`; not where another layer's keys are read.
    pub key: Option<Linear>,
    /// `[kv, hidden]`; not where keys are values, either.
    pub value: Option<Linear>,
    /// `head_dim` wide, or as wide as the queries.
    pub query_norm: Option<NormWeights>,
    /// `head_dim` wide, or as wide as the keys.
    pub key_norm: Option<NormWeights>,
    /// Ones, `head_dim` wide.
    pub value_norm: Option<NormWeights>,
    /// `[hidden, q]`
    pub out: Linear,
    /// How fast the scores of each head fall with the distance, or nothing.
    pub slopes: Vec<f32>,
    /// A summand of scores for each distance, `[heads, 2 reach + 1]`, or nothing.
    pub relative: Vec<f32>,
    /// Its product with the part's input multiplies what attention gives.
    pub gate: Option<Linear>,
    /// One more score for each query head, or nothing.
    pub sinks: Vec<f32>,
    /// Of latent attention. Then `query` reads its queries' latent, if there is one, `key`
    /// gives the latent of keys and values and the rotated part, and `value` makes of it
    /// what is not rotated of each head's key, and its value.
    pub latent: Option<LatentWeights>,
}

/// What latent attention has beside the weights of others.
pub struct LatentWeights {
    /// `[query rank, hidden]`
    pub query_down: Option<Linear>,
    /// `query rank` wide.
    pub query_norm: Option<NormWeights>,
    /// `rank` wide.
    pub norm: NormWeights,
}

impl AttentionWeights {
    /// The linear layers that read its input, side by side.
    pub fn inputs(&self) -> Vec<&Matrix> {
        match &self.latent {
            Some(l) => {
                let query = l.query_down.as_ref().unwrap_or(&self.query);
                let inputs = [Some(query), self.key.as_ref()];
                inputs.into_iter().flatten().map(|l| &l.weights).collect()
            }
            None => {
                let keys = self.key.iter().chain(&self.value);
                let all = [&self.query].into_iter().chain(keys).chain(&self.gate);
                all.map(|l| &l.weights).collect()
            }
        }
    }
}

/// Weights of a part that carries a state; see [`crate::spec::Recurrent`].
pub struct RecurrentWeights {
    /// Which part of a slot is its state.
    pub state: usize,
    /// `[channels, hidden]`: to the inputs of the convolution.
    pub input: Linear,
    /// `[channels, hidden]` or `[heads, hidden]`: to the factors of these, or of what is
    /// taken in.
    pub factor: Option<Linear>,
    /// `[inner, hidden]`: to the factors of the result.
    pub gate: Linear,
    /// `[heads, hidden]`: to the steps.
    pub step: Option<Linear>,
    /// `[taps, channels]`, the oldest input's first.
    pub convolution: Vec<f32>,
    /// One for each channel, or nothing.
    pub convolution_bias: Vec<f32>,
    /// How fast each head decays: negative.
    pub decay: Vec<f32>,
    /// Added to each head's step.
    pub step_bias: Vec<f32>,
    /// Factor of the value in each head's result, or nothing.
    pub skip: Vec<f32>,
    /// Of the result.
    pub norm: Option<NormWeights>,
    /// `[hidden, inner]`
    pub out: Linear,
}

/// Weights of a feed-forward.
pub struct FeedForwardWeights {
    /// `[inner, hidden]`
    pub gate: Option<Linear>,
    /// `[inner, hidden]`
    pub up: Linear,
    /// `[hidden, inner]`
    pub down: Linear,
}

impl RecurrentWeights {
    /// The linear layers that read its input, side by side.
    pub fn inputs(&self) -> impl Iterator<Item = &Linear> {
        let all = [
            Some(&self.input),
            self.factor.as_ref(),
            Some(&self.gate),
            self.step.as_ref(),
        ];
        all.into_iter().flatten()
    }
}

impl FeedForwardWeights {
    /// The linear layers that read its input, side by side.
    pub fn inputs(&self) -> Vec<&Matrix> {
        let gate = self.gate.iter().map(|g| &g.weights);
        gate.chain([&self.up.weights]).collect()
    }
}

/// Weights of what reads the vectors that each token has for a layer.
pub struct ReadsPerLayerWeights {
    /// `[width, hidden]`
    pub gate: Linear,
    /// `[hidden, width]`
    pub out: Linear,
}

/// Weights of what predicts and corrects several streams; see [`crate::spec::AltUp`].
pub struct AltUpWeights {
    /// `[streams, hidden]`: to the coefficients.
    pub router: Vec<f32>,
    /// Of what these are made of.
    pub norm: NormWeights,
    /// `[streams * streams, streams]`, or `[streams, streams]` of what corrects them.
    pub coefficients: Vec<f32>,
    /// Factors of the first stream, or nothing.
    pub scale: Vec<f32>,
    /// What reads the vectors that each token has for the layer, and the norm of that; of
    /// what corrects them.
    pub reads: Option<(ReadsPerLayerWeights, NormWeights)>,
}

/// Weights of what stands beside attention; see [`crate::spec::Laurel`].
pub struct LaurelWeights {
    /// `[rank, hidden]`
    pub left: Linear,
    /// `[hidden, rank]`
    pub right: Linear,
    /// Of their result.
    pub norm: NormWeights,
}

/// Weights that make several streams, and one of these again: `[hidden, hidden]` each.
pub struct StreamsWeights {
    /// Of all streams but the first.
    pub into: Vec<Linear>,
    /// Likewise.
    pub out: Vec<Linear>,
}

/// Weights of the vectors that each token has for every layer.
pub struct PerLayerWeights {
    /// `[vocab, layers * width]`
    pub table: Matrix,
    /// `[layers * width, hidden]`
    pub projection: Linear,
    /// `width` wide.
    pub norm: NormWeights,
}

/// Weights of a mixture of experts.
pub struct ExpertsWeights {
    /// `[experts, hidden]`, in single precision.
    pub router: Linear,
    /// One summand for each expert, or nothing.
    pub correction: Vec<f32>,
    /// `[experts, inner, hidden]`
    pub gate: Option<ExpertMatrix>,
    /// `[experts, inner, hidden]`
    pub up: ExpertMatrix,
    /// `[experts, hidden, inner]`
    pub down: ExpertMatrix,
    /// The shared expert.
    pub shared: Option<FeedForwardWeights>,
    /// What its result's factor is a product with, `hidden` wide, or nothing.
    pub shared_gate: Vec<f32>,
    /// Of what the router reads, `hidden` wide.
    pub router_norm: Option<NormWeights>,
    /// A factor of each expert's result, or nothing.
    pub factors: Vec<f32>,
}

/// All weights of a model.
pub struct Weights {
    /// `[vocab, hidden]`; the head too, where it is tied.
    pub embedding: Matrix,
    /// `[context, hidden]`, where positions are learned.
    pub positions: Option<Matrix>,
    /// Of each type of tokens what is added to their vectors, `[types, hidden]`, or nothing.
    pub types: Vec<f32>,
    /// Of the sum of these.
    pub embedding_norm: Option<NormWeights>,
    /// Of the vectors that each token has for every layer.
    pub per_layer: Option<Box<PerLayerWeights>>,
    /// Of several streams.
    pub streams: Option<StreamsWeights>,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// After the last layer.
    pub final_norm: Option<NormWeights>,
    /// `[vocab, hidden]`, where it is not tied.
    pub head: Option<Linear>,
    /// Whether the embedding serves as the head.
    pub(crate) tied: bool,
    /// From states to scores of labels.
    pub classifier: Option<ClassifierWeights>,
}

impl LayerWeights {
    /// The linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.parts().flat_map(PartWeights::linears)
    }

    /// Its parts, those that are parallel each for itself.
    pub fn parts(&self) -> impl Iterator<Item = &PartWeights> {
        self.blocks.iter().flat_map(BlockWeights::parts)
    }
}

impl BlockWeights {
    /// The part, or those that are parallel.
    pub fn parts(&self) -> impl Iterator<Item = &PartWeights> {
        let (one, several) = match &self.part {
            PartWeights::Parallel(blocks) => (None, &blocks[..]),
            part => (Some(part), &[][..]),
        };
        one.into_iter().chain(several.iter().map(|b| &b.part))
    }
}

impl PartWeights {
    /// The linear layers; none of parallel blocks, which are parts of their own.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        fn of(f: &FeedForwardWeights) -> [Option<&Linear>; 5] {
            [f.gate.as_ref(), Some(&f.up), Some(&f.down), None, None]
        }
        let all: [Option<&Linear>; 5] = match self {
            PartWeights::Attention(a) => {
                let (q, k, v, out) = (
                    Some(&a.query),
                    a.key.as_ref(),
                    a.value.as_ref(),
                    Some(&a.out),
                );
                let down = a.latent.as_ref().and_then(|l| l.query_down.as_ref());
                [q, k, v, a.gate.as_ref().or(down), out]
            }
            PartWeights::FeedForward(f) => of(f),
            PartWeights::Experts(e) => e.shared.as_ref().map_or([None; 5], of),
            PartWeights::Recurrent(r) => {
                let (factor, step) = (r.factor.as_ref(), r.step.as_ref());
                [Some(&r.input), factor, Some(&r.gate), step, Some(&r.out)]
            }
            PartWeights::ReadsPerLayer(r) => [Some(&r.gate), Some(&r.out), None, None, None],
            PartWeights::AltUp(a) => {
                let reads = a.reads.as_ref().map(|(r, _)| r);
                let (gate, out) = (reads.map(|r| &r.gate), reads.map(|r| &r.out));
                [gate, out, None, None, None]
            }
            PartWeights::Laurel(l) => [Some(&l.left), Some(&l.right), None, None, None],
            PartWeights::Factor(_) | PartWeights::Parallel(_) => [None; 5],
        };
        all.into_iter().flatten()
    }

    /// Those that read the part's input, side by side.
    pub fn inputs(&self) -> Vec<&Matrix> {
        match self {
            PartWeights::Attention(a) => a.inputs(),
            PartWeights::FeedForward(f) => f.inputs(),
            PartWeights::Experts(e) => vec![&e.router.weights],
            PartWeights::Recurrent(r) => r.inputs().map(|l| &l.weights).collect(),
            PartWeights::ReadsPerLayer(r) => vec![&r.gate.weights],
            PartWeights::AltUp(_) | PartWeights::Laurel(_) | PartWeights::Factor(_) => Vec::new(),
            PartWeights::Parallel(blocks) => blocks[0].part.inputs(),
        }
    }

    /// The last linear layer of a feed-forward, which reads what is inner.
    fn down(&self) -> Option<&Linear> {
        match self {
            PartWeights::FeedForward(f) => Some(&f.down),
            PartWeights::Experts(e) => e.shared.as_ref().map(|f| &f.down),
            _ => None,
        }
    }
}

impl Weights {
    /// The head's weights, if there is one.
    pub fn head(&self) -> Option<&Matrix> {
        let own = self.head.as_ref().map(|h| &h.weights);
        own.or(self.tied.then_some(&self.embedding))
    }

    /// The experts of all layers.
    pub fn experts(&self) -> impl Iterator<Item = &ExpertsWeights> {
        let parts = self.layers.iter().flat_map(LayerWeights::parts);
        parts.filter_map(|p| match p {
            PartWeights::Experts(e) => Some(&**e),
            _ => None,
        })
    }

    fn stream_linears(&self) -> impl Iterator<Item = &Linear> {
        let streams = self.streams.iter();
        streams.flat_map(|s| s.into.iter().chain(&s.out))
    }

    /// Every packed matrix.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(LayerWeights::linears);
        let linears = layers.chain(&self.head).map(|l| &l.weights);
        let experts = self.experts().flat_map(|e| {
            let all = e.gate.iter().chain([&e.up, &e.down]);
            all.map(ExpertMatrix::matrix).chain([&e.router.weights])
        });
        let tables = [&self.embedding].into_iter().chain(&self.positions);
        let per_layer = self.per_layer.iter();
        let per_layer = per_layer.flat_map(|p| [&p.table, &p.projection.weights]);
        let streams = self.stream_linears().map(|l| &l.weights);
        let tables = tables.chain(per_layer).chain(streams);
        linears.chain(experts).chain(tables)
    }

    /// Whether the weights of all layers are in single or half precision: then nothing should
    /// be rounded more than these say.
    pub fn are_precise(&self) -> bool {
        let linears = self.layers.iter().flat_map(LayerWeights::linears);
        let experts = self
            .experts()
            .flat_map(|e| e.gate.iter().chain([&e.up, &e.down]));
        let mut types = linears
            .map(|l| l.weights.dtype())
            .chain(experts.map(ExpertMatrix::dtype));
        types.all(|t| matches!(t, DType::F32 | DType::F16))
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        self.matrices().map(Matrix::bytes).sum()
    }

    /// The linear layers that read the products of a step's first part: those of
    /// `layer`, or the head's after the last one.
    pub fn inputs_of(&self, layer: usize, block: usize) -> Vec<&Matrix> {
        let here = self.layers.get(layer).and_then(|l| l.blocks.get(block));
        let next = self.layers.get(layer + 1).and_then(|l| l.blocks.first());
        match here.or(next) {
            Some(block) => block.part.inputs(),
            None => self.head().into_iter().collect(),
        }
    }

    /// The forms of activations that any product reads, of prompts or not, but those of the
    /// inner part of a feed-forward, and the widest input of these.
    pub fn activations(&self) -> (Forms, usize) {
        let of = |p| {
            let down = PartWeights::down(p);
            let is_down = move |l: &&Linear| down.is_some_and(|d| std::ptr::eq(*l, d));
            PartWeights::linears(p).filter(move |l| !is_down(l))
        };
        let parts = self.layers.iter().flat_map(LayerWeights::parts);
        let routers = self.experts().map(|e| &e.router.weights);
        let linears = parts.flat_map(of).map(|l| &l.weights);
        let per_layer = self.per_layer.iter().map(|p| &p.projection.weights);
        let streams = self.stream_linears().map(|l| &l.weights);
        let others = routers.chain(per_layer).chain(streams);
        read_by(linears.chain(others).chain(self.head()))
    }

    /// The same of the inner part of a feed-forward.
    pub fn inner_activations(&self) -> (Forms, usize) {
        let parts = self.layers.iter().flat_map(LayerWeights::parts);
        read_by(parts.filter_map(PartWeights::down).map(|l| &l.weights))
    }
}

/// The forms of activations that these products read, of prompts or not, and the widest
/// input.
fn read_by<'a>(linears: impl Iterator<Item = &'a Matrix>) -> (Forms, usize) {
    linears.fold((Forms::default(), 0), |(forms, cols), m| {
        let forms = forms.union(m.forms()).union(m.prefill_forms());
        (forms, cols.max(m.cols()))
    })
}

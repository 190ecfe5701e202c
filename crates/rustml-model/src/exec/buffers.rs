//! Everything a step writes.

use super::altup::AltUpBuffers;
use super::latent::LatentBuffers;
use super::per_layer::PerLayerBuffers;
use super::recurrent::RecurrentBuffers;
use super::Capacity;
use crate::model::Model;
use crate::spec;
use crate::spec::{Attention, Block, Experts, Layer, Part};
use rustml_kernels::par::{self, scratch_len, ExpertBuffers, ExpertSizes};
use rustml_kernels::router::Choice;
use rustml_kernels::{Acts, Aligned, Forms, Phase};

/// Buffers for steps of one model, allocated once for the largest step. Each
/// is `[rows, width]` of the current step.
pub(crate) struct Buffers {
    /// The residual stream, `hidden` wide.
    pub x: Aligned<f32>,
    /// A part's result, where a norm or a factor comes before it is added; `hidden`
    /// wide, empty where none does.
    pub y: Aligned<f32>,
    /// The sum of parallel blocks, likewise.
    pub sum: Aligned<f32>,
    /// What experts read, `hidden` wide; empty where there are none.
    pub input: Aligned<f32>,
    /// The result of a shared expert, likewise.
    pub shared: Aligned<f32>,
    /// The router's products, as wide as there are experts.
    pub router: Aligned<f32>,
    /// The experts of each row.
    pub choices: Vec<Choice>,
    /// What is in hand of experts.
    pub experts: Option<ExpertBuffers>,
    /// Queries, `heads * head_dim` wide.
    pub q: Aligned<f32>,
    /// Keys, `kv_heads * head_dim` wide.
    pub k: Aligned<f32>,
    /// Values, likewise.
    pub v: Aligned<f32>,
    /// Factors of what attention gives, as wide as the queries at most; empty where none
    /// has them.
    pub gate: Aligned<f32>,
    /// Of several streams.
    pub altup: AltUpBuffers,
    /// Vectors that each token has for every layer.
    pub per_layer: PerLayerBuffers,
    /// Of latent attention.
    pub latent: LatentBuffers,
    /// Of recurrent parts.
    pub recurrent: RecurrentBuffers,
    /// What attention mixed, as wide as the queries, or a recurrent part.
    pub mixed: Aligned<f32>,
    /// What threads have in hand of norms and feed-forwards.
    pub scratch: Aligned<f32>,
    /// Input of the next product, in the forms its weights read; not `inner` wide.
    pub acts: Acts,
    /// The inner part of a feed-forward, likewise, `inner` wide.
    pub inner: Acts,
    /// Cosines of each rope, `[rope][rows, dims / 2]`.
    pub cos: Vec<Aligned<f32>>,
    /// Sines, likewise.
    pub sin: Vec<Aligned<f32>>,
    /// `[logit rows, vocab]`
    pub logits: Aligned<f32>,
    /// `[logit rows, hidden]`
    pub hidden: Aligned<f32>,
}

impl Buffers {
    pub fn new(model: &Model, capacity: Capacity) -> Buffers {
        let (spec, rows) = (model.spec(), capacity.rows);
        let widest = |f: &dyn Fn(&Layer) -> usize| {
            let widest = spec.layers.iter().map(f).max().unwrap_or(0);
            Aligned::zeroed(rows * widest)
        };
        let (forms, cols) = model.weights().activations();
        let (inner_forms, inner_cols) = model.weights().inner_activations();
        let tables = || {
            let ropes = spec.ropes.iter();
            ropes
                .map(|r| Aligned::zeroed(rows * (r.dims / 2)))
                .collect()
        };
        let attention =
            |f: &dyn Fn(&Attention) -> usize| widest(&|l: &Layer| l.attention().map_or(0, f));
        let most = |f: &dyn Fn(&Experts) -> usize| {
            let all = spec.layers.iter().filter_map(Layer::experts);
            all.map(f).max().unwrap_or(0)
        };
        let experts = |f: &dyn Fn(&Experts) -> usize| Aligned::zeroed(rows * most(f));
        let q = || attention(&|a| a.heads * a.head_dim);
        let kv = || attention(&|a| a.kv_heads * a.head_dim);
        // A norm of the sum writes there, too.
        let follows = |b: &Block| b.norm.after().is_some() || b.scale != 1.0;
        let within = |b: &Block| match &b.part {
            Part::Parallel(blocks) => blocks.iter().any(follows),
            _ => false,
        };
        let routed = spec.layers.iter().filter_map(Layer::experts);
        let routed = routed.map(|e| e.router_norm).any(|n| n.is_some());
        let normed = spec.embedding.norm.is_some() || routed;
        let y = |l: &Layer| match normed || l.blocks.iter().any(|b| follows(b) || within(b)) {
            true => spec.hidden,
            false => 0,
        };
        let is_parallel = |b: &Block| matches!(b.part, Part::Parallel(_));
        let sum = |l: &Layer| match l.blocks.iter().any(is_parallel) {
            true => spec.hidden,
            false => 0,
        };
        Buffers {
            x: Aligned::zeroed(rows * spec.hidden),
            y: widest(&y),
            sum: widest(&sum),
            input: experts(&|_| spec.hidden),
            shared: experts(&|e| if e.shared.is_some() { spec.hidden } else { 0 }),
            router: experts(&|e| e.router.experts),
            choices: vec![Choice::default(); rows * most(&|e| e.router.chosen)],
            experts: expert_buffers(model, rows),
            q: q(),
            k: kv(),
            v: kv(),
            gate: attention(&|a| a.gate.map_or(0, |_| a.heads * a.head_dim)),
            altup: AltUpBuffers::new(spec, rows),
            per_layer: PerLayerBuffers::new(spec, rows),
            latent: LatentBuffers::new(spec, rows),
            recurrent: RecurrentBuffers::new(spec, rows),
            mixed: widest(&|l| {
                let attention = l.attention().map_or(0, |a| a.heads * a.head_dim);
                attention.max(l.recurrent().map_or(0, |r| r.inner()))
            }),
            scratch: Aligned::zeroed(scratch_len(
                model.team(),
                rows,
                spec.hidden.max(LatentBuffers::widest(spec)),
                inner_cols,
            )),
            acts: Acts::new(rows, cols, forms),
            inner: Acts::new(rows, inner_cols, inner_forms),
            cos: tables(),
            sin: tables(),
            logits: Aligned::zeroed(capacity.logit_rows * spec.vocab),
            hidden: Aligned::zeroed(capacity.logit_rows * spec.hidden),
        }
    }
}

/// For the largest experts of all layers.
fn expert_buffers(model: &Model, rows: usize) -> Option<ExpertBuffers> {
    let spec = model.spec();
    let all = || spec.layers.iter().filter_map(Layer::experts);
    let most = |f: &dyn Fn(&Experts) -> usize| all().map(f).max();
    let sizes = ExpertSizes {
        rows,
        experts: most(&|e| e.router.experts)?,
        chosen: most(&|e| e.router.chosen)?,
        hidden: spec.hidden,
        inner: most(&|e| e.expert.inner)?,
    };
    let (mut input, mut inner) = (Forms::default(), Forms::default());
    for w in model.weights().experts() {
        let experts = par::Experts {
            activation: spec::Activation::Silu,
            gate: w.gate.as_ref(),
            up: &w.up,
            down: &w.down,
            weight_on_input: false,
        };
        for phase in [Phase::Prefill, Phase::Decode] {
            let forms = experts.forms(phase);
            (input, inner) = (input.union(forms[0]), inner.union(forms[1]));
        }
    }
    Some(ExpertBuffers::new(model.team(), sizes, input, inner))
}

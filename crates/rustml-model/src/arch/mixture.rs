//! Mixtures of experts, as files describe them.

use super::decoder::Decoder;
use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::*;

/// Softmax over all experts; the weights of the chosen are divided by their sum if
/// `renormalise` says so.
pub(super) fn softmax(experts: usize, chosen: usize, renormalise: bool) -> Router {
    Router {
        scores: Scores::Softmax,
        experts,
        chosen,
        soft_cap: None,
        groups: None,
        renormalise: sum(renormalise, 0.0),
        scale: 1.0,
    }
}

/// The sigmoid of each.
pub(super) fn sigmoid(experts: usize, chosen: usize, renormalise: bool) -> Router {
    Router {
        scores: Scores::Sigmoid,
        renormalise: sum(renormalise, 1e-20),
        ..softmax(experts, chosen, renormalise)
    }
}

fn sum(renormalise: bool, epsilon: f32) -> Renormalise {
    match renormalise {
        true => Renormalise::Sum { epsilon },
        false => Renormalise::No,
    }
}

/// Groups of experts, where there are several.
pub(super) fn groups(count: usize, chosen: usize) -> Option<Groups> {
    (count > 1).then_some(Groups {
        count,
        chosen,
        by: GroupScore::BestTwo,
    })
}

/// A mixture with nothing beside the experts, which are built like the decoder's
/// feed-forward but have `inner` values inside.
pub(super) fn plain(d: &Decoder, router: Router, inner: usize) -> Experts {
    let expert = FeedForward {
        inner,
        ..d.feed_forward
    };
    of(router, expert)
}

/// The same of these experts.
pub(super) fn of(router: Router, expert: FeedForward) -> Experts {
    Experts {
        router,
        router_bias: false,
        correction: false,
        expert,
        weight_on_input: false,
        shared: None,
        router_norm: None,
        factors: false,
    }
}

impl Experts {
    /// The same with a shared expert of so many values inside, if any.
    pub(super) fn beside(mut self, inner: usize, gated: bool) -> Experts {
        let expert = FeedForward {
            inner,
            ..self.expert
        };
        self.shared = (inner > 0).then_some(Shared { expert, gated });
        self
    }
}

/// How many experts there are, and how many compute a row.
pub(super) fn counts(c: &Config, default: (usize, usize)) -> Result<(usize, usize)> {
    let all = [
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
    ];
    let chosen = ["num_experts_per_tok", "experts_per_token", "moe_k"];
    Ok((
        c.usize_of(&all)?.unwrap_or(default.0),
        c.usize_of(&chosen)?.unwrap_or(default.1),
    ))
}

/// Which layers have experts, where config.json lists `mlp_layer_types`.
pub(super) fn sparse_layers(c: &Config, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = c.strings("mlp_layer_types")? else {
        return Ok(None);
    };
    if types.len() != layers {
        return Err(c.error(format!(
            "mlp_layer_types names {} layers, but num_hidden_layers is {layers}",
            types.len()
        )));
    }
    let kinds = types.iter().map(|kind| match *kind {
        "sparse" => Ok(true),
        "dense" => Ok(false),
        other => Err(c.error(format!(
            "mlp_layer_types names {}, but only sparse and dense are known",
            show(other)
        ))),
    });
    kinds.collect::<Result<_>>().map(Some)
}

/// The mixture that the usual keys of GGUF describe, in the layers whose router is there.
/// `router` is what the architecture has where the file says nothing.
pub(super) fn from_gguf(
    d: &mut Decoder,
    g: &Gguf,
    router: fn(usize, usize) -> Router,
) -> Result<()> {
    let experts = g.need_usize("expert_count")?;
    let mut router = router(experts, g.need_usize("expert_used_count")?);
    match g.usize("expert_gating_func")? {
        None | Some(0) => {}
        Some(1) => router.scores = Scores::Softmax,
        Some(2) => router.scores = Scores::Sigmoid,
        Some(3) => router.scores = Scores::SoftmaxOfChosen,
        Some(other) => {
            return Err(g.error(format!(
                "expert_gating_func is {other}; known are 1 (softmax), 2 (sigmoid) and 3 (softmax of the chosen)"
            )))
        }
    }
    if let Some(renormalise) = g.bool("expert_weights_norm")? {
        let epsilon = match router.renormalise {
            Renormalise::Sum { epsilon } => epsilon,
            _ => 0.0,
        };
        router.renormalise = sum(renormalise, epsilon);
    }
    if let Some(scale) = g.f32("expert_weights_scale")?.filter(|s| *s != 0.0) {
        router.scale = scale;
    }
    let count = g.usize("expert_group_count")?.unwrap_or(0);
    router.groups = groups(count, g.usize("expert_group_used_count")?.unwrap_or(1));
    let has = |layer: usize, name: &str| g.has_tensor(&format!("blk.{layer}.{name}"));
    let here: Vec<bool> = (0..d.layers())
        .map(|i| has(i, "ffn_gate_inp.weight"))
        .collect();
    let Some(first) = here.iter().position(|h| *h) else {
        return Err(g.error(format!(
            "expert_count is {experts}, but no layer has a router (blk.N.ffn_gate_inp.weight)"
        )));
    };
    let inner = match g.usize("expert_feed_forward_length")? {
        Some(inner) => inner,
        None => d.feed_forward.inner,
    };
    let mut experts = plain(d, router, inner);
    experts.router_bias = has(first, "ffn_gate_inp.bias");
    experts.correction = has(first, "exp_probs_b.bias") || has(first, "exp_probs_b.weight");
    experts.expert.bias = has(first, "ffn_up_exps.bias");
    if has(first, "ffn_up_shexp.weight") {
        let shared = g.tensor_rows(&format!("blk.{first}.ffn_up_shexp.weight"))?;
        experts = experts.beside(shared, has(first, "ffn_gate_inp_shexp.weight"));
    }
    d.experts(experts, |i| here[i]);
    Ok(())
}

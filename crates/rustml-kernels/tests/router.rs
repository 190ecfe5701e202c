//! Routing against other implementations' numbers and plain definitions.

use rustml_kernels::router::*;

const PLAIN: Router = Router {
    scores: Scores::Softmax,
    experts: 8,
    chosen: 3,
    soft_cap: None,
    groups: None,
    renormalise: Renormalise::No,
    scale: 1.0,
};

/// Logits of the cases, the same for all: made by hand, with a tie and negative ones.
const LOGITS: [f32; 8] = [0.5, -1.25, 2.0, 0.75, -0.5, 2.0, 1.5, -3.0];
const CORRECTION: [f32; 8] = [0.3, 0.9, -0.8, 0.1, 0.2, -0.05, 0.0, 0.4];

fn route(router: Router, correction: &[f32]) -> Vec<Choice> {
    let mut choices = vec![Choice::default(); router.chosen];
    router.route(&LOGITS, correction, &mut choices);
    choices
}

/// Compares with experts in order, and weights that may be off by the roundings of an
/// exponential, its sum and a quotient, in both implementations.
#[track_caller]
fn check(router: Router, correction: &[f32], expected: &[(u32, f32)]) {
    let choices = route(router, correction);
    assert_eq!(choices.len(), expected.len());
    for (choice, &(expert, weight)) in choices.iter().zip(expected) {
        assert_eq!(choice.expert, expert, "{choices:?}");
        let off = (choice.weight / weight - 1.0).abs();
        assert!(off <= 16.0 * f32::EPSILON, "{choices:?}");
    }
}

// The numbers are those of transformers' routers, of the families that are named, with an
// identity for their weights.

#[test]
fn softmax_before_choosing_matches() {
    // Qwen2-MoE, then Qwen3-MoE, Mixtral, OLMoE, Hunyuan.
    check(
        PLAIN,
        &[],
        &[(2, 0.30828395), (5, 0.30828395), (6, 0.18698367)],
    );
    let router = Router {
        renormalise: Renormalise::Sum { epsilon: 0.0 },
        ..PLAIN
    };
    check(
        router,
        &[],
        &[(2, 0.38365173), (5, 0.38365173), (6, 0.23269655)],
    );
}

#[test]
fn scores_of_the_chosen_match() {
    // gpt-oss and Granite.
    let router = Router {
        scores: Scores::SoftmaxOfChosen,
        ..PLAIN
    };
    check(
        router,
        &[],
        &[(2, 0.38365173), (5, 0.38365173), (6, 0.23269655)],
    );
    // Llama 4.
    let router = Router {
        scores: Scores::SigmoidOfChosen,
        ..PLAIN
    };
    check(
        router,
        &[],
        &[(2, 0.880797), (5, 0.880797), (6, 0.81757444)],
    );
    // Cohere2-MoE.
    let router = Router {
        renormalise: Renormalise::Sum { epsilon: 0.0 },
        ..router
    };
    check(
        router,
        &[],
        &[(2, 0.34150425), (5, 0.34150425), (6, 0.31699148)],
    );
}

#[test]
fn corrections_choose_and_do_not_weigh() {
    // DeepSeek-V3, dots1, GLM-4-MoE.
    let sigmoid = Router {
        scores: Scores::Sigmoid,
        renormalise: Renormalise::Sum { epsilon: 1e-20 },
        scale: 2.5,
        ..PLAIN
    };
    check(
        sigmoid,
        &CORRECTION,
        &[(1, 0.32257497), (0, 0.9016151), (5, 1.27581)],
    );
    // MiniMax-M2, and LFM2 with another epsilon.
    let router = Router {
        scale: 1.0,
        ..sigmoid
    };
    check(
        router,
        &CORRECTION,
        &[(1, 0.12902999), (0, 0.36064604), (5, 0.510324)],
    );
    let router = Router {
        renormalise: Renormalise::Sum { epsilon: 1e-6 },
        ..router
    };
    check(
        router,
        &CORRECTION,
        &[(1, 0.12902991), (0, 0.36064583), (5, 0.51032376)],
    );
    // ERNIE 4.5, with its least sum and another.
    let small = CORRECTION.map(|c| c * 0.2);
    let router = Router {
        renormalise: Renormalise::AtLeast { least: 1e-12 },
        ..PLAIN
    };
    check(
        router,
        &small,
        &[(5, 0.60779005), (1, 0.023566578), (6, 0.3686433)],
    );
    let router = Router {
        renormalise: Renormalise::AtLeast { least: 0.9 },
        ..PLAIN
    };
    check(
        router,
        &small,
        &[(5, 0.34253773), (1, 0.0132816285), (6, 0.20775965)],
    );
}

#[test]
fn groups_match() {
    let groups = |by| {
        Some(Groups {
            count: 4,
            chosen: 2,
            by,
        })
    };
    // GLM-4-MoE.
    let router = Router {
        scores: Scores::Sigmoid,
        groups: groups(GroupScore::BestTwo),
        renormalise: Renormalise::Sum { epsilon: 1e-20 },
        scale: 2.5,
        ..PLAIN
    };
    check(
        router,
        &CORRECTION,
        &[(1, 0.32257497), (0, 0.9016151), (5, 1.27581)],
    );
    // DeepSeek-V2.
    let router = Router {
        groups: groups(GroupScore::Best),
        scale: 16.0,
        ..PLAIN
    };
    check(
        router,
        &[],
        &[(2, 4.9325433), (5, 4.9325433), (3, 1.4131974)],
    );
}

#[test]
fn capped_logits_match() {
    // Laguna.
    let router = Router {
        scores: Scores::Sigmoid,
        soft_cap: Some(1.5),
        renormalise: Renormalise::Sum { epsilon: 0.0 },
        ..PLAIN
    };
    check(
        router,
        &CORRECTION,
        &[(1, 0.17063387), (0, 0.39906678), (3, 0.4302994)],
    );
}

#[test]
fn the_sparse_mixer_matches() {
    // Phi-MoE.
    let router = |jitter| Router {
        scores: Scores::SparseMixer { jitter },
        chosen: 2,
        ..PLAIN
    };
    check(router(0.01), &[], &[(2, 0.5), (5, 1.0)]);
    check(router(0.2), &[], &[(2, 0.38365173), (5, 0.62245935)]);
    // The best may be negative.
    let logits = [-0.5, -0.52, -3.0, -0.55, -0.9, -0.51, -7.0, -2.0];
    let mut choices = [Choice::default(); 2];
    router(0.05).route(&logits, &[], &mut choices);
    for (choice, (expert, weight)) in choices.iter().zip([(0, 0.2550059), (5, 0.33888665)]) {
        assert_eq!(choice.expert, expert);
        let off = f32::abs(choice.weight / weight - 1.0);
        assert!(off <= 16.0 * f32::EPSILON, "{choices:?}");
    }
}

#[test]
fn of_equal_experts_the_first_comes_first() {
    for scores in [Scores::Softmax, Scores::Sigmoid, Scores::SigmoidOfChosen] {
        let router = Router { scores, ..PLAIN };
        let mut choices = [Choice::default(); 3];
        router.route(&[7.0; 8], &[], &mut choices);
        assert_eq!(choices.map(|c| c.expert), [0, 1, 2]);
    }
}

/// What is large has a sigmoid of 1 in single precision: chosen by logits it is told apart.
#[test]
fn logits_tell_apart_what_sigmoids_do_not() {
    let logits = [30.0, 40.0, 50.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for (scores, first) in [(Scores::Sigmoid, 0), (Scores::SigmoidOfChosen, 2)] {
        let router = Router {
            scores,
            chosen: 1,
            ..PLAIN
        };
        let mut choices = [Choice::default()];
        router.route(&logits, &[], &mut choices);
        assert_eq!(choices, [Choice::from((first, 1.0))]);
    }
}

#[test]
fn nan_is_chosen_and_stays() {
    for scores in [
        Scores::Softmax,
        Scores::Sigmoid,
        Scores::SoftmaxOfChosen,
        Scores::SparseMixer { jitter: 0.01 },
    ] {
        for renormalise in [
            Renormalise::No,
            Renormalise::Sum { epsilon: 0.0 },
            Renormalise::AtLeast { least: 1e-12 },
        ] {
            let router = Router {
                scores,
                renormalise,
                ..PLAIN
            };
            let mut logits = LOGITS;
            logits[4] = -f32::NAN;
            let mut choices = [Choice::default(); 3];
            router.route(&logits, &[], &mut choices);
            let found = choices.iter().any(|c| c.weight.is_nan());
            assert!(found, "{router:?} {choices:?}");
        }
    }
}

#[test]
fn what_cannot_be_routed_is_said() {
    let groups = |count, chosen| {
        Some(Groups {
            count,
            chosen,
            by: GroupScore::Best,
        })
    };
    let faults = [
        (Router { chosen: 0, ..PLAIN }, "0 of 8 experts"),
        (Router { chosen: 9, ..PLAIN }, "9 of 8 experts"),
        (
            Router {
                groups: groups(3, 1),
                ..PLAIN
            },
            "8 experts are in 3 groups",
        ),
        (
            Router {
                groups: groups(4, 5),
                ..PLAIN
            },
            "5 of 4 groups",
        ),
        (
            Router {
                groups: groups(4, 1),
                ..PLAIN
            },
            "3 experts are to be chosen of 2 in 1 groups",
        ),
    ];
    for (router, says) in faults {
        let fault = router.fault().unwrap();
        assert!(fault.contains(says), "{fault}");
    }
    assert_eq!(PLAIN.fault(), None);
}

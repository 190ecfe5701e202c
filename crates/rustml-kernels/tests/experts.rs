//! The experts of a mixture: the same as row by row and expert by expert, whatever rows are
//! beside and on any number of threads.

mod common;

use common::{bits, close, team, Rng, U};
use rustml_io::DType;
use rustml_kernels::formats::encode_row;
use rustml_kernels::ops::{self, Activation};
use rustml_kernels::par::*;
use rustml_kernels::router::{Choice, Renormalise, Router, Scores};
use rustml_kernels::{Acts, Matrix, Phase};
use rustml_simd::Isa;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

const EXPERTS: usize = 9;
const CHOSEN: usize = 3;

/// Weights of all experts, packed together and each by itself, with biases.
struct Weights {
    all: ExpertMatrix,
    each: Vec<Matrix>,
    bias: Vec<f32>,
    /// Of `F32`, expert by expert.
    values: Vec<f32>,
}

impl Weights {
    fn new(team: &Team, dtype: DType, (rows, cols): (usize, usize), rng: &mut Rng) -> Weights {
        let row_bytes = dtype.row_bytes(cols).unwrap();
        let values = rng.floats(EXPERTS * rows * cols);
        let mut bytes = vec![0; EXPERTS * rows * row_bytes];
        for (bytes, values) in bytes.chunks_mut(row_bytes).zip(values.chunks(cols)) {
            encode_row(dtype, values, bytes);
        }
        let mut all = ExpertMatrix::zeroed(dtype, EXPERTS, rows, cols, team.isa).unwrap();
        for expert in 0..EXPERTS {
            let read = |expert: usize, row: usize, to: &mut [u8]| {
                to.copy_from_slice(&bytes[(expert * rows + row) * row_bytes..][..row_bytes]);
                Ok::<(), ()>(())
            };
            pack_expert(team, &mut all, expert, &read).unwrap();
        }
        let bias = rng.floats(EXPERTS * rows);
        all.set_bias(&bias);
        let each = bytes.chunks(rows * row_bytes);
        let each = each.map(|b| Matrix::pack(dtype, rows, cols, b, team.isa).unwrap());
        Weights {
            all,
            each: each.collect(),
            bias,
            values,
        }
    }

    /// One expert's product with one row.
    fn product(&self, team: &Team, expert: usize, x: &[f32], phase: Phase) -> Vec<f32> {
        let weights = &self.each[expert];
        let forms = match phase {
            Phase::Prefill => weights.prefill_forms(),
            Phase::Decode => weights.forms(),
        };
        let mut acts = Acts::new(1, x.len(), forms);
        prepare_rows(team, x, x.len(), &mut acts, forms);
        let mut out = vec![f32::NAN; weights.rows()];
        let output = Output {
            weights,
            bias: Some(&self.bias[expert * weights.rows()..][..weights.rows()]),
            accumulate: false,
            out: &mut out,
        };
        matmul(team, &acts, &mut [output], None);
        out
    }
}

struct Layer {
    gate: Option<Weights>,
    up: Weights,
    down: Weights,
}

impl Layer {
    fn experts(&self, activation: Activation, weight_on_input: bool) -> Experts<'_> {
        Experts {
            activation,
            gate: self.gate.as_ref().map(|gate| &gate.all),
            up: &self.up.all,
            down: &self.down.all,
            weight_on_input,
        }
    }
}

/// Three experts for every row: the first of all, which so sees all rows, and never the last.
fn choices(rows: usize, rng: &mut Rng) -> Vec<Choice> {
    let mut choices = Vec::new();
    for _ in 0..rows {
        let other = 1 + rng.bits() as usize % (EXPERTS - 2);
        let third = 1 + (other + rng.bits() as usize % (EXPERTS - 3)) % (EXPERTS - 2);
        let mut row = [0, other, third].map(|e| Choice::from((e as u32, rng.float())));
        row.rotate_left(rng.bits() as usize % 3);
        choices.extend(row);
    }
    choices
}

/// Row by row, expert by expert, each with matrices of its own.
fn naive(team: &Team, layer: &Layer, experts: &Experts, rows: &ExpertRows, out: &mut [f32]) {
    let hidden = experts.up.cols();
    for (row, x) in rows.x.chunks(hidden).enumerate() {
        let out = &mut out[row * hidden..][..hidden];
        if !rows.accumulate {
            out.fill(0.0);
        }
        let mut choices = rows.choices[row * rows.chosen..][..rows.chosen].to_vec();
        choices.sort_by_key(|c| c.expert);
        for Choice { expert, weight } in choices {
            let (mut x, mut factor) = (x.to_vec(), rows.factor * weight);
            if experts.weight_on_input {
                ops::scale(team.isa, &mut x, weight);
                factor = rows.factor;
            }
            let product = |w: &Weights, x: &[f32]| w.product(team, expert as usize, x, rows.phase);
            let mut inner = product(layer.gate.as_ref().unwrap_or(&layer.up), &x);
            let up = layer.gate.as_ref().map(|_| product(&layer.up, &x));
            ops::activate(
                team.isa,
                experts.activation,
                &mut inner,
                &up.unwrap_or_default(),
            );
            ops::scale_add(team.isa, out, factor, &product(&layer.down, &inner));
        }
    }
}

fn buffers(team: &Team, experts: &Experts, rows: usize) -> ExpertBuffers {
    let sizes = ExpertSizes {
        rows,
        experts: experts.up.experts(),
        chosen: CHOSEN,
        hidden: experts.up.cols(),
        inner: experts.up.rows(),
    };
    let [a, b] = [Phase::Decode, Phase::Prefill].map(|phase| experts.forms(phase));
    ExpertBuffers::new(team, sizes, a[0].union(b[0]), a[1].union(b[1]))
}

const CLAMPED: Activation = Activation::ClampedSwiglu {
    limit: 0.75,
    alpha: 1.702,
};

/// Types of gate, up and down; values of a row and between the projections.
const KINDS: [([DType; 3], usize, usize); 4] = [
    ([DType::Q4_K, DType::Q4_K, DType::Q6_K], 256, 512),
    ([DType::Q8_0, DType::Q5_0, DType::Q8_0], 64, 96),
    ([DType::BF16, DType::F32, DType::F16], 50, 77),
    ([DType::IQ4_NL, DType::BF16, DType::Q4_0], 96, 32),
];

fn layer(team: &Team, kind: usize, gated: bool, rng: &mut Rng) -> Layer {
    let ([gate, up, down], hidden, inner) = KINDS[kind];
    Layer {
        gate: gated.then(|| Weights::new(team, gate, (inner, hidden), rng)),
        up: Weights::new(team, up, (inner, hidden), rng),
        down: Weights::new(team, down, (hidden, inner), rng),
    }
}

#[test]
fn experts_are_those_of_single_rows() {
    for isa in Isa::available() {
        let one = team(isa, 1);
        for kind in 0..KINDS.len() {
            for (gated, on_input) in [(true, false), (false, false), (true, true)] {
                let mut rng = Rng(5 + kind as u64);
                let layer = layer(&one, kind, gated, &mut rng);
                let experts = layer.experts([CLAMPED, Activation::Silu][kind % 2], on_input);
                let hidden = experts.up.cols();
                for (count, threads) in [(0, 2), (1, 1), (2, 2), (4, 3), (5, 2), (40, 3)] {
                    let x = rng.floats(count * hidden);
                    let choices = choices(count, &mut rng);
                    let before = rng.floats(count * hidden);
                    for phase in [Phase::Decode, Phase::Prefill] {
                        let rows = ExpertRows {
                            x: &x,
                            choices: &choices,
                            chosen: CHOSEN,
                            phase,
                            factor: 1.5,
                            accumulate: count % 2 == 0,
                        };
                        let mut expected = before.clone();
                        naive(&one, &layer, &experts, &rows, &mut expected);
                        let team = team(isa, threads);
                        let mut buffers = buffers(&team, &experts, 40);
                        // What a step leaves there is nothing to the next.
                        for _ in 0..2 {
                            let mut out = before.clone();
                            let touched =
                                expert_rows(&team, &experts, &rows, &mut buffers, &mut out, None);
                            let what = format!("{isa:?} {:?} {count} rows", KINDS[kind]);
                            assert_eq!(bits(&out), bits(&expected), "{what}");
                            check_touched(touched, &experts, &choices, &what);
                        }
                    }
                }
            }
        }
    }
}

fn check_touched(touched: Touched, experts: &Experts, choices: &[Choice], what: &str) {
    let mut numbers: Vec<u32> = choices.iter().map(|c| c.expert).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let weights = experts.gate.into_iter().chain([experts.up, experts.down]);
    let one: usize = weights.map(|w| w.bytes() / EXPERTS).sum();
    assert_eq!(touched.experts, numbers.len(), "{what}");
    // Biases take bytes, too, and are a small part.
    assert!(touched.bytes <= one * numbers.len(), "{what}");
    assert!(touched.bytes * 2 >= one * numbers.len(), "{what}");
}

/// The formula, in double precision.
#[test]
fn experts_are_what_they_are_defined_to_be() {
    let (hidden, inner) = (21, 45);
    for isa in Isa::available() {
        for on_input in [false, true] {
            let (team, mut rng) = (team(isa, 2), Rng(77));
            let weights = |rng: &mut _, shape| Weights::new(&team, DType::F32, shape, rng);
            let layer = Layer {
                gate: Some(weights(&mut rng, (inner, hidden))),
                up: weights(&mut rng, (inner, hidden)),
                down: weights(&mut rng, (hidden, inner)),
            };
            let experts = layer.experts(Activation::Relu, on_input);
            let (x, choices) = (rng.floats(6 * hidden), choices(6, &mut rng));
            let rows = ExpertRows {
                x: &x,
                choices: &choices,
                chosen: CHOSEN,
                phase: Phase::Decode,
                factor: 0.5,
                accumulate: false,
            };
            let mut out = vec![f32::NAN; 6 * hidden];
            let mut buffers = buffers(&team, &experts, 6);
            expert_rows(&team, &experts, &rows, &mut buffers, &mut out, None);
            for (row, x) in x.chunks(hidden).enumerate() {
                let mut sums = vec![(0.0, 0.0); hidden];
                for c in &choices[row * CHOSEN..][..CHOSEN] {
                    let weight = f64::from(c.weight);
                    let on = if on_input { weight } else { 1.0 };
                    // A product with the sum of its terms' sizes.
                    let product = |w: &Weights, rows: usize, x: &[(f64, f64)]| -> Vec<_> {
                        let e = c.expert as usize;
                        let of = |r: usize| {
                            let bias = f64::from(w.bias[e * rows + r]);
                            let w = &w.values[(e * rows + r) * x.len()..][..x.len()];
                            let terms = w.iter().zip(x);
                            terms.fold((bias, bias.abs()), |(y, size), (&w, x)| {
                                let w = f64::from(w);
                                (y + w * x.0, size + w.abs() * x.1)
                            })
                        };
                        (0..rows).map(of).collect()
                    };
                    let x: Vec<_> = x.iter().map(|&x| f64::from(x) * on).collect();
                    let x: Vec<_> = x.into_iter().map(|x| (x, x.abs())).collect();
                    let gate = product(layer.gate.as_ref().unwrap(), inner, &x);
                    let up = product(&layer.up, inner, &x);
                    let both = gate.iter().zip(&up);
                    let h: Vec<_> = both.map(|(g, u)| (g.0.max(0.0) * u.0, g.1 * u.1)).collect();
                    let y = product(&layer.down, hidden, &h);
                    let factor = 0.5 * if on_input { 1.0 } else { weight };
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum = (sum.0 + factor * y.0, sum.1 + factor.abs() * y.1);
                    }
                }
                for (i, (y, size)) in sums.into_iter().enumerate() {
                    // A rounding for every term of the three sums, and few more, each of a
                    // part of the sum of sizes.
                    let tolerance = (2 * hidden + inner + 20) as f64 * U * size;
                    let what = format_args!("{isa:?} row {row} value {i}");
                    close(out[row * hidden + i], y, tolerance, what);
                }
            }
        }
    }
}

#[test]
fn experts_that_are_not_chosen_do_not_matter() {
    let (team, mut rng) = (team(Isa::best(), 2), Rng(3));
    let mut layer = layer(&team, 2, true, &mut rng);
    // NaN everywhere in the last one.
    let last = EXPERTS - 1;
    let nan = |_: usize, _: usize, to: &mut [u8]| {
        to.fill(0xff);
        Ok::<(), ()>(())
    };
    pack_expert(&team, &mut layer.up.all, last, &nan).unwrap();
    pack_expert(&team, &mut layer.down.all, last, &nan).unwrap();
    let experts = layer.experts(Activation::Silu, false);
    let (x, choices) = (rng.floats(7 * 50), choices(7, &mut rng));
    let rows = ExpertRows {
        x: &x,
        choices: &choices,
        chosen: CHOSEN,
        phase: Phase::Decode,
        factor: 1.0,
        accumulate: false,
    };
    let mut out = vec![f32::NAN; x.len()];
    let times = <[AtomicU64; EXPERT_PARTS]>::default();
    let mut buffers = buffers(&team, &experts, 7);
    expert_rows(&team, &experts, &rows, &mut buffers, &mut out, Some(&times));
    assert!(out.iter().all(|y| y.is_finite()));
    let times = times.map(AtomicU64::into_inner);
    assert!(times.iter().all(|&t| t > 0), "{times:?}");
}

#[test]
fn packing_says_what_went_wrong() {
    let team = team(Isa::best(), 3);
    let mut weights = ExpertMatrix::zeroed(DType::F32, 3, 70, 8, team.isa).unwrap();
    let calls = AtomicUsize::new(0);
    let read = |expert: usize, row: usize, _: &mut [u8]| {
        calls.fetch_add(1, Relaxed);
        match (expert, row) {
            (1, 69) => Err("no such row"),
            _ => Ok(()),
        }
    };
    assert_eq!(pack_expert(&team, &mut weights, 0, &read), Ok(()));
    assert_eq!(calls.load(Relaxed), 70);
    let failed = pack_expert(&team, &mut weights, 1, &read);
    assert_eq!(failed, Err("no such row"));
    assert_eq!(weights.bytes_of_one() * 3, weights.bytes());
    assert!(ExpertMatrix::zeroed(DType::F32, usize::MAX, 70, 8, team.isa).is_none());
}

#[test]
fn what_does_not_fit_is_refused() {
    let (team, mut rng) = (team(Isa::Scalar, 1), Rng(3));
    let layer = layer(&team, 2, true, &mut rng);
    let experts = layer.experts(Activation::Silu, false);
    let x = rng.floats(2 * 50);
    let of = |experts: [u32; 6]| experts.map(|e| Choice::from((e, 1.0)));
    let refused = |choices: &[Choice], chosen: usize, len: usize, most: usize| {
        let rows = ExpertRows {
            x: &x,
            choices,
            chosen,
            phase: Phase::Decode,
            factor: 1.0,
            accumulate: false,
        };
        let mut buffers = buffers(&team, &experts, most);
        let mut out = vec![0.0; len];
        catch_unwind(AssertUnwindSafe(|| {
            expert_rows(&team, &experts, &rows, &mut buffers, &mut out, None)
        }))
        .is_err()
    };
    assert!(!refused(&of([0, 1, 2, 3, 4, 5]), 3, 100, 2));
    assert!(
        refused(&of([0, 1, 2, 3, 4, 9]), 3, 100, 2),
        "no such expert"
    );
    assert!(refused(&of([0, 1, 2, 3, 5, 5]), 3, 100, 2), "twice");
    assert!(refused(&of([0, 1, 2, 3, 4, 5])[..5], 3, 100, 2), "too few");
    assert!(refused(&of([0, 1, 2, 3, 4, 5]), 2, 100, 2), "too many");
    assert!(refused(&of([0, 1, 2, 3, 4, 5]), 3, 99, 2), "short");
    assert!(refused(&of([0, 1, 2, 3, 4, 5]), 3, 100, 1), "no room");
}

#[test]
fn rows_are_routed_one_by_one() {
    let router = Router {
        scores: Scores::Sigmoid,
        experts: 17,
        chosen: 4,
        soft_cap: None,
        groups: None,
        renormalise: Renormalise::Sum { epsilon: 0.0 },
        scale: 2.0,
    };
    let mut rng = Rng(12);
    let correction = rng.floats(17);
    for (rows, threads) in [(0, 1), (1, 1), (5, 2), (300, 3)] {
        let logits = rng.floats(rows * 17);
        let mut choices = vec![Choice::default(); rows * 4];
        let team = team(Isa::best(), threads);
        route_rows(&team, &router, &logits, &correction, &mut choices);
        for (logits, choices) in logits.chunks(17).zip(choices.chunks(4)) {
            let mut expected = [Choice::default(); 4];
            router.route(logits, &correction, &mut expected);
            assert_eq!(choices, expected);
        }
    }
}

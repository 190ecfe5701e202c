//! Operations on rows on every instruction set against double precision, with
//! tolerances from the roundings that each makes.

mod common;

use common::{bits, close, Rng, SIGMOID, U, WIDTHS};
use rustml_kernels::ops::{
    activate, add, gate, gate_heads, norm, rope, scale, scale_add, soft_cap, Activation, Gate,
    NormKind,
};
use rustml_simd::Isa;

/// Calls `$body` for every instruction set and width.
fn everywhere(body: impl Fn(Isa, usize, &mut Rng)) {
    for isa in Isa::available() {
        for n in WIDTHS {
            body(isa, n, &mut Rng(0x5eed + n as u64));
        }
    }
}

const KINDS: [NormKind; 3] = [NormKind::Rms, NormKind::L2, NormKind::Layer];

/// The norm of a row with the tolerance of every value.
fn naive_norm(
    kind: NormKind,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) -> Vec<(f64, f64)> {
    let n = x.len() as f64;
    let mean_of = |f: &dyn Fn(f64) -> f64| x.iter().map(|&v| f(v.into())).sum::<f64>() / n;
    let mean = if kind == NormKind::Layer {
        mean_of(&|v| v)
    } else {
        0.0
    };
    let factor = if kind == NormKind::L2 { n } else { 1.0 };
    let var = mean_of(&|v| (v - mean) * (v - mean)) * factor + f64::from(eps);
    // A sum of n terms makes at most n roundings, each of a part of the sum of
    // magnitudes.
    let mean_off = if kind == NormKind::Layer {
        (n + 1.0) * U * mean_of(&f64::abs)
    } else {
        0.0
    };
    // A wrong mean moves the variance by its square; then n roundings of the
    // sum, two of each term, and a few of quotient, root and inverse.
    let var_off = mean_off * mean_off / var + (n + 6.0) * U;
    (0..x.len())
        .map(|i| {
            let w = weight.get(i).map_or(1.0, |&w| w.into());
            let y = (f64::from(x[i]) - mean) / var.sqrt() * w;
            let b = bias.get(i).map_or(0.0, |&b| b.into());
            let off = (w / var.sqrt()).abs() * mean_off + y.abs() * (var_off / 2.0 + 6.0 * U);
            (y + b, off + (y + b).abs() * U)
        })
        .collect()
}

fn check_norm(isa: Isa, kind: NormKind, x: &[f32], bias: bool, eps: f32) {
    for weight in [false, true] {
        check_weighted_norm(isa, kind, x, weight, bias, eps);
    }
}

fn check_weighted_norm(isa: Isa, kind: NormKind, x: &[f32], weight: bool, bias: bool, eps: f32) {
    let n = x.len();
    let mut rng = Rng(n as u64 + 17);
    let weight = if weight { rng.floats(n) } else { Vec::new() };
    let bias = if bias { rng.floats(n) } else { Vec::new() };
    let mut out = vec![f32::NAN; n];
    norm(isa, kind, x, &weight, &bias, eps, &mut out);
    for (i, (y, tolerance)) in naive_norm(kind, x, &weight, &bias, eps)
        .into_iter()
        .enumerate()
    {
        let what = format_args!("{isa:?} {kind:?} {n} values, eps {eps}, value {i}");
        close(out[i], y, tolerance, what);
    }
}

#[test]
fn norms_match_at_every_width() {
    everywhere(|isa, n, rng| {
        for kind in KINDS {
            for bias in [false, true] {
                check_norm(isa, kind, &rng.floats(n), bias, 1e-5);
                let shifted: Vec<f32> = rng.floats(n).iter().map(|x| x * 0.01 + 3.0).collect();
                check_norm(isa, kind, &shifted, bias, 1e-6);
            }
        }
    });
}

#[test]
fn norms_of_large_small_and_constant_rows_match() {
    everywhere(|isa, n, rng| {
        for kind in KINDS {
            for size in [1e15, 1e-15] {
                let x: Vec<f32> = rng.floats(n).iter().map(|x| x * size).collect();
                check_norm(isa, kind, &x, false, 1e-6);
            }
            check_norm(isa, kind, &vec![0.0; n], true, 1e-6);
            check_norm(isa, kind, &vec![-7.25; n], true, 1e-5);
        }
    });
}

#[test]
fn nan_in_a_row_makes_its_norm_nan() {
    everywhere(|isa, n, rng| {
        for kind in KINDS {
            for odd in [f32::NAN, f32::INFINITY] {
                let mut x = rng.floats(n);
                x[n / 2] = odd;
                let mut out = vec![0.0; n];
                norm(isa, kind, &x, &vec![1.0; n], &[], 1e-6, &mut out);
                // By infinity the others are divided to zero.
                assert!(out[n / 2].is_nan(), "{isa:?} {kind:?} {odd}");
                assert!(
                    out.iter().all(|v| v.is_nan() || odd.is_infinite()),
                    "{isa:?} {kind:?}"
                );
            }
        }
    });
}

#[test]
fn sums_and_factors_are_exact() {
    everywhere(|isa, n, rng| {
        let (x, y) = (rng.floats(n), rng.floats(n));
        let mut sum = x.clone();
        add(isa, &mut sum, &y);
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_eq!(bits(&sum), bits(&expected), "{isa:?} {n}");
        let mut product = x.clone();
        scale(isa, &mut product, -0.3);
        let expected: Vec<f32> = x.iter().map(|x| x * -0.3).collect();
        assert_eq!(bits(&product), bits(&expected), "{isa:?} {n}");
        let mut sum = x.clone();
        scale_add(isa, &mut sum, -0.3, &y);
        for ((x, y), sum) in x.iter().zip(&y).zip(sum) {
            let (x, term) = (f64::from(*x), f64::from(-0.3f32) * f64::from(*y));
            // The product's rounding, if there is one, and the sum's.
            let tolerance = U * (term.abs() + 1.01 * (x + term).abs());
            close(sum, x + term, tolerance, format_args!("{isa:?} {n}"));
        }
    });
}

#[test]
fn capped_values_match() {
    everywhere(|isa, n, rng| {
        for cap in [0.01f32, 1.0, 30.0, 50.0] {
            let mut x: Vec<f32> = rng.floats(n).iter().map(|x| x * 80.0).collect();
            x[0] = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0][n % 4];
            let mut out = x.clone();
            soft_cap(isa, &mut out, cap);
            for (x, y) in x.into_iter().zip(out) {
                let c = f64::from(cap);
                // Two roundings of the argument, where tanh's slope times the
                // argument is at most 0.45; and one of the product.
                let tolerance = c * (SIGMOID + 2.0 * U);
                close(
                    y,
                    c * (f64::from(x) / c).tanh(),
                    tolerance,
                    format_args!("{isa:?} cap {cap} of {x}"),
                );
            }
        }
        let mut x = vec![1.0; n];
        x[n / 2] = f32::NAN;
        soft_cap(isa, &mut x, 30.0);
        assert_eq!(x.iter().filter(|x| x.is_nan()).count(), 1, "{isa:?} {n}");
    });
}

const LIMIT: f32 = 7.0;
const XIELU: [f32; 4] = [0.8, 1.3, 0.5, -1e-6];

const ACTIVATIONS: [Activation; 12] = [
    Activation::Silu,
    Activation::ScaledSilu { factor: 0.7 },
    Activation::GeluTanh,
    Activation::GeluErf,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::SquaredRelu,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Identity,
    Activation::ClampedSwiglu {
        limit: LIMIT,
        alpha: 1.702,
    },
    Activation::Xielu {
        alpha_p: XIELU[0],
        alpha_n: XIELU[1],
        beta: XIELU[2],
        eps: XIELU[3],
    },
];

/// `x sigmoid(alpha x)` with its tolerance: that of the sigmoid, whose argument is rounded,
/// and the product's.
fn swish(x: f64, alpha: f64) -> (f64, f64) {
    let y = x / (1.0 + (-alpha * x).exp());
    // The argument's error moves the sigmoid by its slope: of y at most that part.
    let argument = (alpha * x).abs().min(88.0) * 2.0 * U;
    // Below -87.3 the sigmoid stays at 1.2e-38.
    (y, y.abs() * (SIGMOID + U + argument) + x.abs() * 1.3e-38)
}

/// The error function by its series, in double precision as far as it is steep.
fn erf(x: f64) -> f64 {
    let (mut sum, mut power) = (0.0, x);
    if x.abs() > 5.0 {
        return x.signum(); // 1.5e-12 off
    }
    for k in 0..200 {
        sum += power / f64::from(2 * k + 1);
        power *= -x * x / f64::from(k + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// The function of a gate and what it is multiplied with, and the tolerance of its value.
fn naive_activation(f: Activation, x: f32, up: Option<f32>) -> (f64, f64) {
    let (x, u) = (f64::from(x), up.map(f64::from));
    let (y, tolerance) = match f {
        Activation::Silu => swish(x, 1.0),
        Activation::ScaledSilu { factor } => {
            let y = f64::from(factor) * x;
            let (value, tolerance) = swish(y, 1.0);
            // The argument is rounded.
            (value, tolerance + 2.0 * U * y.abs())
        }
        Activation::QuickGelu => swish(x, 1.702f32.into()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            (0.5 * x * (1.0 + inner.tanh()), x.abs() * SIGMOID)
        }
        Activation::GeluErf => {
            let y = 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
            (y, x.abs() * 3e-7)
        }
        Activation::Relu => (x.max(0.0), 0.0),
        Activation::SquaredRelu => {
            let y = x.max(0.0) * x.max(0.0);
            (y, y * U)
        }
        Activation::Sigmoid => {
            let y = 1.0 / (1.0 + (-x).exp());
            (y, y * SIGMOID + 1.3e-38)
        }
        Activation::Tanh => (x.tanh(), SIGMOID),
        Activation::Identity => (x, 0.0),
        Activation::ClampedSwiglu { limit, alpha } => {
            let limit = f64::from(limit);
            let (y, tolerance) = swish(x.min(limit), alpha.into());
            let u = u.unwrap_or(0.0).clamp(-limit, limit) + 1.0;
            // The sum's rounding, and the product's.
            let y = y * u;
            return (y, tolerance * u.abs() + y.abs() * 2.0 * U);
        }
        Activation::Xielu {
            alpha_p,
            alpha_n,
            beta,
            eps,
        } => {
            let [p, n, beta, eps] = [alpha_p, alpha_n, beta, eps].map(f64::from);
            let bend = match x > 0.0 {
                true => p * x * x,
                false => n * (x.min(eps).exp_m1() - x),
            };
            let parts = match x > 0.0 {
                true => bend,
                false => n * (x.min(eps).exp_m1().abs() + x.abs()),
            };
            // Of each part at most 4 roundings, and of the exponential the error of its own.
            let parts = parts + (beta * x).abs();
            (bend + beta * x, parts * (4.0 * U + 2e-7))
        }
    };
    let Some(u) = u else {
        return (y, tolerance);
    };
    (y * u, tolerance * u.abs() + (y * u).abs() * U)
}

#[test]
fn activations_match_with_and_without_a_factor() {
    everywhere(|isa, n, rng| {
        for f in ACTIVATIONS {
            for size in [1e-4, 1.0, 12.0, 100.0] {
                let x: Vec<f32> = rng.floats(n).iter().map(|x| x * size).collect();
                // Some beyond the limit of both sides.
                let up: Vec<f32> = rng.floats(n).iter().map(|u| u * 2.0 * LIMIT).collect();
                let (mut plain, mut gated) = (x.clone(), x.clone());
                activate(isa, f, &mut plain, &[]);
                activate(isa, f, &mut gated, &up);
                for i in 0..n {
                    let what = format_args!("{isa:?} {f:?} of {} and {}", x[i], up[i]);
                    let (y, tolerance) = naive_activation(f, x[i], None);
                    close(plain[i], y, tolerance, what);
                    let (y, tolerance) = naive_activation(f, x[i], Some(up[i]));
                    close(gated[i], y, tolerance, what);
                }
            }
        }
    });
}

/// Zero belongs to the lower side, where the exponent is never quite zero.
#[test]
fn xielu_bends_at_zero() {
    everywhere(|isa, n, _| {
        let [alpha_p, alpha_n, beta, eps] = [2.0, 3.0, 0.25, -0.5];
        let f = Activation::Xielu {
            alpha_p,
            alpha_n,
            beta,
            eps,
        };
        let cases = [
            (0.0, 3.0 * (-0.5f64).exp_m1()),
            (-0.25, 3.0 * ((-0.5f64).exp_m1() + 0.25) - 0.0625),
            (1e-30, 0.25e-30),
            (1.0, 2.25),
        ];
        for (x, y) in cases {
            let mut x = vec![x; n];
            activate(isa, f, &mut x, &[]);
            let tolerance = f64::abs(y) * (4.0 * U + 2e-7);
            x.iter()
                .for_each(|x| close(*x, y, tolerance, format_args!("{isa:?} {n}")));
        }
    });
}

#[test]
fn gates_let_through_by_value_and_by_head() {
    /// Of softplus, as `rustml_simd` promises.
    const SOFTPLUS: f64 = 5e-7;
    everywhere(|isa, n, rng| {
        for kind in [Gate::Sigmoid, Gate::Softplus, Gate::Silu, Gate::Plain] {
            let check = |y: f32, x: f32, g: f32| {
                let (x, g) = (f64::from(x), f64::from(g));
                let (factor, relative) = match kind {
                    Gate::Sigmoid => (1.0 / (1.0 + (-g).exp()), SIGMOID),
                    Gate::Softplus => (g.max(0.0) + (-g.abs()).exp().ln_1p(), SOFTPLUS),
                    Gate::Silu => (g / (1.0 + (-g).exp()), SIGMOID + U),
                    Gate::Plain => (g, 0.0),
                };
                let tolerance = (x * factor).abs() * (relative + 2.0 * U);
                close(
                    y,
                    x * factor,
                    tolerance,
                    format_args!("{isa:?} {kind:?} {g}"),
                );
            };
            let x = rng.floats(n);
            let g: Vec<f32> = rng.floats(n).iter().map(|g| g * 30.0).collect();
            let mut y = x.clone();
            gate(isa, kind, &mut y, &g);
            (0..n).for_each(|i| check(y[i], x[i], g[i]));
            for heads in [1, 3] {
                let x = rng.floats(heads * n);
                let g = rng.floats(heads);
                let mut y = x.clone();
                gate_heads(isa, kind, &mut y, &g);
                (0..heads * n).for_each(|i| check(y[i], x[i], g[i / n]));
            }
        }
    });
}

#[test]
fn activations_do_not_hide_nan() {
    everywhere(|isa, n, _| {
        for f in ACTIVATIONS {
            let mut x = vec![0.5; n];
            x[n - 1] = f32::NAN;
            activate(isa, f, &mut x, &vec![2.0; n]);
            let nan: Vec<bool> = x.iter().map(|x| x.is_nan()).collect();
            assert!(
                nan[n - 1] && !nan[..n - 1].contains(&true),
                "{isa:?} {f:?} {n}"
            );
        }
    });
}

#[test]
fn rotations_match_and_leave_the_rest_alone() {
    everywhere(|isa, pairs, rng| {
        for rest in [0, 1, 10] {
            let (heads, hd) = (3, 2 * pairs + rest);
            let x = rng.floats(heads * hd);
            let angles: Vec<f32> = rng.floats(pairs).iter().map(|a| a * 4.0).collect();
            let (sin, cos): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| a.sin_cos()).unzip();
            let mut out = x.clone();
            rope(isa, &mut out, hd, &cos, &sin);
            for (x, out) in x.chunks(hd).zip(out.chunks(hd)) {
                for i in 0..pairs {
                    let (a, b) = (f64::from(x[i]), f64::from(x[i + pairs]));
                    let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                    // Two products and their sum.
                    let tolerance = |p: f64, q: f64| 2.0 * U * (p.abs() + q.abs());
                    let what = format_args!("{isa:?} pair {i} of {pairs}");
                    close(out[i], a * c - b * s, tolerance(a * c, b * s), what);
                    close(out[i + pairs], b * c + a * s, tolerance(b * c, a * s), what);
                }
                assert_eq!(bits(&out[2 * pairs..]), bits(&x[2 * pairs..]), "{isa:?}");
            }
        }
    });
}

#[test]
fn empty_rows_are_no_work() {
    for isa in Isa::available() {
        norm(isa, NormKind::Rms, &[], &[], &[], 1e-6, &mut []);
        add(isa, &mut [], &[]);
        scale(isa, &mut [], 2.0);
        soft_cap(isa, &mut [], 2.0);
        activate(isa, Activation::Silu, &mut [], &[]);
        rope(isa, &mut [], 8, &[1.0], &[0.0]);
        scale_add(isa, &mut [], 2.0, &[]);
        gate(isa, Gate::Sigmoid, &mut [], &[]);
        gate_heads(isa, Gate::Sigmoid, &mut [], &[]);
    }
}

#[test]
#[should_panic(expected = "weight.len()")]
fn a_norm_refuses_another_length() {
    norm(
        Isa::Scalar,
        NormKind::Rms,
        &[1.0; 4],
        &[1.0; 3],
        &[],
        1e-6,
        &mut [0.0; 4],
    );
}

#[test]
#[should_panic(expected = "up.is_empty()")]
fn an_activation_refuses_another_length() {
    activate(Isa::Scalar, Activation::Silu, &mut [1.0; 4], &[1.0; 3]);
}

#[test]
#[should_panic(expected = "cos.len()")]
fn a_rotation_refuses_more_pairs_than_there_are() {
    rope(Isa::Scalar, &mut [1.0; 8], 4, &[1.0; 3], &[0.0; 3]);
}

#[test]
#[should_panic(expected = "heads")]
fn a_gate_refuses_heads_of_other_sizes() {
    gate_heads(Isa::Scalar, Gate::Softplus, &mut [1.0; 8], &[1.0; 3]);
}

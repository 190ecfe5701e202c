//! Operations on rows on every instruction set against double precision, with
//! tolerances from the roundings that each makes.

mod common;

use common::{bits, close, Rng, SIGMOID, U, WIDTHS};
use rustml_kernels::ops::{activate, add, norm, rope, scale, soft_cap, Activation, NormKind};
use rustml_simd::Isa;

/// Calls `$body` for every instruction set and width.
fn everywhere(body: impl Fn(Isa, usize, &mut Rng)) {
    for isa in Isa::available() {
        for n in WIDTHS {
            body(isa, n, &mut Rng(0x5eed + n as u64));
        }
    }
}

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
    let var = mean_of(&|v| (v - mean) * (v - mean)) + f64::from(eps);
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
            let w = f64::from(weight[i]);
            let y = (f64::from(x[i]) - mean) / var.sqrt() * w;
            let b = bias.get(i).map_or(0.0, |&b| b.into());
            let off = (w / var.sqrt()).abs() * mean_off + y.abs() * (var_off / 2.0 + 6.0 * U);
            (y + b, off + (y + b).abs() * U)
        })
        .collect()
}

fn check_norm(isa: Isa, kind: NormKind, x: &[f32], bias: bool, eps: f32) {
    let n = x.len();
    let mut rng = Rng(n as u64 + 17);
    let weight = rng.floats(n);
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
        for kind in [NormKind::Rms, NormKind::Layer] {
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
        for kind in [NormKind::Rms, NormKind::Layer] {
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
        for kind in [NormKind::Rms, NormKind::Layer] {
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

/// The function with the tolerance of its value.
fn naive_activation(f: Activation, x: f32) -> (f64, f64) {
    let x = f64::from(x);
    match f {
        Activation::Silu => {
            let y = x / (1.0 + (-x).exp());
            // Below -87.3 the sigmoid stays at 1.2e-38.
            (y, y.abs() * (SIGMOID + U) + x.abs() * 1.3e-38)
        }
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            (0.5 * x * (1.0 + inner.tanh()), x.abs() * SIGMOID)
        }
        Activation::Relu => (x.max(0.0), 0.0),
    }
}

#[test]
fn activations_match_with_and_without_a_factor() {
    everywhere(|isa, n, rng| {
        for f in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
            for size in [1.0, 12.0, 100.0] {
                let x: Vec<f32> = rng.floats(n).iter().map(|x| x * size).collect();
                let up = rng.floats(n);
                let (mut plain, mut gated) = (x.clone(), x.clone());
                activate(isa, f, &mut plain, &[]);
                activate(isa, f, &mut gated, &up);
                for i in 0..n {
                    let (y, tolerance) = naive_activation(f, x[i]);
                    let what = format_args!("{isa:?} {f:?} of {}", x[i]);
                    close(plain[i], y, tolerance, what);
                    let u = f64::from(up[i]);
                    let tolerance = tolerance * u.abs() + (y * u).abs() * U;
                    close(gated[i], y * u, tolerance, what);
                }
            }
        }
    });
}

#[test]
fn activations_do_not_hide_nan() {
    everywhere(|isa, n, _| {
        for f in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
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
    }
}

#[test]
#[should_panic(expected = "x.len() == weight.len()")]
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

//! Elementary functions against double precision, over all their range.

mod common;

use common::kernel;
use rustml_simd::{erf, exp, exp_m1, gelu_erf, gelu_tanh, sigmoid, softplus, tanh, Isa};

#[derive(Clone, Copy, Debug)]
enum Function {
    Exp,
    Sigmoid,
    Tanh,
    Gelu,
    ExpM1,
    Erf,
    GeluErf,
    Softplus,
}

kernel!(
    fn apply<S>(s, f: Function, x: &'a [f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len()];
        for i in (0..x.len()).step_by(S::LANES) {
            // SAFETY: the length is a multiple of the widest vector's.
            unsafe {
                let v = s.load(x[i..].as_ptr());
                let y = match f {
                    Function::Exp => exp(s, v),
                    Function::Sigmoid => sigmoid(s, v),
                    Function::Tanh => tanh(s, v),
                    Function::Gelu => gelu_tanh(s, v),
                    Function::ExpM1 => exp_m1(s, v),
                    Function::Erf => erf(s, v),
                    Function::GeluErf => gelu_erf(s, v),
                    Function::Softplus => softplus(s, v),
                };
                s.store(out[i..].as_mut_ptr(), y);
            }
        }
        out
    }
);

/// Floats of either sign from the smallest to `limit`, evenly in their bits,
/// so that every power of two is met equally often.
fn range(limit: f32) -> Vec<f32> {
    let bits = (0..=limit.to_bits()).step_by(4093);
    let mut x: Vec<f32> = bits.map(f32::from_bits).flat_map(|x| [x, -x]).collect();
    // Where functions bend, evenly in their value.
    let dense = (-1 << 17..1 << 17).map(|i| i as f32 * (20.0 / (1 << 17) as f32));
    x.extend(dense.filter(|x| x.abs() <= limit));
    x.extend([limit, -limit]);
    x.resize(x.len().next_multiple_of(16), 0.5);
    x
}

/// Largest value of `error(x, f(x))`, and where.
fn worst(isa: Isa, f: Function, limit: f32, error: impl Fn(f64, f64) -> f64) -> (f64, f32) {
    let x = range(limit);
    let y = apply(isa, f, &x);
    let all = x
        .iter()
        .zip(y)
        .map(|(&x, y)| (error(x.into(), y.into()), x));
    all.fold(
        (0.0, 0.0),
        |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a },
    )
}

fn check(f: Function, limit: f32, bound: f64, error: impl Fn(f64, f64) -> f64) {
    for isa in Isa::available() {
        let (found, at) = worst(isa, f, limit, &error);
        println!("{f:?} {isa:?}: {found:.3e} at {at:e}");
        assert!(found < bound, "{f:?} {isa:?}: error {found:e} at {at:e}");
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// The ends of what `exp` computes.
const LOWEST: f32 = -87.3;
const HIGHEST: f32 = 88.37;

#[test]
fn exp_is_as_close_as_claimed() {
    check(Function::Exp, HIGHEST, 1e-7, |x, y| {
        (y / x.max(LOWEST.into()).exp() - 1.0).abs()
    });
}

#[test]
fn exp_stays_at_its_ends() {
    for isa in Isa::available() {
        let huge = [LOWEST, -88.0, -1e30, f32::NEG_INFINITY].repeat(4);
        let low = apply(isa, Function::Exp, &huge);
        assert!(
            low.iter().all(|&y| y == low[0] && y.is_normal()),
            "{isa:?} {low:?}"
        );
        let huge = [HIGHEST, 89.0, 1e30, f32::INFINITY].repeat(4);
        let high = apply(isa, Function::Exp, &huge);
        assert!(
            high.iter().all(|&y| y == high[0] && y.is_finite()),
            "{isa:?} {high:?}"
        );
    }
}

#[test]
fn sigmoid_is_as_close_as_claimed() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    check(Function::Sigmoid, -LOWEST, 2e-7, |x, y| {
        (y / sigmoid(x) - 1.0).abs()
    });
    check(Function::Sigmoid, f32::MAX, 2e-7, |x, y| {
        (y - sigmoid(x)).abs()
    });
}

#[test]
fn tanh_is_as_close_as_claimed() {
    check(Function::Tanh, f32::MAX, 2e-7, |x, y| (y - x.tanh()).abs());
}

#[test]
fn gelu_is_as_close_as_claimed() {
    check(Function::Gelu, f32::MAX, 2e-7, |x, y| {
        (y - gelu(x)).abs() / x.abs().max(1e-30)
    });
}

#[test]
fn exp_less_one_is_as_close_as_claimed() {
    check(Function::ExpM1, HIGHEST, 2e-7, |x, y| match x {
        0.0 => y.abs(),
        x => (y / x.max(LOWEST.into()).exp_m1() - 1.0).abs(),
    });
}

/// In double precision: `2 x / sqrt(pi) * sum of (-1)^k x^2k / (k! (2k + 1))` up to 3, and
/// beyond 1 less the continued fraction of what is missing (Abramowitz and Stegun, 7.1.5
/// and 7.1.14).
fn exact_erf(x: f64) -> f64 {
    let size = x.abs();
    let y = if size < 3.0 {
        let (mut sum, mut power) = (0.0, size);
        for k in 0..100 {
            sum += power / f64::from(2 * k + 1);
            power *= -size * size / f64::from(k + 1);
            if power.abs() < 1e-18 * size {
                break;
            }
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else if size > 6.0 {
        1.0 // 2e-17 off
    } else {
        let fraction = (1..40)
            .rev()
            .fold(size, |f, k| size + f64::from(k) / 2.0 / f);
        1.0 - (-size * size).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    y.copysign(x)
}

#[test]
fn the_error_function_is_as_close_as_claimed() {
    // From tables, of more digits than there are.
    for (x, y) in [
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (2.5, 0.999_593_047_982_555),
        (3.5, 0.999_999_256_901_627_7),
    ] {
        assert!((exact_erf(x) - y).abs() < 1e-13, "{x}: {}", exact_erf(x));
    }
    check(Function::Erf, f32::MAX, 4e-7, |x, y| {
        // Of subnormal numbers there is nothing relative.
        let off = (y - exact_erf(x)).abs() / exact_erf(x).abs().max(1e-30);
        off.max(y.abs() - 1.0)
    });
    check(Function::GeluErf, f32::MAX, 3e-7, |x, y| {
        let exact = 0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt()));
        (y - exact).abs() / x.abs().max(1e-30)
    });
}

#[test]
fn softplus_is_as_close_as_claimed() {
    check(Function::Softplus, -LOWEST, 5e-7, |x, y| {
        (y / x.exp().ln_1p() - 1.0).abs()
    });
    check(Function::Softplus, f32::MAX, 5e-7, |x, y| {
        (y - x.max(0.0) - (-x.abs()).exp().ln_1p()).abs() / x.abs().max(1.0)
    });
}

#[test]
fn no_function_hides_nan() {
    use Function::*;
    for isa in Isa::available() {
        for f in [Exp, Sigmoid, Tanh, Gelu, ExpM1, Erf, GeluErf, Softplus] {
            for lane in 0..16 {
                let mut x = [0.25; 16];
                x[lane] = f32::NAN;
                let y = apply(isa, f, &x);
                for (i, y) in y.into_iter().enumerate() {
                    assert_eq!(y.is_nan(), i == lane, "{isa:?} {f:?}: {y}");
                }
            }
        }
    }
}

//! Elementary functions against double precision, over all their range.

mod common;

use common::kernel;
use rustml_simd::{exp, gelu_tanh, sigmoid, tanh, Isa};

#[derive(Clone, Copy, Debug)]
enum Function {
    Exp,
    Sigmoid,
    Tanh,
    Gelu,
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
fn no_function_hides_nan() {
    use Function::*;
    for isa in Isa::available() {
        for f in [Exp, Sigmoid, Tanh, Gelu] {
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

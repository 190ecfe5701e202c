//! Elementary functions from vector operations.
//!
//! The bounds hold on every instruction set; the tests measure them.

use crate::Simd;

/// `e^x`, relative error below 1e-7 for x from -87.3 to 88.37.
///
/// Beyond that it is `e^-87.3` (about 1.2e-38, the smallest normal number) and
/// `e^88.37` (2.4e38): never 0 and never infinite. NaN gives NaN.
///
/// Range reduction by powers of two and a polynomial of degree 6 (Cephes
/// `expf`).
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The argument comes second, where NaN is kept.
    let clamped = s.min(s.splat(88.37), s.max(s.splat(-87.3), x));
    let n = s.round_i32(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let nf = s.to_f32(n);
    // ln 2 in two parts, so that the product with n loses nothing.
    let r = s.fma(nf, s.splat(-0.693_359_4), clamped);
    let r = s.fma(nf, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    p = s.fma(p, r, s.splat(1.398_199_9e-3));
    p = s.fma(p, r, s.splat(8.333_452e-3));
    p = s.fma(p, r, s.splat(4.166_579_6e-2));
    p = s.fma(p, r, s.splat(1.666_666_5e-1));
    p = s.fma(p, r, s.splat(0.5));
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    let scale = s.bits_to_f32(s.shl::<23>(s.add_i32(n, s.splat_i32(127))));
    s.mul(y, scale)
}

/// `1 / (1 + e^-x)`, relative error below 2e-7 for x above -87.3; below, the
/// result stays about 1e-38. NaN gives NaN.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// Hyperbolic tangent, absolute error below 2e-7. NaN gives NaN.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // tanh x = 1 - 2 / (e^2x + 1); exp is clamped, so large |x| give +-1.
    let e = exp(s, s.add(x, x));
    s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))))
}

/// The Gaussian error linear unit in its tanh form (Hendrycks and Gimpel,
/// "Gaussian Error Linear Units"): `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`,
/// absolute error below `2e-7 |x|`. NaN gives NaN.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let x3 = s.mul(s.mul(x, x), x);
    let inner = s.fma(x3, s.splat(0.044_715), x);
    // x/2 (1 + tanh u) = x sigmoid(2 u)
    let u2 = s.mul(inner, s.splat(2.0 * 0.797_884_6));
    s.mul(x, sigmoid(s, u2))
}

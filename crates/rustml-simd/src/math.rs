//! Elementary functions from vector operations.

use crate::Simd;

/// `e^x`, relative error below 2e-7 in the range of normal results.
///
/// Arguments below -87.3 give about 1e-38 and less than that 0; above 88.7
/// the result is clamped to the largest finite power.
/// Range reduction by powers of two and a polynomial of degree 6 (Cephes
/// `expf`).
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let clamped = s.min(s.max(x, s.splat(-87.3)), s.splat(88.37));
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

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// Hyperbolic tangent, absolute error below 3e-7.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // tanh x = 1 - 2 / (e^2x + 1); exp is clamped, so large |x| give +-1.
    let e = exp(s, s.add(x, x));
    s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))))
}

/// The Gaussian error linear unit in its tanh form (Hendrycks and Gimpel,
/// "Gaussian Error Linear Units"): `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let x3 = s.mul(s.mul(x, x), x);
    let inner = s.fma(x3, s.splat(0.044_715), x);
    // x/2 (1 + tanh u) = x sigmoid(2 u)
    let u2 = s.mul(inner, s.splat(2.0 * 0.797_884_56));
    s.mul(x, sigmoid(s, u2))
}

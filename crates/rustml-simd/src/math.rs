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
    let (more, scale) = exp_parts(s, x);
    s.mul(s.add(more, s.splat(1.0)), scale)
}

/// `e^x - 1`, relative error below 2e-7 for x up to 88.37; beyond as [`exp`]. NaN gives
/// NaN.
#[inline(always)]
pub fn exp_m1<S: Simd>(s: S, x: S::F) -> S::F {
    let (more, scale) = exp_parts(s, x);
    // The difference is exact where it matters.
    s.fma(more, scale, s.sub(scale, s.splat(1.0)))
}

/// `e^x` as `(1 + more) * scale`, where `scale` is a power of two.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
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
    let scale = s.bits_to_f32(s.shl::<23>(s.add_i32(n, s.splat_i32(127))));
    (s.fma(p, s.mul(r, r), r), scale)
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

/// The polynomial with these coefficients, that of the highest power first.
#[inline(always)]
fn polynomial<S: Simd>(s: S, x: S::F, coefficients: &[f32]) -> S::F {
    let (first, rest) = coefficients.split_first().expect("coefficients");
    let mut y = s.splat(*first);
    for c in rest {
        y = s.fma(y, x, s.splat(*c));
    }
    y
}

/// The error function, relative error below 4e-7, at most 1 in size. NaN gives NaN.
///
/// A rational function of `x^2` times `x` up to where single precision cannot tell it
/// from 1 (the coefficients are those of XLA's `Erf32`).
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    const END: f32 = 3.832_507;
    const ABOVE: [f32; 5] = [
        2.290_506_6e-4,
        3.408_291_1e-3,
        5.095_569_4e-2,
        0.185_208_32,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const BELOW: [f32; 7] = [
        -1.179_160_3e-7,
        2.354_796_7e-5,
        1.017_962_5e-3,
        1.407_047e-2,
        0.110_985_05,
        0.497_469_25,
        1.0,
    ];
    let x = s.min(s.splat(END), s.max(s.splat(-END), x));
    let square = s.mul(x, x);
    let above = s.mul(x, polynomial(s, square, &ABOVE));
    let y = s.div(above, polynomial(s, square, &BELOW));
    s.min(s.splat(1.0), s.max(s.splat(-1.0), y))
}

/// The Gaussian error linear unit itself: `x/2 (1 + erf(x / sqrt 2))`, absolute error
/// below `3e-7 |x|`. NaN gives NaN.
#[inline(always)]
pub fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    let part = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    s.mul(s.mul(x, s.splat(0.5)), s.add(part, s.splat(1.0)))
}

/// `ln(1 + e^x)`, relative error below 5e-7 for x above -87.3; below, the result stays
/// about 1e-38. NaN gives NaN.
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    // Of the logarithm's argument, 1 + u, u is at most 1; then ln(1 + u) is
    // 2 artanh(u / (2 + u)), a series of which 9 terms will do.
    const SERIES: [f32; 9] = [
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
        1.0,
    ];
    let u = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let t = s.div(u, s.add(u, s.splat(2.0)));
    let log = s.mul(s.add(t, t), polynomial(s, s.mul(t, t), &SERIES));
    s.add(s.max(s.splat(0.0), x), log)
}

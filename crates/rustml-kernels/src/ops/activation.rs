//! The non-linearities of feed-forwards.

use super::each;
use rustml_simd::{exp_m1, gelu_erf, gelu_tanh, sigmoid, tanh, with_isa, Isa, Kernel, Simd};

/// The non-linearity of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// [`rustml_simd::gelu_tanh`].
    GeluTanh,
    /// [`rustml_simd::gelu_erf`].
    GeluErf,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    SquaredRelu,
    /// `sigmoid(x)`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `x`.
    Identity,
    /// `y sigmoid(y)` of `y = factor x`.
    ScaledSilu {
        /// Factor of the argument.
        factor: f32,
    },
    /// `g sigmoid(alpha g) (u + 1)`, where `g` is the gate, at most `limit`, and `u` is
    /// what it is multiplied with, `limit` in size at most. Without that it is zero.
    ClampedSwiglu {
        /// The largest of both.
        limit: f32,
        /// Factor of the sigmoid's argument.
        alpha: f32,
    },
    /// `alpha_p x^2 + beta x` above zero, `alpha_n (e^min(x, eps) - 1 - x) + beta x`
    /// elsewhere (Huang and Schlag, "Deriving Activation Functions Using Integration").
    Xielu {
        /// Factor of the square: softplus of what is learned.
        alpha_p: f32,
        /// Factor of the exponential: `beta` and the softplus of what is learned.
        alpha_n: f32,
        /// Slope at zero.
        beta: f32,
        /// What the exponent is at most, a small negative number.
        eps: f32,
    },
}

/// `x sigmoid(alpha x)`
#[inline(always)]
fn swish<S: Simd>(s: S, x: S::F, alpha: f32) -> S::F {
    s.mul(x, sigmoid(s, s.mul(x, s.splat(alpha))))
}

/// [`Activation::ClampedSwiglu`]
#[inline(always)]
fn clamped_swiglu<S: Simd>(s: S, gate: &mut [f32], up: &[f32], limit: f32, alpha: f32) {
    let (g, n) = (gate.as_mut_ptr(), gate.len());
    let (low, high) = (s.splat(-limit), s.splat(limit));
    // SAFETY: both have `n` values, as `activate` asserts.
    unsafe {
        if up.is_empty() {
            each!(s, [g], g, n, |[g]| swish(s, s.min(high, g), alpha));
        } else {
            each!(s, [g, up.as_ptr()], g, n, |[g, u]| {
                let u = s.min(high, s.max(low, u));
                s.mul(swish(s, s.min(high, g), alpha), s.add(u, s.splat(1.0)))
            });
        }
    }
}

/// `gate = f(gate) * up`, or `gate = f(gate)` where `up` is empty.
/// [`Activation::ClampedSwiglu`] says itself what it does with both.
///
/// # Panics
/// If the lengths differ.
pub fn activate(isa: Isa, f: Activation, gate: &mut [f32], up: &[f32]) {
    struct Act<'a>(Activation, &'a mut [f32], &'a [f32]);
    #[inline(always)]
    fn with<S: Simd>(s: S, gate: &mut [f32], up: &[f32], f: impl Fn(S::F) -> S::F) {
        let (g, n) = (gate.as_mut_ptr(), gate.len());
        // SAFETY: both have `n` values, as asserted below.
        unsafe {
            if up.is_empty() {
                each!(s, [g], g, n, |[g]| f(g));
            } else {
                each!(s, [g, up.as_ptr()], g, n, |[g, u]| s.mul(f(g), u));
            }
        }
    }
    macro_rules! with {
        ($s:expr, $act:expr, |$x:ident| $f:expr) => {
            with(
                $s,
                $act.1,
                $act.2,
                #[inline(always)]
                |$x| $f,
            )
        };
    }
    impl Kernel for Act<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let zero = s.splat(0.0);
            match self.0 {
                Activation::Silu => with!(s, self, |x| swish(s, x, 1.0)),
                Activation::ScaledSilu { factor } => {
                    with!(s, self, |x| swish(s, s.mul(x, s.splat(factor)), 1.0))
                }
                Activation::GeluTanh => with!(s, self, |x| gelu_tanh(s, x)),
                Activation::GeluErf => with!(s, self, |x| gelu_erf(s, x)),
                Activation::QuickGelu => with!(s, self, |x| swish(s, x, 1.702)),
                // The argument comes second, where NaN is kept.
                Activation::Relu => with!(s, self, |x| s.max(zero, x)),
                Activation::SquaredRelu => with!(s, self, |x| {
                    let x = s.max(zero, x);
                    s.mul(x, x)
                }),
                Activation::Sigmoid => with!(s, self, |x| sigmoid(s, x)),
                Activation::Tanh => with!(s, self, |x| tanh(s, x)),
                Activation::Identity => with!(s, self, |x| x),
                Activation::ClampedSwiglu { limit, alpha } => {
                    clamped_swiglu(s, self.1, self.2, limit, alpha)
                }
                Activation::Xielu {
                    alpha_p,
                    alpha_n,
                    beta,
                    eps,
                } => with!(s, self, |x| {
                    let one = s.splat(1.0);
                    let (above, below) = (s.max(zero, x), s.min(zero, x));
                    let bend = s.sub(exp_m1(s, s.min(s.splat(eps), below)), below);
                    // 0 above zero, where the bend would be nearly that, and else 1.
                    let bends = s.min(one, s.max(zero, s.mul(x, s.splat(f32::MAX))));
                    let bends = s.mul(s.sub(one, bends), s.splat(alpha_n));
                    let square = s.mul(s.mul(above, above), s.splat(alpha_p));
                    s.fma(s.splat(beta), x, s.fma(bends, bend, square))
                }),
            }
        }
    }
    assert!(up.is_empty() || up.len() == gate.len());
    with_isa(isa, Act(f, gate, up))
}

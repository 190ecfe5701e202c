//! Factors that a layer computes for what it lets through.

use super::each;
use rustml_simd::{sigmoid, softplus, with_isa, Isa, Kernel, Simd};

/// What is made of a gate's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `1 / (1 + e^-g)`
    Sigmoid,
    /// `ln(1 + e^g)`
    Softplus,
    /// `g / (1 + e^-g)`
    Silu,
    /// `g` itself.
    Plain,
}

impl Gate {
    /// The factor.
    #[inline(always)]
    fn of<S: Simd>(self, s: S, g: S::F) -> S::F {
        match self {
            Gate::Sigmoid => sigmoid(s, g),
            Gate::Softplus => softplus(s, g),
            Gate::Silu => s.mul(g, sigmoid(s, g)),
            Gate::Plain => g,
        }
    }
}

/// `x *= gate(g)`
///
/// # Panics
/// If the lengths differ.
pub fn gate(isa: Isa, gate: Gate, x: &mut [f32], g: &[f32]) {
    struct Each<'a>(Gate, &'a mut [f32], &'a [f32]);
    impl Kernel for Each<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Each(gate, x, g) = self;
            let (x, g, n) = (x.as_mut_ptr(), g.as_ptr(), x.len());
            // SAFETY: both have `n` values, as asserted below.
            unsafe { each!(s, [x, g], x, n, |[x, g]| s.mul(x, gate.of(s, g))) };
        }
    }
    assert_eq!(x.len(), g.len());
    with_isa(isa, Each(gate, x, g))
}

/// Multiplies all values of head `h` of `x` by `gate(g[h])`.
///
/// # Panics
/// If `x` is not as many heads of one size as `g` has values.
pub fn gate_heads(isa: Isa, gate: Gate, x: &mut [f32], g: &[f32]) {
    struct Heads<'a>(Gate, &'a mut [f32], &'a [f32]);
    impl Kernel for Heads<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Heads(gate, x, g) = self;
            let n = x.len() / g.len().max(1);
            for (h, g) in g.iter().enumerate() {
                let factor = gate.of(s, s.splat(*g));
                let x = x[h * n..][..n].as_mut_ptr();
                // SAFETY: a slice of `n` values.
                unsafe { each!(s, [x], x, n, |[x]| s.mul(x, factor)) };
            }
        }
    }
    assert!(match g.len() {
        0 => x.is_empty(),
        heads => x.len().is_multiple_of(heads),
    });
    with_isa(isa, Heads(gate, x, g))
}

//! Operations on single rows: norms, activation functions, rotary positions.
//!
//! Each function takes the instruction set it runs on and computes one row;
//! which thread computes which row is the caller's business.

use rustml_simd::{tanh, with_isa, Isa, Kernel, Simd};

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, "Root Mean
    /// Square Layer Normalization").
    Rms,
    /// `x / sqrt(sum(x^2) + eps) * weight`.
    L2,
    /// `(x - mean) / sqrt(variance + eps) * weight + bias` (Ba et al., "Layer
    /// Normalization").
    Layer,
}

// Closures that hold vector operations are `#[inline(always)]`, as everything
// that takes vectors must be; left to itself the compiler calls them, and each
// operation in them, one by one. The macros see to that.

/// [`fold()`] with closures that are inlined.
macro_rules! fold {
    ($s:expr, $x:expr, |$v:ident, $a:ident| $sum:expr, |$t:ident| $tail:expr) => {
        fold(
            $s,
            $x,
            #[inline(always)]
            |$v, $a| $sum,
            #[inline(always)]
            |$t| $tail,
        )
    };
}

/// [`each()`] with a closure that is inlined.
macro_rules! each {
    ($s:expr, $inputs:expr, $out:expr, $len:expr, |$v:pat_param| $value:expr) => {
        each(
            $s,
            $inputs,
            $out,
            $len,
            #[inline(always)]
            |$v| $value,
        )
    };
}

// They come first, since these use them.
mod activation;
mod gate;

pub use activation::{activate, Activation};
pub use gate::{gate, gate_heads, Gate};

/// Sums `x`: `f(values, accumulator)` over whole vectors, then `tail(value)`.
#[inline(always)]
fn fold<S: Simd>(
    s: S,
    x: &[f32],
    f: impl Fn(S::F, S::F) -> S::F,
    tail: impl Fn(f32) -> f32,
) -> f32 {
    // Two accumulators hide the latency of the addition.
    let (mut a, mut b) = (s.splat(0.0), s.splat(0.0));
    let mut pairs = x.chunks_exact(2 * S::LANES);
    for c in &mut pairs {
        // SAFETY: the chunk holds two vectors.
        unsafe {
            a = f(s.load(c.as_ptr()), a);
            b = f(s.load(c.as_ptr().add(S::LANES)), b);
        }
    }
    let mut sum = s.reduce_add(s.add(a, b));
    for x in pairs.remainder() {
        sum += tail(*x);
    }
    sum
}

/// Writes `f` of every position of rows of one length, whole vectors and then
/// the tail through padded copies.
///
/// # Safety
/// `len` values are readable at every input and writable at `out`, which may be
/// an input too, but overlaps none otherwise.
#[inline(always)]
unsafe fn each<S: Simd, const K: usize>(
    s: S,
    inputs: [*const f32; K],
    out: *mut f32,
    len: usize,
    f: impl Fn([S::F; K]) -> S::F,
) {
    let whole = len / S::LANES * S::LANES;
    let mut v = [s.splat(0.0); K];
    for i in (0..whole).step_by(S::LANES) {
        for k in 0..K {
            v[k] = s.load(inputs[k].add(i));
        }
        s.store(out.add(i), f(v));
    }
    if whole < len {
        let (mut padded, rest) = ([0f32; 16], len - whole); // the widest vector
        for k in 0..K {
            std::ptr::copy_nonoverlapping(inputs[k].add(whole), padded.as_mut_ptr(), rest);
            v[k] = s.load(padded.as_ptr());
        }
        s.store(padded.as_mut_ptr(), f(v));
        std::ptr::copy_nonoverlapping(padded.as_ptr(), out.add(whole), rest);
    }
}

/// Normalises `x` into `out`. `weight` is empty where all are 1, `bias` where there is none.
///
/// # Panics
/// If the lengths differ.
pub fn norm(
    isa: Isa,
    kind: NormKind,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    struct Norm<'a>(
        NormKind,
        &'a [f32],
        &'a [f32],
        &'a [f32],
        f32,
        &'a mut [f32],
    );
    #[inline(always)]
    fn scaled<S: Simd>(s: S, v: S::F, mean: S::F, inverse: S::F, w: S::F) -> S::F {
        s.mul(s.mul(s.sub(v, mean), inverse), w)
    }
    impl Kernel for Norm<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Norm(kind, x, weight, bias, eps, out) = self;
            let n = x.len();
            let mean = match kind {
                NormKind::Rms | NormKind::L2 => 0.0,
                NormKind::Layer => fold!(s, x, |v, a| s.add(v, a), |v| v) / n as f32,
            };
            let m = s.splat(mean);
            let squares = fold!(
                s,
                x,
                |v, a| {
                    let d = s.sub(v, m);
                    s.fma(d, d, a)
                },
                |v| (v - mean) * (v - mean)
            );
            let squares = match kind {
                NormKind::Rms | NormKind::Layer => squares / n as f32,
                NormKind::L2 => squares,
            };
            let inverse = s.splat(1.0 / (squares + eps).sqrt());
            let (x, w, o) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
            // SAFETY: all that are read have the length of `x`, as asserted below.
            unsafe {
                match (weight.is_empty(), bias.is_empty()) {
                    (true, true) => {
                        each!(s, [x], o, n, |[v]| s.mul(s.sub(v, m), inverse));
                    }
                    (true, false) => {
                        each!(s, [x, bias.as_ptr()], o, n, |[v, b]| {
                            s.add(s.mul(s.sub(v, m), inverse), b)
                        });
                    }
                    (false, true) => {
                        each!(s, [x, w], o, n, |[v, w]| scaled(s, v, m, inverse, w));
                    }
                    (false, false) => {
                        each!(s, [x, w, bias.as_ptr()], o, n, |[v, w, b]| {
                            s.add(scaled(s, v, m, inverse, w), b)
                        });
                    }
                }
            }
        }
    }
    assert!(weight.is_empty() || x.len() == weight.len());
    assert!(x.len() == out.len());
    assert!(bias.is_empty() || bias.len() == x.len());
    with_isa(isa, Norm(kind, x, weight, bias, eps, out))
}

/// `x += y`
///
/// # Panics
/// If the lengths differ.
pub fn add(isa: Isa, x: &mut [f32], y: &[f32]) {
    struct Add<'a>(&'a mut [f32], &'a [f32]);
    impl Kernel for Add<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (x, n) = (self.0.as_mut_ptr(), self.0.len());
            // SAFETY: both have `n` values, as asserted below.
            unsafe { each!(s, [x, self.1.as_ptr()], x, n, |[x, y]| s.add(x, y)) };
        }
    }
    assert_eq!(x.len(), y.len());
    with_isa(isa, Add(x, y))
}

/// `x += factor * y`
///
/// # Panics
/// If the lengths differ.
pub fn scale_add(isa: Isa, x: &mut [f32], factor: f32, y: &[f32]) {
    struct ScaleAdd<'a>(&'a mut [f32], f32, &'a [f32]);
    impl Kernel for ScaleAdd<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (x, n, f) = (self.0.as_mut_ptr(), self.0.len(), s.splat(self.1));
            // SAFETY: both have `n` values, as asserted below.
            unsafe { each!(s, [x, self.2.as_ptr()], x, n, |[x, y]| s.fma(y, f, x)) };
        }
    }
    assert_eq!(x.len(), y.len());
    with_isa(isa, ScaleAdd(x, factor, y))
}

/// `x *= factor`
pub fn scale(isa: Isa, x: &mut [f32], factor: f32) {
    struct Scale<'a>(&'a mut [f32], f32);
    impl Kernel for Scale<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (x, n, f) = (self.0.as_mut_ptr(), self.0.len(), s.splat(self.1));
            // SAFETY: a slice of `n` values.
            unsafe { each!(s, [x], x, n, |[x]| s.mul(x, f)) };
        }
    }
    with_isa(isa, Scale(x, factor))
}

/// `x = cap * tanh(x / cap)`
pub fn soft_cap(isa: Isa, x: &mut [f32], cap: f32) {
    struct Cap<'a>(&'a mut [f32], f32);
    impl Kernel for Cap<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            cap_row(s, self.0, self.1)
        }
    }
    with_isa(isa, Cap(x, cap))
}

/// [`soft_cap`] within a kernel.
#[inline(always)]
pub(crate) fn cap_row<S: Simd>(s: S, x: &mut [f32], cap: f32) {
    let (x, n) = (x.as_mut_ptr(), x.len());
    let (cap, inverse) = (s.splat(cap), s.splat(1.0 / cap));
    // SAFETY: a slice of `n` values.
    unsafe { each!(s, [x], x, n, |[x]| s.mul(cap, tanh(s, s.mul(x, inverse)))) };
}

/// Rotates every head of `x` (`heads * head_dim` values): pairs are `i` and
/// `i + n` of the first `2 n` values of a head, `n = cos.len()` (Su et al.,
/// "RoFormer", in the layout of Hugging Face's models).
///
/// # Panics
/// If the lengths do not fit.
pub fn rope(isa: Isa, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    struct Rope<'a>(&'a mut [f32], usize, &'a [f32], &'a [f32]);
    impl Kernel for Rope<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Rope(x, head_dim, cos, sin) = self;
            let n = cos.len();
            for head in x.chunks_exact_mut(head_dim) {
                let (a, b) = head.split_at_mut(n);
                let whole = n / S::LANES * S::LANES;
                for i in (0..whole).step_by(S::LANES) {
                    // SAFETY: a and b hold n values at least, as do cos and sin.
                    unsafe {
                        let (va, vb) = (s.load(a.as_ptr().add(i)), s.load(b.as_ptr().add(i)));
                        let (c, t) = (s.load(cos.as_ptr().add(i)), s.load(sin.as_ptr().add(i)));
                        s.store(a.as_mut_ptr().add(i), s.sub(s.mul(va, c), s.mul(vb, t)));
                        s.store(b.as_mut_ptr().add(i), s.add(s.mul(vb, c), s.mul(va, t)));
                    }
                }
                for i in whole..n {
                    let (va, vb) = (a[i], b[i]);
                    a[i] = va * cos[i] - vb * sin[i];
                    b[i] = vb * cos[i] + va * sin[i];
                }
            }
        }
    }
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head_dim);
    assert!(x.len().is_multiple_of(head_dim));
    with_isa(isa, Rope(x, head_dim, cos, sin))
}

//! Operations on single rows: norms, activation functions, rotary positions.
//!
//! Each function takes the instruction set it runs on and computes one row;
//! which thread computes which row is the caller's business.

use rustml_simd::{exp, gelu_tanh, sigmoid, with_isa, Isa, Kernel, Simd};

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, "Root Mean
    /// Square Layer Normalization").
    Rms,
    /// `(x - mean) / sqrt(variance + eps) * weight + bias` (Ba et al., "Layer
    /// Normalization").
    Layer,
}

/// The non-linearity of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// [`rustml_simd::gelu_tanh`].
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

// Closures that hold vector operations are `#[inline(always)]`, as everything
// that takes vectors must be; left to itself the compiler calls them, and each
// operation in them, one by one.

/// Sums `f(x, y)` over two rows, lanes first and the tail last.
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
#[inline(always)]
fn each<S: Simd, const K: usize>(
    s: S,
    inputs: [*const f32; K],
    out: *mut f32,
    len: usize,
    f: impl Fn([S::F; K]) -> S::F,
) {
    let whole = len / S::LANES * S::LANES;
    let mut v = [s.splat(0.0); K];
    // SAFETY: callers pass pointers from slices of `len` values; the padded
    // copies hold the widest vector.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            for k in 0..K {
                v[k] = s.load(inputs[k].add(i));
            }
            s.store(out.add(i), f(v));
        }
        if whole < len {
            let mut padded = [0f32; 16];
            for k in 0..K {
                padded[..len - whole].copy_from_slice(std::slice::from_raw_parts(
                    inputs[k].add(whole),
                    len - whole,
                ));
                v[k] = s.load(padded.as_ptr());
            }
            s.store(padded.as_mut_ptr(), f(v));
            std::ptr::copy_nonoverlapping(padded.as_ptr(), out.add(whole), len - whole);
        }
    }
}

/// Normalises `x` into `out`. `bias` is empty where there is none.
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
    impl Kernel for Norm<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Norm(kind, x, weight, bias, eps, out) = self;
            let n = x.len();
            let mean = match kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => {
                    fold(
                        s,
                        x,
                        #[inline(always)]
                        |v, a| s.add(v, a),
                        |v| v,
                    ) / n as f32
                }
            };
            let m = s.splat(mean);
            let squares = fold(
                s,
                x,
                #[inline(always)]
                |v, a| {
                    let d = s.sub(v, m);
                    s.fma(d, d, a)
                },
                |v| (v - mean) * (v - mean),
            );
            let var = squares / n as f32;
            let inverse = s.splat(1.0 / (var + eps).sqrt());
            let (x, w, o) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
            if bias.is_empty() {
                each(
                    s,
                    [x, w],
                    o,
                    n,
                    #[inline(always)]
                    |[v, w]| s.mul(s.mul(s.sub(v, m), inverse), w),
                );
            } else {
                let b = bias.as_ptr();
                each(
                    s,
                    [x, w, b],
                    o,
                    n,
                    #[inline(always)]
                    |[v, w, b]| s.add(s.mul(s.mul(s.sub(v, m), inverse), w), b),
                );
            }
        }
    }
    assert!(x.len() == weight.len() && x.len() == out.len());
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
            each(
                s,
                [x, self.1.as_ptr()],
                x,
                n,
                #[inline(always)]
                |[x, y]| s.add(x, y),
            );
        }
    }
    assert_eq!(x.len(), y.len());
    with_isa(isa, Add(x, y))
}

/// `x *= factor`
pub fn scale(isa: Isa, x: &mut [f32], factor: f32) {
    struct Scale<'a>(&'a mut [f32], f32);
    impl Kernel for Scale<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (x, n, f) = (self.0.as_mut_ptr(), self.0.len(), s.splat(self.1));
            each(
                s,
                [x],
                x,
                n,
                #[inline(always)]
                |[x]| s.mul(x, f),
            );
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
            let (x, n) = (self.0.as_mut_ptr(), self.0.len());
            let (cap, inverse) = (s.splat(self.1), s.splat(1.0 / self.1));
            each(
                s,
                [x],
                x,
                n,
                #[inline(always)]
                |[x]| s.mul(cap, rustml_simd::tanh(s, s.mul(x, inverse))),
            );
        }
    }
    with_isa(isa, Cap(x, cap))
}

/// `gate = f(gate) * up`, or `gate = f(gate)` where `up` is empty.
///
/// # Panics
/// If the lengths differ.
pub fn activate(isa: Isa, f: Activation, gate: &mut [f32], up: &[f32]) {
    struct Act<'a>(Activation, &'a mut [f32], &'a [f32]);
    #[inline(always)]
    fn with<S: Simd>(s: S, gate: &mut [f32], up: &[f32], f: impl Fn(S::F) -> S::F) {
        let (g, n) = (gate.as_mut_ptr(), gate.len());
        if up.is_empty() {
            each(
                s,
                [g],
                g,
                n,
                #[inline(always)]
                |[g]| f(g),
            );
        } else {
            each(
                s,
                [g, up.as_ptr()],
                g,
                n,
                #[inline(always)]
                |[g, u]| s.mul(f(g), u),
            );
        }
    }
    impl Kernel for Act<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Act(f, gate, up) = self;
            match f {
                Activation::Silu => with(
                    s,
                    gate,
                    up,
                    #[inline(always)]
                    |x| s.mul(x, sigmoid(s, x)),
                ),
                Activation::GeluTanh => with(
                    s,
                    gate,
                    up,
                    #[inline(always)]
                    |x| gelu_tanh(s, x),
                ),
                Activation::Relu => with(
                    s,
                    gate,
                    up,
                    #[inline(always)]
                    |x| s.max(x, s.splat(0.0)),
                ),
            }
        }
    }
    assert!(up.is_empty() || up.len() == gate.len());
    with_isa(isa, Act(f, gate, up))
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

/// `x = exp(x - max)`
#[inline(always)]
pub(crate) fn exp_minus_max<S: Simd>(s: S, x: &mut [f32], max: f32) {
    let m = s.splat(max);
    let (p, n) = (x.as_mut_ptr(), x.len());
    each(
        s,
        [p],
        p,
        n,
        #[inline(always)]
        |[v]| exp(s, s.sub(v, m)),
    );
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    fold(
        s,
        x,
        #[inline(always)]
        |v, a| s.add(v, a),
        |v| v,
    )
}

//! What the tests of vectors share.
#![allow(dead_code, unused_macros, unused_imports)] // each test uses a part

use rustml_simd::Isa;

/// Defines a function of an instruction set from a body generic over its token
/// and type: `kernel!(fn f<S>(s, x: &'a [f32]) -> f32 { .. })` gives
/// `fn f(isa: Isa, x: &[f32]) -> f32`.
macro_rules! kernel {
    ($(#[$doc:meta])* fn $name:ident<$S:ident>($s:ident $(, $arg:ident: $type:ty)*) -> $out:ty $body:block) => {
        $(#[$doc])*
        #[allow(clippy::extra_unused_lifetimes)] // not every argument borrows
        fn $name<'a>(isa: rustml_simd::Isa $(, $arg: $type)*) -> $out {
            struct K<'a> {
                $($arg: $type,)*
                _a: std::marker::PhantomData<&'a ()>,
            }
            impl<'a> rustml_simd::Kernel for K<'a> {
                type Out = $out;
                #[inline(always)]
                fn run<$S: rustml_simd::Simd>(self, $s: $S) -> $out {
                    let K { $($arg,)* _a } = self;
                    $body
                }
            }
            rustml_simd::with_isa(isa, K { $($arg,)* _a: std::marker::PhantomData })
        }
    };
}
pub(crate) use kernel;

/// Says, past the harness that keeps what tests print, that one is not run for what this CPU
/// lacks. `.ci/run` counts these lines.
#[allow(clippy::explicit_write)] // `eprintln!` is kept by the harness
pub fn skipped(lacks: &str) {
    use std::io::Write;
    writeln!(
        std::io::stderr(),
        "\n*** SKIPPED, this CPU lacks {lacks} ***\n"
    )
    .unwrap();
}

/// Lanes of the widest vector.
pub const WIDEST: usize = 16;

/// A small generator, so that every run sees the same numbers.
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits (xorshift).
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// Any float but NaN: random bits.
    pub fn float(&mut self) -> f32 {
        loop {
            let x = f32::from_bits((self.bits() >> 32) as u32);
            if !x.is_nan() {
                return x;
            }
        }
    }
    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Numbers at which floats behave in special ways.
pub const EDGES: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -2.5,
    f32::EPSILON,
    1e-40,  // subnormal
    -1e-45, // the smallest subnormal
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    3e38,
    f32::MAX,
    f32::MIN,
    8388609.0, // beyond 2^23 there are no fractions
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Every pair of edges, then random pairs, as two columns of whole vectors.
pub fn pairs() -> (Vec<f32>, Vec<f32>) {
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut pairs: Vec<(f32, f32)> = Vec::new();
    for a in EDGES {
        pairs.extend(EDGES.map(|b| (a, b)));
    }
    for _ in 0..1000 {
        pairs.push((rng.float(), rng.float()));
        pairs.push((rng.unit(), rng.unit()));
    }
    while !pairs.len().is_multiple_of(WIDEST) {
        pairs.push((rng.unit(), rng.unit()));
    }
    pairs.into_iter().unzip()
}

/// Equal bits, or both NaN.
pub fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Whether multiply-add rounds once here.
pub fn fuses(isa: Isa) -> bool {
    !matches!(isa, Isa::Scalar | Isa::Sse41)
}

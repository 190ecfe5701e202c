//! Half precision and bfloat16, on all 65536 values of each.

mod common;

use common::{kernel, same, Rng};
use half::{bf16, f16};
use rustml_simd::{with_bf16, with_isa, Isa, Kernel, Simd};

kernel!(
    fn widen<S>(s, halves: &'a [u16]) -> Vec<f32> {
        let mut out = vec![f32::NAN; halves.len()];
        for i in (0..halves.len()).step_by(S::LANES) {
            let p = halves[i..].as_ptr();
            // SAFETY: the length is a multiple of the widest vector's.
            unsafe {
                s.store(out[i..].as_mut_ptr(), s.load_f16(p));
            }
        }
        out
    }
);

kernel!(
    fn narrow<S>(s, x: &'a [f32]) -> Vec<u16> {
        let mut out = vec![0x7e01; x.len()];
        for i in (0..x.len()).step_by(S::LANES) {
            // SAFETY: the length is a multiple of the widest vector's.
            unsafe { s.store_f16(out[i..].as_mut_ptr(), s.load(x[i..].as_ptr())) };
        }
        out
    }
);

fn all() -> Vec<u16> {
    (0..=u16::MAX).collect()
}

#[test]
fn every_half_widens_exactly() {
    for isa in Isa::available() {
        for (bits, x) in all().into_iter().zip(widen(isa, &all())) {
            // The constant function is computed without instructions for halves.
            let expected = f16::from_bits(bits).to_f32_const();
            assert!(same(x, expected), "{isa:?} {bits:#06x}: {x:e}");
        }
    }
}

/// Dot products of pairs of bfloat16, added to a sum, in every lane.
struct Dot<'a>(&'a [f32], &'a [u32], &'a [u32]);

impl Kernel for Dot<'_> {
    type Out = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let Dot(acc, w, x) = self;
        let mut out = vec![f32::NAN; acc.len()];
        for i in (0..acc.len()).step_by(S::LANES) {
            // SAFETY: the lengths are a multiple of the widest vector's.
            unsafe {
                let w = s.load_i(w[i..].as_ptr().cast());
                let x = s.load_i(x[i..].as_ptr().cast());
                let dot = s.dot_bf16(s.load(acc[i..].as_ptr()), w, x);
                s.store(out[i..].as_mut_ptr(), dot);
            }
        }
        out
    }
}

/// On every instruction set, alone and with what the CPU has beyond it; whether
/// there is anything; and results.
fn dots(acc: &[f32], w: &[u32], x: &[u32]) -> Vec<(Isa, bool, Vec<f32>)> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        all.push((isa, false, with_isa(isa, Dot(acc, w, x))));
        all.push((isa, isa.dots_bf16(), with_bf16(isa, Dot(acc, w, x))));
    }
    all
}

#[test]
fn every_bfloat16_is_multiplied_exactly() {
    let zeros = vec![0.0; 1 << 16];
    for (shift, one) in [(0, 0x0000_3f80), (16, 0x3f80_0000)] {
        let w: Vec<u32> = all().iter().map(|&b| u32::from(b) << shift).collect();
        let ones = vec![one; 1 << 16];
        for (isa, flushes, got) in [dots(&zeros, &w, &ones), dots(&zeros, &ones, &w)].concat() {
            for (bits, got) in all().into_iter().zip(got) {
                let x = bf16::from_bits(bits).to_f32_const();
                let flushed = flushes && x.is_subnormal() && got == 0.0;
                // Zero plus minus zero is zero.
                let right = same(got, x) || x == 0.0 && got == 0.0 || flushed;
                assert!(right, "{isa:?} {bits:#06x}: {got:e}");
            }
        }
    }
}

#[test]
fn both_products_of_a_pair_are_added() {
    let mut rng = Rng(0xb16);
    let n = 4096;
    let acc: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
    let [w, x] = [(); 2].map(|()| {
        let mut half = || u32::from(bf16::from_f32(rng.unit()).to_bits());
        let pairs = (0..n).map(|_| half() | half() << 16);
        pairs.collect::<Vec<u32>>()
    });
    let value = |bits: u32| f64::from(bf16::from_bits(bits as u16).to_f32_const());
    for (isa, extra, got) in dots(&acc, &w, &x) {
        for i in 0..n {
            let low = value(w[i]) * value(x[i]);
            let high = value(w[i] >> 16) * value(x[i] >> 16);
            let expected = f64::from(acc[i]) + low + high;
            let size = f64::from(acc[i].abs()) + low.abs() + high.abs();
            // Two products, which are exact, are added: two roundings.
            let error = (f64::from(got[i]) - expected).abs();
            assert!(
                error <= size * f64::from(f32::EPSILON),
                "{isa:?} {extra} [{i}]: {} instead of {expected}",
                got[i]
            );
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_the_dot_product() {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (low, high, expected) in [
        ((inf, 2.0), (1.0, 1.0), inf),
        ((1.0, 1.0), (inf, -2.0), -inf),
        ((inf, 0.0), (1.0, 1.0), nan),
        ((1.0, 1.0), (0.0, inf), nan),
        ((inf, 1.0), (-inf, 1.0), nan),
        ((nan, 1.0), (1.0, 1.0), nan),
        ((1.0, 1.0), (1.0, nan), nan),
    ] {
        let w = [bits(low.0) | bits(high.0) << 16; 16];
        let x = [bits(low.1) | bits(high.1) << 16; 16];
        for (isa, extra, got) in dots(&[1.0; 16], &w, &x) {
            assert!(
                got.iter().all(|&g| same(g, expected)),
                "{isa:?} {extra}: {low:?}, {high:?} gave {got:?}"
            );
        }
    }
}

#[test]
fn every_half_comes_back_from_single_precision() {
    let x: Vec<f32> = all()
        .iter()
        .map(|&h| f16::from_bits(h).to_f32_const())
        .collect();
    for isa in Isa::available() {
        for (bits, back) in all().into_iter().zip(narrow(isa, &x)) {
            let (h, back) = (f16::from_bits(bits), f16::from_bits(back));
            let same = h.to_bits() == back.to_bits() || h.is_nan() && back.is_nan();
            assert!(same, "{isa:?} {bits:#06x} became {back:?}");
        }
    }
}

/// Half way between any two neighbours, and a hair to either side of it.
#[test]
fn narrowing_rounds_to_nearest_even() {
    let mut x = Vec::new();
    for bits in 0..0x7c00u16 {
        let low = f16::from_bits(bits).to_f32_const();
        // What the largest half's neighbour would be, were there one.
        let high = if bits == 0x7bff {
            65536.0
        } else {
            f16::from_bits(bits + 1).to_f32_const()
        };
        let middle = (low + high) / 2.0;
        for m in [middle, middle.next_up(), middle.next_down()] {
            x.extend([m, -m]);
        }
    }
    x.extend([
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-40,
        -1e-45,
        0.0,
        -0.0,
    ]);
    let mut rng = Rng(77);
    x.resize_with(x.len().next_multiple_of(16) + 4096, || rng.float());
    for isa in Isa::available() {
        for (x, got) in x.iter().zip(narrow(isa, &x)) {
            let expected = f16::from_f32_const(*x).to_bits();
            assert_eq!(
                got, expected,
                "{isa:?} {x:e}: {got:#06x}, not {expected:#06x}"
            );
        }
    }
}

#[test]
fn infinities_and_nan_survive_in_every_lane() {
    for isa in Isa::available() {
        for lane in 0..16 {
            let mut x = [1.0; 16];
            x[lane] = f32::NAN;
            let got = narrow(isa, &x);
            for (i, bits) in got.into_iter().enumerate() {
                let h = f16::from_bits(bits);
                assert!(
                    if i == lane { h.is_nan() } else { h == f16::ONE },
                    "{isa:?}"
                );
            }
        }
    }
}

/// Numbers stored as bfloat16.
struct Store16<'a>(&'a [f32]);

impl Kernel for Store16<'_> {
    type Out = Vec<u16>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u16> {
        let mut out = vec![0x7fc1; self.0.len()];
        for i in (0..self.0.len()).step_by(S::LANES) {
            // SAFETY: the length is a multiple of the widest vector's.
            unsafe { s.store_bf16(out[i..].as_mut_ptr(), s.load(self.0[i..].as_ptr())) };
        }
        out
    }
}

/// Every bfloat16, half way to its neighbour and a hair to either side of it, and NaNs that
/// only their low half says are.
#[test]
fn bfloat16_is_rounded_to_nearest_even() {
    let mut x = Vec::new();
    for bits in all() {
        let bits = u32::from(bits) << 16;
        x.extend([0, 0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits(bits | low)));
    }
    for isa in Isa::available() {
        for (flushes, got) in [
            (false, with_isa(isa, Store16(&x))),
            (isa.dots_bf16(), with_bf16(isa, Store16(&x))),
        ] {
            for (x, got) in x.iter().zip(got) {
                let got = bf16::from_bits(got);
                let expected = bf16::from_f32_const(*x);
                let zero = x.is_subnormal() && got.to_f32_const() == 0.0;
                let right = got.to_bits() == expected.to_bits()
                    || got.is_nan() && expected.is_nan()
                    || flushes && zero;
                assert!(right, "{isa:?} {flushes} {x:e} became {got:?}");
            }
        }
    }
}

//! Half precision and bfloat16, on all 65536 values of each.

mod common;

use common::{kernel, same, Rng};
use half::{bf16, f16};
use rustml_simd::Isa;

kernel!(
    fn widen<S>(s, halves: &'a [u16], brain: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; halves.len()];
        for i in (0..halves.len()).step_by(S::LANES) {
            let p = halves[i..].as_ptr();
            // SAFETY: the length is a multiple of the widest vector's.
            unsafe {
                let v = if brain { s.load_bf16(p) } else { s.load_f16(p) };
                s.store(out[i..].as_mut_ptr(), v);
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
        for (bits, x) in all().into_iter().zip(widen(isa, &all(), false)) {
            // The constant function is computed without instructions for halves.
            let expected = f16::from_bits(bits).to_f32_const();
            assert!(same(x, expected), "{isa:?} {bits:#06x}: {x:e}");
        }
    }
}

#[test]
fn every_bfloat16_widens_exactly() {
    for isa in Isa::available() {
        for (bits, x) in all().into_iter().zip(widen(isa, &all(), true)) {
            let expected = bf16::from_bits(bits).to_f32_const();
            assert!(same(x, expected), "{isa:?} {bits:#06x}: {x:e}");
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

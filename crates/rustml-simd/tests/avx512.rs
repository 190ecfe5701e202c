//! What only the vectors of AVX-512 do.
#![cfg(target_arch = "x86_64")]

mod common;

use common::Rng;
use rustml_simd::{Avx512, Isa, Simd};

/// The token, or a word that nothing is tested.
fn token() -> Option<Avx512> {
    if !Isa::Avx512.is_available() {
        common::skipped("AVX-512");
        return None;
    }
    // SAFETY: it is available.
    Some(unsafe { Avx512::assume() })
}

/// One vector through `f`, compiled for the instruction set.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn exp2(s: Avx512, x: &[f32; 16]) -> [f32; 16] {
    let mut out = [0f32; 16];
    s.store(out.as_mut_ptr(), s.exp2(s.load(x.as_ptr())));
    out
}

#[test]
fn powers_of_two_are_as_close_as_claimed() {
    let Some(s) = token() else { return };
    let mut rng = Rng(0xe2);
    for _ in 0..100_000 {
        let x: [f32; 16] = std::array::from_fn(|_| rng.unit() * 125.0);
        // SAFETY: the token says that this may run.
        for (x, y) in x.iter().zip(unsafe { exp2(s, &x) }) {
            // Folding the errors with `f64::max` here ends rustc 1.95 (LLVM 22.1) when it
            // compiles incrementally: its loop vectoriser crashes.
            let error = (f64::from(y) / f64::from(*x).exp2() - 1.0).abs();
            assert!(error < 3e-6, "2^{x} became {y}, off by {error:e}");
        }
    }
    let mut ends = [0.0; 16];
    let some = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1000.0, 1000.0];
    ends[..some.len()].copy_from_slice(&some);
    // SAFETY: as above.
    let got = unsafe { exp2(s, &ends) };
    assert!(got[0].is_nan(), "{got:?}");
    assert_eq!(got[2..5], [0.0, 0.0, f32::INFINITY], "{got:?}");
    assert!((got[5] - 1.0).abs() < 3e-6, "{got:?}");
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn bytes(s: Avx512, x: &[u8; 64]) -> [[f32; 16]; 4] {
    let mut out = [[0f32; 16]; 4];
    let x = s.load_i(x.as_ptr());
    s.store(out[0].as_mut_ptr(), s.byte::<0>(x));
    s.store(out[1].as_mut_ptr(), s.byte::<1>(x));
    s.store(out[2].as_mut_ptr(), s.byte::<2>(x));
    s.store(out[3].as_mut_ptr(), s.byte::<3>(x));
    out
}

#[test]
fn every_byte_is_the_number_that_it_says() {
    let Some(s) = token() else { return };
    for start in 0..=255u8 {
        let x: [u8; 64] = std::array::from_fn(|i| start.wrapping_add((i as u8).wrapping_mul(37)));
        // SAFETY: the token says that this may run.
        let got = unsafe { bytes(s, &x) };
        for (i, x) in x.iter().enumerate() {
            assert_eq!(got[i % 4][i / 4], f32::from(*x) + Avx512::BYTES_FROM);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn pairs(s: Avx512, even: &[f32; 16], odd: &[f32; 16]) -> [u32; 16] {
    let mut out = [0u32; 16];
    let [even, odd] = [even, odd].map(|x| s.plain(s.load(x.as_ptr())));
    s.store_i(out.as_mut_ptr().cast(), s.pair_bf16(even, odd));
    out
}

#[test]
fn pairs_are_rounded_to_nearest_and_keep_nan() {
    let Some(s) = token() else { return };
    // Every bfloat16, and what lies between it and the next.
    for bits in 0..=u16::MAX {
        let low = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let of = |i: usize| f32::from_bits(u32::from(bits) << 16 | low[i % low.len()]);
        let (even, odd) = (std::array::from_fn(of), std::array::from_fn(|i| of(i / 3)));
        // SAFETY: the token says that this may run.
        let got = unsafe { pairs(s, &even, &odd) };
        for i in 0..16 {
            for (x, got) in [(even[i], got[i] << 16), (odd[i], got[i] & 0xffff_0000)] {
                let got = f32::from_bits(got);
                let nearest = f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000);
                let right = match x.is_nan() {
                    true => got.is_nan(),
                    false => got.to_bits() == nearest.to_bits(),
                };
                assert!(right, "{:#x} became {got:e}", x.to_bits());
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn keep(s: Avx512, mask: u16, x: &[f32; 16]) -> [f32; 16] {
    let mut out = [0f32; 16];
    s.store(out.as_mut_ptr(), s.keep(mask, s.load(x.as_ptr()), -1.0));
    out
}

#[test]
fn lanes_are_kept_where_the_mask_says() {
    let Some(s) = token() else { return };
    let x: [f32; 16] = std::array::from_fn(|i| i as f32);
    for mask in 0..=u16::MAX {
        // SAFETY: the token says that this may run.
        let got = unsafe { keep(s, mask, &x) };
        for (i, got) in got.into_iter().enumerate() {
            let expected = if mask >> i & 1 == 1 { x[i] } else { -1.0 };
            assert_eq!(got, expected, "{mask:#x} {i}");
        }
    }
}

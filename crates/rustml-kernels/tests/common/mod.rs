//! What the tests of kernels share.
#![allow(dead_code)] // each test uses a part

use half::f16;
use rustml_kernels::attention::{KvType, KV_GROUP};
use rustml_kernels::par::Team;
use rustml_kernels::Pool;
use rustml_simd::Isa;

/// Half a unit in the last place of 1: the largest relative error of one
/// rounding in single precision.
pub const U: f64 = f32::EPSILON as f64 / 2.0;

/// What `rustml_simd` promises of `exp`, and of the functions made from it.
pub const EXP: f64 = 1e-7;
/// As [`EXP`], for sigmoid, tanh and GELU.
pub const SIGMOID: f64 = 2e-7;

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
    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    /// `n` of them.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A team of `threads` on one instruction set.
pub fn team(isa: Isa, threads: usize) -> Team {
    let pool = Pool::new(threads).expect("threads");
    Team { isa, pool }
}

/// Widths at which vectors end well and badly, on every instruction set.
pub const WIDTHS: [usize; 14] = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 577];

/// Asserts that `got` is within `tolerance` of `expected`.
#[track_caller]
pub fn close(got: f32, expected: f64, tolerance: f64, what: std::fmt::Arguments) {
    let error = (f64::from(got) - expected).abs();
    // Written so that NaN fails.
    let within = error <= tolerance;
    assert!(
        within,
        "{what}: {got} instead of {expected}, off by {error:e} of {tolerance:e}"
    );
}

/// What the integer path sees of activations: codes times scales.
pub fn quantised(x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (x, out) in x.chunks(32).zip(out.chunks_mut(32)) {
        let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = if scale.is_normal() { 1.0 / scale } else { 0.0 };
        for (x, out) in x.iter().zip(out) {
            *out = (x * inverse).round_ties_even() * scale;
        }
    }
    out
}

/// The bits of floats, to be compared.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// What a cache keeps of keys or values, heads of `head_dim` one after the other.
pub fn stored(x: &[f32], head_dim: usize, kv_type: KvType) -> Vec<f32> {
    let half = |x: &f32| f16::from_f32(*x).to_f32();
    match kv_type {
        KvType::F32 => x.to_vec(),
        KvType::F16 => x.iter().map(half).collect(),
        KvType::Q8_0 => {
            let groups = x.chunks(head_dim).flat_map(|head| head.chunks(KV_GROUP));
            groups.flat_map(stored_group).collect()
        }
    }
}

/// Codes times their scale, no further off than the quantisation promises.
fn stored_group(x: &[f32]) -> Vec<f32> {
    let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let mut scale = f16::from_f32(largest / 127.0);
    while scale.to_f32() < largest / 127.0 {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    let scale = scale.to_f32();
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let value = |x: &f32| {
        let code = (x * inverse).round_ties_even();
        assert!(code.abs() <= 127.0, "{x} / {scale}");
        // Half a step, and the two roundings of the quotient.
        let tolerance = 0.5 * f64::from(scale) * (1.0 + 4.0 * 127.0 * U);
        close(
            code * scale,
            f64::from(*x),
            tolerance,
            format_args!("{x:?}"),
        );
        code * scale // exact: 7 bits times 11
    };
    x.iter().map(value).collect()
}

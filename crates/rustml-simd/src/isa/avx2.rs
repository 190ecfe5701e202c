//! AVX2 with FMA and F16C: eight lanes.

use crate::{Kernel, Simd};
use std::arch::x86_64::*;

/// Token of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Products of unsigned codes and signed bytes, summed in fours. Pairs are
/// summed in saturating 16 bits: exact while `codes <= 128`, since
/// `2 * 128 * 127 < 2^15`.
#[inline]
#[target_feature(enable = "avx2")]
fn maddubs_dot(acc: __m256i, codes: __m256i, a: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(codes, a);
    in_order(_mm256_add_epi32(
        acc,
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)),
    ))
}

/// Folds the lanes of 16 vectors into two vectors: pairs of vectors are folded
/// into one that holds both, until eight are in one.
macro_rules! fold_each {
    ($v:expr, $f:ident) => {{
        let mut quarters = [_mm256_setzero_si256(); 4];
        for (i, q) in quarters.iter_mut().enumerate() {
            let (a, b, c, d) = ($v[4 * i], $v[4 * i + 1], $v[4 * i + 2], $v[4 * i + 3]);
            let ab = $f(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = $f(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            // Both halves of the vector now have a, b, c, d of their own lanes.
            *q = $f(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        }
        let [a, b, c, d] = quarters;
        let low = _mm256_permute2x128_si256::<0x20>;
        let high = _mm256_permute2x128_si256::<0x31>;
        [$f(low(a, b), high(a, b)), $f(low(c, d), high(c, d))]
    }};
}

/// Adds products of unsigned codes and signed bytes, summed in pairs, to sums in
/// 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn maddubs_pairs(sums: __m256i, codes: __m256i, a: __m256i) -> __m256i {
    in_order(_mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, a)))
}

/// The same sums, by an empty instruction that keeps the order of these: the compiler
/// would add up in another, for which it needs more registers than there are.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(mut sums: __m256i) -> __m256i {
    // SAFETY: does nothing.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) sums,
            options(nomem, nostack, preserves_flags));
    }
    sums
}

/// Sums of pairs, where there is no dot instruction.
macro_rules! sums_of_pairs {
    () => {
        type Pairs = __m256i;
        const BY_PAIRS: bool = true;
        #[inline(always)]
        fn no_pairs(self) -> Self::Pairs {
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        fn add_pairs(self, sums: Self::Pairs, codes: Self::I, a: Self::I) -> Self::Pairs {
            unsafe { maddubs_pairs(sums, codes, a) }
        }
        #[inline(always)]
        fn sum_pairs(self, acc: Self::I, sums: Self::Pairs) -> Self::I {
            unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1))) }
        }
    };
}

macro_rules! avx2_token {
    ($token:ident, $features:literal, $bias:literal, $dot_u7:expr, $dot_i8:expr, $pairs:ident) => {
        // In every method: the token proves that the CPU has the features.
        #[allow(clippy::undocumented_unsafe_blocks)]
        // SAFETY: the token is only made by `assume`.
        unsafe impl Simd for $token {
            type F = __m256;
            type I = __m256i;
            $pairs!();
            const LANES: usize = 8;
            const I8_BIAS: i32 = $bias;

            unsafe fn assume() -> Self {
                $token(())
            }
            #[inline]
            fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
                #[target_feature(enable = $features)]
                fn inner<K: Kernel>(s: $token, kernel: K) -> K::Out {
                    kernel.run(s)
                }
                unsafe { inner(self, kernel) }
            }
            #[inline(always)]
            fn splat(self, x: f32) -> Self::F {
                unsafe { _mm256_set1_ps(x) }
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> Self::F {
                _mm256_loadu_ps(p)
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: Self::F) {
                _mm256_storeu_ps(p, v)
            }
            #[inline(always)]
            unsafe fn load_f16(self, p: *const u16) -> Self::F {
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
            }
            #[inline(always)]
            unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
                let h = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
                _mm_storeu_si128(p.cast(), h)
            }
            #[inline(always)]
            unsafe fn load_u8(self, p: *const u8) -> Self::I {
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))
            }
            #[inline(always)]
            unsafe fn load_i8(self, p: *const u8) -> Self::I {
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm256_add_ps(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm256_sub_ps(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm256_mul_ps(a, b) }
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm256_div_ps(a, b) }
            }
            #[inline(always)]
            fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                unsafe { _mm256_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm256_max_ps(a, b) }
            }
            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm256_min_ps(a, b) }
            }
            #[inline(always)]
            fn abs(self, a: Self::F) -> Self::F {
                unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
            }
            #[inline(always)]
            fn reduce_add(self, a: Self::F) -> f32 {
                unsafe {
                    let h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                    let h = _mm_add_ps(h, _mm_movehl_ps(h, h));
                    _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)))
                }
            }
            #[inline(always)]
            fn reduce_max(self, a: Self::F) -> f32 {
                unsafe {
                    let h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                    let h = _mm_max_ps(h, _mm_movehl_ps(h, h));
                    _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)))
                }
            }
            #[inline(always)]
            fn round_i32(self, a: Self::F) -> Self::I {
                unsafe { _mm256_cvtps_epi32(a) }
            }
            #[inline(always)]
            fn to_f32(self, a: Self::I) -> Self::F {
                unsafe { _mm256_cvtepi32_ps(a) }
            }
            #[inline(always)]
            fn bits_to_f32(self, a: Self::I) -> Self::F {
                unsafe { _mm256_castsi256_ps(a) }
            }
            #[inline(always)]
            fn splat_i32(self, x: i32) -> Self::I {
                unsafe { _mm256_set1_epi32(x) }
            }
            #[inline(always)]
            unsafe fn load_i(self, p: *const u8) -> Self::I {
                _mm256_loadu_si256(p.cast())
            }
            #[inline(always)]
            unsafe fn splat_load(self, p: *const u8) -> Self::I {
                _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
            }
            #[inline(always)]
            unsafe fn store_i(self, p: *mut u8, v: Self::I) {
                _mm256_storeu_si256(p.cast(), v)
            }
            #[inline(always)]
            unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
                let (lo, hi) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
                let w = _mm_packs_epi32(lo, hi);
                _mm_storel_epi64(p.cast(), _mm_packs_epi16(w, w))
            }
            #[inline(always)]
            fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm256_add_epi32(a, b) }
            }
            #[inline(always)]
            fn max_i32(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm256_max_epi32(a, b) }
            }
            #[inline(always)]
            fn sum_each(self, v: &[Self::I; 16]) -> [i32; 16] {
                let sums = unsafe { fold_each!(v, _mm256_add_epi32) };
                unsafe { std::mem::transmute::<[__m256i; 2], [i32; 16]>(sums) }
            }
            #[inline(always)]
            fn max_each(self, v: &[Self::I; 16]) -> [i32; 16] {
                let largest = unsafe { fold_each!(v, _mm256_max_epi32) };
                unsafe { std::mem::transmute::<[__m256i; 2], [i32; 16]>(largest) }
            }
            #[inline(always)]
            fn and(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm256_and_si256(a, b) }
            }
            #[inline(always)]
            fn or(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm256_or_si256(a, b) }
            }
            // A variable shift by a constant; the compiler makes it an immediate.
            #[inline(always)]
            fn shl<const N: u32>(self, a: Self::I) -> Self::I {
                unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(N as i32)) }
            }
            #[inline(always)]
            fn shr<const N: u32>(self, a: Self::I) -> Self::I {
                unsafe { _mm256_srlv_epi32(a, _mm256_set1_epi32(N as i32)) }
            }
            #[inline(always)]
            fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
                unsafe {
                    let t = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                    _mm256_shuffle_epi8(t, index)
                }
            }
            #[inline(always)]
            fn dot_u7(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
                unsafe { $dot_u7(acc, codes, a) }
            }
            #[inline(always)]
            fn dot_i8(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
                unsafe { $dot_i8(acc, codes, a) }
            }
        }
    };
}

/// Signed codes: the sign moves to the other factor, so that the codes are
/// magnitudes of at most 128 and nothing saturates.
#[inline]
#[target_feature(enable = "avx2")]
fn signed_dot(acc: __m256i, codes: __m256i, a: __m256i) -> __m256i {
    maddubs_dot(acc, _mm256_abs_epi8(codes), _mm256_sign_epi8(a, codes))
}

avx2_token!(
    Avx2,
    "avx2,fma,f16c",
    0,
    maddubs_dot,
    signed_dot,
    sums_of_pairs
);
mod vnni; // after the macros, which it uses
pub use vnni::Avx2Vnni;

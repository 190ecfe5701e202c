//! SSE4.1: four lanes, no fused multiply-add, no half-precision conversion.

use crate::{Kernel, Simd};
use half::f16;
use std::arch::x86_64::*;

/// Token of SSE4.1.
#[derive(Clone, Copy, Debug)]
pub struct Sse41(());

/// Products of unsigned codes and signed bytes, summed in fours. Pairs are
/// summed in saturating 16 bits: exact while `codes <= 128`.
#[inline]
#[target_feature(enable = "sse4.1")]
fn maddubs_dot(acc: __m128i, codes: __m128i, a: __m128i) -> __m128i {
    let pairs = _mm_maddubs_epi16(codes, a);
    in_order(_mm_add_epi32(acc, _mm_madd_epi16(pairs, _mm_set1_epi16(1))))
}

/// Adds products of unsigned codes and signed bytes, summed in pairs, to sums in
/// 16 bits.
#[inline]
#[target_feature(enable = "sse4.1")]
fn maddubs_pairs(sums: __m128i, codes: __m128i, a: __m128i) -> __m128i {
    in_order(_mm_add_epi16(sums, _mm_maddubs_epi16(codes, a)))
}

/// The same sums, by an empty instruction that keeps the order of these: the compiler
/// would add up in another, for which it needs more registers than there are.
#[inline]
#[target_feature(enable = "sse4.1")]
fn in_order(mut sums: __m128i) -> __m128i {
    // SAFETY: does nothing.
    unsafe {
        std::arch::asm!("/* {0} */", inout(xmm_reg) sums,
            options(nomem, nostack, preserves_flags));
    }
    sums
}

// In every method: the token proves that the CPU has the features.
#[allow(clippy::undocumented_unsafe_blocks)]
// SAFETY: the token is only made by `assume`.
unsafe impl Simd for Sse41 {
    type F = __m128;
    type I = __m128i;
    type Pairs = __m128i;
    const BY_PAIRS: bool = true;
    #[inline(always)]
    fn no_pairs(self) -> Self::Pairs {
        unsafe { _mm_setzero_si128() }
    }
    #[inline(always)]
    fn add_pairs(self, sums: Self::Pairs, codes: Self::I, a: Self::I) -> Self::Pairs {
        unsafe { maddubs_pairs(sums, codes, a) }
    }
    #[inline(always)]
    fn sum_pairs(self, acc: Self::I, sums: Self::Pairs) -> Self::I {
        unsafe { _mm_add_epi32(acc, _mm_madd_epi16(sums, _mm_set1_epi16(1))) }
    }
    const LANES: usize = 4;
    const I8_BIAS: i32 = 0;

    unsafe fn assume() -> Self {
        Sse41(())
    }
    #[inline]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "sse4.1")]
        fn inner<K: Kernel>(s: Sse41, kernel: K) -> K::Out {
            kernel.run(s)
        }
        unsafe { inner(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        unsafe { _mm_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        _mm_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        _mm_storeu_ps(p, v)
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // The exponent and mantissa moved into place, then rebased by a
        // multiplication, which also normalises subnormals; infinities and
        // NaN are put right by comparing the magnitude.
        let w = _mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast()));
        let magnitude = _mm_and_si128(w, _mm_set1_epi32(0x7fff));
        let sign = _mm_slli_epi32::<16>(_mm_and_si128(w, _mm_set1_epi32(0x8000)));
        let shifted = _mm_castsi128_ps(_mm_slli_epi32::<13>(magnitude));
        let rebased = _mm_mul_ps(shifted, _mm_set1_ps(f32::from_bits((254 - 15) << 23)));
        let special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff));
        let exponent = _mm_and_si128(special, _mm_set1_epi32(0x7f80_0000));
        let bits = _mm_or_si128(_mm_castps_si128(rebased), exponent);
        _mm_castsi128_ps(_mm_or_si128(bits, sign))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
        let mut x = [0f32; 4];
        _mm_storeu_ps(x.as_mut_ptr(), v);
        for (i, x) in x.into_iter().enumerate() {
            p.add(i).write_unaligned(f16::from_f32(x).to_bits());
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::I {
        let w = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
        _mm_cvtepu8_epi32(w)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Self::I {
        let w = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
        _mm_cvtepi8_epi32(w)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm_add_ps(_mm_mul_ps(a, b), c) }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        unsafe { _mm_andnot_ps(_mm_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn reduce_add(self, a: Self::F) -> f32 {
        unsafe {
            let h = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps::<1>(h, h)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        unsafe {
            let h = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps::<1>(h, h)))
        }
    }
    #[inline(always)]
    fn round_i32(self, a: Self::F) -> Self::I {
        unsafe { _mm_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        unsafe { _mm_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn bits_to_f32(self, a: Self::I) -> Self::F {
        unsafe { _mm_castsi128_ps(a) }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        unsafe { _mm_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const u8) -> Self::I {
        _mm_loadu_si128(p.cast())
    }
    #[inline(always)]
    unsafe fn splat_load(self, p: *const u8) -> Self::I {
        _mm_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut u8, v: Self::I) {
        _mm_storeu_si128(p.cast(), v)
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
        let w = _mm_packs_epi32(v, v);
        let b = _mm_cvtsi128_si32(_mm_packs_epi16(w, w));
        p.cast::<i32>().write_unaligned(b)
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm_add_epi32(a, b) }
    }
    #[inline(always)]
    fn max_i32(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm_max_epi32(a, b) }
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm_and_si128(a, b) }
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm_or_si128(a, b) }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Self::I) -> Self::I {
        unsafe { _mm_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Self::I) -> Self::I {
        unsafe { _mm_srl_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
        unsafe { _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), index) }
    }
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
        unsafe { maddubs_dot(acc, codes, a) }
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
        // The sign moves to the other factor, so that nothing saturates.
        unsafe { maddubs_dot(acc, _mm_abs_epi8(codes), _mm_sign_epi8(a, codes)) }
    }
}

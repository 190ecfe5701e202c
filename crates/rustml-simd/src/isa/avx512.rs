//! AVX-512 with VNNI: sixteen lanes; and the same with AVX512-BF16.

use crate::{Kernel, Simd};
use std::arch::x86_64::*;

/// Token of AVX-512 (F, BW, DQ, VL, VNNI) together with AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// Token of the same with AVX512-BF16.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(());

/// Folds the lanes of 16 vectors into one vector, all of them together: pairs
/// of vectors are folded into one that holds both, until one is left.
macro_rules! fold_each {
    ($v:expr, $f:ident) => {{
        let mut quarters = [_mm512_setzero_si512(); 4];
        for (i, q) in quarters.iter_mut().enumerate() {
            let (a, b, c, d) = ($v[4 * i], $v[4 * i + 1], $v[4 * i + 2], $v[4 * i + 3]);
            let ab = $f(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = $f(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            // Every quarter of the vector now has a, b, c, d of its own lanes.
            *q = $f(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        }
        let [a, b, c, d] = quarters;
        let even = _mm512_shuffle_i32x4::<0b10_00_10_00>;
        let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>;
        let (ab, cd) = ($f(even(a, b), odd(a, b)), $f(even(c, d), odd(c, d)));
        $f(even(ab, cd), odd(ab, cd))
    }};
}

/// 32 values times `factor` as words, quarter by quarter of the two vectors.
///
/// # Safety
/// The values are readable, and the CPU has the features.
#[inline(always)]
unsafe fn round_block(x: *const f32, factor: f32) -> __m512i {
    let factor = _mm512_set1_ps(factor);
    let low = _mm512_mul_ps(_mm512_loadu_ps(x), factor);
    let high = _mm512_mul_ps(_mm512_loadu_ps(x.add(16)), factor);
    _mm512_packs_epi32(_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high))
}

/// Implements the trait for a token; the items in braces are in place of its
/// defaults.
macro_rules! avx512_token {
    ($token:ident, $features:literal, { $($extra:item)* }) => {
        // In every method: the token proves that the CPU has the features.
        #[allow(clippy::undocumented_unsafe_blocks)]
        // SAFETY: the token is only made by `assume`.
        unsafe impl Simd for $token {
            type F = __m512;
            type I = __m512i;
            pairs_are_dots!();
            const LANES: usize = 16;
            const I8_BIAS: i32 = 128;

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
                unsafe { _mm512_set1_ps(x) }
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> Self::F {
                _mm512_loadu_ps(p)
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: Self::F) {
                _mm512_storeu_ps(p, v)
            }
            #[inline(always)]
            unsafe fn load_f16(self, p: *const u16) -> Self::F {
                _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
            }
            #[inline(always)]
            unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
                let h = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
                _mm256_storeu_si256(p.cast(), h)
            }
            #[inline(always)]
            unsafe fn load_u8(self, p: *const u8) -> Self::I {
                _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
            }
            #[inline(always)]
            unsafe fn load_i8(self, p: *const u8) -> Self::I {
                _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_sub_ps(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_div_ps(a, b) }
            }
            #[inline(always)]
            fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            fn abs(self, a: Self::F) -> Self::F {
                unsafe { _mm512_abs_ps(a) }
            }
            #[inline(always)]
            fn reduce_add(self, a: Self::F) -> f32 {
                unsafe { _mm512_reduce_add_ps(a) }
            }
            #[inline(always)]
            fn reduce_max(self, a: Self::F) -> f32 {
                unsafe { _mm512_reduce_max_ps(a) }
            }
            #[inline(always)]
            fn round_i32(self, a: Self::F) -> Self::I {
                unsafe { _mm512_cvtps_epi32(a) }
            }
            #[inline(always)]
            fn to_f32(self, a: Self::I) -> Self::F {
                unsafe { _mm512_cvtepi32_ps(a) }
            }
            #[inline(always)]
            fn bits_to_f32(self, a: Self::I) -> Self::F {
                unsafe { _mm512_castsi512_ps(a) }
            }
            #[inline(always)]
            fn splat_i32(self, x: i32) -> Self::I {
                unsafe { _mm512_set1_epi32(x) }
            }
            #[inline(always)]
            unsafe fn load_i(self, p: *const u8) -> Self::I {
                _mm512_loadu_si512(p.cast())
            }
            #[inline(always)]
            unsafe fn splat_load(self, p: *const u8) -> Self::I {
                _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
            }
            #[inline(always)]
            unsafe fn store_i(self, p: *mut u8, v: Self::I) {
                _mm512_storeu_si512(p.cast(), v)
            }
            #[inline(always)]
            unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
                _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(v))
            }
            #[inline(always)]
            fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm512_add_epi32(a, b) }
            }
            #[inline(always)]
            fn max_i32(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm512_max_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn round_blocks(
                self,
                factors: &[f32; 16],
                count: usize,
                from: impl Fn(usize) -> *const f32,
                to: impl Fn(usize) -> *mut i8,
            ) -> [[i32; 16]; 2] {
                let zero = _mm512_setzero_si512();
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                // Of each pair of blocks, the sums of four bytes in each lane.
                let mut pairs = [zero; 8];
                for (i, sums) in (0..count).step_by(2).zip(&mut pairs) {
                    let first = round_block(from(i), factors[i]);
                    let second = match i + 1 < count {
                        true => round_block(from(i + 1), factors[i + 1]),
                        false => zero,
                    };
                    // Packing goes quarter by quarter of a vector.
                    let codes = _mm512_packs_epi16(first, second);
                    let codes = _mm512_permutexvar_epi32(order, codes);
                    _mm256_storeu_si256(to(i).cast(), _mm512_castsi512_si256(codes));
                    if i + 1 < count {
                        let codes = _mm512_extracti64x4_epi64::<1>(codes);
                        _mm256_storeu_si256(to(i + 1).cast(), codes);
                    }
                    *sums = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(1), codes);
                }
                // Each quarter of a vector holds the four sums of half a block.
                let mut sums = [[0; 16]; 2];
                for (at, p) in [(0, &pairs[..4]), (8, &pairs[4..])] {
                    let add = _mm512_add_epi32;
                    let ab = add(
                        _mm512_unpacklo_epi32(p[0], p[1]),
                        _mm512_unpackhi_epi32(p[0], p[1]),
                    );
                    let cd = add(
                        _mm512_unpacklo_epi32(p[2], p[3]),
                        _mm512_unpackhi_epi32(p[2], p[3]),
                    );
                    let halves = add(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
                    // Now lower and upper halves of the first blocks of all pairs, then of the second.
                    let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
                    let halves = _mm512_permutexvar_epi32(order, halves);
                    let low = _mm512_castsi512_si256(halves);
                    let high = _mm512_extracti64x4_epi64::<1>(halves);
                    _mm256_storeu_si256(sums[0].as_mut_ptr().add(at).cast(), low);
                    _mm256_storeu_si256(sums[1].as_mut_ptr().add(at).cast(), high);
                }
                sums
            }
            #[inline(always)]
            fn max_each(self, v: &[Self::I; 16]) -> [i32; 16] {
                let largest = unsafe { fold_each!(v, _mm512_max_epi32) };
                unsafe { std::mem::transmute::<__m512i, [i32; 16]>(largest) }
            }
            #[inline(always)]
            fn and(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm512_and_si512(a, b) }
            }
            #[inline(always)]
            fn or(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { _mm512_or_si512(a, b) }
            }
            #[inline(always)]
            fn shl<const N: u32>(self, a: Self::I) -> Self::I {
                unsafe { _mm512_slli_epi32::<N>(a) }
            }
            #[inline(always)]
            fn shr<const N: u32>(self, a: Self::I) -> Self::I {
                unsafe { _mm512_srli_epi32::<N>(a) }
            }
            #[inline(always)]
            fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
                unsafe {
                    let t = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                    _mm512_shuffle_epi8(t, index)
                }
            }
            #[inline(always)]
            fn dot_u7(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
                unsafe { _mm512_dpbusd_epi32(acc, codes, a) }
            }
            #[inline(always)]
            fn dot_i8(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
                unsafe { _mm512_dpbusd_epi32(acc, codes, a) }
            }
            $($extra)*
        }
    };
}

avx512_token!(
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    {
        #[inline(always)]
        unsafe fn store_bf16(self, p: *mut u16, v: Self::F) {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            // Where only the low half says that it is NaN, rounding would lose that.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(1 << 22));
            let rounded = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, half), nan, quiet);
            let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
            _mm256_storeu_si256(p.cast(), high)
        }
    }
);
avx512_token!(
    Avx512Bf16,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16",
    {
        const DOTS_BF16: bool = true;
        #[inline(always)]
        unsafe fn store_bf16(self, p: *mut u16, v: Self::F) {
            // Another type for the same 256 bits.
            let v = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(p.cast(), v)
        }
        #[inline(always)]
        fn dot_bf16(self, acc: Self::F, w: Self::I, x: Self::I) -> Self::F {
            // Another type for the same 512 bits.
            unsafe {
                let w = std::mem::transmute::<__m512i, __m512bh>(w);
                let x = std::mem::transmute::<__m512i, __m512bh>(x);
                _mm512_dpbf16_ps(acc, w, x)
            }
        }
    }
);

/// What only these vectors do.
macro_rules! avx512_only {
    ($token:ident) => {
        impl $token {
            /// Pairs of bfloat16: of each lane `even` in the low half and `odd` in the high one,
            /// rounded to nearest, what lies in the middle away from zero. NaN stays NaN if its
            /// low half is zero, as that of every NaN is which [`Avx512::plain`] gives or which is
            /// made of such.
            #[inline(always)]
            pub fn pair_bf16(self, even: __m512, odd: __m512) -> __m512i {
                // SAFETY: the token proves that the CPU has the features.
                unsafe {
                    let half = _mm512_set1_epi32(0x8000);
                    let even = _mm512_add_epi32(_mm512_castps_si512(even), half);
                    let odd = _mm512_add_epi32(_mm512_castps_si512(odd), half);
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd)
                }
            }

            /// The same numbers, where every NaN is one and the same.
            #[inline(always)]
            pub fn plain(self, x: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe {
                    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                    _mm512_mask_mov_ps(x, nan, _mm512_set1_ps(f32::NAN))
                }
            }

            /// What [`Self::byte`] adds to a byte.
            pub const BYTES_FROM: f32 = 256.0;

            /// Byte `I` of each lane, unsigned, as a number, more by [`Self::BYTES_FROM`]: its
            /// bits are part of that number's.
            #[inline(always)]
            pub fn byte<const I: u32>(self, x: __m512i) -> __m512 {
                // SAFETY: as above.
                unsafe {
                    let shifted = match I {
                        0 => _mm512_slli_epi32::<15>(x),
                        1 => _mm512_slli_epi32::<7>(x),
                        2 => _mm512_srli_epi32::<1>(x),
                        _ => _mm512_srli_epi32::<9>(x),
                    };
                    let (byte, from) = (_mm512_set1_epi32(0xff << 15), _mm512_set1_ps(256.0));
                    // from | (shifted & byte)
                    let bits =
                        _mm512_ternarylogic_epi32::<0xf8>(_mm512_castps_si512(from), shifted, byte);
                    _mm512_castsi512_ps(bits)
                }
            }

            /// `2^x`, relative error below 3e-6; 0 or infinite where that is too small or too
            /// large. NaN gives NaN.
            ///
            /// A polynomial of degree 4 of what is beyond the integer below, with the least
            /// largest relative error from 0 to 1.
            #[inline(always)]
            pub fn exp2(self, x: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe {
                    let r = _mm512_reduce_ps::<_MM_FROUND_TO_NEG_INF>(x);
                    let mut p = _mm512_set1_ps(0.013_534_168);
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.052_011_46));
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.241_442_75));
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693_003_83));
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.000_002_6));
                    _mm512_scalef_ps(p, x)
                }
            }

            /// The numbers where `mask` has a bit, lane by lane, and `other` where not.
            #[inline(always)]
            pub fn keep(self, mask: u16, x: __m512, other: f32) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(other), mask, x) }
            }
        }
    };
}

avx512_only!(Avx512);
avx512_only!(Avx512Bf16);

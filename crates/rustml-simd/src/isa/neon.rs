//! NEON: four lanes; and the same with the dot product extension.

use crate::{Kernel, Simd};
use half::f16;
use std::arch::aarch64::*;

/// Token of NEON, which every AArch64 CPU has.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

/// Token of NEON with `sdot` (FEAT_DotProd).
#[derive(Clone, Copy, Debug)]
pub struct NeonDot(());

#[inline]
#[target_feature(enable = "neon")]
fn widening_dot(acc: int32x4_t, codes: int32x4_t, a: int32x4_t) -> int32x4_t {
    let (c, a) = (vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(a));
    let lo = vmull_s8(vget_low_s8(c), vget_low_s8(a));
    let hi = vmull_high_s8(c, a);
    // Two products of at most 128 * 127 sum to less than 2^15.
    vpadalq_s16(acc, vpaddq_s16(lo, hi))
}

#[inline(always)]
fn sdot(acc: int32x4_t, codes: int32x4_t, a: int32x4_t) -> int32x4_t {
    let mut r = acc;
    // SAFETY: only called through the token of the extension. The intrinsic
    // is not stable, the instruction is.
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {r:v}.4s, {c:v}.16b, {a:v}.16b",
            r = inout(vreg) r,
            c = in(vreg) codes,
            a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    r
}

/// Sums in 16 bits of the products of a vector's halves, each by itself.
macro_rules! sums_of_products {
    () => {
        type Pairs = (int16x8_t, int16x8_t);
        const BY_PAIRS: bool = true;
        #[inline(always)]
        fn no_pairs(self) -> Self::Pairs {
            unsafe { (vdupq_n_s16(0), vdupq_n_s16(0)) }
        }
        #[inline(always)]
        fn add_pairs(self, sums: Self::Pairs, codes: Self::I, a: Self::I) -> Self::Pairs {
            unsafe {
                let (c, a) = (vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(a));
                let low = vmlal_s8(sums.0, vget_low_s8(c), vget_low_s8(a));
                (low, vmlal_high_s8(sums.1, c, a))
            }
        }
        #[inline(always)]
        fn sum_pairs(self, acc: Self::I, sums: Self::Pairs) -> Self::I {
            unsafe {
                let (low, high) = (vpaddlq_s16(sums.0), vpaddlq_s16(sums.1));
                vaddq_s32(acc, vpaddq_s32(low, high))
            }
        }
    };
}

macro_rules! neon_token {
    ($token:ident, $features:literal, $dot:expr, $pairs:ident) => {
        // In every method: the token proves that the CPU has the features.
        #[allow(clippy::undocumented_unsafe_blocks, unused_unsafe)]
        // SAFETY: the token is only made by `assume`.
        unsafe impl Simd for $token {
            type F = float32x4_t;
            type I = int32x4_t;
            $pairs!();
            const LANES: usize = 4;
            const I8_BIAS: i32 = 0;

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
                unsafe { vdupq_n_f32(x) }
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> Self::F {
                vld1q_f32(p)
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: Self::F) {
                vst1q_f32(p, v)
            }
            #[inline(always)]
            unsafe fn load_f16(self, p: *const u16) -> Self::F {
                let h = vld1_u16(p);
                let r: float32x4_t;
                std::arch::asm!("fcvtl {r:v}.4s, {h:v}.4h", r = out(vreg) r, h = in(vreg) h,
                    options(pure, nomem, nostack, preserves_flags));
                r
            }
            #[inline(always)]
            unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
                let mut x = [0f32; 4];
                vst1q_f32(x.as_mut_ptr(), v);
                for (i, x) in x.into_iter().enumerate() {
                    p.add(i).write_unaligned(f16::from_f32(x).to_bits());
                }
            }
            #[inline(always)]
            unsafe fn load_u8(self, p: *const u8) -> Self::I {
                let w = vreinterpret_u8_u32(vdup_n_u32(p.cast::<u32>().read_unaligned()));
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(w))))
            }
            #[inline(always)]
            unsafe fn load_i8(self, p: *const u8) -> Self::I {
                let w = vreinterpret_s8_u32(vdup_n_u32(p.cast::<u32>().read_unaligned()));
                vmovl_s16(vget_low_s16(vmovl_s8(w)))
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { vaddq_f32(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { vsubq_f32(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { vmulq_f32(a, b) }
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { vdivq_f32(a, b) }
            }
            #[inline(always)]
            fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                unsafe { vfmaq_f32(c, a, b) }
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { vmaxq_f32(a, b) }
            }
            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { vminq_f32(a, b) }
            }
            #[inline(always)]
            fn abs(self, a: Self::F) -> Self::F {
                unsafe { vabsq_f32(a) }
            }
            #[inline(always)]
            fn reduce_add(self, a: Self::F) -> f32 {
                unsafe {
                    let h = vadd_f32(vget_low_f32(a), vget_high_f32(a));
                    vget_lane_f32::<0>(h) + vget_lane_f32::<1>(h)
                }
            }
            #[inline(always)]
            fn reduce_max(self, a: Self::F) -> f32 {
                unsafe { vmaxnmvq_f32(a) }
            }
            #[inline(always)]
            fn round_i32(self, a: Self::F) -> Self::I {
                unsafe { vcvtnq_s32_f32(a) }
            }
            #[inline(always)]
            fn to_f32(self, a: Self::I) -> Self::F {
                unsafe { vcvtq_f32_s32(a) }
            }
            #[inline(always)]
            fn bits_to_f32(self, a: Self::I) -> Self::F {
                unsafe { vreinterpretq_f32_s32(a) }
            }
            #[inline(always)]
            fn splat_i32(self, x: i32) -> Self::I {
                unsafe { vdupq_n_s32(x) }
            }
            #[inline(always)]
            unsafe fn load_i(self, p: *const u8) -> Self::I {
                vreinterpretq_s32_u8(vld1q_u8(p))
            }
            #[inline(always)]
            unsafe fn splat_load(self, p: *const u8) -> Self::I {
                vdupq_n_s32(p.cast::<i32>().read_unaligned())
            }
            #[inline(always)]
            unsafe fn store_i(self, p: *mut u8, v: Self::I) {
                vst1q_u8(p, vreinterpretq_u8_s32(v))
            }
            #[inline(always)]
            unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
                let h = vqmovn_s32(v);
                let b = vqmovn_s16(vcombine_s16(h, h));
                p.cast::<u32>()
                    .write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_s8(b)))
            }
            #[inline(always)]
            fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { vaddq_s32(a, b) }
            }
            #[inline(always)]
            fn max_i32(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { vmaxq_s32(a, b) }
            }
            #[inline(always)]
            fn and(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { vandq_s32(a, b) }
            }
            #[inline(always)]
            fn or(self, a: Self::I, b: Self::I) -> Self::I {
                unsafe { vorrq_s32(a, b) }
            }
            #[inline(always)]
            fn shl<const N: u32>(self, a: Self::I) -> Self::I {
                unsafe { vshlq_s32(a, vdupq_n_s32(N as i32)) }
            }
            #[inline(always)]
            fn shr<const N: u32>(self, a: Self::I) -> Self::I {
                unsafe {
                    let u = vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(N as i32)));
                    vreinterpretq_s32_u32(u)
                }
            }
            #[inline(always)]
            fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
                unsafe {
                    let t = vld1q_u8(table.as_ptr());
                    vreinterpretq_s32_u8(vqtbl1q_u8(t, vreinterpretq_u8_s32(index)))
                }
            }
            #[inline(always)]
            fn dot_u7(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
                unsafe { $dot(acc, codes, a) }
            }
            #[inline(always)]
            fn dot_i8(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
                unsafe { $dot(acc, codes, a) }
            }
        }
    };
}

neon_token!(Neon, "neon", widening_dot, sums_of_products);
neon_token!(NeonDot, "neon,dotprod", sdot, pairs_are_dots);

//! No vector instructions: four lanes as an array. The definition of every
//! operation.

use crate::{Kernel, Simd};
use half::f16;

/// Token of the plain instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

const N: usize = 4;

#[inline(always)]
fn map2<T: Copy, R: Copy + Default>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> R) -> [R; N] {
    let mut r = [R::default(); N];
    for i in 0..N {
        r[i] = f(a[i], b[i]);
    }
    r
}

#[inline(always)]
fn map<T: Copy, R: Copy + Default>(a: [T; N], f: impl Fn(T) -> R) -> [R; N] {
    map2(a, a, |x, _| f(x))
}

// SAFETY: needs no CPU feature.
unsafe impl Simd for Scalar {
    type F = [f32; N];
    type I = [i32; N];
    pairs_are_dots!();
    const LANES: usize = N;
    const I8_BIAS: i32 = 0;
    // Elsewhere it is the only set there is.
    const PLAIN: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

    unsafe fn assume() -> Self {
        Scalar(())
    }
    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        p.cast::<[f32; N]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        p.cast::<[f32; N]>().write_unaligned(v)
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        map(p.cast::<[u16; N]>().read_unaligned(), |h| {
            f16::from_bits(h).to_f32()
        })
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::F) {
        p.cast::<[u16; N]>()
            .write_unaligned(map(v, |x| f16::from_f32(x).to_bits()))
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::I {
        map(p.cast::<[u8; N]>().read_unaligned(), i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Self::I {
        map(p.cast::<[i8; N]>().read_unaligned(), i32::from)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn reduce_add(self, a: Self::F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        a[0].max(a[2]).max(a[1].max(a[3]))
    }
    #[inline(always)]
    fn round_i32(self, a: Self::F) -> Self::I {
        map(a, |x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        map(a, |x| x as f32)
    }
    #[inline(always)]
    fn bits_to_f32(self, a: Self::I) -> Self::F {
        map(a, |x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const u8) -> Self::I {
        p.cast::<[i32; N]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn splat_load(self, p: *const u8) -> Self::I {
        [p.cast::<i32>().read_unaligned(); N]
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut u8, v: Self::I) {
        p.cast::<[i32; N]>().write_unaligned(v)
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: Self::I) {
        p.cast::<[i8; N]>()
            .write_unaligned(map(v, |x| x.clamp(-128, 127) as i8))
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        map2(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn max_i32(self, a: Self::I, b: Self::I) -> Self::I {
        map2(a, b, i32::max)
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        map2(a, b, |x, y| x & y)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        map2(a, b, |x, y| x | y)
    }
    #[inline(always)]
    fn shl<const K: u32>(self, a: Self::I) -> Self::I {
        map(a, |x| x << K)
    }
    #[inline(always)]
    fn shr<const K: u32>(self, a: Self::I) -> Self::I {
        map(a, |x| ((x as u32) >> K) as i32)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I {
        map(index, |x| {
            i32::from_le_bytes(x.to_le_bytes().map(|b| table[usize::from(b & 15)]))
        })
    }
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
        self.dot_i8(acc, codes, a)
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I {
        let mut r = acc;
        for i in 0..N {
            let (c, x) = (codes[i].to_le_bytes(), a[i].to_le_bytes());
            for j in 0..4 {
                r[i] = r[i].wrapping_add(i32::from(c[j] as i8) * i32::from(x[j] as i8));
            }
        }
        r
    }
}

//! Vectors of each instruction set behind one trait.
//!
//! A kernel is written once, generic over [`Simd`], and compiled once per
//! instruction set. A value of an ISA's token type (say `Avx2`) exists
//! only if the CPU has the features, so holding it proves that the vector
//! methods may run; the methods that touch no memory are therefore safe.
//!
//! Every intrinsic of the project lives in this crate, under `isa`, one file
//! per instruction set; the scalar file is the definition that the others are
//! tested against.
//!
//! Invariants:
//! * A kernel runs through [`Simd::vectorize`], which enters a function
//!   compiled with the ISA's features; everything a kernel calls that takes
//!   vectors is `#[inline(always)]`, or it would be compiled without them.
//! * Reductions have one fixed order per ISA, so results never depend on who
//!   calls.
//!
//! ```
//! use rustml_simd::{with_isa, Isa, Kernel, Simd};
//!
//! struct Sum<'a>(&'a [f32]);
//! impl Kernel for Sum<'_> {
//!     type Out = f32;
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) -> f32 {
//!         let mut acc = s.splat(0.0);
//!         let mut chunks = self.0.chunks_exact(S::LANES);
//!         for c in &mut chunks {
//!             // SAFETY: `c` holds LANES values.
//!             acc = s.add(acc, unsafe { s.load(c.as_ptr()) });
//!         }
//!         s.reduce_add(acc) + chunks.remainder().iter().sum::<f32>()
//!     }
//! }
//! for isa in Isa::available() {
//!     assert_eq!(with_isa(isa, Sum(&[1.0; 37])), 37.0);
//! }
//! ```

mod detect;
mod isa;
mod math;

pub use detect::{cpu_features, with_bf16, with_isa, Core, Isa};
#[cfg(target_arch = "aarch64")]
pub use isa::neon::{Neon, NeonDot};
pub use isa::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub use isa::{
    amx::Tiles,
    avx2::{Avx2, Avx2Vnni},
    avx512::{Avx512, Avx512Bf16},
    sse41::Sse41,
    tiles::{PlainTiles, TileProducts},
};
pub use math::{erf, exp, exp_m1, gelu_erf, gelu_tanh, sigmoid, softplus, tanh};

/// Asks for the cache line at `p`, which need not be readable, where it is near
/// but in nobody's way: in the core's second cache.
#[inline(always)]
pub fn prefetch_near(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64, and it reads nothing.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(p.cast())
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: part of every aarch64, and it reads nothing.
    unsafe {
        core::arch::asm!("prfm pldl2keep, [{}]", in(reg) p, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// A computation that is compiled once per instruction set.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// Runs with the given token. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Operations on the vectors of one instruction set.
///
/// `F` holds [`Simd::LANES`] single-precision numbers, `I` as many 32-bit
/// integers or four times as many bytes. Lane `i` of a byte dot product sums
/// the bytes `4 i .. 4 i + 4`.
///
/// # Safety
/// An implementation's token can only be had where the CPU supports it.
#[allow(clippy::missing_safety_doc)] // the memory operations share one contract, stated below
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// Single-precision vector.
    type F: Copy;
    /// Integer vector.
    type I: Copy;
    /// Sums on their way to a byte dot product, see [`Simd::add_pairs`].
    type Pairs: Copy;
    /// 32-bit lanes of a vector.
    const LANES: usize;
    /// What is added to a signed byte code before it is given to
    /// [`Simd::dot_i8`]: 128 where the dot instruction takes unsigned codes.
    const I8_BIAS: i32;
    /// Whether several byte dot products are cheaper by way of [`Simd::Pairs`]: where
    /// one is no single instruction.
    const BY_PAIRS: bool = false;
    /// Whether several rows at a time gain nothing: where the set is the definition of the
    /// others and no more, as few loops as can be are compiled for it.
    const PLAIN: bool = false;
    /// Whether [`Simd::dot_bf16`] is one instruction.
    const DOTS_BF16: bool = false;

    /// The token, made without asking the CPU.
    ///
    /// # Safety
    /// The CPU has the ISA's features.
    unsafe fn assume() -> Self;

    /// Runs `kernel` in a function compiled with this ISA's features.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Reads LANES values. Memory operations need no alignment.
    ///
    /// # Safety
    /// For this and every other method that takes a pointer: the bytes it
    /// names (LANES elements of the pointee's kind unless said otherwise)
    /// are valid for the access.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Writes LANES values.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// Reads LANES half-precision values.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Writes LANES half-precision values, rounding to nearest even.
    unsafe fn store_f16(self, p: *mut u16, v: Self::F);
    /// Writes LANES values as bfloat16, rounding to nearest even; NaN stays NaN. What is
    /// subnormal may become zero.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: Self::F) {
        let mut x = [0f32; 16];
        self.store(x.as_mut_ptr(), v);
        for (i, x) in x[..Self::LANES].iter().enumerate() {
            p.add(i).write_unaligned(half::bf16::from_f32(*x).to_bits());
        }
    }
    /// Reads LANES unsigned bytes, one to a lane.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// Reads LANES signed bytes, one to a lane.
    unsafe fn load_i8(self, p: *const u8) -> Self::I;
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, fused where the ISA can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each pair. NaN where `b` is NaN; where only `a` is, either
    /// of the two. Zeros are equal, so the sign of the result may be either's.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair, with [`Simd::max`]'s rules for NaN and zeros.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Absolute values.
    fn abs(self, a: Self::F) -> Self::F;
    /// Sum of all lanes: the upper half is added to the lower until one is left.
    fn reduce_add(self, a: Self::F) -> f32;
    /// Largest lane; unspecified if one is NaN.
    fn reduce_max(self, a: Self::F) -> f32;
    /// Nearest integers, ties to even; the argument is within i32.
    fn round_i32(self, a: Self::F) -> Self::I;
    /// Integers as floats.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// The same bits as floats.
    fn bits_to_f32(self, a: Self::I) -> Self::F;

    /// All 32-bit lanes `x`.
    fn splat_i32(self, x: i32) -> Self::I;
    /// Reads a whole vector of bytes.
    unsafe fn load_i(self, p: *const u8) -> Self::I;
    /// Reads 4 bytes into every lane.
    unsafe fn splat_load(self, p: *const u8) -> Self::I;
    /// Writes a whole vector of bytes.
    unsafe fn store_i(self, p: *mut u8, v: Self::I);
    /// Writes the low byte of every lane, saturated from i32 to i8: LANES bytes.
    unsafe fn store_i8(self, p: *mut i8, v: Self::I);
    /// Lane-wise 32-bit `a + b`.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger of each pair of signed lanes.
    fn max_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// The sum of each vector's lanes, which wraps.
    #[inline(always)]
    fn sum_each(self, v: &[Self::I; 16]) -> [i32; 16] {
        each(self, v, i32::wrapping_add)
    }
    /// Rounds `count` blocks, 16 at most, of 32 values times the block's factor to
    /// bytes, saturated: the values at `from(block)`, the bytes to `to(block)`.
    /// Returns the sums of the bytes of each block's lower half, and of the upper:
    /// of blocks beyond `count`, and where a byte was saturated, they mean nothing.
    #[inline(always)]
    unsafe fn round_blocks(
        self,
        factors: &[f32; 16],
        count: usize,
        from: impl Fn(usize) -> *const f32,
        to: impl Fn(usize) -> *mut i8,
    ) -> [[i32; 16]; 2] {
        let mut sums = [[self.splat_i32(0); 16]; 2];
        for i in 0..count {
            let (from, to, factor) = (from(i), to(i), self.splat(factors[i]));
            for (half, sums) in sums.iter_mut().enumerate() {
                for j in (half * 16..half * 16 + 16).step_by(Self::LANES) {
                    let v = self.round_i32(self.mul(self.load(from.add(j)), factor));
                    self.store_i8(to.add(j), v);
                    sums[i] = self.add_i32(sums[i], v);
                }
            }
        }
        [self.sum_each(&sums[0]), self.sum_each(&sums[1])]
    }
    /// The largest of each vector's signed lanes.
    #[inline(always)]
    fn max_each(self, v: &[Self::I; 16]) -> [i32; 16] {
        each(self, v, i32::max)
    }
    /// Bitwise and.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit lanes shifted left by `N` bits.
    fn shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// 32-bit lanes shifted right by `N` bits, zeros in.
    fn shr<const N: u32>(self, a: Self::I) -> Self::I;
    /// Every byte of `index` (0 to 15) replaced by `table[index]`.
    fn lookup(self, table: &[u8; 16], index: Self::I) -> Self::I;
    /// `acc + sum of 4 products` of codes 0..=127 and signed bytes in -127..=127.
    fn dot_u7(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I;
    /// The same for signed codes stored with [`Simd::I8_BIAS`] added; the sum
    /// is that of the biased codes.
    fn dot_i8(self, acc: Self::I, codes: Self::I, a: Self::I) -> Self::I;
    /// Nothing summed yet.
    fn no_pairs(self) -> Self::Pairs;
    /// Adds the products of codes and signed bytes in -127..=127 to sums that may
    /// have 16 bits: the codes summed into one place, each at its largest, are 127
    /// at most. So what [`Simd::dot_u7`] has to widen every time is widened once.
    fn add_pairs(self, sums: Self::Pairs, codes: Self::I, a: Self::I) -> Self::Pairs;
    /// `acc + sums`, those of each lane together.
    fn sum_pairs(self, acc: Self::I, sums: Self::Pairs) -> Self::I;
    /// `acc + sum of 2 products` of bfloat16 numbers, of which every lane holds
    /// a pair: first the high halves' product is added, then that of the low ones.
    ///
    /// Where there is an instruction for it (see [`Isa::dots_bf16`]), it takes
    /// subnormal numbers for zeros and gives zeros for them; the products and
    /// sums of others may be rounded otherwise than [`Simd::fma`] does.
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::I, x: Self::I) -> Self::F {
        let high = self.fma(high_bf16(self, w), high_bf16(self, x), acc);
        self.fma(low_bf16(self, w), low_bf16(self, x), high)
    }
}

/// The low half of every lane, a bfloat16 number, in single precision.
#[inline(always)]
fn low_bf16<S: Simd>(s: S, pairs: S::I) -> S::F {
    s.bits_to_f32(s.shl::<16>(pairs))
}

/// The high half.
#[inline(always)]
fn high_bf16<S: Simd>(s: S, pairs: S::I) -> S::F {
    s.bits_to_f32(s.and(pairs, s.splat_i32(!0xffff)))
}

/// Folds the lanes of each vector.
#[inline(always)]
fn each<S: Simd>(s: S, v: &[S::I; 16], f: impl Fn(i32, i32) -> i32) -> [i32; 16] {
    let mut out = [0; 16];
    for (out, v) in out.iter_mut().zip(v) {
        let mut lanes = [0i32; 16]; // the widest vector
                                    // SAFETY: room for every vector.
        unsafe { s.store_i(lanes.as_mut_ptr().cast(), *v) };
        let (first, rest) = (lanes[0], &lanes[1..S::LANES]);
        *out = rest.iter().fold(first, |a, &b| f(a, b));
    }
    out
}

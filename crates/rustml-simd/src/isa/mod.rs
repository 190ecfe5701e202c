//! One file per instruction set.

/// For sets with a dot instruction, or none at all: sums of pairs are dot products.
macro_rules! pairs_are_dots {
    () => {
        type Pairs = Self::I;
        #[inline(always)]
        fn no_pairs(self) -> Self::Pairs {
            self.splat_i32(0)
        }
        #[inline(always)]
        fn add_pairs(self, sums: Self::Pairs, codes: Self::I, a: Self::I) -> Self::Pairs {
            self.dot_u7(sums, codes, a)
        }
        #[inline(always)]
        fn sum_pairs(self, acc: Self::I, sums: Self::Pairs) -> Self::I {
            self.add_i32(acc, sums)
        }
    };
}

pub mod scalar;

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
pub mod sse41;
#[cfg(target_arch = "x86_64")]
pub mod tiles;

#[cfg(target_arch = "aarch64")]
pub mod neon;

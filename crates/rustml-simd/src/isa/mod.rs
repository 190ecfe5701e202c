//! One file per instruction set.

pub mod scalar;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
pub mod sse41;

#[cfg(target_arch = "aarch64")]
pub mod neon;

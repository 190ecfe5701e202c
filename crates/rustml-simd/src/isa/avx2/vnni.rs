//! AVX2 with AVX-VNNI.
//!
//! A module of its own, as every set has: the compiler makes code module by module, so
//! kernels of different sets are compiled side by side.

use super::*;

/// Token of AVX2, FMA, F16C and AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx2Vnni(());

avx2_token!(
    Avx2Vnni,
    "avx2,fma,f16c,avxvnni",
    128,
    _mm256_dpbusd_avx_epi32,
    _mm256_dpbusd_avx_epi32,
    pairs_are_dots
);

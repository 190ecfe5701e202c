//! Which instruction sets this CPU has, and entering one of them.

use crate::{isa::scalar::Scalar, Kernel, Simd};
use std::sync::OnceLock;

/// An instruction set the kernels are compiled for, from plain to best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// No vector instructions.
    Scalar,
    /// SSE4.1.
    Sse41,
    /// NEON, on every AArch64 CPU.
    Neon,
    /// NEON with the dot product extension.
    NeonDot,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX2 with the dot products of AVX-VNNI.
    Avx2Vnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same with AVX512-BF16 and the tiles of AMX, of bfloat16, for prompts.
    Amx,
}

impl Isa {
    /// All there are, on whatever architecture.
    pub const ALL: [Isa; 8] = [
        Isa::Scalar,
        Isa::Sse41,
        Isa::Neon,
        Isa::NeonDot,
        Isa::Avx2,
        Isa::Avx2Vnni,
        Isa::Avx512,
        Isa::Amx,
    ];

    /// The name that `RUSTML_ISA` takes and reports show.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Sse41 => "sse4.1",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon-dotprod",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512 => "avx512-vnni",
            Isa::Amx => "amx",
        }
    }

    /// Whether this CPU and operating system run it.
    ///
    /// Cheap: the CPU is asked once.
    pub fn is_available(self) -> bool {
        static AVAILABLE: OnceLock<u8> = OnceLock::new();
        let bit = |isa: Isa| 1 << isa as u8;
        let detect = || {
            let found = Isa::ALL.into_iter().filter(|isa| isa.detect());
            found.fold(0, |set, isa| set | bit(isa))
        };
        AVAILABLE.get_or_init(detect) & bit(self) != 0
    }

    fn detect(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Sse41 => std::is_x86_feature_detected!("sse4.1"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => has_avx2() && std::is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => {
                has_avx512()
                    && std::is_x86_feature_detected!("avx512bf16")
                    && crate::isa::amx::is_allowed()
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// All that run here, plainest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|i| i.is_available()).collect()
    }

    /// The best one that runs here.
    pub fn best() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Scalar)
    }

    /// The one named by the environment variable `RUSTML_ISA`, else the best.
    ///
    /// # Errors
    /// A sentence if the name is unknown or the CPU lacks the set.
    pub fn from_env() -> Result<Isa, String> {
        match std::env::var("RUSTML_ISA") {
            Err(_) => Ok(Isa::best()),
            Ok(name) if name.is_empty() => Ok(Isa::best()),
            Ok(name) => Isa::parse(&name),
        }
    }

    /// The available set of that name.
    ///
    /// # Errors
    /// A sentence if the name is unknown or the CPU lacks the set.
    pub fn parse(name: &str) -> Result<Isa, String> {
        let wanted = name.to_ascii_lowercase().replace('_', "-");
        let here = || {
            let names: Vec<_> = Isa::available().iter().map(|i| i.name()).collect();
            names.join(", ")
        };
        let found = Isa::ALL.into_iter().find(|i| {
            i.name() == wanted
                || (*i == Isa::Sse41 && wanted == "sse41")
                || (*i == Isa::Avx512 && wanted == "avx512")
        });
        match found {
            None => Err(format!(
                "RUSTML_ISA: '{name}' is no instruction set known here; available on this CPU: {}",
                here()
            )),
            Some(isa) if !isa.is_available() => Err(format!(
                "RUSTML_ISA: this CPU has no {}; available: {}",
                isa.name(),
                here()
            )),
            Some(isa) => Ok(isa),
        }
    }

    /// Whether this set has an instruction for [`Simd::dot_bf16`] on this CPU:
    /// not every CPU with AVX-512 and VNNI has AVX512-BF16, so it is no part of
    /// the set, and only what gains by it is compiled for it ([`with_bf16`]).
    pub fn dots_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Isa::Avx512 | Isa::Amx)
            && std::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// [`Simd::I8_BIAS`] of this set.
    pub const fn i8_bias(self) -> i32 {
        match self {
            Isa::Avx2Vnni | Isa::Avx512 | Isa::Amx => 128,
            _ => 0,
        }
    }

    /// 32-bit lanes of a vector.
    pub const fn lanes(self) -> usize {
        match self {
            Isa::Scalar | Isa::Sse41 | Isa::Neon | Isa::NeonDot => 4,
            Isa::Avx2 | Isa::Avx2Vnni => 8,
            Isa::Avx512 | Isa::Amx => 16,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512vnni")
}

/// Cores that, to read memory fast, want to be asked for it in a way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Intel's.
    Intel,
    /// AMD's from Zen 5 on.
    Zen5,
    /// Any other.
    Other,
}

impl Core {
    /// What kind of core this process runs on.
    pub fn here() -> Core {
        static HERE: OnceLock<Core> = OnceLock::new();
        *HERE.get_or_init(|| match (vendor(), family()) {
            (name, _) if name == *b"GenuineIntel" => Core::Intel,
            (name, 0x1a..) if name == *b"AuthenticAMD" => Core::Zen5,
            _ => Core::Other,
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn leaf(number: u32) -> std::arch::x86_64::CpuidResult {
    #[allow(unused_unsafe)] // of compilers before 1.94 it is unsafe
    // SAFETY: every CPU of this architecture has the instruction.
    unsafe {
        std::arch::x86_64::__cpuid(number)
    }
}

#[cfg(target_arch = "x86_64")]
fn vendor() -> [u8; 12] {
    let leaf = leaf(0);
    let mut name = [0; 12];
    for (name, part) in name.chunks_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        name.copy_from_slice(&part.to_le_bytes());
    }
    name
}

/// The number that AMD gives each generation of cores.
#[cfg(target_arch = "x86_64")]
fn family() -> u32 {
    let version = leaf(1).eax;
    match version >> 8 & 0xf {
        0xf => 0xf + (version >> 20 & 0xff),
        base => base,
    }
}

/// Other architectures have no such name.
#[cfg(not(target_arch = "x86_64"))]
fn vendor() -> [u8; 12] {
    [0; 12]
}

/// Nor such a number.
#[cfg(not(target_arch = "x86_64"))]
fn family() -> u32 {
    0
}

/// Names of all that kernels use of this CPU: the available sets, and what they
/// have beyond their definition.
pub fn cpu_features() -> Vec<&'static str> {
    let sets = Isa::available();
    let bf16 = sets.iter().any(|isa| isa.dots_bf16());
    let names = sets.iter().map(|isa| isa.name());
    names.chain(bf16.then_some("avx512-bf16")).collect()
}

/// Runs `kernel` on the given instruction set, with its instruction for
/// [`Simd::dot_bf16`] if it [has one](Isa::dots_bf16).
///
/// # Panics
/// If the CPU does not have the set.
pub fn with_bf16<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    if isa.is_available() && isa.dots_bf16() {
        // SAFETY: both were just checked.
        return unsafe { crate::Avx512Bf16::assume().vectorize(kernel) };
    }
    with_isa(isa, kernel)
}

/// Runs `kernel` on the given instruction set.
///
/// # Panics
/// If the CPU does not have it.
pub fn with_isa<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    assert!(isa.is_available(), "{} is not available here", isa.name());
    // SAFETY: availability was just checked.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Sse41 => crate::Sse41::assume().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::Avx2::assume().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => crate::Avx2Vnni::assume().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => crate::Avx512::assume().vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => crate::Neon::assume().vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => crate::NeonDot::assume().vectorize(kernel),
            _ => Scalar::assume().vectorize(kernel),
        }
    }
}

//! AMX: products of tiles of bytes or bfloat16, beside the vectors of AVX-512.
//!
//! A tile register holds up to 16 rows of 64 bytes. One instruction multiplies up to
//! 16 rows of activations with the 16 outputs of a panel, whose groups of four bytes, or
//! pairs of bfloat16, lie as the vectors' dot products want them, too (Intel, "Architecture
//! Instruction Set Extensions Programming Reference", chapter 3). Registers are not
//! renamed: a sum that is stored some products after it was made holds up nothing.
//!
//! The instructions are written out, as the compiler's functions for them are not
//! stable; it never uses the registers itself.

use super::tiles::TileProducts;
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __m512, _mm512_set1_ps, _xgetbv};
use std::marker::PhantomData;

/// Tile registers 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
const SUMS: std::ops::Range<usize> = 0..Tiles::SUMS;
const ACTIVATIONS: std::ops::Range<usize> = 4..6;
const WEIGHTS: std::ops::Range<usize> = 6..8;

/// Whether the CPU has tiles of bytes and of bfloat16, and the system keeps them for this
/// process: it is asked to.
pub(crate) fn is_allowed() -> bool {
    const ALL: u32 = 1 << 24 | 1 << 25 | 1 << 22; // tiles; of bytes; of bfloat16
    const STATE: u64 = 0b11 << 17;
    if !std::is_x86_feature_detected!("avx512f") || !std::is_x86_feature_detected!("xsave") {
        return false;
    }
    #[allow(unused_unsafe)] // of compilers before 1.94 the first is unsafe
    // SAFETY: a CPU with AVX-512 has this leaf, and the other instruction was asked for.
    let (features, state) = unsafe { (__cpuid_count(7, 0).edx, kept()) };
    features & ALL == ALL && state & STATE == STATE && permitted()
}

/// Which registers the system keeps.
#[target_feature(enable = "xsave")]
fn kept() -> u64 {
    // SAFETY: register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Linux keeps tiles only of processes that ask for it (`Documentation/arch/x86/xstate.rst`);
/// their threads may then use them, those that run already too.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: passes no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// 1.5 times 2^23: what is added to its bits, within some 2^22, is added to its value.
/// So sums begin there and become floats by a subtraction, for which the processor has a
/// unit to spare beside tiles, as it has none for conversions.
const START: f32 = 12_582_912.0;

/// The same for each output.
static STARTS: Line = Line([START; 16]);

/// A cache line.
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Loads the operands.
macro_rules! load {
    () => {
        "tileloadd tmm{a}, [{activations} + {stride}]
         tileloadd tmm{w}, [{weights} + {line}]"
    };
}

/// Multiplies them: all rows of sums begin as the same.
macro_rules! multiply {
    () => {
        "tileloadd tmm{sums}, [{starts} + {same}]
         tdpbssd tmm{sums}, tmm{a}, tmm{w}"
    };
}

/// Calls a macro with what `load` and `multiply` need for sums `C` among its arguments.
macro_rules! with_operands {
    ($sums:expr, $operands:expr, $then:ident { $($before:tt)* } { $($after:tt)* }) => {{
        let (activations, stride, weights): (*const u8, usize, *const u8) = $operands;
        $then!(
            $($before)*
            sums = const SUMS.start + $sums,
            a = const ACTIVATIONS.start + $sums % 2,
            w = const WEIGHTS.start + $sums % 2,
            activations = in(reg) activations,
            stride = in(reg) stride,
            weights = in(reg) weights,
            starts = in(reg) &STARTS,
            same = in(reg) 0usize,
            $($after)*
        )
    }};
}

/// Adds a row of the sums in memory, by way of vector registers `t` and `u`.
macro_rules! add_row {
    ($n:literal, $t:literal, $u:literal) => {
        concat!(
            "vmovups ",
            $t,
            ", [{memory} + 64 * ",
            $n,
            "]
             vmulps ",
            $u,
            ", {scale}, dword ptr [{scales} + 4 * ",
            $n,
            "]{{1to16}}
             vsubps ",
            $t,
            ", ",
            $t,
            ", {start}
             vfmadd231ps {acc",
            $n,
            "}, ",
            $t,
            ", ",
            $u
        )
    };
}

/// Four of them.
macro_rules! add_rows {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            add_row!($a, "zmm24", "zmm28"),
            "\n",
            add_row!($b, "zmm25", "zmm29"),
            "\n",
            add_row!($c, "zmm26", "zmm30"),
            "\n",
            add_row!($d, "zmm27", "zmm31"),
        )
    };
}

/// What stores sums in memory, and then their addition to `acc`. Written out, so that
/// the compiler does not begin with all of it at once, for which registers are lacking.
macro_rules! add {
    (
        $acc:ident, $scale:ident, $scales:ident, $memory:ident;
        $($code:expr),*; $($operand:tt)*
    ) => {
        asm!(
            $($code,)*
            add_rows!("0", "1", "2", "3"), add_rows!("4", "5", "6", "7"),
            add_rows!("8", "9", "10", "11"), add_rows!("12", "13", "14", "15"),
            $($operand)*
            memory = in(reg) $memory,
            line = in(reg) Tiles::LINE,
            scale = in(zmm_reg) $scale,
            scales = in(reg) $scales,
            start = in(zmm_reg) _mm512_set1_ps(START),
            acc0 = inout(zmm_reg) $acc[0], acc1 = inout(zmm_reg) $acc[1],
            acc2 = inout(zmm_reg) $acc[2], acc3 = inout(zmm_reg) $acc[3],
            acc4 = inout(zmm_reg) $acc[4], acc5 = inout(zmm_reg) $acc[5],
            acc6 = inout(zmm_reg) $acc[6], acc7 = inout(zmm_reg) $acc[7],
            acc8 = inout(zmm_reg) $acc[8], acc9 = inout(zmm_reg) $acc[9],
            acc10 = inout(zmm_reg) $acc[10], acc11 = inout(zmm_reg) $acc[11],
            acc12 = inout(zmm_reg) $acc[12], acc13 = inout(zmm_reg) $acc[13],
            acc14 = inout(zmm_reg) $acc[14], acc15 = inout(zmm_reg) $acc[15],
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nostack, preserves_flags)
        )
    };
}

/// The calling thread's tile registers, set up for tiles of so many rows and inputs;
/// until it is dropped, they have a shape.
///
/// It stays with its thread.
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Registers for sums.
    pub const SUMS: usize = 4;

    /// Rows of activations in a tile.
    pub const ROWS: usize = 16;

    /// Bytes of a row of sums, and of four inputs of all outputs.
    const LINE: usize = 64;

    /// Bytes of a whole tile.
    pub const BYTES: usize = 1024;

    /// Tiles of 16 rows, and of as many outputs, over so many bytes of inputs: at most 64.
    ///
    /// # Safety
    /// [`Isa::Amx`](crate::Isa::Amx) is available, and this thread has no other `Tiles`.
    #[inline]
    pub unsafe fn new(inputs: usize) -> Tiles {
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (range, rows, bytes) in [
            (SUMS, Tiles::ROWS, Tiles::LINE),
            (ACTIVATIONS, Tiles::ROWS, inputs),
            (WEIGHTS, inputs / 4, Tiles::LINE),
        ] {
            for t in range {
                shapes.rows[t] = rows as u8;
                shapes.row_bytes[t] = bytes as u16;
            }
        }
        asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly, preserves_flags));
        Tiles(PhantomData)
    }

    /// Makes sums `C` (0 to 3) those of the products of 16 rows of signed bytes, `stride`
    /// apart, with the groups of four signed bytes at `weights`.
    ///
    /// # Safety
    /// So many rows and groups are readable.
    #[inline(always)]
    pub unsafe fn multiply<const C: usize>(&self, operands: (*const u8, usize, *const u8)) {
        with_operands!(C, operands, asm {
            load!(),
            multiply!(),
        } {
            line = in(reg) Tiles::LINE,
            options(nostack, readonly, preserves_flags)
        });
    }

    /// Adds sums `C` to `acc`, each times `scale` of its output and that of its row at
    /// `scales`, and makes them those of [`Tiles::multiply`]. They pass through
    /// `memory`.
    ///
    /// # Safety
    /// As for `multiply`; 256 numbers are writable at `memory`, and 16 readable at `scales`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn add_and_multiply<const C: usize>(
        &self,
        acc: &mut [__m512; 16],
        (scale, scales, memory): (__m512, *const f32, *mut f32),
        operands: (*const u8, usize, *const u8),
    ) {
        with_operands!(C, operands, add {
            acc, scale, scales, memory;
            load!(), "tilestored [{memory} + {line}], tmm{sums}", multiply!();
        } {});
    }

    /// Products of whatever the registers hold, `4 * times` of them, of bytes or, if `pairs`,
    /// of bfloat16: what the processor can do at most.
    pub fn only_multiply(&self, times: usize, pairs: bool) {
        macro_rules! four {
            ($instruction:literal) => {
                // SAFETY: no memory is used.
                unsafe {
                    asm!(
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm5, tmm7"),
                        concat!($instruction, " tmm2, tmm4, tmm7"),
                        concat!($instruction, " tmm3, tmm5, tmm6"),
                        options(nostack, nomem, preserves_flags)
                    )
                }
            };
        }
        for _ in 0..times {
            match pairs {
                true => four!("tdpbf16ps"),
                false => four!("tdpbssd"),
            }
        }
    }

    /// Only adds, where no more products follow.
    ///
    /// # Safety
    /// As for `add_and_multiply`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn add<const C: usize>(
        &self,
        acc: &mut [__m512; 16],
        (scale, scales, memory): (__m512, *const f32, *mut f32),
    ) {
        add!(
            acc, scale, scales, memory;
            "tilestored [{memory} + {line}], tmm{sums}";
            sums = const SUMS.start + C,
        );
    }
}

/// The registers were made for 64 bytes of inputs. An output is rounded after every step, and
/// within it even and odd inputs are summed apart.
impl TileProducts for Tiles {
    #[inline(always)]
    unsafe fn add_products<const R: usize, const P: usize>(
        &self,
        rows: (*const u8, usize),
        panels: (*const u8, usize),
        steps: usize,
        sums: (*mut u8, usize, usize),
        anew: bool,
    ) {
        let sums = |r: usize, p: usize| sums.0.wrapping_add(r * sums.1 + p * sums.2);
        macro_rules! tile {
            ($instruction:literal, $at:expr) => {
                asm!(
                    $instruction, at = in(reg) $at, line = in(reg) Tiles::LINE,
                    options(nostack, preserves_flags)
                )
            };
        }
        macro_rules! each {
            ($a:literal $b:literal $c:literal $d:literal) => {{
                tile!($a, sums(0, 0));
                if P > 1 {
                    tile!($b, sums(0, 1));
                }
                if R > 1 {
                    tile!($c, sums(1, 0));
                }
                if R > 1 && P > 1 {
                    tile!($d, sums(1, 1));
                }
            }};
        }
        match anew {
            true => asm!(
                "tilezero tmm0
                 tilezero tmm1
                 tilezero tmm2
                 tilezero tmm3",
                options(nostack, nomem, preserves_flags)
            ),
            false => each!(
                "tileloadd tmm0, [{at} + {line}]" "tileloadd tmm1, [{at} + {line}]"
                "tileloadd tmm2, [{at} + {line}]" "tileloadd tmm3, [{at} + {line}]"
            ),
        }
        macro_rules! multiply {
            ($instruction:literal) => {
                asm!($instruction, options(nostack, nomem, preserves_flags))
            };
        }
        let (mut x, mut w) = (rows.0, panels.0);
        for _ in 0..steps {
            tile!("tileloadd tmm6, [{at} + {line}]", w);
            // Rows pass by in a stream: no need to keep them in the first cache.
            tile!("tileloaddt1 tmm4, [{at} + {line}]", x);
            multiply!("tdpbf16ps tmm0, tmm4, tmm6");
            if P > 1 {
                tile!("tileloadd tmm7, [{at} + {line}]", w.wrapping_add(panels.1));
                multiply!("tdpbf16ps tmm1, tmm4, tmm7");
            }
            if R > 1 {
                tile!("tileloaddt1 tmm5, [{at} + {line}]", x.wrapping_add(rows.1));
                multiply!("tdpbf16ps tmm2, tmm5, tmm6");
            }
            if R > 1 && P > 1 {
                multiply!("tdpbf16ps tmm3, tmm5, tmm7");
            }
            x = x.wrapping_add(Tiles::BYTES);
            w = w.wrapping_add(Tiles::BYTES);
        }
        each!(
            "tilestored [{at} + {line}], tmm0" "tilestored [{at} + {line}], tmm1"
            "tilestored [{at} + {line}], tmm2" "tilestored [{at} + {line}], tmm3"
        );
    }
}

impl Drop for Tiles {
    /// Leaves the registers empty, so that nobody need save them.
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as for `new`.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

//! AMX: products of tiles of bfloat16, beside the vectors of AVX-512.
//!
//! A tile register holds up to 16 rows of 64 bytes. One instruction multiplies up to
//! 16 rows of activations with the 16 outputs of a panel, whose pairs of bfloat16 lie as the
//! vectors' dot products want them, too (Intel, "Architecture Instruction Set Extensions
//! Programming Reference", chapter 3).
//!
//! The instructions are written out, as the compiler's functions for them are not
//! stable. What the registers hold never outlives a block of instructions. Their shapes do:
//! those are a setting of the thread, as how floats are rounded is, which the compiler
//! neither reads nor changes.

use super::tiles::TileProducts;
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;

/// Tile registers 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
const SUMS: std::ops::Range<usize> = 0..4;
const ACTIVATIONS: std::ops::Range<usize> = 4..6;
const WEIGHTS: std::ops::Range<usize> = 6..8;

/// Whether the CPU has tiles of bfloat16, and the system keeps them for this
/// process: it is asked to.
pub(crate) fn is_allowed() -> bool {
    const ALL: u32 = 1 << 24 | 1 << 22; // tiles; of bfloat16
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

/// Products over some steps, from their first sums to their last ones: the registers of tiles
/// hold nothing that outlives this, as the compiler may expect of every block of
/// instructions.
macro_rules! products {
    (
        ($($load:literal)*) ($($step:literal)*) ($($store:literal)*);
        $anew:expr, $steps:expr, $x:expr, $w:expr, $sums:expr
    ) => {
        asm!(
            "test {anew:e}, {anew:e}",
            "jnz 2f",
            $($load,)*
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "test {steps}, {steps}",
            "jz 5f",
            "4:",
            $($step,)*
            "add {x}, {tile}",
            "add {x1}, {tile}",
            "add {w}, {tile}",
            "add {w1}, {tile}",
            "dec {steps}",
            "jnz 4b",
            "5:",
            $($store,)*
            // Those that one kind does not use are used here.
            "# {s00} {s01} {s10} {s11}",
            anew = in(reg) u32::from($anew),
            steps = inout(reg) $steps => _,
            x = inout(reg) $x[0] => _,
            x1 = inout(reg) $x[1] => _,
            w = inout(reg) $w[0] => _,
            w1 = inout(reg) $w[1] => _,
            s00 = in(reg) $sums[0][0],
            s01 = in(reg) $sums[0][1],
            s10 = in(reg) $sums[1][0],
            s11 = in(reg) $sums[1][1],
            line = in(reg) Tiles::LINE,
            tile = const Tiles::BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

/// The calling thread's tile registers, set up for tiles of so many rows and inputs;
/// until it is dropped, they have a shape.
///
/// It stays with its thread.
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Rows of activations in a tile.
    pub const ROWS: usize = 16;

    /// Bytes of a row of sums, and of two inputs of all outputs.
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

    /// Products of zeros, `4 * times` of them, of bfloat16: what the processor can do at most.
    pub fn only_multiply(&self, times: usize) {
        // SAFETY: no memory is used, and the registers have a shape.
        unsafe {
            asm!(
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "test {times}, {times}",
                "jz 3f",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm6",
                "dec {times}",
                "jnz 2b",
                "3:",
                times = inout(reg) times => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem)
            )
        }
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
        let at = |r: usize, p: usize| sums.0.wrapping_add(r * sums.1 + p * sums.2);
        // Of one tile of rows, or one panel, the second is not read.
        let sums = [[at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)]];
        let x = [rows.0, rows.0.wrapping_add(rows.1)];
        let w = [panels.0, panels.0.wrapping_add(panels.1)];
        // Rows pass by in a stream: no need to keep them in the first cache.
        match const { (R, P) } {
            (1, 1) => products!(
                ("tileloadd tmm0, [{s00} + {line}]")
                ("tileloadd tmm6, [{w} + {line}]"
                 "tileloaddt1 tmm4, [{x} + {line}]"
                 "tdpbf16ps tmm0, tmm4, tmm6")
                ("tilestored [{s00} + {line}], tmm0");
                anew, steps, x, w, sums
            ),
            (1, 2) => products!(
                ("tileloadd tmm0, [{s00} + {line}]" "tileloadd tmm1, [{s01} + {line}]")
                ("tileloadd tmm6, [{w} + {line}]"
                 "tileloaddt1 tmm4, [{x} + {line}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"
                 "tileloadd tmm7, [{w1} + {line}]"
                 "tdpbf16ps tmm1, tmm4, tmm7")
                ("tilestored [{s00} + {line}], tmm0" "tilestored [{s01} + {line}], tmm1");
                anew, steps, x, w, sums
            ),
            (2, 1) => products!(
                ("tileloadd tmm0, [{s00} + {line}]" "tileloadd tmm2, [{s10} + {line}]")
                ("tileloadd tmm6, [{w} + {line}]"
                 "tileloaddt1 tmm4, [{x} + {line}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"
                 "tileloaddt1 tmm5, [{x1} + {line}]"
                 "tdpbf16ps tmm2, tmm5, tmm6")
                ("tilestored [{s00} + {line}], tmm0" "tilestored [{s10} + {line}], tmm2");
                anew, steps, x, w, sums
            ),
            (2, 2) => products!(
                ("tileloadd tmm0, [{s00} + {line}]" "tileloadd tmm1, [{s01} + {line}]"
                 "tileloadd tmm2, [{s10} + {line}]" "tileloadd tmm3, [{s11} + {line}]")
                ("tileloadd tmm6, [{w} + {line}]"
                 "tileloaddt1 tmm4, [{x} + {line}]"
                 "tdpbf16ps tmm0, tmm4, tmm6"
                 "tileloadd tmm7, [{w1} + {line}]"
                 "tdpbf16ps tmm1, tmm4, tmm7"
                 "tileloaddt1 tmm5, [{x1} + {line}]"
                 "tdpbf16ps tmm2, tmm5, tmm6"
                 "tdpbf16ps tmm3, tmm5, tmm7")
                ("tilestored [{s00} + {line}], tmm0" "tilestored [{s01} + {line}], tmm1"
                 "tilestored [{s10} + {line}], tmm2" "tilestored [{s11} + {line}], tmm3");
                anew, steps, x, w, sums
            ),
            _ => unreachable!("one or two of each"),
        }
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

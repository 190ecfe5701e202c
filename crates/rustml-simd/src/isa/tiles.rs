//! Products of tiles of bfloat16, in tile registers or by the vectors' dot product.

use super::amx::Tiles;
use super::avx512::Avx512Bf16;
use crate::Simd;
use std::arch::x86_64::*;

/// What multiplies tiles of 16 rows by 32 inputs of bfloat16 with such of 16 outputs,
/// whose pairs of inputs lie together.
pub trait TileProducts {
    /// Adds up products of bfloat16: of `R` times 16 rows and `P` panels, 1 or 2 each, over
    /// `steps` of 32 inputs, whose tiles, of [`Tiles::BYTES`], follow each other. Those of
    /// rows 16 and on begin `rows.1` bytes after the first, and those of the second panel
    /// `panels.1`. The sums are added to those at `sums.0`, or replace them if `anew`; from
    /// one tile to the next, they are `sums.1` (rows) and `sums.2` (panels) bytes apart.
    ///
    /// Subnormal numbers are zeros. An output's bits depend on nothing but its own inputs
    /// and weights.
    ///
    /// # Safety
    /// All tiles are readable, and those of sums writable; all are on cache lines.
    unsafe fn add_products<const R: usize, const P: usize>(
        &self,
        rows: (*const u8, usize),
        panels: (*const u8, usize),
        steps: usize,
        sums: (*mut u8, usize, usize),
        anew: bool,
    );
}

/// The definition of tile products, number by number: a twin of tile registers for tests.
/// Subnormal numbers stay what they are.
pub struct PlainTiles;

impl TileProducts for PlainTiles {
    unsafe fn add_products<const R: usize, const P: usize>(
        &self,
        rows: (*const u8, usize),
        panels: (*const u8, usize),
        steps: usize,
        sums: (*mut u8, usize, usize),
        anew: bool,
    ) {
        let number = |p: *const u8| f32::from_bits(u32::from(*p.cast::<u16>()) << 16);
        for (r, p) in (0..R).flat_map(|r| (0..P).map(move |p| (r, p))) {
            let (x, w) = (rows.0.add(r * rows.1), panels.0.add(p * panels.1));
            let sums = sums.0.add(r * sums.1 + p * sums.2).cast::<f32>();
            for (row, output) in (0..16).flat_map(|row| (0..16).map(move |o| (row, o))) {
                let sum = &mut *sums.add(row * 16 + output);
                let mut acc = if anew { 0.0 } else { *sum };
                for i in 0..32 * steps {
                    let (tile, i) = (i / 32 * Tiles::BYTES, i % 32);
                    let x = number(x.add(tile + row * LINE + 2 * i));
                    let w = number(w.add(tile + i / 2 * LINE + 4 * output + 2 * (i % 2)));
                    acc += x * w;
                }
                *sum = acc;
            }
        }
    }
}

/// Rows of a tile at a time: with two panels, enough sums to hide the latency of the dot
/// product.
const ROWS: usize = 8;

/// Bytes of a row of a tile.
const LINE: usize = 64;

impl TileProducts for Avx512Bf16 {
    #[inline(always)]
    unsafe fn add_products<const R: usize, const P: usize>(
        &self,
        rows: (*const u8, usize),
        panels: (*const u8, usize),
        steps: usize,
        sums: (*mut u8, usize, usize),
        anew: bool,
    ) {
        let (sums, of_rows, between) = sums;
        for r in 0..R {
            for first in (0..Tiles::ROWS).step_by(ROWS) {
                let x = rows.0.wrapping_add(r * rows.1 + first * LINE);
                let sums = sums.wrapping_add(r * of_rows + first * LINE);
                some_rows::<P>(*self, x, panels, steps, (sums, between), anew);
            }
        }
    }
}

/// [`ROWS`] rows of a tile, which begin at `x`.
///
/// # Safety
/// As for [`TileProducts::add_products`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // unrolled by their constants
unsafe fn some_rows<const P: usize>(
    s: Avx512Bf16,
    mut x: *const u8,
    panels: (*const u8, usize),
    steps: usize,
    sums: (*mut u8, usize),
    anew: bool,
) {
    let sum = |n: usize, p: usize| {
        let sum = sums.0.wrapping_add(p * sums.1 + n * LINE);
        sum.cast::<f32>()
    };
    let mut acc = [[_mm512_setzero_ps(); P]; ROWS];
    if !anew {
        for n in 0..ROWS {
            for p in 0..P {
                acc[n][p] = _mm512_load_ps(sum(n, p));
            }
        }
    }
    let mut w = panels.0;
    for _ in 0..steps {
        for pair in 0..LINE / 4 {
            let mut weights = [_mm512_setzero_si512(); P];
            for p in 0..P {
                let at = w.wrapping_add(p * panels.1 + pair * LINE);
                weights[p] = _mm512_load_si512(at.cast());
            }
            for n in 0..ROWS {
                let x = x.wrapping_add(n * LINE + 4 * pair).cast::<i32>();
                let x = _mm512_set1_epi32(*x);
                for p in 0..P {
                    acc[n][p] = s.dot_bf16(acc[n][p], weights[p], x);
                }
            }
        }
        x = x.wrapping_add(Tiles::BYTES);
        w = w.wrapping_add(Tiles::BYTES);
    }
    for n in 0..ROWS {
        for p in 0..P {
            _mm512_store_ps(sum(n, p), acc[n][p]);
        }
    }
}

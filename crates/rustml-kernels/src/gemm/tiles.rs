//! Products of the rows of prompts in bfloat16, by tiles.
//!
//! Weights become bfloat16 with their scales, so that whole sums can be made in tile
//! registers: integer codes, whose blocks have scales of their own, must leave them block
//! by block. Some steps of 32 inputs of two panels are unpacked at a time, and all rows
//! pass by them.

use super::{finish, Product, Then};
use crate::acts::{steps_together, Acts, SIXTEEN, TILE_BYTES};
use crate::buffer::Lines;
use crate::panel::codes::{Codes, BLOCK};
use crate::panel::scales::Scales;
use crate::panel::{places, Format, Matrix, LINE};
use rustml_simd::{Avx512, PlainTiles, Simd, TileProducts, Tiles};
use std::ops::Range;

/// Rows of a panel.
const LANES: usize = Avx512::LANES;

/// Panels that meet the same rows before others do: so that these come but once from
/// where all of them lie, and then from the second cache.
const TOGETHER: usize = 12;

/// What multiplies tiles.
pub(super) trait Multiplier {
    type Products: TileProducts;
    /// # Safety
    /// The CPU has it, and this thread has no other at the same time.
    unsafe fn take() -> Self::Products;
}

/// Tile registers.
pub(super) struct Amx;

impl Multiplier for Amx {
    type Products = Tiles;
    unsafe fn take() -> Tiles {
        Tiles::new(2 * BLOCK)
    }
}

/// Their definition.
pub(super) struct Plain;

impl Multiplier for Plain {
    type Products = PlainTiles;
    unsafe fn take() -> PlainTiles {
        PlainTiles
    }
}

/// Weights as tiles of bfloat16: 16 pairs of inputs by the outputs of a panel.
pub(super) trait Tiled {
    /// The tiles of `steps` of a panel, one after the other; `near` has room for them.
    ///
    /// # Safety
    /// `m` holds such weights, packed for [`Avx512`]; the panel and the steps exist.
    unsafe fn tiles(
        s: Avx512,
        m: &Matrix,
        panel: usize,
        steps: Range<usize>,
        near: *mut u8,
    ) -> *const u8;
}

/// bfloat16 lies in a panel as in tiles.
pub(super) struct Bf16;

impl Tiled for Bf16 {
    #[inline(always)]
    unsafe fn tiles(
        _: Avx512,
        m: &Matrix,
        panel: usize,
        steps: Range<usize>,
        _: *mut u8,
    ) -> *const u8 {
        let at = panel * m.panel_bytes() + steps.start * TILE_BYTES;
        m.data().as_ptr().add(at)
    }
}

impl<F: Format> Tiled for F {
    #[inline(always)]
    unsafe fn tiles(
        s: Avx512,
        m: &Matrix,
        panel: usize,
        steps: Range<usize>,
        near: *mut u8,
    ) -> *const u8 {
        let from = m.data().as_ptr().add(panel * m.panel_bytes());
        for (i, step) in steps.enumerate() {
            unpack::<F>(s, from, step, near.add(i * TILE_BYTES));
        }
        near
    }
}

/// Unpacks block `b` of the panel at `from`.
///
/// # Safety
/// As for [`Tiled::tiles`].
#[inline(always)]
unsafe fn unpack<F: Format>(s: Avx512, from: *const u8, b: usize, to: *mut u8) {
    let subs = const { BLOCK / F::Scales::SUB };
    let (scales, codes) = places::<F::Codes, F::Scales>(LANES, b);
    let (scales, codes) = (from.add(scales), from.add(codes));
    let zero = match F::Codes::SIGNED {
        true => Avx512::I8_BIAS as f32,
        false => f32::from(F::ZERO),
    };
    let groups = F::Codes::unpack(s, codes);
    for sub in 0..subs {
        let i = b * BLOCK % F::Scales::BLOCK / F::Scales::SUB + sub;
        let scale = s.plain(F::Scales::scale(s, scales, i));
        // `scale * (code - zero)` and `scale * code + offset`.
        let start = match F::Scales::OFFSET {
            true => s.plain(F::Scales::offset(s, scales, i)),
            false => s.mul(scale, s.splat(-zero)),
        };
        let start = s.fma(scale, s.splat(-Avx512::BYTES_FROM), start);
        let each = groups.len() / subs;
        for (g, group) in groups.iter().enumerate().skip(sub * each).take(each) {
            let to = to.add(g * 2 * LINE);
            let weight = |code| s.fma(scale, code, start);
            let (a, b) = (weight(s.byte::<0>(*group)), weight(s.byte::<1>(*group)));
            s.store_i(to, s.pair_bf16(a, b));
            let (a, b) = (weight(s.byte::<2>(*group)), weight(s.byte::<3>(*group)));
            s.store_i(to.add(LINE), s.pair_bf16(a, b));
        }
    }
}

/// See [`super::PanelFn`].
///
/// # Safety
/// As for [`Product::run`]; the CPU has the multiplier and AVX-512, and the activations are
/// in tiles of bfloat16.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn tile_panels<W: Tiled, M: Multiplier>(
    p: &Product,
    acts: &Acts,
    panels: Range<usize>,
    _: Then,
) {
    let (rows, steps) = (acts.rows(), acts.cols() / BLOCK);
    let (groups, together) = (rows.div_ceil(SIXTEEN), steps_together(steps));
    // Sums pass through memory between steps that are not taken together; else through the
    // same places.
    let kept = if together < steps { groups } else { 2 };
    let mut near = Lines::take((2 * together + TOGETHER * kept) * TILE_BYTES);
    let unpacked = near.start();
    let sums = unpacked.add(2 * together * TILE_BYTES);
    let work = Work {
        s: Avx512::assume(),
        tiles: M::take(),
        p,
        acts,
        sums,
        kept,
    };
    for from in panels.clone().step_by(TOGETHER) {
        let panels = from..panels.end.min(from + TOGETHER);
        for first in (0..steps).step_by(together) {
            let steps = first..steps.min(first + together);
            for pair in panels.clone().step_by(2) {
                let one = |i: usize| {
                    let near = unpacked.add(i * together * TILE_BYTES);
                    W::tiles(work.s, p.weights, pair + i, steps.clone(), near)
                };
                let sums = (pair - from) * kept;
                match pair + 1 < panels.end {
                    true => work.all_rows::<2>(pair, [one(0), one(1)], &steps, sums),
                    false => work.all_rows::<1>(pair, [one(0); 2], &steps, sums),
                }
            }
        }
    }
}

/// What all rows meet.
struct Work<'a, T> {
    s: Avx512,
    tiles: T,
    p: &'a Product<'a>,
    acts: &'a Acts,
    /// `[panel][group of 16 rows, as many as are kept]`
    sums: *mut u8,
    kept: usize,
}

impl<T: TileProducts> Work<'_, T> {
    /// All rows times some steps of `P` panels, from `panel` on, whose tiles are given, and
    /// whose sums begin at number `sums`. After the last steps they are finished.
    ///
    /// # Safety
    /// As for [`tile_panels`].
    #[inline(always)]
    unsafe fn all_rows<const P: usize>(
        &self,
        panel: usize,
        weights: [*const u8; 2],
        steps: &Range<usize>,
        sums: usize,
    ) {
        let (rows, all) = (self.acts.rows(), self.acts.cols() / BLOCK);
        let apart = weights[1].addr().wrapping_sub(weights[0].addr());
        let weights = (weights[0], apart);
        let (anew, last) = (steps.start == 0, steps.end == all);
        let groups = rows.div_ceil(SIXTEEN);
        for group in (0..groups).step_by(2) {
            let x = self.acts.tile(group, steps.start);
            let x = (x, steps.len() * TILE_BYTES);
            let at = if self.kept < groups { 0 } else { group };
            let place = (sums + at) * TILE_BYTES;
            let place = self.sums.add(place);
            let sums = (place, TILE_BYTES, self.kept * TILE_BYTES);
            match group + 1 < groups {
                true => self
                    .tiles
                    .add_products::<2, P>(x, weights, steps.len(), sums, anew),
                false => self
                    .tiles
                    .add_products::<1, P>(x, weights, steps.len(), sums, anew),
            }
            if !last {
                continue;
            }
            for (r, row0) in (group * SIXTEEN..rows).step_by(SIXTEEN).take(2).enumerate() {
                for i in 0..P {
                    let sums = place.add((r + i * self.kept) * TILE_BYTES).cast::<f32>();
                    self.finish(panel + i, row0, sums);
                }
            }
        }
    }

    /// The sums of 16 rows, or as many as there are.
    ///
    /// # Safety
    /// As for [`tile_panels`].
    #[inline(always)]
    unsafe fn finish(&self, panel: usize, row0: usize, sums: *const f32) {
        let (s, p) = (self.s, self.p);
        let rows = self.acts.rows() - row0;
        if rows >= SIXTEEN {
            let acc: [_; SIXTEEN] = std::array::from_fn(|n| s.load(sums.add(n * LANES)));
            return finish(s, p, panel, row0, acc);
        }
        for n in 0..rows {
            finish(s, p, panel, row0 + n, [s.load(sums.add(n * LANES))]);
        }
    }
}

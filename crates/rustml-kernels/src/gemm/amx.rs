//! Products of integer weights and many rows with AMX.
//!
//! Panels are unpacked to signed bytes; 16 rows of activations then meet them block by
//! block. Each block's sums leave the tile registers by way of memory, and are scaled and
//! added up in vectors exactly as elsewhere, so the results are the same to the bit.

use super::integer::integer_panels;
use super::{finish, Product, Then};
use crate::acts::{Acts, Correction, SIXTEEN};
use crate::panel::codes::BLOCK;
use crate::panel::scales::Scales;
use crate::panel::wide::{Unpacked, Wide};
use crate::panel::{correction, places, Format};
use rustml_simd::{Avx512, Simd, Tiles};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a panel.
const LANES: usize = Avx512::LANES;

/// Sums that are in the making, while those before are added up.
const LAG: usize = Tiles::SUMS;

/// Bytes of unpacked panels at a time: what leaves room for a tile of activations in a
/// first cache of 48 KB. All tiles pass by them.
const NEAR: usize = 28 << 10;

/// Where the sums of each register pass through memory.
#[repr(C, align(64))]
struct Memory([[f32; SIXTEEN * LANES]; LAG]);

/// See [`super::PanelFn`]. Few rows are computed as with AVX-512.
///
/// # Safety
/// As for [`Product::run`]; [`rustml_simd::Isa::Amx`] is available.
pub(super) unsafe fn amx_panels<F: Format>(
    p: &Product,
    acts: &Acts,
    panels: Range<usize>,
    then: Then,
) {
    if acts.forms().by_sixteens(acts.rows()) && acts.cols() > 0 {
        many_rows::<F>(p, acts, panels)
    } else {
        integer_panels::<Avx512, F>(p, acts, panels, then)
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn many_rows<F: Format>(p: &Product, acts: &Acts, panels: Range<usize>) {
    let s = Avx512::assume();
    let tiles = Tiles::new(F::Scales::SUB);
    let mut unpacked = Unpacked::new::<Avx512, F>(p.weights, NEAR, 1);
    for from in panels.clone().step_by(unpacked.room) {
        let panels = from..panels.end.min(from + unpacked.room);
        let data = unpacked.fill_signed::<Avx512, F>(s, panels.clone());
        let stream = Stream {
            acts,
            data,
            stride: unpacked.stride,
            panels,
        };
        stream.run::<F>(&tiles, p);
    }
}

/// Sub-blocks, whose inputs share a scale, of all tiles of rows and some unpacked panels:
/// tile by tile, panel by panel.
struct Stream<'a> {
    acts: &'a Acts,
    /// Where panel 0 would lie.
    data: *const u8,
    /// Bytes from one panel to the next.
    stride: usize,
    panels: Range<usize>,
}

/// A place in a stream.
struct Place {
    row0: usize,
    panel: usize,
    /// The sub-block.
    t: usize,
    /// Where codes and scales of the rows begin, and the panel.
    x: *const u8,
    x_scales: *const f32,
    w: *const u8,
}

impl Stream<'_> {
    fn blocks(&self) -> usize {
        self.acts.cols() / BLOCK
    }

    #[inline(always)]
    fn place(&self, row0: usize, panel: usize) -> Place {
        let codes = self.acts.codes.as_ptr().cast::<u8>();
        Place {
            row0,
            panel,
            t: 0,
            x: codes.wrapping_add(row0 * self.acts.cols()),
            x_scales: self.acts.scales.as_ptr().wrapping_add(row0 * self.blocks()),
            w: self.data.wrapping_add(panel * self.stride),
        }
    }

    /// Goes on to the next sub-block, of `steps` in a panel; says whether that is the first
    /// of a panel.
    #[inline(always)]
    fn advance(&self, place: &mut Place, steps: usize) -> bool {
        place.t += 1;
        if place.t < steps {
            return false;
        }
        *place = match place.panel + 1 {
            next if next < self.panels.end => self.place(place.row0, next),
            _ => self.place(place.row0 + SIXTEEN, self.panels.start),
        };
        true
    }

    /// Computes the outputs of the panels. While the sums of some sub-blocks are in the
    /// making, those of the ones before are added up.
    ///
    /// # Safety
    /// As for [`Product::run`]; the panels hold weights of the format, and tiles have the
    /// inputs of its sub-blocks.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn run<F: Format>(&self, tiles: &Tiles, p: &Product) {
        let s = Avx512::assume();
        let of_block = const { BLOCK / F::Scales::SUB };
        let steps = self.blocks() * of_block;
        let rows = self.acts.rows();
        let x_sums = match const { correction::<F>(0) } {
            Some(c @ Correction::Float { .. }) => self.acts.sums[c.index()].as_ptr(),
            _ => std::ptr::null(),
        };
        let mut memory = MaybeUninit::<Memory>::uninit();
        let memory = memory.as_mut_ptr().cast::<[f32; SIXTEEN * LANES]>();
        let zeros = [s.splat(0.0); SIXTEEN];
        let mut acc = zeros;
        let mut made = self.place(0, self.panels.start);
        let mut used = self.place(0, self.panels.start);

        // Where the codes of rows and panel begin at a place.
        let operands = |at: &Place| {
            let (block, input) = (at.t / of_block, at.t % of_block * F::Scales::SUB);
            let (_, codes) = places::<Wide<F::Codes>, Wide<F::Scales>>(LANES, block);
            let x = at.x.add(block * SIXTEEN * BLOCK + input);
            (x, BLOCK, at.w.add(codes + input * LANES))
        };
        macro_rules! begin {
            ($i:literal) => {
                if made.row0 < rows {
                    tiles.multiply::<$i>(operands(&made));
                    self.advance(&mut made, steps);
                }
            };
        }
        macro_rules! go_on {
            ($i:literal) => {{
                let (block, sub) = (used.t / of_block, used.t % of_block);
                let (scales, _) = places::<Wide<F::Codes>, Wide<F::Scales>>(LANES, block);
                let scales = used.w.add(scales);
                let scale = Wide::<F::Scales>::scale(s, scales, sub);
                let x_scales = used.x_scales.add(block * SIXTEEN);
                let sums = (scale, x_scales, memory.add($i).cast());
                if made.row0 < rows {
                    tiles.add_and_multiply::<$i>(&mut acc, sums, operands(&made));
                    self.advance(&mut made, steps);
                } else {
                    tiles.add::<$i>(&mut acc, sums);
                }
                if F::Scales::OFFSET {
                    let offset = Wide::<F::Scales>::offset(s, scales, sub);
                    let x_sums = x_sums.add(used.row0 * steps + used.t * SIXTEEN);
                    for (n, acc) in acc.iter_mut().enumerate() {
                        let sum = s.splat(f32::from_bits(*x_sums.add(n)));
                        *acc = s.fma(offset, sum, *acc);
                    }
                }
                let (panel, row0) = (used.panel, used.row0);
                if self.advance(&mut used, steps) {
                    if row0 + SIXTEEN <= rows {
                        finish(s, p, panel, row0, acc);
                    } else {
                        for (n, acc) in acc.into_iter().enumerate().take(rows - row0) {
                            finish(s, p, panel, row0 + n, [acc]);
                        }
                    }
                    if used.row0 >= rows {
                        return;
                    }
                    acc = zeros;
                }
            }};
        }
        begin!(0);
        begin!(1);
        begin!(2);
        begin!(3);
        loop {
            go_on!(0);
            go_on!(1);
            go_on!(2);
            go_on!(3);
        }
    }
}

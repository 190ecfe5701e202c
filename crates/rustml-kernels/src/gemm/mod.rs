//! Matrix products on packed weights: one loop for one row and for many.
//!
//! Every output is reduced in the order of its inputs, block by block, by one
//! accumulator; so its bits depend neither on the number of rows computed
//! together nor on the number of threads.

use crate::acts::{Acts, Forms};
use crate::formats::with_format;
use crate::panel::Matrix;
use float::{float_panels, BF16, F16, F32};
use integer::integer_panels;
use rustml_io::DType;
use rustml_simd::{Core, Isa, Simd};
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use tiles::{Amx, Plain};

/// One matrix product `out[row][..] = weights * acts[row] (+ bias) (+ out)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weights, `[outputs, inputs]`.
    pub weights: &'a Matrix,
    /// Added to every row of the result.
    pub bias: Option<&'a [f32]>,
    /// Whether the result is added to what `out` holds.
    pub accumulate: bool,
    /// Where output 0 of the first row is, or would be; rows are `out_stride` values apart.
    pub out: *mut f32,
    /// Values from one row of `out` to the next.
    pub out_stride: usize,
}

// SAFETY: shares only what `run` is told to write, panel by panel.
unsafe impl Sync for Product<'_> {}
// SAFETY: as above.
unsafe impl Send for Product<'_> {}

/// What whoever computes some panels reads after them, to be fetched in time: of few
/// rows the memory is what takes the time, and it should never pause.
#[derive(Clone, Copy, Debug)]
pub struct Then {
    /// Panels of the same matrix, up to this one.
    pub until: usize,
    /// And then what lies here; null if that is not known.
    pub next: *const u8,
}

impl Then {
    /// Nothing after these panels.
    pub fn end(panels: &Range<usize>) -> Then {
        Then {
            until: panels.end,
            next: std::ptr::null(),
        }
    }
}

/// Computes a range of panels of a product, for all rows of the activations.
pub(crate) type PanelFn = unsafe fn(&Product, &Acts, Range<usize>, Then);

impl Product<'_> {
    /// Computes the outputs of `panels`.
    ///
    /// # Safety
    /// The outputs of these panels are writable (readable too if it accumulates) for
    /// `acts.rows()` rows, and nobody else uses them.
    ///
    /// # Panics
    /// If the activations lack the forms or the width that the weights need.
    pub unsafe fn run(&self, acts: &Acts, panels: Range<usize>, then: Then) {
        let w = self.weights;
        assert_eq!(acts.cols(), w.cols(), "activations as wide as the weights");
        assert!(panels.end <= w.panels());
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), w.rows());
        }
        let run = match w.tile_fn() {
            Some(tiles) if acts.forms().contains(Forms::TILES) => tiles,
            _ => {
                assert!(acts.forms().contains(w.forms()), "activations in all forms");
                w.panel_fn()
            }
        };
        run(self, acts, panels, then)
    }
}

/// The compiled loop for weights of `dtype` on `isa`, with what this CPU has
/// beyond that.
pub(crate) fn panel_fn(dtype: DType, isa: Isa) -> PanelFn {
    #[cfg(target_arch = "x86_64")]
    if dtype == DType::BF16 && isa.dots_bf16() {
        return float_panels::<rustml_simd::Avx512Bf16, BF16>;
    }
    set_panel_fn(dtype, isa)
}

/// The compiled loop for weights of `dtype` on `isa`.
pub(crate) fn set_panel_fn(dtype: DType, isa: Isa) -> PanelFn {
    fn of<S: Simd>(dtype: DType) -> PanelFn {
        with_format!(dtype, F => integer_panels::<S, F>, float => match dtype {
            DType::F16 => float_panels::<S, F16>,
            DType::BF16 => float_panels::<S, BF16>,
            _ => float_panels::<S, F32>,
        })
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => of::<rustml_simd::Sse41>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => of::<rustml_simd::Avx2>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni => of::<rustml_simd::Avx2Vnni>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => of::<rustml_simd::Avx512>(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => of::<rustml_simd::Neon>(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => of::<rustml_simd::NeonDot>(dtype),
        _ => of::<rustml_simd::Scalar>(dtype),
    }
}

/// The compiled loop for weights of `dtype` and activations in tiles of bfloat16, if `isa`
/// has such; rows are whole blocks of 32 then.
#[cfg(target_arch = "x86_64")]
pub(crate) fn tile_fn(dtype: DType, isa: Isa) -> Option<PanelFn> {
    match isa {
        Isa::Amx => with_format!(
            dtype,
            F => Some(tiles::tile_panels::<F, Amx>),
            float => (dtype == DType::BF16).then_some(tiles::tile_panels::<tiles::Bf16, Amx>)
        ),
        _ => None,
    }
}

/// The same loop with the tiles' plain twin, for any CPU with AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) fn plain_tile_fn(dtype: DType, isa: Isa) -> Option<PanelFn> {
    match isa {
        Isa::Avx512 | Isa::Amx => with_format!(
            dtype,
            F => Some(tiles::tile_panels::<F, Plain>),
            float => (dtype == DType::BF16).then_some(tiles::tile_panels::<tiles::Bf16, Plain>)
        ),
        _ => None,
    }
}

/// Other architectures have no such loops.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn plain_tile_fn(_: DType, _: Isa) -> Option<PanelFn> {
    None
}

/// Nor these.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn tile_fn(_: DType, _: Isa) -> Option<PanelFn> {
    None
}

/// How far ahead of its use a panel's memory is fetched where panels are read one
/// after the other, in bytes: one stream, which the processor's own fetching follows,
/// but not from page to page.
const AHEAD: usize = 512;

/// The same for one or two rows, which get through it fastest.
const FAR_AHEAD: usize = 1024;

/// The same for any of few rows on AMD's cores from Zen 5 on, which compute so fast that
/// more must be on its way.
const ZEN5_AHEAD: usize = 8 << 10;

/// And on Intel's, which follow a stream less far, and wait longer for memory.
const INTEL_AHEAD: usize = 16 << 10;

/// How far where several are read together, or each several times, in panels.
const PANELS_AHEAD: usize = 4;

/// Which blocks of weights a tile fetches for the panels after its own: those of
/// a step have shares, so that the requests are spread over its time.
#[derive(Clone, Copy)]
struct Fetch {
    /// Of so many blocks one.
    every: usize,
    /// The first of them.
    first: usize,
}

/// Rows of activations that are computed together: those of a tile, or, where a set's
/// vectors gain nothing by several ([`Simd::PLAIN`]), one of them.
#[derive(Clone, Copy)]
struct Rows {
    /// The first row of the tile.
    tile: usize,
    /// Rows of the tile.
    of: usize,
    /// The first of these within it.
    lane: usize,
}

impl Rows {
    /// How many rows of the tile lie together, where `N` are computed: a constant but for
    /// plain sets.
    #[inline(always)]
    fn of<S: Simd, const N: usize>(&self) -> usize {
        match S::PLAIN {
            true => self.of,
            false => N,
        }
    }

    /// The first row.
    #[inline(always)]
    fn first<S: Simd>(&self) -> usize {
        self.tile + self.lane::<S>()
    }

    /// The first row within the tile.
    #[inline(always)]
    fn lane<S: Simd>(&self) -> usize {
        match S::PLAIN {
            true => self.lane,
            false => 0,
        }
    }
}

/// What a tile works on.
struct Work<'a> {
    product: &'a Product<'a>,
    acts: &'a Acts,
    /// Where panel 0 of the weights begins; not all panels need be there.
    data: *const u8,
    /// Bytes from one panel to the next.
    stride: usize,
    then: Then,
    core: Core,
}

impl<'a> Work<'a> {
    fn new(product: &'a Product<'a>, acts: &'a Acts, then: Then) -> Work<'a> {
        Work {
            product,
            acts,
            data: product.weights.data().as_ptr(),
            stride: product.weights.panel_bytes(),
            then,
            core: Core::here(),
        }
    }

    /// How far ahead one stream of weights is fetched for so many rows, in bytes.
    #[inline(always)]
    fn stream_ahead(&self, rows: usize) -> usize {
        match (self.core, rows) {
            (Core::Intel, _) => INTEL_AHEAD,
            (Core::Zen5, _) => ZEN5_AHEAD,
            (Core::Other, 0..=2) => FAR_AHEAD,
            (Core::Other, _) => AHEAD,
        }
    }

    /// Where a panel begins.
    #[inline(always)]
    fn panel(&self, panel: usize) -> *const u8 {
        self.data.wrapping_add(panel * self.stride)
    }

    /// How far from a panel what is to be fetched lies, while that panel is computed;
    /// into the second cache, since to the first fewer lines can be on their way.
    /// So many bytes of one stream, in whole panels if these are as large, or some panels.
    #[inline(always)]
    fn ahead(&self, panel: usize, bytes: Option<usize>) -> usize {
        let (panels, bytes) = match bytes {
            Some(bytes) if bytes < self.stride => (1, bytes),
            Some(bytes) => (bytes / self.stride, bytes / self.stride * self.stride),
            None => (PANELS_AHEAD, PANELS_AHEAD * self.stride),
        };
        match (panel + panels).checked_sub(self.then.until) {
            None => bytes,
            // What is there already.
            Some(_) if self.then.next.is_null() => 0,
            Some(beyond) => {
                let next = self.then.next.addr().wrapping_add(beyond * self.stride);
                next.wrapping_sub(self.panel(panel).addr())
            }
        }
    }
}

/// What takes panels through tiles of activations with the function `$tile`, as many
/// at a time as `$at_once` says for the tile's rows; `$kind` is what it is generic over.
macro_rules! tiles {
    ($kind:ident, $tile:ident, $at_once:ident) => {
        /// Panels taken through `N` rows: a function of its own, so that it is compiled
        /// once, wherever it is called.
        struct Through<'a, T, const N: usize, const FEW: bool> {
            work: &'a $crate::gemm::Work<'a>,
            panels: std::ops::Range<usize>,
            rows: $crate::gemm::Rows,
            fetch: $crate::gemm::Fetch,
            kind: std::marker::PhantomData<T>,
        }

        impl<T: $kind, const N: usize, const FEW: bool> Kernel for Through<'_, T, N, FEW> {
            type Out = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                let (work, rows, fetch) = (self.work, self.rows, self.fetch);
                let mut panel = self.panels.start;
                // SAFETY: by the contract of `Product::run`.
                unsafe {
                    match const { $at_once::<S, T>(N) } {
                        4 => {
                            while panel + 4 <= self.panels.end {
                                $tile::<S, T, N, 4, FEW>(s, work, panel, rows, fetch);
                                panel += 4;
                            }
                        }
                        2 => {
                            while panel + 2 <= self.panels.end {
                                $tile::<S, T, N, 2, FEW>(s, work, panel, rows, fetch);
                                panel += 2;
                            }
                        }
                        _ => {}
                    }
                    while panel < self.panels.end {
                        $tile::<S, T, N, 1, FEW>(s, work, panel, rows, fetch);
                        panel += 1;
                    }
                }
            }
        }

        /// `N` rows through some panels.
        #[inline(always)]
        fn through<S: Simd, T: $kind, const N: usize, const FEW: bool>(
            s: S,
            work: &$crate::gemm::Work,
            panels: &std::ops::Range<usize>,
            rows: $crate::gemm::Rows,
            fetch: $crate::gemm::Fetch,
        ) {
            s.vectorize(Through::<T, N, FEW> {
                work,
                panels: panels.clone(),
                rows,
                fetch,
                kind: std::marker::PhantomData,
            });
        }

        /// A tile of few rows, or of the last ones of many, through some panels.
        #[inline(always)]
        fn few_rows_tile<S: Simd, T: $kind>(
            s: S,
            work: &$crate::gemm::Work,
            panels: &std::ops::Range<usize>,
            (tile, of): (usize, usize),
            fetch: $crate::gemm::Fetch,
        ) {
            let rows = $crate::gemm::Rows { tile, of, lane: 0 };
            if S::PLAIN {
                for lane in 0..of {
                    let rows = $crate::gemm::Rows { lane, ..rows };
                    through::<S, T, 1, true>(s, work, panels, rows, fetch);
                }
                return;
            }
            match of {
                8 => through::<S, T, 8, true>(s, work, panels, rows, fetch),
                4 => through::<S, T, 4, true>(s, work, panels, rows, fetch),
                2 => through::<S, T, 2, true>(s, work, panels, rows, fetch),
                _ => through::<S, T, 1, true>(s, work, panels, rows, fetch),
            }
        }

        /// Each panel through all tiles.
        #[inline(always)]
        fn few_rows<S: Simd, T: $kind>(
            s: S,
            work: &$crate::gemm::Work,
            panels: std::ops::Range<usize>,
        ) {
            let rows = work.acts.rows();
            let every = $crate::acts::tiles(rows).count();
            // One tile takes them all; several, as many as one of them takes at once.
            let step = match every {
                1 => panels.len().max(1),
                _ => const { [$at_once::<S, T>(1), $at_once::<S, T>(8)] }
                    .into_iter()
                    .fold(1, usize::max),
            };
            for from in panels.clone().step_by(step) {
                let some = from..(from + step).min(panels.end);
                for (first, tile) in $crate::acts::tiles(rows).enumerate() {
                    let fetch = $crate::gemm::Fetch { every, first };
                    few_rows_tile::<S, T>(s, work, &some, tile, fetch);
                }
            }
        }

        /// Each tile through all panels. The last rows, too few for a whole tile, read the
        /// weights as few rows do, `few`: one way for both is compiled once.
        #[inline(always)]
        fn many_rows<S: Simd, T: $kind, Few: $kind>(
            s: S,
            work: &$crate::gemm::Work,
            few: &$crate::gemm::Work,
            panels: std::ops::Range<usize>,
        ) {
            let fetch = $crate::gemm::Fetch { every: 1, first: 0 };
            for (tile, of) in $crate::acts::tiles(work.acts.rows()) {
                if const { !S::PLAIN } && of == 6 {
                    let rows = $crate::gemm::Rows { tile, of, lane: 0 };
                    through::<S, T, 6, false>(s, work, &panels, rows, fetch);
                } else {
                    few_rows_tile::<S, Few>(s, few, &panels, (tile, of), fetch);
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod tiles;
// After the macro, which they use.
mod float;
mod integer;

/// Adds bias and former value, and stores the rows of the panel that exist.
#[inline(always)]
unsafe fn finish<S: Simd, const N: usize>(
    s: S,
    p: &Product,
    panel: usize,
    row0: usize,
    acc: [S::F; N],
) {
    let first = panel * S::LANES;
    let valid = (p.weights.rows() - first).min(S::LANES);
    let out = p.out.wrapping_add(row0 * p.out_stride + first);
    if valid == S::LANES {
        let bias = p.bias.map(|b| s.load(b.as_ptr().add(first)));
        for n in 0..N {
            let out = out.wrapping_add(n * p.out_stride);
            let mut y = acc[n];
            if let Some(bias) = bias {
                y = s.add(y, bias);
            }
            if p.accumulate {
                y = s.add(y, s.load(out));
            }
            s.store(out, y);
        }
        return;
    }
    for (n, acc) in acc.into_iter().enumerate() {
        let out = out.wrapping_add(n * p.out_stride);
        let mut y = [0f32; 16];
        s.store(y.as_mut_ptr(), acc);
        for (i, y) in y[..valid].iter().enumerate() {
            let bias = p.bias.map_or(0.0, |b| b[first + i]);
            let former = if p.accumulate { *out.add(i) } else { 0.0 };
            *out.add(i) = *y + bias + former;
        }
    }
}

//! Matrix products on packed weights: one loop for one row and for many.
//!
//! Every output is reduced in the order of its inputs, block by block, by one
//! accumulator; so its bits depend neither on the number of rows computed
//! together nor on the number of threads.

use crate::acts::{tiles, Acts, Correction, FEW_ROWS};
use crate::formats::with_format;
use crate::panel::codes::{Codes, BLOCK};
use crate::panel::scales::Scales;
use crate::panel::wide::{Unpacked, Wide};
use crate::panel::{correction, Format, Matrix, PanelShape, LINE};
use rustml_io::DType;
use rustml_simd::{Isa, Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// One matrix product `out[row][..] = weights * acts[row] (+ bias) (+ out)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weights, `[outputs, inputs]`.
    pub weights: &'a Matrix,
    /// Added to every row of the result.
    pub bias: Option<&'a [f32]>,
    /// Whether the result is added to what `out` holds.
    pub accumulate: bool,
    /// First output of the first row; rows are `out_stride` values apart.
    pub out: *mut f32,
    /// Values from one row of `out` to the next.
    pub out_stride: usize,
}

// SAFETY: shares only what `run` is told to write, panel by panel.
unsafe impl Sync for Product<'_> {}
// SAFETY: as above.
unsafe impl Send for Product<'_> {}

/// Computes a range of panels of a product, for all rows of the activations.
pub(crate) type PanelFn = unsafe fn(&Product, &Acts, Range<usize>);

impl Product<'_> {
    /// Computes the outputs of `panels`.
    ///
    /// # Safety
    /// `out` is writable (readable too if it accumulates) for
    /// `acts.rows()` rows, and nobody else uses the outputs of these panels.
    ///
    /// # Panics
    /// If the activations lack the forms or the width that the weights need.
    pub unsafe fn run(&self, acts: &Acts, panels: Range<usize>) {
        let w = self.weights;
        assert_eq!(acts.cols(), w.cols(), "activations as wide as the weights");
        assert!(acts.forms().contains(w.forms()), "activations in all forms");
        assert!(panels.end <= w.panels());
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), w.rows());
        }
        (w.panel_fn())(self, acts, panels)
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
        Isa::Avx512 => of::<rustml_simd::Avx512>(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => of::<rustml_simd::Neon>(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => of::<rustml_simd::NeonDot>(dtype),
        _ => of::<rustml_simd::Scalar>(dtype),
    }
}

/// Which blocks of weights a tile fetches for the panels after its own: those of
/// a step have shares, so that the requests are spread over its time.
#[derive(Clone, Copy)]
struct Fetch {
    /// Of so many blocks one.
    every: usize,
    /// The first of them.
    first: usize,
}

/// What a tile works on.
struct Work<'a> {
    product: &'a Product<'a>,
    acts: &'a Acts,
    /// Where panel 0 of the weights begins; not all panels need be there.
    data: *const u8,
    shape: PanelShape,
}

impl<'a> Work<'a> {
    fn new(product: &'a Product<'a>, acts: &'a Acts) -> Work<'a> {
        Work {
            product,
            acts,
            data: product.weights.data().as_ptr(),
            shape: product.weights.shape(),
        }
    }

    /// Where a panel begins.
    #[inline(always)]
    fn panel(&self, panel: usize) -> *const u8 {
        self.data.wrapping_add(panel * self.shape.stride)
    }
}

/// Runs a tile function for every panel and every tile of the activations, as
/// many panels at a time as `$at_once` says for the tile's rows: each panel is
/// taken through all tiles.
macro_rules! few_rows {
    ($s:expr, $work:expr, $panels:expr, $tile:ident, $f:ty, $at_once:ident) => {{
        let rows = $work.acts.rows();
        let every = tiles(rows).count();
        // One tile takes them all; several, as many as the smallest takes at once.
        let step = match every {
            1 => $panels.len().max(1),
            _ => const { $at_once::<S, $f>(1) },
        };
        let mut from = $panels.start;
        while from < $panels.end {
            let to = (from + step).min($panels.end);
            for (first, (row0, n)) in tiles(rows).enumerate() {
                let fetch = Fetch { every, first };
                one_tile!(
                    $s,
                    $work,
                    (from..to),
                    $tile,
                    $f,
                    row0,
                    n,
                    $at_once,
                    fetch,
                    true
                );
            }
            from = to;
        }
    }};
}

/// The same for many rows: each tile is taken through all panels.
macro_rules! many_rows {
    ($s:expr, $work:expr, $panels:expr, $tile:ident, $f:ty, $at_once:ident) => {{
        let fetch = Fetch { every: 1, first: 0 };
        for (row0, n) in tiles($work.acts.rows()) {
            one_tile!($s, $work, $panels, $tile, $f, row0, n, $at_once, fetch, false);
        }
    }};
}

/// One tile, all panels.
macro_rules! one_tile {
    ($s:expr, $work:expr, $panels:expr, $tile:ident, $f:ty, $row0:ident, $n:ident, $at_once:ident, $fetch:expr, $few:literal) => {
        match $n {
            8 => one_tile!(@ $s, $work, $panels, $tile, $f, $row0, 8, $at_once, $fetch, $few),
            6 => one_tile!(@ $s, $work, $panels, $tile, $f, $row0, 6, $at_once, $fetch, $few),
            // The last rows of many cost nothing either way.
            4 => one_tile!(@ $s, $work, $panels, $tile, $f, $row0, 4, $at_once, $fetch, true),
            2 => one_tile!(@ $s, $work, $panels, $tile, $f, $row0, 2, $at_once, $fetch, true),
            _ => one_tile!(@ $s, $work, $panels, $tile, $f, $row0, 1, $at_once, $fetch, true),
        }
    };
    (@ $s:expr, $work:expr, $panels:expr, $tile:ident, $f:ty, $row0:ident, $n:literal, $at_once:ident, $fetch:expr, $few:literal) => {{
        let mut panel = $panels.start;
        match const { $at_once::<S, $f>($n) } {
            4 => while panel + 4 <= $panels.end {
                $tile::<S, $f, $n, 4, $few>($s, $work, panel, $row0, $fetch);
                panel += 4;
            },
            2 => while panel + 2 <= $panels.end {
                $tile::<S, $f, $n, 2, $few>($s, $work, panel, $row0, $fetch);
                panel += 2;
            },
            _ => {}
        }
        while panel < $panels.end {
            $tile::<S, $f, $n, 1, $few>($s, $work, panel, $row0, $fetch);
            panel += 1;
        }
    }};
}

/// Panels of integer weights at a time: two share each broadcast of
/// activations where there are registers for their sums.
const fn integer_panels_at_once<S: Simd, L: Layout>(_rows: usize) -> usize {
    if S::LANES == 16 {
        2
    } else {
        1
    }
}

/// Panels of float weights at a time: enough sums to hide the latency of the
/// multiply-add, as far as there are registers; of those there are more where
/// pairs need not be taken apart.
const fn float_panels_at_once<S: Simd, F: Float>(rows: usize) -> usize {
    match rows {
        1 | 2 => 4,
        4 => 2,
        6 if F::INPUTS == 2 && S::DOTS_BF16 => 4,
        _ if S::LANES == 16 => 2,
        _ => 1,
    }
}

/// How the integer weights lie that a tile reads.
trait Layout {
    type Format: Format;
    type Codes: Codes;
    type Scales: Scales;
}

/// As a matrix keeps them.
struct Packed<F>(PhantomData<F>);
impl<F: Format> Layout for Packed<F> {
    type Format = F;
    type Codes = F::Codes;
    type Scales = F::Scales;
}

/// Unpacked for many rows.
struct AsBytes<F>(PhantomData<F>);
impl<F: Format> Layout for AsBytes<F> {
    type Format = F;
    type Codes = Wide<F::Codes>;
    type Scales = Wide<F::Scales>;
}

unsafe fn integer_panels<S: Simd, F: Format>(p: &Product, acts: &Acts, panels: Range<usize>) {
    struct Run<'a, F>(&'a Product<'a>, &'a Acts, Range<usize>, PhantomData<F>);
    impl<F: Format> Kernel for Run<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Run(product, acts, panels, _) = self;
            // SAFETY: by the contract of `Product::run`.
            unsafe {
                let mut work = Work::new(product, acts);
                if acts.rows() <= FEW_ROWS {
                    few_rows!(
                        s,
                        &work,
                        panels,
                        integer_tile,
                        Packed<F>,
                        integer_panels_at_once
                    );
                } else if const { F::Scales::BLOCK == BLOCK } {
                    many_rows!(
                        s,
                        &work,
                        panels,
                        integer_tile,
                        Packed<F>,
                        integer_panels_at_once
                    );
                } else {
                    let mut unpacked = Unpacked::new::<S, F>(product.weights);
                    work.shape = unpacked.shape;
                    for from in panels.clone().step_by(unpacked.room) {
                        let panels = from..panels.end.min(from + unpacked.room);
                        work.data = unpacked.fill::<S, F>(s, panels.clone());
                        many_rows!(
                            s,
                            &work,
                            panels,
                            integer_tile,
                            AsBytes<F>,
                            integer_panels_at_once
                        );
                    }
                }
            }
        }
    }
    S::assume().vectorize(Run::<F>(p, acts, panels, PhantomData))
}

/// `N` rows of activations times `P` panels.
#[inline(always)]
unsafe fn integer_tile<S: Simd, L: Layout, const N: usize, const P: usize, const FEW: bool>(
    s: S,
    work: &Work,
    panel: usize,
    row0: usize,
    fetch: Fetch,
) {
    let (p, acts, shape) = (work.product, work.acts, work.shape);
    let blocks = acts.cols() / BLOCK;
    let subs = const { BLOCK / L::Scales::SUB };
    let a = acts.codes.as_ptr().add(row0 * acts.cols()).cast::<u8>();
    let a_scales = acts.scales.as_ptr().add(row0 * blocks);
    let correction = const { correction::<L::Format>(S::I8_BIAS) };
    let a_sums = match correction {
        Some(c) => acts.sums[c.index()].as_ptr().add(row0 * blocks * subs),
        None => std::ptr::null(),
    };
    let first = work.panel(panel);
    let code_bytes = const { L::Codes::ROW_BYTES * S::LANES };
    let (codes_ahead, scales_ahead) = ahead(P * shape.stride, code_bytes, fetch.every > 1);
    let mut acc = [[s.splat(0.0); N]; P];
    let mut fetched = fetch.first;
    let stride = shape.stride;
    let first_codes = first.add(shape.scale_bytes);
    for b in 0..blocks {
        let a = a.add(b * N * BLOCK);
        let mut codes = [first; P];
        let mut scales = [first; P];
        let scales_at = b * BLOCK / L::Scales::BLOCK * L::Scales::ROW_BYTES * S::LANES;
        for i in 0..P {
            codes[i] = first_codes.add(i * stride + b * code_bytes);
            scales[i] = first.add(i * stride + scales_at);
        }
        if FEW && (N <= 2 || b == fetched) {
            fetched += fetch.every;
            for i in 0..P {
                for line in (0..code_bytes).step_by(LINE) {
                    s.prefetch(codes[i].wrapping_add(codes_ahead + line));
                }
                s.prefetch(scales[i].wrapping_add(scales_ahead));
            }
        }
        for sub in 0..subs {
            let a_sums = a_sums.add((b * subs + sub) * N).cast::<u8>();
            let mut dots = [[s.splat_i32(0); N]; P];
            if let Some(Correction::Integer { .. }) = correction {
                for n in 0..N {
                    let start = s.splat_load(a_sums.add(4 * n));
                    for dots in &mut dots {
                        dots[n] = start;
                    }
                }
            }
            // All groups, or those of this half of the block.
            let halves = match (subs, sub) {
                (1, _) => (true, true),
                (_, sub) => (sub == 0, sub == 1),
            };
            step::<S, L::Codes, N, P, 0>(s, &codes, a, halves, &mut dots);
            step::<S, L::Codes, N, P, 1>(s, &codes, a, halves, &mut dots);
            step::<S, L::Codes, N, P, 2>(s, &codes, a, halves, &mut dots);
            step::<S, L::Codes, N, P, 3>(s, &codes, a, halves, &mut dots);
            let sub_at = b * BLOCK % L::Scales::BLOCK / L::Scales::SUB + sub;
            for i in 0..P {
                let scale = L::Scales::scale(s, scales[i], sub_at);
                for n in 0..N {
                    let scale = s.mul(scale, s.splat(*a_scales.add(b * N + n)));
                    acc[i][n] = s.fma(scale, s.to_f32(dots[i][n]), acc[i][n]);
                }
                if L::Scales::OFFSET {
                    let offset = L::Scales::offset(s, scales[i], sub_at);
                    for n in 0..N {
                        let sum = s.bits_to_f32(s.splat_load(a_sums.add(4 * n)));
                        acc[i][n] = s.fma(offset, sum, acc[i][n]);
                    }
                }
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        finish(s, p, panel + i, row0, acc);
    }
}

/// How far ahead of their use codes and scales are fetched, in bytes. A panel
/// is several short streams, which the processor's own prefetching finds late;
/// so fetch the same place of the next panels or, if those are too far away
/// to stay in the first cache until then, some blocks ahead in this one. Where
/// tiles share the fetching, one block in several, it has to be the next panels.
#[inline(always)]
fn ahead(panels: usize, code_bytes: usize, shared: bool) -> (usize, usize) {
    if panels <= 32 << 10 || shared {
        (panels, panels)
    } else {
        (8 * code_bytes, 4 * LINE)
    }
}

/// Adds the products of groups `J` and `J + 4`, or of one of them.
#[inline(always)]
unsafe fn step<S: Simd, C: Codes, const N: usize, const P: usize, const J: usize>(
    s: S,
    codes: &[*const u8; P],
    a: *const u8,
    halves: (bool, bool),
    dots: &mut [[S::I; N]; P],
) {
    let zero = s.splat_i32(0);
    let mut groups = [(zero, zero); P];
    for i in 0..P {
        groups[i] = C::pair::<S, J>(s, codes[i]);
    }
    for n in 0..N {
        if halves.0 {
            let x = s.splat_load(a.add(n * BLOCK + 4 * J));
            for i in 0..P {
                dots[i][n] = dot::<S, C>(s, dots[i][n], groups[i].0, x);
            }
        }
        if halves.1 {
            let x = s.splat_load(a.add(n * BLOCK + 4 * J + BLOCK / 2));
            for i in 0..P {
                dots[i][n] = dot::<S, C>(s, dots[i][n], groups[i].1, x);
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd, C: Codes>(s: S, acc: S::I, codes: S::I, a: S::I) -> S::I {
    if C::SIGNED {
        s.dot_i8(acc, codes, a)
    } else {
        s.dot_u7(acc, codes, a)
    }
}

/// How a float format's values lie, and what they are multiplied with.
trait Float {
    /// Inputs of a step, which lie together.
    const INPUTS: usize;
    /// Their bytes in one row of weights.
    const BYTES: usize;
    /// Weights of a step, of all rows of a panel.
    type Weights<S: Simd>: Copy;
    /// Where the activations lie that it reads: 4 bytes a step and row.
    fn acts(acts: &Acts) -> *const u8;
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> Self::Weights<S>;
    /// Adds the products with one row's activations, in all lanes.
    fn dot<S: Simd>(s: S, acc: S::F, w: Self::Weights<S>, x: S::I) -> S::F;
}
struct F32;
struct F16;
struct BF16;
impl Float for F32 {
    const INPUTS: usize = 1;
    const BYTES: usize = 4;
    type Weights<S: Simd> = S::F;
    fn acts(acts: &Acts) -> *const u8 {
        acts.floats.as_ptr().cast()
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load(p.cast())
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::F, w: S::F, x: S::I) -> S::F {
        s.fma(w, s.bits_to_f32(x), acc)
    }
}
impl Float for F16 {
    const INPUTS: usize = 1;
    const BYTES: usize = 2;
    type Weights<S: Simd> = S::F;
    fn acts(acts: &Acts) -> *const u8 {
        F32::acts(acts)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load_f16(p.cast())
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::F, w: S::F, x: S::I) -> S::F {
        F32::dot(s, acc, w, x)
    }
}
impl Float for BF16 {
    const INPUTS: usize = 2;
    const BYTES: usize = 4;
    type Weights<S: Simd> = S::I;
    fn acts(acts: &Acts) -> *const u8 {
        acts.pairs.as_ptr().cast()
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::I {
        s.load_i(p)
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::F, w: S::I, x: S::I) -> S::F {
        s.dot_bf16(acc, w, x)
    }
}

unsafe fn float_panels<S: Simd, F: Float>(p: &Product, acts: &Acts, panels: Range<usize>) {
    struct Run<'a, F>(&'a Product<'a>, &'a Acts, Range<usize>, PhantomData<F>);
    impl<F: Float> Kernel for Run<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            // SAFETY: by the contract of `Product::run`.
            unsafe {
                let work = Work::new(self.0, self.1);
                let panels = self.2;
                if self.1.rows() <= FEW_ROWS {
                    few_rows!(s, &work, panels, float_tile, F, float_panels_at_once)
                } else {
                    many_rows!(s, &work, panels, float_tile, F, float_panels_at_once)
                }
            }
        }
    }
    S::assume().vectorize(Run::<F>(p, acts, panels, PhantomData))
}

/// How far ahead of their use float weights are fetched, in bytes: each panel is
/// one long stream.
const FLOATS_AHEAD: usize = 4096;

/// `N` rows of activations times `P` panels.
#[inline(always)]
unsafe fn float_tile<S: Simd, F: Float, const N: usize, const P: usize, const FEW: bool>(
    s: S,
    work: &Work,
    panel: usize,
    row0: usize,
    _fetch: Fetch,
) {
    let (p, acts) = (work.product, work.acts);
    let stride = work.shape.stride;
    let steps = acts.cols().div_ceil(F::INPUTS);
    let w = work.panel(panel);
    let x = F::acts(acts).add(4 * row0 * steps);
    let mut acc = [[s.splat(0.0); N]; P];
    let bytes = const { F::BYTES * S::LANES };
    for k in 0..steps {
        if FEW && N <= 2 && (k * bytes).is_multiple_of(LINE) {
            for i in 0..P {
                s.prefetch(w.wrapping_add(i * stride + k * bytes + FLOATS_AHEAD));
            }
        }
        let mut weights = [F::load(s, w.add(k * bytes)); P];
        for i in 1..P {
            weights[i] = F::load(s, w.add(i * stride + k * bytes));
        }
        for n in 0..N {
            let x = s.splat_load(x.add(4 * (k * N + n)));
            for i in 0..P {
                acc[i][n] = F::dot(s, acc[i][n], weights[i], x);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        finish(s, p, panel + i, row0, acc);
    }
}

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
    for (n, acc) in acc.into_iter().enumerate() {
        let out = p.out.add((row0 + n) * p.out_stride + first);
        if valid == S::LANES {
            let mut y = acc;
            if let Some(bias) = p.bias {
                y = s.add(y, s.load(bias.as_ptr().add(first)));
            }
            if p.accumulate {
                y = s.add(y, s.load(out));
            }
            s.store(out, y);
        } else {
            let mut y = [0f32; 16];
            s.store(y.as_mut_ptr(), acc);
            for (i, y) in y[..valid].iter().enumerate() {
                let bias = p.bias.map_or(0.0, |b| b[first + i]);
                let former = if p.accumulate { *out.add(i) } else { 0.0 };
                *out.add(i) = *y + bias + former;
            }
        }
    }
}

//! Operations over all rows of a step, shared among the threads of a pool.
//!
//! These are the safe doors to the kernels: they check every length, cut the
//! work into chunks that touch disjoint memory, and run them. With `Timing`
//! they also say how the threads' time divides among the parts of one region.

use crate::acts::{Acts, Forms, RowWriter, FEW_ROWS, MOST_ROWS};
use crate::gemm::{Product, Then};
use crate::ops::{self, NormKind};
use crate::panel::Matrix;
use crate::pool::Pool;
use crate::ticks::{ticks, ticks_since};
use rustml_simd::{with_bf16, with_isa, Isa, Kernel, Simd};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

mod cached;
mod experts;
mod inner;
mod recurrent;

pub use cached::{attend_rows, position_rows, Cache, Positioning, QkNorm, SpanView};
pub use experts::{
    expert_rows, pack_expert, route_rows, ExpertBuffers, ExpertMatrix, ExpertRows, ExpertSizes,
    Experts, ReadExpertRow, Touched, EXPERT_PARTS,
};
pub use inner::{inner_rows, Inner, Linear};
pub use recurrent::{
    convolution_state, convolve_rows, scan_rows, Convolution, ScanInput, ScanShape, StateSpan,
    States,
};

/// What rows are computed for, which decides their arithmetic where the CPU has a
/// faster one for many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Rows of a prompt.
    Prefill,
    /// Rows of what is generated.
    #[default]
    Decode,
}

/// Threads, and the instruction set they use.
pub struct Team {
    /// The instruction set of all kernels.
    pub isa: Isa,
    /// The threads.
    pub pool: Pool,
}

impl Team {
    /// Whether attention of prefill rows is computed in bfloat16, where that is one
    /// instruction, not in single precision as for decode rows.
    pub fn prefill_attention_bf16(&self) -> bool {
        self.isa.dots_bf16()
    }

    /// Whether products of prefill rows are in bfloat16, too, for tile registers, not in
    /// 8-bit integers as for decode rows. Then the two cannot share a pass.
    pub fn prefill_products_bf16(&self) -> bool {
        self.isa == Isa::Amx
    }
}

/// Where all threads add the time they spend in each part of a region, if it is
/// asked for. The unit is the same for all parts, and unknown.
pub type Timing<'a> = Option<&'a [AtomicU64]>;

/// A pointer that chunks share; each chunk writes its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every use below gives each chunk a disjoint part.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    /// The value at `at`.
    ///
    /// # Safety
    /// It is in bounds.
    unsafe fn at(&self, at: usize) -> *mut T {
        self.0.add(at)
    }

    /// The `len` values at `at`.
    ///
    /// # Safety
    /// They are in bounds, and no other chunk uses them.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice<'a>(&self, at: usize, len: usize) -> &'a mut [T] {
        std::slice::from_raw_parts_mut(self.0.add(at), len)
    }
}

/// Below this many values an operation on rows is not worth waking threads.
const INLINE_VALUES: usize = 4 * 1024;

/// Runs `body` for every row, on several threads if that pays; it is told the thread.
fn for_rows(team: &Team, rows: usize, row_values: usize, body: &(dyn Fn(usize, usize) + Sync)) {
    if rows * row_values <= INLINE_VALUES {
        (0..rows).for_each(|row| body(row, 0));
        return;
    }
    let chunk = (INLINE_VALUES / 4).div_ceil(row_values.max(1)).max(1);
    team.pool.run(rows.div_ceil(chunk), &|c, thread| {
        (c * chunk..((c + 1) * chunk).min(rows)).for_each(|row| body(row, thread));
    });
}

/// Runs `body` for rows that are prepared together, on several threads if that
/// pays: the tiles of many rows, else single rows.
fn for_tiles(
    team: &Team,
    (rows, forms): (usize, Forms),
    row_values: usize,
    body: &(dyn Fn(Range<usize>, usize) + Sync),
) {
    if rows <= FEW_ROWS {
        return for_rows(team, rows, row_values, &|row, thread| {
            body(row..row + 1, thread)
        });
    }
    let tiles = forms.together(rows);
    team.pool.run(tiles.len(), &|c, thread| {
        let (first, n) = tiles[c];
        body(first..first + n, thread);
    });
}

/// Writes inputs `cols` of `rows`, that `x` holds.
///
/// # Safety
/// No other chunk writes these inputs of these rows.
unsafe fn put_rows(
    isa: Isa,
    writer: &RowWriter,
    rows: Range<usize>,
    cols: Range<usize>,
    x: &[f32],
) {
    struct Put<'a>(&'a RowWriter<'a>, Range<usize>, Range<usize>, &'a [f32]);
    impl Kernel for Put<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            // SAFETY: by the function's contract.
            unsafe { self.0.put(s, self.1, self.2, self.3) }
        }
    }
    let put = Put(writer, rows, cols, x);
    match writer.forms().contains(Forms::TILES) {
        true => with_bf16(isa, put),
        false => with_isa(isa, put),
    }
}

/// What one product of a region computes: see [`Product`].
pub struct Output<'a> {
    /// `[outputs, inputs]`
    pub weights: &'a Matrix,
    /// One value for each output.
    pub bias: Option<&'a [f32]>,
    /// Add to what `out` holds.
    pub accumulate: bool,
    /// `[rows, outputs]`
    pub out: &'a mut [f32],
}

/// Values of scratch memory that operations on so many rows need: norms of rows as wide
/// as `cols`, and the inner part of a feed-forward, of `width`.
pub fn scratch_len(team: &Team, rows: usize, cols: usize, width: usize) -> usize {
    let norms = team.pool.threads() * MOST_ROWS * cols;
    norms.max(inner::scratch_len(team, rows, width))
}

/// A piece of a region of products: which one, and its panels.
type Chunk = (usize, usize, usize);

/// Bytes of weights in a chunk of so many: small enough to balance the threads, large
/// enough to stream; for many rows a chunk of weights stays in a core's own cache.
fn chunk_bytes(team: &Team, bytes: usize) -> usize {
    (bytes / (team.pool.threads() * 6)).clamp(24 << 10, 192 << 10)
}

/// Bytes of activations in tiles that stay in a core's second cache while chunks of
/// weights come and go.
const NEAR: usize = 1 << 20;

/// Where they do not, all of them pass by each chunk, so these are few: so many for each
/// thread, of so many pairs of panels at most.
const FEW_CHUNKS: usize = 3;
const PAIRS: usize = 6;

/// Products of so many rows, in such forms, cut into chunks.
fn cut<'a>(
    team: &Team,
    (rows, forms): (usize, Forms),
    weights: impl Iterator<Item = &'a Matrix> + Clone,
) -> Vec<Chunk> {
    let threads = team.pool.threads();
    let chunk_bytes = chunk_bytes(team, weights.clone().map(Matrix::bytes).sum());
    let mut chunks = Vec::new();
    for (i, w) in weights.enumerate() {
        let far = forms.contains(Forms::TILES) && 2 * rows * w.cols() > NEAR;
        let together = if far { 2 } else { w.panels_at_once(rows) };
        let groups = w.panels().div_ceil(together);
        let n = if far {
            let few = FEW_CHUNKS * threads;
            groups.div_ceil(PAIRS).next_multiple_of(few)
        } else {
            let step = (chunk_bytes / w.panel_bytes().max(1)).div_ceil(together);
            let n = groups.div_ceil(step.max(1));
            // As many for each thread.
            match n / threads {
                0 => n,
                _ => (n + threads / 2) / threads * threads,
            }
        };
        let n = n.min(groups);
        let at = |chunk: usize| (together * (chunk * groups / n)).min(w.panels());
        chunks.extend((0..n).map(|chunk| (i, at(chunk), at(chunk + 1))));
    }
    chunks
}

/// Bytes of weights that a thread asks for ahead: about what memory delivers in
/// the pause between two products.
const AHEAD: usize = 64 << 10;

/// Says that products of these weights come after those that are run next, or of none
/// that are worth it: who is through with his part, and waits, then asks for the first of
/// them, which the processor would find only when they are read.
pub fn expect(team: &Team, weights: &[&Matrix]) {
    let one = (1, Forms::default());
    let chunks = cut(team, one, weights.iter().copied());
    for thread in 0..team.pool.threads() {
        let first = chunks.get(team.pool.first_of(chunks.len(), thread));
        let data = first.map_or(&[][..], |&(i, from, _)| {
            &weights[i].data()[from * weights[i].panel_bytes()..]
        });
        team.pool.expect(thread, &data[..data.len().min(AHEAD)]);
    }
}

/// What a thread reads after chunk `c`: the rest of its share, or what it was told to
/// expect. Of other threads' shares it takes the last chunks, and nobody knows which next.
fn then(team: &Team, products: &[Product], chunks: &[Chunk], c: usize, thread: usize) -> Then {
    let (i, from, to) = chunks[c];
    let share = |thread| team.pool.first_of(chunks.len(), thread);
    if !(share(thread)..share(thread + 1)).contains(&c) {
        return Then::end(&(from..to));
    }
    match chunks[share(thread + 1) - 1] {
        (last, _, until) if last == i => Then {
            until,
            next: team.pool.expected(thread),
        },
        _ => Then {
            until: products[i].weights.panels(),
            next: products[i + 1].weights.data().as_ptr(),
        },
    }
}

/// Several matrix products of the same activations, in one region.
/// `timing[i]` receives the thread time of product `i`.
///
/// # Panics
/// If an output has not `acts.rows()` rows, or the activations lack a form or
/// have another width than the weights; if there are fewer times than products.
pub fn matmul(team: &Team, acts: &Acts, outputs: &mut [Output], timing: Timing) {
    assert!(timing.is_none_or(|t| t.len() >= outputs.len()));
    let rows = acts.rows();
    let mut products = Vec::with_capacity(outputs.len());
    for o in outputs.iter_mut() {
        let values = rows.checked_mul(o.weights.rows());
        assert_eq!(Some(o.out.len()), values, "an output for every row");
        products.push(Product {
            weights: o.weights,
            bias: o.bias,
            accumulate: o.accumulate,
            out: o.out.as_mut_ptr(),
            out_stride: o.weights.rows(),
        });
    }
    let chunks = cut(
        team,
        (rows, acts.forms()),
        outputs.iter().map(|o| o.weights),
    );
    team.pool.run(chunks.len(), &|c, thread| {
        let (i, from, to) = chunks[c];
        let start = timing.map(|_| ticks());
        let then = then(team, &products, &chunks, c, thread);
        // SAFETY: the outputs were checked above to hold all rows, and each
        // chunk computes its own panels.
        unsafe { products[i].run(acts, from..to, then) };
        if let (Some(times), Some(start)) = (timing, start) {
            times[i].fetch_add(ticks_since(start), Relaxed);
        }
    });
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Weights of a norm.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// The formula.
    pub kind: NormKind,
    /// One factor for each value.
    pub weight: &'a [f32],
    /// One summand for each value, or nothing.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl Norm<'_> {
    fn apply(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        ops::norm(isa, self.kind, x, self.weight, self.bias, self.eps, out);
    }
}

/// Normalises every row of `x`, and prepares the result in `forms`.
///
/// # Panics
/// If the lengths do not fit, or there is less scratch memory than [`scratch_len`].
pub fn norm_rows(
    team: &Team,
    norm: Norm,
    x: &[f32],
    scratch: &mut [f32],
    acts: &mut Acts,
    forms: Forms,
) {
    let cols = norm.weight.len();
    let rows = x.len() / cols;
    assert!(x.len() == rows * cols && scratch.len() >= scratch_len(team, rows, cols, 0));
    acts.begin(rows, cols, forms);
    let (writer, scratch) = (acts.writer(), Shared(scratch.as_mut_ptr()));
    for_tiles(team, (rows, forms), cols, &|tile, thread| {
        let values = tile.start * cols..tile.end * cols;
        // SAFETY: each thread has its own, within the length checked above.
        let out = unsafe { scratch.slice(thread * MOST_ROWS * cols, values.len()) };
        let x = x[values].chunks_exact(cols);
        for (x, out) in x.zip(out.chunks_exact_mut(cols)) {
            norm.apply(team.isa, x, out);
        }
        // SAFETY: tile by tile.
        unsafe { put_rows(team.isa, &writer, tile, 0..cols, out) };
    });
}

/// `x = (x +) factor * norm(y)` for every row of `cols` values; without a norm, `y`
/// itself. `accumulate` says whether to add.
///
/// # Panics
/// If the lengths do not fit, or there is less scratch memory than [`scratch_len`].
#[allow(clippy::too_many_arguments)]
pub fn add_rows(
    team: &Team,
    norm: Option<Norm>,
    factor: f32,
    y: &[f32],
    cols: usize,
    scratch: &mut [f32],
    x: &mut [f32],
    accumulate: bool,
) {
    let rows = x.len() / cols;
    assert!(x.len() == rows * cols && y.len() == x.len());
    assert!(norm.is_none_or(|n| n.weight.len() == cols));
    assert!(scratch.len() >= scratch_len(team, rows, cols, 0));
    let (x, t) = (Shared(x.as_mut_ptr()), Shared(scratch.as_mut_ptr()));
    for_rows(team, rows, cols, &|row, thread| {
        // SAFETY: row by row, and each thread's own, within the lengths checked above.
        let (x, t) = unsafe { (x.slice(row * cols, cols), t.slice(thread * cols, cols)) };
        let y = &y[row * cols..][..cols];
        match norm {
            Some(norm) => norm.apply(team.isa, y, t),
            None => t.copy_from_slice(y),
        }
        if factor != 1.0 {
            ops::scale(team.isa, t, factor);
        }
        match accumulate {
            true => ops::add(team.isa, x, t),
            false => x.copy_from_slice(t),
        }
    });
}

/// `out = norm(x)` for every row.
///
/// # Panics
/// If the lengths do not fit.
pub fn norm_to_rows(team: &Team, norm: Norm, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let cols = norm.weight.len();
    map_rows(team, out, cols, &|row, out| {
        norm.apply(team.isa, &x[row * cols..][..cols], out);
    });
}

/// Prepares rows of `cols` values in `forms`.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn prepare_rows(team: &Team, x: &[f32], cols: usize, acts: &mut Acts, forms: Forms) {
    let rows = x.len() / cols;
    assert_eq!(x.len(), rows * cols);
    acts.begin(rows, cols, forms);
    let writer = acts.writer();
    for_tiles(team, (rows, forms), cols, &|tile, _| {
        let x = &x[tile.start * cols..tile.end * cols];
        // SAFETY: tile by tile.
        unsafe { put_rows(team.isa, &writer, tile, 0..cols, x) };
    });
}

/// Runs `f` on every row of `x`.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn map_rows(team: &Team, x: &mut [f32], cols: usize, f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let rows = x.len() / cols;
    assert_eq!(x.len(), rows * cols);
    let x = Shared(x.as_mut_ptr());
    for_rows(team, rows, cols, &|row, _| {
        // SAFETY: row by row, within the length checked above.
        f(row, unsafe { x.slice(row * cols, cols) })
    });
}

/// Writes row `row` of a tensor into `bytes`, in the type of the weights.
pub type ReadRow<'a, E> = dyn Fn(usize, &mut [u8]) -> Result<(), E> + Sync + 'a;

/// Fills packed weights from rows that `read` produces: it is called once for
/// every row, from all threads, and the result is packed at once.
///
/// # Errors
/// The first error of `read`; the weights are then packed in part.
pub fn pack_rows<E: Send>(team: &Team, weights: &mut Matrix, read: &ReadRow<E>) -> Result<(), E> {
    let row_bytes = weights
        .dtype()
        .row_bytes(weights.cols())
        .expect("whole blocks");
    let (rows, lanes, panels) = (weights.rows(), weights.lanes(), weights.panels());
    let packer = weights.packer();
    let failed = Mutex::new(None);
    team.pool.run(panels, &|panel, _| {
        if lock(&failed).is_some() {
            return;
        }
        packer.begin(panel);
        let mut bytes = vec![0u8; row_bytes];
        for row in panel * lanes..((panel + 1) * lanes).min(rows) {
            if let Err(e) = read(row, &mut bytes) {
                lock(&failed).get_or_insert(e);
                return;
            }
            // SAFETY: a panel is filled by its own chunk, row by row.
            unsafe { packer.put_row(row, &bytes) };
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}

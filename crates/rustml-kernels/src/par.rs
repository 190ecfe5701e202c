//! Operations over all rows of a step, shared among the threads of a pool.
//!
//! These are the safe doors to the kernels: they check every length, cut the
//! work into chunks that touch disjoint memory, and run them. With `Timing`
//! they also say how the threads' time divides among the parts of one region.

use crate::acts::{Acts, Forms, RowWriter};
use crate::attention::{attend, AttentionShape, KvLayer, Phases, Queries, KV_BLOCK};
use crate::gemm::Product;
use crate::ops::{self, Activation, NormKind};
use crate::panel::Matrix;
use crate::pool::Pool;
use rustml_simd::{with_isa, Isa, Kernel, Simd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Threads, and the instruction set they use.
pub struct Team {
    /// The instruction set of all kernels.
    pub isa: Isa,
    /// The threads.
    pub pool: Pool,
}

/// Thread time by part of a region: filled when asked for.
pub type Timing<'a> = Option<&'a mut [Duration]>;

/// A pointer that chunks share; each chunk writes its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every use below gives each chunk a disjoint part.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

impl Shared<f32> {
    /// The `len` values at `at`.
    ///
    /// # Safety
    /// They are in bounds, and no other chunk uses them.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice<'a>(&self, at: usize, len: usize) -> &'a mut [f32] {
        std::slice::from_raw_parts_mut(self.0.add(at), len)
    }
}

/// Below this many values an operation on rows is not worth waking threads.
const INLINE_VALUES: usize = 16 * 1024;

/// Runs `body` for every row, on several threads if that pays.
fn for_rows(team: &Team, rows: usize, row_values: usize, body: &(dyn Fn(usize) + Sync)) {
    if rows * row_values <= INLINE_VALUES {
        (0..rows).for_each(body);
        return;
    }
    let chunk = (INLINE_VALUES / 4).div_ceil(row_values.max(1)).max(1);
    team.pool.run(rows.div_ceil(chunk), &|c, _| {
        (c * chunk..((c + 1) * chunk).min(rows)).for_each(body);
    });
}

fn put_row(isa: Isa, writer: &RowWriter, row: usize, x: &[f32]) {
    struct Put<'a>(&'a RowWriter<'a>, usize, &'a [f32]);
    impl Kernel for Put<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            // SAFETY: callers below put each row from one chunk.
            unsafe { self.0.put(s, self.1, self.2) }
        }
    }
    with_isa(isa, Put(writer, row, x))
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

/// Several matrix products of the same activations, in one region.
/// `timing[i]` receives the thread time of product `i`.
///
/// # Panics
/// If an output has not `acts.rows()` rows, or the activations lack a form.
pub fn matmul(team: &Team, acts: &Acts, outputs: &mut [Output], timing: Timing) {
    let rows = acts.rows();
    let mut products = Vec::with_capacity(outputs.len());
    let mut bytes = 0;
    for o in outputs.iter_mut() {
        assert_eq!(o.out.len(), rows * o.weights.rows());
        bytes += o.weights.bytes();
        products.push(Product {
            weights: o.weights,
            bias: o.bias,
            accumulate: o.accumulate,
            out: o.out.as_mut_ptr(),
            out_stride: o.weights.rows(),
        });
    }
    // Small enough to balance the threads, large enough to stream; for many
    // rows a chunk of weights stays in a core's own cache.
    let chunk_bytes = (bytes / (team.pool.threads() * 6)).clamp(24 << 10, 192 << 10);
    let mut chunks: Vec<(usize, usize, usize)> = Vec::new();
    for (i, p) in products.iter().enumerate() {
        let step = (chunk_bytes / p.weights.panel_bytes().max(1)).max(1);
        for at in (0..p.weights.panels()).step_by(step) {
            chunks.push((i, at, (at + step).min(p.weights.panels())));
        }
    }
    let times = timing
        .as_ref()
        .map(|t| Mutex::new(vec![Duration::ZERO; t.len()]));
    team.pool.run(chunks.len(), &|c, _| {
        let (i, from, to) = chunks[c];
        let start = times.as_ref().map(|_| Instant::now());
        // SAFETY: the outputs were checked above to hold all rows, and each
        // chunk computes its own panels.
        unsafe { products[i].run(acts, from..to) };
        if let (Some(times), Some(start)) = (&times, start) {
            lock(times)[i] += start.elapsed();
        }
    });
    settle(timing, times);
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn settle(timing: Timing, times: Option<Mutex<Vec<Duration>>>) {
    if let (Some(to), Some(times)) = (timing, times) {
        to.copy_from_slice(&lock(&times));
    }
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

/// Normalises every row of `x` into `out`, and prepares the result in `forms`.
///
/// # Panics
/// If the lengths do not fit.
pub fn norm_rows(
    team: &Team,
    norm: Norm,
    x: &[f32],
    out: &mut [f32],
    acts: &mut Acts,
    forms: Forms,
) {
    let cols = norm.weight.len();
    let rows = x.len() / cols;
    assert!(x.len() == rows * cols && out.len() == x.len());
    acts.begin(rows, cols, forms);
    let (writer, out) = (acts.writer(), Shared(out.as_mut_ptr()));
    for_rows(team, rows, cols, &|row| {
        // SAFETY: row by row, within the length checked above.
        let out = unsafe { out.slice(row * cols, cols) };
        norm.apply(team.isa, &x[row * cols..][..cols], out);
        put_row(team.isa, &writer, row, out);
    });
}

/// `x += norm(y)` for every row; `y` is overwritten.
///
/// # Panics
/// If the lengths do not fit.
pub fn norm_add_rows(team: &Team, norm: Norm, y: &mut [f32], scratch: &mut [f32], x: &mut [f32]) {
    let cols = norm.weight.len();
    let rows = x.len() / cols;
    assert!(x.len() == rows * cols && y.len() == x.len() && scratch.len() == x.len());
    let (x, t) = (Shared(x.as_mut_ptr()), Shared(scratch.as_mut_ptr()));
    let y = &*y;
    for_rows(team, rows, cols, &|row| {
        // SAFETY: row by row, within the length checked above.
        let (x, t) = unsafe { (x.slice(row * cols, cols), t.slice(row * cols, cols)) };
        norm.apply(team.isa, &y[row * cols..][..cols], t);
        ops::add(team.isa, x, t);
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
    for_rows(team, rows, cols, &|row| {
        put_row(team.isa, &writer, row, &x[row * cols..][..cols]);
    });
}

/// `gate = f(gate) * up` (or `f(gate)` where `up` is empty) for every row,
/// prepared in `forms`.
///
/// # Panics
/// If the lengths do not fit.
pub fn activate_rows(
    team: &Team,
    f: Activation,
    gate: &mut [f32],
    up: &[f32],
    cols: usize,
    acts: &mut Acts,
    forms: Forms,
) {
    let rows = gate.len() / cols;
    assert!(gate.len() == rows * cols && (up.is_empty() || up.len() == gate.len()));
    acts.begin(rows, cols, forms);
    let (writer, gate) = (acts.writer(), Shared(gate.as_mut_ptr()));
    for_rows(team, rows, cols * 4, &|row| {
        // SAFETY: row by row, within the length checked above.
        let gate = unsafe { gate.slice(row * cols, cols) };
        let up = if up.is_empty() {
            up
        } else {
            &up[row * cols..][..cols]
        };
        ops::activate(team.isa, f, gate, up);
        put_row(team.isa, &writer, row, gate);
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
    for_rows(team, rows, cols, &|row| {
        // SAFETY: row by row, within the length checked above.
        f(row, unsafe { x.slice(row * cols, cols) })
    });
}

/// One sequence's rows in a step, as attention sees them.
#[derive(Clone, Copy, Debug)]
pub struct SpanView<'a> {
    /// First row in the step.
    pub row: usize,
    /// Rows.
    pub rows: usize,
    /// Position of the first row.
    pub first: usize,
    /// Cache blocks of positions 0.. in order.
    pub blocks: &'a [u32],
}

/// A layer's cache, borrowed for one operation.
pub struct Cache<'a> {
    layer: KvLayer,
    blocks: usize,
    _memory: std::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Cache<'a> {
    /// Keys and values, each of whole blocks of the shape.
    ///
    /// # Panics
    /// If the lengths are no whole blocks, or differ.
    pub fn new(shape: crate::attention::KvShape, keys: &'a mut [u8], values: &'a mut [u8]) -> Self {
        let blocks = keys.len() / shape.block_bytes();
        assert!(keys.len() == blocks * shape.block_bytes() && keys.len() == values.len());
        assert!((keys.as_ptr() as usize).is_multiple_of(64));
        assert!((values.as_ptr() as usize).is_multiple_of(64));
        Cache {
            layer: KvLayer {
                shape,
                keys: keys.as_mut_ptr(),
                values: values.as_mut_ptr(),
            },
            blocks,
            _memory: std::marker::PhantomData,
        }
    }

    /// Bytes of one position's keys and values.
    pub fn position_bytes(&self) -> usize {
        2 * self.layer.shape.block_bytes() / KV_BLOCK
    }

    fn check(&self, spans: &[SpanView], rows: usize) {
        let mut next = 0;
        for s in spans {
            assert_eq!(s.row, next, "spans follow each other");
            next += s.rows;
            assert!(s.blocks.len() * KV_BLOCK >= s.first + s.rows);
            assert!(s.blocks.iter().all(|&b| (b as usize) < self.blocks));
        }
        assert_eq!(next, rows);
    }
}

/// What happens to queries and keys between projection and attention.
pub struct Positioning<'a> {
    /// Norms of every query and key head.
    pub qk_norm: Option<(Norm<'a>, Norm<'a>)>,
    /// Cosines and sines, `[rows, pairs]` each.
    pub rope: Option<(&'a [f32], &'a [f32])>,
}

/// Normalises and rotates queries and keys, and stores keys and values in the
/// cache. `timing` receives the thread time of norm, rotation and storing.
///
/// # Panics
/// If the lengths do not fit, or a span's cache blocks do not.
#[allow(clippy::too_many_arguments)]
pub fn position_rows(
    team: &Team,
    cache: &Cache,
    spans: &[SpanView],
    pos: &Positioning,
    heads: usize,
    q: &mut [f32],
    k: &mut [f32],
    v: &[f32],
    timing: Timing,
) {
    let shape = cache.layer.shape;
    let (hd, kv_cols) = (shape.head_dim, shape.kv_heads * shape.head_dim);
    let q_cols = heads * hd;
    let rows = q.len() / q_cols;
    assert!(q.len() == rows * q_cols && k.len() == rows * kv_cols && v.len() == k.len());
    cache.check(spans, rows);
    let pairs = pos.rope.map_or(0, |(cos, sin)| {
        assert!(cos.len() == sin.len() && cos.len().is_multiple_of(rows.max(1)));
        cos.len() / rows.max(1)
    });
    let (q, k) = (Shared(q.as_mut_ptr()), Shared(k.as_mut_ptr()));
    let times = timing.as_ref().map(|_| Mutex::new(vec![Duration::ZERO; 3]));
    for_rows(team, rows, 4 * (q_cols + 2 * kv_cols), &|row| {
        // SAFETY: row by row, within the lengths checked above.
        let (q, k) = unsafe {
            (
                q.slice(row * q_cols, q_cols),
                k.slice(row * kv_cols, kv_cols),
            )
        };
        let v = &v[row * kv_cols..][..kv_cols];
        let start = times.as_ref().map(|_| Instant::now());
        if let Some((q_norm, k_norm)) = pos.qk_norm {
            let mut head = [0f32; crate::attention::MAX_HEAD_DIM];
            for (norm, x) in [(q_norm, &mut *q), (k_norm, &mut *k)] {
                for x in x.chunks_exact_mut(hd) {
                    norm.apply(team.isa, x, &mut head[..hd]);
                    x.copy_from_slice(&head[..hd]);
                }
            }
        }
        let normed = start.map(|_| Instant::now());
        if let Some((cos, sin)) = pos.rope {
            let (cos, sin) = (&cos[row * pairs..][..pairs], &sin[row * pairs..][..pairs]);
            ops::rope(team.isa, q, hd, cos, sin);
            ops::rope(team.isa, k, hd, cos, sin);
        }
        let rotated = start.map(|_| Instant::now());
        let span = spans.iter().rfind(|s| s.row <= row).expect("checked");
        let position = span.first + row - span.row;
        let block = span.blocks[position / KV_BLOCK];
        // SAFETY: the block exists (checked), and sequences own their blocks,
        // so no other row stores at this slot.
        unsafe { cache.layer.put(block, position % KV_BLOCK, k, v) };
        if let (Some(times), Some(a), Some(b), Some(c)) = (&times, start, normed, rotated) {
            let mut t = lock(times);
            t[0] += b - a;
            t[1] += c - b;
            t[2] += c.elapsed();
        }
    });
    settle(timing, times);
}

/// Attention of all rows: `out[row] = softmax(q k^T) v` head by head.
///
/// # Panics
/// If the lengths do not fit, or a span's cache blocks do not.
pub fn attend_rows(
    team: &Team,
    shape: &AttentionShape,
    cache: &Cache,
    spans: &[SpanView],
    q: &[f32],
    out: &mut [f32],
    phases: Option<&mut Phases>,
) {
    let kv = cache.layer.shape;
    let cols = shape.heads * kv.head_dim;
    let rows = q.len() / cols;
    assert!(q.len() == rows * cols && out.len() == q.len());
    cache.check(spans, rows);
    let out = Shared(out.as_mut_ptr());
    // A chunk is one KV head of some rows of one span.
    let group = shape.heads / kv.kv_heads;
    let step = 32usize.div_ceil(group);
    let mut chunks = Vec::new();
    for s in spans {
        for head in 0..kv.kv_heads {
            for at in (0..s.rows).step_by(step) {
                chunks.push((s, head, at..(at + step).min(s.rows)));
            }
        }
    }
    // Late rows see more: begin with the longest.
    chunks.reverse();
    let times = phases.as_ref().map(|_| Mutex::new(Phases::default()));
    team.pool.run(chunks.len(), &|c, _| {
        let _ = &out;
        let (s, head, rows) = chunks[c].clone();
        let queries = Queries {
            q: q[s.row * cols..].as_ptr(),
            // SAFETY: within `out`, which is as long as `q`.
            out: unsafe { out.0.add(s.row * cols) },
            stride: cols,
            rows: s.rows,
            first: s.first,
            blocks: s.blocks,
        };
        let mut mine = Phases::default();
        let timed = times.is_some().then_some(&mut mine);
        // SAFETY: the chunk's rows and head are its own; blocks were checked.
        unsafe { attend(team.isa, shape, &cache.layer, &queries, head, rows, timed) };
        if let Some(times) = &times {
            let mut t = lock(times);
            t.scores += mine.scores;
            t.softmax += mine.softmax;
            t.values += mine.values;
        }
    });
    if let (Some(to), Some(times)) = (phases, times) {
        *to = *lock(&times);
    }
}

/// Fills packed weights from rows that `read` produces in the weights' type:
/// `read(row, bytes)` is called once for every row, from all threads, and the
/// result is packed at once.
///
/// # Errors
/// The first error of `read`.
///
/// # Panics
/// If the weights' row length overflows.
pub fn pack_rows<E: Send>(
    team: &Team,
    weights: &mut Matrix,
    read: &(dyn Fn(usize, &mut [u8]) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let row_bytes = weights
        .dtype()
        .row_bytes(weights.cols())
        .expect("whole blocks");
    let (rows, lanes, panels) = (weights.rows(), weights.lanes(), weights.panels());
    let packer = weights.packer();
    let failed = Mutex::new(None);
    team.pool.run(panels, &|panel, _| {
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
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

//! Attention over a cache of keys and values in blocks of positions.
//!
//! Keys are stored transposed within a block, `[kv head][value][position]`,
//! values as `[kv head][position][value]`; so scores and weighted sums are the
//! same small matrix product, vectors run along its columns, and nothing is
//! summed across lanes. Softmax is computed online, block by block (Dao et
//! al., "FlashAttention"), always from the same block borders: the result of a
//! query does not depend on how many others are computed with it (as long as
//! keys and values are finite: a value of another's position, that this query
//! does not see, is multiplied by zero).

use crate::ops::{cap_row, exp_minus_max, sum};
use rustml_simd::{with_isa, Isa, Kernel, Simd};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Positions of a cache block.
pub const KV_BLOCK: usize = 64;
/// Largest head.
pub const MAX_HEAD_DIM: usize = 512;
/// Head sizes are rounded up to whole vectors of the widest set.
const PAD: usize = 16;
/// Values of a query in working memory; not a power of two, so that the same
/// value of several queries does not compete for one set of the cache.
const ROW: usize = MAX_HEAD_DIM + PAD;

/// How cached keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
}

impl KvType {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// Sizes of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Storage.
    pub kv_type: KvType,
}

impl KvShape {
    const fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(PAD)
    }
    /// Bytes of a block's keys, and of its values.
    pub const fn block_bytes(&self) -> usize {
        self.kv_heads * self.padded_dim() * KV_BLOCK * self.kv_type.bytes()
    }
    const fn head_bytes(&self) -> usize {
        self.padded_dim() * KV_BLOCK * self.kv_type.bytes()
    }
}

/// One layer's cache, shared by all sequences.
#[derive(Clone, Copy)]
pub struct KvLayer {
    /// Sizes.
    pub shape: KvShape,
    /// Key blocks, [`KvShape::block_bytes`] each.
    pub keys: *mut u8,
    /// Value blocks, likewise.
    pub values: *mut u8,
}

// SAFETY: a pair of pointers; the unsafe functions below say who may use them.
unsafe impl Sync for KvLayer {}
// SAFETY: as above.
unsafe impl Send for KvLayer {}

impl KvLayer {
    /// Stores the key and value (`kv_heads * head_dim` values each) of one
    /// position in `block` at `slot`.
    ///
    /// # Safety
    /// The block exists and nobody else uses this slot.
    pub unsafe fn put(&self, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let sh = self.shape;
        let (hd, padded) = (sh.head_dim, sh.padded_dim());
        assert!(slot < KV_BLOCK);
        assert!(key.len() == sh.kv_heads * hd && value.len() == key.len());
        let at = block as usize * sh.block_bytes();
        for head in 0..sh.kv_heads {
            let k = self.keys.add(at + head * sh.head_bytes());
            let v = self.values.add(at + head * sh.head_bytes());
            let (key, value) = (&key[head * hd..][..hd], &value[head * hd..][..hd]);
            match sh.kv_type {
                KvType::F32 => {
                    let (k, v) = (k.cast::<f32>(), v.cast::<f32>());
                    for d in 0..hd {
                        *k.add(d * KV_BLOCK + slot) = key[d];
                        *v.add(slot * padded + d) = value[d];
                    }
                }
                KvType::F16 => {
                    let (k, v) = (k.cast::<u16>(), v.cast::<u16>());
                    for d in 0..hd {
                        *k.add(d * KV_BLOCK + slot) = half::f16::from_f32(key[d]).to_bits();
                        *v.add(slot * padded + d) = half::f16::from_f32(value[d]).to_bits();
                    }
                }
            }
        }
    }
}

/// What attention does in one layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads, a multiple of the KV heads.
    pub heads: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`, if any.
    pub soft_cap: Option<f32>,
    /// How many positions back a query sees, itself included; at least 1.
    pub window: Option<usize>,
    /// Whether a query sees only positions up to its own.
    pub causal: bool,
}

/// The queries of one sequence in a step.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// First query row; a row is `heads * head_dim` values.
    pub q: *const f32,
    /// Where the first row's result goes, laid out alike.
    pub out: *mut f32,
    /// Values from one row to the next, in both.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Position of the first row.
    pub first: usize,
    /// Cache blocks of the sequence, of positions 0.. in order.
    pub blocks: &'a [u32],
}

// SAFETY: as for `KvLayer`.
unsafe impl Sync for Queries<'_> {}
// SAFETY: as above.
unsafe impl Send for Queries<'_> {}

/// Time spent in the phases of attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// Queries times keys.
    pub scores: Duration,
    /// Maximum, exponential, sum.
    pub softmax: Duration,
    /// Weights times values.
    pub values: Duration,
}

/// Computes the rows `rows` of `q` for one KV head and all query heads that
/// share it. With `phases` the clock is read around each phase.
///
/// # Safety
/// The rows of `q` are readable and those of `out` writable at this head, and
/// no other thread writes them; the cache holds every visible position.
///
/// # Panics
/// If the shapes do not fit.
pub unsafe fn attend(
    isa: Isa,
    shape: &AttentionShape,
    cache: &KvLayer,
    q: &Queries,
    kv_head: usize,
    rows: Range<usize>,
    phases: Option<&mut Phases>,
) {
    let kv = cache.shape;
    assert!(kv.head_dim <= MAX_HEAD_DIM && shape.heads.is_multiple_of(kv.kv_heads));
    assert!(kv_head < kv.kv_heads && rows.end <= q.rows);
    assert!(shape.window != Some(0), "a query sees itself");
    assert!(q.blocks.len() * KV_BLOCK >= q.first + q.rows);
    let job = Job {
        shape,
        cache,
        q,
        kv_head,
    };
    with_isa(isa, Run(job, rows, phases))
}

#[derive(Clone, Copy)]
struct Job<'a> {
    shape: &'a AttentionShape,
    cache: &'a KvLayer,
    q: &'a Queries<'a>,
    kv_head: usize,
}

struct Run<'a>(Job<'a>, Range<usize>, Option<&'a mut Phases>);

impl Kernel for Run<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run(job, rows, mut phases) = self;
        let group = job.shape.heads / job.cache.shape.kv_heads;
        // Queries are numbered row by row, the heads of a group together.
        let (mut at, end) = (rows.start * group, rows.end * group);
        while at < end {
            let phases = phases.as_deref_mut();
            // SAFETY: by the contract of `attend`.
            at += unsafe {
                match job.cache.shape.kv_type {
                    KvType::F32 => some::<S, F32>(s, job, at, end - at, phases),
                    KvType::F16 => some::<S, F16>(s, job, at, end - at, phases),
                }
            };
        }
    }
}

/// Computes up to `left` queries from number `at` on; returns how many. Groups
/// of 2, 3, 4 and 8 heads read keys and values once.
#[inline(always)]
unsafe fn some<S: Simd, T: Stored>(
    s: S,
    job: Job,
    at: usize,
    left: usize,
    phases: Option<&mut Phases>,
) -> usize {
    match left {
        8.. => tile::<S, T, 8>(s, job, at, phases),
        4.. => tile::<S, T, 4>(s, job, at, phases),
        3 => tile::<S, T, 3>(s, job, at, phases),
        2 => tile::<S, T, 2>(s, job, at, phases),
        _ => tile::<S, T, 1>(s, job, at, phases),
    }
}

/// How cached values are read.
trait Stored {
    type T;
    unsafe fn load<S: Simd>(s: S, p: *const Self::T) -> S::F;
}
struct F32;
struct F16;
impl Stored for F32 {
    type T = f32;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        s.load(p)
    }
}
impl Stored for F16 {
    type T = u16;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16) -> S::F {
        s.load_f16(p)
    }
}

/// `out[n][c] = out[n][c] * keep[n] + sum over k of a[n][k] * b[k][c]` for all
/// `cols`, whole vectors of them; rows of `b` are `b_stride` values apart.
///
/// # Safety
/// `b` is readable there.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn product<S: Simd, T: Stored, const N: usize, const A: usize, const O: usize>(
    s: S,
    a: &[[f32; A]; N],
    k: Range<usize>,
    b: *const T::T,
    b_stride: usize,
    cols: Range<usize>,
    out: &mut [[f32; O]; N],
    keep: [f32; N],
) {
    assert!(k.end <= A && cols.end <= O);
    let (mut c, step) = (cols.start, const { vectors(S::LANES, N) });
    while c < cols.end {
        let b = b.add(c);
        let left = (cols.end - c) / S::LANES;
        c += S::LANES
            * match step {
                4 if left >= 4 => columns::<S, T, N, A, O, 4>(s, a, &k, b, b_stride, c, out, keep),
                2.. if left >= 2 => {
                    columns::<S, T, N, A, O, 2>(s, a, &k, b, b_stride, c, out, keep)
                }
                _ => columns::<S, T, N, A, O, 1>(s, a, &k, b, b_stride, c, out, keep),
            };
    }
}

/// Vectors of columns computed together with `n` rows: enough sums to hide the
/// latency of the multiply-add, as far as there are registers.
const fn vectors(lanes: usize, n: usize) -> usize {
    match n {
        1..=3 => 4,
        4 if lanes == 16 => 4,
        4 => 2,
        _ if lanes == 16 => 2,
        _ => 1,
    }
}

/// `V` vectors of columns of [`product`], from column `c` on, where `b` begins;
/// returns `V`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn columns<
    S: Simd,
    T: Stored,
    const N: usize,
    const A: usize,
    const O: usize,
    const V: usize,
>(
    s: S,
    a: &[[f32; A]; N],
    k: &Range<usize>,
    b: *const T::T,
    b_stride: usize,
    c: usize,
    out: &mut [[f32; O]; N],
    keep: [f32; N],
) -> usize {
    let mut acc = [[s.splat(0.0); V]; N];
    for n in 0..N {
        if keep[n] != 0.0 {
            for v in 0..V {
                let o = s.load(out[n].as_ptr().add(c + v * S::LANES));
                acc[n][v] = s.mul(o, s.splat(keep[n]));
            }
        }
    }
    for k in k.clone() {
        let row = b.add(k * b_stride);
        for v in 0..V {
            let x = T::load(s, row.add(v * S::LANES));
            for n in 0..N {
                let a = s.splat(*a[n].as_ptr().add(k));
                acc[n][v] = s.fma(x, a, acc[n][v]);
            }
        }
    }
    for n in 0..N {
        for v in 0..V {
            s.store(out[n].as_mut_ptr().add(c + v * S::LANES), acc[n][v]);
        }
    }
    V
}

/// `N` queries from number `at` on against all they see; returns `N`.
#[inline(always)]
unsafe fn tile<S: Simd, T: Stored, const N: usize>(
    s: S,
    job: Job,
    at: usize,
    mut phases: Option<&mut Phases>,
) -> usize {
    let Job {
        shape,
        cache,
        q,
        kv_head,
    } = job;
    let kv = cache.shape;
    let (hd, padded) = (kv.head_dim, kv.padded_dim());
    let group = shape.heads / kv.kv_heads;
    let mut queries = [[0f32; ROW]; N];
    let mut sums = [[0f32; ROW]; N];
    let mut scores = [[0f32; KV_BLOCK]; N]; // then the weights
    let (mut max, mut total) = ([f32::NEG_INFINITY; N], [0f32; N]);
    let mut sees = [(0usize, 0usize); N];
    let offset = |n: usize| {
        let (row, head) = ((at + n) / group, kv_head * group + (at + n) % group);
        row * q.stride + head * hd
    };
    for n in 0..N {
        let x = q.q.add(offset(n));
        for d in 0..hd {
            queries[n][d] = *x.add(d) * shape.scale;
        }
        let position = q.first + (at + n) / group;
        let last = if shape.causal {
            position + 1
        } else {
            q.first + q.rows
        };
        let first = shape.window.map_or(0, |w| (position + 1).saturating_sub(w));
        sees[n] = (first, last);
    }
    let first = sees.iter().map(|r| r.0).min().unwrap_or(0);
    let last = sees.iter().map(|r| r.1).max().unwrap_or(0);
    for b in first / KV_BLOCK..last.div_ceil(KV_BLOCK) {
        let start = b * KV_BLOCK;
        let block = q.blocks[b] as usize * kv.block_bytes() + kv_head * kv.head_bytes();
        let cols = first.max(start) - start..last.min(start + KV_BLOCK) - start;
        let clock = phases.is_some().then(Instant::now);
        let keys = cache.keys.add(block).cast::<T::T>().cast_const();
        let wide = cols.start / S::LANES * S::LANES..cols.end.next_multiple_of(S::LANES);
        let none = [0.0; N];
        product::<S, T, N, _, _>(s, &queries, 0..hd, keys, KV_BLOCK, wide, &mut scores, none);
        let scored = clock.map(|_| Instant::now());
        let mut keep = [1f32; N];
        for n in 0..N {
            let row = &mut scores[n];
            let (from, to) = (sees[n].0.max(start), sees[n].1.min(start + KV_BLOCK));
            if from >= to {
                row.fill(0.0);
            } else {
                let (from, to) = (from - start, to - start);
                if let Some(cap) = shape.soft_cap {
                    cap_row(s, &mut row[from..to], cap);
                }
                let block_max = row[from..to]
                    .iter()
                    .copied()
                    .fold(f32::NEG_INFINITY, f32::max);
                let new_max = max[n].max(block_max);
                keep[n] = (max[n] - new_max).exp();
                max[n] = new_max;
                let visible = exp_masked(s, row, new_max, from..to);
                total[n] = total[n] * keep[n] + visible;
            }
        }
        let weighed = clock.map(|_| Instant::now());
        let values = cache.values.add(block).cast::<T::T>().cast_const();
        product::<S, T, N, _, _>(s, &scores, cols, values, padded, 0..padded, &mut sums, keep);
        if let (Some(p), Some(c), Some(a), Some(b)) =
            (phases.as_deref_mut(), clock, scored, weighed)
        {
            p.scores += a - c;
            p.softmax += b - a;
            p.values += b.elapsed();
        }
    }
    for n in 0..N {
        let out = q.out.add(offset(n));
        for d in 0..hd {
            *out.add(d) = sums[n][d] / total[n];
        }
    }
    N
}

/// `row = exp(row - max)` on `seen`, 0 elsewhere; returns the sum, always
/// added up over the whole block in one order.
#[inline(always)]
fn exp_masked<S: Simd>(s: S, row: &mut [f32], max: f32, seen: Range<usize>) -> f32 {
    row[..seen.start].fill(max);
    row[seen.end..].fill(max);
    exp_minus_max(s, row, max);
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    sum(s, row)
}

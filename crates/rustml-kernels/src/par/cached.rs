//! Operations that write and read the cache of keys and values.

use super::{for_rows, lock, settle, Norm, Shared, Team, Timing};
use crate::attention::{attend, AttentionShape, KvLayer, KvShape, Phases, Queries};
use crate::attention::{KV_BLOCK, MAX_HEAD_DIM};
use crate::ops;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Mutex;
use std::time::{Duration, Instant};

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
///
/// Operations write through a shared reference, one at a time because it cannot
/// be shared among threads:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<rustml_kernels::par::Cache>();
/// ```
pub struct Cache<'a> {
    layer: KvLayer,
    blocks: usize,
    _memory: PhantomData<(&'a mut [u8], Cell<()>)>,
}

impl<'a> Cache<'a> {
    /// Keys and values, each of whole blocks of the shape.
    ///
    /// # Panics
    /// If the lengths are no whole blocks, or differ, or the memory does not
    /// begin on a cache line; if heads are larger than [`MAX_HEAD_DIM`].
    pub fn new(shape: KvShape, keys: &'a mut [u8], values: &'a mut [u8]) -> Self {
        assert!((1..=MAX_HEAD_DIM).contains(&shape.head_dim));
        // The bytes of a block cannot overflow.
        assert!((1..=u16::MAX.into()).contains(&shape.kv_heads));
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
            _memory: PhantomData,
        }
    }

    /// Bytes of one position's keys and values.
    pub fn position_bytes(&self) -> usize {
        2 * self.layer.shape.block_bytes() / KV_BLOCK
    }

    /// Asserts that the spans make up the rows and have cache blocks that exist.
    fn check(&self, spans: &[SpanView], rows: usize) {
        let mut next = 0;
        for s in spans {
            assert_eq!(s.row, next, "spans follow each other");
            // No further than `rows`, so nothing below overflows.
            assert!(s.rows <= rows - next, "spans are no longer than the step");
            next += s.rows;
            let end = s.first.checked_add(s.rows);
            assert!(end.is_some_and(|end| end.div_ceil(KV_BLOCK) <= s.blocks.len()));
            assert!(s.blocks.iter().all(|&b| (b as usize) < self.blocks));
        }
        assert_eq!(next, rows, "every row is in a span");
    }
}

/// Asserts that no two rows are stored in one place.
fn check_stores(spans: &[SpanView]) {
    let mut blocks: Vec<u32> = Vec::new();
    for s in spans.iter().filter(|s| s.rows > 0) {
        blocks.extend(&s.blocks[s.first / KV_BLOCK..=(s.first + s.rows - 1) / KV_BLOCK]);
    }
    blocks.sort_unstable();
    let twice = blocks.windows(2).any(|pair| pair[0] == pair[1]);
    assert!(!twice, "spans own the blocks they store to");
}

/// What happens to queries and keys between projection and attention.
pub struct Positioning<'a> {
    /// Norms of every query and key head.
    pub qk_norm: Option<(Norm<'a>, Norm<'a>)>,
    /// Cosines and sines, `[rows, pairs]` each; see [`ops::rope`].
    pub rope: Option<(&'a [f32], &'a [f32])>,
}

/// Normalises and rotates queries and keys, and stores keys and values in the
/// cache. `q` is `[rows, heads * head_dim]`, `k` and `v` are
/// `[rows, kv_heads * head_dim]`. `timing` receives the thread time of norm,
/// rotation and storing: three parts.
///
/// # Panics
/// If the lengths do not fit, a span's cache blocks do not exist, or two rows
/// would be stored in one block's slot.
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
    let (layer, shape) = (&cache.layer, cache.layer.shape);
    let (hd, kv_cols) = (shape.head_dim, shape.kv_heads * shape.head_dim);
    let q_cols = heads.checked_mul(hd).expect("a width that exists");
    let rows = q.len() / q_cols;
    assert!(q.len() == rows * q_cols && k.len() == rows * kv_cols && v.len() == k.len());
    cache.check(spans, rows);
    check_stores(spans);
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
            let mut head = [0f32; MAX_HEAD_DIM];
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
        // SAFETY: the block exists and only this row stores at this slot, both
        // checked above; nobody else has the cache while it is borrowed.
        unsafe { layer.put(block, position % KV_BLOCK, k, v) };
        if let (Some(times), Some(a), Some(b), Some(c)) = (&times, start, normed, rotated) {
            let mut t = lock(times);
            t[0] += b - a;
            t[1] += c - b;
            t[2] += c.elapsed();
        }
    });
    settle(timing, times);
}

/// Attention of all rows: `out[row] = softmax(q k^T) v` head by head, over the
/// positions of the row's span that it sees. `q` and `out` are
/// `[rows, heads * head_dim]`.
///
/// # Panics
/// If the lengths do not fit, or a span's cache blocks do not exist.
pub fn attend_rows(
    team: &Team,
    shape: &AttentionShape,
    cache: &Cache,
    spans: &[SpanView],
    q: &[f32],
    out: &mut [f32],
    phases: Option<&mut Phases>,
) {
    let (layer, kv) = (&cache.layer, cache.layer.shape);
    let cols = shape.heads.checked_mul(kv.head_dim);
    let cols = cols.expect("a width that exists");
    let rows = q.len() / cols;
    assert!(q.len() == rows * cols && out.len() == q.len());
    cache.check(spans, rows);
    let out = Shared(out.as_mut_ptr());
    // A chunk is one KV head of some rows of one span.
    let group = (shape.heads / kv.kv_heads).max(1);
    // Its queries, `group` for each row, are a multiple of the largest tile.
    let step = (32 / group).next_multiple_of(8).max(8);
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
        unsafe { attend(team.isa, shape, layer, &queries, head, rows, timed) };
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

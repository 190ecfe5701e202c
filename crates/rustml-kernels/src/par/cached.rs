//! Operations that write and read the cache of keys and values.

use super::{for_rows, Norm, Phase, Shared, Team, Timing};
use crate::attention::{AttentionShape, Job, KvLayer, KvShape, Phases, Queries};
use crate::attention::{KV_BLOCK, MAX_HEAD_DIM, STRETCH};
use crate::ops;
use crate::ticks::ticks;
use rustml_simd::Isa;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::*};

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
    /// Whose arithmetic attention takes; see [`Team::prefill_attention_bf16`].
    pub phase: Phase,
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
    /// A layer's part of `memory`, which holds blocks of `stride` bytes: it
    /// begins `at` bytes into each of them, keys first.
    ///
    /// # Panics
    /// If the memory is no whole blocks, or the layer's part does not lie
    /// within a block or does not begin on a cache line; if heads are larger
    /// than [`MAX_HEAD_DIM`].
    pub fn new(shape: KvShape, memory: &'a mut [u8], stride: usize, at: usize) -> Self {
        assert!((1..=MAX_HEAD_DIM).contains(&shape.head_dim));
        // The bytes of a block cannot overflow.
        assert!((1..=u16::MAX.into()).contains(&shape.kv_heads));
        let end = at.checked_add(2 * shape.block_bytes());
        assert!(end.is_some_and(|end| end <= stride));
        assert!(memory.len().is_multiple_of(stride));
        let lines = [memory.as_ptr() as usize, stride, at];
        assert!(lines.iter().all(|n| n.is_multiple_of(64)));
        let blocks = memory.len() / stride;
        Cache {
            blocks,
            layer: KvLayer {
                shape,
                memory: memory.as_mut_ptr().wrapping_add(at),
                stride,
            },
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
    let mut before: Option<&SpanView> = None;
    for s in spans.iter().filter(|s| s.rows > 0) {
        let mut first = s.first / KV_BLOCK;
        // Rows of one sequence may be in two spans; the second goes on in the
        // block in which the first ends.
        let goes_on =
            |b: &SpanView| std::ptr::eq(b.blocks, s.blocks) && b.first + b.rows == s.first;
        if before.is_some_and(goes_on) && !s.first.is_multiple_of(KV_BLOCK) {
            first += 1;
        }
        blocks.extend(&s.blocks[first..(s.first + s.rows).div_ceil(KV_BLOCK)]);
        before = Some(s);
    }
    blocks.sort_unstable();
    let twice = blocks.windows(2).any(|pair| pair[0] == pair[1]);
    assert!(!twice, "spans own the blocks they store to");
}

/// Norms of queries and keys.
#[derive(Clone, Copy)]
pub struct QkNorm<'a> {
    /// That of queries. Its weights are as many as values are normalised together, or
    /// as a row has; then each group has its own.
    pub query: Norm<'a>,
    /// That of keys, likewise.
    pub key: Norm<'a>,
    /// Whether a row is normalised as a whole, not head by head.
    pub whole: bool,
    /// Whether the rotation comes first.
    pub after_rope: bool,
}

impl QkNorm<'_> {
    /// Normalises a row of queries, or keys, whose heads have `head_dim` values.
    fn apply(&self, isa: Isa, norm: &Norm, x: &mut [f32], head_dim: usize) {
        let width = if self.whole { x.len() } else { head_dim };
        let mut near = [0f32; MAX_HEAD_DIM];
        let mut far = Vec::new();
        let out = match width > MAX_HEAD_DIM {
            true => {
                far.resize(width, 0.0);
                &mut far[..]
            }
            false => &mut near[..width],
        };
        let part = |all: &'_ [f32], at: usize| -> std::ops::Range<usize> {
            match all.len() > width {
                true => at..at + width,
                false => 0..all.len(),
            }
        };
        for (i, x) in x.chunks_exact_mut(width).enumerate() {
            let norm = Norm {
                weight: &norm.weight[part(norm.weight, i * width)],
                bias: &norm.bias[part(norm.bias, i * width)],
                ..*norm
            };
            norm.apply(isa, x, out);
            x.copy_from_slice(out);
        }
    }
}

/// What happens to queries and keys between projection and attention.
pub struct Positioning<'a> {
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm<'a>>,
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
    if let Some(n) = &pos.qk_norm {
        for (norm, cols) in [(&n.query, q_cols), (&n.key, kv_cols)] {
            let len = norm.weight.len();
            assert!(
                len == cols || (len == hd && !n.whole),
                "weights of a norm of heads"
            );
            assert!(norm.bias.is_empty() || norm.bias.len() == len);
        }
    }
    let pairs = pos.rope.map_or(0, |(cos, sin)| {
        assert!(cos.len() == sin.len() && cos.len().is_multiple_of(rows.max(1)));
        cos.len() / rows.max(1)
    });
    let (q, k) = (Shared(q.as_mut_ptr()), Shared(k.as_mut_ptr()));
    assert!(timing.is_none_or(|t| t.len() >= 3));
    for_rows(team, rows, 4 * (q_cols + 2 * kv_cols), &|row, _| {
        // SAFETY: row by row, within the lengths checked above.
        let (q, k) = unsafe {
            (
                q.slice(row * q_cols, q_cols),
                k.slice(row * kv_cols, kv_cols),
            )
        };
        let v = &v[row * kv_cols..][..kv_cols];
        let start = timing.map(|_| ticks());
        let (before, after) = match pos.qk_norm {
            Some(n) if n.after_rope => (None, Some(n)),
            n => (n, None),
        };
        if let Some(n) = before {
            n.apply(team.isa, &n.query, q, hd);
            n.apply(team.isa, &n.key, k, hd);
        }
        let normed = start.map(|_| ticks());
        if let Some((cos, sin)) = pos.rope {
            let (cos, sin) = (&cos[row * pairs..][..pairs], &sin[row * pairs..][..pairs]);
            ops::rope(team.isa, q, hd, cos, sin);
            ops::rope(team.isa, k, hd, cos, sin);
        }
        if let Some(n) = after {
            n.apply(team.isa, &n.query, q, hd);
            n.apply(team.isa, &n.key, k, hd);
        }
        let rotated = start.map(|_| ticks());
        let span = spans.iter().rfind(|s| s.row <= row).expect("checked");
        let position = span.first + row - span.row;
        let block = span.blocks[position / KV_BLOCK];
        // SAFETY: the block exists and only this row stores at this slot, both
        // checked above; nobody else has the cache while it is borrowed.
        unsafe { layer.put(team.isa, block, position % KV_BLOCK, k, v) };
        if let (Some(t), Some(a), Some(b), Some(c)) = (timing, start, normed, rotated) {
            for (t, time) in t.iter().zip([(a, b), (b, c), (c, ticks())]) {
                t.fetch_add(time.1.saturating_sub(time.0), Relaxed);
            }
        }
    });
}

/// Attention of all rows: `out[row] = softmax(q k^T) v` head by head, over the
/// positions of the row's span that it sees. `q` and `out` are
/// `[rows, heads * head_dim]`. `timing` receives the thread time of scores, softmax and
/// values: three parts.
///
/// # Panics
/// If the lengths do not fit, or a span's cache blocks do not exist.
#[allow(clippy::too_many_arguments)]
pub fn attend_rows(
    team: &Team,
    shape: &AttentionShape,
    cache: &Cache,
    spans: &[SpanView],
    q: &[f32],
    out: &mut [f32],
    timing: Timing,
) {
    let (layer, kv) = (&cache.layer, cache.layer.shape);
    let cols = shape.heads.checked_mul(kv.head_dim);
    let cols = cols.expect("a width that exists");
    let rows = q.len() / cols;
    assert!(q.len() == rows * cols && out.len() == q.len());
    cache.check(spans, rows);
    let out = out.as_mut_ptr();
    let (mut prompts, mut others) = (Vec::new(), Vec::new());
    for s in spans {
        let all = match s.phase == Phase::Prefill && team.prefill_attention_bf16() {
            true => &mut prompts,
            false => &mut others,
        };
        all.push(Queries {
            q: q[s.row * cols..].as_ptr(),
            // SAFETY: within `out`, which is as long as `q`.
            out: unsafe { out.add(s.row * cols) },
            stride: cols,
            rows: s.rows,
            first: s.first,
            blocks: s.blocks,
        });
    }
    let pieces = Pieces::new(shape, layer, (&prompts, &others), team.pool.threads());
    assert!(timing.is_none_or(|t| t.len() >= 3));
    team.pool.run(pieces.chunks.len(), &|c, _| {
        let mut mine = Phases::default();
        let timed = timing.is_some().then_some(&mut mine);
        // SAFETY: the piece's rows and head are its own; blocks were checked.
        unsafe { pieces.run(team.isa, c, timed) };
        if let Some(t) = timing {
            for (t, time) in t.iter().zip([mine.scores, mine.softmax, mine.values]) {
                t.fetch_add(time, Relaxed);
            }
        }
    });
}

/// Attention cut into pieces for the threads: one KV head of some rows of one
/// span, and where these are too few, some blocks of the context alone.
struct Pieces<'a> {
    pieces: Vec<Piece<'a>>,
    /// Piece, and part if it has several.
    chunks: Vec<(usize, Option<usize>)>,
    /// What parts gave, piece by piece.
    parts: Shared<f32>,
    _memory: Vec<f32>,
}

struct Piece<'a> {
    job: Job<'a>,
    /// Whether they are computed as rows of a prompt.
    prompt: bool,
    rows: Range<usize>,
    /// The blocks of each part; none if it is computed as a whole.
    blocks: Vec<Range<usize>>,
    /// Where what its parts gave begins.
    at: usize,
    /// Parts that are not computed.
    left: AtomicUsize,
}

impl<'a> Piece<'a> {
    /// All rows of all heads, `step` rows at a time, each to be computed as a whole.
    fn all(
        shape: &'a AttentionShape<'a>,
        cache: &'a KvLayer,
        queries: &'a [Queries<'a>],
        prompt: bool,
        step: usize,
    ) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        for q in queries {
            for kv_head in 0..cache.shape.kv_heads {
                for at in (0..q.rows).step_by(step) {
                    pieces.push(Piece {
                        job: Job {
                            shape,
                            cache,
                            q,
                            kv_head,
                            after: None,
                        },
                        prompt,
                        rows: at..(at + step).min(q.rows),
                        blocks: Vec::new(),
                        at: 0,
                        left: AtomicUsize::new(0),
                    });
                }
            }
        }
        // Late rows see more: begin with the longest.
        pieces.reverse();
        pieces
    }
}

/// Queries of a piece of a prompt, if that leaves pieces enough.
const MOST_QUERIES: usize = 256;

/// Queries of a piece of a prompt at least.
const QUERIES: usize = 64;

/// Chunks for each thread that are enough to share the work evenly.
const CHUNKS: usize = 4;

/// Rows of a piece of a prompt, of `group` queries each: many, which share the work of
/// putting keys and values in tiles, but no more than a chunk's even `share`, if that is
/// enough; whole pairs of tiles of 16 queries.
fn rows_of_prompts(group: usize, share: usize) -> usize {
    let most = share.min(MOST_QUERIES / group);
    let step = (QUERIES / group).max(most).max(1);
    step.next_multiple_of(32 >> group.trailing_zeros().min(5))
}

/// The blocks in parts that begin at multiples of `size`.
fn in_parts(blocks: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = blocks.start / size..blocks.end.div_ceil(size);
    parts.map(move |i| blocks.start.max(i * size)..blocks.end.min((i + 1) * size))
}

impl<'a> Pieces<'a> {
    /// Of prompts, and of other rows.
    fn new(
        shape: &'a AttentionShape<'a>,
        cache: &'a KvLayer,
        (prompts, others): (&'a [Queries<'a>], &'a [Queries<'a>]),
        threads: usize,
    ) -> Self {
        let group = (shape.heads / cache.shape.kv_heads).max(1);
        let rows: usize = prompts.iter().map(|q| q.rows).sum();
        let share = rows * cache.shape.kv_heads / (CHUNKS * threads);
        let step = rows_of_prompts(group, share);
        let mut pieces = Piece::all(shape, cache, prompts, true, step);
        // A piece's queries, `group` for each row, are a multiple of the largest tile.
        let step = (32 / group).next_multiple_of(8).max(8);
        pieces.extend(Piece::all(shape, cache, others, false, step));
        if threads > 1 && pieces.len() < CHUNKS * threads {
            let seen = |piece: &Piece| piece.job.blocks(piece.rows.clone());
            let blocks: usize = pieces.iter().map(|piece| seen(piece).len()).sum();
            // A block takes little longer than a chunk costs, but idle threads cost more.
            let few = pieces.len() < threads && blocks < CHUNKS * threads * STRETCH;
            let size = if few { 1 } else { STRETCH };
            for piece in pieces.iter_mut().filter(|piece| !piece.prompt) {
                piece.blocks = in_parts(seen(piece), size).collect();
            }
        }
        let (mut chunks, mut values) = (Vec::new(), 0);
        for (i, piece) in pieces.iter_mut().enumerate() {
            if piece.blocks.len() < 2 {
                piece.blocks.clear();
                chunks.push((i, None));
                continue;
            }
            piece.at = values;
            piece.left = AtomicUsize::new(piece.blocks.len());
            values += piece.blocks.len() * piece.rows.len() * group * piece.job.part_len();
            chunks.extend((0..piece.blocks.len()).map(|part| (i, Some(part))));
        }
        // Written before it is read.
        let mut memory = Vec::with_capacity(values);
        Pieces {
            pieces,
            chunks,
            parts: Shared(memory.as_mut_ptr()),
            _memory: memory,
        }
    }

    /// Computes a chunk, and puts its piece together if it is the last of it.
    ///
    /// # Safety
    /// Nobody else computes this chunk or uses its rows' results at its head;
    /// the cache holds every visible position.
    unsafe fn run(&self, isa: Isa, chunk: usize, phases: Option<&mut Phases>) {
        let (i, part) = self.chunks[chunk];
        let piece = &self.pieces[i];
        let (mut job, rows) = (piece.job, piece.rows.clone());
        // A thread takes neighbours.
        job.after = self.chunks.get(chunk + 1).and_then(|&(i, part)| {
            let next = &self.pieces[i];
            let blocks = part.map(|part| &next.blocks[part]);
            next.job.begins(next.rows.clone(), blocks)
        });
        let Some(part) = part else {
            return match piece.prompt {
                true => job.attend_prompt(isa, rows, phases),
                false => job.attend(isa, rows, phases),
            };
        };
        let group = job.shape.heads / job.cache.shape.kv_heads;
        let len = rows.len() * group * job.part_len();
        let parts = self.parts.0.add(piece.at);
        let blocks = piece.blocks[part].clone();
        job.attend_part(isa, rows.clone(), blocks, parts.add(part * len), phases);
        if piece.left.fetch_sub(1, AcqRel) == 1 {
            job.merge(isa, rows, parts, &piece.blocks);
        }
    }
}

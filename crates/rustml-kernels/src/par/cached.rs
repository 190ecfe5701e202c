//! Operations that write and read the cache of keys and values.

use super::{for_rows, Norm, Shared, Team, Timing};
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
    /// Whether attention computes them as rows of a prompt, where that is [another
    /// way](Team::prompts_apart).
    pub prompt: bool,
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
        if let Some((q_norm, k_norm)) = pos.qk_norm {
            let mut head = [0f32; MAX_HEAD_DIM];
            for (norm, x) in [(q_norm, &mut *q), (k_norm, &mut *k)] {
                for x in x.chunks_exact_mut(hd) {
                    norm.apply(team.isa, x, &mut head[..hd]);
                    x.copy_from_slice(&head[..hd]);
                }
            }
        }
        let normed = start.map(|_| ticks());
        if let Some((cos, sin)) = pos.rope {
            let (cos, sin) = (&cos[row * pairs..][..pairs], &sin[row * pairs..][..pairs]);
            ops::rope(team.isa, q, hd, cos, sin);
            ops::rope(team.isa, k, hd, cos, sin);
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
        let all = match s.prompt && team.prompts_apart() {
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
        shape: &'a AttentionShape,
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
        shape: &'a AttentionShape,
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

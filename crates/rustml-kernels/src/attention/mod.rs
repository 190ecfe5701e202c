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
//!
//! With [`KvType::Q8_0`] a head's codes are laid out as its values would be,
//! and after them follow their scales, `[group of 32 values][position]`. So the
//! scales of a group of keys are vectors along the columns of the scores: they
//! multiply the group's sum of products with codes. Those of a group of values
//! multiply the weights of their positions before these meet the codes.

mod bias;
mod product;
#[cfg(target_arch = "x86_64")]
mod prompt;
mod put;
mod tile;

use rustml_simd::{with_isa, Isa, Kernel, Simd};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

pub use bias::Bias;

/// Positions of a cache block.
pub const KV_BLOCK: usize = 64;
/// Values of a head's row that share a scale where they are quantised.
pub const KV_GROUP: usize = 32;
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
    /// Signed bytes that share a scale in half precision, [`KV_GROUP`] of one
    /// position's key or value at a time: a value is off by half the scale at
    /// most, which is the largest of the group over 127, rounded up. A group
    /// with a value that is not finite, or beyond 127 times the largest half,
    /// is NaN.
    Q8_0,
}

impl KvType {
    /// The words of the command line.
    pub const NAMES: [&'static str; 3] = ["f16", "q8_0", "f32"];

    /// Bytes of a value, without its share of a scale.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        }
    }
}

impl FromStr for KvType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "f32" => Ok(KvType::F32),
            "f16" => Ok(KvType::F16),
            "q8_0" => Ok(KvType::Q8_0),
            _ => Err(format!("'{s}' is none of {}", KvType::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        })
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
    /// Scales of a head's row.
    const fn groups(&self) -> usize {
        match self.kv_type {
            KvType::F32 | KvType::F16 => 0,
            KvType::Q8_0 => self.head_dim.div_ceil(KV_GROUP),
        }
    }
    /// Bytes of a block's keys, and of its values.
    pub const fn block_bytes(&self) -> usize {
        self.kv_heads * self.head_bytes()
    }
    const fn head_bytes(&self) -> usize {
        self.scales_at() + self.groups() * KV_BLOCK * size_of::<u16>()
    }
    /// Where in a head's part its scales begin.
    const fn scales_at(&self) -> usize {
        self.padded_dim() * KV_BLOCK * self.kv_type.bytes()
    }
}

/// One layer's cache, shared by all sequences.
#[derive(Clone, Copy)]
pub struct KvLayer {
    /// Sizes.
    pub shape: KvShape,
    /// The keys of block 0, [`KvShape::block_bytes`], then its values, as many.
    pub memory: *mut u8,
    /// Bytes from one block to the next.
    pub stride: usize,
}

// SAFETY: a pair of pointers; the unsafe functions below say who may use them.
unsafe impl Sync for KvLayer {}
// SAFETY: as above.
unsafe impl Send for KvLayer {}

impl KvLayer {
    /// Keys and values of one head in a block.
    ///
    /// # Safety
    /// The block exists.
    #[inline(always)]
    unsafe fn head(&self, block: usize, head: usize) -> (*mut u8, *mut u8) {
        let keys = block * self.stride + head * self.shape.head_bytes();
        let values = keys + self.shape.block_bytes();
        (self.memory.add(keys), self.memory.add(values))
    }

    /// Stores the key and value (`kv_heads * head_dim` values each) of one
    /// position in `block` at `slot`.
    ///
    /// # Safety
    /// The block exists and nobody else uses this slot.
    pub unsafe fn put(&self, isa: Isa, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        struct Put<'a>(&'a KvLayer, usize, usize, &'a [f32], &'a [f32]);
        impl Kernel for Put<'_> {
            type Out = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                let Put(layer, block, slot, keys, values) = self;
                let sh = layer.shape;
                let heads = keys.chunks_exact(sh.head_dim);
                for (head, (k, v)) in heads.zip(values.chunks_exact(sh.head_dim)).enumerate() {
                    // SAFETY: the head's part of the block, by the shape.
                    unsafe {
                        let (keys, values) = layer.head(block, head);
                        put::head(s, sh, (keys, values), slot, k, v);
                    }
                }
            }
        }
        let sh = self.shape;
        assert!(slot < KV_BLOCK && sh.head_dim <= MAX_HEAD_DIM);
        assert!(key.len() == sh.kv_heads * sh.head_dim && value.len() == key.len());
        with_isa(isa, Put(self, block as usize, slot, key, value))
    }
}

/// What attention does in one layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape<'a> {
    /// Query heads, a multiple of the KV heads.
    pub heads: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`, if any.
    pub soft_cap: Option<f32>,
    /// How many positions back a query sees, itself included, and as many ahead where it
    /// sees these; at least 1.
    pub window: Option<usize>,
    /// A query sees only positions of its own chunk, of so many; at least 1.
    pub chunk: Option<usize>,
    /// Whether a query sees only positions up to its own; else all of its sequence's up to
    /// the last of the step.
    pub causal: bool,
    /// One more score for each query head, which has no value; or nothing.
    pub sinks: &'a [f32],
    /// What is added to scores, after the cap.
    pub bias: Bias<'a>,
}

impl AttentionShape<'_> {
    /// Every query sees all positions up to its own, and nothing is added.
    pub const fn plain(heads: usize, scale: f32) -> AttentionShape<'static> {
        AttentionShape {
            heads,
            scale,
            soft_cap: None,
            window: None,
            chunk: None,
            causal: true,
            sinks: &[],
            bias: Bias::No,
        }
    }

    /// Positions that the query at `position` sees, in a sequence that ends at `end`.
    fn sees(&self, position: usize, end: usize) -> Range<usize> {
        let (mut first, mut last) = (0, end);
        if let Some(window) = self.window {
            first = (position + 1).saturating_sub(window);
            last = last.min(position.saturating_add(window));
        }
        if let Some(chunk) = self.chunk {
            let start = position / chunk * chunk;
            first = first.max(start);
            last = last.min(start.saturating_add(chunk));
        }
        if self.causal {
            last = position + 1;
        }
        first..last
    }
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

/// Ticks spent in the phases of attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// Queries times keys.
    pub scores: u64,
    /// Maximum, exponential, sum.
    pub softmax: u64,
    /// Weights times values.
    pub values: u64,
}

/// Blocks of a stretch. What the blocks of a stretch give is put together in order,
/// and then the stretches are: so threads can share a context, a short one block by
/// block, a long one in whole stretches, and the result is the same when they do not.
pub const STRETCH: usize = 4;

/// One KV head, all query heads that share it, and the rows of one sequence.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// What attention does.
    pub shape: &'a AttentionShape<'a>,
    /// Keys and values.
    pub cache: &'a KvLayer,
    /// The sequence's rows.
    pub q: &'a Queries<'a>,
    /// The head.
    pub kv_head: usize,
    /// What is read after this.
    pub after: Option<After>,
}

/// Keys that are to be fetched ahead.
#[derive(Clone, Copy, Debug)]
pub struct After {
    /// Where they are.
    pub block: usize,
    /// The head.
    pub kv_head: usize,
    /// How many positions of the block.
    pub positions: usize,
}

impl Job<'_> {
    /// Query heads of the KV head.
    fn group(&self) -> usize {
        self.shape.heads / self.cache.shape.kv_heads
    }

    /// Positions that row `row` sees.
    fn sees(&self, row: usize) -> Range<usize> {
        let end = self.q.first + self.q.rows;
        self.shape.sees(self.q.first + row, end)
    }

    /// The keys that `rows` begin with, of these blocks or all.
    pub fn begins(&self, rows: Range<usize>, blocks: Option<&Range<usize>>) -> Option<After> {
        let (first, last) = (rows.clone().next()?, rows.last()?);
        let start = blocks.map_or(self.sees(first).start / KV_BLOCK, |b| b.start);
        Some(After {
            block: *self.q.blocks.get(start)? as usize,
            kv_head: self.kv_head,
            positions: self.sees(last).end.saturating_sub(start * KV_BLOCK),
        })
    }

    /// The blocks that some of `rows` see.
    pub fn blocks(&self, rows: Range<usize>) -> Range<usize> {
        let (Some(first), Some(last)) = (rows.clone().next(), rows.last()) else {
            return 0..0;
        };
        self.sees(first).start / KV_BLOCK..self.sees(last).end.div_ceil(KV_BLOCK)
    }

    /// Values of the part of one query's attention over some blocks: maximum,
    /// sum, and the weighted sum of values.
    pub fn part_len(&self) -> usize {
        PAD + self.cache.shape.padded_dim()
    }

    fn check(&self, rows: &Range<usize>) {
        let kv = self.cache.shape;
        assert!(kv.head_dim <= MAX_HEAD_DIM && self.shape.heads.is_multiple_of(kv.kv_heads));
        assert!(self.kv_head < kv.kv_heads && rows.end <= self.q.rows);
        let shape = self.shape;
        let blind = shape.window == Some(0) || shape.chunk == Some(0);
        assert!(!blind, "a query sees itself");
        assert!(shape.sinks.is_empty() || shape.sinks.len() == shape.heads);
        assert!(shape.bias.is_for(shape.heads), "a bias for every head");
        assert!(self.q.blocks.len() * KV_BLOCK >= self.q.first + self.q.rows);
    }

    /// Computes the rows `rows`. With `phases` the clock is read around each
    /// phase.
    ///
    /// # Safety
    /// The rows of `q` are readable and those of `out` writable at this head,
    /// and no other thread writes them; the cache holds every visible position.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub unsafe fn attend(&self, isa: Isa, rows: Range<usize>, phases: Option<&mut Phases>) {
        self.check(&rows);
        with_isa(isa, Run(*self, rows, None, phases))
    }

    /// Computes the rows `rows` of a prompt, in bfloat16.
    ///
    /// # Safety
    /// As for [`Job::attend`].
    ///
    /// # Panics
    /// If the shapes do not fit, or not [`Isa::dots_bf16`].
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn attend_prompt(&self, isa: Isa, rows: Range<usize>, phases: Option<&mut Phases>) {
        self.check(&rows);
        assert!(isa.is_available() && isa.dots_bf16());
        match self.cache.shape.kv_type {
            KvType::F32 => prompt::attend::<product::F32>(isa, *self, rows, phases),
            KvType::F16 => prompt::attend::<product::F16>(isa, *self, rows, phases),
            KvType::Q8_0 => prompt::attend::<product::Q8>(isa, *self, rows, phases),
        }
    }

    /// Other architectures have no such kernel.
    ///
    /// # Safety
    /// Nobody calls it.
    ///
    /// # Panics
    /// Always.
    #[cfg(not(target_arch = "x86_64"))]
    pub unsafe fn attend_prompt(&self, _: Isa, _: Range<usize>, _: Option<&mut Phases>) {
        unreachable!("no instruction for bfloat16")
    }

    /// Computes what `rows` get from some `blocks` alone, all of one stretch, into `to`:
    /// [`Job::part_len`] values for every query, row by row.
    ///
    /// # Safety
    /// As for [`Job::attend`], of `to` instead of `out`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub unsafe fn attend_part(
        &self,
        isa: Isa,
        rows: Range<usize>,
        blocks: Range<usize>,
        to: *mut f32,
        phases: Option<&mut Phases>,
    ) {
        self.check(&rows);
        with_isa(isa, Run(*self, rows, Some((blocks, to)), phases))
    }

    /// Puts the parts of all `blocks` together: they lie one after the other in
    /// `parts`, as [`Job::attend_part`] wrote them for `rows`.
    ///
    /// # Safety
    /// As for [`Job::attend`]; `parts` is readable.
    pub unsafe fn merge(
        &self,
        isa: Isa,
        rows: Range<usize>,
        parts: *const f32,
        blocks: &[Range<usize>],
    ) {
        struct Merge<'a>(Job<'a>, Range<usize>, *const f32, &'a [Range<usize>]);
        impl Kernel for Merge<'_> {
            type Out = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                let Merge(job, rows, parts, blocks) = self;
                // SAFETY: by the contract of `merge`.
                unsafe { tile::merge_parts(s, job, rows, parts, blocks) }
            }
        }
        self.check(&rows);
        with_isa(isa, Merge(*self, rows, parts, blocks))
    }
}

/// The rows, and what they are computed of alone, if so.
struct Run<'a>(Job<'a>, Range<usize>, tile::Part, Option<&'a mut Phases>);

impl Kernel for Run<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run(job, rows, part, phases) = self;
        // SAFETY: by the contracts of `attend` and `attend_part`.
        unsafe {
            match job.cache.shape.kv_type {
                KvType::F32 => tile::tiles::<S, product::F32>(s, job, rows, part, phases),
                KvType::F16 => tile::tiles::<S, product::F16>(s, job, rows, part, phases),
                KvType::Q8_0 => tile::tiles::<S, product::Q8>(s, job, rows, part, phases),
            }
        }
    }
}

//! The cache of keys and values: blocks that sequences own or share.

use crate::error::{Error, Result};
use crate::spec::{Attention, Layer, Spec};
use rustml_kernels::attention::{KvShape, KvType, KV_BLOCK};
use rustml_kernels::par::Cache;
use rustml_kernels::AlignedBytes;
use state::StatePool;
use std::sync::atomic::{AtomicU64, Ordering};

mod state;

pub use state::Checkpoint;

/// Memory for the keys and values of all sequences.
///
/// A block holds [`KV_BLOCK`] positions in every layer. Blocks come from the
/// pool, and go back to it when nobody has a reference to them: no sequence,
/// and no [`KvBlock`]. A step stores only to blocks that have a single
/// reference, which is the sequence's whose rows they are; full blocks of
/// several sequences, or kept for later ones, are only read. That is what lets
/// threads store rows of all sequences at once, and it is asserted before every
/// step.
///
/// All layers of a block lie together, so the memory that is really used grows
/// with the positions that are.
pub struct KvPool {
    /// The shape of each attention's part, and where it begins in a block.
    layers: Vec<(KvShape, usize)>,
    memory: AlignedBytes,
    /// Bytes of a block.
    stride: usize,
    free: Vec<u32>,
    /// The first block that was never taken.
    fresh: u32,
    /// How many have each block; 0 for those that are free.
    references: Vec<u32>,
    /// Of recurrent layers.
    states: StatePool,
    /// Tells the pool from others.
    id: u64,
}

/// The cache of one sequence: its blocks, and how many positions they hold.
///
/// It belongs to the first pool that makes room in it, and must go back there
/// by [`KvPool::release`]: dropped, it takes its blocks with it.
#[derive(Default, Debug)]
pub struct KvSequence {
    blocks: Vec<u32>,
    len: usize,
    /// Tokens of the text, as far as known.
    text_len: usize,
    /// Of its pool; 0 before it has one.
    pool: u64,
    /// Where its recurrent state is, if it has one, and of how many positions that is.
    state: Option<(u32, usize)>,
}

/// A reference to a block that keeps it when its sequences are gone.
///
/// It must go back by [`KvPool::unshare`]: dropped, it takes the block with it.
#[derive(Debug)]
pub struct KvBlock {
    block: u32,
    pool: u64,
}

impl KvBlock {
    /// Its number, below [`KvPool::blocks`].
    pub fn number(&self) -> u32 {
        self.block
    }
}

impl KvSequence {
    /// Positions cached.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Tokens of the text that is being computed, as far as it was said.
    pub fn text_len(&self) -> usize {
        self.text_len
    }
    /// Says how long the text is of which positions are about to be computed.
    /// Rotations that depend on it ([`crate::spec::rotated_since`]) then are the
    /// same in all steps, however the text is cut into these.
    pub fn set_text_len(&mut self, tokens: usize) {
        self.text_len = tokens;
    }
    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Blocks of positions 0.. in order.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }
    /// The slot of its recurrent state.
    pub(crate) fn slot(&self) -> Option<usize> {
        self.state.map(|(slot, _)| slot as usize)
    }
    /// Counts `rows` positions that a step has stored.
    ///
    /// # Panics
    /// If no room was reserved for them.
    pub fn advance(&mut self, rows: usize) {
        assert!(
            rows <= self.room(),
            "{rows} positions were stored where there is room for {}",
            self.room()
        );
        self.len += rows;
        if let Some((_, of)) = &mut self.state {
            *of += rows;
        }
    }
    /// Positions that are reserved and not yet in use.
    pub fn room(&self) -> usize {
        self.blocks.len() * KV_BLOCK - self.len
    }
}

impl KvPool {
    /// A pool for `positions` positions in all, rounded up to whole blocks, and for the
    /// recurrent states of as many sequences, 32 at most.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(spec: &Spec, positions: usize, kv_type: KvType) -> Result<KvPool> {
        let blocks = positions.div_ceil(KV_BLOCK);
        KvPool::with_states(spec, positions, kv_type, blocks.clamp(1, DEFAULT_STATES))
    }

    /// The same with room for the recurrent states of so many sequences and checkpoints,
    /// where the model has any.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn with_states(
        spec: &Spec,
        positions: usize,
        kv_type: KvType,
        states: usize,
    ) -> Result<KvPool> {
        let blocks = positions.div_ceil(KV_BLOCK);
        let mut stride = 0;
        let layer = |a: &Attention| {
            let shape = shape(a, kv_type);
            let at = stride;
            stride += 2 * shape.block_bytes();
            (shape, at)
        };
        let layers = storing(spec).map(layer).collect();
        let smaller = match blocks {
            0 | 1 => "",
            _ => "; a smaller context needs less",
        };
        let too_much = || Error::Memory {
            what: format!("the cache of {positions} tokens{smaller}"),
            bytes: blocks.saturating_mul(stride),
        };
        // Blocks are numbered in 32 bits; that many would take terabytes.
        let last = u32::try_from(blocks).map_err(|_| too_much())?;
        let bytes = blocks.checked_mul(stride);
        let memory = bytes.and_then(AlignedBytes::zeroed).ok_or_else(too_much)?;
        let mut free = Vec::new();
        free.try_reserve_exact(blocks).map_err(|_| too_much())?;
        free.extend((0..last).rev());
        let mut references = Vec::new();
        let counted = references.try_reserve_exact(blocks);
        counted.map_err(|_| too_much())?;
        references.resize(blocks, 0);
        Ok(KvPool {
            layers,
            memory,
            stride,
            free,
            fresh: 0,
            references,
            states: StatePool::new(spec, states)?,
            id: new_id(),
        })
    }

    /// Bytes of a block of such a pool.
    pub fn block_bytes(spec: &Spec, kv_type: KvType) -> usize {
        let bytes = storing(spec).map(|a| 2 * shape(a, kv_type).block_bytes());
        bytes.sum()
    }

    /// Makes room in `sequence` for `rows` more positions; returns whether
    /// there was enough. If not, nothing changes.
    ///
    /// # Panics
    /// If the sequence has blocks of another pool.
    #[must_use]
    pub fn reserve(&mut self, sequence: &mut KvSequence, rows: usize) -> bool {
        let missing = rows.saturating_sub(sequence.room());
        let more = missing.div_ceil(KV_BLOCK);
        if more > self.free.len() {
            return false;
        }
        if self.states.is_used() && sequence.state.is_none() {
            let Some(slot) = self.states.take() else {
                return false;
            };
            self.states.reset(slot);
            sequence.state = Some((slot, 0));
        }
        if sequence.pool == 0 {
            sequence.pool = self.id;
        }
        self.check_owner(sequence);
        let from = self.free.len() - more;
        for block in self.free.drain(from..).rev() {
            if block >= self.fresh {
                let at = block as usize * self.stride;
                self.memory.begin(at..at + self.stride);
                self.fresh = block + 1;
            }
            self.references[block as usize] = 1;
            sequence.blocks.push(block);
        }
        true
    }

    /// Shortens a sequence to `len` positions and takes back what it no
    /// longer needs.
    ///
    /// # Panics
    /// If it holds fewer positions, or has blocks of another pool.
    pub fn truncate(&mut self, sequence: &mut KvSequence, len: usize) {
        self.check_owner(sequence);
        assert!(
            len <= sequence.len,
            "a sequence of {} positions cannot be shortened to {len}",
            sequence.len
        );
        sequence.len = len;
        if len == 0 {
            if let Some((slot, of)) = &mut sequence.state {
                self.states.reset(*slot);
                *of = 0;
            }
        }
        let keep = len.div_ceil(KV_BLOCK);
        for block in sequence.blocks.drain(keep..).rev() {
            give_back(&mut self.references, &mut self.free, block);
        }
    }

    /// Takes back all of a sequence's blocks.
    ///
    /// # Panics
    /// If they are of another pool.
    pub fn release(&mut self, sequence: KvSequence) {
        self.check_owner(&sequence);
        if let Some((slot, _)) = sequence.state {
            self.states.give_back(slot);
        }
        for block in sequence.blocks.into_iter().rev() {
            give_back(&mut self.references, &mut self.free, block);
        }
    }

    /// Another reference to a sequence's block of that index. As long as there
    /// is one, the sequence must store nothing more to the block.
    ///
    /// # Panics
    /// If it has no such block, or blocks of another pool.
    pub fn share(&mut self, sequence: &KvSequence, index: usize) -> KvBlock {
        self.check_owner(sequence);
        let block = sequence.blocks[index];
        self.references[block as usize] += 1;
        KvBlock {
            block,
            pool: self.id,
        }
    }

    /// Takes a reference back.
    ///
    /// # Panics
    /// If it is to a block of another pool.
    pub fn unshare(&mut self, block: KvBlock) {
        self.check_block(&block);
        give_back(&mut self.references, &mut self.free, block.block);
    }

    /// Whether anybody else has the block.
    ///
    /// # Panics
    /// If it is of another pool.
    pub fn is_shared(&self, block: &KvBlock) -> bool {
        self.check_block(block);
        self.references[block.block as usize] > 1
    }

    /// Continues a sequence by the positions of a full block, which it shares.
    ///
    /// # Panics
    /// If the sequence does not end with a full block, or one of them is of
    /// another pool.
    pub fn append(&mut self, sequence: &mut KvSequence, block: &KvBlock) {
        self.check_block(block);
        self.check_owner(sequence);
        assert_eq!(sequence.room(), 0, "full blocks follow full blocks");
        assert!(sequence.len.is_multiple_of(KV_BLOCK));
        self.references[block.block as usize] += 1;
        sequence.pool = self.id;
        sequence.blocks.push(block.block);
        sequence.len += KV_BLOCK;
    }

    /// Continues a sequence by a copy of a block's first positions; returns
    /// whether there was a block for it. If not, nothing changes.
    ///
    /// # Panics
    /// As [`KvPool::append`], or if a block has not so many positions.
    #[must_use]
    pub fn append_copy(
        &mut self,
        sequence: &mut KvSequence,
        block: &KvBlock,
        positions: usize,
    ) -> bool {
        self.check_block(block);
        assert_eq!(sequence.room(), 0, "a block follows full blocks");
        assert!(positions <= KV_BLOCK);
        if !self.reserve(sequence, 1) {
            return false;
        }
        let to = sequence.blocks[sequence.blocks.len() - 1] as usize * self.stride;
        let from = block.block as usize * self.stride;
        let memory = self.memory.as_mut_slice();
        memory.copy_within(from..from + self.stride, to);
        sequence.len += positions;
        true
    }

    /// Makes a sequence share a block in place of its own full one of that
    /// index, which holds the same.
    ///
    /// # Panics
    /// If that is no full block of the sequence, or one is of another pool.
    pub fn replace(&mut self, sequence: &mut KvSequence, index: usize, block: &KvBlock) {
        self.check_block(block);
        self.check_owner(sequence);
        assert!(
            index < sequence.len / KV_BLOCK,
            "only full blocks are shared"
        );
        self.references[block.block as usize] += 1;
        let own = std::mem::replace(&mut sequence.blocks[index], block.block);
        give_back(&mut self.references, &mut self.free, own);
    }

    /// Asserts that the blocks of a sequence's next positions are its own.
    pub(crate) fn check_writable(&self, sequence: &KvSequence, rows: usize) {
        let (first, end) = (sequence.len, sequence.len + rows);
        let written = first / KV_BLOCK..end.div_ceil(KV_BLOCK);
        let own = |&b: &u32| self.references[b as usize] == 1;
        assert!(
            rows == 0 || sequence.blocks[written].iter().all(own),
            "positions would be stored to a block that is shared"
        );
    }

    fn check_block(&self, block: &KvBlock) {
        assert_eq!(block.pool, self.id, "the block is of another pool");
    }

    /// Asserts that a sequence has no blocks but this pool's.
    pub(crate) fn check_owner(&self, sequence: &KvSequence) {
        assert!(
            sequence.pool == self.id || sequence.blocks.is_empty(),
            "the sequence's blocks are of another pool"
        );
    }

    /// Blocks that nobody has.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Blocks in all.
    pub fn blocks(&self) -> usize {
        self.references.len()
    }

    /// Positions that are not reserved.
    pub fn free_positions(&self) -> usize {
        self.free.len() * KV_BLOCK
    }

    /// Positions in all.
    pub fn positions(&self) -> usize {
        self.references.len() * KV_BLOCK
    }

    /// Bytes that a row reads which sees `positions`, where no window ends
    /// before.
    pub fn read_bytes(&self, spec: &Spec, positions: usize) -> usize {
        let attentions = spec.layers.iter().filter_map(Layer::attention);
        let kv_type = self.layers.first().map(|(shape, _)| shape.kv_type);
        let bytes = attentions.map(|a| {
            let shape = shape(a, kv_type.unwrap_or(KvType::F32));
            let seen = positions.min(a.window.unwrap_or(usize::MAX));
            seen * (2 * shape.block_bytes() / KV_BLOCK)
        });
        bytes.sum()
    }

    /// Bytes when all blocks are in use.
    pub fn bytes(&self) -> usize {
        self.memory.as_slice().len() + self.states.bytes()
    }

    /// One layer's cache, for one operation.
    pub(crate) fn layer(&mut self, i: usize) -> Cache<'_> {
        let (shape, at) = self.layers[i];
        Cache::new(shape, self.memory.as_mut_slice(), self.stride, at)
    }
}

/// States that a pool has room for where nobody says how many.
const DEFAULT_STATES: usize = 32;

/// Attention with keys and values of its own.
fn storing(spec: &Spec) -> impl Iterator<Item = &Attention> {
    let all = spec.layers.iter().filter_map(Layer::attention);
    all.filter(|a| a.shares.is_none())
}

fn shape(a: &Attention, kv_type: KvType) -> KvShape {
    KvShape {
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        kv_type,
    }
}

/// One reference less; without any, the block is free.
fn give_back(references: &mut [u32], free: &mut Vec<u32>, block: u32) {
    let left = &mut references[block as usize];
    *left -= 1;
    if *left == 0 {
        free.push(block);
    }
}

fn new_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(test)]
mod tests;

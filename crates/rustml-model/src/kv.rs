//! The cache of keys and values: blocks that sequences own.

use crate::error::{Error, Result};
use crate::spec::{Layer, Spec};
use rustml_kernels::attention::{KvShape, KvType, KV_BLOCK};
use rustml_kernels::par::Cache;
use rustml_kernels::AlignedBytes;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory for the keys and values of all sequences.
///
/// A block holds [`KV_BLOCK`] positions in every layer. A sequence owns its
/// blocks; they come from the pool and go back to it. No block is ever in two
/// sequences, which is what lets threads store rows of all of them at once.
///
/// All layers of a block lie together, so the memory that is really used grows
/// with the positions that are.
pub struct KvPool {
    /// Every layer's shape, and where it begins in a block.
    layers: Vec<(KvShape, usize)>,
    memory: AlignedBytes,
    /// Bytes of a block.
    stride: usize,
    free: Vec<u32>,
    blocks: usize,
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
    /// Of its pool; 0 before it has one.
    pool: u64,
}

impl KvSequence {
    /// Positions cached.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Blocks of positions 0.. in order.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
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
    }
    /// Positions that are reserved and not yet in use.
    pub fn room(&self) -> usize {
        self.blocks.len() * KV_BLOCK - self.len
    }
}

impl KvPool {
    /// A pool for `positions` positions in all, rounded up to whole blocks.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(spec: &Spec, positions: usize, kv_type: KvType) -> Result<KvPool> {
        let blocks = positions.div_ceil(KV_BLOCK);
        let mut stride = 0;
        let layer = |l: &Layer| {
            let shape = KvShape {
                kv_heads: l.attention.kv_heads,
                head_dim: l.attention.head_dim,
                kv_type,
            };
            let at = stride;
            stride += 2 * shape.block_bytes();
            (shape, at)
        };
        let layers = spec.layers.iter().map(layer).collect();
        let too_much = || Error::Memory {
            what: format!(
                "the keys and values of {positions} positions; a smaller context needs less"
            ),
            bytes: blocks.saturating_mul(stride),
        };
        // Blocks are numbered in 32 bits; that many would take terabytes.
        let last = u32::try_from(blocks).map_err(|_| too_much())?;
        let bytes = blocks.checked_mul(stride);
        let memory = bytes.and_then(AlignedBytes::zeroed).ok_or_else(too_much)?;
        let mut free = Vec::new();
        free.try_reserve_exact(blocks).map_err(|_| too_much())?;
        free.extend((0..last).rev());
        Ok(KvPool {
            layers,
            memory,
            stride,
            free,
            blocks,
            id: new_id(),
        })
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
        if sequence.pool == 0 {
            sequence.pool = self.id;
        }
        self.check_owner(sequence);
        let from = self.free.len() - more;
        sequence.blocks.extend(self.free.drain(from..).rev());
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
        let keep = len.div_ceil(KV_BLOCK);
        self.free.extend(sequence.blocks.drain(keep..).rev());
    }

    /// Takes back all of a sequence's blocks.
    ///
    /// # Panics
    /// If they are of another pool.
    pub fn release(&mut self, sequence: KvSequence) {
        self.check_owner(&sequence);
        self.free.extend(sequence.blocks.into_iter().rev());
    }

    /// Asserts that a sequence has no blocks but this pool's.
    pub(crate) fn check_owner(&self, sequence: &KvSequence) {
        assert!(
            sequence.pool == self.id || sequence.blocks.is_empty(),
            "the sequence's blocks are of another pool"
        );
    }

    /// Positions that are not reserved.
    pub fn free_positions(&self) -> usize {
        self.free.len() * KV_BLOCK
    }

    /// Positions in all.
    pub fn positions(&self) -> usize {
        self.blocks * KV_BLOCK
    }

    /// Bytes when all blocks are in use.
    pub fn bytes(&self) -> usize {
        self.memory.as_slice().len()
    }

    /// One layer's cache, for one operation.
    pub(crate) fn layer(&mut self, i: usize) -> Cache<'_> {
        let (shape, at) = self.layers[i];
        Cache::new(shape, self.memory.as_mut_slice(), self.stride, at)
    }
}

fn new_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(blocks: u32) -> KvPool {
        KvPool {
            layers: Vec::new(),
            memory: AlignedBytes::zeroed(0).unwrap(),
            stride: 0,
            free: (0..blocks).rev().collect(),
            blocks: blocks as usize,
            id: new_id(),
        }
    }

    #[test]
    fn blocks_go_out_and_come_back() {
        let mut pool = pool(4);
        let (mut a, mut b) = (KvSequence::default(), KvSequence::default());
        assert!(pool.reserve(&mut a, 65));
        assert_eq!(a.room(), 128);
        a.advance(65);
        assert!(pool.reserve(&mut b, 64));
        for more in [129, 300, usize::MAX] {
            assert!(!pool.reserve(&mut b, more), "only one block is left");
            assert_eq!(b.blocks(), [2], "a refusal changes nothing");
        }
        assert!(pool.reserve(&mut a, 63), "the block has room");
        assert_eq!(pool.free_positions(), 64);
        pool.truncate(&mut a, 3);
        assert_eq!(
            (a.len(), a.blocks().len(), pool.free_positions()),
            (3, 1, 128)
        );
        pool.release(a);
        pool.release(b);
        let mut free = pool.free.clone();
        free.sort();
        assert_eq!(free, [0, 1, 2, 3]);
    }

    #[test]
    fn no_positions_no_room() {
        let mut pool = pool(0);
        let mut s = KvSequence::default();
        assert!(pool.reserve(&mut s, 0));
        assert!(!pool.reserve(&mut s, 1));
        assert_eq!((pool.positions(), pool.free_positions()), (0, 0));
        pool.release(s);
    }

    #[test]
    #[should_panic(expected = "another pool")]
    fn blocks_do_not_go_to_another_pool() {
        let (mut one, mut other) = (pool(1), pool(1));
        let mut s = KvSequence::default();
        assert!(one.reserve(&mut s, 1));
        other.release(s);
    }

    #[test]
    #[should_panic(expected = "room for 64")]
    fn no_more_is_counted_than_was_reserved() {
        let mut pool = pool(1);
        let mut s = KvSequence::default();
        assert!(pool.reserve(&mut s, 1));
        s.advance(65);
    }
}

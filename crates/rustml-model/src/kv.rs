//! The cache of keys and values: blocks that sequences own.

use crate::error::{Error, Result};
use crate::spec::Spec;
use rustml_kernels::attention::{KvShape, KvType, KV_BLOCK};
use rustml_kernels::par::Cache;
use rustml_kernels::AlignedBytes;

/// Memory for the keys and values of all sequences.
///
/// A block holds [`KV_BLOCK`] positions in every layer. A sequence owns its
/// blocks; they come from the pool and go back to it.
pub struct KvPool {
    layers: Vec<(KvShape, AlignedBytes, AlignedBytes)>,
    free: Vec<u32>,
    blocks: usize,
}

/// The cache of one sequence: its blocks, and how many positions they hold.
#[derive(Default, Debug)]
pub struct KvSequence {
    blocks: Vec<u32>,
    len: usize,
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
        self.len += rows;
        assert!(self.len <= self.blocks.len() * KV_BLOCK);
    }
}

impl KvPool {
    /// A pool for `positions` positions in all, rounded up to whole blocks.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(spec: &Spec, positions: usize, kv_type: KvType) -> Result<KvPool> {
        let blocks = positions.div_ceil(KV_BLOCK);
        let layers = spec.layers.iter().map(|l| {
            let shape = KvShape {
                kv_heads: l.attention.kv_heads,
                head_dim: l.attention.head_dim,
                kv_type,
            };
            let bytes = blocks.checked_mul(shape.block_bytes());
            let alloc = || AlignedBytes::zeroed(bytes?);
            match (alloc(), alloc()) {
                (Some(k), Some(v)) => Ok((shape, k, v)),
                _ => Err(Error::Memory {
                    what: format!("the keys and values of {positions} positions; a smaller context needs less"),
                    bytes: blocks.saturating_mul(shape.block_bytes()).saturating_mul(2 * spec.layers.len()),
                }),
            }
        });
        Ok(KvPool {
            layers: layers.collect::<Result<_>>()?,
            free: (0..blocks as u32).rev().collect(),
            blocks,
        })
    }

    /// Makes room in `sequence` for `rows` more positions; returns whether
    /// there was enough.
    #[must_use]
    pub fn reserve(&mut self, sequence: &mut KvSequence, rows: usize) -> bool {
        let needed = (sequence.len + rows).div_ceil(KV_BLOCK);
        let more = needed.saturating_sub(sequence.blocks.len());
        if more > self.free.len() {
            return false;
        }
        let from = self.free.len() - more;
        sequence.blocks.extend(self.free.drain(from..).rev());
        true
    }

    /// Shortens a sequence to `len` positions and takes back what it no
    /// longer needs.
    ///
    /// # Panics
    /// If it holds fewer positions.
    pub fn truncate(&mut self, sequence: &mut KvSequence, len: usize) {
        assert!(len <= sequence.len);
        sequence.len = len;
        let keep = len.div_ceil(KV_BLOCK);
        self.free.extend(sequence.blocks.drain(keep..).rev());
    }

    /// Takes back all of a sequence's blocks.
    pub fn release(&mut self, sequence: KvSequence) {
        self.free.extend(sequence.blocks.into_iter().rev());
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
        let layer = |(shape, ..): &(KvShape, AlignedBytes, AlignedBytes)| 2 * shape.block_bytes();
        self.layers.iter().map(layer).sum::<usize>() * self.blocks
    }

    /// One layer's cache, for one operation.
    pub(crate) fn layer(&mut self, i: usize) -> Cache<'_> {
        let (shape, k, v) = &mut self.layers[i];
        Cache::new(*shape, k.as_mut_slice(), v.as_mut_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_out_and_come_back() {
        let mut pool = KvPool {
            layers: Vec::new(),
            free: (0..4).rev().collect(),
            blocks: 4,
        };
        let (mut a, mut b) = (KvSequence::default(), KvSequence::default());
        assert!(pool.reserve(&mut a, 65));
        a.advance(65);
        assert!(pool.reserve(&mut b, 64));
        assert!(!pool.reserve(&mut b, 300), "only one block is left");
        assert_eq!(b.blocks().len(), 1, "a refusal changes nothing");
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
}

//! The states of sequences: a slot of fixed size for each, and kept copies of them.

use super::{KvPool, KvSequence};
use crate::error::{Error, Result};
use crate::recurrent::Recurrent;
use crate::spec::{Layer, Spec};
use rustml_kernels::par::States;
use rustml_kernels::AlignedBytes;

/// Memory for the states of recurrent layers: slots that all have one size.
///
/// A slot is a sequence's, or a [`Checkpoint`]'s.
pub(crate) struct StatePool {
    /// Where each layer's part begins in a slot, in bytes, and its values.
    layers: Vec<(usize, usize)>,
    memory: AlignedBytes,
    /// Bytes of a slot; 0 where no layer has a state.
    stride: usize,
    free: Vec<u32>,
    /// The first slot that was never taken.
    fresh: u32,
}

/// A copy of a sequence's state, and how many positions it is of.
///
/// It must go back by [`crate::KvPool::forget`]: dropped, it takes its slot with it.
#[derive(Debug)]
pub struct Checkpoint {
    slot: u32,
    len: usize,
    pool: u64,
}

impl Checkpoint {
    /// Positions it is of.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it is of no position.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl KvPool {
    /// Keeps a copy of a sequence's recurrent state. None where it has none, where its
    /// state is not of all its positions, or where no slot is free.
    pub fn checkpoint(&mut self, sequence: &KvSequence) -> Option<Checkpoint> {
        self.check_owner(sequence);
        let (from, of) = sequence.state?;
        if of != sequence.len {
            return None;
        }
        let slot = self.states.take()?;
        self.states.copy(from, slot);
        Some(Checkpoint {
            slot,
            len: of,
            pool: self.id,
        })
    }

    /// Gives a sequence, which has as many positions, the state of a checkpoint. Whether
    /// there was a slot for it; if not, nothing changes.
    ///
    /// # Panics
    /// If the sequence has another number of positions, or one is of another pool.
    #[must_use]
    pub fn restore(&mut self, sequence: &mut KvSequence, checkpoint: &Checkpoint) -> bool {
        self.check_owner(sequence);
        assert_eq!(
            checkpoint.pool, self.id,
            "the checkpoint is of another pool"
        );
        assert_eq!(checkpoint.len, sequence.len, "a state of other positions");
        let Some(slot) = sequence
            .state
            .map(|(slot, _)| slot)
            .or_else(|| self.states.take())
        else {
            return false;
        };
        self.states.copy(checkpoint.slot, slot);
        sequence.pool = self.id;
        sequence.state = Some((slot, checkpoint.len));
        true
    }

    /// Takes a checkpoint back.
    ///
    /// # Panics
    /// If it is of another pool.
    pub fn forget(&mut self, checkpoint: Checkpoint) {
        assert_eq!(
            checkpoint.pool, self.id,
            "the checkpoint is of another pool"
        );
        self.states.give_back(checkpoint.slot);
    }

    /// Whether sequences have recurrent states.
    pub fn has_states(&self) -> bool {
        self.states.is_used()
    }

    /// States that nobody has.
    pub fn free_states(&self) -> usize {
        self.states.free()
    }

    /// Bytes of one sequence's recurrent state.
    pub fn state_bytes(spec: &Spec) -> usize {
        StatePool::slot_bytes(spec)
    }

    /// Asserts that a sequence's state is of all its positions.
    pub(crate) fn check_state(&self, sequence: &KvSequence) {
        let is_of = sequence.state.map(|(_, of)| of);
        assert!(
            !self.states.is_used() || is_of == Some(sequence.len),
            "a state of other positions than the cache's"
        );
    }

    /// One layer's states, for one operation.
    pub(crate) fn state(&mut self, i: usize) -> States<'_> {
        self.states.layer(i)
    }
}

impl StatePool {
    /// A pool of `slots` states.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(spec: &Spec, slots: usize) -> Result<StatePool> {
        let (layers, stride) = layout(spec);
        let slots = if stride == 0 { 0 } else { slots };
        let too_much = || Error::Memory {
            what: format!("the recurrent states of {slots} sequences"),
            bytes: slots.saturating_mul(stride),
        };
        let last = u32::try_from(slots).map_err(|_| too_much())?;
        let bytes = slots.checked_mul(stride);
        let memory = bytes.and_then(AlignedBytes::zeroed).ok_or_else(too_much)?;
        Ok(StatePool {
            layers,
            memory,
            stride,
            free: (0..last).rev().collect(),
            fresh: 0,
        })
    }

    /// No states.
    #[cfg(test)]
    pub fn none() -> StatePool {
        StatePool {
            layers: Vec::new(),
            memory: AlignedBytes::zeroed(0).expect("no memory"),
            stride: 0,
            free: Vec::new(),
            fresh: 0,
        }
    }

    /// Bytes of a sequence's state.
    pub fn slot_bytes(spec: &Spec) -> usize {
        layout(spec).1
    }

    /// Whether sequences have states.
    pub fn is_used(&self) -> bool {
        self.stride > 0
    }

    /// Slots that nobody has.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Bytes when all slots are in use.
    pub fn bytes(&self) -> usize {
        self.memory.as_slice().len()
    }

    /// A slot, whatever it holds.
    pub fn take(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        if slot >= self.fresh {
            self.memory.begin(self.range(slot));
            self.fresh = slot + 1;
        }
        Some(slot)
    }

    /// Takes a slot back.
    pub fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Makes it the state before the first position.
    pub fn reset(&mut self, slot: u32) {
        let range = self.range(slot);
        self.memory.as_mut_slice()[range].fill(0);
    }

    /// Copies a state.
    pub fn copy(&mut self, from: u32, to: u32) {
        let (from, to) = (self.range(from), self.range(to));
        self.memory.as_mut_slice().copy_within(from, to.start);
    }

    fn range(&self, slot: u32) -> std::ops::Range<usize> {
        let at = slot as usize * self.stride;
        at..at + self.stride
    }

    /// One layer's part of all states, for one operation.
    pub fn layer(&mut self, i: usize) -> States<'_> {
        let (at, len) = self.layers[i];
        States::new(self.memory.as_mut_slice(), self.stride, at, len)
    }
}

/// Where each layer's part begins in a slot, its values, and the bytes of a slot.
fn layout(spec: &Spec) -> (Vec<(usize, usize)>, usize) {
    let mut stride = 0;
    let layers = spec.layers.iter().filter_map(Layer::recurrent);
    let place = |r: &Recurrent| {
        let (at, len) = (stride, r.state());
        // Parts begin on cache lines.
        stride += (4 * len).next_multiple_of(64);
        (at, len)
    };
    (layers.map(place).collect(), stride)
}

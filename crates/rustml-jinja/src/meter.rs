//! What a rendering may still spend. It is asked before anything is spent.

use crate::error::{Fault, Limit};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// What a rendering may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Steps; 64 bytes that are looked at or made count as one.
    pub work: u64,
    /// Bytes that are made, also those that are given back at once.
    pub memory: usize,
    /// By the clock.
    pub time: Duration,
}

/// Blocks, expressions and calls within each other.
pub(crate) const MAX_DEPTH: usize = 800;
/// Steps between two looks at the clock.
const CLOCK_STEPS: u64 = 1 << 10;

pub(crate) struct Meter {
    work: Cell<u64>,
    memory: Cell<usize>,
    depth: Cell<usize>,
    until_clock: Cell<u64>,
    deadline: Option<Instant>,
}

impl Meter {
    pub fn new(limits: Limits) -> Meter {
        Meter {
            work: Cell::new(limits.work),
            memory: Cell::new(limits.memory),
            depth: Cell::new(0),
            until_clock: Cell::new(CLOCK_STEPS),
            // None is beyond what the clock can say.
            deadline: Instant::now().checked_add(limits.time),
        }
    }

    /// Pays for steps.
    pub fn work(&self, steps: u64) -> Result<(), Fault> {
        let left = self.work.get().checked_sub(steps).ok_or(Limit::Work)?;
        self.work.set(left);
        match self.until_clock.get().checked_sub(steps) {
            Some(left) => self.until_clock.set(left),
            None => {
                self.until_clock.set(CLOCK_STEPS);
                if self.deadline.is_some_and(|at| Instant::now() >= at) {
                    return Err(Limit::Time.into());
                }
            }
        }
        Ok(())
    }

    /// Pays for looking at so many bytes.
    pub fn look(&self, bytes: usize) -> Result<(), Fault> {
        self.work(1 + bytes as u64 / 64)
    }

    /// Pays for making so many bytes.
    pub fn make(&self, bytes: usize) -> Result<(), Fault> {
        let left = self.memory.get().checked_sub(bytes).ok_or(Limit::Memory)?;
        self.memory.set(left);
        self.look(bytes)
    }

    /// Pays for `count` pieces of `size` bytes each.
    pub fn make_times(&self, size: usize, count: usize) -> Result<(), Fault> {
        self.make(size.checked_mul(count).ok_or(Limit::Memory)?)
    }

    /// Pays for values in a list or the like.
    pub fn make_values(&self, count: usize) -> Result<(), Fault> {
        self.make_times(size_of::<crate::value::Value>(), count)
    }

    /// Runs something one level further down.
    pub fn deeper<T>(&self, run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let depth = self.depth.get();
        if depth == MAX_DEPTH {
            return Err(Limit::Depth.into());
        }
        self.depth.set(depth + 1);
        let result = run();
        self.depth.set(depth);
        result
    }

    pub fn enter(&self) -> Result<(), Fault> {
        let depth = self.depth.get();
        if depth == MAX_DEPTH {
            return Err(Limit::Depth.into());
        }
        self.depth.set(depth + 1);
        Ok(())
    }

    pub fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }
}

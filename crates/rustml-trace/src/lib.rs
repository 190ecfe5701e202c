//! Events of a run and the folds over them.
//!
//! The operations of a forward pass are the only ones that read the clock;
//! what they saw is an [`Event`], a plain record. Logs and reports are folds
//! over events, so that a figure is never taken in two places. This crate is
//! a leaf: operations and reports share it and nothing else.
//!
//! Invariants: events of one step do not overlap and are in order of time, so
//! they add up; [`Recorder`] allocates when it is made and between steps only.
//!
//! ```
//! use rustml_trace::{Cost, Detail, Op, Recorder, StepTimes};
//! let mut r = Recorder::new(Detail::Operations);
//! r.begin_step(1);
//! let start = r.start();
//! // ... the operation ...
//! r.record(Op::Embed, start, Cost::default());
//! let total = r.end_step();
//! let times = StepTimes::of(r.events(), total);
//! assert!(times.embedding <= times.total);
//! ```

mod fold;

pub use fold::{LayerTimes, StepTimes};
use std::time::{Duration, Instant};

/// What an operation computed, by its role in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    Embed,
    /// Cosines and sines of a step's positions.
    RopeTable,
    AttnNorm,
    /// All of query, key and value, where they are not told apart.
    Qkv,
    Query,
    Key,
    Value,
    /// Head norms, rotation and storing, where they are not told apart.
    Position,
    QkNorm,
    Rope,
    KvStore,
    /// Scores, softmax and values, where they are not told apart.
    Attend,
    Scores,
    Softmax,
    Values,
    AttnOut,
    AttnPostNorm,
    FfnNorm,
    /// Gate and up, where they are not told apart.
    GateUp,
    Gate,
    Up,
    Activate,
    Down,
    FfnPostNorm,
    FinalNorm,
    Head,
}

/// What an operation had to do, from its shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of weights and cache read or written.
    pub bytes: u64,
    /// Multiplications and additions.
    pub flops: u64,
}

/// One operation, as it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Number of the step.
    pub step: u32,
    /// Layer, if it belongs to one.
    pub layer: Option<u16>,
    /// What it was.
    pub op: Op,
    /// Since the recorder was made.
    pub start: Duration,
    /// Wall time.
    pub time: Duration,
    /// What it had to do.
    pub cost: Cost,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Not at all: the clock is not read.
    Off,
    /// Each parallel region.
    Operations,
    /// The parts within regions too, which costs clock readings in threads.
    Parts,
}

/// Collects the events of steps.
pub struct Recorder {
    detail: Detail,
    epoch: Instant,
    step: u32,
    step_start: Duration,
    layer: Option<u16>,
    events: Vec<Event>,
}

impl Recorder {
    /// A recorder that looks as closely as `detail`.
    pub fn new(detail: Detail) -> Recorder {
        Recorder {
            detail,
            epoch: Instant::now(),
            step: 0,
            step_start: Duration::ZERO,
            layer: None,
            events: Vec::new(),
        }
    }

    /// How closely it looks.
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// Begins a step of at most `events` events; forgets the former one's.
    pub fn begin_step(&mut self, events: usize) {
        if self.detail > Detail::Off {
            self.events.clear();
            self.events.reserve(events);
            self.step += 1;
            self.layer = None;
            self.step_start = self.epoch.elapsed();
        }
    }

    /// Ends the step; returns its wall time.
    pub fn end_step(&mut self) -> Duration {
        match self.detail {
            Detail::Off => Duration::ZERO,
            _ => self.epoch.elapsed() - self.step_start,
        }
    }

    /// Following events belong to this layer.
    pub fn set_layer(&mut self, layer: Option<usize>) {
        self.layer = layer.map(|l| l as u16);
    }

    /// The start of an operation, if anybody looks.
    pub fn start(&self) -> Option<Instant> {
        (self.detail > Detail::Off).then(Instant::now)
    }

    /// Whether parts of operations are wanted.
    pub fn wants_parts(&self) -> bool {
        self.detail == Detail::Parts
    }

    /// Records an operation that ends now.
    pub fn record(&mut self, op: Op, start: Option<Instant>, cost: Cost) {
        if let Some(start) = start {
            self.push(op, start - self.epoch, start.elapsed(), cost);
        }
    }

    /// Records an operation that ends now as several, its wall time divided
    /// in proportion to the threads' time in each.
    pub fn record_parts(&mut self, parts: &[(Op, Duration, Cost)], start: Option<Instant>) {
        let Some(start) = start else { return };
        let wall = start.elapsed();
        let threads: Duration = parts.iter().map(|p| p.1).sum();
        let mut at = start - self.epoch;
        for &(op, time, cost) in parts {
            let share = time.as_secs_f64() / threads.as_secs_f64().max(1e-12);
            let time = wall.mul_f64(share);
            self.push(op, at, time, cost);
            at += time;
        }
    }

    fn push(&mut self, op: Op, start: Duration, time: Duration, cost: Cost) {
        self.events.push(Event {
            step: self.step,
            layer: self.layer,
            op,
            start,
            time,
            cost,
        });
    }

    /// Events of the current step.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Number of the current step, from 1.
    pub fn step(&self) -> u32 {
        self.step
    }
}

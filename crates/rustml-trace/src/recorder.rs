//! The clock, and what it saw.

use crate::{Cost, Event, Op, Step, Turn};
use std::time::{Duration, Instant};

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

/// Hands over the turns since it was last called: thread, start, end, and when
/// the caller left the region.
pub type Turns = Box<dyn FnMut(&mut dyn FnMut(usize, [Instant; 3])) + Send>;

/// Collects the events of steps.
pub struct Recorder {
    detail: Detail,
    epoch: Instant,
    step: u32,
    step_start: Duration,
    layer: Option<u16>,
    events: Vec<Event>,
    turns: Vec<Turn>,
    source: Option<Turns>,
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
            turns: Vec::new(),
            source: None,
        }
    }

    /// Where to learn who worked when; without it, nobody seems to wait.
    pub fn set_turns(&mut self, source: Turns) {
        self.source = Some(source);
    }

    /// How closely it looks.
    pub fn detail(&self) -> Detail {
        self.detail
    }

    /// Begins a step of at most `events` events; forgets the former one's.
    pub fn begin_step(&mut self, events: usize) {
        if self.detail > Detail::Off {
            self.events.clear();
            self.turns.clear();
            self.events.reserve(events);
            // Of steps of others, if the threads are shared.
            if let Some(source) = &mut self.source {
                source(&mut |_, _| {});
            }
            self.step += 1;
            self.layer = None;
            self.step_start = self.epoch.elapsed();
        }
    }

    /// Ends the step, which began before the forward pass if `since` says so;
    /// returns its wall time.
    pub fn end_step(&mut self, since: Option<Instant>) -> Duration {
        if self.detail == Detail::Off {
            return Duration::ZERO;
        }
        if let Some(since) = since {
            self.step_start = since - self.epoch;
        }
        self.epoch.elapsed() - self.step_start
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
            let time = start.elapsed();
            let waiting = self.collect_turns();
            self.push(op, start - self.epoch, time, waiting, cost);
        }
    }

    /// Records an operation that ends now as several, its wall time divided
    /// in proportion to the threads' time in each.
    pub fn record_parts(&mut self, parts: &[(Op, Duration, Cost)], start: Option<Instant>) {
        let Some(start) = start else { return };
        let wall = start.elapsed();
        let waiting = self.collect_turns();
        let threads: Duration = parts.iter().map(|p| p.1).sum();
        let mut at = start - self.epoch;
        for &(op, time, cost) in parts {
            let share = match threads.is_zero() {
                true => 1.0 / parts.len() as f64,
                false => time.as_secs_f64() / threads.as_secs_f64(),
            };
            let time = wall.mul_f64(share);
            self.push(op, at, time, waiting.mul_f64(share), cost);
            at += time;
        }
    }

    /// Takes the turns of the operation that ends now; how long the caller
    /// waited for the others.
    fn collect_turns(&mut self) -> Duration {
        let Some(source) = &mut self.source else {
            return Duration::ZERO;
        };
        let (turns, epoch, event) = (&mut self.turns, self.epoch, self.events.len());
        let mut waiting = Duration::ZERO;
        source(&mut |thread, times| {
            let [start, end, left] = times.map(|t| t.saturating_duration_since(epoch));
            waiting += left.saturating_sub(end);
            turns.push(Turn {
                thread,
                event,
                start,
                end,
                left,
            });
        });
        waiting
    }

    fn push(&mut self, op: Op, start: Duration, time: Duration, waiting: Duration, cost: Cost) {
        self.events.push(Event {
            step: self.step,
            layer: self.layer,
            op,
            start,
            time,
            waiting: waiting.min(time),
            cost,
        });
    }

    /// Events of the current step.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The current step, that took `total` for `rows` rows and the logits of
    /// `logit_rows` of them.
    pub fn step(&self, total: Duration, rows: usize, logit_rows: usize) -> Step<'_> {
        Step {
            number: self.step,
            start: self.step_start,
            total,
            rows,
            logit_rows,
            events: &self.events,
            turns: &self.turns,
        }
    }
}

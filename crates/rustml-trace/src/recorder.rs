//! The clock, and what it saw.

use crate::{Cost, Event, Op, Step, Turn};
use std::sync::OnceLock;
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

/// What is known of the threads that compute.
pub trait Threads: Send {
    /// A clock that is cheap to read, in whatever unit.
    fn clock(&self) -> fn() -> u64;

    /// How long the caller has waited for others since this was last asked, by
    /// that clock.
    fn waited(&mut self) -> u64;

    /// Hands over the turns since it was last called, those of each thread in
    /// order: thread, start and end. Those of thread 0, the caller, are its
    /// waiting for others.
    fn turns(&mut self, take: &mut dyn FnMut(usize, u64, u64));
}

fn nanoseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Collects the events of steps.
///
/// The system's clock is read when a step begins and ends. In between a cheaper
/// one is, whose unit follows from that.
pub struct Recorder {
    detail: Detail,
    clock: fn() -> u64,
    epoch: Instant,
    step: u32,
    /// When the step began, by both clocks.
    began: (Duration, u64),
    step_start: Duration,
    layer: Option<u16>,
    events: Vec<Event>,
    turns: Vec<Turn>,
    threads: Option<Box<dyn Threads>>,
}

impl Recorder {
    /// A recorder that looks as closely as `detail`; not at all in a program
    /// that was compiled with `--cfg no_probe`.
    pub fn new(detail: Detail) -> Recorder {
        Recorder {
            detail: if cfg!(no_probe) { Detail::Off } else { detail },
            clock: nanoseconds,
            epoch: Instant::now(),
            step: 0,
            began: (Duration::ZERO, 0),
            step_start: Duration::ZERO,
            layer: None,
            events: Vec::new(),
            turns: Vec::new(),
            threads: None,
        }
    }

    /// Where to learn who worked when; without it, nobody seems to wait.
    pub fn set_threads(&mut self, threads: Box<dyn Threads>) {
        self.clock = threads.clock();
        self.threads = Some(threads);
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
            if let Some(threads) = &mut self.threads {
                threads.turns(&mut |_, _, _| {});
                threads.waited();
            }
            self.step += 1;
            self.layer = None;
            self.began = (self.epoch.elapsed(), (self.clock)());
            self.step_start = self.began.0;
        }
    }

    /// Ends the step, which began before the forward pass if `since` says so;
    /// returns its wall time.
    pub fn end_step(&mut self, since: Option<Instant>) -> Duration {
        if self.detail == Detail::Off {
            return Duration::ZERO;
        }
        let (end, ticks) = (self.epoch.elapsed(), (self.clock)());
        let (start, start_ticks) = self.began;
        let ticks = ticks.saturating_sub(start_ticks).max(1);
        self.settle((end - start).as_nanos() as f64 / ticks as f64);
        if let Some(since) = since {
            self.step_start = since.saturating_duration_since(self.epoch);
        }
        end - self.step_start
    }

    /// Turns the step's ticks, since it began, into time since the epoch; takes
    /// the turns of the threads, each of which is of the last operation that
    /// began before it.
    fn settle(&mut self, unit: f64) {
        let (start, start_ticks) = self.began;
        let scaled = |ticks: u64| Duration::from_nanos((ticks as f64 * unit) as u64);
        for e in &mut self.events {
            for time in [&mut e.start, &mut e.time, &mut e.waiting] {
                *time = scaled(time.as_nanos() as u64);
            }
            e.start += start;
        }
        let Some(threads) = &mut self.threads else {
            return;
        };
        let (turns, events) = (&mut self.turns, &self.events);
        threads.turns(&mut |thread, from, to| {
            let at = |ticks: u64| start + scaled(ticks.saturating_sub(start_ticks));
            let (start, end) = (at(from), at(to.max(from)));
            let event = events.partition_point(|e| e.start <= start);
            turns.push(Turn {
                thread,
                event: event.saturating_sub(1),
                start,
                end,
            });
        });
    }

    /// Following events belong to this layer.
    pub fn set_layer(&mut self, layer: Option<usize>) {
        self.layer = layer.map(|l| l as u16);
    }

    /// The clock that starts of operations are read from.
    pub fn clock(&self) -> fn() -> u64 {
        self.clock
    }

    /// The start of an operation, if anybody looks.
    #[inline]
    pub fn start(&self) -> Option<u64> {
        (!cfg!(no_probe) && self.detail > Detail::Off).then(self.clock)
    }

    /// Whether parts of operations are wanted.
    #[inline]
    pub fn wants_parts(&self) -> bool {
        !cfg!(no_probe) && self.detail == Detail::Parts
    }

    /// Records an operation that ends now.
    #[inline]
    pub fn record(&mut self, op: Op, start: Option<u64>, cost: Cost) {
        if let Some(start) = start {
            self.record_since(op, start, cost);
        }
    }

    #[inline(never)]
    fn record_since(&mut self, op: Op, start: u64, cost: Cost) {
        let time = (self.clock)().saturating_sub(start);
        let waiting = self.waited();
        self.push(op, start, time, waiting, cost);
    }

    /// Records an operation that ends now as several, its wall time divided
    /// in proportion to the threads' time in each, in whatever unit.
    pub fn record_parts(&mut self, parts: &[(Op, u64, Cost)], start: Option<u64>) {
        let Some(start) = start else { return };
        let wall = (self.clock)().saturating_sub(start);
        let waiting = self.waited();
        let threads: f64 = parts.iter().map(|p| p.1 as f64).sum();
        let mut at = start;
        for &(op, time, cost) in parts {
            let share = match threads > 0.0 {
                true => time as f64 / threads,
                false => 1.0 / parts.len() as f64,
            };
            let of = |whole: u64| (whole as f64 * share) as u64;
            let time = of(wall);
            self.push(op, at, time, of(waiting), cost);
            at += time;
        }
    }

    /// How long the caller waited in the operation that ends now.
    fn waited(&mut self) -> u64 {
        self.threads.as_mut().map_or(0, |threads| threads.waited())
    }

    /// Ticks stand for nanoseconds until the step ends.
    fn push(&mut self, op: Op, start: u64, time: u64, waiting: u64, cost: Cost) {
        self.events.push(Event {
            step: self.step,
            layer: self.layer,
            op,
            start: Duration::from_nanos(start.saturating_sub(self.began.1)),
            time: Duration::from_nanos(time),
            waiting: Duration::from_nanos(waiting.min(time)),
            cost,
        });
    }

    /// Events of the current step; their times are right when it has ended.
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

//! The threads that compute.
//!
//! A *region* is a number of chunks that the caller and the workers take until
//! none is left. Each has a share of neighbouring chunks, which it takes in
//! order - what lies one after the other in memory is then read so - and who
//! is through with his own takes the last ones of others. Chunks are taken one
//! by one, so a core that stalls holds back only the chunk it has; and a worker
//! that has not woken up is not waited for, so a busy neighbour costs its core
//! and no more. Between regions workers spin for some microseconds, then park.
//!
//! The workers serve one region at a time. Who finds them busy - another thread,
//! or the body of the open region itself - runs its own region alone: nobody
//! waits for the workers, so nothing can wait for ever.
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! let pool = rustml_kernels::Pool::new(2)?;
//! let sum = AtomicUsize::new(0);
//! pool.run(100, &|chunk, _thread| {
//!     sum.fetch_add(chunk, Ordering::Relaxed);
//! });
//! assert_eq!(sum.into_inner(), 4950);
//! # Ok::<(), std::io::Error>(())
//! ```

use crate::cpus;
use crate::panel::LINE;
use crate::ticks::ticks;
use rustml_simd::prefetch_near;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Instant;

/// The body of a region: called with the chunk and the number of the thread.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Spins before a worker looks at the clock again.
const SPINS: u32 = 64;
/// How long a worker spins for the next region before it parks, in
/// microseconds: longer than the gaps within a decode step, far shorter than
/// a scheduler's time slice.
const SPIN_MICROS: u128 = 60;

/// Lines that a thread asks for between two looks at whether to go on.
const WAITING_LINES: usize = 4;

/// The region's state in one word: whether it is open, how many workers are
/// inside, and its number.
const OPEN: u64 = 1 << 16;
const INSIDE: u64 = OPEN - 1;
const NUMBER: u64 = OPEN << 1;

/// The chunks of one thread that nobody has taken: `first << 32 | end`.
#[repr(align(64))] // a cache line of its own
#[derive(Default)]
struct Share(AtomicU64);

impl Share {
    fn set(&self, first: usize, end: usize) {
        self.0.store((first as u64) << 32 | end as u64, Relaxed);
    }

    /// The first chunk, for whom it belongs to; the last one for others.
    fn take(&self, own: bool) -> Option<usize> {
        let mut share = self.0.load(Relaxed);
        loop {
            let (first, end) = (share >> 32, share & u64::from(u32::MAX));
            if first >= end {
                return None;
            }
            let (left, taken) = match own {
                true => (share + (1 << 32), first),
                false => (share - 1, end - 1),
            };
            let changed = self.0.compare_exchange_weak(share, left, Relaxed, Relaxed);
            match changed {
                Ok(_) => return Some(taken as usize),
                Err(now) => share = now,
            }
        }
    }
}

/// From when to when one thread worked, region by region, if somebody looks; of
/// the caller, from when to when it waited. No other thread comes near while
/// regions run: a cache line that went to and fro in each of them would cost
/// more than the clock.
#[repr(align(64))] // a cache line of its own
#[derive(Default)]
struct Log(UnsafeCell<Vec<(u64, u64)>>);

impl Log {
    /// # Safety
    /// No other thread uses this log.
    unsafe fn put(&self, start: u64, end: u64) {
        let log = &mut *self.0.get();
        if log.len() < MAX_TURNS {
            log.push((start, end));
        }
    }
}

/// More turns of a thread than lie between two visits of anybody who looks.
const MAX_TURNS: usize = 1 << 14;

/// What a thread will read next, and how far it has asked for that: set by the
/// caller between regions.
#[repr(align(64))] // a cache line of its own
#[derive(Default)]
struct Ahead {
    at: AtomicUsize,
    end: AtomicUsize,
}

impl Ahead {
    /// Asks for the next lines; whether there are more.
    fn fetch(&self, lines: usize) -> bool {
        let (at, end) = (self.at.load(Relaxed), self.end.load(Relaxed));
        let to = end.min(at.saturating_add(lines * LINE));
        if at >= to {
            return false;
        }
        for p in (at..to).step_by(LINE) {
            prefetch_near(std::ptr::without_provenance(p));
        }
        self.at.store(to, Relaxed);
        to < end
    }
}

struct Shared {
    /// `number << 17 | open << 16 | workers inside`
    state: AtomicU64,
    /// Held by the thread whose region it is.
    busy: Mutex<()>,
    /// The body of the open region, its lifetime erased.
    body: UnsafeCell<Option<&'static Body<'static>>>,
    /// Of each thread.
    shares: Vec<Share>,
    /// Of each thread.
    ahead: Vec<Ahead>,
    /// What a worker's panic said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether somebody looks at the turns.
    watched: AtomicBool,
    /// Ticks that callers have waited since somebody asked.
    waited: AtomicU64,
    /// Of each thread.
    logs: Vec<Log>,
    quit: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `body` is written only by the thread that holds `busy` while no worker
// is inside a region, and read only inside one. A worker's log is used by it inside
// a region, and by the thread that holds `busy` while nobody is; the caller's, by
// the thread that holds `busy`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// A team of threads: the one that calls [`Pool::run`] and its workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A team of `threads`, the calling thread included; at least one.
    ///
    /// # Errors
    /// If the operating system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            busy: Mutex::new(()),
            body: UnsafeCell::new(None),
            shares: (0..threads.max(1)).map(|_| Share::default()).collect(),
            ahead: (0..threads.max(1)).map(|_| Ahead::default()).collect(),
            panic: Mutex::new(None),
            watched: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            logs: (0..threads.max(1)).map(|_| Log::default()).collect(),
            quit: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
        };
        for thread in 1..threads.max(1) {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("rustml-{thread}"))
                .spawn(move || shared.work(thread))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// The same, and each worker stays on a CPU of its own among those this thread may
    /// run on; the first of them is left to whoever calls.
    ///
    /// # Errors
    /// As for [`Pool::new`]; if there are fewer CPUs than threads, or the system, which
    /// is not Linux, cannot do that.
    pub fn pinned(threads: usize) -> std::io::Result<Pool> {
        let cpus = cpus::of_their_own(threads.max(1) - 1)?;
        let pool = Pool::new(threads)?;
        for (worker, cpu) in pool.workers.iter().zip(cpus) {
            cpus::pin(worker, cpu)?;
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// From now on notes, or not, who works when in regions that are shared,
    /// for [`Pool::drain_turns`]. Not to do so, as at first, costs a branch.
    pub fn watch(&self, on: bool) {
        self.shared.watched.store(on, Relaxed);
    }

    /// How many [`ticks`] callers have waited, since this was last asked, for
    /// workers when nothing was left to take.
    pub fn take_waited(&self) -> u64 {
        self.shared.waited.swap(0, Relaxed)
    }

    /// The first of so many chunks that a thread takes.
    pub fn first_of(&self, chunks: usize, thread: usize) -> usize {
        chunks * thread / self.threads()
    }

    /// Says what `thread` will read first in a region to come: while it waits it
    /// asks for that memory, so that the region begins with what is near. Wrong
    /// words cost time and no more.
    pub fn expect(&self, thread: usize, bytes: &[u8]) {
        let start = match bytes {
            [] => 0,
            _ => bytes.as_ptr() as usize,
        };
        let ahead = &self.shared.ahead[thread];
        ahead.end.store(start + bytes.len(), Relaxed);
        ahead.at.store(start, Relaxed);
    }

    /// Where what is left of that lies; null if there is nothing.
    pub fn expected(&self, thread: usize) -> *const u8 {
        std::ptr::without_provenance(self.shared.ahead[thread].at.load(Relaxed))
    }

    /// Hands over thread, start and end, in [`ticks`], of each turn in regions
    /// that have ended: when a worker worked; when the caller, thread 0, waited
    /// for it. What nobody comes for is forgotten.
    pub fn drain_turns(&self, take: &mut dyn FnMut(usize, u64, u64)) {
        let _busy = lock(&self.shared.busy);
        for (thread, log) in self.shared.logs.iter().enumerate() {
            // SAFETY: we hold `busy`, so no region is open, and the last one
            // was left when nobody was inside.
            let log = unsafe { &mut *log.0.get() };
            log.drain(..)
                .for_each(|(start, end)| take(thread, start, end));
        }
    }

    /// Calls `body(chunk, thread)` for every chunk below `chunks`, each once,
    /// and returns when all are done. Chunks run in no particular order;
    /// thread 0 is the caller. While a region is open, others that begin - also
    /// in its body - are run by their callers alone.
    ///
    /// # Panics
    /// If the body panicked in any thread, with one of the panics. Chunks may
    /// then have been left out.
    pub fn run(&self, chunks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        let s = &*self.shared;
        let alone = || (0..chunks).for_each(|chunk| body(chunk, 0));
        // No share can number more; nothing here has as many.
        let too_many = chunks > u32::MAX as usize;
        if chunks <= 1 || self.workers.is_empty() || too_many {
            return alone();
        }
        let _busy = match s.busy.try_lock() {
            Ok(busy) => busy,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return alone(),
        };
        // SAFETY: nobody is inside (the former region waited for that), and
        // the reference is gone from the slot's readers before this returns.
        unsafe {
            let body = std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body);
            *s.body.get() = Some(body);
        }
        for (i, share) in s.shares.iter().enumerate() {
            share.set(self.first_of(chunks, i), self.first_of(chunks, i + 1));
        }
        s.state.fetch_add(NUMBER + OPEN, SeqCst);
        if s.sleepers.load(SeqCst) > 0 {
            let _lock = lock(&s.lock);
            s.wake.notify_all();
        }
        let close = Close(s);
        s.take_chunks(body, 0);
        let through = s.is_watched().then(ticks);
        drop(close);
        if let Some(through) = through {
            let left = ticks();
            let waited = left.saturating_sub(through);
            s.waited.fetch_add(waited, Relaxed);
            // SAFETY: we hold `busy`, and are the caller.
            unsafe { s.logs[0].put(through, left) };
        }
        if let Some(panic) = lock(&s.panic).take() {
            resume_unwind(panic);
        }
    }
}

/// Closes the region and waits for the workers inside, also on unwinding.
struct Close<'a>(&'a Shared);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let s = self.0;
        // Nothing is left to take, even if the caller's own chunk panicked.
        s.shares.iter().for_each(|share| share.set(0, 0));
        s.state.fetch_and(!OPEN, SeqCst);
        let mut spins = 0u32;
        while s.state.load(Acquire) & INSIDE != 0 {
            spins += 1;
            if s.ahead[0].fetch(WAITING_LINES) {
            } else if spins < 10_000 {
                std::hint::spin_loop();
            } else {
                // Whoever is inside may be waiting for this core.
                std::thread::yield_now();
            }
        }
        if std::thread::panicking() {
            // The caller's own panic goes on; the workers' end here.
            lock(&s.panic).take();
        }
    }
}

/// No panic leaves the data of a lock here in disorder.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn take_chunks(&self, body: &Body<'_>, thread: usize) {
        for i in 0..self.shares.len() {
            let share = &self.shares[(thread + i) % self.shares.len()];
            while let Some(chunk) = share.take(i == 0) {
                body(chunk, thread);
            }
        }
    }

    fn is_watched(&self) -> bool {
        !cfg!(no_probe) && self.watched.load(Relaxed)
    }

    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let state = self.wait_for_region(seen, thread);
            if self.quit.load(Relaxed) {
                return;
            }
            seen = state / NUMBER;
            // Inside only counts if the region is still open then.
            let entered = self.state.fetch_add(1, SeqCst);
            if entered & OPEN != 0 {
                seen = entered / NUMBER;
                // SAFETY: the region is open and we are counted inside, so
                // the caller waits for us before it touches the slot.
                let body = unsafe { *self.body.get() };
                if let Some(body) = body {
                    let run = AssertUnwindSafe(|| {
                        let start = self.is_watched().then(ticks);
                        self.take_chunks(body, thread);
                        if let Some(start) = start {
                            // SAFETY: it is ours, and we are inside.
                            unsafe { self.logs[thread].put(start, ticks()) };
                        }
                    });
                    if let Err(panic) = catch_unwind(run) {
                        *lock(&self.panic) = Some(panic);
                    }
                }
            }
            self.state.fetch_sub(1, SeqCst);
        }
    }

    /// Returns the state once a region other than `seen` is open, or at the end.
    fn wait_for_region(&self, seen: u64, thread: usize) -> u64 {
        let ready = || {
            let state = self.state.load(SeqCst);
            let new = state & OPEN != 0 && state / NUMBER != seen;
            (new || self.quit.load(Relaxed)).then_some(state)
        };
        while self.ahead[thread].fetch(WAITING_LINES) {
            if let Some(state) = ready() {
                return state;
            }
        }
        let start = Instant::now();
        loop {
            for _ in 0..SPINS {
                if let Some(state) = ready() {
                    return state;
                }
                std::hint::spin_loop();
            }
            if start.elapsed().as_micros() > SPIN_MICROS {
                break;
            }
        }
        let mut lock = lock(&self.lock);
        self.sleepers.fetch_add(1, SeqCst);
        let state = loop {
            if let Some(state) = ready() {
                break state;
            }
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, SeqCst);
        state
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, SeqCst);
        {
            let _lock = lock(&self.shared.lock);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

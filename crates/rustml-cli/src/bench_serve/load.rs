//! Sends a level's requests at their times.

use super::client::{Client, Reply};
use super::prompts::Prompts;
use indicatif::ProgressBar;
use std::fmt;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Stack of a thread that sends requests; there may be many.
const STACK: usize = 512 << 10;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many clients, each when its last one is answered.
    Clients(u16),
    /// So many a second, at random times.
    Rate(f64),
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Pace::Clients(1) => write!(f, "1 client"),
            Pace::Clients(n) => write!(f, "{n} clients"),
            Pace::Rate(r) => write!(f, "{r}/s"),
        }
    }
}

/// When a level ends.
#[derive(Clone, Copy)]
pub struct Limit {
    /// Requests at most.
    pub requests: u32,
    /// Time in which they are sent.
    pub duration: Option<Duration>,
}

/// A load.
pub struct Level {
    /// Tells its prompts from those of others.
    pub number: u32,
    pub pace: Pace,
    /// Connections at most, if a rate is given.
    pub connections: u16,
    pub limit: Limit,
}

/// What became of a level's requests.
pub struct Run {
    /// By the requests' numbers.
    pub replies: Vec<(u32, Reply)>,
    /// From the beginning to the last reply.
    pub time: Duration,
}

/// Requests that are still to be sent.
struct Line<'a> {
    next: u32,
    /// When, from the beginning; at once, if there is none.
    times: Option<Box<dyn Iterator<Item = Duration> + Send + 'a>>,
}

impl Line<'_> {
    /// Number and time of the next request.
    fn next(&mut self, limit: Limit, now: Duration) -> Option<(u32, Duration)> {
        let at = self.times.as_mut().map_or(Some(now), Iterator::next)?;
        let i = self.next;
        if i >= limit.requests || limit.duration.is_some_and(|d| at >= d) {
            return None;
        }
        self.next += 1;
        Some((i, at))
    }
}

/// Runs a level.
///
/// Threads take requests from one line, in the order of their times, and wait
/// for the time of theirs. If all are busy a request is sent late, but its
/// times count from when it was meant to be.
pub fn run(level: &Level, client: &Client, prompts: &Prompts, bar: &ProgressBar) -> Run {
    let limit = level.limit;
    let (threads, times) = match level.pace {
        Pace::Clients(n) => (n, None),
        Pace::Rate(rate) => {
            let times: Box<dyn Iterator<Item = _> + Send> =
                Box::new(prompts.arrivals(level.number, rate));
            (level.connections, Some(times))
        }
    };
    let threads = u32::from(threads).min(limit.requests);
    let line = Mutex::new(Line { next: 0, times });
    let replies = Mutex::new(Vec::new());
    let begin = Instant::now();
    let work = || {
        // Each has connections of its own.
        let client = client.clone();
        loop {
            let next = lock(&line).next(limit, begin.elapsed());
            let Some((i, at)) = next else { break };
            let prompt = prompts.text(level.number, i);
            thread::sleep(at.saturating_sub(begin.elapsed()));
            let reply = client.send_at(&prompt, begin + at);
            lock(&replies).push((i, reply));
            bar.inc(1);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system gives no more threads, the others do the work.
            let thread = thread::Builder::new().stack_size(STACK);
            if let Err(e) = thread.spawn_scoped(scope, work) {
                tracing::warn!("one connection less: {e}");
            }
        }
        work();
    });
    let time = begin.elapsed();
    let mut replies = replies.into_inner().unwrap_or_else(|e| e.into_inner());
    replies.sort_by_key(|&(i, _)| i);
    Run { replies, time }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_by_number_or_by_time() {
        let limit = |requests, ms: Option<u64>| Limit {
            requests,
            duration: ms.map(Duration::from_millis),
        };
        let count = |limit| {
            let times = (1..).map(|i| Duration::from_millis(10 * i));
            let times: Box<dyn Iterator<Item = _> + Send> = Box::new(times);
            let mut line = Line {
                next: 0,
                times: Some(times),
            };
            std::iter::from_fn(|| line.next(limit, Duration::ZERO)).count()
        };
        assert_eq!(count(limit(7, None)), 7);
        assert_eq!(count(limit(u32::MAX, Some(100))), 9);
        assert_eq!(count(limit(3, Some(100))), 3);
        let mut clients = Line {
            next: 0,
            times: None,
        };
        let at = Duration::from_millis(99);
        assert_eq!(clients.next(limit(9, Some(100)), at), Some((0, at)));
        assert_eq!(clients.next(limit(9, Some(99)), at), None);
    }
}

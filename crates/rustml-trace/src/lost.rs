//! Time that the machine gave to others.
//!
//! A step takes longer than its kernels need where another process, the host of a
//! virtual machine or a quota has the CPU meanwhile. Linux counts for each thread how
//! long it ran and how long it was ready to run and did not
//! (`Documentation/scheduler/sched-stats.rst`), and for the machine what the host took
//! (`steal` in `man 5 proc_stat`). Where a system does not count so, nothing is claimed.

use serde::{Deserialize, Serialize};
use std::fs;
use std::time::Instant;

/// What the threads that compute had of the CPUs during some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// Seconds it took.
    pub wall: f64,
    /// Of each thread that computes.
    pub threads: Vec<ThreadTime>,
    /// Share of the CPUs that the host of this virtual machine took.
    pub stolen: f64,
}

/// What one thread had, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadTime {
    /// It ran.
    pub ran: f64,
    /// It was ready to run, and something else ran.
    pub waited: f64,
}

impl Lost {
    /// The share of the time that was lost. Threads share the work of a step, so all wait for
    /// the one that waited most; what the host took, threads do not know of.
    pub fn share(&self) -> f64 {
        let waited = self.threads.iter().map(|t| t.waited).fold(0.0, f64::max);
        match self.wall > 0.0 {
            true => (waited / self.wall + self.stolen).clamp(0.0, 1.0),
            false => 0.0,
        }
    }

    /// The share that was lost, at least, of a part of the time that takes so many seconds: all
    /// the rest may have been lost, too.
    pub fn within(&self, part: f64) -> f64 {
        let lost = self.share() * self.wall - (self.wall - part).max(0.0);
        match part > 0.0 {
            true => (lost / part).clamp(0.0, 1.0),
            false => 0.0,
        }
    }

    /// The share of the time that the threads ran, on average.
    pub fn ran(&self) -> f64 {
        let all: f64 = self.threads.iter().map(|t| t.ran).sum();
        let time = self.wall * self.threads.len() as f64;
        if time > 0.0 {
            all / time
        } else {
            0.0
        }
    }

    /// Both times, one after the other.
    pub fn and(&self, other: &Lost) -> Lost {
        let wall = self.wall + other.wall;
        let stolen = self.stolen * self.wall + other.stolen * other.wall;
        let both = self.threads.len().max(other.threads.len());
        let at = |lost: &Lost, i: usize| lost.threads.get(i).copied().unwrap_or_default();
        Lost {
            wall,
            threads: (0..both)
                .map(|i| ThreadTime {
                    ran: at(self, i).ran + at(other, i).ran,
                    waited: at(self, i).waited + at(other, i).waited,
                })
                .collect(),
            stolen: if wall > 0.0 { stolen / wall } else { 0.0 },
        }
    }
}

/// What was counted up to a moment.
#[derive(Clone, Debug)]
pub struct Sample {
    at: Instant,
    /// Number, nanoseconds that it ran, and that it waited.
    threads: Vec<(u64, u64, u64)>,
    /// Ticks that were stolen, and all of them.
    ticks: (u64, u64),
}

impl Sample {
    /// The counters of the threads that compute: the pool's, the engine's, and the calling
    /// one if it is theirs. `None` where the system does not count so.
    pub fn now(with_caller: bool) -> Option<Sample> {
        let own = fs::read_link("/proc/thread-self").ok()?;
        let own = own.file_name()?.to_str()?.to_owned();
        let mut threads = Vec::new();
        for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
            // A thread may end meanwhile.
            let Ok(name) = fs::read_to_string(task.path().join("comm")) else {
                continue;
            };
            let number = task.file_name();
            let mine = with_caller && number.to_str() == Some(&own);
            if !mine && !computes(name.trim()) {
                continue;
            }
            let number = number.to_str()?.parse().ok()?;
            if let Ok(text) = fs::read_to_string(task.path().join("schedstat")) {
                let (ran, waited) = schedstat(&text)?;
                threads.push((number, ran, waited));
            }
        }
        threads.sort_unstable();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        (!threads.is_empty()).then(|| Sample {
            at: Instant::now(),
            threads,
            ticks: ticks(&stat).unwrap_or((0, 0)),
        })
    }

    /// What was lost since an earlier moment.
    pub fn since(&self, before: &Sample) -> Lost {
        let old = |number| before.threads.iter().find(|t| t.0 == number);
        let seconds = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e9;
        let threads = self.threads.iter().filter_map(|&(number, ran, waited)| {
            let &(_, ran_then, waited_then) = old(number)?;
            Some(ThreadTime {
                ran: seconds(ran, ran_then),
                waited: seconds(waited, waited_then),
            })
        });
        let all = self.ticks.1.saturating_sub(before.ticks.1);
        let stolen = self.ticks.0.saturating_sub(before.ticks.0);
        Lost {
            wall: (self.at - before.at).as_secs_f64(),
            threads: threads.collect(),
            stolen: stolen as f64 / all.max(1) as f64,
        }
    }

    /// Seconds that all of them ran, and that they waited, since they began.
    pub fn totals(&self) -> (f64, f64) {
        let sum = |of: fn(&(u64, u64, u64)) -> u64| self.threads.iter().map(of).sum::<u64>();
        (sum(|t| t.1) as f64 / 1e9, sum(|t| t.2) as f64 / 1e9)
    }
}

/// Whether a thread of this name computes: the pool's are called `rustml-1` and so on.
fn computes(name: &str) -> bool {
    let number = name.strip_prefix("rustml-");
    name == "engine"
        || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Nanoseconds that a thread ran, and that it waited.
fn schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// Of all CPUs together: ticks that were stolen, and all.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let numbers: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let all = numbers.get(..8)?;
    Some((all[7], all.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counters_are_read() {
        assert_eq!(schedstat("1500 2500 3\n"), Some((1500, 2500)));
        assert_eq!(schedstat("0 0 0"), Some((0, 0)));
        assert_eq!(schedstat("x"), None);
        assert_eq!(schedstat(""), None);
        let stat = "cpu  10 0 20 60 5 0 1 4 9 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(ticks(stat), Some((4, 100)));
        assert_eq!(ticks("cpu  1 2 3\n"), None);
        assert_eq!(ticks("intr 5\n"), None);
        assert!(computes("rustml-12") && computes("engine"));
        assert!(!computes("rustml") && !computes("rustml-") && !computes("rustml-io"));
    }

    #[test]
    fn all_wait_for_the_thread_that_waited_most() {
        let at = Instant::now();
        let before = Sample {
            at,
            threads: vec![(7, 1_000, 0), (8, 0, 500_000_000)],
            ticks: (5, 1000),
        };
        let after = Sample {
            at: at + Duration::from_secs(2),
            // Another thread came meanwhile; of it nothing is known.
            threads: vec![
                (7, 2_000_001_000, 0),
                (8, 1_000_000_000, 1_500_000_000),
                (9, 5, 5),
            ],
            ticks: (15, 1200),
        };
        let lost = after.since(&before);
        assert_eq!(lost.wall, 2.0);
        assert_eq!(lost.threads.len(), 2);
        assert_eq!(lost.stolen, 0.05);
        assert!((lost.share() - 0.55).abs() < 1e-9, "{}", lost.share());
        assert!((lost.ran() - 0.75).abs() < 1e-9, "{}", lost.ran());
        assert_eq!(after.since(&after).share(), 0.0);
        // Of 2 s, 1.1 were lost, 0.8 at most outside of the 1.2.
        assert!((lost.within(1.2) - 0.25).abs() < 1e-9);
        assert_eq!((lost.within(0.5), lost.within(0.0)), (0.0, 0.0));
        assert!((lost.within(2.0) - lost.share()).abs() < 1e-9);
        let twice = lost.and(&lost);
        assert!((twice.share() - 0.55).abs() < 1e-9);
        assert_eq!(twice.wall, 4.0);
        assert_eq!(Lost::default().share(), 0.0);
        let all = Lost {
            wall: 1.0,
            threads: vec![ThreadTime {
                ran: 0.0,
                waited: 2.0,
            }],
            stolen: 0.5,
        };
        assert_eq!(all.share(), 1.0, "more than all cannot be lost");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_computes_runs() {
        let Some(before) = Sample::now(true) else {
            return; // a kernel without these counters
        };
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(0);
        }
        let lost = Sample::now(true).unwrap().since(&before);
        let mine: f64 = lost.threads.iter().map(|t| t.ran + t.waited).sum();
        assert!(mine > 0.001 && lost.wall >= 0.03, "{lost:?}");
        assert!((0.0..=1.0).contains(&lost.share()));
    }
}

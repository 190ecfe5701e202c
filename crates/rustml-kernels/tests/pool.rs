//! The team of threads: every chunk once, whoever calls and whatever fails.

use rustml_kernels::Pool;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::time::Duration;

/// Teams of any machine: fewer threads than it has cores, and far more.
const TEAMS: [usize; 3] = [3, 8, 64];

/// How often each chunk of a region ran.
fn counts(pool: &Pool, chunks: usize) -> Vec<usize> {
    let counts: Vec<_> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
    pool.run(chunks, &|chunk, thread| {
        assert!(thread < pool.threads());
        counts[chunk].fetch_add(1, Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

/// Pinned workers run on one CPU, each on another, and the caller where it likes.
#[cfg(target_os = "linux")]
#[test]
fn pinned_workers_stay_on_cpus_of_their_own() {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    fn cpus() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
        line.unwrap()["Cpus_allowed_list:".len()..].trim().into()
    }
    let (before, all) = (cpus(), std::thread::available_parallelism().unwrap().get());
    let pool = Pool::pinned(all.min(4)).unwrap();
    let seen = Mutex::new(BTreeMap::new());
    for _ in 0..1000 {
        pool.run(8, &|_, thread| {
            seen.lock().unwrap().insert(thread, cpus());
            std::thread::sleep(Duration::from_micros(100));
        });
        if seen.lock().unwrap().len() == pool.threads() {
            break;
        }
    }
    let mut seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), pool.threads(), "every thread took part");
    assert_eq!(seen.remove(&0), Some(before));
    let mut own: Vec<_> = seen.into_values().collect();
    own.sort();
    own.dedup();
    assert_eq!(own.len(), pool.threads() - 1);
    assert!(
        own.iter().all(|cpu| cpu.parse::<usize>().is_ok()),
        "{own:?}"
    );
    let err = Pool::pinned(5000).err().unwrap();
    assert!(err.to_string().contains("5000 threads cannot"), "{err}");
}

/// Also with more threads than cores, where most have not woken up in time.
#[test]
fn every_chunk_runs_once() {
    for threads in [1, 2, 3, 4, 8, 17, 64] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for chunks in [0, 1, 2, 7, 100] {
            for _ in 0..100 {
                assert_eq!(counts(&pool, chunks), vec![1; chunks], "{threads} threads");
            }
        }
    }
}

#[test]
fn no_threads_are_one() {
    let pool = Pool::new(0).unwrap();
    assert_eq!(pool.threads(), 1);
    assert_eq!(counts(&pool, 5), [1; 5]);
}

#[test]
fn parked_workers_wake_up() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(1)); // longer than they spin
        assert_eq!(counts(&pool, 8), [1; 8]);
    }
}

/// Were the workers asleep for ever, the caller would run every chunk.
#[test]
fn workers_take_part() {
    for threads in TEAMS {
        let pool = Pool::new(threads).unwrap();
        let barrier = std::sync::Barrier::new(threads);
        for _ in 0..10 {
            // Nobody gets through before all of them have a chunk.
            pool.run(threads, &|_, _| {
                barrier.wait();
            });
        }
    }
}

#[test]
fn what_chunks_write_is_seen_when_the_region_is_over() {
    for threads in TEAMS {
        let pool = Pool::new(threads).unwrap();
        let mut values = vec![0usize; 1000];
        for round in 1..100 {
            let chunks: Vec<_> = values.chunks_mut(37).map(std::sync::Mutex::new).collect();
            pool.run(chunks.len(), &|c, _| {
                for v in chunks[c].lock().unwrap().iter_mut() {
                    *v += c + 1;
                }
            });
            drop(chunks);
            for (i, v) in values.iter().enumerate() {
                assert_eq!(*v, round * (i / 37 + 1));
            }
        }
    }
}

#[test]
fn several_threads_may_call_at_once() {
    for threads in TEAMS {
        let pool = Pool::new(threads).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..100 {
                        let chunks = (caller * 7 + round) % 23;
                        assert_eq!(counts(pool, chunks), vec![1; chunks]);
                    }
                });
            }
        });
    }
}

#[test]
fn a_region_within_a_region_is_run_where_it_begins() {
    let pool = Pool::new(3).unwrap();
    let total = AtomicUsize::new(0);
    pool.run(10, &|_, _| {
        let caller = std::thread::current().id();
        pool.run(5, &|_, thread| {
            assert_eq!((thread, std::thread::current().id()), (0, caller));
            total.fetch_add(1, Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 50);
}

/// The message of the panic that `run` ends with.
fn failure(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it should fail");
    panic.downcast_ref::<&str>().expect("a message").to_string()
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3).unwrap();
    for round in 0..50 {
        // One chunk, which any thread may get.
        let message = failure(|| {
            pool.run(64, &|c, _| {
                if c == round {
                    panic!("one chunk fails");
                }
            })
        });
        assert_eq!(message, "one chunk fails");
        assert_eq!(counts(&pool, 64), [1; 64]);
    }
}

/// A panic of a worker beside the caller's own is not kept for the next region.
#[test]
fn panics_everywhere_end_with_their_region() {
    for threads in TEAMS {
        let pool = Pool::new(threads).unwrap();
        for _ in 0..20 {
            let message = failure(|| pool.run(64, &|_, _| panic!("all chunks fail")));
            assert_eq!(message, "all chunks fail");
            assert_eq!(counts(&pool, 64), [1; 64]);
        }
    }
}

/// A chunk that panics must not pull the body away from under the others.
#[test]
fn a_region_is_left_only_when_no_thread_is_inside() {
    let pool = Pool::new(3).unwrap();
    for _ in 0..20 {
        let (inside, barrier) = (AtomicUsize::new(0), std::sync::Barrier::new(3));
        failure(|| {
            pool.run(3, &|_, thread| {
                inside.fetch_add(1, SeqCst);
                barrier.wait();
                if thread == 0 {
                    panic!("the caller fails first");
                }
                std::thread::sleep(Duration::from_millis(2));
                inside.fetch_sub(1, SeqCst);
            })
        });
        assert_eq!(inside.into_inner(), 1, "only the caller did not finish");
    }
}

#[test]
fn a_pool_ends_whether_its_workers_spin_or_sleep() {
    for pause in [0, 1, 200, 2000] {
        let pool = Pool::new(4).unwrap();
        assert_eq!(counts(&pool, 9), [1; 9]);
        std::thread::sleep(Duration::from_micros(pause));
        drop(pool);
    }
}

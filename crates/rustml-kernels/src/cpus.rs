//! The CPUs that threads run on: the system's choice, unless threads are pinned.

use std::io;
use std::thread::JoinHandle;

#[cfg(target_os = "linux")]
const SIZE: usize = size_of::<libc::cpu_set_t>();

/// A CPU for each of so many workers, of those that this thread may run on; the first is
/// left to whoever calls the workers.
#[cfg(target_os = "linux")]
pub(crate) fn of_their_own(workers: usize) -> io::Result<Vec<usize>> {
    // SAFETY: bits, of which none need be set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: of this thread, and as large as it says.
    if unsafe { libc::sched_getaffinity(0, SIZE, &mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: within the set.
    let cpus = (0..8 * SIZE).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) });
    let cpus: Vec<usize> = cpus.collect();
    if workers >= cpus.len() {
        let what = format!(
            "{} threads cannot each have a CPU of their own, since this process may use {}",
            workers + 1,
            cpus.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(cpus[1..=workers].to_vec())
}

/// Says that it cannot be done.
#[cfg(not(target_os = "linux"))]
pub(crate) fn of_their_own(_workers: usize) -> io::Result<Vec<usize>> {
    let what = "threads can be pinned to CPUs on Linux only";
    Err(io::Error::new(io::ErrorKind::Unsupported, what))
}

/// Keeps a worker on a CPU.
#[cfg(target_os = "linux")]
pub(crate) fn pin<T>(worker: &JoinHandle<T>, cpu: usize) -> io::Result<()> {
    use std::os::unix::thread::JoinHandleExt;

    // SAFETY: bits, of which none need be set.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: within the set, where it was found.
    unsafe { libc::CPU_SET(cpu, &mut one) };
    // SAFETY: a thread that is not joined yet, and a set as large as it says.
    match unsafe { libc::pthread_setaffinity_np(worker.as_pthread_t(), SIZE, &one) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// There is no CPU to call this with.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin<T>(_worker: &JoinHandle<T>, _cpu: usize) -> io::Result<()> {
    Ok(())
}

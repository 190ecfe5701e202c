//! How much memory the process has taken, as the system counts it.

use std::fs;

/// Forgets the peak so far, where the system can (Linux): it becomes what is
/// resident now.
pub fn reset_peak() {
    // `man 5 proc_pid_clear_refs`. Where it cannot be done, peaks are those
    // since the start, which is never too little.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most bytes that were resident since the start, or since the peak was
/// reset; `None` where the system does not tell in this way.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn memory_that_is_written_counts() {
        let before = super::peak().unwrap();
        assert!(before > 1 << 16);
        let taken = std::hint::black_box(vec![1u8; 256 << 20]);
        let peak = super::peak().unwrap();
        assert!(peak > 256 << 20, "{peak}");
        drop(taken);
        super::reset_peak();
        assert!(super::peak().unwrap() <= peak);
    }
}

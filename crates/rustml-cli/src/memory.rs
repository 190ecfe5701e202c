//! How much memory the process has taken and may take, as the system counts it.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that can be had without swapping, and within the limits of the control
/// groups that the process is in; `None` where the system does not tell in this
/// way.
pub fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let free = kibibytes << 10;
    Some(left_in_groups(&groups, Path::new("/sys/fs/cgroup")).map_or(free, |left| left.min(free)))
}

/// The least that any of the groups has left. `groups` is what
/// `/proc/self/cgroup` says: `0::/path` for version 2, and for version 1
/// `N:memory:/path`.
fn left_in_groups(groups: &str, root: &Path) -> Option<u64> {
    let left = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (root, limit, usage) = match parts.next()? {
            "" => (root.to_owned(), "memory.max", "memory.current"),
            "memory" => (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
            _ => return None,
        };
        let path = parts.next()?.trim_start_matches('/');
        // In a container the path is the host's, and the root its own group.
        let number =
            |path: PathBuf| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
        root.join(path)
            .ancestors()
            .take_while(|dir| dir.starts_with(&root))
            .filter_map(|dir| {
                let (limit, usage) = (number(dir.join(limit))?, number(dir.join(usage))?);
                Some(limit.saturating_sub(usage))
            })
            .min()
    };
    groups.lines().filter_map(left).min()
}

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
    use super::*;

    #[test]
    fn control_groups_limit_what_is_available() {
        let dir = tempfile::tempdir().unwrap();
        let write = |at: &str, limit: &str, usage: &str, (l, u): (&str, &str)| {
            let at = dir.path().join(at);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join(limit), l).unwrap();
            fs::write(at.join(usage), u).unwrap();
        };
        let left = |groups: &str| left_in_groups(groups, dir.path());
        assert_eq!(left("0::/a/b\n"), None);
        write("a", "memory.max", "memory.current", ("1000\n", "300\n"));
        write("a/b", "memory.max", "memory.current", ("max\n", "200\n"));
        assert_eq!(left("0::/a/b\n"), Some(700), "the parent's limit counts");
        let one = ("memory.limit_in_bytes", "memory.usage_in_bytes");
        write("memory", one.0, one.1, ("500", "400"));
        assert_eq!(left("4:cpu:/x\n3:memory:/x\n"), Some(100));
        assert!(available().unwrap() > 0);
    }

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

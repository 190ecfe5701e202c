//! How much memory there is for a model, as the system counts it.

use crate::error::Error;
use rustml_io::{DType, Store, TensorInfo};
use rustml_model::Quantize;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that can be had without swapping, within the limits of the control
/// groups that the process is in, and of its address space (`ulimit -v`); `None`
/// where the system does not tell in this way.
pub fn available() -> Option<u64> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let free = kibibytes(&read("/proc/meminfo"), "MemAvailable:")?;
    let groups = left_in_groups(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    let addresses = left_of_addresses(&read("/proc/self/limits"), &read("/proc/self/status"));
    [groups, addresses]
        .into_iter()
        .flatten()
        .chain([free])
        .min()
}

/// Bytes, of the line that begins so and goes on in kB.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    number.checked_mul(1 << 10)
}

/// What the limit of the address space leaves, if there is one.
fn left_of_addresses(limits: &str, status: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let line = lines.find_map(|l| l.strip_prefix("Max address space"))?;
    // The soft limit comes first.
    let limit: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kibibytes(status, "VmSize:")?))
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
                let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                Some(limit.saturating_sub(usage.saturating_sub(file_cache(&stat))))
            })
            .min()
    };
    groups.lines().filter_map(left).min()
}

/// Bytes of files that are only cached, which the group gives up when it needs memory.
/// Version 1 says first what is the group's own, and then what is its and below it.
fn file_cache(stat: &str) -> u64 {
    let field = |name: &str| -> Option<u64> {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        stat.lines().find_map(value)
    };
    let both = |inactive, active| Some(field(inactive)? + field(active)?);
    both("total_inactive_file", "total_active_file")
        .or(both("inactive_file", "active_file"))
        .unwrap_or(0)
}

/// Bytes that the packed weights of a file take at least, with its layers in `quantize`.
fn weight_bytes(store: &Store, quantize: Quantize) -> u64 {
    let smallest = |info: &TensorInfo| {
        let values: u64 = info.shape.iter().map(|&n| n as u64).product();
        let of = |dtype: DType| values / dtype.block_len() as u64 * dtype.block_bytes() as u64;
        let here = info.bytes as u64;
        if !info.dtype.is_some_and(DType::is_float) || info.shape.len() < 2 {
            return here;
        }
        match quantize {
            Quantize::None => here,
            Quantize::To(dtype) => here.min(of(dtype)),
            Quantize::Auto => here.min(of(DType::Q8_0)),
        }
    };
    store.tensors().iter().map(smallest).sum()
}

/// Refuses a model whose weights, its layers in `quantize`, there is no memory for: the
/// system would end the process without a word somewhere on the way.
///
/// # Errors
/// If the machine, or the control group, has less than they take.
pub fn check_memory(store: &Store, quantize: Quantize) -> Result<(), Error> {
    check(weight_bytes(store, quantize), available(), store.path())
}

fn check(needed: u64, available: Option<u64>, path: &Path) -> Result<(), Error> {
    match available {
        Some(available) if needed > available => Err(Error::Memory {
            path: path.to_owned(),
            needed: needed.div_ceil(1 << 20),
            available: available >> 20,
        }),
        _ => Ok(()),
    }
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
        let stat = "anon 5\ninactive_file 30\nactive_file 20\n";
        fs::write(dir.path().join("a/memory.stat"), stat).unwrap();
        assert_eq!(left("0::/a/b\n"), Some(750), "cached files give way");
        let stat = "inactive_file 1\nactive_file 1\ntotal_inactive_file 90\ntotal_active_file 0\n";
        fs::write(dir.path().join("memory/memory.stat"), stat).unwrap();
        assert_eq!(left("3:memory:/x\n"), Some(190));
        assert!(available().unwrap() > 0);
    }

    #[test]
    fn a_limit_of_addresses_counts() {
        let status = "Name:\tx\nVmSize:\t    3 kB\n";
        let limits = |soft: &str| format!("Limit\nMax address space         {soft}   9999 bytes\n");
        let left = |soft| left_of_addresses(&limits(soft), status);
        assert_eq!(left("5000"), Some(5000 - 3072));
        assert_eq!(left("1000"), Some(0));
        assert_eq!(left("unlimited"), None);
        assert_eq!(left_of_addresses("", status), None);
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_numbers() {
        let path = Path::new("model.gguf");
        assert!(check(5 << 30, Some(5 << 30), path).is_ok());
        assert!(check(u64::MAX, None, path).is_ok(), "nothing is known");
        let says = check((5 << 30) + 1, Some(1 << 30), path)
            .unwrap_err()
            .to_string();
        assert_eq!(
            says,
            "model.gguf: its weights take 5121 MiB of memory, but only 1024 MiB can be had; end \
             other programs, raise the memory limit, take a smaller format, or give --force"
        );
    }
}

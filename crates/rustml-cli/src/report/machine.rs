//! What the system tells about the machine. Where it does not, nothing is
//! claimed.

use rustml_simd::Isa;
use rustml_trace::round::Machine;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The machine, for `threads` threads on `isa`.
pub fn machine(isa: Isa, threads: usize) -> Machine {
    let status = read("/proc/self/status").unwrap_or_default();
    let allowed = field(&status, "Cpus_allowed_list:").map(list);
    let allowed = allowed.unwrap_or_default();
    let online = read("/sys/devices/system/cpu/online").map(|text| list(&text).len());
    let available = rustml_nlp::available_threads();
    Machine {
        cpu: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        arch: std::env::consts::ARCH.to_owned(),
        features: Isa::available().iter().map(|i| i.name().into()).collect(),
        isa: isa.name().to_owned(),
        best_isa: Isa::best().name().to_owned(),
        cpus: online.unwrap_or(available),
        allowed_cpus: if allowed.is_empty() {
            available
        } else {
            allowed.len()
        },
        allowed_cores: cores(&allowed),
        quota: quota(),
        threads,
        huge_pages: huge_pages(),
        memory: memory().unwrap_or(0),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The rest of the line that begins so.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    Some(line.trim())
}

/// `0-2,5` as 0, 1, 2, 5.
fn list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
    });
    // No machine has more CPUs than this.
    ranges
        .flat_map(|(from, to): (usize, usize)| from..=to.min(1 << 16))
        .collect()
}

fn cpu_name() -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let names = ["model name", "Model", "CPU part"];
    let value = names.iter().find_map(|name| field(&text, name))?;
    Some(value.trim_start_matches([':', ' ', '\t']).to_owned())
}

/// Physical cores of these CPUs: siblings have the same list of siblings.
fn cores(cpus: &[usize]) -> Option<usize> {
    let siblings = cpus.iter().map(|cpu| {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        read(format!("{topology}/thread_siblings_list"))
    });
    let sets = siblings.collect::<Option<BTreeSet<String>>>()?;
    (!sets.is_empty()).then_some(sets.len())
}

/// The process's folders in the hierarchy of control groups, from its own up.
fn cgroups() -> Vec<PathBuf> {
    let text = read("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|l| l.strip_prefix("0::/"));
    let own = Path::new("/sys/fs/cgroup").join(own.unwrap_or_default());
    let all = own.ancestors().map(Path::to_owned);
    all.take_while(|p| p.starts_with("/sys/fs/cgroup"))
        .collect()
}

/// CPUs that the tightest of the groups grants.
fn quota() -> Option<f64> {
    let quota = |folder: PathBuf| -> Option<f64> {
        let text = read(folder.join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    };
    let all = cgroups().into_iter().filter_map(quota);
    all.min_by(f64::total_cmp)
}

/// How often the quota has stopped the process so far.
pub fn throttled() -> Option<u64> {
    let count = |folder: PathBuf| -> Option<u64> {
        let text = read(folder.join("cpu.stat"))?;
        field(&text, "nr_throttled ")?.parse().ok()
    };
    let all = cgroups().into_iter().filter_map(count);
    all.reduce(|a, b| a + b)
}

/// `always [madvise] never` as `madvise`.
fn huge_pages() -> Option<String> {
    let text = read("/sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    Some(text.strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

fn memory() -> Option<u64> {
    kibibytes(field(&read("/proc/meminfo")?, "MemTotal:")?)
}

/// Bytes of the process's memory that lie in huge pages now.
pub fn huge_bytes() -> Option<u64> {
    kibibytes(field(&read("/proc/self/smaps_rollup")?, "AnonHugePages:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list(" 7 "), [7]);
        assert!(list("").is_empty() && list("x-y").is_empty());
    }

    #[test]
    fn this_machine_makes_sense() {
        let m = machine(Isa::best(), 1);
        assert!(m.cpus >= 1 && m.allowed_cpus >= 1 && !m.cpu.is_empty());
        assert!(m.allowed_cores.is_none_or(|cores| cores <= m.allowed_cpus));
        assert!(m.quota.is_none_or(|quota| quota > 0.0));
        assert_eq!(m.isa, m.best_isa);
    }
}

//! What the system tells about the machine. Where it does not, nothing is
//! claimed.

use rustml_simd::{cpu_features, Isa};
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
        features: cpu_features().into_iter().map(Into::into).collect(),
        isa: isa.name().to_owned(),
        best_isa: Isa::best().name().to_owned(),
        cpus: online.unwrap_or(available),
        allowed_cpus: if allowed.is_empty() {
            available
        } else {
            allowed.len()
        },
        allowed_cores: cores(&allowed),
        quota: quota(&own_cgroups()),
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

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The process's folders in the hierarchies of control groups that limit CPUs,
/// from its own up: that of version 2, and that of version 1's controller.
/// `own` is what `/proc/self/cgroup` says.
fn cgroups(root: &Path, own: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for line in own.lines() {
        // Number, controllers of version 1, path.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let top = match controllers {
            "" => root.to_owned(),
            v1 if v1.split(',').any(|c| c == "cpu") => root.join(v1),
            _ => continue,
        };
        let folder = top.join(path.trim_start_matches('/'));
        let up = folder.ancestors().take_while(|p| p.starts_with(&top));
        all.extend(up.map(Path::to_owned));
    }
    all
}

fn own_cgroups() -> Vec<PathBuf> {
    let own = read("/proc/self/cgroup").unwrap_or_default();
    cgroups(Path::new(CGROUPS), &own)
}

/// CPUs that the tightest of the groups grants.
fn quota(groups: &[PathBuf]) -> Option<f64> {
    let number = |text: String| text.trim().parse::<f64>().ok();
    let v2 = |folder: &PathBuf| {
        let text = read(folder.join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some((number(quota.into())?, number(period.into())?))
    };
    let v1 = |folder: &PathBuf| {
        let quota = number(read(folder.join("cpu.cfs_quota_us"))?)?;
        Some((quota, number(read(folder.join("cpu.cfs_period_us"))?)?))
    };
    let all = groups.iter().filter_map(|folder| v2(folder).or(v1(folder)));
    // Version 1 says -1 where there is no limit, version 2 "max".
    let limits = all.filter(|&(quota, period)| quota > 0.0 && period > 0.0);
    limits.map(|(a, b)| a / b).min_by(f64::total_cmp)
}

/// How often the quota has stopped the process so far.
pub fn throttled() -> Option<u64> {
    throttles(&own_cgroups())
}

fn throttles(groups: &[PathBuf]) -> Option<u64> {
    let count = |folder: &PathBuf| -> Option<u64> {
        let text = read(folder.join("cpu.stat"))?;
        field(&text, "nr_throttled ")?.parse().ok()
    };
    groups.iter().filter_map(count).reduce(|a, b| a + b)
}

/// Megahertz of the CPUs that the process may use, on average, and what they can have at most.
pub fn megahertz() -> Option<[f64; 2]> {
    let status = read("/proc/self/status")?;
    let cpus = list(field(&status, "Cpus_allowed_list:")?);
    frequencies(Path::new("/sys/devices/system/cpu"), &cpus)
}

fn frequencies(root: &Path, cpus: &[usize]) -> Option<[f64; 2]> {
    let kilohertz = |cpu: &usize, file: &str| -> Option<f64> {
        let text = read(root.join(format!("cpu{cpu}/cpufreq/{file}")))?;
        text.trim().parse().ok()
    };
    let mean = |file: &str| {
        let all: Option<Vec<f64>> = cpus.iter().map(|cpu| kilohertz(cpu, file)).collect();
        let all = all.filter(|all| !all.is_empty())?;
        Some(all.iter().sum::<f64>() / all.len() as f64 / 1e3)
    };
    let both = [mean("scaling_cur_freq")?, mean("cpuinfo_max_freq")?];
    both.iter().all(|&mhz| mhz > 0.0).then_some(both)
}

/// `always [madvise] never` as `madvise`; and whether we ask for them.
fn huge_pages() -> Option<String> {
    let text = read("/sys/kernel/mm/transparent_hugepage/enabled")?;
    let (_, rest) = text.split_once('[')?;
    let mode = rest.split_once(']')?.0;
    Some(match std::env::var("RUSTML_HUGE_PAGES") {
        Ok(off) if off == "0" => format!("{mode}, not asked for (RUSTML_HUGE_PAGES=0)"),
        _ => mode.to_owned(),
    })
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
    fn the_tightest_quota_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let of = |own: &str| {
            let groups = cgroups(dir.path(), own);
            (quota(&groups), throttles(&groups))
        };
        // Version 2: the folder itself is not limited, the one above it is.
        put("a/cpu.max", "150000 100000\n");
        put("a/b/cpu.max", "max 100000\n");
        put(
            "a/b/cpu.stat",
            "usage_usec 9\nnr_periods 5\nnr_throttled 3\n",
        );
        assert_eq!(of("0::/a/b\n"), (Some(1.5), Some(3)));
        assert_eq!(of("0::/\n"), (None, None));
        // Version 1: of the controller that limits CPUs.
        let v1 = "cpu,cpuacct/c";
        put(&format!("{v1}/d/cpu.cfs_quota_us"), "50000\n");
        put(&format!("{v1}/d/cpu.cfs_period_us"), "100000\n");
        put(
            &format!("{v1}/d/cpu.stat"),
            "nr_periods 7\nnr_throttled 2\n",
        );
        put(&format!("{v1}/cpu.cfs_quota_us"), "-1\n");
        put(&format!("{v1}/cpu.cfs_period_us"), "100000\n");
        put("cpuset/c/d/cpu.cfs_quota_us", "1\n");
        let own = "12:cpuset:/c/d\n4:cpu,cpuacct:/c/d\n0::/none\n";
        assert_eq!(of(own), (Some(0.5), Some(2)));
        assert_eq!(of("4:cpu,cpuacct:/c\n"), (None, None));
        // Both: whichever is tighter.
        assert_eq!(of("4:cpu,cpuacct:/c/d\n0::/a\n").0, Some(0.5));
        assert_eq!(of("nonsense\n"), (None, None));
    }

    #[test]
    fn frequencies_are_read_where_all_tell() {
        let dir = tempfile::tempdir().unwrap();
        let put = |cpu: usize, now: &str, most: &str| {
            let at = dir.path().join(format!("cpu{cpu}/cpufreq"));
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("scaling_cur_freq"), now).unwrap();
            fs::write(at.join("cpuinfo_max_freq"), most).unwrap();
        };
        put(0, "1200000\n", "3600000\n");
        put(2, "2000000\n", "4000000\n");
        put(3, "0\n", "0\n");
        let of = |cpus: &[usize]| frequencies(dir.path(), cpus);
        assert_eq!(of(&[0, 2]), Some([1600.0, 3800.0]));
        assert_eq!(of(&[0, 1]), None);
        assert_eq!(of(&[3]), None);
        assert_eq!(of(&[]), None);
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

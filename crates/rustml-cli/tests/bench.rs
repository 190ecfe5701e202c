//! `rustml bench`: which tests run, and what is printed of them.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{tiny, Done, Line};
use serde_json::Value;

fn line(model: &str, args: &str) -> Line {
    let args: Vec<_> = args.split_whitespace().collect();
    let line = ["bench", &tiny(model)];
    Line::new(env!("CARGO_BIN_EXE_rustml"), &[&line, &args[..]].concat())
}

fn bench(model: &str, args: &str) -> Done {
    line(model, args).run()
}

fn rows(model: &str, args: &str) -> Vec<Value> {
    let out = bench(model, &format!("{args} --output json")).ok();
    serde_json::from_str(&out).unwrap()
}

#[test]
fn every_combination_is_measured() {
    let all = rows(
        "llama/model.gguf",
        "--prompt-tokens 8,0 --max-tokens 4 --depth 0,70 --batch 1,3 --threads 1,2 --repeat 3",
    );
    let key = |r: &Value| {
        let n = |key: &str| r[key].as_u64().unwrap();
        let test = r["test"].as_str().unwrap().to_owned();
        (n("threads"), n("depth"), n("batch"), test)
    };
    let mut wanted = Vec::new();
    for threads in [1, 2] {
        for depth in [0, 70] {
            for batch in [1, 3] {
                wanted.extend(["pp8", "tg4"].map(|t| (threads, depth, batch, t.to_owned())));
            }
        }
    }
    assert_eq!(all.iter().map(key).collect::<Vec<_>>(), wanted);
}

#[test]
fn caches_are_of_the_type_asked_for() {
    let bytes = ["f32", "f16", "q8_0"].map(|kv_type| {
        let args = format!("--prompt-tokens 0 --max-tokens 3 --repeat 1 --kv-type {kv_type}");
        let row = rows("llama/model.gguf", &args).remove(0);
        assert_eq!(row["kv_type"], kv_type);
        row["cache_bytes"].as_u64().unwrap()
    });
    assert!(bytes[0] == 2 * bytes[1] && bytes[1] > bytes[2], "{bytes:?}");
    let other = bench("llama/model.gguf", "--kv-type q9");
    assert!(other.err.contains("none of f16, q8_0, f32"), "{other:?}");
}

#[test]
fn objects_say_what_was_measured() {
    for row in rows(
        "gemma3",
        "--prompt-tokens 9 --max-tokens 3 --repeat 2 --depth 20",
    ) {
        let number = |key: &str| {
            let n = row[key].as_f64();
            n.unwrap_or_else(|| panic!("{key} in {row}"))
        };
        assert_eq!(row["model"], tiny("gemma3"));
        assert_eq!(row["architecture"], "gemma3");
        assert_eq!(row["depth"], 20);
        assert!(row["type"].as_str().unwrap().contains("Q8_0"), "{row}");
        let samples = row["samples"].as_array().unwrap();
        let samples: Vec<_> = samples.iter().map(|s| s.as_f64().unwrap()).collect();
        assert_eq!(samples.len(), 2);
        let mean = (samples[0] + samples[1]) / 2.0;
        assert!((number("tokens_per_second") / mean - 1.0).abs() < 1e-9);
        assert!((number("median") / mean - 1.0).abs() < 1e-9);
        let deviation = (samples[0] - samples[1]).abs() / 2f64.sqrt();
        assert!((number("stddev") - deviation).abs() <= 1e-6 * mean);
        for key in [
            "bytes_per_step",
            "gb_per_second",
            "roof_gb_per_second",
            "percent_of_roof",
            "gop_per_second",
            "roof_gop_per_second",
            "percent_of_op_roof",
            "weight_bytes",
            "cache_bytes",
            "load_seconds",
        ] {
            assert!(number(key) > 0.0, "{key} in {row}");
        }
        let share = 100.0 * number("gb_per_second") / number("roof_gb_per_second");
        assert!((number("percent_of_roof") / share - 1.0).abs() < 1e-9);
        #[cfg(target_os = "linux")]
        assert!(number("peak_rss_bytes") > number("weight_bytes"));
    }
}

/// Counted by hand, for one token of the tiny GPT-2 in single precision: all
/// weights but those of embeddings that are not looked up, and the cache.
#[test]
fn bytes_are_weights_and_cache() {
    let args = "--prompt-tokens 0 --max-tokens 1 --repeat 1 --quantize none --depth 5";
    let line = line("gpt2", &format!("{args} --output json")).env("RUSTML_ISA", "scalar");
    let rows: Value = serde_json::from_str(&line.run().ok()).unwrap();
    let config = std::fs::read(tiny("gpt2/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let n = |key: &str| config[key].as_u64().unwrap();
    let (hidden, layers, vocab) = (n("n_embd"), n("n_layer"), n("vocab_size"));
    let inner = config["n_inner"].as_u64().unwrap_or(4 * hidden);
    let linears = hidden * (4 * hidden + 4) + inner * (2 * hidden + 1) + hidden;
    // The head's rows are the tokens', packed in fours.
    let head = vocab.next_multiple_of(4) * hidden;
    // Token and position are looked up; two norms in each layer and one at the end.
    let values = 2 * hidden + layers * (linears + 4 * hidden) + 2 * hidden + head;
    // Keys and values in half precision: 1 is stored and 6 are read.
    let cache = layers * 2 * 2 * hidden * (1 + 6);
    let bytes = (4 * values + cache) as f64;
    assert_eq!(rows[0]["bytes_per_step"].as_f64().unwrap(), bytes);
}

#[test]
fn tables_have_a_line_for_each_test() {
    let args = "--prompt-tokens 4,5 --max-tokens 0 --repeat 1";
    let csv = bench("gpt2", &format!("{args} --output csv")).ok();
    let lines: Vec<Vec<_>> = csv.lines().map(|l| l.split(',').collect()).collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(lines.iter().all(|l| l.len() == lines[0].len()));
    let test = lines[0].iter().position(|c| *c == "test").unwrap();
    assert_eq!((lines[1][test], lines[2][test]), ("pp4", "pp5"));

    let md = bench("gpt2", &format!("{args} --output md")).ok();
    let columns = |line: &str| line.matches('|').count();
    assert!(md
        .lines()
        .all(|l| columns(l) == columns(md.lines().next().unwrap())));
    assert_eq!(md.lines().count(), 4, "{md}");

    let table = bench("gpt2", args).ok();
    assert!(
        table.contains("gpt2") && table.contains("  pp4  "),
        "{table}"
    );
    assert!(!table.contains("tg"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused_at_once() {
    let model = "llama/model.gguf";
    let e = bench(model, "--depth 0,4096").failed(1);
    assert!(
        e.contains("at a depth of 4096") && e.contains("--depth"),
        "{e}"
    );
    let e = bench(model, "--prompt-tokens 0 --max-tokens 0").failed(2);
    assert!(e.contains("--max-tokens"), "{e}");
    bench(model, "--depth 18446744073709551615").failed(1);
    for args in [
        "--batch 0",
        "--threads 0",
        "--repeat 0",
        "--depth -1",
        "--depth 1,,2",
        "--output xml",
        "--quantize q9",
    ] {
        bench(model, args).failed(2);
    }
    bench("no-such.gguf", "").failed(1);
}

/// Beside a loop on the same CPU half of the time goes to that: the row of `bench` says so, and
/// the first sentence of `report`.
#[cfg(target_os = "linux")]
#[test]
fn time_that_others_have_is_said() {
    use std::process::{Child, Command};

    /// Ends with the test, however that ends.
    struct Busy(Child);
    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let cpus = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    let cpu = cpus.unwrap().trim().split([',', '-']).next().unwrap();
    let busy = Command::new("taskset")
        .args(["-c", cpu, "sh", "-c", "while :; do :; done"])
        .spawn()
        .expect("taskset, of util-linux");
    let _busy = Busy(busy);
    let beside = |command: &str, model: &str, args: &str| {
        let rustml = env!("CARGO_BIN_EXE_rustml");
        let mut line = vec!["-c", cpu, rustml, command, model];
        line.extend(args.split_whitespace());
        Line::new("taskset", &line).run().ok()
    };
    let args = "--prompt-tokens 0 --max-tokens 60 --repeat 150 --threads 1 --output json";
    let rows = beside("bench", &tiny("llama/model.gguf"), args);
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let lost = rows[0]["lost_percent"].as_f64().expect("Linux counts");
    // A fair share of the CPU is half of it, or less beside still others.
    assert!((20.0..=100.0).contains(&lost), "{lost}");
    let report = beside("report", &tiny("llama"), "--repeat 60 --threads 1");
    let first = report.lines().find(|l| l.starts_with("The machine gave "));
    let says = first.unwrap_or_else(|| panic!("{report}"));
    assert!(says.contains(" of the time to others while "), "{says}");
    assert!(report.contains("| time that the machine gave to others"));
}

//! `rustml report`: what it writes and where, comparing, and refusing.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{tiny, Line};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn rustml(args: &[&str]) -> Line {
    Line::new(env!("CARGO_BIN_EXE_rustml"), args)
}

const SHORT: [&str; 6] = [
    "--prompt-tokens",
    "20",
    "--max-tokens",
    "9",
    "--repeat",
    "2",
];

fn report(args: &[&str]) -> Line {
    let model = tiny("gpt2");
    rustml(&[&["report", &model], &SHORT[..], args].concat())
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Without the spaces that align columns.
fn squeezed(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

#[test]
fn a_report_says_where_the_time_goes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (data, page, kept) = (at("r.json"), at("r.html"), at("round.json"));
    let files = ["--json", &data, "--html", &page, "--save", &kept];
    let text = report(&files).run().ok();
    for title in [
        "1. Setup",
        "2. High-level timing",
        "3. Per step",
        "4. Per layer and per operation",
        "5. Roofline",
        "6. Bottlenecks, ranked",
    ] {
        assert!(text.contains(&format!("\n## {title}\n")), "{title}");
    }
    assert!(text.contains("| - scores, softmax, values |") && text.contains("| unaccounted "));
    assert!(fs::read_to_string(&page).unwrap().contains("</svg>"));
    let j = json(Path::new(&data));
    assert_eq!(
        (&j["schema"], &j["version"]),
        (&"rustml-report".into(), &1.into())
    );
    let runs = j["round"]["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(run["prefill"]["rows"], 20);
        // The first token comes of the prompt.
        assert_eq!(run["decode"]["total"].as_array().unwrap().len(), 8);
        assert!(run["first_token"].as_f64().unwrap() > 0.0);
    }
    // Rows of a table are its parts, but for rounding.
    let parts = j["tables"]["decode"]["parts"].as_array().unwrap();
    let sum: f64 = parts.iter().map(|p| p["ms"].as_f64().unwrap()).sum();
    let total = j["tables"]["decode"]["ms"].as_f64().unwrap();
    assert!((sum / total - 1.0).abs() < 1e-6, "{sum} {total}");
    // Bytes of a step by hand: 2 layers of width 64 with 256 between in Q8_0,
    // 34 bytes for 32 numbers, and biases in single precision.
    let ops = j["tables"]["decode"]["ops"].as_array().unwrap();
    let down = ops.iter().find(|o| o["op"] == "down").unwrap();
    let expected = 2.0 * (64.0 * 256.0 * 34.0 / 32.0 + 64.0 * 4.0);
    assert_eq!(down["bytes"].as_f64().unwrap(), expected);
    assert_eq!(json(Path::new(&kept))["round"], j["round"]);
}

/// Sums of each step over some columns.
fn sums(columns: &[&Value], steps: usize) -> Vec<u64> {
    let value = |column: &Value, step: usize| column[step].as_u64().unwrap();
    (0..steps)
        .map(|step| columns.iter().map(|c| value(c, step)).sum())
        .collect()
}

/// Operations add up to layers, layers and the rest to steps, and steps to the
/// wall time. What disturbs a step, or the time between two, can only make
/// sums too small, so the best step and the best repetition are looked at.
#[test]
fn operations_layers_steps_and_wall_time_add_up() {
    let dir = tempfile::tempdir().unwrap();
    // Large enough that 3 % of a step are more than a few clock readings.
    let config = dir.path().join("config.json").display().to_string();
    let shape = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 512, "vocab_size": 2000,
        "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 4, "max_position_embeddings": 256}"#;
    fs::write(&config, shape).unwrap();
    let data = dir.path().join("round.json").display().to_string();
    let args = ["report", "--shape", &config, "--save", &data];
    let length = [
        "--prompt-tokens",
        "65",
        "--max-tokens",
        "33",
        "--repeat",
        "5",
    ];
    rustml(&[&args[..], &length].concat()).run().ok();
    let round = json(Path::new(&data));
    let (mut in_steps, mut in_ops) = (0f64, [0f64; 2]);
    for run in round["round"]["runs"].as_array().unwrap() {
        let mut all = 0;
        for (i, name) in ["prefill", "decode"].into_iter().enumerate() {
            let phase = &run[name];
            let total = phase["total"].as_array().unwrap();
            let ops = phase["ops"].as_array().unwrap();
            let outside = ["embed", "rope_table", "final_norm", "head", "sample"];
            let in_layers = |o: &&Value| !outside.contains(&o["op"].as_str().unwrap());
            let of_layers: Vec<&Value> = ops.iter().filter(in_layers).map(|o| &o["time"]).collect();
            let layers = phase["layers"].as_array().unwrap();
            let layers = layers
                .iter()
                .flat_map(|l| [&l["attention"], &l["feed_forward"]]);
            let layers: Vec<&Value> = layers.collect();
            assert_eq!(layers.len(), 2 * 4);
            assert_eq!(sums(&layers, total.len()), sums(&of_layers, total.len()));
            let of_ops: Vec<&Value> = ops.iter().map(|o| &o["time"]).collect();
            for (total, known) in total.iter().zip(sums(&of_ops, total.len())) {
                let total = total.as_u64().unwrap();
                assert!(known <= total, "{known} ns of {total}");
                in_ops[i] = in_ops[i].max(known as f64 / total as f64);
                all += total;
            }
        }
        let wall = run["wall"].as_f64().unwrap() * 1e9;
        assert!(all as f64 <= wall, "{all} ns in steps of {wall}");
        in_steps = in_steps.max(all as f64 / wall);
    }
    assert!(in_ops.iter().all(|&share| share > 0.97), "{in_ops:?}");
    assert!(in_steps > 0.97, "{in_steps}");
}

#[test]
fn formats_found_by_measuring_are_listed_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (cache, data, text) = (at("cache"), at("r.json"), at("r.md"));
    let kept = dir.path().join("cache/rustml/formats.json");
    let run = || {
        let args = ["--quantize", "auto", "--json", &data, "--output", &text];
        let done = report(&args).env("XDG_CACHE_HOME", &cache).run();
        assert_eq!(done.status, Some(0), "{}", done.err);
        let choices = json(Path::new(&data))["round"]["model"]["choices"].take();
        (choices.as_array().unwrap().clone(), done.err)
    };
    let (first, err) = run();
    assert!(!err.contains("formats"), "{err}");
    // The projections of two layers, and the head.
    let layers = first.iter().map(|c| c["layers"].as_u64().unwrap());
    assert_eq!(layers.sum::<u64>(), 2 * 6 + 1);
    for c in &first {
        let mut all = vec![(c["stored"].clone(), c["stored_us"].clone())];
        all.extend(
            c["tried_us"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| (t[0].clone(), t[1].clone())),
        );
        let (_, us) = all.iter().find(|t| t.0 == c["chosen"]).unwrap();
        assert!(
            us.as_f64().unwrap() <= c["stored_us"].as_f64().unwrap(),
            "{c}"
        );
    }
    let table = squeezed(&fs::read_to_string(&text).unwrap());
    assert!(table.contains(&format!(
        "| {} x {} |",
        first[0]["outputs"], first[0]["inputs"]
    )));
    assert_eq!(run().0, first, "nothing is measured twice");
    fs::write(&kept, "{").unwrap();
    let (again, err) = run();
    assert!(
        err.contains("formats.json") && err.contains("measured anew"),
        "{err}"
    );
    assert_eq!(again.len(), first.len());
    let (last, err) = run();
    assert!(last == again && !err.contains("formats"), "{err}");
}

#[test]
fn rounds_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (a, b, slow) = (at("a.json"), at("b.json"), at("slow.json"));
    report(&["--save", &a, "--output", &at("a.md")]).run().ok();
    // Measured again, as it was.
    let again = [
        "report",
        "--compare",
        &a,
        "--save",
        &b,
        "--quantize",
        "none",
    ];
    let text = rustml(&again).run().ok();
    assert!(text.contains("\n## 7. Round against round\n"), "{text}");
    let (a_json, b_json) = (json(Path::new(&a)), json(Path::new(&b)));
    for key in ["prompt_tokens", "max_tokens", "repeat", "source"] {
        assert_eq!(a_json["round"]["setup"][key], b_json["round"]["setup"][key]);
    }
    assert_eq!(a_json["round"]["setup"]["quantize"], "q8_0");
    assert_eq!(b_json["round"]["setup"]["quantize"], "none");
    // Equal rounds differ in nothing; one of which all steps take twice as
    // long does, without doubt.
    let same = rustml(&["report", "--compare", &a, &a, "--fail-over", "0%"]).run();
    let same = same.ok();
    assert!(same.starts_with("# Round against round\n") && !same.contains("slower"));
    let mut round = a_json.clone();
    let mut even = a_json;
    let steady = |round: &mut Value, ns: u64| {
        for run in round["round"]["runs"].as_array_mut().unwrap() {
            let steps = run["decode"]["total"].as_array_mut().unwrap();
            steps
                .iter_mut()
                .enumerate()
                .for_each(|(i, s)| *s = (ns + i as u64).into());
        }
    };
    steady(&mut even, 1_000_000);
    steady(&mut round, 2_000_000);
    fs::write(&a, even.to_string()).unwrap();
    fs::write(&slow, round.to_string()).unwrap();
    let done = rustml(&["report", "--compare", &a, &slow, "--fail-over", "5%"]).run();
    assert_eq!(done.status, Some(3), "{}", done.err);
    assert!(done.err.contains("decode, total: +100.0 %"), "{}", done.err);
    let table = squeezed(&done.out);
    assert!(table.contains("| decode, total | 1.000 | 2.000 | +100.0 % |"));
    rustml(&["report", "--compare", &slow, &a, "--fail-over", "5%"])
        .run()
        .ok();
    rustml(&["report", "--compare", &a, &slow]).run().ok();
}

#[test]
fn what_is_not_alike_is_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (kept, old, other) = (at("kept.json"), at("old.json"), at("other.json"));
    report(&["--save", &kept, "--output", "/dev/null"])
        .run()
        .ok();
    let compare = |args: &[&str]| rustml(&[&["report", "--compare"], args].concat()).run();
    let mut elsewhere = json(Path::new(&kept));
    elsewhere["round"]["machine"]["cpu"] = "Another".into();
    fs::write(&other, elsewhere.to_string()).unwrap();
    let err = compare(&[&kept, &other]).failed(1);
    assert!(
        err.contains("and Another") && err.contains("--force"),
        "{err}"
    );
    let forced = compare(&[&kept, &other, "--force"]).ok();
    assert!(forced.contains("The rounds are not alike: CPU"), "{forced}");
    // Said before anything runs: another model.
    let model = tiny("llama");
    let err = rustml(&["report", &model, "--compare", &kept])
        .run()
        .failed(1);
    assert!(err.contains("model: gpt2 and llama"), "{err}");
    elsewhere["version"] = 99.into();
    fs::write(&old, elsewhere.to_string()).unwrap();
    let err = compare(&[&old]).failed(1);
    assert!(
        err.contains("old.json") && err.contains("version 99"),
        "{err}"
    );
    fs::write(&old, "no JSON").unwrap();
    assert!(compare(&[&old, &kept]).failed(1).contains("no round"));
    assert!(compare(&["no-such.json"])
        .failed(1)
        .contains("no-such.json"));
    rustml(&["report", "--compare", &kept, "--fail-over", "x"])
        .run()
        .failed(2);
}

/// A file that not even root can write.
fn unwritable() -> Option<String> {
    let path = Path::new("/proc/self");
    path.is_dir()
        .then(|| path.join("report.md").display().to_string())
}

#[test]
fn failures_leave_the_older_report() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let output = at("report.md");
    fs::write(&output, "older").unwrap();
    let broken = at("broken.gguf");
    fs::write(&broken, b"GGUF\x03\0\0\0").unwrap();
    rustml(&["report", &broken, "--output", &output])
        .run()
        .failed(1);
    // More than the context of 96 positions.
    let long = ["--prompt-tokens", "90", "--max-tokens", "7"];
    let err = rustml(&[&["report", &tiny("gpt2"), "--output", &output], &long[..]].concat());
    let err = err.run().failed(1);
    assert!(err.contains("more than the model's context of 96"), "{err}");
    // Said before the work: there is no such model.
    if let Some(locked) = unwritable() {
        let args = ["report", "no-such-model", "--save", &locked];
        let err = rustml(&args).run().failed(1);
        assert!(err.contains(&format!("cannot write {locked}")), "{err}");
    }
    let nowhere = at("no/such.html");
    let args = ["report", "no-such-model", "--html", &nowhere];
    assert!(rustml(&args)
        .run()
        .failed(1)
        .contains("there is no directory"));
    if cfg!(target_os = "linux") {
        let err = report(&["--output", "/dev/full"]).run().failed(1);
        assert!(
            err.contains("cannot write /dev/full: No space left"),
            "{err}"
        );
    }
    assert_eq!(fs::read(&output).unwrap(), b"older");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing is left over"
    );
}

#[test]
fn a_prompt_may_be_one_token_and_the_answer_too() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("r.json").display().to_string();
    let args = ["report", &tiny("gpt2"), "--json", &data, "--repeat", "2"];
    let rows = |prompt: &str, tokens: &str| {
        let length = ["--prompt-tokens", prompt, "--max-tokens", tokens];
        let text = rustml(&[&args[..], &length].concat()).run().ok();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        let run = json(Path::new(&data))["round"]["runs"][0].take();
        let steps = run["decode"]["total"].as_array().unwrap().len();
        (run["prefill"]["rows"].as_u64().unwrap(), steps)
    };
    assert_eq!(rows("1", "4"), (1, 3));
    assert_eq!(rows("5", "1"), (5, 0));
}

#[test]
fn the_cache_may_be_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (half, byte) = (at("f16.json"), at("q8_0.json"));
    let put = |args: &[&str]| {
        report(&[args, &["--output", "/dev/null"]].concat())
            .run()
            .ok()
    };
    put(&["--save", &half]);
    put(&["--save", &byte, "--kv-type", "q8_0"]);
    let text = squeezed(&rustml(&["report", "--compare", &half, &byte]).run().ok());
    assert!(text.contains("| keys and values | F16 | Q8_0 |"), "{text}");
    // Measured again, as it was.
    let again = rustml(&["report", "--compare", &byte]).run().ok();
    assert!(
        squeezed(&again).contains("| keys and values | Q8_0 |"),
        "{again}"
    );
}

#[test]
fn a_shape_needs_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let shape = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 300,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128}"#;
    fs::write(&config, shape).unwrap();
    let data = dir.path().join("r.json").display().to_string();
    let config = config.display().to_string();
    let args = [
        "report",
        "--shape",
        &config,
        "--json",
        &data,
        "--quantize",
        "q4_0",
    ];
    let text = rustml(&[&args[..], &SHORT].concat()).run().ok();
    assert!(text.contains("The weights are synthetic"), "{text}");
    let j = json(Path::new(&data));
    assert_eq!(j["round"]["setup"]["synthetic"], true);
    assert_eq!(j["round"]["model"]["types"][0]["dtype"], "Q4_0");
    let err = rustml(&["report", "--shape", "no-such"]).run().failed(2);
    assert!(err.contains("llama-3.2-1b"), "{err}");
    rustml(&["report", "model.gguf", "--shape", "gpt2"])
        .run()
        .failed(2);
}

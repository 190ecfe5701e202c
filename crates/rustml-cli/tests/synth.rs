//! `rustml synth`: the file it writes, and what it refuses.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{tiny, Done, Line};
use serde_json::Value;

fn rustml(args: &[&str]) -> Done {
    Line::new(env!("CARGO_BIN_EXE_rustml"), args).run()
}

#[test]
fn a_shape_becomes_a_file_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf").display().to_string();
    let (config, like) = (tiny("gemma3/config.json"), tiny("llama/model.gguf"));
    let synth = |rest: &[&str]| {
        let args = ["synth", "--shape", &config, "--output", &path];
        rustml(&[&args, rest].concat())
    };
    let done = synth(&["--type", "Q4_0", "--like", &like]);
    assert!(done.err.contains("random weights"), "{}", done.err);
    assert_eq!(done.ok(), "", "results are the file alone");
    let about: Value = serde_json::from_str(&rustml(&["inspect", &path, "--json"]).ok()).unwrap();
    assert_eq!(about["runs_here"], true);
    assert_eq!(about["architecture"], "gemma3");
    // It has a vocabulary, so text goes in and comes out.
    let args = ["infer", &path, "--prompt", "ab", "--max-tokens", "3"];
    rustml(&args).ok();
    // Without one it can be measured all the same.
    synth(&["--type", "q8_0", "--seed", "3"]).ok();
    let args = [
        "--prompt-tokens",
        "4",
        "--max-tokens",
        "2",
        "--output",
        "json",
    ];
    let rows = rustml(&[&["bench", &path], &args[..]].concat()).ok();
    let rows: Value = serde_json::from_str(&rows).unwrap();
    assert!(rows[1]["type"].as_str().unwrap().contains("Q8_0"), "{rows}");
}

#[test]
fn what_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf").display().to_string();
    let shape = tiny("gpt2/config.json");
    let synth = |shape: &str, dtype: &str, rest: &[&str]| {
        let args = [
            "synth", "--shape", shape, "--type", dtype, "--output", &path,
        ];
        rustml(&[&args, rest].concat())
    };
    assert!(synth("gpt-5", "q8_0", &[])
        .failed(2)
        .contains("gemma-3-1b-it"));
    assert!(synth(&shape, "q9", &[]).failed(2).contains("iq4_xs"));
    synth(&tiny("gpt2/tokenizer.json"), "q8_0", &[]).failed(2);
    let e = synth(&shape, "q8_0", &["--like", &tiny("gpt2/model.safetensors")]).failed(1);
    assert!(e.contains("vocabulary"), "{e}");
    assert!(!dir.path().join("x.gguf").exists(), "nothing half done");
    let nowhere = dir.path().join("no/x.gguf").display().to_string();
    let args = [
        "synth", "--shape", &shape, "--type", "f16", "--output", &nowhere,
    ];
    rustml(&args).failed(1);
}

#[test]
fn help_names_every_shape() {
    let help = rustml(&["synth", "--help"]).ok();
    let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for name in rustml_model::synth::Shape::names() {
        assert!(help.contains(&name), "{name}");
    }
    for dtype in rustml_io::DType::ALL {
        assert!(help.contains(&dtype.name().to_lowercase()), "{dtype}");
    }
}

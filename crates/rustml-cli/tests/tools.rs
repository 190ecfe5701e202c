//! `rustml inspect`, `tokenize`, `logits`, `completions`, and the overview.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{ids, real, tiny, Line, Reference, GEMMA3};
use rustml_io::{DType, GgufWriter, Store};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn rustml(args: &[&str]) -> Line {
    Line::new(env!("CARGO_BIN_EXE_rustml"), args)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn infer_is_rustml_infer() {
    let r = Reference::of("llama");
    let model = tiny("llama");
    let args = ["infer", &model, "--temperature", "0", "--quantize", "none"];
    let prompt = ["--prompt", &r.prompt, "--max-tokens", "24"];
    let text = rustml(&[&args[..], &prompt].concat()).run().ok();
    assert_eq!(text, r.greedy_text + "\n");
}

#[test]
fn the_overview_names_all_commands() {
    let help = rustml(&["--help"]).run().ok();
    for command in [
        "infer",
        "chat",
        "inspect",
        "tokenize",
        "embed",
        "rerank",
        "logits",
        "bench",
        "report",
        "synth",
        "pull",
        "list",
        "rm",
        "completions",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        let long = rustml(&[command, "--help"]).run().ok();
        assert!(long.contains("Examples:"), "{command}");
        assert!(rustml(&[command, "-h"]).run().ok().contains("Usage:"));
    }
    assert_eq!(rustml(&[]).run().status, Some(2));
    assert!(rustml(&["no-such"]).run().failed(2).contains("no-such"));
    let version = rustml(&["--version"]).run().ok();
    assert_eq!(version, format!("rustml {}\n", env!("CARGO_PKG_VERSION")));
    // One definition of each flag.
    let lines = |command: &str| -> Vec<String> {
        let help = rustml(&[command, "-h"]).run().ok();
        let flag = |l: &&str| l.contains("--top-p") || l.contains("--threads");
        help.lines().filter(flag).map(str::to_owned).collect()
    };
    assert_eq!(lines("infer"), lines("chat"));
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = rustml(&["completions", shell]).run().ok();
        assert!(script.contains("rustml") && script.contains("tokenize"));
    }
    rustml(&["completions", "tcsh"]).run().failed(2);
}

#[test]
fn models_are_described() {
    let j = json(
        &rustml(&["inspect", &tiny("llama/model.gguf"), "--json"])
            .run()
            .ok(),
    );
    assert_eq!(j["format"], "gguf");
    assert_eq!(j["version"], 3);
    assert_eq!(j["architecture"], "llama");
    assert_eq!(j["runs_here"], true);
    assert_eq!(j["problem"], Value::Null);
    assert_eq!(j["shape"]["hidden"], 64);
    assert_eq!(j["shape"]["each_layer"][0]["kv_heads"], 2);
    assert_eq!(j["tokenizer"]["chat_template"], true);
    let store = Store::open(Path::new(&tiny("llama/model.gguf"))).unwrap();
    let summary = store.summary();
    assert_eq!(j["parameters"], summary.parameters);
    assert_eq!(j["tensor_count"], store.tensors().len());
    assert_eq!(j["types"][0]["type"], "F32");
    let bytes = j["types"].as_array().unwrap().iter();
    let bytes: u64 = bytes.map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(j["bytes"], bytes);
    assert_eq!(j.get("tensors"), None, "not asked for");
    // Long arrays are counted.
    let tokens = &j["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!(tokens["type"], "array of strings");
    assert_eq!(tokens["length"], 352);
    assert_eq!(j["metadata"]["general.architecture"], "llama");

    let line = ["inspect", &tiny("llama"), "--json", "--tensors"];
    let j = json(&rustml(&line).run().ok());
    assert_eq!(j["format"], "safetensors");
    assert_eq!(j["config"]["model_type"], "llama");
    let tensors = j["tensors"].as_array().unwrap();
    let embedding = tensors
        .iter()
        .find(|t| t["name"] == "model.embed_tokens.weight")
        .unwrap();
    assert_eq!(ids(&embedding["shape"]), [352, 64]);
    assert_eq!(embedding["bytes"], 352 * 64 * 4);

    let text = rustml(&["inspect", &tiny("gemma3"), "--tensors"])
        .run()
        .ok();
    for part in [
        "safetensors, 545.63 kB",
        "Gemma3ForCausalLM",
        "parameters       134,000, 32 bits each",
        "7, 6 of them with a window of 8",
        "4 heads of 24, 1 for keys and values, qk-norm",
        "model.embed_tokens.weight",
        "452 x 32",
        "57,856",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().all(|l| l.chars().count() < 160));
}

#[test]
fn gemma_s_mixture_is_described() {
    let Some(model) = real(GEMMA3) else { return };
    let text = rustml(&["inspect", &model]).run().ok();
    for part in [
        "Q4_K",
        "Q5_0",
        "Q6_K",
        "Q8_0",
        "15 of them with a window of 512",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn models_that_cannot_be_run_are_described_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut plan = GgufWriter::new();
    plan.set("general.architecture", "mamba\u{1b}[2J")
        .set("list", (0..64u32).collect::<Vec<_>>())
        .set("longer", (0..65u32).collect::<Vec<_>>());
    plan.tensor("x", DType::F32, &[1]);
    let bytes = plan.to_bytes(&[&[0; 4]]).unwrap();
    fs::write(path("mamba.gguf"), bytes).unwrap();
    let j = json(
        &rustml(&["inspect", &path("mamba.gguf"), "--json"])
            .run()
            .ok(),
    );
    assert_eq!(j["runs_here"], false);
    assert_eq!(j["shape"], Value::Null);
    let problem = j["problem"].as_str().unwrap();
    assert!(problem.contains("mamba") && problem.contains("not supported"));
    assert_eq!(ids(&j["metadata"]["list"]), (0..64).collect::<Vec<_>>());
    assert_eq!(j["metadata"]["longer"]["length"], 65);
    assert!(j["tokenizer"]["problem"].is_string());
    let text = rustml(&["inspect", &path("mamba.gguf")]).run().ok();
    assert!(text.contains("no: ") && !text.contains('\x1b'), "{text}");

    // Types that are not computed with, and no configuration.
    fs::copy(tiny("gpt2/reference.safetensors"), path("x.safetensors")).unwrap();
    let text = rustml(&["inspect", &path("x.safetensors")]).run().ok();
    assert!(
        text.contains("I64") && text.contains("not supported"),
        "{text}"
    );
    assert!(text.contains("config.json"), "{text}");
    fs::write(path("cut.gguf"), b"GGUF\x03\0\0\0").unwrap();
    rustml(&["inspect", &path("cut.gguf")]).run().failed(1);
    rustml(&["inspect", &path("absent.gguf")]).run().failed(1);
}

#[test]
fn texts_are_tokens() {
    for model in ["llama", "llama/model.gguf", "gemma3", "gpt2/model.gguf"] {
        let folder = model.split('/').next().unwrap();
        let cases = fs::read(tiny(&format!("{folder}/tokenizer_cases.json"))).unwrap();
        let cases: Value = serde_json::from_slice(&cases).unwrap();
        let cases = cases["cases"].as_array().unwrap().iter();
        let mut checked = 0;
        // Each is a process; those with control tokens as such, every seventh.
        for case in cases.filter(|c| c["special"] == true).step_by(7) {
            let model = tiny(model);
            let args = ["tokenize", &model, "--no-special-tokens", "--json"];
            let text = case["text"].as_str().unwrap();
            let j = json(&rustml(&args).stdin(text).run().ok());
            assert_eq!(ids(&j["ids"]), ids(&case["ids"]), "{text:?}");
            assert_eq!(
                j["tokens"].as_array().unwrap().len(),
                ids(&case["ids"]).len()
            );
            checked += 1;
        }
        assert!(checked > 20);
    }
}

#[test]
fn tokens_are_shown_as_lines() {
    let model = tiny("gemma3");
    let args = ["tokenize", &model, "--text", "a\n\"é'"];
    let text = rustml(&args).run().ok();
    let quoted: Vec<&str> = text
        .lines()
        .map(|l| l.trim().split("  ").nth(1).unwrap())
        .collect();
    assert_eq!(quoted[0], "\"<bos>\"");
    let joined: String = quoted[1..].iter().map(|q| &q[1..q.len() - 1]).collect();
    let spelled = ["a\\n\\\"é'", "a\\n\\\"\\xc3\\xa9'"];
    assert!(spelled.contains(&joined.as_str()), "{joined}");
    let plain = rustml(&[&args[..], &["--no-special-tokens"]].concat());
    let lines = plain.run().ok();
    assert_eq!(lines.lines().count(), quoted.len() - 1);
    // The default is standard input to the last byte, and nothing is nothing.
    let without = ["tokenize", &tiny("llama"), "--no-special-tokens"];
    assert_eq!(
        rustml(&without).stdin("\n").run().ok().trim(),
        "198  \"\\n\""
    );
    assert_eq!(rustml(&without).run().ok(), "");
    rustml(&without).stdin(b"\xff").run().failed(1);
}

#[test]
fn a_tokenizer_needs_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        fs::copy(tiny(&format!("llama/{file}")), dir.path().join(file)).unwrap();
    }
    let dir = dir.path().display().to_string();
    let bare = rustml(&["tokenize", &dir, "--text", "fox"]).run().ok();
    let whole = rustml(&["tokenize", &tiny("llama"), "--text", "fox"])
        .run()
        .ok();
    assert_eq!(bare, whole);
}

fn tensor(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let store = Store::open(path).unwrap();
    assert_eq!(store.tensors().len(), 1);
    let logits = store.tensor("logits").unwrap();
    assert_eq!(logits.dtype, DType::F32);
    let words = logits.data.as_chunks().0.iter();
    let values = words.map(|b| f32::from_le_bytes(*b)).collect();
    (logits.info.shape.clone(), values)
}

#[test]
fn logits_are_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    fs::write(&out, "something old").unwrap();
    for model in [
        "gpt2",
        "llama/model.gguf",
        "llama-tied",
        "gemma3/model.gguf",
    ] {
        let folder = model.split('/').next().unwrap();
        let r = Reference::of(folder);
        let tokens: Vec<String> = r.tokens.iter().map(u32::to_string).collect();
        let tokens = tokens.join(",");
        let path = out.display().to_string();
        let line = [
            "logits",
            &tiny(model),
            "--tokens",
            &tokens,
            "--output",
            &path,
        ];
        assert_eq!(rustml(&line).run().ok(), "");
        let (shape, ours) = tensor(&out);
        let reference = tiny(&format!("{folder}/reference.safetensors"));
        let reference = Store::open(Path::new(&reference)).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let words = reference.tensor(name).unwrap().data.as_chunks().0.iter();
            words.map(|b| f32::from_le_bytes(*b)).collect()
        };
        let theirs = floats("logits");
        assert_eq!(shape, reference.tensor("logits").unwrap().info.shape);
        let tolerance = 10.0 * floats("f32_f64_error")[0];
        let far = ours
            .iter()
            .zip(&theirs)
            .position(|(a, b)| (a - b).abs() > tolerance);
        assert_eq!(far, None, "{model}");
        // From standard input, as a list in JSON.
        let line = ["logits", &tiny(model), "--output", &path];
        rustml(&line).stdin(format!("[{tokens}]\n")).run().ok();
        assert_eq!(tensor(&out).1, ours);
        // Eight bits are another matter.
        if folder == "llama-tied" {
            let line = [&line[..], &["--quantize", "q8_0"]].concat();
            rustml(&line).stdin(tokens).run().ok();
            assert_ne!(tensor(&out).1, ours);
        }
    }
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "no temporary files");
}

#[test]
fn logits_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let model = tiny("gpt2");
    let fails = |tokens: &str, out: &str, status: i32| -> String {
        let line = ["logits", &model, "--tokens", tokens, "--output", out];
        rustml(&line).run().failed(status)
    };
    let new = path("new");
    for (tokens, status, says) in [
        ("", 2, "no tokens"),
        ("1,x", 2, "`x` is no token id"),
        ("1,-2", 2, "`-2`"),
        ("1,321", 1, "token 321 is outside"),
        (&"1,".repeat(97), 1, "the context holds 96"),
    ] {
        let err = fails(tokens, &new, status);
        assert!(err.contains(says), "{err}");
    }
    let err = fails("1", &path("no/dir/x"), 1);
    assert!(err.contains("there is no directory"), "{err}");
    let err = fails("1", &path(""), 1);
    assert!(err.contains("directory"), "{err}");
    assert!(rustml(&["logits", &model, "--output", &new])
        .run()
        .failed(2)
        .contains("no tokens"));
    rustml(&["logits", &model, "--tokens", "1"]).run().failed(2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    if cfg!(target_os = "linux") {
        let err = fails("1", "/dev/full", 1);
        assert!(err.contains("cannot write /dev/full"), "{err}");
        assert!(!Path::new("/dev/full").is_file(), "it is still what it was");
        // A pipe takes them as they come.
        let line = ["logits", &model, "--tokens", "1", "--output", "/dev/stdout"];
        let done = rustml(&line).shell("exec \"$@\" | wc -c");
        let bytes: usize = done.ok().trim().parse().unwrap();
        assert!(bytes > 321 * 4 && bytes < 321 * 4 + 200, "{bytes}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_the_output_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let out = link.display().to_string();
    let line = ["logits", &tiny("gpt2"), "--tokens", "1", "--output", &out];
    rustml(&line).run().ok();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(tensor(&file).0, [1, 321]);
}

#[test]
fn texts_come_in_the_order_of_their_scores() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.jsonl");
    let texts = ["a river", "many hills and a long way", "the sea"];
    let lines = texts.map(|t| serde_json::json!({ "text": t }).to_string());
    fs::write(&file, lines.join("\n")).unwrap();
    let path = |name: &str| {
        let folder = common::repo("testdata/classifiers").join(name);
        folder.display().to_string()
    };
    let model = path("bert");
    let asked = ["rerank", &model, "--query", "which river", "--file"];
    let file = file.display().to_string();
    let asked = [&asked[..], &[&file]].concat();
    let all = rustml(&[&asked[..], &["--format", "json"]].concat()).run();
    let all = all.json_lines();
    assert_eq!(all.len(), 3);
    let logits: Vec<f64> = all.iter().map(|l| l["logit"].as_f64().unwrap()).collect();
    assert!(logits.is_sorted_by(|a, b| a >= b), "{logits:?}");
    for line in &all {
        assert_eq!(
            line["text"],
            texts[line["index"].as_u64().unwrap() as usize]
        );
    }
    let best = rustml(&[&asked[..], &["--top", "1"]].concat()).run().ok();
    let (score, text) = best.trim_end().split_once('\t').unwrap();
    assert_eq!(text, all[0]["text"]);
    let off = score.parse::<f64>().unwrap() - all[0]["score"].as_f64().unwrap();
    assert!(off.abs() < 1e-6, "{best}");
    let labels = path("bert-labels");
    let said = rustml(&["rerank", &labels, "--query", "a", "--file", &file]);
    let said = said.run().failed(1);
    assert!(said.contains("3 labels"), "{said}");
}

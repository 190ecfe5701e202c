//! `rustml pull`, `list` and `rm` on a cache of their own, offline.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{tiny, Done, Line};
use serde_json::Value;
use std::fs;
use std::path::Path;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Puts files into a cache, as Hugging Face's tools lay it out.
fn add(cache: &Path, name: &str, files: &[(&str, &str)]) {
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    for (file, from) in files {
        fs::copy(tiny(from), snapshot.join(file)).unwrap();
    }
}

fn rustml(cache: &Path, args: &[&str]) -> Done {
    let line = Line::new(env!("CARGO_BIN_EXE_rustml"), args);
    line.env("HF_HUB_CACHE", &cache.display().to_string()).run()
}

fn names(cache: &Path) -> Vec<String> {
    let list: Value = serde_json::from_str(&rustml(cache, &["list", "--json"]).ok()).unwrap();
    let list = list.as_array().unwrap().iter();
    list.map(|m| m["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_empty_cache_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let done = rustml(dir.path(), &["list"]);
    assert!(done.err.contains("rustml pull"), "{}", done.err);
    assert_eq!(done.ok(), "");
    assert_eq!(rustml(dir.path(), &["list", "--json"]).ok(), "[]\n");
    let absent = dir.path().join("absent");
    assert_eq!(rustml(&absent, &["list"]).ok(), "");
}

#[test]
fn models_are_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path();
    add(
        cache,
        "org/whole",
        &[
            ("config.json", "llama/config.json"),
            ("tokenizer.json", "llama/tokenizer.json"),
            ("model.safetensors", "llama/model.safetensors"),
        ],
    );
    add(cache, "org/part", &[("config.json", "llama/config.json")]);
    let two = [
        ("name.Q4_0.gguf", "llama/model.gguf"),
        ("name.Q8_0.gguf", "gpt2/model.gguf"),
    ];
    add(cache, "org/gguf", &two);

    let text = rustml(cache, &["list"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].trim().starts_with("NAME"));
    assert!(lines[1].contains("org/gguf") && !lines[1].contains("unusable"));
    assert!(lines[2].contains("org/part") && lines[2].contains("unusable: "));
    assert!(lines[3].contains("org/whole") && lines[3].contains(" kB"));
    assert!(lines[3].contains("just now"), "{text}");

    let list: Value = serde_json::from_str(&rustml(cache, &["list", "--json"]).ok()).unwrap();
    assert_eq!(list[2]["problem"], Value::Null);
    assert_eq!(list[2]["revisions"][0]["commit"], COMMIT);
    let bytes = fs::metadata(tiny("llama/model.safetensors")).unwrap().len();
    assert!(list[2]["bytes"].as_u64().unwrap() > bytes);
    let used = list[2]["last_used"].as_str().unwrap();
    assert!(used.ends_with('Z') && used.len() == 20, "{used}");

    // Nobody is asked where nobody is.
    let err = rustml(cache, &["rm", "org/whole"]).failed(2);
    assert!(err.contains("--yes"), "{err}");
    assert_eq!(names(cache), ["org/gguf", "org/part", "org/whole"]);
    let done = rustml(cache, &["rm", "org/whole", "--yes"]);
    assert!(done.err.contains("Removed org/whole: "), "{}", done.err);
    assert_eq!(done.ok(), "");
    rustml(cache, &["rm", "org/gguf:Q4_0", "-y"]).ok();
    assert_eq!(names(cache), ["org/gguf", "org/part"]);
    let left = cache.join("models--org--gguf/snapshots").join(COMMIT);
    assert_eq!(fs::read_dir(left).unwrap().count(), 1);

    for yes in [&["rm", "org/whole"][..], &["rm", "org/whole", "--yes"]] {
        let err = rustml(cache, yes).failed(1);
        assert!(err.contains("not in the cache"), "{err}");
    }
    for name in ["../..", "", "/etc", "org/part/../.."] {
        let done = rustml(cache, &["rm", name, "--yes"]);
        assert_eq!(done.status, Some(1), "{name}: {}", done.err);
    }
    assert_eq!(names(cache), ["org/gguf", "org/part"]);
}

#[test]
fn pulling_needs_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let err = rustml(dir.path(), &["pull", "org/name"]).failed(1);
    assert!(err.contains("HF_HUB_OFFLINE"), "{err}");
    let err = rustml(dir.path(), &["pull", "not a name"]).failed(1);
    assert!(err.contains("not a name"), "{err}");
    // Nobody listens there.
    let line = Line::new(env!("CARGO_BIN_EXE_rustml"), &["pull", "org/name"]);
    let cache = dir.path().display().to_string();
    let line = line.env("HF_HUB_CACHE", &cache).env("HF_HUB_OFFLINE", "0");
    let err = line
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .run()
        .failed(1);
    assert!(err.contains("127.0.0.1"), "{err}");
}

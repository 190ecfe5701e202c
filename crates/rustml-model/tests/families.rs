//! Tiny models of many architectures (`testdata/families`) against PyTorch.
//!
//! `RUSTML_FAMILIES` names another folder of them, made by
//! `scripts/reference/make_families.py`.

mod common;

use common::{check_reference, repo, same_bits, team, Reference, Runner};
use rustml_io::DType;
use rustml_model::{Batch, KvSequence, KvType, Output, Quantize};
use rustml_simd::Isa;
use serde_json::Value;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let folder = std::env::var_os("RUSTML_FAMILIES");
    let folder = folder.map_or_else(|| repo("testdata/families"), PathBuf::from);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.join("reference.json").exists());
    all.sort();
    all
}

fn open(path: &Path) -> Runner {
    open_as(path, Quantize::None)
}

fn open_as(path: &Path, quantize: Quantize) -> Runner {
    Runner::with_team(path, quantize, KvType::F32, team(Isa::best(), 2))
}

/// Runs `test` on every folder; says all that failed.
fn each(test: impl Fn(&Path, &Reference)) {
    let all = folders();
    assert!(all.len() > 40, "only {} models are there", all.len());
    let mut failed = Vec::new();
    for folder in &all {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let run = || test(folder, &Reference::at(folder));
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            failed.push(name);
        }
    }
    let (bad, all) = (failed.len(), all.len());
    assert!(failed.is_empty(), "{bad} of {all}: {failed:?}");
}

#[test]
fn safetensors_are_as_pytorch_computes_them() {
    each(|folder, reference| {
        let what = folder.display().to_string();
        let off = check_reference(&mut open(folder), reference, &what);
        println!(
            "{what}: {off:.1e} off, the reference {:.1e}",
            reference.error
        );
    });
}

/// What llama.cpp's converter made of them.
#[test]
fn gguf_files_are_the_same_models() {
    let count = std::cell::Cell::new(0);
    each(|folder, reference| {
        let path = folder.join("model.gguf");
        // Some settings have no key there.
        let about = std::fs::read(folder.join("about.json")).unwrap();
        let about: Value = serde_json::from_slice(&about).unwrap();
        let notes = about["notes"].as_array().unwrap().iter();
        let mut notes = notes.map(|n| n.as_str().unwrap());
        if notes.any(|n| n.starts_with("GGUF: ")) || !path.exists() {
            return;
        }
        count.set(count.get() + 1);
        let what = path.display().to_string();
        let off = check_reference(&mut open(&path), reference, &what);
        println!(
            "{what}: {off:.1e} off, the reference {:.1e}",
            reference.error
        );
    });
    assert!(count.get() > 35, "only {} files are there", count.get());
}

/// The same model as transformers 4 spelled its settings, and with the experts' tensors as
/// transformers 5 holds them.
#[test]
fn other_spellings_are_the_same_models() {
    each(|folder, reference| {
        let (v4, fused) = (folder.join("config.v4.json"), folder.join("fused"));
        if v4.exists() {
            let copy = tempfile::tempdir().unwrap();
            let model = "model.safetensors";
            std::fs::copy(folder.join(model), copy.path().join(model)).unwrap();
            std::fs::copy(&v4, copy.path().join("config.json")).unwrap();
            check_reference(&mut open(copy.path()), reference, &v4.display().to_string());
        }
        if fused.exists() {
            check_reference(&mut open(&fused), reference, &fused.display().to_string());
        }
    });
}

#[test]
fn chunks_make_no_difference() {
    each(|folder, reference| {
        // Where rotations depend on the length of the text, it must be known.
        if reference.one_prefill || reference.is_encoder {
            return;
        }
        for quantize in [Quantize::None, Quantize::To(DType::Q8_0)] {
            let mut runner = open_as(folder, quantize);
            let whole = runner.logits(&reference.tokens, usize::MAX);
            for chunk in [1, 7] {
                let chunks = runner.logits(&reference.tokens, chunk);
                let what = format!("{} {quantize} by {chunk}", folder.display());
                same_bits(&whole, &chunks, &what);
            }
        }
    });
}

#[test]
fn company_and_threads_make_no_difference() {
    each(|folder, reference| {
        let quantize = Quantize::To(DType::Q8_0);
        let text = &reference.tokens;
        let output = |n| match reference.is_encoder {
            true => Output::Hidden(n),
            false => Output::Logits(n),
        };
        // What a step of these texts gives on so many threads.
        let step = |texts: &[&[u32]], threads: usize| -> Vec<f32> {
            let team = team(Isa::best(), threads);
            let mut runner = Runner::with_team(folder, quantize, KvType::F32, team);
            let caches: Vec<KvSequence> = texts
                .iter()
                .map(|text| {
                    let mut cache = KvSequence::default();
                    assert!(runner.kv.reserve(&mut cache, text.len()));
                    cache
                })
                .collect();
            let mut batch = Batch::default();
            for (cache, text) in caches.iter().zip(texts) {
                batch.push(cache, text, 0, output(text.len()));
            }
            let (kv, exec) = (&mut runner.kv, &mut runner.exec);
            let outputs = runner.model.forward(&batch, kv, exec);
            let rows = outputs.logits().chain(outputs.hidden());
            let rows = rows.flatten().copied().collect();
            caches.into_iter().for_each(|c| runner.kv.release(c));
            rows
        };
        let (one, other) = (&text[..30], &text[10..]);
        let alone = [step(&[one], 2), step(&[other], 2)].concat();
        let together = step(&[one, other], 3);
        same_bits(&alone, &together, &folder.display().to_string());
    });
}

/// The table of docs/formats.md is the one of the code.
#[test]
fn the_docs_list_every_architecture() {
    let docs = std::fs::read_to_string(repo("docs/formats.md")).unwrap();
    for a in rustml_model::arch::ALL {
        let hf: Vec<String> = a.hf.iter().map(|n| format!("`{n}`")).collect();
        let row = format!("| {} | `{}` | {} |\n", a.about, a.gguf, hf.join(", "));
        assert!(docs.contains(&row), "docs/formats.md lacks the row\n{row}");
    }
}

//! Files with random weights: they load, run, and are the shape's.

use rustml_io::{DType, Store};
use rustml_model::synth::{Shape, Synth};
use rustml_model::{
    team, Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model, Output, Quantize,
};
use rustml_trace::{Detail, Recorder};
use std::path::{Path, PathBuf};

fn tiny(path: &str) -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny");
    tiny.join(path)
}

fn shape(model: &str) -> Shape {
    Shape::from_file(&tiny(&format!("{model}/config.json"))).unwrap()
}

fn logits(store: &Store) -> Vec<f32> {
    let model = Model::load(store, Quantize::None, team(1).unwrap(), &mut |_, _| {}).unwrap();
    let mut kv = KvPool::new(model.spec(), 64, KvType::F16).unwrap();
    let capacity = Capacity {
        rows: 16,
        logit_rows: 1,
    };
    let mut exec = Exec::new(&model, capacity, Recorder::new(Detail::Off));
    let (mut s, mut batch) = (KvSequence::default(), Batch::default());
    assert!(kv.reserve(&mut s, 16));
    let ids: Vec<u32> = (1..17).collect();
    batch.push(&s, &ids, 0, Output::Logits(1));
    let outputs = model.forward(&batch, &mut kv, &mut exec);
    let logits = outputs.logits().flatten().copied().collect();
    kv.release(s);
    logits
}

#[test]
fn every_architecture_runs_in_every_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    for model in ["gpt2", "llama", "llama-tied", "gemma3", "qwen2", "qwen3"] {
        for dtype in DType::ALL {
            let synth = Synth::new(shape(model), dtype);
            let mut heard = (0, 0);
            let bytes = synth.write(&path, &mut |done, total| heard = (done, total));
            assert_eq!((bytes.unwrap(), heard.0), (heard.1, heard.1));
            let store = Store::open(&path).unwrap();
            let logits = logits(&store);
            assert_eq!(logits.len(), synth.shape().spec().vocab);
            let largest = logits.iter().fold(0f32, |a, b| a.max(b.abs()));
            assert!(logits.iter().all(|x| x.is_finite()), "{model} {dtype}");
            // Neither vanished nor blown up.
            assert!(
                (0.01..100.0).contains(&largest),
                "{model} {dtype} {largest}"
            );
        }
    }
}

#[test]
fn the_seed_says_which_weights() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, seed| {
        let path = dir.path().join(name);
        let synth = Synth::new(shape("llama"), DType::Q4_0).seed(seed);
        synth.write(&path, &mut |_, _| {}).unwrap();
        std::fs::read(path).unwrap()
    };
    let (a, b, c) = (file("a", 1), file("b", 1), file("c", 2));
    assert!(a == b && a != c && a.len() == c.len());
}

#[test]
fn a_vocabulary_is_taken_with_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let real = Store::open(&tiny("llama/model.gguf")).unwrap();
    let synth = Synth::new(shape("gemma3"), DType::F16);
    let synth = synth.like(real.metadata()).unwrap();
    synth.write(&path, &mut |_, _| {}).unwrap();
    let made = Store::open(&path).unwrap();
    let tokens = |s: &Store| {
        let all = s.metadata().strings("tokenizer.ggml.tokens").unwrap();
        all.unwrap().clone()
    };
    assert_eq!(tokens(&made), tokens(&real));
    assert_eq!(logits(&made).len(), tokens(&real).len());
    for (key, value) in real.metadata().iter() {
        if key.starts_with("tokenizer.") {
            assert_eq!(made.metadata().get(key), Some(value), "{key}");
        }
    }
    let none = Synth::new(shape("gpt2"), DType::F16).like(&rustml_io::Metadata::new());
    assert!(none.is_err_and(|e| e.contains("vocabulary")));
}

#[test]
fn what_is_no_shape_is_an_error() {
    assert!(Shape::named("gpt-5").is_none());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let error = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Shape::from_file(&path).err().expect(text).to_string()
    };
    for (text, says) in [
        ("", "JSON"),
        ("[]", "architectures"),
        ("{\"architectures\": [\"Bert\"]}", "Bert"),
        ("{\"architectures\": [\"GPT2LMHeadModel\"]}", "n_embd"),
    ] {
        let e = error(text);
        assert!(e.contains(says) && e.contains("config.json"), "{e}");
    }
    std::fs::remove_file(&path).unwrap();
    let e = Shape::from_file(&path).err().unwrap().to_string();
    assert!(e.contains("config.json"), "{e}");
}

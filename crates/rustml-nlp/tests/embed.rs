//! Vectors of texts, against PyTorch and against themselves.

use rustml_io::Store;
use rustml_nlp::{Embedding, Input, LoadOptions, Model, Pooling, Quantize};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

fn bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/families/bert")
}

fn open(path: &Path) -> Model {
    let options = LoadOptions {
        quantize: Some(Quantize::None),
        threads: Some(2),
        ..LoadOptions::default()
    };
    Model::open(path, &options, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// A copy of the model with files of sentence-transformers beside it.
fn with(files: &[(&str, Value)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(bert().join(name), copy.path().join(name)).unwrap();
    }
    for (name, value) in files {
        let path = copy.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    }
    copy
}

/// The reference's tokens, and its state of each.
fn reference() -> (Vec<u32>, Vec<Vec<f32>>) {
    let json = std::fs::read(bert().join("reference.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let tokens = json["tokens"].as_array().unwrap();
    let tokens: Vec<u32> = tokens.iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let store = Store::open(&bert().join("reference.safetensors")).unwrap();
    let data = store.tensor("hidden").unwrap().data;
    let values: Vec<f32> = data
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let width = values.len() / tokens.len();
    (
        tokens,
        values.chunks_exact(width).map(<[f32]>::to_vec).collect(),
    )
}

fn input(ids: &[u32]) -> Input {
    Input {
        ids: ids.to_vec(),
        ..Input::default()
    }
}

fn normalised(x: &[f32]) -> Vec<f32> {
    let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    x.iter().map(|x| x / length).collect()
}

#[track_caller]
fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let off = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(off < 1e-5, "{off} off");
}

#[test]
fn every_pooling_is_what_pytorch_makes_of_its_states() {
    let (tokens, states) = reference();
    let model = open(&bert());
    let mut embedder = model.embedder().unwrap();
    assert_eq!(embedder.pooling(), Pooling::Mean);
    let mean: Vec<f32> = (0..states[0].len())
        .map(|i| states.iter().map(|s| s[i]).sum::<f32>() / states.len() as f32)
        .collect();
    let last = states.last().unwrap();
    for (pooling, expected) in [
        (Pooling::Mean, &mean),
        (Pooling::First, &states[0]),
        (Pooling::Last, last),
    ] {
        embedder.set_pooling(pooling);
        let all = embedder.run(&[input(&tokens)]).unwrap();
        close(&all[0].values, &normalised(expected));
        assert_eq!((all[0].tokens, all[0].truncated), (tokens.len(), false));
    }
}

#[test]
fn strangers_beside_a_text_make_no_difference() {
    let (tokens, _) = reference();
    let model = open(&bert());
    let embedder = model.embedder().unwrap();
    let cuts = [3, 17, 40, 1, 8, 40, 29];
    let texts: Vec<_> = (0..60).map(|i| input(&tokens[..cuts[i % 7]])).collect();
    let together = embedder.run(&texts).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        let alone = embedder.run(std::slice::from_ref(text)).unwrap();
        assert_eq!(&alone[0], together);
    }
}

#[test]
fn what_sentence_transformers_writes_is_read() {
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let modules = json!([module("Transformer", ""), module("Pooling", "1_Pooling")]);
    let pooling = json!({"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
    let settings = json!({"prompts": {"query": "query: "}});
    let copy = with(&[
        ("modules.json", modules.clone()),
        ("1_Pooling/config.json", pooling),
        ("config_sentence_transformers.json", settings),
        ("sentence_bert_config.json", json!({"max_seq_length": 12})),
    ]);
    let (tokens, states) = reference();
    let model = open(copy.path());
    let embedder = model.embedder().unwrap();
    assert_eq!((embedder.pooling(), embedder.most()), (Pooling::First, 12));
    assert_eq!(embedder.prompt("query").unwrap(), "query: ");
    assert!(embedder
        .prompt("document")
        .unwrap_err()
        .to_string()
        .contains("query"));
    let long = "many words are here, more than twelve tokens of them in any case";
    let says = embedder.encode(long, false).unwrap_err().to_string();
    assert!(says.contains("reads 12 at most"), "{says}");
    let cut = embedder.encode(long, true).unwrap();
    assert!(cut.ids.len() == 12 && cut.cut > 0);
    // Without the module Normalize, the length is kept.
    let short = embedder.run(&[input(&tokens[..12])]).unwrap();
    let length: f32 = short[0].values.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() > 0.01, "{length}");
    assert_eq!(states[0].len(), short[0].values.len());

    for (name, value, expected) in [
        (
            "1_Pooling/config.json",
            json!({"word_embedding_dimension": 31, "pooling_mode_mean_tokens": true}),
            "says 31 values, but the model has 32",
        ),
        (
            "1_Pooling/config.json",
            json!({"pooling_mode_max_tokens": true}),
            "not supported",
        ),
        (
            "modules.json",
            json!([module("Dense", "2_Dense")]),
            "2_Dense/config.json: is missing",
        ),
        (
            "modules.json",
            json!([module("Pooling", "../outside")]),
            "leads out of the model",
        ),
        (
            "modules.json",
            json!([module("LSTM", "2")]),
            "the module LSTM is not supported",
        ),
    ] {
        let copy = with(&[("modules.json", modules.clone()), (name, value)]);
        let says = open(copy.path())
            .embedder()
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(says.contains(expected), "{says}");
    }
}

#[test]
fn shorter_vectors_have_length_one() {
    let mut e = Embedding {
        values: vec![3.0, 4.0, 12.0],
        tokens: 1,
        truncated: false,
    };
    e.shorten(2);
    assert_eq!(e.values, [0.6, 0.8]);
}

#[test]
fn an_encoder_continues_no_text() {
    let model = open(&bert());
    let says = model
        .generate("a", &Default::default())
        .unwrap_err()
        .to_string();
    assert!(
        says.contains("this model encodes texts and cannot continue them")
            && says.contains("`rustml embed`"),
        "{says}"
    );
}

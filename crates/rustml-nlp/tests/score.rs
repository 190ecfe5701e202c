//! Rerankers and classifiers, against PyTorch and against themselves.

use rustml_nlp::{Input, KvType, LoadOptions, Model, Quantize, Weights};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/classifiers")
        .join(name)
}

fn options() -> LoadOptions {
    LoadOptions {
        quantize: Some(Quantize::None),
        threads: Some(2),
        ..LoadOptions::default()
    }
}

fn open(path: &Path) -> Model {
    Model::open(path, &options(), &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn reference(name: &str) -> Vec<(Input, Vec<f32>)> {
    let json = std::fs::read(folder(name).join("reference.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let numbers = |v: &Value| -> Vec<u32> {
        let all = v.as_array().unwrap().iter();
        all.map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let text = |t: &Value| {
        let input = Input {
            ids: numbers(&t["tokens"]),
            types: numbers(&t["types"]),
            cut: 0,
        };
        let scores = t["scores"].as_array().unwrap().iter();
        (input, scores.map(|x| x.as_f64().unwrap() as f32).collect())
    };
    json["texts"].as_array().unwrap().iter().map(text).collect()
}

#[track_caller]
fn close(made: &[f32], expected: &[f32], what: &str) {
    assert_eq!(made.len(), expected.len(), "{what}");
    for (a, b) in made.iter().zip(expected) {
        assert!((a - b).abs() < 1e-4, "{what}: {made:?} for {expected:?}");
    }
}

#[test]
fn scores_are_as_pytorch_computes_them() {
    let mut files = 0;
    for name in [
        "bert",
        "bert-labels",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "modernbert-cls",
        "modernbert-mean",
    ] {
        for path in [folder(name), folder(name).join("model.gguf")] {
            if !path.exists() {
                continue;
            }
            files += 1;
            let scorer = open(&path).scorer().unwrap_or_else(|e| panic!("{e}"));
            let (texts, expected): (Vec<Input>, Vec<Vec<f32>>) =
                reference(name).into_iter().unzip();
            let together = scorer.run(&texts).unwrap();
            let what = path.display().to_string();
            for (i, (made, expected)) in together.iter().zip(&expected).enumerate() {
                close(made, expected, &what);
                let alone = scorer.run(&texts[i..=i]).unwrap();
                assert_eq!(&alone[0], made, "{what}");
            }
        }
    }
    assert_eq!(files, 9, "models that were compared");
}

#[test]
fn logits_of_tokens_are_the_scores() {
    let exact = LoadOptions {
        kv_type: Some(KvType::F32),
        ..options()
    };
    let weights = Weights::open(&folder("xlm-roberta"), &exact, &mut |_, _| {}).unwrap();
    for (input, expected) in reference("xlm-roberta") {
        assert_eq!(weights.shape(input.ids.len()), [1, 2]);
        let mut made = Vec::new();
        let mut keep = |row: &[f32]| {
            made.extend_from_slice(row);
            true
        };
        weights.logits(&input.ids, &mut keep).unwrap();
        close(&made, &expected, "xlm-roberta");
    }
}

#[test]
fn documents_come_in_order_and_labels_with_their_names() {
    let reranker = open(&folder("bert"));
    let documents = ["a river", "many hills and a long way", "", "the sea"];
    let ranked = reranker.rerank("which river", &documents).unwrap();
    let mut seen: Vec<usize> = ranked.iter().map(|r| r.index).collect();
    assert!(ranked.windows(2).all(|w| w[0].logit >= w[1].logit));
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    let scorer = reranker.scorer().unwrap();
    for r in &ranked {
        let pair = scorer
            .pair("which river", documents[r.index], false)
            .unwrap();
        assert_eq!(scorer.run(&[pair]).unwrap()[0], [r.logit]);
        let sigmoid = 1.0 / (1.0 + (-f64::from(r.logit)).exp());
        assert_eq!(r.relevance(), sigmoid as f32);
    }
    // A model of one type takes what its tokenizer makes of two texts, whatever types that has.
    let one_type = open(&folder("roberta"));
    let scorer = one_type.scorer().unwrap();
    let typed = scorer.pair("which river", "the sea", false).unwrap();
    assert!(
        typed.types.contains(&1),
        "the tokenizer says more than the model knows"
    );
    let plain = Input {
        types: Vec::new(),
        ..typed.clone()
    };
    assert_eq!(scorer.run(&[typed]).unwrap(), scorer.run(&[plain]).unwrap());
    assert_eq!(one_type.rerank("which river", &documents).unwrap().len(), 4);
    let says = reranker.embed(&["a"]).unwrap_err().to_string();
    assert!(says.contains("no vectors"), "{says}");

    let classifier = open(&folder("bert-labels"));
    let labels = classifier.classify(&["a river", "hills"]).unwrap();
    let names: Vec<&str> = labels[0].iter().map(|l| &l.name[..]).collect();
    assert_eq!((labels.len(), names), (2, vec!["bad", "fair", "good"]));
    for all in &labels {
        let sum: f32 = all.iter().map(|l| l.probability).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
    let says = classifier.rerank("a", &["b"]).unwrap_err().to_string();
    assert!(says.contains("3 labels"), "{says}");
    // Where a text may have several, each is likely for itself.
    let several = open(&folder("distilbert")).scorer().unwrap();
    assert_eq!(several.probabilities(&[0.0, 0.0, 0.0, 0.0]), [0.5; 4]);
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/families/bert");
    let says = open(&plain).rerank("a", &["b"]).unwrap_err().to_string();
    assert!(says.contains("no reranker"), "{says}");
}

#[test]
fn labels_that_do_not_fit_are_said() {
    for (labels, says) in [
        (json!({"0": "a", "1": "b"}), "the configuration"),
        (json!({"0": "a", "2": "b", "3": "c"}), "from 0 on"),
    ] {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder("bert-labels")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let config = copy.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        json["id2label"] = labels;
        std::fs::write(&config, json.to_string()).unwrap();
        let model = Model::open(copy.path(), &options(), &mut |_, _| {});
        let e = model.and_then(|m| m.scorer().map(|_| ())).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }
}

//! A real encoder against sentence-transformers (`scripts/reference/make_embeddings.py`).

mod common;

use common::{real, repo};
use rustml_io::{DType, Store};
use rustml_kernels::formats::decode_row;
use rustml_nlp::{LoadOptions, Model, Quantize};
use serde_json::Value;
use std::path::Path;

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let both = a.iter().zip(b);
        both.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The texts; those that repeat something are kept as that.
fn texts(reference: &Value) -> Vec<String> {
    let text = |t: &Value| {
        let times = t[1].as_u64().unwrap_or(1) as usize;
        t[0].as_str().unwrap().repeat(times)
    };
    let all = reference["texts"].as_array().unwrap().iter();
    all.map(text).collect()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let Some(path) = real("all-MiniLM-L6-v2/model.safetensors") else {
        return;
    };
    let json = std::fs::read(repo("testdata/real/all-MiniLM-L6-v2.json")).unwrap();
    let reference: Value = serde_json::from_slice(&json).unwrap();
    let store = Store::open(&repo("testdata/real/all-MiniLM-L6-v2.safetensors")).unwrap();
    let stored = store.tensor("vectors").unwrap();
    let rows = stored.data.chunks_exact(2 * 384).map(|row| {
        let mut out = vec![0.0; 384];
        decode_row(stored.dtype, row, &mut out);
        out
    });
    let expected: Vec<Vec<f32>> = rows.collect();
    let texts = texts(&reference);
    assert_eq!((texts.len(), expected.len()), (54, 54));
    let (odd, count) = (
        reference["odd"].as_u64().unwrap() as usize,
        reference["questions"].as_u64().unwrap() as usize,
    );
    // In eight bits, texts of a sign or two, or of tokens that are unknown, are further off
    // than sentences: 0.9977 at least was measured, and 0.999 of those.
    for (quantize, least, of_odd) in [
        (Quantize::None, 0.99999, 0.99999),
        (Quantize::To(DType::Q8_0), 0.999, 0.997),
    ] {
        let options = LoadOptions {
            quantize: Some(quantize),
            threads: Some(2),
            ..LoadOptions::default()
        };
        let folder = Path::new(&path).parent().unwrap();
        let model = Model::open(folder, &options, &mut |_, _| {}).unwrap();
        let embedder = model.embedder().unwrap();
        assert_eq!((embedder.most(), embedder.width()), (256, 384));
        // As there, what is too long is cut.
        let inputs = texts.iter().map(|t| embedder.encode(t, true));
        let inputs: Vec<_> = inputs.collect::<Result<_, _>>().unwrap();
        let made = embedder.run(&inputs).unwrap();
        for (i, text) in texts.iter().enumerate() {
            let near = cosine(&made[i].values, &expected[i]);
            let least = if i < odd { of_odd } else { least };
            let begin: String = text.chars().take(30).collect();
            assert!(near >= least, "{quantize}: {near} of {begin:?}");
        }
        assert_eq!(made.iter().filter(|e| e.truncated).count(), 1);
        // The same passage first for each question; unquantised, the same three.
        let (questions, passages) = made[odd..].split_at(count);
        for (question, best) in questions.iter().zip(reference["best"].as_array().unwrap()) {
            let mut order: Vec<usize> = (0..count).collect();
            let near = |i: usize| cosine(&question.values, &passages[i].values);
            order.sort_by(|&a, &b| near(b).total_cmp(&near(a)));
            let best: Vec<usize> = best
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i.as_u64().unwrap() as usize)
                .collect();
            let same = if quantize == Quantize::None { 3 } else { 1 };
            assert_eq!(order[..same], best[..same]);
        }
    }
}

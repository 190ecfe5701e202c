//! What quantised activations and a half-precision cache cost in quality: the
//! mean negative log-likelihood of a fixed text under the real models, against
//! the same quantised weights in exact arithmetic (`testdata/real`).

mod common;

use common::{floats, ids, real, repo, Runner};
use rustml_model::{KvType, Quantize};
use serde_json::Value;

/// `-ln p(id)` by these logits, in double precision.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - max)
}

fn check(file: &str) {
    let Some(path) = real(file) else { return };
    let reference = repo("testdata/real").join(file).with_extension("json");
    let reference: Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let forced = &reference["forced"];
    let (text, exact) = (ids(&forced["ids"]), floats(&forced["exact_next_logprob"]));
    assert_eq!(
        exact.len() + 1,
        text.len(),
        "a probability for every next token"
    );
    let exact = -exact.iter().map(|&p| f64::from(p)).sum::<f64>() / exact.len() as f64;

    let mut runner = Runner::open(&path, Quantize::None, KvType::F16, 2);
    let vocab = runner.model.spec().vocab;
    // A prompt's kernels, and those of single tokens.
    for chunk in [256, 1] {
        let logits = runner.logits(&text, chunk);
        let next = logits.chunks(vocab).zip(&text[1..]);
        let ours = next.map(|(l, &id)| surprise(l, id)).sum::<f64>() / (text.len() - 1) as f64;
        let off = ours / exact - 1.0;
        eprintln!(
            "{file}, {chunk} at a time: mean NLL {ours:.5}, exact {exact:.5}, {:+.3} %",
            off * 100.0
        );
        assert!(off.abs() < 0.003, "{file}: mean NLL {ours} against {exact}");
    }
}

#[test]
fn smollm2_q4_1() {
    check("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma3_q4_k_m() {
    check("gemma-3-270m-Q4_K_M.gguf");
}

//! What rounded activations and a half-precision cache cost in quality: the
//! mean negative log-likelihood of a fixed text under the real models, against
//! the same quantised weights in exact arithmetic (`testdata/real`), or the same
//! weights in bfloat16 in single precision.

mod common;

use common::{floats, ids, real, repo, Copy, Runner};
use rustml_io::DType;
use rustml_model::{KvSequence, KvType, Quantize};
use serde_json::Value;
use std::path::Path;

/// `-ln p(id)` by these logits, in double precision.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - max)
}

/// Mean over the next tokens of a text that is computed `chunk` tokens at a time.
fn mean_nll(runner: &mut Runner, text: &[u32], chunk: usize) -> f64 {
    let vocab = runner.model.spec().vocab;
    let (mut sequence, mut next, mut sum) = (KvSequence::default(), text[1..].iter(), 0.0);
    for ids in text.chunks(chunk) {
        let logits = runner.feed(&mut sequence, ids);
        let pairs = logits.chunks(vocab).zip(&mut next);
        sum += pairs.map(|(l, &id)| surprise(l, id)).sum::<f64>();
    }
    runner.kv.release(sequence);
    sum / (text.len() - 1) as f64
}

/// Asserts that a model is as good as `exact` says. Rounding goes otherwise on every
/// instruction set and moves each token to either side, so the text has to be long:
/// of a thousand tokens the mean has a standard error of some 0.1 %.
fn compare(path: &Path, text: &[u32], exact: f64, what: &str) {
    let mut runner = Runner::open(path, Quantize::None, KvType::F16, 2);
    // Many decode rows, single ones, and prefill rows where these differ.
    let ways = [(256, false), (1, false), (256, true)];
    let apart = runner.model.phases_differ();
    for (chunk, prompt) in ways.into_iter().filter(|way| apart || !way.1) {
        runner.prompt = prompt;
        let ours = mean_nll(&mut runner, text, chunk);
        let off = ours / exact - 1.0;
        eprintln!(
            "{what}, {chunk} at a time, prompt {prompt}: mean NLL {ours:.5}, exact {exact:.5}, {:+.3} %",
            off * 100.0
        );
        assert!(off.abs() < 0.003, "{what}: mean NLL {ours} against {exact}");
    }
}

/// What was computed exactly of a real model and a text.
fn reference(file: &str) -> Value {
    let path = repo("testdata/real").join(file).with_extension("long.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn check(file: &str) {
    let Some(path) = real(file) else { return };
    let forced = reference(file);
    let (text, exact) = (ids(&forced["ids"]), floats(&forced["exact_next_logprob"]));
    assert_eq!(
        exact.len() + 1,
        text.len(),
        "a probability for every next token"
    );
    let exact = -exact.iter().map(|&p| f64::from(p)).sum::<f64>() / exact.len() as f64;
    compare(&path, &text, exact, file);
}

/// Weights in bfloat16 meet activations rounded to it, which those in single
/// precision do not.
fn check_bf16(file: &str) {
    let Some(path) = real(file) else { return };
    let text = ids(&reference(file)["ids"]);
    let mut copy = Copy::open(&path);
    for t in copy.tensors.iter_mut().filter(|t| t.shape.len() == 2) {
        *t = t.to_f32().to(DType::BF16);
    }
    let written = copy.write();
    drop(copy);
    let path = written.path();
    let mut wide = Runner::open(&path, Quantize::To(DType::F32), KvType::F16, 2);
    let exact = mean_nll(&mut wide, &text, 256);
    drop(wide);
    compare(&path, &text, exact, &format!("{file} in bfloat16"));
}

#[test]
fn smollm2_q4_1() {
    check("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma3_q4_k_m() {
    check("gemma-3-270m-Q4_K_M.gguf");
}

#[test]
fn smollm2_bf16() {
    check_bf16("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma3_bf16() {
    check_bf16("gemma-3-270m-Q4_K_M.gguf");
}

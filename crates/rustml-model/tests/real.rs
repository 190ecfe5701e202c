//! The two real models against llama.cpp and against exact arithmetic.
//!
//! The references (`testdata/real`, made by `scripts/reference`) hold the top
//! ten logits at every position, from llama.cpp and from the same weights in
//! exact arithmetic, and how far llama.cpp is from exact. Activations in eight
//! bits are what both engines give up, so our distance must be no more than
//! that of the reference.

mod common;

use common::{floats, ids, real, repo, Runner};
use rustml_model::{KvType, Quantize};
use serde_json::Value;

fn check(file: &str) {
    let Some(path) = real(file) else { return };
    let reference = repo("testdata/real").join(file).with_extension("json");
    let reference: Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let mut runner = Runner::open(&path, Quantize::None, KvType::F32, 2);
    compare(file, &reference, &mut runner);
    if runner.model.phases_differ() {
        runner.prompt = true;
        compare(&format!("{file} as a prompt"), &reference, &mut runner);
    }
}

fn compare(file: &str, reference: &Value, runner: &mut Runner) {
    let vocab = runner.model.spec().vocab;

    // Every position of a longer text.
    let forced = &reference["forced"];
    let logits = runner.logits(&ids(&forced["ids"]), 256);
    let (mut squares, mut count, mut worst) = (0f64, 0, 0f32);
    for (i, position) in forced["exact_positions"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let ours = &logits[i * vocab..][..vocab];
        for (id, exact) in ids(&position["ids"])
            .into_iter()
            .zip(floats(&position["logits"]))
        {
            let error = (ours[id as usize] - exact).abs();
            squares += f64::from(error * error);
            worst = worst.max(error);
            count += 1;
        }
    }
    let rms = (squares / f64::from(count)).sqrt();
    let theirs = &forced["error"]["llama_cpp_single"];
    let (their_rms, their_worst) = (
        theirs["rms"].as_f64().unwrap(),
        theirs["max"].as_f64().unwrap(),
    );
    eprintln!("{file}: error of the top logits {rms:.3} rms, {worst:.2} at most; llama.cpp's {their_rms:.3}, {their_worst:.2}");
    assert!(rms <= their_rms * 1.1, "less exact than llama.cpp");

    // Greedy: the same tokens, unless two logits are closer than the noise.
    let greedy = &reference["greedy"];
    let theirs = ids(&greedy["ids"]);
    let ours = runner.greedy(&ids(&greedy["prompt_ids"]), theirs.len());
    for (i, ((id, logits), their)) in ours.iter().zip(&theirs).enumerate() {
        if id != their {
            let gap = logits[*id as usize] - logits[*their as usize];
            let top = floats(&greedy["steps"][i]["logits"]);
            let noise = (2.0 * their_rms) as f32 * 2.0;
            eprintln!(
                "{file}: token {i} is {id}, not {their}; gap {gap}, reference gap {}",
                top[0] - top[1]
            );
            assert!(
                gap < noise && top[0] - top[1] < noise,
                "a different token without a near tie"
            );
            break;
        }
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

//! What the tests of whole models share.
#![allow(dead_code)]

mod mutate;
pub mod naive;

#[allow(unused_imports)]
pub use mutate::{Copy, Tensor, Written};

use rustml_io::Store;
use rustml_kernels::par::Team;
use rustml_kernels::Pool;
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model, Output, Quantize};
use rustml_simd::Isa;
use rustml_trace::{Detail, Recorder};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the repository.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// A file of models/. Without it the test is skipped, which is said past the
/// test harness, or fails where `RUSTML_REQUIRE_MODELS` is 1.
pub fn real(name: &str) -> Option<PathBuf> {
    let path = repo("models").join(name);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("models/{name} is missing; run scripts/fetch-models all");
    let required = std::env::var_os("RUSTML_REQUIRE_MODELS").is_some_and(|v| v == "1");
    assert!(!required, "{missing}");
    // Printed by macro it would be captured.
    #[allow(clippy::explicit_write)]
    writeln!(std::io::stderr(), "\n*** SKIPPED: {missing} ***\n").unwrap();
    None
}

/// A tiny model's folder, or a file in it.
pub fn tiny(path: &str) -> PathBuf {
    repo("testdata/tiny").join(path)
}

/// Threads on a given instruction set.
pub fn team(isa: Isa, threads: usize) -> Arc<Team> {
    let pool = Pool::new(threads).unwrap();
    Arc::new(Team { isa, pool })
}

/// A model with its cache, ready to step.
pub struct Runner {
    pub model: Model,
    pub kv: KvPool,
    pub exec: Exec,
    /// Whether rows are prefill rows.
    pub prompt: bool,
}

impl Runner {
    pub fn open(path: &Path, quantize: Quantize, kv_type: KvType, threads: usize) -> Runner {
        let team = rustml_model::team(threads).unwrap();
        Runner::with_team(path, quantize, kv_type, team)
    }

    pub fn with_team(path: &Path, quantize: Quantize, kv_type: KvType, team: Arc<Team>) -> Runner {
        let store = Store::open(path).unwrap_or_else(|e| panic!("{e}"));
        let model =
            Model::load(&store, quantize, team, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
        Runner::of(model, kv_type)
    }

    pub fn of(model: Model, kv_type: KvType) -> Runner {
        let kv = KvPool::new(model.spec(), 1024, kv_type).unwrap();
        let capacity = Capacity {
            rows: 256,
            logit_rows: 256,
        };
        let exec = Exec::new(&model, capacity, Recorder::new(Detail::Off));
        Runner {
            model,
            kv,
            exec,
            prompt: false,
        }
    }

    /// One sequence's next tokens; the logits of all of them.
    pub fn feed(&mut self, sequence: &mut KvSequence, ids: &[u32]) -> Vec<f32> {
        assert!(self.kv.reserve(sequence, ids.len()));
        let mut batch = Batch::default();
        let prompt_len = if self.prompt { usize::MAX } else { 0 };
        batch.push(sequence, ids, prompt_len, Output::Logits(ids.len()));
        let outputs = self.model.forward(&batch, &mut self.kv, &mut self.exec);
        let logits = outputs.logits().flatten().copied().collect();
        sequence.advance(ids.len());
        logits
    }

    /// Logits of every position of a new sequence, fed in chunks.
    pub fn logits(&mut self, ids: &[u32], chunk: usize) -> Vec<f32> {
        let mut sequence = KvSequence::default();
        let mut out = Vec::new();
        for ids in ids.chunks(chunk) {
            out.extend(self.feed(&mut sequence, ids));
        }
        self.kv.release(sequence);
        out
    }

    /// Hidden states of every position of a text.
    pub fn hidden(&mut self, ids: &[u32]) -> Vec<f32> {
        let mut sequence = KvSequence::default();
        assert!(self.kv.reserve(&mut sequence, ids.len()));
        let mut batch = Batch::default();
        batch.push(&sequence, ids, ids.len(), Output::Hidden(ids.len()));
        let outputs = self.model.forward(&batch, &mut self.kv, &mut self.exec);
        let hidden = outputs.hidden().flatten().copied().collect();
        self.kv.release(sequence);
        hidden
    }

    /// Greedy continuation, with the logits each token was chosen from.
    pub fn greedy(&mut self, prompt: &[u32], tokens: usize) -> Vec<(u32, Vec<f32>)> {
        let vocab = self.model.spec().vocab;
        let mut sequence = KvSequence::default();
        let mut logits = self.feed(&mut sequence, prompt);
        let of_prompts = std::mem::take(&mut self.prompt);
        let mut out = Vec::new();
        for _ in 0..tokens {
            let last = logits[logits.len() - vocab..].to_vec();
            let id = argmax(&last);
            out.push((id, last));
            logits = self.feed(&mut sequence, &[id]);
        }
        self.prompt = of_prompts;
        self.kv.release(sequence);
        out
    }
}

pub fn argmax(x: &[f32]) -> u32 {
    let best = x.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

/// Numbers of a JSON list.
pub fn ids(v: &Value) -> Vec<u32> {
    let list = v.as_array().unwrap();
    list.iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Numbers of a JSON list.
pub fn floats(v: &Value) -> Vec<f32> {
    let list = v.as_array().unwrap();
    list.iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// Little-endian single precision numbers.
pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// What a tiny model should say: see `scripts/reference/README.md`.
pub struct Reference {
    pub tokens: Vec<u32>,
    pub greedy: Vec<u32>,
    /// `[tokens, vocab]`
    pub logits: Vec<f32>,
    /// `[greedy, vocab]`
    pub greedy_logits: Vec<f32>,
    /// Distance of the reference from the same in double precision.
    pub error: f32,
    pub logits_std: f64,
    /// Whether there are hidden states in place of logits.
    pub is_encoder: bool,
    /// Whether rotations depend on the length of the text.
    pub one_prefill: bool,
}

impl Reference {
    pub fn of(model: &str) -> Reference {
        Reference::at(&tiny(model))
    }

    pub fn at(folder: &Path) -> Reference {
        let json = std::fs::read(folder.join("reference.json")).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let store = Store::open(&folder.join("reference.safetensors")).unwrap();
        let tensor = |name: &str| f32s(store.tensor(name).unwrap().data);
        let is_encoder = store.find("hidden").is_some();
        Reference {
            is_encoder,
            tokens: ids(&json["tokens"]),
            greedy: ids(&json["greedy"]),
            logits: tensor(if is_encoder { "hidden" } else { "logits" }),
            greedy_logits: match is_encoder {
                true => Vec::new(),
                false => tensor("greedy_logits"),
            },
            error: tensor("f32_f64_error")[0],
            logits_std: json["logits_std"].as_f64().unwrap(),
            one_prefill: json["one_prefill"].as_bool().unwrap_or(false),
        }
    }

    /// What another order of summation may cost: ours is as far from exact as
    /// the reference is, in another direction; ten times leaves room for the
    /// luck of the draw, and is a thirtieth at most of what any wrong weight
    /// or setting costs.
    pub fn tolerance(&self) -> f32 {
        assert!(self.error > 0.0 && self.error < 3e-4);
        10.0 * self.error
    }
}

/// Holds logits and greedy tokens against the reference; returns how far they are off.
#[track_caller]
pub fn check_reference(runner: &mut Runner, reference: &Reference, what: &str) -> f32 {
    let (vocab, tolerance) = (runner.model.spec().vocab, reference.tolerance());
    let logits = match reference.is_encoder {
        true => runner.hidden(&reference.tokens),
        false => runner.logits(&reference.tokens, usize::MAX),
    };
    let mut worst = distance(&logits, &reference.logits);
    assert!(
        worst <= tolerance,
        "{what}: {worst} off, {tolerance} allowed"
    );
    if reference.is_encoder {
        return worst;
    }
    if reference.one_prefill {
        // Each row has a text of its own.
        let mut text = reference.tokens.clone();
        for (i, theirs) in reference.greedy_logits.chunks_exact(vocab).enumerate() {
            let logits = runner.logits(&text, usize::MAX);
            let ours = &logits[logits.len() - vocab..];
            worst = worst.max(distance(ours, theirs));
            assert!(
                worst <= tolerance,
                "{what}, token {i}: {worst} off, {tolerance} allowed"
            );
            text.push(reference.greedy[i]);
        }
        return worst;
    }
    let steps = runner.greedy(&reference.tokens, reference.greedy.len());
    let theirs = reference.greedy_logits.chunks_exact(vocab);
    for (i, ((id, logits), theirs)) in steps.iter().zip(theirs).enumerate() {
        worst = worst.max(distance(logits, theirs));
        assert!(
            worst <= tolerance,
            "{what}, token {i}: {worst} off, {tolerance} allowed"
        );
        assert_eq!(*id, reference.greedy[i], "{what}, token {i}");
    }
    worst
}

/// The largest distance; fails on what is no number.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let distances = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    distances.fold(0.0, |max, d| if d <= max { max } else { d })
}

/// Asserts that two rows of numbers have the same bits.
#[track_caller]
pub fn same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let differs = a
        .iter()
        .zip(b)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(i) = differs {
        panic!("{what}: value {i} is {} and {}", a[i], b[i]);
    }
}

//! What the engine's tests share.
#![allow(dead_code)]

use rustml_engine::{
    Engine, EngineConfig, Finish, Request, RequestId, Sampling, TokenLogprobs, Update,
};
use rustml_io::Store;
use rustml_model::{team, KvType, Model, Quantize};
use rustml_tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A tiny model's.
pub fn folder(name: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny");
    all.join(name)
}

pub fn load(threads: usize) -> (Arc<Model>, Arc<Tokenizer>) {
    load_from(&folder("llama"), threads)
}

pub fn load_from(dir: &Path, threads: usize) -> (Arc<Model>, Arc<Tokenizer>) {
    load_as(dir, Quantize::None, threads)
}

pub fn load_as(dir: &Path, quantize: Quantize, threads: usize) -> (Arc<Model>, Arc<Tokenizer>) {
    let store = Store::open(dir).unwrap();
    let team = team(threads).unwrap();
    let model = Model::load(&store, quantize, team, &mut |_, _| {}).unwrap();
    let tokenizer = Tokenizer::from_dir(dir).unwrap();
    (Arc::new(model), Arc::new(tokenizer))
}

pub fn config() -> EngineConfig {
    EngineConfig {
        context: 256,
        cache_positions: 256,
        rows: 64,
        kv_type: KvType::F32,
        ..EngineConfig::default()
    }
}

pub fn engine(context: usize, positions: usize, sequences: usize, rows: usize) -> Engine {
    let (model, tokenizer) = load(2);
    let config = EngineConfig {
        context,
        cache_positions: positions,
        sequences,
        rows,
        ..config()
    };
    Engine::new(model, tokenizer, config).unwrap()
}

/// Even seeds are greedy.
pub fn request(seed: u64, prompt: usize, max_tokens: usize) -> Request {
    Request {
        prompt: (0..prompt as u32)
            .map(|i| 3 + (i * 7 + seed as u32 * 13) % 200)
            .collect(),
        sampling: Sampling {
            temperature: if seed.is_multiple_of(2) { 0.0 } else { 1.0 },
            seed,
            ..Sampling::default()
        },
        max_tokens,
        continues: true,
        ..Request::default()
    }
}

/// Requests of all kinds, of which some begin alike.
pub fn mixed(i: usize) -> Request {
    let lengths = [5, 90, 33, 1, 64, 129, 17, 70];
    let mut r = request((i % 3) as u64, lengths[i % 8], [30, 70, 1, 110][i % 4]);
    let s = &mut r.sampling;
    s.seed = i as u64;
    s.temperature = [0.0, 0.7, 1.0, 1.3][(i / 2) % 4];
    match i {
        2 => s.top_k = 20,
        3 => s.top_p = 0.9,
        4 => s.min_p = 0.05,
        5 => s.repetition_penalty = 1.2,
        6 => (s.presence_penalty, s.frequency_penalty) = (0.5, 0.3),
        7 => r.logit_bias = vec![(10, 5.0), (11, -100.0)],
        8 => r.logprobs = Some(4),
        9 => r.stop = vec!["e".into(), "the".into()],
        10 | 13 => (r.prompt_logprobs, r.logprobs) = (true, Some(1)),
        11 => r.ignore_end = true,
        // Texts that repeat themselves.
        12 | 14 | 15 => r.logit_bias = vec![(100, 25.0), (101, 24.0), (102, 25.0)],
        _ => {}
    }
    r
}

#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub ids: Vec<u32>,
    pub text: String,
    pub finish: Finish,
    pub logprobs: Vec<TokenLogprobs>,
    pub prompt_logprobs: Vec<TokenLogprobs>,
}

pub fn collect(updates: &[Update], id: RequestId) -> Outcome {
    let mine = || updates.iter().filter(|u| u.id == id);
    let ends: Vec<_> = mine().filter_map(|u| u.finish.clone()).collect();
    assert_eq!(ends.len(), 1, "a request ends once");
    Outcome {
        ids: mine().filter_map(|u| u.token).collect(),
        text: mine().map(|u| u.text.as_str()).collect(),
        finish: ends[0].0.clone(),
        logprobs: mine().filter_map(|u| u.logprobs.clone()).collect(),
        prompt_logprobs: mine().flat_map(|u| u.prompt_logprobs.clone()).collect(),
    }
}

pub fn run(engine: &mut Engine) -> Vec<Update> {
    let mut updates = Vec::new();
    while !engine.is_idle() {
        updates.extend(engine.step());
    }
    updates
}

/// What a request gets on an engine of its own.
pub fn alone(request: Request) -> Outcome {
    let mut e = engine(256, 256, 1, 64);
    let id = e.submit(request).unwrap();
    collect(&run(&mut e), id)
}

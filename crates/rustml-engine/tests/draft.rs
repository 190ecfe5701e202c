//! A draft model changes when tokens come, and never which.

mod common;

use common::{alone, collect, config, folder, load_from, mixed, request, run, Outcome};
use rustml_engine::{
    same_vocabulary, Engine, EngineConfig, Finish, Request, Stats, VocabularyMismatch,
};
use rustml_model::{Model, KV_BLOCK};
use rustml_tokenizer::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// Draft models: the model itself, one that is like it, and one that always
/// takes the unlikeliest token for the likeliest.
fn drafts(threads: usize) -> [(&'static str, Arc<Model>); 3] {
    let dir = tempfile::tempdir().unwrap();
    contrary(dir.path());
    [
        ("itself", load_from(&folder("llama"), threads).0),
        ("in bf16", load_from(&folder("llama-sharded"), threads).0),
        ("contrary", load_from(dir.path(), threads).0),
    ]
}

/// The tiny model with its head negated.
fn contrary(to: &Path) {
    let from = folder("llama");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (head, data) = bytes[8..].split_at_mut(header);
    let head: serde_json::Value = serde_json::from_slice(head).unwrap();
    let head = &head["lm_head.weight"];
    assert_eq!(head["dtype"], "F32");
    let offset = |i: usize| head["data_offsets"][i].as_u64().unwrap() as usize;
    for value in data[offset(0)..offset(1)].chunks_exact_mut(4) {
        value[3] ^= 0x80;
    }
    std::fs::write(to.join("model.safetensors"), bytes).unwrap();
}

fn drafted(config: EngineConfig, threads: usize, draft: &Arc<Model>) -> Engine {
    let (model, tokenizer) = load_from(&folder("llama"), threads);
    let mut e = Engine::new(model, tokenizer, config).unwrap();
    e.set_draft(draft.clone()).unwrap();
    e
}

fn long(seed: u64, tokens: usize) -> Request {
    Request {
        ignore_end: true,
        ..request(seed, 20, tokens)
    }
}

/// Runs a request; what it got, and what was counted.
fn run_one(e: &mut Engine, request: Request) -> (Outcome, Stats) {
    let id = e.submit(request).unwrap();
    let updates = run(e);
    let timings = updates.iter().find_map(|u| u.finish.clone()).unwrap().1;
    let stats = e.stats();
    let counted = (timings.guessed as u64, timings.right as u64);
    assert_eq!(counted, (stats.proposed, stats.accepted));
    assert_eq!(u64::from(timings.guesses_off), stats.guesses_off);
    (collect(&updates, id), stats)
}

/// Greedy or drawn, what the model itself guesses is right: it has the same
/// dice.
#[test]
fn a_model_guesses_itself() {
    let [(_, draft), ..] = drafts(2);
    for seed in [2, 3] {
        for always_guess in [None, Some(1), Some(5)] {
            let config = EngineConfig {
                always_guess,
                ..config()
            };
            let mut e = drafted(config, 2, &draft);
            let (got, stats) = run_one(&mut e, long(seed, 150));
            assert_eq!(got, alone(long(seed, 150)));
            assert!(stats.proposed > 0, "{stats:?}");
            assert_eq!(stats.accepted, stats.proposed, "seed {seed}");
            assert!(stats.draft_seconds > 0.0);
            if always_guess == Some(5) {
                // 150 by sixes, but for some that are left out.
                assert!(stats.steps < 40, "{stats:?}");
            }
        }
    }
}

#[test]
fn a_model_that_is_like_it_is_mostly_right() {
    let [_, (_, draft), _] = drafts(1);
    let config = EngineConfig {
        always_guess: Some(3),
        ..config()
    };
    let mut e = drafted(config, 1, &draft);
    let (got, stats) = run_one(&mut e, long(2, 150));
    assert_eq!(got, alone(long(2, 150)));
    assert!(stats.accepted * 2 > stats.proposed, "{stats:?}");
}

/// Guesses that are always wrong are soon made no more.
#[test]
fn wrong_guesses_are_switched_off() {
    let [.., (_, draft)] = drafts(1);
    let mut e = drafted(config(), 1, &draft);
    let (got, stats) = run_one(&mut e, long(2, 200));
    assert_eq!(got, alone(long(2, 200)));
    assert_eq!((stats.accepted, stats.guesses_off), (0, 1), "{stats:?}");
    assert!((1..100).contains(&stats.proposed), "{stats:?}");
}

/// Sixteen requests of all kinds, in a cache that cannot hold four of them.
#[test]
fn mixed_requests_get_what_they_get_alone() {
    let expected: Vec<Outcome> = (0..16).map(|i| alone(mixed(i))).collect();
    for (threads, speculate, always_guess) in
        [(1, false, Some(4)), (2, true, Some(2)), (2, true, None)]
    {
        for (name, draft) in drafts(threads) {
            let config = EngineConfig {
                speculate,
                always_guess,
                cache_positions: 7 * KV_BLOCK,
                sequences: 8,
                rows: 48,
                ..config()
            };
            let mut e = drafted(config, threads, &draft);
            // The second time, much of it is in the caches.
            for round in 0..2 {
                let ids: Vec<_> = (0..16).map(|i| e.submit(mixed(i)).unwrap()).collect();
                let updates = run(&mut e);
                for (i, id) in ids.into_iter().enumerate() {
                    let got = collect(&updates, id);
                    assert_eq!(
                        got, expected[i],
                        "{name}, {always_guess:?}, {round}, request {i}"
                    );
                }
                let stats = e.stats();
                assert!(stats.preemptions > 0, "the cache was too large");
                assert_eq!((stats.kv_used, stats.draft_kv_used), (0, 0), "{name}");
                assert!(stats.proposed > 0, "{stats:?}");
            }
        }
    }
}

/// What is guessed for a request that goes is given back with it.
#[test]
fn a_cancelled_request_gives_back_the_drafts_cache() {
    let [(_, draft), ..] = drafts(1);
    let config = EngineConfig {
        always_guess: Some(4),
        cache_positions: 512,
        sequences: 3,
        ..config()
    };
    let mut e = drafted(config, 1, &draft);
    let ids = [2, 3, 4].map(|seed| e.submit(long(seed, 100)).unwrap());
    (0..10).for_each(|_| drop(e.step()));
    let before = e.stats().draft_kv_used;
    e.cancel(ids[1], Finish::Cancelled).unwrap();
    assert!(e.stats().draft_kv_used < before);
    e.cancel_all(Finish::Cancelled);
    assert_eq!(e.stats().draft_kv_used, 0);
}

/// A text that the draft model's cache cannot hold is read on without it.
#[test]
fn what_the_draft_cannot_have_is_not_guessed() {
    let (draft, _) = load_from(&folder("llama"), 1);
    let config = EngineConfig {
        context: 300,
        cache_positions: 320,
        always_guess: Some(4),
        ..config()
    };
    let mut e = drafted(config, 1, &draft);
    let id = e.submit(long(2, 270)).unwrap();
    let updates = run(&mut e);
    // The draft model was made for 256 positions.
    assert_eq!(collect(&updates, id).ids.len(), 270);
    assert!(e.stats().proposed > 0);
}

#[test]
fn other_vocabularies_are_refused() {
    let tokenizer = |dir: &Path| Tokenizer::from_dir(dir).unwrap();
    let model = tokenizer(&folder("llama"));
    assert_eq!(
        same_vocabulary(&model, &tokenizer(&folder("llama-sharded"))),
        Ok(())
    );
    assert_eq!(
        same_vocabulary(&model, &tokenizer(&folder("llama-tied"))),
        Err(VocabularyMismatch::Size {
            model: 352,
            draft: 320
        })
    );
    // Two tokens change places.
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder("llama").join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let at = |vocab: &serde_json::Map<_, _>, id: u64| -> String {
        let found = vocab
            .iter()
            .find(|(_, v): &(&String, &serde_json::Value)| v.as_u64() == Some(id));
        found.unwrap().0.clone()
    };
    let (a, b) = (at(vocab, 300), at(vocab, 301));
    vocab.insert(a.clone(), 301.into());
    vocab.insert(b.clone(), 300.into());
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    assert_eq!(
        same_vocabulary(&model, &tokenizer(dir.path())),
        Err(VocabularyMismatch::Token {
            id: 300,
            model: a,
            draft: b
        })
    );
}

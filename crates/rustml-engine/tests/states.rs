//! Models whose layers carry a state from position to position: what a request gets does
//! not depend on who else runs, whether it had to make room, or from which kept state it
//! goes on; and what was read is not read again.

mod common;

use common::{collect, config, load_from, mixed, request, run, Outcome};
use proptest::prelude::*;
use rustml_engine::{Engine, EngineConfig, Finish, Request, Update};
use rustml_model::{Model, KV_BLOCK};
use rustml_tokenizer::Tokenizer;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A short convolution, a gated delta net, Mamba-2 with experts, one block a layer, and
/// nothing but Mamba-2.
const MODELS: [&str; 5] = [
    "lfm2",
    "qwen3_5",
    "granitemoehybrid",
    "nemotron_h",
    "mamba2",
];

type Loaded = (Arc<Model>, Arc<Tokenizer>);

fn load(name: &str, threads: usize) -> Loaded {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/families");
    load_from(&all.join(name), threads)
}

fn engine(loaded: &Loaded, config: EngineConfig) -> Engine {
    Engine::new(loaded.0.clone(), loaded.1.clone(), config).unwrap()
}

fn alone(loaded: &Loaded, request: Request) -> Outcome {
    let mut e = engine(loaded, config());
    let id = e.submit(request).unwrap();
    collect(&run(&mut e), id)
}

#[test]
fn mixed_requests_get_what_they_get_alone() {
    let mut preemptions = 0;
    for name in MODELS {
        let expected: Vec<Outcome> = {
            let loaded = load(name, 1);
            (0..16).map(|i| alone(&loaded, mixed(i))).collect()
        };
        for (threads, checkpoints) in [(1, 0), (2, 1), (3, 16)] {
            let config = EngineConfig {
                speculate: true,
                always_guess: Some(4),
                cache_positions: 7 * KV_BLOCK,
                sequences: 8,
                rows: 48,
                checkpoints: Some(checkpoints),
                ..config()
            };
            let mut e = engine(&load(name, threads), config);
            for round in 0..2 {
                let ids: Vec<_> = (0..16).map(|i| e.submit(mixed(i)).unwrap()).collect();
                let updates = run(&mut e);
                for (i, id) in ids.into_iter().enumerate() {
                    let got = collect(&updates, id);
                    assert_eq!(got, expected[i], "{name}, {threads} threads, {round}, {i}");
                }
                let stats = e.stats();
                assert_eq!((stats.kv_used, stats.running, stats.waiting), (0, 0, 0));
            }
            preemptions += e.stats().preemptions;
            assert_eq!(e.stats().accepted, 0, "a state cannot go back");
            assert!(
                e.stats().prefix_hits > 0 || checkpoints < 16,
                "nothing was shared"
            );
        }
    }
    assert!(preemptions > 0, "the cache was too large");
}

#[test]
fn a_conversation_reads_only_what_is_new() {
    for name in MODELS {
        let loaded = load(name, 2);
        let mut e = engine(&loaded, config());
        let cached = |updates: &[Update], id| {
            let mut ends = updates.iter().filter(|u| u.id == id);
            let finish = ends.find_map(|u| u.finish.clone());
            let (_, timings) = finish.expect("it ended");
            (timings.cached_tokens, timings.computed_tokens())
        };
        let first = e.submit(request(2, 70, 6)).unwrap();
        let one = collect(&run(&mut e), first);

        // The conversation goes on where it ended; the last token was never computed.
        let next = || {
            let mut next = request(2, 70, 6);
            next.prompt.extend(&one.ids);
            next.prompt.extend([9, 8, 7]);
            next
        };
        let second = e.submit(next()).unwrap();
        let updates = run(&mut e);
        let fed = one.ids.len() - usize::from(one.finish != Finish::Stop);
        assert_eq!(cached(&updates, second).0, 70 + fed, "{name}");
        assert_eq!(collect(&updates, second), alone(&loaded, next()));

        // The very same again: from the last full block of the prompt.
        let third = e.submit(next()).unwrap();
        let updates = run(&mut e);
        assert_eq!(cached(&updates, third).0, 64, "{name}");
        assert_eq!(collect(&updates, third), alone(&loaded, next()));

        // Another that parts within the second block, and one within the first.
        for (at, found) in [(66, 64), (20, 0)] {
            let other = || {
                let mut other = request(2, 70, 6);
                other.prompt[at] += 1;
                other
            };
            let id = e.submit(other()).unwrap();
            let updates = run(&mut e);
            assert_eq!(cached(&updates, id).0, found, "{name}");
            assert_eq!(collect(&updates, id), alone(&loaded, other()));
        }
        let misses = e.stats().prefix_misses;
        assert!(misses.new > 0 && misses.diverged > 0, "{misses:?}");
    }
}

/// Several answers to one prompt read it once, up to its last full block.
#[test]
fn a_prompt_is_read_once_for_all_answers() {
    let loaded = load("qwen3_5", 2);
    let config = EngineConfig {
        context: 1024,
        cache_positions: 8192,
        sequences: 4,
        rows: 256,
        ..config()
    };
    let mut e = engine(&loaded, config);
    let of = |seed| Request {
        sampling: request(seed, 1, 1).sampling,
        ..request(2, 601, 8)
    };
    let ids: Vec<_> = (0..4).map(|i| e.submit(of(2 * i + 1)).unwrap()).collect();
    let updates = run(&mut e);
    let last_block = 600 / KV_BLOCK * KV_BLOCK;
    assert_eq!(e.stats().prefix_hits as usize, 3 * last_block);
    assert_eq!(
        e.stats().prefill_tokens as usize,
        601 + 3 * (601 - last_block)
    );
    for (i, id) in (0..).zip(ids) {
        let mut e = engine(
            &loaded,
            EngineConfig {
                sequences: 1,
                ..config
            },
        );
        let one = e.submit(of(2 * i + 1)).unwrap();
        assert_eq!(collect(&updates, id), collect(&run(&mut e), one));
    }
}

#[test]
fn a_draft_model_is_refused_in_a_sentence() {
    let (stateful, plain) = (load("lfm2", 1), common::load(1));
    for (model, draft) in [(&stateful, &plain), (&plain, &stateful)] {
        let mut e = engine(model, config());
        let refusal = e.set_draft(draft.0.clone()).unwrap_err().to_string();
        assert!(
            refusal.contains("lfm2") && refusal.contains("draft"),
            "{refusal}"
        );
    }
}

#[derive(Clone, Debug)]
enum Act {
    Submit(usize),
    Steps(usize),
    Cancel(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..16usize).prop_map(Act::Submit),
        3 => (1..30usize).prop_map(Act::Steps),
        1 => (0..8usize).prop_map(Act::Cancel),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_events_is_harmless(
        acts in acts(),
        which in 0..MODELS.len(),
        blocks in 4..9usize,
        sequences in 1..7usize,
        rows in 8..64usize,
        checkpoints in 0..6usize,
    ) {
        static ALL: OnceLock<Vec<(Loaded, Vec<Outcome>)>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let each = MODELS.iter().map(|name| {
                let loaded = load(name, 1);
                let expected = (0..16).map(|i| alone(&loaded, mixed(i))).collect();
                (loaded, expected)
            });
            each.collect()
        });
        let (loaded, expected) = &all[which];
        let config = EngineConfig {
            cache_positions: blocks * KV_BLOCK,
            sequences,
            rows,
            checkpoints: Some(checkpoints),
            ..config()
        };
        let mut e = engine(loaded, config);
        let (mut ids, mut updates) = (Vec::new(), Vec::new());
        for act in acts {
            match act {
                Act::Submit(i) => ids.push((e.submit(mixed(i)).unwrap(), i, false)),
                Act::Steps(n) => (0..n).for_each(|_| updates.extend(e.step())),
                Act::Cancel(n) => {
                    if let Some((id, _, cancelled)) = ids.get_mut(n) {
                        if let Some(last) = e.cancel(*id, Finish::Cancelled) {
                            *cancelled = true;
                            updates.push(last);
                        }
                    }
                }
            }
        }
        updates.extend(run(&mut e));
        for (id, i, cancelled) in ids {
            let got = collect(&updates, id);
            if !cancelled {
                prop_assert_eq!(&got, &expected[i]);
            }
        }
        let stats = e.stats();
        prop_assert_eq!((stats.kv_used, stats.running, stats.waiting), (0, 0, 0));
    }
}

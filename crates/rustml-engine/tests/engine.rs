//! The loop on tiny models: what a request gets does not depend on who else
//! runs, and caches come back.

use rustml_engine::{
    Engine, EngineConfig, Finish, Refusal, Request, RequestId, Sampling, Timings, Update,
};
use rustml_io::Store;
use rustml_model::{team, KvType, Model, Quantize, KV_BLOCK};
use rustml_tokenizer::Tokenizer;
use rustml_trace::Detail;
use std::path::Path;
use std::sync::Arc;

fn engine(context: usize, positions: usize, sequences: usize, rows: usize) -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/llama");
    let store = Store::open(&dir).unwrap();
    let model = Model::load(&store, Quantize::None, team(2).unwrap(), &mut |_, _| {}).unwrap();
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    let config = EngineConfig {
        context,
        cache_positions: positions,
        sequences,
        rows,
        kv_type: KvType::F32,
        detail: Detail::Off,
    };
    Engine::new(Arc::new(model), Arc::new(tokenizer), config).unwrap()
}

fn request(seed: u64, prompt: usize, max_tokens: usize) -> Request {
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
        keep: false,
        ignore_end: false,
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    text: String,
    finish: Finish,
}

fn collect(updates: &[Update], id: RequestId) -> Outcome {
    let mine = || updates.iter().filter(|u| u.id == id);
    Outcome {
        ids: mine().filter_map(|u| u.token).collect(),
        text: mine().map(|u| u.text.as_str()).collect(),
        finish: mine().find_map(|u| u.finish).expect("it finished").0,
    }
}

fn run(engine: &mut Engine) -> Vec<Update> {
    let mut updates = Vec::new();
    while !engine.is_idle() {
        updates.extend(engine.step());
    }
    updates
}

fn alone(seed: u64, prompt: usize, max_tokens: usize) -> Outcome {
    let mut e = engine(256, 256, 1, 64);
    let id = e.submit(request(seed, prompt, max_tokens), None).unwrap();
    collect(&run(&mut e), id)
}

fn timings(updates: &[Update], id: RequestId) -> Timings {
    let mut last = updates
        .iter()
        .filter(|u| u.id == id)
        .filter_map(|u| u.finish);
    last.next().expect("it finished").1
}

#[test]
fn what_runs_beside_a_request_does_not_matter() {
    // Prompts longer than a step, more requests than run at a time.
    let shapes = [
        (1, 5, 12),
        (2, 90, 7),
        (3, 33, 20),
        (4, 1, 9),
        (5, 64, 3),
        (6, 17, 1),
    ];
    let mut e = engine(256, 3 * 128, 3, 16);
    let ids = shapes.map(|(seed, prompt, max)| e.submit(request(seed, prompt, max), None).unwrap());
    let updates = run(&mut e);
    for (id, (seed, prompt, max)) in ids.into_iter().zip(shapes) {
        assert_eq!(
            collect(&updates, id),
            alone(seed, prompt, max),
            "request {id}"
        );
    }
}

#[test]
fn a_request_ends_for_the_reason_it_says() {
    let length = alone(2, 10, 4);
    assert_eq!((length.finish, length.ids.len()), (Finish::Length, 4));
    let nothing = alone(2, 10, 0);
    assert_eq!((nothing.finish, nothing.ids.len()), (Finish::Length, 0));

    let mut e = engine(20, 64, 1, 64);
    let id = e.submit(request(2, 15, 100), None).unwrap();
    let full = collect(&run(&mut e), id);
    if full.finish != Finish::Stop {
        assert_eq!((full.finish, full.ids.len()), (Finish::Context, 5));
    }

    let mut e = engine(256, 256, 1, 64);
    let first = e.submit(request(2, 10, 50), None).unwrap();
    let second = e.submit(request(4, 10, 50), None).unwrap();
    e.step();
    let cancelled = e.cancel(first, Finish::Cancelled).expect("it was there");
    assert_eq!(cancelled.finish.unwrap().0, Finish::Cancelled);
    let waiting = e.cancel_all(Finish::Timeout);
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        (waiting[0].id, waiting[0].finish.unwrap().0),
        (second, Finish::Timeout)
    );
    assert!(e.is_idle() && e.cancel(first, Finish::Cancelled).is_none());
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let mut e = engine(64, 64, 1, 64);
    assert_eq!(e.submit(request(1, 0, 5), None), Err(Refusal::EmptyPrompt));
    let long = Refusal::PromptTooLong {
        prompt: 64,
        context: 64,
    };
    assert_eq!(e.submit(request(1, 64, 5), None), Err(long));
    let mut unknown = request(1, 3, 5);
    unknown.prompt[1] = 1_000_000;
    assert!(matches!(
        e.submit(unknown, None),
        Err(Refusal::UnknownToken { id: 1_000_000, .. })
    ));
    let mut hot = request(1, 3, 5);
    hot.sampling.temperature = -1.0;
    assert!(matches!(e.submit(hot, None), Err(Refusal::Sampling(_))));
    let mut small = engine(1000, KV_BLOCK, 1, 64);
    assert!(matches!(
        small.submit(request(1, 60, 50), None),
        Err(Refusal::CacheTooSmall { .. })
    ));
    assert!(
        e.is_idle() && small.is_idle(),
        "a refusal leaves nothing behind"
    );
}

#[test]
fn a_kept_cache_serves_what_begins_alike() {
    let mut e = engine(256, 256, 1, 64);
    let mut first = request(2, 70, 6);
    first.keep = true;
    let id = e.submit(first.clone(), None).unwrap();
    let one = collect(&run(&mut e), id);

    // The conversation goes on: prompt, answer, and something new.
    let mut next = first.clone();
    next.prompt.extend(&one.ids);
    next.prompt.extend([9, 8, 7]);
    let resumed = e.submit(next.clone(), Some(id)).unwrap();
    let updates = run(&mut e);
    let warm = collect(&updates, resumed);
    // The last token of the answer was never computed, nor were the new ones.
    assert_eq!(timings(&updates, resumed).prompt_tokens, 4);

    next.keep = false;
    let mut cold = engine(256, 256, 1, 64);
    let id = cold.submit(next.clone(), None).unwrap();
    assert_eq!(warm, collect(&run(&mut cold), id));

    // Something else altogether from the same cache, and the very same again.
    let mut other = request(4, 30, 5);
    other.keep = true;
    let id = e.submit(other.clone(), Some(resumed)).unwrap();
    assert_eq!(collect(&run(&mut e), id), alone(4, 30, 5));
    let again = e.submit(other, Some(id)).unwrap();
    let updates = run(&mut e);
    assert_eq!(collect(&updates, again), alone(4, 30, 5));
    assert_eq!(timings(&updates, again).prompt_tokens, 1);
}

#[test]
fn kept_caches_stand_back_for_work() {
    let mut e = engine(128, 128, 2, 64);
    let mut kept = request(2, 100, 3);
    kept.keep = true;
    let id = e.submit(kept, None).unwrap();
    run(&mut e);
    // There is no room beside the kept cache.
    let big = e.submit(request(4, 100, 3), None).unwrap();
    assert_eq!(collect(&run(&mut e), big), alone(4, 100, 3));
    // It is gone, so a request that would resume it computes all.
    let again = e.submit(request(2, 100, 3), Some(id)).unwrap();
    let updates = run(&mut e);
    assert_eq!(timings(&updates, again).prompt_tokens, 100);
}

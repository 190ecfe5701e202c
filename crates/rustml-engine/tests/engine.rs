//! The loop on tiny models: what a request gets does not depend on who else
//! runs, and caches come back.

use rustml_engine::{
    Engine, EngineConfig, Finish, Refusal, Request, RequestId, Sampling, Timings, Update,
};
use rustml_io::Store;
use rustml_model::{team, KvType, Model, Quantize, KV_BLOCK};
use rustml_tokenizer::Tokenizer;
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
        ..EngineConfig::default()
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
        ..Request::default()
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
        finish: mine()
            .find_map(|u| u.finish.clone())
            .expect("it finished")
            .0,
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
    let id = e.submit(request(seed, prompt, max_tokens)).unwrap();
    collect(&run(&mut e), id)
}

fn timings(updates: &[Update], id: RequestId) -> Timings {
    let mut last = updates
        .iter()
        .filter(|u| u.id == id)
        .filter_map(|u| u.finish.clone());
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
    let ids = shapes.map(|(seed, prompt, max)| e.submit(request(seed, prompt, max)).unwrap());
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
    let id = e.submit(request(2, 15, 100)).unwrap();
    let full = collect(&run(&mut e), id);
    if full.finish != Finish::Stop {
        assert_eq!((full.finish, full.ids.len()), (Finish::Context, 5));
    }

    let mut e = engine(256, 256, 1, 64);
    let first = e.submit(request(2, 10, 50)).unwrap();
    let second = e.submit(request(4, 10, 50)).unwrap();
    e.step();
    let cancelled = e.cancel(first, Finish::Cancelled).expect("it was there");
    assert_eq!(cancelled.finish.unwrap().0, Finish::Cancelled);
    let waiting = e.cancel_all(Finish::Timeout);
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        (waiting[0].id, waiting[0].finish.clone().unwrap().0),
        (second, Finish::Timeout)
    );
    assert!(e.is_idle() && e.cancel(first, Finish::Cancelled).is_none());
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let mut e = engine(64, 64, 1, 64);
    assert_eq!(e.submit(request(1, 0, 5)), Err(Refusal::EmptyPrompt));
    let long = Refusal::PromptTooLong {
        prompt: 64,
        context: 64,
    };
    assert_eq!(e.submit(request(1, 64, 5)), Err(long));
    let mut unknown = request(1, 3, 5);
    unknown.prompt[1] = 1_000_000;
    assert!(matches!(
        e.submit(unknown),
        Err(Refusal::UnknownToken { id: 1_000_000, .. })
    ));
    let mut hot = request(1, 3, 5);
    hot.sampling.temperature = -1.0;
    assert!(matches!(e.submit(hot), Err(Refusal::Sampling(_))));
    let mut small = engine(1000, KV_BLOCK, 1, 64);
    assert!(matches!(
        small.submit(request(1, 60, 50)),
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
    let keep = |seed, prompt, max, resume| Request {
        keep: true,
        resume,
        ..request(seed, prompt, max)
    };
    let first = keep(2, 70, 6, None);
    let mut prompt = first.prompt.clone();
    let id = e.submit(first).unwrap();
    let one = collect(&run(&mut e), id);

    // The conversation goes on: prompt, answer, and something new.
    prompt.extend(&one.ids);
    prompt.extend([9, 8, 7]);
    let next = |resume| Request {
        prompt: prompt.clone(),
        ..keep(2, 70, 6, resume)
    };
    let resumed = e.submit(next(Some(id))).unwrap();
    let updates = run(&mut e);
    let warm = collect(&updates, resumed);
    // The last token of the answer was never computed, nor were the new ones.
    assert_eq!(timings(&updates, resumed).computed_tokens(), 4);

    let mut cold = engine(256, 256, 1, 64);
    let id = cold.submit(next(None)).unwrap();
    assert_eq!(warm, collect(&run(&mut cold), id));
}

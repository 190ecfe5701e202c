//! The loop on tiny models: what a request gets does not depend on who else
//! runs, whether it had to make room, or what was in the cache.

mod common;

use common::{alone, collect, config, engine, folder, load, load_as, mixed, request, run, Outcome};
use rustml_engine::{
    Engine, EngineConfig, Finish, Refusal, Request, RequestId, Timings, Update, MAX_LOGPROBS,
};
use rustml_io::DType;
use rustml_model::{KvType, Quantize, KV_BLOCK};
use rustml_trace::{Detail, Op};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

fn timings(updates: &[Update], id: RequestId) -> Timings {
    let mut last = updates
        .iter()
        .filter(|u| u.id == id)
        .filter_map(|u| u.finish.clone());
    last.next().expect("it finished").1
}

fn engine_of(config: EngineConfig, threads: usize) -> Engine {
    let (model, tokenizer) = load(threads);
    Engine::new(model, tokenizer, config).unwrap()
}

/// Putting memory in order comes to an end, and changes nothing.
#[test]
fn a_tidy_engine_says_the_same() {
    let mut engine = engine_of(EngineConfig::default(), 2);
    let mut all = Vec::new();
    for _ in 0..2 {
        let id = engine.submit(request(0, 5, 8)).unwrap();
        let updates = run(&mut engine);
        all.push(collect(&updates, id));
        while engine.tidy() {}
    }
    assert_eq!(all[0], all[1]);
}

/// Sixteen requests of all kinds, in a cache that cannot hold four of them.
#[test]
fn mixed_requests_get_what_they_get_alone() {
    let expected: Vec<Outcome> = (0..16).map(|i| alone(mixed(i))).collect();
    for (threads, speculate) in [(1, false), (2, true), (3, false), (1, true)] {
        let config = EngineConfig {
            speculate,
            // Whether it pays on this machine does not matter here.
            always_guess: speculate.then_some(4),
            context: 256,
            cache_positions: 7 * KV_BLOCK,
            sequences: 8,
            rows: 48,
            ..common::config()
        };
        let mut e = engine_of(config, threads);
        // The second time, much of it is in the cache.
        for round in 0..2 {
            let ids: Vec<_> = (0..16).map(|i| e.submit(mixed(i)).unwrap()).collect();
            let updates = run(&mut e);
            for (i, id) in ids.into_iter().enumerate() {
                let got = collect(&updates, id);
                assert_eq!(got, expected[i], "{threads} threads, {round}, request {i}");
            }
            let stats = e.stats();
            assert!(stats.preemptions > 0, "the cache was too large");
            assert!(stats.prefix_hits > 0, "nothing was shared");
            assert_eq!((stats.kv_used, stats.running, stats.waiting), (0, 0, 0));
        }
        let stats = e.stats();
        assert_eq!(stats.accepted > 0, speculate, "{stats:?}");
        let misses = stats.prefix_misses;
        assert!(
            misses.new > 0 && misses.evicted > 0 && misses.diverged > 0,
            "{misses:?}"
        );
    }
}

/// The same of quantised weights, by which prompts are computed apart on some machines:
/// then a request is of one kind up to the end of its prompt and of another from there,
/// also where it is read again, where one token of it is left, and where it is guessed.
#[test]
fn quantised_requests_get_what_they_get_alone() {
    let quantize = Quantize::To(DType::Q8_0);
    let (model, tokenizer) = load_as(&folder("llama"), quantize, 2);
    let requests = || {
        let lengths = [(70, 100), (5, 130), (129, 90), (1, 70), (64, 120), (33, 60)];
        let each = lengths.into_iter().enumerate();
        each.map(|(i, (prompt, max_tokens))| {
            let mut r = request(i as u64, prompt, max_tokens);
            if i == 4 {
                // It repeats itself, from the beginning.
                r.prompt = (100..103).cycle().take(prompt).collect();
                r.logit_bias = vec![(100, 25.0), (101, 24.0), (102, 25.0)];
            }
            Request {
                logprobs: Some(2),
                prompt_logprobs: i == 2,
                ignore_end: true,
                ..r
            }
        })
    };
    let run_all = |config: EngineConfig, draft: bool| {
        let mut e = Engine::new(model.clone(), tokenizer.clone(), config).unwrap();
        if draft {
            e.set_draft(model.clone()).unwrap();
        }
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        // Where prefill rows have an arithmetic of their own, a step has up to two passes.
        let passes = if model.phases_differ() { 1..=2 } else { 1..=1 };
        e.set_observer(Arc::new(move |step| {
            let events = |op| step.events.iter().filter(|e| e.op == op).count();
            assert!(passes.contains(&events(Op::Embed)), "{passes:?}");
            assert_eq!(events(Op::RopeTable), events(Op::Embed));
            assert_eq!(events(Op::Sample), 1);
            count.fetch_add(1, Ordering::SeqCst);
        }));
        // The second time, prompts are in the cache, if there was room; the third time
        // one comes after the other.
        let rounds = [false, false, true].map(|in_turn| {
            let mut updates = Vec::new();
            let submitted = requests().map(|r| {
                let id = e.submit(r).unwrap();
                if in_turn {
                    updates.extend(run(&mut e));
                }
                id
            });
            let ids: Vec<_> = submitted.collect();
            updates.extend(run(&mut e));
            let outcomes = ids.into_iter().map(|id| collect(&updates, id));
            outcomes.collect::<Vec<_>>()
        });
        (rounds, e.stats(), seen.load(Ordering::SeqCst))
    };
    let alone = EngineConfig {
        kv_type: KvType::F16,
        detail: Detail::Operations,
        cache_positions: 4096,
        ..config()
    };
    let ([expected, again, in_turn], stats, seen) = run_all(alone, false);
    assert_eq!(expected, again);
    assert_eq!(expected, in_turn);
    assert_eq!((stats.steps, stats.preemptions), (seen, 0));
    for (blocks, rows, speculate, draft) in [
        (9, 256, false, false),
        (9, 48, true, false),
        (9, 24, true, true),
        (64, 64, true, true),
    ] {
        let config = EngineConfig {
            cache_positions: blocks * KV_BLOCK,
            sequences: 6,
            rows,
            speculate,
            always_guess: speculate.then_some(3),
            ..alone
        };
        let (rounds, stats, seen) = run_all(config, draft);
        for (round, got) in rounds.iter().enumerate() {
            for (i, got) in got.iter().enumerate() {
                let what = format!("{blocks} blocks, {rows} rows, {round}, request {i}");
                assert_eq!(got, &expected[i], "{what}");
            }
        }
        assert_eq!(stats.preemptions > 0, blocks == 9, "{stats:?}");
        assert!(stats.accepted > 0 || !draft, "{stats:?}");
        assert_eq!(seen, stats.steps);
    }
}

/// The second one goes while its prompt is read and reported, and what it had
/// reported was reported again.
#[test]
fn a_prompt_is_reported_once() {
    let config = EngineConfig {
        cache_positions: 4 * KV_BLOCK,
        sequences: 2,
        rows: 8,
        ..common::config()
    };
    let mut e = engine_of(config, 1);
    let ids = [5, 13].map(|i| (i, e.submit(mixed(i)).unwrap()));
    let updates = run(&mut e);
    assert!(e.stats().preemptions > 0);
    for (i, id) in ids {
        assert_eq!(collect(&updates, id), alone(mixed(i)), "request {i}");
    }
}

/// Answers to one prompt, asked for at the same time, read it once; and so do
/// requests that share its beginning. What each gets is what it gets alone.
#[test]
fn a_prompt_that_several_have_is_read_once() {
    let config = EngineConfig {
        cache_positions: 64 * KV_BLOCK,
        sequences: 8,
        rows: 48,
        ..common::config()
    };
    let mut e = engine_of(config, 1);
    let other = || {
        let mut r = request(5, 200, 12);
        r.prompt.extend([7; 30]);
        r
    };
    let mut ids = vec![e.submit(other()).unwrap()];
    ids.extend([(); 4].map(|()| e.submit(request(5, 200, 12)).unwrap()));
    let updates = run(&mut e);
    let expected = [alone(other()), alone(request(5, 200, 12))];
    for (i, id) in ids.into_iter().enumerate() {
        assert_eq!(collect(&updates, id), expected[i.min(1)], "request {i}");
    }
    // Each computes its last token, for its logits, and a few rows that are not
    // worth waiting for.
    let stats = e.stats();
    assert!(stats.prefill_tokens < 230 + 4 * 16, "{stats:?}");
    assert!(stats.prefix_hits > 4 * (199 - 16), "{stats:?}");
}

/// Requests with different salts share nothing.
#[test]
fn salts_keep_apart() {
    let mut e = engine(256, 1024, 1, 64);
    for (salt, hits) in [(1, 0), (2, 0), (1, 99), (2, 198)] {
        let salted = Request {
            cache_salt: salt,
            ..request(5, 100, 3)
        };
        e.submit(salted).unwrap();
        run(&mut e);
        assert_eq!(e.stats().prefix_hits, hits, "salt {salt}");
    }
}

#[test]
fn a_request_ends_for_the_reason_it_says() {
    let length = alone(request(2, 10, 4));
    assert_eq!((length.finish, length.ids.len()), (Finish::Length, 4));
    let nothing = alone(request(2, 10, 0));
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
    assert!(e.is_idle());
    assert_eq!(e.cancel(first, Finish::Cancelled), None);
}

#[test]
fn a_cancelled_request_frees_its_blocks_at_once() {
    let mut e = engine(256, 512, 4, 64);
    let ids = [1, 2, 3].map(|seed| e.submit(request(seed, 100, 100)).unwrap());
    for _ in 0..10 {
        e.step();
    }
    let before = e.stats().kv_used;
    e.cancel(ids[1], Finish::Cancelled).unwrap();
    let after = e.stats();
    assert!(after.kv_used < before && after.running == 2);
    e.cancel_all(Finish::Cancelled);
    assert_eq!(e.stats().kv_used, 0);
}

#[test]
fn text_ends_before_a_stop_string() {
    let whole = alone(request(2, 10, 40));
    // Any three characters of the middle, most likely of several tokens.
    let chars: Vec<(usize, char)> = whole.text.char_indices().collect();
    let (from, to) = (chars[chars.len() / 2].0, chars[chars.len() / 2 + 3].0);
    let stop = &whole.text[from..to];
    let first = whole.text.find(stop).unwrap();
    let cut = alone(Request {
        stop: vec!["never said \u{1F980}".into(), stop.into()],
        ..request(2, 10, 40)
    });
    assert_eq!(cut.text, whole.text[..first]);
    assert_eq!(cut.finish, Finish::StopString(1));
    assert!(whole.ids.starts_with(&cut.ids) && cut.ids.len() < whole.ids.len());
    let spared = alone(Request {
        stop: vec!["never said \u{1F980}".into()],
        ..request(2, 10, 40)
    });
    assert_eq!(spared, whole);
}

#[test]
fn log_probabilities_are_those_of_the_chosen() {
    let outcome = alone(Request {
        logprobs: Some(3),
        prompt_logprobs: true,
        ..request(2, 40, 12)
    });
    assert_eq!(outcome.logprobs.len(), outcome.ids.len());
    for (id, l) in outcome.ids.iter().zip(&outcome.logprobs) {
        // Greedy, so the likeliest.
        assert_eq!((l.token, l.top[0]), (*id, (*id, l.logprob)));
        assert!(l.logprob < 0.0 && l.top.len() == 3 && l.top.is_sorted_by(|a, b| a.1 >= b.1));
    }
    let prompt = request(2, 40, 12).prompt;
    let reported: Vec<u32> = outcome.prompt_logprobs.iter().map(|l| l.token).collect();
    assert_eq!(reported, prompt[1..]);
    // What was generated, read as a prompt, is as likely; to the bit, unless prefill
    // rows differ.
    let mut both = request(2, 40, 0);
    both.prompt.extend(&outcome.ids);
    let again = alone(Request {
        logprobs: Some(3),
        prompt_logprobs: true,
        ..both
    });
    let (prompt, generated) = again.prompt_logprobs.split_at(39);
    assert_eq!(prompt, outcome.prompt_logprobs);
    match load(1).0.phases_differ() {
        false => assert_eq!(generated, outcome.logprobs),
        true => {
            assert_eq!(generated.len(), outcome.logprobs.len());
            for (a, b) in generated.iter().zip(&outcome.logprobs) {
                let distance = (a.logprob - b.logprob).abs();
                assert!(a.token == b.token && distance < 0.05, "{a:?}, {b:?}");
            }
        }
    }
    assert_eq!((again.ids.len(), again.finish), (0, Finish::Length));
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let mut e = engine(64, 64, 1, 64);
    let with = |f: &dyn Fn(&mut Request)| {
        let mut r = request(1, 3, 5);
        f(&mut r);
        r
    };
    let mut refusal = |f: &dyn Fn(&mut Request)| e.submit(with(f)).unwrap_err();
    assert_eq!(refusal(&|r| r.prompt.clear()), Refusal::EmptyPrompt);
    assert!(matches!(
        refusal(&|r| r.prompt = vec![1; 64]),
        Refusal::PromptTooLong { prompt: 64, .. }
    ));
    let unknown = |r: Refusal| matches!(r, Refusal::UnknownToken { id: 1_000_000, .. });
    assert!(unknown(refusal(&|r| r.prompt[1] = 1_000_000)));
    assert!(unknown(refusal(&|r| r.logit_bias = vec![(1_000_000, 1.0)])));
    for bias in [f32::NAN, 100.5, f32::NEG_INFINITY] {
        let r = refusal(&|r| r.logit_bias = vec![(3, 1.0), (4, bias)]);
        assert!(matches!(r, Refusal::Bias { id: 4, .. }));
    }
    let hot = |r: &mut Request| r.sampling.temperature = -1.0;
    assert!(matches!(refusal(&hot), Refusal::Sampling(_)));
    assert_eq!(
        refusal(&|r| r.stop = vec!["a".into(), "".into()]),
        Refusal::EmptyStop
    );
    let many = MAX_LOGPROBS + 1;
    assert_eq!(
        refusal(&|r| r.logprobs = Some(many)),
        Refusal::Logprobs(many)
    );
    assert!(e.is_idle(), "a refusal leaves nothing behind");

    let mut small = engine(1000, KV_BLOCK, 1, 64);
    assert!(matches!(
        small.submit(request(1, 60, 50)),
        Err(Refusal::CacheTooSmall { .. })
    ));
    let config = EngineConfig {
        queue: 2,
        ..common::config()
    };
    let mut e = engine_of(config, 1);
    assert!(e.submit(request(1, 3, 5)).is_ok() && e.submit(request(1, 3, 5)).is_ok());
    let refusal = e.submit(request(1, 3, 5)).unwrap_err();
    assert_eq!(refusal, Refusal::QueueFull { waiting: 2 });
    e.step();
    assert!(e.submit(request(1, 3, 5)).is_ok(), "one runs now");
}

#[test]
fn what_begins_alike_is_computed_once() {
    let mut e = engine(256, 512, 1, 64);
    let first = e.submit(request(2, 70, 6)).unwrap();
    let one = collect(&run(&mut e), first);

    // The conversation goes on: prompt, answer, and something new.
    let next = || {
        let mut next = request(2, 70, 6);
        next.prompt.extend(&one.ids);
        next.prompt.extend([9, 8, 7]);
        next
    };
    let second = e.submit(next()).unwrap();
    let updates = run(&mut e);
    // The last token of the answer was never computed, nor were the new ones.
    assert_eq!(timings(&updates, second).computed_tokens(), 4);
    assert_eq!(collect(&updates, second), alone(next()));
    let stats = e.stats();
    assert_eq!(stats.prefix_misses.too_short, 3);
    assert_eq!(
        stats.prefix_hits,
        timings(&updates, second).cached_tokens as u64
    );

    // The very same again.
    let third = e.submit(next()).unwrap();
    let updates = run(&mut e);
    assert_eq!(timings(&updates, third).computed_tokens(), 1);
    assert_eq!(collect(&updates, third), alone(next()));

    // Another that parts within the first block.
    let other = || {
        let mut other = request(2, 70, 6);
        other.prompt[20] += 1;
        other
    };
    let fourth = e.submit(other()).unwrap();
    let updates = run(&mut e);
    assert_eq!(timings(&updates, fourth).cached_tokens, 20);
    assert_eq!(collect(&updates, fourth), alone(other()));
    assert_eq!(e.stats().prefix_misses.diverged, 49);
}

/// Beside a request that decodes, a long prompt is taken in small pieces if
/// steps must be short.
#[test]
fn a_long_prompt_does_not_hold_others_up() {
    let config = EngineConfig {
        sequences: 2,
        cache_positions: 1024,
        rows: 256,
        step_target: Duration::ZERO,
        ..common::config()
    };
    let mut e = engine_of(config, 1);
    let first = e
        .submit(Request {
            ignore_end: true,
            ..request(2, 20, 100)
        })
        .unwrap();
    e.step();
    e.step();
    let second = e.submit(request(4, 200, 1)).unwrap();
    let mut between = 0;
    'all: loop {
        for u in e.step() {
            between += usize::from(u.id == first && u.token.is_some());
            if u.id == second {
                break 'all;
            }
        }
    }
    assert!(between >= 200 / 16, "only {between} tokens");
}

#[test]
fn steps_are_counted() {
    let mut e = engine(256, 512, 2, 64);
    let ids = [
        e.submit(request(2, 70, 6)).unwrap(),
        e.submit(request(1, 10, 9)).unwrap(),
    ];
    let updates = run(&mut e);
    let tokens: usize = ids.iter().map(|&id| collect(&updates, id).ids.len()).sum();
    let stats = e.stats();
    assert_eq!((stats.tokens, stats.prefill_tokens), (tokens as u64, 80));
    let d = stats.decode;
    assert!(d.steps > 0 && d.steps < stats.steps);
    assert!(d.seconds > 0.0);
    let (model, _) = load(1);
    assert!(d.bytes >= d.steps * (model.weights().head().unwrap().bytes() as u64));
}

/// A model that repeats itself is guessed, and the guesses change nothing.
#[test]
fn guesses_come_true() {
    let config = EngineConfig {
        speculate: true,
        always_guess: Some(4),
        ..common::config()
    };
    let mut e = engine_of(config, 1);
    let long = |speculate| Request {
        ignore_end: true,
        speculate,
        logprobs: Some(2),
        logit_bias: vec![(100, 25.0), (101, 25.0), (102, 25.0)],
        ..request(2, 20, 200)
    };
    let id = e.submit(long(true)).unwrap();
    let guessed = collect(&run(&mut e), id);
    let stats = e.stats();
    assert!(stats.accepted > 0 && stats.accepted <= stats.proposed);
    assert!(stats.steps < 200, "{stats:?}");
    let id = e.submit(long(false)).unwrap();
    assert_eq!(guessed, collect(&run(&mut e), id));
    assert_eq!(e.stats().proposed, stats.proposed);
}

/// However long a step takes, another thread sees it go on.
#[test]
fn a_step_shows_its_progress() {
    let mut engine = engine(256, 256, 2, 64);
    let layers = load(1).0.spec().layers.len() as u64;
    let progress = engine.progress();
    engine.submit(request(2, 20, 3)).unwrap();
    for _ in 0..2 {
        let before = progress.load(Ordering::Relaxed);
        engine.step();
        let after = progress.load(Ordering::Relaxed);
        assert!(after >= before + layers, "{before} {after}");
    }
}

/// It once aborted the process.
#[test]
fn more_sequences_than_memory_are_an_error() {
    let (model, tokenizer) = load(1);
    let sizes = EngineConfig {
        sequences: 1 << 44,
        ..config()
    };
    let e = Engine::new(model, tokenizer, sizes).err().unwrap();
    assert!(e.to_string().contains("sequences"), "{e}");
}

//! Vectors of texts, over HTTP.

mod common;

use common::*;
use rustml_server::Config;
use serde_json::{json, Value};
use std::sync::atomic::Ordering;
use std::sync::Arc;

const EMBED: &str = "/v1/embeddings";

/// The tokens of a text, as the server counts them.
fn tokens(s: &Server, text: &str) -> Vec<u64> {
    let answer = s.post("/tokenize", &json!({"prompt": text})).ok();
    let ids = answer["tokens"].as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap()).collect()
}

/// The vector of such tokens.
fn vector(ids: &[u64]) -> Vec<f32> {
    let values = [ids.len() as u64, ids[0], ids[ids.len() - 1]];
    values.iter().map(|&x| x as f32 / 3.0).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    let all = value.as_array().unwrap_or_else(|| panic!("{value}")).iter();
    all.map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
fn texts_and_tokens_get_their_vectors() {
    let s = Server::encoding(Config::default(), Arc::default());
    let texts = ["Hello there", "", "Name a river."];
    let ids: Vec<Vec<u64>> = texts.iter().map(|t| tokens(&s, t)).collect();
    let count: usize = ids.iter().map(Vec::len).sum();
    for input in [json!(texts), json!(ids)] {
        let answer = s
            .post(EMBED, &json!({"model": "tiny", "input": input}))
            .ok();
        assert_eq!(
            (&answer["object"], &answer["model"]),
            (&json!("list"), &json!("tiny"))
        );
        let usage = json!({"prompt_tokens": count, "total_tokens": count});
        assert_eq!(answer["usage"], usage);
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), 3);
        for (i, one) in data.iter().enumerate() {
            assert_eq!(
                (&one["object"], &one["index"]),
                (&json!("embedding"), &json!(i))
            );
            assert_eq!(floats(&one["embedding"]), vector(&ids[i]));
            assert_eq!(one.get("truncated"), None);
        }
    }
    for (input, ids) in [(json!("Hello there"), &ids[0]), (json!(ids[2]), &ids[2])] {
        let answer = s.post(EMBED, &json!({"input": input, "user": "me"})).ok();
        assert_eq!(floats(&answer["data"][0]["embedding"]), vector(ids));
    }
    // A third is written as single precision has it.
    let answer = s.post(EMBED, &json!({"input": [[1]]}));
    assert!(
        answer.body.contains("[0.33333334,0.33333334,0.33333334]"),
        "{}",
        answer.body
    );
    let answer = s
        .post(
            EMBED,
            &json!({"input": [[1, 2]], "encoding_format": "base64"}),
        )
        .ok();
    assert_eq!(answer["data"][0]["embedding"], json!("q6oqP6uqqj6rqio/"));
    let answer = s
        .post(EMBED, &json!({"input": [[1]], "dimensions": 2}))
        .ok();
    assert_eq!(floats(&answer["data"][0]["embedding"]).len(), 2);
    // The same address without /v1, as clients put it together.
    s.post("/embeddings", &json!({"input": "x"})).ok();
    assert_eq!(
        s.get("/v1/models").ok()["data"][0]["max_model_len"],
        json!(64)
    );
}

#[test]
fn what_is_no_text_that_it_reads_is_refused() {
    let s = Server::encoding(Config::default(), Arc::default());
    let long = json!([[1], vec![7; 65]]);
    for (body, param, says) in [
        (
            json!({"input": long}),
            "input[1]",
            "65 tokens long, but the model reads 64 at most",
        ),
        (json!({"input": []}), "input", "input is empty"),
        (json!({"input": [[1], []]}), "input[1]", "no tokens"),
        (
            json!({"input": [[4_000_000]]}),
            "input[0]",
            "there is no token 4000000",
        ),
        (json!({"input": [1, "a"]}), "input", ""),
        (json!({"input": 5}), "input", "a string, a list of strings"),
        (json!({"input": null}), "input", ""),
        (json!({}), "input", ""),
        (
            json!({"input": "a", "dimensions": 4}),
            "dimensions",
            "have 3 values",
        ),
        (
            json!({"input": "a", "dimensions": 0}),
            "dimensions",
            "have 3 values",
        ),
        (
            json!({"input": "a", "encoding_format": "int8"}),
            "encoding_format",
            "float or base64",
        ),
        (json!({"input": "a", "colour": 1}), "colour", ""),
    ] {
        let answer = s.post(EMBED, &body);
        let (status, at, _) = answer.error();
        assert_eq!((status, at.as_str()), (400, param), "{}", answer.body);
        assert!(answer.body.contains(says), "{}", answer.body);
    }
    let answer = s.post(EMBED, &json!({"model": "other", "input": "a"}));
    assert_eq!(answer.error().0, 404);
    let answer = s
        .post(EMBED, &json!({"input": long, "truncate": true}))
        .ok();
    let data = &answer["data"];
    assert_eq!(
        (data[0].get("truncated"), &data[1]["truncated"]),
        (None, &json!(true))
    );
    assert_eq!(answer["usage"]["prompt_tokens"], json!(65));
    // More vectors than an answer holds.
    let many = vec![[1]; (1 << 22) / 3 + 1];
    let config = Config {
        max_body: 8 << 20,
        ..Config::default()
    };
    let s = Server::encoding(config, Arc::default());
    let answer = s.post(EMBED, &json!({"input": many}));
    assert_eq!(
        answer.error(),
        (400, "input".into(), "too_many_texts".into())
    );
}

#[test]
fn what_does_not_generate_says_so() {
    let s = Server::encoding(Config::default(), Arc::default());
    for (path, body) in [(CHAT, chat(json!({}))), (TEXT, text(json!({})))] {
        let answer = s.post(path, &body);
        let expected = (400, "model".into(), "model_does_not_generate".into());
        assert_eq!(answer.error(), expected);
        assert!(answer.body.contains(EMBED), "{}", answer.body);
    }
}

#[test]
fn strangers_share_steps_and_get_what_is_theirs() {
    let knobs = Arc::new(Knobs::default());
    knobs.slow.store(5, Ordering::SeqCst);
    let s = Server::encoding(Config::default(), knobs.clone());
    std::thread::scope(|scope| {
        let ask = |i: u64| {
            let s = &s;
            move || {
                let ids: Vec<u64> = (i + 1..2 * i + 2).collect();
                let answer = s.post(EMBED, &json!({"input": [ids, [i + 1]]})).ok();
                assert_eq!(floats(&answer["data"][0]["embedding"]), vector(&ids));
                assert_eq!(floats(&answer["data"][1]["embedding"]), vector(&[i + 1]));
            }
        };
        (0..12).for_each(|i| drop(scope.spawn(ask(i))));
    });
    let steps = knobs.steps.load(Ordering::SeqCst);
    assert!(steps < 24, "{steps} steps for 24 texts");
}

#[test]
fn requests_are_bounded_and_end_with_their_clients() {
    let knobs = Arc::new(Knobs::default());
    knobs.slow.store(20, Ordering::SeqCst);
    let config = Config {
        slots: 1,
        queue: 0,
        ..Config::default()
    };
    let s = Server::encoding(config, knobs.clone());
    let many = json!({"input": vec![[1]; 4000]});
    let client = s.begin(EMBED, &many);
    until("it is at work", || knobs.steps.load(Ordering::SeqCst) > 0);
    let answer = s.post(EMBED, &json!({"input": "a"}));
    assert_eq!(answer.error(), (429, String::new(), "queue_full".into()));
    drop(client);
    // 1000 steps would take 20 seconds.
    until("its place is free", || {
        s.post(EMBED, &json!({"input": "a"})).status == 200
    });
    assert!(knobs.steps.load(Ordering::SeqCst) < 500);
}

#[test]
fn a_step_that_fails_ends_those_in_it_alone() {
    let knobs = Arc::new(Knobs::default());
    let s = Server::encoding(Config::default(), knobs.clone());
    knobs.panic.store(true, Ordering::SeqCst);
    assert_eq!(s.post(EMBED, &json!({"input": "a"})).error().0, 500);
    s.post(EMBED, &json!({"input": "a"})).ok();
    assert_eq!(s.get("/ready").status, 200);
}

//! Scores of texts, over HTTP.

mod common;

use common::*;
use rustml_server::Config;
use serde_json::{json, Value};

#[test]
fn documents_come_in_order() {
    let s = Server::scoring(Config::default(), &["fits"]);
    // The longest pair fits best.
    let documents = json!(["a b", {"text": "a"}, "a b c d e f"]);
    let body = json!({"model": "tiny", "query": "which", "documents": documents});
    let mut usage = 0;
    let mut scores = Vec::new();
    for path in ["/v1/rerank", "/rerank", "/v2/rerank"] {
        let answer = s.post(path, &body).ok();
        let order = answer["results"].as_array().unwrap().iter();
        let order: Vec<Value> = order.map(|r| r["index"].clone()).collect();
        assert_eq!(order, [2, 0, 1]);
        scores = answer["results"].as_array().unwrap().clone();
        assert!(scores.iter().all(|r| r.get("document").is_none()));
        usage = answer["usage"]["total_tokens"].as_u64().unwrap();
    }
    // A score is a third of a pair's tokens; here, of 64.
    let sum: f64 = scores
        .iter()
        .map(|r| r["relevance_score"].as_f64().unwrap())
        .sum();
    assert!(
        (sum * 64.0 * 3.0 - usage as f64).abs() < 1e-3,
        "{sum} {usage}"
    );
    let more = json!({"query": "which", "documents": documents, "top_n": 1, "return_documents": true, "raw_scores": true});
    let answer = s.post("/rerank", &more).ok();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["document"], json!({"text": "a b c d e f"}));
    let (raw, likely) = (
        &results[0]["relevance_score"],
        &scores[0]["relevance_score"],
    );
    let off = raw.as_f64().unwrap() / 64.0 - likely.as_f64().unwrap();
    assert!(off.abs() < 1e-6, "{raw} {likely}");
}

#[test]
fn what_cannot_be_ranked_is_refused() {
    let s = Server::scoring(Config::default(), &["fits"]);
    let long = "word ".repeat(300);
    for (body, param, says) in [
        (json!({"query": "a"}), "documents", ""),
        (json!({"documents": ["a"]}), "query", ""),
        (json!({"query": "a", "documents": []}), "documents", "empty"),
        (
            json!({"query": "a", "documents": [5]}),
            "documents[0]",
            "a string, or an object",
        ),
        (
            json!({"query": "a", "documents": ["b"], "top_n": 0}),
            "top_n",
            "at least 1",
        ),
        (
            json!({"query": "a", "documents": ["b", long]}),
            "documents[1]",
            "reads 64 at most",
        ),
    ] {
        let answer = s.post("/v1/rerank", &body);
        let (status, at, _) = answer.error();
        assert_eq!((status, at.as_str()), (400, param), "{}", answer.body);
        assert!(answer.body.contains(says), "{}", answer.body);
    }
    let cut = json!({"query": "a", "documents": ["b", long], "truncate": true});
    let answer = s.post("/v1/rerank", &cut).ok();
    assert_eq!(
        (
            &answer["results"][0]["index"],
            &answer["results"][0]["truncated"]
        ),
        (&json!(1), &json!(true))
    );
    let answer = s.post("/v1/embeddings", &json!({"input": "a"}));
    assert_eq!(
        answer.error(),
        (400, "model".into(), "model_does_not_embed".into())
    );
    // A model of vectors, one that generates, and one of several labels.
    let vectors = Server::encoding(Config::default(), std::sync::Arc::default());
    let generates = Server::start(Config::default());
    let labels = Server::scoring(Config::default(), &["bad", "good"]);
    for s in [vectors, generates, labels] {
        let answer = s.post("/v1/rerank", &json!({"query": "a", "documents": ["b"]}));
        assert_eq!(
            answer.error(),
            (400, "model".into(), "model_does_not_rerank".into())
        );
    }
}

#[test]
fn texts_get_labels() {
    let s = Server::scoring(Config::default(), &["length", "first", "last"]);
    let answer = s
        .post("/classify", &json!({"input": [[5, 90, 7], [80, 2]]}))
        .ok();
    assert_eq!(answer["labels"], json!(["length", "first", "last"]));
    let data = answer["data"].as_array().unwrap();
    assert_eq!(
        (&data[0]["label"], &data[1]["label"]),
        (&json!("last"), &json!("first"))
    );
    let probs = data[1]["probs"].as_array().unwrap().iter();
    let probs: Vec<f64> = probs.map(|p| p.as_f64().unwrap()).collect();
    for (made, tokens) in probs.iter().zip([2.0, 80.0, 2.0]) {
        assert!((made * 64.0 - tokens / 3.0).abs() < 1e-3, "{probs:?}");
    }
    assert_eq!(data[0]["num_classes"], json!(3));
    let answer = s.post("/classify", &json!({"input": []}));
    assert_eq!(answer.error().0, 400);
}

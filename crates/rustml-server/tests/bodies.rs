//! How bodies are written, and values that mean nothing or «as you like».

mod common;

use common::{chat, request, text, Answer, Server, CHAT, TEXT};
use flate2::write::GzEncoder;
use flate2::Compression;
use rustml_server::Config;
use serde_json::{json, Value};
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn coded(s: &Server, coding: &str, body: &[u8]) -> Answer {
    let headers = format!("Content-Type: application/json\r\nContent-Encoding: {coding}\r\n");
    s.raw(&request(TEXT, &headers, body))
}

#[test]
fn compressed_bodies_are_read_up_to_a_bound() {
    let s = Server::start(Config {
        max_body: 1 << 20,
        ..Config::default()
    });
    let body = text(json!({})).to_string();
    let plain = s.post(TEXT, &text(json!({}))).ok();
    let small = gzip(body.as_bytes());
    for (coding, bytes) in [
        ("gzip", &small[..]),
        ("X-GZIP", &small),
        ("identity", body.as_bytes()),
    ] {
        assert_eq!(
            coded(&s, coding, bytes).ok()["choices"],
            plain["choices"],
            "{coding}"
        );
    }
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(coded(&s, "gzip", &bomb).error().0, 413);
    assert_eq!(coded(&s, "gzip", &small[..small.len() / 2]).error().0, 400);
    assert_eq!(
        coded(&s, "gzip", body.as_bytes()).error().2,
        "content_encoding"
    );
    for coding in ["br", "zstd", "deflate", "gzip, gzip"] {
        let answer = coded(&s, coding, &small);
        assert_eq!(
            answer.error(),
            (415, String::new(), "content_encoding".into())
        );
        assert!(answer.body.contains("gzip"), "{}", answer.body);
    }
}

/// Four megabytes of them once took a minute, and a quadratic time.
#[test]
fn many_fields_cost_little() {
    let s = Server::start(Config::default());
    let many = |value: &str| {
        let fields = (0..150_000).map(|i| format!("\"field{i}\":{value}"));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    };
    let ask = |body: String| {
        assert!(body.len() < 4 << 20);
        s.raw(&request(
            CHAT,
            "Content-Type: application/json\r\n",
            body.as_bytes(),
        ))
    };
    assert_eq!(ask(many("null")).error().2, "too_many_fields");
    // Within a field they are judged where they stand.
    let message = |more: &str| {
        format!("{{\"max_tokens\":1,\"messages\":[{{\"role\":\"user\",\"content\":\"x\",\"extra\":{more}}}]}}")
    };
    assert_eq!(ask(message(&many("null"))).error().1, "messages[0].extra");
    let nulls = many("null");
    let nulls = nulls.trim_matches(|c| c == '{' || c == '}');
    let body = format!(
        "{{\"max_tokens\":1,\"messages\":[{{\"role\":\"user\",\"content\":\"x\",{nulls}}}]}}"
    );
    assert_eq!(ask(body).status, 200);
    let harmless = format!("{{\"max_tokens\":1,\"metadata\":{},\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}]}}", many("[{}]"));
    assert_eq!(ask(harmless).status, 200);
    let twice = "{\"max_tokens\":1,\"max_tokens\":2,\"messages\":[]}";
    assert_eq!(
        ask(twice.into()).error(),
        (400, "max_tokens".into(), "invalid_json".into())
    );
    let schema = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],\"response_format\":{{\"type\":\"json_schema\",\"json_schema\":{{\"schema\":{}}}}}}}", many("true"));
    assert_eq!(ask(schema).error().0, 400);
}

#[test]
fn what_switches_off_is_taken() {
    let s = Server::start(Config::default());
    let plain = s.post(CHAT, &chat(json!({}))).ok()["choices"].clone();
    for off in [
        json!({"max_tokens": 12.0}),
        json!({"top_k": -1}),
        json!({"top_k": 0}),
        json!({"top_p": 0}),
        json!({"repeat_penalty": 1}),
        json!({"repeat_penalty": 1.0, "repetition_penalty": 1.0}),
        json!({"ignore_eos": false}),
        json!({"min_tokens": 0}),
        json!({"functions": [], "function_call": "none"}),
        json!({"length_penalty": 1.0, "typical_p": 1, "mirostat": 0}),
        json!({"modalities": ["text"], "store": false, "suffix": null}),
        json!({"skip_special_tokens": true, "use_beam_search": false}),
        json!({"user": {"a": [1]}, "service_tier": "auto"}),
    ] {
        let answer = s.post(CHAT, &chat(off.clone()));
        assert_eq!(answer.ok()["choices"], plain, "{off}");
    }
    for (on, field) in [
        (json!({"min_tokens": 1}), "min_tokens"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"mirostat": 2}), "mirostat"),
        (json!({"length_penalty": 0.5}), "length_penalty"),
        (
            json!({"repeat_penalty": 1.1, "repetition_penalty": 1.2}),
            "repeat_penalty",
        ),
        (json!({"max_tokens": -2}), "max_tokens"),
        (json!({"top_k": -2}), "top_k"),
    ] {
        let answer = s.post(CHAT, &chat(on.clone()));
        let (status, param, _) = answer.error();
        assert_eq!((status, &*param), (400, field), "{on}");
    }
    // As much as there is room for, up to the model's own end.
    let all = s.post(CHAT, &chat(json!({"max_tokens": -1, "stop": ["e"]})));
    assert_eq!(all.ok()["choices"][0]["finish_reason"], "stop");
    let longer = s.post(TEXT, &text(json!({"ignore_eos": true, "max_tokens": 300})));
    assert_eq!(longer.ok()["usage"]["completion_tokens"], 300);
}

#[test]
fn what_answers_said_may_come_back() {
    let s = Server::start(Config::default());
    let user = json!({"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}});
    for extra in [
        json!({"reasoning_details": []}),
        json!({"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}),
        json!({"provider_specific_fields": {"refusal": null}}),
        json!({"id": "msg_1", "refusal": null, "annotations": []}),
        json!({"audio": null, "function_call": null, "images": []}),
        json!({"tool_calls": [{"id": "a", "type": "function", "index": 0, "extra_content": {}, "function": {"name": "f", "arguments": "{}"}}]}),
    ] {
        let mut said = json!({"role": "assistant", "content": "y"});
        for (key, value) in extra.as_object().unwrap() {
            said[key] = value.clone();
        }
        let body = chat(json!({"messages": [user, said, user], "max_tokens": 1}));
        let answer = s.post(CHAT, &body);
        assert_eq!(answer.status, 200, "{extra}: {}", answer.body);
    }
}

fn content(answer: &Answer) -> Value {
    let answer = answer.ok();
    serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap()
}

/// It was once any object, as the schema was not seen.
#[test]
fn an_object_may_have_its_schema_beside_its_type() {
    let s = Server::start(Config::default());
    let ask = |format: Value| {
        s.post(
            CHAT,
            &chat(json!({"response_format": format, "max_tokens": 60})),
        )
    };
    let fixed = json!({"type": "json_object", "schema": {"const": "42"}});
    assert_eq!(content(&ask(fixed)), json!("42"));
    let enumerated = json!({"type": "json_object", "schema": {"type": "object",
        "properties": {"a": {"enum": [7]}}, "required": ["a"], "additionalProperties": false}});
    assert_eq!(content(&ask(enumerated)), json!({"a": 7}));
    for (format, param, word) in [
        (json!("json"), "response_format", "an object"),
        (
            json!({"type": "json_schema"}),
            "response_format",
            "json_schema is missing",
        ),
        (
            json!({"type": "json_schema", "json_schema": {"name": "x"}}),
            "response_format.json_schema",
            "schema is missing",
        ),
        (
            json!({"type": "json_schema", "json_schema": {"schema": null}}),
            "response_format.json_schema.schema",
            "null",
        ),
        (
            json!({"type": "text", "schema": {}}),
            "response_format",
            "schema",
        ),
        (
            json!({"type": "json_object", "json_schema": {"schema": {}}}),
            "response_format",
            "json_schema",
        ),
        (
            json!({"type": "json_schema", "json_schema": {"type": "object"}}),
            "response_format.json_schema.type",
            "no field",
        ),
        (
            json!({"type": "yaml"}),
            "response_format.type",
            "\"json_object\"",
        ),
        (json!([]), "response_format", "an object"),
    ] {
        let answer = ask(format.clone());
        let (status, at, _) = answer.error();
        assert_eq!((status, &*at), (400, param), "{format}: {}", answer.body);
        let says = answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(says.contains(word), "{format}: {says}");
        for rust in ["struct", "tagged", "enum ", "variant", "usize", "Option"] {
            assert!(!says.contains(rust), "{format}: {says}");
        }
    }
}

/// Sixteen answers over a whole context were once 170 MB.
#[test]
fn log_probabilities_are_bounded() {
    let s = Server::start(Config::default());
    let prompt = "x ".repeat(800);
    let ask = |more: Value| s.post(TEXT, &text(more));
    let much = json!({"prompt": prompt, "echo": true, "logprobs": 20, "n": 16});
    assert_eq!(
        ask(much).error(),
        (400, "logprobs".into(), "too_many_logprobs".into())
    );
    let fewer = json!({"prompt": prompt, "echo": true, "logprobs": 20, "n": 2, "max_tokens": 1});
    assert_eq!(ask(fewer).status, 200);
    let without = json!({"prompt": prompt, "echo": true, "n": 16, "max_tokens": 1});
    assert_eq!(ask(without).status, 200);
    let long = ask(json!({"logprobs": 20, "n": 16, "max_tokens": 2000, "ignore_eos": true}));
    let long = long.ok();
    let each = long["usage"]["completion_tokens"].as_u64().unwrap() / 16;
    assert_eq!(each, (1 << 18) / (16 * 21));
    assert_eq!(long["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_token_has_one_bias() {
    let s = Server::start(Config::default());
    let biases = "{\"prompt\":\"x\",\"logit_bias\":{\"28\":1,\"+28\":2,\"028\":3}}";
    let answer = s.raw(&request(
        TEXT,
        "Content-Type: application/json\r\n",
        biases.as_bytes(),
    ));
    assert_eq!(answer.error().1, "logit_bias");
    assert!(answer.body.contains("28 twice"), "{}", answer.body);
}

//! OpenAI's newer form of conversations: bodies that its clients send, and events in the
//! order in which they read them.

mod common;

use common::*;
use rustml_server::Config;
use serde_json::{json, Value};

const PATH: &str = "/v1/responses";

fn texts(response: &Value) -> String {
    let items = response["output"].as_array().unwrap().iter();
    let parts = items.flat_map(|i| i["content"].as_array().cloned().unwrap_or_default());
    parts
        .map(|p| p["text"].as_str().unwrap().to_owned())
        .collect()
}

/// As recorded from openai (Python), its `parse`, openai-agents, @ai-sdk/openai,
/// langchain-openai and LiteLLM's proxy.
#[test]
fn clients_get_what_they_read() {
    let s = Server::start(Config::default());
    let person = json!({"type": "json_schema", "strict": true, "name": "Person", "schema": {
        "properties": {"age": {"title": "Age", "type": "integer"}}, "required": ["age"],
        "title": "Person", "type": "object", "additionalProperties": false}});
    let part = json!([{"type": "input_text", "text": "hi"}]);
    for more in [
        json!({"input": "hi"}),
        json!({"input": [{"role": "user", "content": part}], "temperature": 0}),
        json!({"input": [{"content": "hi", "role": "user", "type": "message"}], "stream": false}),
        json!({"input": [{"type": "message", "role": "user", "content": part}],
            "include": ["reasoning.encrypted_content"]}),
        json!({"include": [], "input": [{"content": "hi", "role": "user"}], "tools": []}),
        json!({"input": "hi", "text": {}, "store": false, "truncation": "disabled", "reasoning": {"effort": "low"},
            "previous_response_id": null, "tools": [{"type": "web_search"}]}),
        json!({"input": "hi", "text": {"format": person}, "max_output_tokens": 60}),
    ] {
        let mut body = json!({"model": "tiny", "max_output_tokens": 8, "temperature": 0});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = s.post(PATH, &body).ok();
        assert_eq!(answer["object"], "response", "{body}");
        assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
        let usage = &answer["usage"];
        let sum =
            usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"].as_u64(), Some(sum), "{answer}");
        assert_eq!(answer["output"][0]["type"], "message", "{answer}");
        if body["text"]["format"].is_null() {
            assert_eq!(answer["status"], "incomplete", "{answer}");
            assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
        } else {
            let text: Value = serde_json::from_str(&texts(&answer)).unwrap();
            assert!(text["age"].is_i64() || text["age"].is_u64(), "{text}");
        }
    }
}

/// The same conversation gives the same text by either form.
#[test]
fn it_is_the_answer_of_a_chat() {
    let s = Server::start(Config::default());
    let chat = chat(json!({"temperature": 0, "max_tokens": 12, "messages": [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."}, {"role": "user", "content": "Three?"}]}));
    let of_chat = s.post("/v1/chat/completions", &chat).ok();
    let body = json!({"temperature": 0, "max_output_tokens": 12, "instructions": "Be short.", "input": [
        {"role": "user", "content": "One?"},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Two.", "annotations": []}]},
        {"role": "user", "content": "Three?"}]});
    let answer = s.post(PATH, &body).ok();
    let text = of_chat["choices"][0]["message"]["content"]
        .as_str()
        .unwrap();
    assert_eq!(texts(&answer), text);
    assert_eq!(
        answer["usage"]["input_tokens"],
        of_chat["usage"]["prompt_tokens"]
    );
}

#[test]
fn events_come_in_their_order() {
    let s = Server::start(Config::default());
    let body = json!({"input": "hi", "temperature": 0, "max_output_tokens": 8});
    let whole = s.post(PATH, &body).ok();
    let mut streamed = body;
    streamed["stream"] = true.into();
    let answer = s.post(PATH, &streamed);
    assert!(!answer.body.contains("[DONE]"), "{}", answer.body);
    let events: Vec<Value> = answer
        .body
        .lines()
        .filter_map(|l| l.strip_prefix("data: "))
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let names: Vec<&str> = answer
        .body
        .lines()
        .filter_map(|l| l.strip_prefix("event: "))
        .collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(names, kinds);
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"].as_u64(), Some(i as u64), "{event}");
    }
    let deltas = kinds
        .iter()
        .filter(|k| **k == "response.output_text.delta")
        .count();
    assert!(deltas > 1, "{kinds:?}");
    let mut once = kinds.clone();
    once.dedup();
    assert_eq!(
        once,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let deltas = events.iter().filter_map(|e| e["delta"].as_str());
    let text: String = deltas.collect();
    assert_eq!(text, texts(&whole));
    let last = &events.last().unwrap()["response"];
    assert_eq!(texts(last), text);
    assert_eq!(
        last["usage"]["output_tokens"],
        whole["usage"]["output_tokens"]
    );
}

#[test]
fn functions_are_called_and_their_results_read() {
    let s = Server::start(Config::default());
    let tool = json!({"type": "function", "name": "weather", "strict": true,
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"],
            "additionalProperties": false}});
    let body = json!({"input": "Rome?", "tools": [tool], "tool_choice": "required", "max_output_tokens": 200,
        "temperature": 0, "parallel_tool_calls": false});
    let answer = s.post(PATH, &body).ok();
    let call = &answer["output"][0];
    assert_eq!(call["type"], "function_call", "{answer}");
    assert_eq!(
        (&call["name"], answer["status"].as_str()),
        (&json!("weather"), Some("completed"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Rome"}));

    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let events = s.post(PATH, &streamed).body;
    for kind in [
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "completed",
    ] {
        assert!(
            events.contains(&format!("event: response.{kind}\n")),
            "{events}"
        );
    }

    let mut next = body;
    next["tool_choice"] = "none".into();
    next["max_output_tokens"] = 4.into();
    next["input"] = json!([{"role": "user", "content": "Rome?"}, call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "It rains."}]);
    assert_eq!(s.post(PATH, &next).ok()["output"][0]["type"], "message");
}

#[test]
fn what_is_not_served_is_refused_by_its_name() {
    let s = Server::start(Config::default());
    let image =
        json!([{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]);
    for (more, param) in [
        (
            json!({"input": "hi", "previous_response_id": "resp_1"}),
            "previous_response_id",
        ),
        (json!({"input": image}), "input[0].content[0].image_url"),
        (json!({"input": []}), "input"),
        (json!({}), "input"),
        (
            json!({"input": [{"type": "computer_call"}]}),
            "input[0].type",
        ),
        (
            json!({"input": [{"role": "robot", "content": "hi"}]}),
            "input[0].role",
        ),
        (
            json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}),
            "input[0].call_id",
        ),
        (
            json!({"input": "hi", "text": {"format": {"type": "xml"}}}),
            "text.format",
        ),
        (json!({"input": "hi", "text": {"color": 1}}), "text.color"),
        (
            json!({"input": "hi", "tools": [{"type": "function"}]}),
            "tools[0].name",
        ),
        (json!({"input": "hi", "tool_choice": 5}), "tool_choice"),
        (json!({"input": "hi", "n": 2}), "n"),
        (json!({"input": "hi", "background": true}), "background"),
    ] {
        let answer = s.post(PATH, &more);
        let (status, at, _) = answer.error();
        assert_eq!(
            (status, at.as_str()),
            (400, param),
            "{more}: {}",
            answer.body
        );
    }
}

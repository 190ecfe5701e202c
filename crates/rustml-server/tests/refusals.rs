//! Requests that are wrong, and what they are told.

mod common;

use common::{chat, text, Server, CHAT, TEXT};
use rustml_server::Config;
use serde_json::{json, Value};

#[test]
fn what_is_wrong_is_named() {
    let s = Server::start(Config::default());
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let tool = |name: &str| json!([{"type": "function", "function": {"name": name}}]);
    let deep = "[".repeat(10_000);
    for (body, param, code) in [
        (json!({"messages": null}), "messages", "invalid_type"),
        (json!({"messages": []}), "messages", ""),
        (
            json!({"messages": [{"content": "x"}]}),
            "messages[0]",
            "invalid_type",
        ),
        (
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
            "",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
            "",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "colour": 1}]}),
            "messages[0].colour",
            "unknown_parameter",
        ),
        (
            json!({"messages": user(json!(5))}),
            "messages[0].content",
            "invalid_type",
        ),
        (
            json!({"messages": user(json!([{"type": "image_url", "image_url": {"url": "x"}}]))}),
            "messages[0].content[0].image_url",
            "unsupported_content",
        ),
        (
            json!({"messages": user(json!([{"type": "image_file"}]))}),
            "messages[0].content[0].type",
            "unsupported_content",
        ),
        (
            json!({"messages": user("x ".repeat(5000).into())}),
            "",
            "context_length_exceeded",
        ),
        (json!({"model": "gpt-4"}), "model", "model_not_found"),
        (json!({"model": 5}), "model", "invalid_type"),
        (json!({"n": 0}), "n", ""),
        (json!({"n": 17}), "n", ""),
        (json!({"n": -1}), "n", "invalid_type"),
        (json!({"n": 1.5}), "n", "invalid_type"),
        (json!({"max_tokens": -2}), "max_tokens", "invalid_type"),
        (json!({"max_tokens": 1e30}), "max_tokens", "invalid_type"),
        (json!({"temperature": -1}), "temperature", ""),
        (json!({"temperature": 1e39}), "temperature", ""),
        (json!({"temperature": "hot"}), "temperature", "invalid_type"),
        (json!({"top_p": -0.1}), "top_p", ""),
        (json!({"min_p": 2}), "min_p", ""),
        (json!({"repetition_penalty": 0}), "repetition_penalty", ""),
        (json!({"presence_penalty": 1000}), "presence_penalty", ""),
        (json!({"frequency_penalty": -1000}), "frequency_penalty", ""),
        (json!({"seed": "x"}), "seed", "invalid_type"),
        (json!({"stop": ""}), "stop", ""),
        (json!({"stop": 5}), "stop", "invalid_type"),
        (json!({"stop": vec!["x"; 17]}), "stop", ""),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", ""),
        (json!({"logit_bias": {"1": 101}}), "logit_bias", ""),
        (json!({"logit_bias": {"4000000000": 1}}), "", ""),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
            "",
        ),
        (json!({"top_logprobs": 2}), "top_logprobs", ""),
        (
            json!({"tools": tool("no name")}),
            "tools[0].function.name",
            "",
        ),
        (
            json!({"tools": [{"type": "web_search", "function": {"name": "x"}}]}),
            "tools[0].type",
            "",
        ),
        (
            json!({"tools": tool("x"), "tool_choice": {"type": "function", "function": {"name": "y"}}}),
            "tool_choice.function.name",
            "",
        ),
        (json!({"tool_choice": "required"}), "tool_choice", ""),
        (
            json!({"tool_choice": "maybe"}),
            "tool_choice",
            "invalid_type",
        ),
        (
            json!({"response_format": {"type": "yaml"}}),
            "response_format.type",
            "invalid_type",
        ),
        (json!({"regex": "a", "grammar": "b"}), "response_format", ""),
        (
            json!({"stream_options": {"x": 1}}),
            "stream_options.x",
            "unknown_parameter",
        ),
        (json!({"foo": 1}), "foo", "unknown_parameter"),
        (json!({"audio": {}}), "audio", "unsupported_parameter"),
        (
            json!({"modalities": ["text", "audio"]}),
            "modalities",
            "unsupported_parameter",
        ),
        (
            json!({"prediction": {}}),
            "prediction",
            "unsupported_parameter",
        ),
        (json!({"store": true}), "store", "unsupported_parameter"),
        (
            json!({"web_search_options": {}}),
            "web_search_options",
            "unsupported_parameter",
        ),
        (
            json!({"functions": [{}]}),
            "functions",
            "unsupported_parameter",
        ),
        (
            json!({"reasoning_effort": "high"}),
            "reasoning_effort",
            "unsupported_parameter",
        ),
    ] {
        let answer = s.post(CHAT, &chat(body.clone()));
        let status = if code == "model_not_found" { 404 } else { 400 };
        assert_eq!(
            answer.error(),
            (status, param.into(), code.into()),
            "{body}: {}",
            answer.body
        );
    }
    for (body, param, code) in [
        (json!({"prompt": ""}), "prompt", ""),
        (json!({"prompt": []}), "prompt", ""),
        (json!({"prompt": [[1], []]}), "prompt", ""),
        (json!({"prompt": [4_000_000]}), "", ""),
        (json!({"prompt": [-1]}), "prompt[0]", "invalid_type"),
        (json!({"prompt": ["x", 1]}), "prompt", "invalid_type"),
        (json!({"temperature": [1e3]}), "temperature", "invalid_type"),
        (json!({"prompt": vec!["x"; 17]}), "n", ""),
        (json!({"best_of": 2}), "best_of", "unsupported_parameter"),
        (json!({"suffix": "x"}), "suffix", "unsupported_parameter"),
        (json!({"logprobs": 21}), "logprobs", ""),
        (json!({"messages": []}), "messages", "unknown_parameter"),
    ] {
        let answer = s.post(TEXT, &text(body.clone()));
        // An empty text still has the token that texts begin with.
        if body != json!({"prompt": ""}) || answer.status != 200 {
            assert_eq!(
                answer.error(),
                (400, param.into(), code.into()),
                "{body}: {}",
                answer.body
            );
        }
    }
    let typed = |kind: &str, body: &[u8]| {
        s.raw(&common::request(
            CHAT,
            &format!("Content-Type: {kind}\r\n"),
            body,
        ))
        .error()
    };
    let json_type = "application/json; charset=utf-8";
    for body in [
        &b"{"[..],
        b"",
        b"[]",
        b"{\"messages\": \"\xff\"}",
        deep.as_bytes(),
        b"null",
    ] {
        assert_eq!(
            typed(json_type, body),
            (400, String::new(), "invalid_json".into())
        );
    }
    assert_eq!(
        typed(
            json_type,
            b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"seed\": 1e999}"
        ),
        (400, "seed".into(), "invalid_json".into())
    );
    assert_eq!(typed("text/plain", b"{}").0, 415);
    assert_eq!(
        typed(json_type, b"{}"),
        (400, "messages".into(), "missing_field".into())
    );
    assert_eq!(s.get("/v1/models/%ff").error().0, 400);
    assert_eq!(s.get("/v1/nothing").error().0, 404);
    let wrong = s.get(CHAT);
    assert_eq!(wrong.error().0, 405);
    assert!(wrong.head.contains("allow: post"), "{}", wrong.head);
    let embed = s.post("/v1/embeddings", &json!({"model": "tiny", "input": "x"}));
    assert_eq!(
        embed.error(),
        (400, "model".into(), "model_does_not_embed".into())
    );
    assert!(embed.body.contains("tiny"));
    assert_eq!(
        s.post("/detokenize", &json!({"tokens": [4_000_000]}))
            .error()
            .0,
        400
    );
    assert_eq!(s.post("/tokenize", &json!({})).error().0, 400);
}

/// Texts of tokens can be many times as long as what asks for them.
#[test]
fn as_many_texts_of_tokens_are_told_as_an_answer_holds() {
    let s = Server::start(Config::default());
    let most = 1 << 18;
    let prompt = |tokens: usize| {
        let prompt = "~".repeat(tokens);
        json!({"prompt": prompt, "return_token_strs": true, "add_special_tokens": false})
    };
    let all = s.post("/tokenize", &prompt(most)).ok();
    assert_eq!(all["token_strs"].as_array().unwrap().len(), most);
    let (status, param, _) = s.post("/tokenize", &prompt(most + 1)).error();
    assert_eq!((status, &*param), (400, "return_token_strs"));

    let tokens = |count| json!({"tokens": vec![5; count]});
    let back = s.post("/detokenize", &tokens(most)).ok();
    assert!(back["prompt"].as_str().unwrap().len() >= most);
    let (status, param, _) = s.post("/detokenize", &tokens(most + 1)).error();
    assert_eq!((status, &*param), (400, "tokens"));
}

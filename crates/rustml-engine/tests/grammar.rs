//! Texts that have to be like this or that.

mod common;

use common::{alone, load, request, Outcome};
use rustml_engine::grammar::{Grammar, GrammarError, Grammars};
use rustml_engine::{Finish, Request};
use serde_json::{json, Value};
use std::sync::OnceLock;

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| Grammars::new(&load(1).1).unwrap())
}

/// What the tiny model, which speaks nothing at all, writes under a constraint.
fn write(seed: u64, grammar: Grammar) -> Outcome {
    let mut request = Request {
        constraint: Some(grammar.constraint()),
        ..request(seed, 10, 200)
    };
    request.sampling.temperature = [0.0, 1.0, 3.0][seed as usize % 3];
    alone(request)
}

#[test]
fn texts_are_valid_by_the_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            "none": {"type": "null"}
        },
        "required": ["name", "age", "tags", "none"],
        "additionalProperties": false
    });
    for seed in 0..12 {
        let text = write(seed, grammars().json_schema(&schema).unwrap());
        assert_eq!(text.finish, Finish::Stop, "{text:?}");
        let v: Value = serde_json::from_str(&text.text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        let keys: Vec<&String> = v.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["name", "age", "tags", "none"]);
        assert!(v["name"].as_str().unwrap().chars().count() <= 8);
        assert!(v["age"].as_u64().unwrap() <= 150);
        let tags = v["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(|t| t == "a" || t == "b"));
        assert!(v["none"].is_null());
        let spaces = text.text.chars().fold((0, 0), |(most, run), c| {
            let run = if c.is_ascii_whitespace() { run + 1 } else { 0 };
            (most.max(run), run)
        });
        // White space within the string comes on top.
        assert!(spaces.0 <= 24 + 8, "{text:?}");
    }
}

#[test]
fn texts_match_the_expression_and_the_grammar() {
    for seed in 0..6 {
        let date = write(seed, grammars().regex(r"[12][0-9]{3}-[01][0-9]").unwrap());
        assert_eq!((date.text.len(), date.finish), (7, Finish::Stop));
        let digits = |r: &str| r.bytes().all(|b| b.is_ascii_digit());
        assert!(digits(&date.text[..4]) && digits(&date.text[5..]));

        let sum = "start: term (\"+\" term)~2\nterm: /[0-9]{1,3}/ | \"(\" start \")\"";
        match grammars().lark(sum) {
            Ok(sum) => {
                let sum = write(seed, sum);
                let known = |b: u8| b"0123456789+()".contains(&b);
                assert!(
                    sum.text.bytes().all(known) && sum.text.contains('+'),
                    "{sum:?}"
                );
            }
            Err(e) => panic!("{e}"),
        }
        let object = write(seed, grammars().json_object().unwrap());
        if object.finish == Finish::Stop {
            assert!(serde_json::from_str::<Value>(&object.text)
                .unwrap()
                .is_object());
        }
    }
}

#[test]
fn what_cannot_be_compiled_is_refused() {
    let g = grammars();
    let refused = |r: Result<Grammar, GrammarError>| match r {
        Err(e) => e.to_string(),
        Ok(_) => panic!("it was compiled"),
    };
    refused(g.json_schema(&json!("string")));
    refused(g.json_schema(&json!({"type": "nothing"})));
    refused(g.json_schema(&json!({"$ref": "http://example.com/schema"})));
    refused(g.json_schema(&json!({"type": "string", "minLength": 5, "maxLength": 2})));
    refused(g.regex("(unclosed"));
    refused(g.regex("a(?=b)"));
    refused(g.lark("start: nothing"));
    refused(g.lark("no grammar at all"));
}

/// Nothing here may hang, run out of stack or take gigabytes; whether it is
/// refused is a matter of its size.
#[test]
fn what_would_explode_is_bounded() {
    let g = grammars();
    let nested = |n: usize| {
        (0..n).fold(
            json!({"type": "null"}),
            |v, _| json!({"type": "array", "items": v}),
        )
    };
    assert!(g.json_schema(&nested(20)).is_ok());
    assert!(matches!(
        g.json_schema(&nested(1000)),
        Err(GrammarError::TooDeep { .. })
    ));
    let deep = ["(".repeat(10_000), ")".repeat(10_000)].concat();
    assert!(matches!(g.regex(&deep), Err(GrammarError::TooDeep { .. })));
    assert!(matches!(g.lark(&deep), Err(GrammarError::TooDeep { .. })));
    let long = "(a)".repeat(60_000);
    assert!(matches!(g.regex(&long), Err(GrammarError::TooLong { .. })));
    assert!(matches!(g.lark(&long), Err(GrammarError::TooLong { .. })));
    let long = json!({"const": long});
    assert!(matches!(
        g.json_schema(&long),
        Err(GrammarError::TooLong { .. })
    ));

    for regex in [
        "(a{1000}){1000}".to_owned(),
        "((a|b|ab)*c){500}(d|e)*".to_owned(),
        "(.*a){200}".to_owned(),
        "[ab]*a[ab]{200}".to_owned(),
        "(x?){5000}y".to_owned(),
        "(a)".repeat(20_000),
        "(a|b)".repeat(13_000),
        r"\p{L}{1,5000}\p{N}{1,5000}".to_owned(),
    ] {
        try_some(g.regex(&regex));
    }
    let rules = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("r{i}")).collect();
        let all: String = names.iter().map(|r| format!("{r}: \"{r}\"\n")).collect();
        format!("start: {}\n{all}", names.join(" | "))
    };
    for grammar in [
        rules(3_000),
        format!("start: {}", "(\"a\")".repeat(12_000)),
        format!(
            "start: r0\n{}r3000: \"x\"",
            (0..3000)
                .map(|i| format!("r{i}: r{}\n", i + 1))
                .collect::<String>()
        ),
        "start: start start | \"a\" | ".to_owned(),
        "start: (\"a\"*)*".to_owned(),
        "start: a~100000\na: \"x\"".to_owned(),
    ] {
        try_some(g.lark(&grammar));
    }
    let properties: serde_json::Map<String, Value> = (0..2_000)
        .map(|i| (format!("p{i}"), json!({"type": "string"})))
        .collect();
    try_some(g.json_schema(&json!({"type": "object", "properties": properties})));
    for chain in ["$ref", "allOf"] {
        let link = |i: usize| json!({"$ref": format!("#/$defs/d{i}")});
        let mut defs: serde_json::Map<String, Value> = (0..1000)
            .map(|i| match chain {
                "$ref" => (format!("d{i}"), link(i + 1)),
                _ => (
                    format!("d{i}"),
                    json!({"allOf": [link(i + 1), {"type": "object"}]}),
                ),
            })
            .collect();
        defs.insert("d1000".into(), json!({"type": "null"}));
        try_some(g.json_schema(&json!({"$defs": defs, "$ref": "#/$defs/d0"})));
    }
    let alternatives: Vec<Value> = (0..2_000).map(|i| json!({"const": i})).collect();
    try_some(g.json_schema(&json!({"anyOf": alternatives})));
    try_some(
        g.json_schema(&json!({"type": "array", "minItems": 100_000, "items": {"type": "string"}})),
    );
    try_some(
        g.json_schema(&json!({"type": "string", "maxLength": 1_000_000, "pattern": "^(a|b)*$"})),
    );
}

/// Writes some tokens, if it was compiled.
fn try_some(grammar: Result<Grammar, GrammarError>) {
    if let Ok(grammar) = grammar {
        let written = alone(Request {
            constraint: Some(grammar.constraint()),
            ..request(1, 10, 20)
        });
        assert!(!matches!(written.finish, Finish::Context), "{written:?}");
    }
}

//! Schemas as libraries and people write them, and grammars of llama.cpp.

mod common;

use rustml_engine::grammar::{Grammar, GrammarError, Grammars};
use rustml_engine::TokenMask;
use rustml_tokenizer::Tokenizer;
use serde_json::{json, Value};
use std::sync::OnceLock;

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::from_dir(&common::folder("llama")).unwrap())
}

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| Grammars::new(tokenizer()).unwrap())
}

/// The token of each byte, so that every text can be written.
fn byte_tokens() -> &'static [Option<u32>; 256] {
    static TOKENS: OnceLock<[Option<u32>; 256]> = OnceLock::new();
    TOKENS.get_or_init(|| {
        let mut all = [None; 256];
        for id in 0..tokenizer().vocab_size() as u32 {
            let bytes = tokenizer().token_bytes(id);
            if let (Some(&[byte]), false) = (bytes.as_deref(), tokenizer().is_control(id)) {
                all[byte as usize].get_or_insert(id);
            }
        }
        all
    })
}

/// Whether a text is one of the grammar.
fn fits(grammar: &Grammar, text: &str) -> bool {
    let mut constraint = grammar.constraint();
    let mut mask = TokenMask::default();
    for byte in text.bytes() {
        mask.fill(tokenizer().vocab_size());
        let id = byte_tokens()[byte as usize].expect("the vocabulary has the byte");
        if constraint.is_complete() || constraint.mask(&mut mask).is_err() || !mask.contains(id) {
            return false;
        }
        constraint.accept(id).unwrap();
    }
    mask.fill(tokenizer().vocab_size());
    constraint.is_complete() || {
        constraint.mask(&mut mask).unwrap();
        tokenizer().end_tokens().iter().any(|&id| mask.contains(id))
    }
}

fn schema(schema: &Value) -> Grammar {
    let made = grammars().json_schema(schema);
    made.unwrap_or_else(|e| panic!("{e}: {schema}"))
}

fn refused(schema: &Value) -> String {
    match grammars().json_schema(schema) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("it was compiled: {schema}"),
    }
}

/// Every type of pydantic 2.14 and zod 4 that makes a schema.
#[test]
fn schemas_of_libraries_can_be_used() {
    let pydantic = include_str!("../../../testdata/schemas/pydantic.jsonl");
    let zod = include_str!("../../../testdata/schemas/zod.jsonl");
    let mut count = 0;
    for line in pydantic.lines().chain(zod.lines()) {
        let case: Value = serde_json::from_str(line).unwrap();
        let made = grammars().json_schema(&case["schema"]);
        let made = made.unwrap_or_else(|e| panic!("{}: {e}", case["name"]));
        assert!(!fits(&made, "{\"no\""), "{}", case["name"]);
        count += 1;
    }
    assert!(count > 150, "{count}");
}

#[test]
fn keywords_are_kept() {
    let objects = json!({"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}});
    let with = |more: Value| {
        let mut all = objects.clone();
        all["type"] = json!("object");
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let names = json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}});
    let country = json!({
        "type": "object", "required": ["c"],
        "properties": {"c": {"type": "string"}, "z": {"type": "integer"}},
        "if": {"properties": {"c": {"const": "US"}}}, "then": {"required": ["z"]}
    });
    let two_anchors = json!({
        "type": "array", "prefixItems": [{"$ref": "#n"}, {"$ref": "#/$defs/a~1b"}, {"$ref": "#/prefixItems/0"}],
        "minItems": 3, "$defs": {"a/b": {"type": "boolean"}, "x": {"$anchor": "n", "type": "null"}}
    });
    let list = json!({
        "type": "object", "required": ["v"],
        "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}}
    });
    for (schema_of, right, wrong) in [
        (
            json!({"type": "array", "contains": {"const": 7}, "items": {"type": "integer"}}),
            "[7,1]",
            "[1]",
        ),
        (
            with(json!({"dependentRequired": {"a": ["b"]}})),
            "{\"a\":1,\"b\":2}",
            "{\"a\":1}",
        ),
        (
            with(json!({"not": {"required": ["a", "b"]}})),
            "{\"a\":1}",
            "{\"a\":1,\"b\":2}",
        ),
        (
            with(json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]})),
            "{\"b\":1}",
            "{\"a\":1,\"b\":1}",
        ),
        (
            with(json!({"unevaluatedProperties": false})),
            "{\"a\":1}",
            "{\"c\":1}",
        ),
        (country.clone(), "{\"c\":\"US\",\"z\":1}", "{\"c\":\"US\"}"),
        (country, "{\"c\":\"UK\"}", "{\"c\":\"US\"}"),
        (names, "{\"a\":1}", "{\"c\":1}"),
        (json!({"not": {"type": "string"}}), "7", "\"a\""),
        (
            json!({"type": "string", "not": {"enum": ["a", "ab"]}}),
            "\"abc\"",
            "\"ab\"",
        ),
        (json!({"type": "integer", "not": {"const": 5}}), "55", "5"),
        (
            json!({"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 3}]}),
            "6",
            "4",
        ),
        (
            json!({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}),
            "3",
            "2",
        ),
        (
            json!({"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": true}),
            "[\"a\",\"b\"]",
            "[\"a\",\"a\"]",
        ),
        (
            json!({"type": "string", "pattern": "^(?=.*[0-9])[a-z0-9]{4}$"}),
            "\"abc4\"",
            "\"abcd\"",
        ),
        (
            json!({"type": "string", "format": "password"}),
            "\"x\"",
            "1",
        ),
        (
            json!({"type": "integer"}),
            "9223372036854774784",
            "9223372036854775808",
        ),
        (
            json!({"type": "integer", "minimum": 3, "exclusiveMinimum": true}),
            "4",
            "3",
        ),
        (two_anchors, "[null,true,null]", "[null,true,1]"),
        (
            list,
            "{\"v\":1,\"next\":{\"v\":2}}",
            "{\"v\":1,\"next\":{}}",
        ),
    ] {
        let grammar = schema(&schema_of);
        assert!(fits(&grammar, right), "{right} by {schema_of}");
        assert!(!fits(&grammar, wrong), "{wrong} by {schema_of}");
    }
}

/// What cannot be kept is named with its place.
#[test]
fn what_cannot_be_kept_is_named() {
    let within = |inner: Value| json!({"type": "object", "properties": {"x/y": inner}});
    for (inner, says) in [
        (
            json!({"type": "string", "not": {"pattern": "^a"}}),
            "/properties/x~1y/not/pattern: \"pattern\"",
        ),
        (
            json!({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
            "/properties/x~1y/oneOf: ",
        ),
        (
            json!({"type": "string", "pattern": "^(()$"}),
            "/properties/x~1y/pattern: unclosed group at character 2",
        ),
        (
            json!({"$ref": "#/$defs/none"}),
            "/properties/x~1y/$ref: \"#/$defs/none\" refers to nothing",
        ),
        (json!({"type": "nothing"}), "/properties/x~1y/type: "),
        (json!({"enum": []}), "/properties/x~1y/enum: "),
        (
            json!({"type": "array", "contains": true, "maxContains": 1}),
            "/properties/x~1y/maxContains: ",
        ),
    ] {
        let message = refused(&within(inner.clone()));
        assert!(message.contains(says), "{message} for {inner}");
    }
}

/// Each of these took the compiler minutes, or gigabytes.
#[test]
fn what_takes_too_much_is_refused_before() {
    let mut nested = json!({"const": 1});
    for _ in 0..20 {
        nested = json!({"type": "array", "minContains": 20, "contains": nested});
    }
    let divisors = [997, 991, 983].map(|by| json!({"type": "integer", "multipleOf": by}));
    for large in [
        json!({"type": "integer", "multipleOf": 99_999_989}),
        json!({"type": "number", "multipleOf": 0.000_123_457}),
        json!({ "allOf": divisors }),
        json!({"type": "string", "pattern": "^(([a-z]{1000}){1000}){1000}$"}),
        json!({"$ref": "#"}),
        nested,
    ] {
        refused(&large);
    }
    for large in [
        "start: x\nx: %json {\"type\": \"integer\", \"multipleOf\": 99999989}",
        "start: X\nX: /(.*a.{20}.*)/ & /(.*b.{21}.*)/ & ~/(.*c.{22}.*)/",
    ] {
        assert!(grammars().lark(large).is_err(), "{large}");
    }
    let bomb: String = (0..40)
        .map(|i| format!("a{i} ::= a{} a{}\n", i + 1, i + 1))
        .collect();
    assert!(grammars()
        .lark(&format!("root ::= a0\n{bomb}a40 ::= \"x\""))
        .is_err());
}

/// Ambiguous grammars come to an end, whatever is written by them.
#[test]
fn ambiguous_grammars_are_bounded() {
    let grammar = grammars()
        .lark("start: s\ns: s s | \"a\" | \"b\" | \" \" | \"\"")
        .unwrap();
    let mut constraint = grammar.constraint();
    let mut mask = TokenMask::default();
    let id = byte_tokens()[usize::from(b'a')].unwrap();
    for _ in 0..100_000 {
        mask.fill(tokenizer().vocab_size());
        if constraint
            .mask(&mut mask)
            .and_then(|()| constraint.accept(id))
            .is_err()
        {
            return;
        }
    }
    panic!("it has no bound");
}

#[test]
fn grammars_of_llama_cpp_are_read() {
    let json = r##"
        root   ::= object # the whole
        value  ::= object | number | ("true" | "null") ws
        object ::=
          "{" ws ( string ":" ws value
            ("," ws string ":" ws value)* )? "}" ws
        string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" ["\\bfnrt] )* "\"" ws
        number ::= "-"? [1-9] [0-9]{0,3} ws
        ws ::= | " " | "\n" [ \t]{0,20}
    "##;
    for (text, right, wrong) in [
        ("root ::= \"a\"{5,5}", "aaaaa", "aaaa"),
        ("root ::= [^0-9\\]]+ \"]\" .", "ab]x", "a1]x"),
        (
            "root ::= a | \"(\" root \")\"\na ::= \"x\"+",
            "((xx))",
            "((x)",
        ),
        (json, "{\"a\": {\"b\":-12}, \"c\":null}", "{\"a\": 12345}"),
    ] {
        let grammar = grammars()
            .lark(text)
            .unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(fits(&grammar, right), "{right} by {text}");
        assert!(!fits(&grammar, wrong), "{wrong} by {text}");
    }
    for (text, says) in [
        ("root ::= \"a\" x", "line 1: there is no rule \"x\""),
        ("x ::= \"a\"", "no rule \"root\""),
        ("root ::= \"a\"\nroot ::= \"b\"", "two rules \"root\""),
        ("root ::=\n [b-a]", "line 2: a range goes backwards"),
        ("root ::= <think>", "tokens cannot be named"),
        ("root ::= \"a\"{3,1}", "{m,n} is expected"),
    ] {
        match grammars().lark(text) {
            Err(GrammarError::Refused { why, .. }) => assert!(why.contains(says), "{why}"),
            _ => panic!("{text}"),
        }
    }
}

/// Several answers share a compilation, and nothing else.
#[test]
fn constraints_of_a_grammar_are_apart() {
    let grammar = schema(&json!({"enum": ["ab", "cd"]}));
    let (mut one, mut other) = (grammar.constraint(), grammar.constraint());
    let id = |byte: u8| byte_tokens()[usize::from(byte)].unwrap();
    let mut mask = TokenMask::default();
    for (constraint, text) in [(&mut one, "\"ab\""), (&mut other, "\"cd\"")] {
        for byte in text.bytes() {
            mask.fill(tokenizer().vocab_size());
            constraint.mask(&mut mask).unwrap();
            assert!(mask.contains(id(byte)), "{text}");
            constraint.accept(id(byte)).unwrap();
        }
        assert!(constraint.is_complete());
    }
}

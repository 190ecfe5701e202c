//! Chat templates against Python's jinja2, and against their authors.
//!
//! `chat/make.py` writes `chat/cases.json`.

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::read;
use rustml_tokenizer::{ChatTemplate, Message};
use serde::Deserialize;
use serde_json::{json, Value};

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    extra: Value,
    expected: Option<String>,
    raised: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
}

fn render(source: &str) -> String {
    template(source)
        .render(&[Message::new("user", "Hi")], true, Value::Null)
        .unwrap()
}

fn error(source: &str) -> String {
    let error = template(source).render(&[Message::new("user", "Hi")], true, Value::Null);
    error.unwrap_err().to_string()
}

#[test]
fn templates_render_as_in_python() {
    let cases: Vec<Case> = read(&folder().join("cases.json"));
    assert!(cases.len() >= 30);
    for (i, case) in cases.iter().enumerate() {
        let source = std::fs::read_to_string(folder().join(&case.template).with_extension("jinja"));
        let template = template(&source.unwrap());
        let found = template.render(
            &case.messages,
            case.add_generation_prompt,
            case.extra.clone(),
        );
        let name = format!("case {i}, {}", case.template);
        match (found, &case.expected, &case.raised) {
            (Ok(found), Some(expected), _) => assert_eq!(&found, expected, "{name}"),
            (Err(e), _, Some(raised)) => assert_eq!(
                e.to_string(),
                format!("the chat template does not accept this conversation: {raised}"),
                "{name}"
            ),
            (found, ..) => panic!("{name}: {found:?}"),
        }
    }
}

#[test]
fn dates_are_of_today() {
    let year: i32 = render("{{ strftime_now('%Y') }}").parse().unwrap();
    assert!((2024..3000).contains(&year), "{year}");
    let date = render("{{ strftime_now('%-d %b %Y, %A, %H:%M') }}");
    assert!(
        date.contains(&format!("{year}, ")) && !date.contains('%'),
        "{date}"
    );
}

#[test]
fn messages_come_as_json() {
    let text =
        r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}], "name": "x"}"#;
    let message: Message = serde_json::from_str(text).unwrap();
    assert_eq!(
        (
            message.content.as_str(),
            &message.extra["tool_calls"][0]["id"]
        ),
        ("", &json!("1"))
    );
    let back = serde_json::to_value(&message).unwrap();
    assert_eq!(back["name"], "x");
    assert_eq!(serde_json::from_value::<Message>(back).unwrap(), message);
    let read = |content: Value| {
        serde_json::from_value::<Message>(json!({"role": "user", "content": content}))
    };
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    assert_eq!(read(parts).unwrap(), Message::new("user", "ab"));
    let image = read(json!([{"type": "image_url", "image_url": {"url": ""}}])).unwrap_err();
    assert_eq!(
        image.to_string(),
        "messages can only hold text, not \"image_url\""
    );
    assert!(read(json!(5))
        .unwrap_err()
        .to_string()
        .contains("has to be text"));
    assert_eq!(
        serde_json::from_str::<Message>(r#"{"role": "user"}"#).unwrap(),
        Message::new("user", "")
    );
}

#[test]
fn errors_are_one_sentence() {
    assert_eq!(
        error("\n{{ raise_exception('no.\nreally') }}"),
        "the chat template does not accept this conversation: no. really"
    );
    let syntax = ChatTemplate::new("a\n{% if %}", None, None)
        .unwrap_err()
        .to_string();
    assert!(
        syntax.starts_with("the chat template failed in line 2: syntax error ("),
        "{syntax}"
    );
    assert!(!syntax.contains('\n'), "{syntax}");
    let undefined = error("{{ nothing.at.all }}");
    assert!(
        undefined.contains("in line 1: undefined value"),
        "{undefined}"
    );
    let unknown = error("{{ 1 | no_such_filter }}");
    assert!(unknown.contains("no_such_filter"), "{unknown}");
    let include = error("{% include '/etc/passwd' %}");
    assert!(include.contains("template not found"), "{include}");
    let extra = template("")
        .render(&[], true, json!([1]))
        .unwrap_err()
        .to_string();
    assert_eq!(
        extra,
        "the chat template was given extra variables that are no object"
    );
    let long = ChatTemplate::new(&" ".repeat(2 << 20), None, None)
        .unwrap_err()
        .to_string();
    assert!(long.contains("is 2097152 bytes long"), "{long}");
}

#[test]
fn work_and_memory_are_bounded() {
    let doubling = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
    let nested = "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}";
    let sources = [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_string(),
        doubling.to_string(),
        format!("{nested}{{{{ ns.s | tojson }}}}"),
        format!("{nested}{{{{ ns.s }}}}"),
        "{{ 'x' * 9999999999 }}".to_string(),
        "{{ 'x'.replace('x', 'x' * 9999999) * 9999999 }}".to_string(),
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".to_string(),
        "{% for i in range(99999) %}{% for j in range(99) %}{{ 'x' * 999 }}{% endfor %}{% endfor %}".to_string(),
        "{{ '%9999999999d' | format(1) }}".to_string(),
        "{{ [1, 2] | tojson(indent=9999999999) }}{{ raise_exception('') }}".to_string(),
        "{{ strftime_now('%Y' * 9999999) }}{{ raise_exception('') }}".to_string(),
    ];
    for source in sources {
        let start = Instant::now();
        let error = error(&source);
        assert!(error.starts_with("the chat template "), "{error}");
        eprintln!("{:?} {error}", start.elapsed());
    }
    let long = "((".repeat(100_000);
    assert!(ChatTemplate::new(&format!("{{{{ {long} }}}}"), None, None).is_err());
    let deep = "{% if 1 %}".repeat(20_000);
    assert!(ChatTemplate::new(&deep, None, None).is_err());
}

#[test]
fn long_conversations_fit_the_bounds() {
    let source = std::fs::read_to_string(folder().join("qwen3.jinja")).unwrap();
    let template = template(&source);
    let turn = |i: usize| {
        Message::new(
            ["user", "assistant"][i % 2],
            "A sentence of some length. ".repeat(20),
        )
    };
    let messages: Vec<Message> = (0..5000).map(turn).collect();
    let text = template.render(&messages, true, Value::Null).unwrap();
    assert!(text.len() > 2_500_000);
    let one = [Message::new("user", "x".repeat(20_000_000))];
    assert!(template.render(&one, true, Value::Null).unwrap().len() > 20_000_000);
}

#[test]
fn generation_blocks_change_nothing() {
    assert_eq!(
        render("a\n  {% generation %}\nb\n  {% endgeneration %}\nc"),
        "a\nb\nc"
    );
    assert_eq!(
        render("a {%- generation -%} b {%- endgeneration %} c"),
        "ab c"
    );
    assert_eq!(render("{{ 'generation' }}"), "generation");
}

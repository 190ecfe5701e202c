//! Chat templates: messages as they take them, and their authors' mischief.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustml_tokenizer::{ChatTemplate, Content, Message};
use serde_json::{json, Value};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rustml-jinja/tests/chat")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
}

fn render(source: &str) -> String {
    let rendered = template(source).render(&[Message::new("user", "Hi")], true, Value::Null);
    rendered.unwrap().as_str().to_owned()
}

fn error(source: &str) -> String {
    let error = template(source).render(&[Message::new("user", "Hi")], true, Value::Null);
    error.unwrap_err().to_string()
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
        (&message.content, &message.extra["tool_calls"][0]["id"]),
        (&Content::Nothing, &json!("1"))
    );
    let back = serde_json::to_value(&message).unwrap();
    assert_eq!(back["name"], "x");
    assert_eq!(serde_json::from_value::<Message>(back).unwrap(), message);
    let read = |content: Value| {
        serde_json::from_value::<Message>(json!({"role": "user", "content": content}))
    };
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let message = read(parts.clone()).unwrap();
    assert_eq!(message.content.text(), "a\nb");
    assert_eq!(json!(message)["content"], parts);
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
        Message::new("user", Content::Nothing)
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
    let include = ChatTemplate::new("{% include '/etc/passwd' %}", None, None)
        .unwrap_err()
        .to_string();
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
    assert!(text.as_str().len() > 2_500_000);
    let one = [Message::new("user", "x".repeat(20_000_000))];
    let text = template.render(&one, true, Value::Null).unwrap();
    assert!(text.as_str().len() > 20_000_000);
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

/// ChatML, with whatever else stands in the loop before the content.
fn chatml(before: &str, content: &str) -> String {
    format!(
        "{{%- for m in messages -%}}{before}<|{{{{ m.role }}}}|>{{{{ {content} }}}}\
         {{%- for c in m.tool_calls or [] %}}[{{{{ c.function.name }}}} {{{{ c.function.arguments | tojson }}}}]{{% endfor %}}\
         {{%- endfor -%}}"
    )
}

fn written(source: &str, messages: Value) -> String {
    let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
    let rendered = template(source).render(&messages, true, Value::Null);
    rendered
        .unwrap_or_else(|e| panic!("{source}: {e}"))
        .as_str()
        .to_owned()
}

fn call(arguments: Value) -> Value {
    json!([{"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": arguments}}])
}

#[test]
fn parts_are_lines_or_a_list() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]}]);
    let text =
        json!([{"role": "user", "content": "What?"}, {"role": "assistant", "content": "It."}]);
    let takes_text = chatml("", "m.content | trim");
    assert_eq!(
        written(&takes_text, parts.clone()),
        "<|user|>What is\nthis?"
    );
    // Python would write the list itself, which is not what is meant.
    assert_eq!(
        written(&chatml("", "m.content"), parts.clone()),
        "<|user|>What is\nthis?"
    );
    let takes_both = chatml(
        "",
        "m.content if m.content is string else m.content | map(attribute='text') | join(' / ')",
    );
    assert_eq!(
        written(&takes_both, parts.clone()),
        "<|user|>What is / this?"
    );
    assert_eq!(
        written(&takes_both, text.clone()),
        "<|user|>What?<|assistant|>It."
    );
    let takes_list = chatml(
        "",
        "m.content | selectattr('type', 'eq', 'text') | map(attribute='text') | join('+')",
    );
    assert_eq!(written(&takes_list, parts), "<|user|>What is+this?");
    assert_eq!(written(&takes_list, text), "<|user|>What?<|assistant|>It.");
}

#[test]
fn templates_without_a_system_message_lose_none() {
    let talk = json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"}, {"role": "system", "content": "Or not."}, {"role": "user", "content": "c"},
    ]);
    let refuses = chatml(
        "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
        "m.content",
    );
    let right = "<|user|>Be brief.\n\na<|assistant|>b<|user|>Or not.\n\nc";
    assert_eq!(written(&refuses, talk.clone()), right);
    let forgets = chatml(
        "{% if m.role == 'system' %}{% continue %}{% endif %}",
        "m.content",
    );
    assert_eq!(written(&forgets, talk.clone()), right);
    let knows = chatml("", "m.content");
    assert!(written(&knows, talk).starts_with("<|system|>Be brief.<|user|>a"));
    let alone = json!([{"role": "system", "content": "s"}]);
    assert_eq!(written(&refuses, alone), "<|user|>s");
}

#[test]
fn turns_are_joined_where_they_are_demanded() {
    let turns = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}";
    let talk = json!([
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": null, "tool_calls": call(json!({"x": 1}))}, {"role": "user", "content": ""}, {"role": "user", "content": "d"},
    ]);
    let right = "<|user|>a\n\nb<|assistant|>c[f {\"x\": 1}]<|user|>d";
    assert_eq!(written(&chatml(turns, "m.content"), talk.clone()), right);
    let apart = written(&chatml("", "m.content"), talk);
    assert!(
        apart.starts_with("<|user|>a<|user|>b<|assistant|>c<|assistant|>[f"),
        "{apart}"
    );
    // The template's own refusal of what joining does not mend.
    let template = template(&chatml(turns, "m.content"));
    let error = template
        .render(&[Message::new("assistant", "a")], true, Value::Null)
        .unwrap_err();
    assert!(
        error.to_string().contains("roles must alternate"),
        "{error}"
    );
}

#[test]
fn arguments_are_what_the_template_wants() {
    let talk = |arguments: Value| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": call(arguments)}]);
    let source = |written: &str| {
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name ~ ' ' }}\
         {{ WRITTEN }}{% endfor %}{% endfor %}"
            .replace("WRITTEN", written)
    };
    let given = r#"{"place":  "Łódź", "days": 2}"#;
    let object = json!({"place": "Łódź", "days": 2});
    // Objects are written by `tojson`, which would quote a text once more.
    let json = source("c.function.arguments | tojson");
    let right = "<|user|>a<|assistant|>f {\"place\": \"Łódź\", \"days\": 2}";
    assert_eq!(written(&json, talk(json!(given))), right);
    assert_eq!(written(&json, talk(object.clone())), right);
    let items = source("c.function.arguments.items() | map('join', '=') | join(', ')");
    assert_eq!(
        written(&items, talk(json!(given))),
        "<|user|>a<|assistant|>f place=Łódź, days=2"
    );
    // Text is added to text.
    for wants_text in ["'' + c.function.arguments", "c.function.arguments"] {
        let text = source(wants_text);
        assert_eq!(
            written(&text, talk(json!(given))),
            format!("<|user|>a<|assistant|>f {given}")
        );
        assert_eq!(
            written(&text, talk(object.clone())),
            format!("<|user|>a<|assistant|>f {object}")
        );
    }
    let both = source(
        "c.function.arguments if c.function.arguments is string else c.function.arguments | tojson",
    );
    assert_eq!(written(&both, talk(json!(given))), right);
    // What is no object stays what it is.
    assert_eq!(
        written(&json, talk(json!("x"))),
        "<|user|>a<|assistant|>f \"x\""
    );
}

#[test]
fn nothing_said_beside_a_call_is_none_where_that_is_asked() {
    let talk = |content: Value| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": content, "tool_calls": call(json!({}))}, {"role": "tool", "content": "r"}]);
    let calls = "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}";
    let asks = format!(
        "{{% for m in messages %}}<|{{{{ m.role }}}}|>{{% if m.content is none %}}{calls}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
    );
    for content in [Value::Null, json!("")] {
        assert_eq!(
            written(&asks, talk(content)),
            "<|user|>a<|assistant|>[f {}]<|tool|>r"
        );
    }
    assert_eq!(
        written(&asks, json!([{"role": "assistant", "content": null}])),
        "<|assistant|>"
    );
    // Others add it to text, or write it.
    for other in ["'' + m.content", "m.content", "m.content | string"] {
        assert_eq!(
            written(&chatml("", other), talk(Value::Null)),
            "<|user|>a<|assistant|>[f {}]<|tool|>r"
        );
    }
    // Both are taken: as it was given.
    let both = chatml("", "'-' if m.content is none else m.content");
    assert_eq!(
        written(&both, talk(Value::Null)),
        "<|user|>a<|assistant|>-[f {}]<|tool|>r"
    );
    assert_eq!(
        written(&both, talk(json!(""))),
        "<|user|>a<|assistant|>[f {}]<|tool|>r"
    );
}

#[test]
fn thoughts_go_where_the_template_looks() {
    let talk = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "hm"}]);
    for key in ["reasoning_content", "reasoning", "thinking"] {
        let source = chatml(
            "",
            &format!("m.content ~ ('<think>' ~ m.{key} ~ '</think>' if m.{key})"),
        );
        assert_eq!(
            written(&source, talk.clone()),
            "<|user|>a<|assistant|>b<think>hm</think>",
            "{key}"
        );
    }
    assert_eq!(
        written(&chatml("", "m.content"), talk),
        "<|user|>a<|assistant|>b"
    );
}

#[test]
fn a_template_that_cannot_be_asked_is_an_ordinary_one() {
    let slow = "{% for i in range(99999) %}{% for m in messages %}{% for c in range(20) %}{% endfor %}{% endfor %}{% endfor %}x";
    let error = template(slow)
        .render(&[Message::new("user", "Hi")], true, Value::Null)
        .unwrap_err();
    assert!(error.to_string().contains("takes too"), "{error}");
    assert_eq!(render("nothing of the kind"), "nothing of the kind");
}

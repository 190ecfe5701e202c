//! Templates against Python's jinja2, set up by transformers.
//!
//! `chat/make.py` writes `chat/cases.json` and `chat/snippets.json`. Templates of
//! real models are not this project's to keep; `examples/compare.rs` is for these.

use rustml_jinja::{Fault, Limits, Origin, Template, Variable};
use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What `chat/make.py` wrote of templates in the manner of real ones.
#[derive(Deserialize)]
struct Like {
    template: String,
    messages: Value,
    add_generation_prompt: bool,
    extra: Map<String, Value>,
    expected: Option<String>,
    raised: Option<String>,
}

/// A few lines and what they come to.
#[derive(Deserialize)]
struct Snippet {
    source: String,
    expected: Option<String>,
    error: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat")
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn render(template: &Template, all: &Map<String, Value>) -> Result<String, Fault> {
    let variable = |(name, value)| Variable {
        name,
        value,
        origin: Origin::Input,
    };
    let all: Vec<Variable> = all.iter().map(|(n, v)| variable((n.as_str(), v))).collect();
    let rendered = template.render(&all, Limits::default())?;
    Ok(rendered.as_str().to_owned())
}

#[test]
fn templates_like_real_ones_render_as_in_python() {
    let cases: Vec<Like> = read("cases.json");
    assert!(cases.len() >= 30);
    for (i, case) in cases.into_iter().enumerate() {
        let source = std::fs::read_to_string(folder().join(&case.template).with_extension("jinja"));
        let template = Template::new(&source.unwrap()).unwrap();
        let mut all = Map::new();
        all.insert("messages".into(), case.messages);
        all.insert(
            "add_generation_prompt".into(),
            case.add_generation_prompt.into(),
        );
        all.insert("tools".into(), Value::Null);
        all.insert("documents".into(), Value::Null);
        all.insert("bos_token".into(), "<s>".into());
        all.insert("eos_token".into(), "</s>".into());
        all.extend(case.extra);
        let name = format!("case {i}, {}", case.template);
        match (render(&template, &all), case.expected, case.raised) {
            (Ok(found), Some(expected), _) => assert_eq!(found, expected, "{name}"),
            (Err(fault), _, Some(raised)) => assert_eq!(fault, Fault::Raised(raised), "{name}"),
            (found, ..) => panic!("{name}: {found:?}"),
        }
    }
}

#[test]
fn snippets_are_worth_what_they_are_in_python() {
    let snippets: Vec<Snippet> = read("snippets.json");
    assert!(snippets.len() >= 300);
    let all: Map<String, Value> = read("variables.json");
    let mut wrong = Vec::new();
    for Snippet {
        source,
        expected,
        error,
    } in snippets
    {
        let found = Template::new(&source).and_then(|template| render(&template, &all));
        match (found, expected, error) {
            (Ok(found), Some(expected), _) if found == expected => {}
            (Err(_), None, Some(_)) => {}
            (found, expected, error) => {
                wrong.push(format!(
                    "{source}\n  here {found:?}\n  there {:?}",
                    expected.or(error)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

//! Templates of real models against Python's jinja2, set up by transformers.
//!
//! The templates are not this project's to keep:
//!
//! ```sh
//! python scripts/reference/chat_templates.py FOLDER cases.json
//! cargo run -p rustml-jinja --example compare -- cases.json
//! ```

use rustml_jinja::{Fault, Limits, Origin, Template, Variable};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::process::ExitCode;

/// What `scripts/reference/chat_templates.py` wrote.
#[derive(Deserialize)]
struct Found {
    talks: Vec<Value>,
    extras: Vec<Map<String, Value>>,
    tokens: Map<String, Value>,
    templates: Vec<Real>,
}

#[derive(Deserialize)]
struct Real {
    name: String,
    source: String,
    broken: Option<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    talk: usize,
    extra: usize,
    expected: Option<String>,
    error: Option<String>,
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

fn variables(found: &Found, case: &Case) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("messages".into(), found.talks[case.talk].clone());
    all.insert("add_generation_prompt".into(), true.into());
    all.insert("tools".into(), Value::Null);
    all.insert("documents".into(), Value::Null);
    all.extend(found.tokens.clone());
    all.extend(found.extras[case.extra].clone());
    all
}

fn differs(found: &Found, template: &Template, case: &Case) -> Option<String> {
    match (render(template, &variables(found, case)), &case.expected) {
        (Ok(ours), Some(theirs)) if &ours == theirs => None,
        (Ok(ours), Some(theirs)) => {
            let same = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b);
            let at = (0..=same.count())
                .rev()
                .find(|at| theirs.is_char_boundary(*at) && ours.is_char_boundary(*at))?;
            let shown = |text: &str| text[at..].chars().take(60).collect::<String>();
            Some(format!("{:?} instead of {:?}", shown(&ours), shown(theirs)))
        }
        (Err(fault), Some(_)) => Some(fault.to_string()),
        // Python's `map` and `select` give what can be gone over once, and is
        // no JSON. Here they give lists.
        (Ok(_), None) if case.error.as_ref().is_some_and(|e| e.contains("generator")) => None,
        (Ok(_), None) => Some(format!("renders, not {:?}", case.error)),
        (Err(_), None) => None,
    }
}

fn main() -> ExitCode {
    let path = std::env::args_os()
        .nth(1)
        .expect("the file that chat_templates.py wrote");
    let text = std::fs::read(path).expect("it can be read");
    let found: Found = serde_json::from_slice(&text).expect("it is what chat_templates.py wrote");
    let (mut cases, mut wrong) = (0, 0);
    for real in &found.templates {
        let template = match (Template::new(&real.source), &real.broken) {
            (Ok(template), None) => template,
            (Err(_), Some(_)) => continue,
            (ours, theirs) => {
                println!("{}: {ours:?}, {theirs:?}", real.name);
                wrong += 1;
                continue;
            }
        };
        for case in &real.cases {
            cases += 1;
            if let Some(difference) = differs(&found, &template, case) {
                println!("{} {}/{}: {difference}", real.name, case.talk, case.extra);
                wrong += 1;
            }
        }
    }
    println!(
        "{} templates, {cases} cases, {wrong} differ",
        found.templates.len()
    );
    ExitCode::from(u8::from(wrong > 0))
}

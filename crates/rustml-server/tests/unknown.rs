//! Every object of every request, as the server's own document describes them:
//! a key that nobody knows is refused, and named.

mod common;

use common::Server;
use rustml_server::Config;
use serde_json::{json, Map, Value};

/// What no type has.
const NOBODY: &str = "nobody_knows";

#[test]
fn an_unknown_key_is_named_wherever_it_stands() {
    let s = Server::start(Config::default());
    let document = s.get("/openapi.json").ok();
    let walk = Walk(&document);
    let mut named = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let body = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
        if body.is_null() {
            continue;
        }
        for (body, at) in walk.broken(body) {
            let answer = s.post(path, &body);
            let (status, param, code) = answer.error();
            assert_eq!(status, 400, "{path} {body}: {}", answer.body);
            assert_eq!(code, "unknown_parameter", "{path} {body}: {}", answer.body);
            assert_eq!(param, at, "{path} {body}: {}", answer.body);
            assert!(answer.body.contains(&at), "{}", answer.body);
            named.push(format!("{path} {at}"));
        }
    }
    // Those that once passed, and one of each request.
    for (path, at) in [
        ("/v1/chat/completions", ""),
        ("/v1/chat/completions", "messages[0]."),
        ("/v1/chat/completions", "messages[0].content[0]."),
        (
            "/v1/chat/completions",
            "messages[0].tool_calls[0].function.",
        ),
        ("/v1/chat/completions", "response_format."),
        ("/v1/chat/completions", "response_format.json_schema."),
        ("/v1/chat/completions", "stream_options."),
        ("/v1/chat/completions", "tool_choice."),
        ("/v1/chat/completions", "tool_choice.function."),
        ("/v1/chat/completions", "tools[0].function."),
        ("/v1/completions", "response_format."),
        ("/v1/responses", ""),
        ("/v1/responses", "input[0]."),
        ("/v1/embeddings", ""),
        ("/v1/rerank", "documents[0]."),
        ("/classify", ""),
        ("/tokenize", "messages[0].content[0]."),
        ("/detokenize", ""),
    ] {
        let place = format!("{path} {at}{NOBODY}");
        assert!(named.contains(&place), "{place} is not in {named:#?}");
    }
}

/// Reads schemas of a document.
struct Walk<'d>(&'d Value);

/// The properties of an object, and which are required.
type Properties = (Map<String, Value>, Vec<String>);

impl Walk<'_> {
    /// What is referred to.
    fn resolved(&self, schema: &Value) -> Value {
        match schema["$ref"].as_str() {
            Some(at) => self.resolved(self.0.pointer(at.trim_start_matches('#')).unwrap()),
            None => schema.clone(),
        }
    }

    /// Whichever of several it may be, but nothing.
    fn variants(&self, schema: &Value) -> Vec<Value> {
        let all = ["oneOf", "anyOf"]
            .iter()
            .filter_map(|k| schema[k].as_array());
        all.flatten()
            .filter(|v| v["type"] != "null")
            .cloned()
            .collect()
    }

    fn properties(&self, schema: &Value) -> Properties {
        let schema = self.resolved(schema);
        let own = schema["properties"].as_object().cloned();
        let required = schema["required"].as_array().into_iter().flatten();
        let required = required.map(|name| name.as_str().unwrap().into());
        let mut both = (own.unwrap_or_default(), required.collect::<Vec<_>>());
        for part in schema["allOf"].as_array().into_iter().flatten() {
            let (more, required) = self.properties(part);
            both.0.extend(more);
            both.1.extend(required);
        }
        both
    }

    /// A value that fits, with as little as there has to be.
    fn plain(&self, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(one) = schema["enum"].as_array() {
            return one[0].clone();
        }
        if let Some(one) = self.variants(&schema).first() {
            return self.plain(one);
        }
        match kind(&schema) {
            "string" => json!("x"),
            "integer" | "number" => json!(1),
            "boolean" => json!(true),
            "array" => json!([self.plain(&schema["items"])]),
            _ => {
                let (properties, required) = self.properties(&schema);
                let fields = required.into_iter().map(|name| {
                    let value = self.plain(&properties[&name]);
                    (name, value)
                });
                Value::Object(fields.collect())
            }
        }
    }

    /// Values with a key too many in one of their objects, and where that is.
    fn broken(&self, schema: &Value) -> Vec<(Value, String)> {
        let schema = self.resolved(schema);
        let mut all = Vec::new();
        for one in self.variants(&schema) {
            all.extend(self.broken(&one));
        }
        if kind(&schema) == "array" {
            let items = self.broken(&schema["items"]).into_iter();
            all.extend(items.map(|(item, at)| (json!([item]), format!("[0].{at}"))));
        }
        let (properties, _) = self.properties(&schema);
        // Without properties it is free: a schema, or biases by token.
        if properties.is_empty() {
            return all;
        }
        let mut plain = self.plain(&schema);
        for (name, property) in &properties {
            for (value, at) in self.broken(property) {
                let mut body = plain.clone();
                body[name] = value;
                let dot = if at.starts_with('[') { "" } else { "." };
                all.push((body, format!("{name}{dot}{at}")));
            }
        }
        plain[NOBODY] = json!(1);
        all.push((plain, NOBODY.into()));
        all
    }
}

/// The type of a schema, but nothing.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(all) => all.iter().find_map(|k| k.as_str().filter(|k| *k != "null")),
        kind => kind.as_str(),
    }
    .unwrap_or_default()
}

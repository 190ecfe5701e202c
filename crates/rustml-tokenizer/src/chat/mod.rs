//! Chat templates: how a model wants a conversation to be written.
//!
//! A template is a Jinja program that comes with the model, which makes it
//! untrusted: it runs with a budget of work and memory, and can reach nothing
//! but its arguments.

mod json;
mod methods;

use std::io;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use regex_automata::meta::Regex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};

/// One message of a conversation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`...
    pub role: String,
    /// What is said. In JSON it may also be `null`, which reads as empty, or a
    /// list of text parts (`{"type": "text", "text": ...}`), which are joined.
    #[serde(default, deserialize_with = "content")]
    pub content: String,
    /// Everything else a template may look at: `tool_calls`, `name`...
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message without anything extra.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
            extra: Default::default(),
        }
    }
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Other(serde::de::IgnoredAny),
    }
    #[derive(Deserialize)]
    struct Part {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        text: String,
    }
    let parts = match Option::deserialize(deserializer)? {
        None => return Ok(String::new()),
        Some(Content::Text(text)) => return Ok(text),
        Some(Content::Parts(parts)) => parts,
        Some(Content::Other(_)) => {
            return Err(D::Error::custom("the content of a message has to be text"))
        }
    };
    match parts.iter().find(|part| part.kind != "text") {
        None => Ok(parts.into_iter().map(|part| part.text).collect()),
        Some(part) => Err(D::Error::custom(format!(
            "messages can only hold text, not {:?}",
            part.kind
        ))),
    }
}

/// A template longer than this is not one.
const MAX_SOURCE: usize = 1 << 20;
/// Work for a conversation of no length: instructions, or 64 bytes each.
const BASE_FUEL: u64 = 4_000_000;
/// Text that a template may add to a conversation of no length.
const BASE_OUTPUT: usize = 1 << 20;

/// A model's chat template.
///
/// Rendering follows `transformers`: blocks are trimmed, `tojson` writes as
/// Python's `json.dumps` does, Python's string and dictionary methods exist,
/// and `raise_exception` and `strftime_now` do what they say.
///
/// ```
/// use rustml_tokenizer::{ChatTemplate, Message};
///
/// let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}";
/// let template = ChatTemplate::new(source, None, None)?;
/// let prompt = template.render(&[Message::new("user", " Hello! ")], true, Default::default())?;
/// assert_eq!(prompt, "<|user|>Hello!\n");
/// # Ok::<(), rustml_tokenizer::Error>(())
/// ```
pub struct ChatTemplate {
    source: String,
    bos: Option<String>,
    eos: Option<String>,
    /// Why it does not compile, if it does not.
    environment: Result<Environment<'static>, String>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of those tokens.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate> {
        let template = Self::deferred(source, bos, eos);
        match &template.environment {
            Ok(_) => Ok(template),
            Err(message) => Err(Error::Template(message.clone())),
        }
    }

    /// Compiles a template and keeps an error for [`Self::render`]: a model
    /// whose template is broken can still complete plain text.
    pub(crate) fn deferred(source: &str, bos: Option<&str>, eos: Option<&str>) -> ChatTemplate {
        ChatTemplate {
            source: source.into(),
            bos: bos.map(Into::into),
            eos: eos.map(Into::into),
            environment: environment(source),
        }
    }

    /// The template as it came.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes a conversation the way the model was trained on.
    ///
    /// `add_generation_prompt` also writes the beginning of the model's answer.
    /// `extra` is an object whose entries the template sees as variables:
    /// `tools`, `documents`, `enable_thinking`, `date_string`...
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: serde_json::Value,
    ) -> Result<String> {
        let environment = self
            .environment
            .as_ref()
            .map_err(|e| Error::Template(e.clone()))?;
        let extra = match extra {
            serde_json::Value::Null => Default::default(),
            serde_json::Value::Object(map) => map,
            _ => {
                return Err(Error::Template(
                    "was given extra variables that are no object".into(),
                ))
            }
        };
        // The budget grows with the conversation.
        let size = |value: &serde_json::Value| value.to_string().len();
        let size = messages
            .iter()
            .map(|m| m.role.len() + m.content.len() + m.extra.values().map(size).sum::<usize>())
            .chain(extra.values().map(size))
            .sum::<usize>();
        let mut environment = environment.clone();
        environment.set_fuel(Some(BASE_FUEL + size as u64));

        let mut variables: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from(Serde(messages))),
            ("add_generation_prompt".into(), add_generation_prompt.into()),
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
        ];
        let tokens = [("bos_token", &self.bos), ("eos_token", &self.eos)];
        for (name, token) in tokens {
            variables.extend(token.as_ref().map(|token| (name.into(), token.into())));
        }
        variables.extend(extra.into_iter().map(|(k, v)| (k, Value::from(Serde(v)))));
        let variables = Value::from_pairs(variables);

        let mut output = Capped {
            text: Vec::new(),
            left: BASE_OUTPUT.saturating_add(size.saturating_mul(8)),
        };
        let template = environment
            .get_template(NAME)
            .map_err(|e| Error::Template(explain(&e)))?;
        let rendered = template.render_captured_to(variables, &mut output);
        rendered.map_err(|e| Error::Template(explain(&e)))?;
        String::from_utf8(output.text).map_err(|_| Error::Template("wrote invalid UTF-8".into()))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

const NAME: &str = "chat";

/// The environment with the compiled template, or what is wrong with it.
fn environment(source: &str) -> Result<Environment<'static>, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!(
            "is {} bytes long, more than {MAX_SOURCE}",
            source.len()
        ));
    }
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::unknown_method);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.map_err(|e| explain(&e))?);
    environment.add_filter("tojson", json::tojson);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    let template = environment.add_template_owned(NAME, without_generation(source));
    template.map_err(|e| explain(&e))?;
    Ok(environment)
}

/// `{% generation %}` marks what a model is trained to answer. For rendering it
/// is a block without effect, and so is `{% if true %}`, down to the white
/// space around it.
fn without_generation(source: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}").expect("a constant")
    });
    let mut result = String::with_capacity(source.len());
    let mut done = 0;
    for found in TAG.find_iter(source) {
        let tag = &source[found.range()];
        result.push_str(&source[done..found.start()]);
        result.push_str(
            &tag.replace("endgeneration", "endif")
                .replace("generation", "if true"),
        );
        done = found.end();
    }
    result.push_str(&source[done..]);
    result
}

/// A template's own words about a conversation it does not accept.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, "raised");
    Err(error.with_source(Raised(message)))
}

/// Jinja's test: anything that a loop can go over, thus strings but not `none`.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Jinja's test: anything that has a length and items, thus also strings,
/// dictionaries and the undefined.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || value.len().is_some()
}

/// The local time in the notation of C and Python.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// Collects output up to a limit.
struct Capped {
    text: Vec<u8>,
    left: usize,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            return Err(io::Error::other("too long"));
        };
        self.left = left;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The rest of a sentence that begins with "the chat template".
fn explain(error: &minijinja::Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        if let Some(Raised(message)) = e.downcast_ref() {
            return format!("does not accept this conversation: {}", one_line(message));
        }
        cause = e.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => "takes too much work or memory for this conversation".into(),
        ErrorKind::WriteFailure => "writes far more text than the conversation has".into(),
        kind => {
            let line = error
                .line()
                .map_or(String::new(), |line| format!(" in line {line}"));
            let detail = error
                .detail()
                .map_or(String::new(), |detail| format!(" ({detail})"));
            one_line(&format!("failed{line}: {kind}{detail}"))
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

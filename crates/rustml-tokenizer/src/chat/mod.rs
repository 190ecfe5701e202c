//! Chat templates: how a model wants a conversation to be written.
//!
//! A template is a Jinja program that comes with the model, which makes it
//! untrusted: it runs with a budget of work, memory and time, and can reach
//! nothing but its arguments. What a conversation says is untrusted as well, so
//! the result tells its words from those of the template.

mod abilities;
mod fit;
mod message;

use std::sync::OnceLock;
use std::time::Duration;

use rustml_jinja::{Fault, Limits, Origin, Rendered, Template, Variable};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use abilities::Abilities;
pub use message::{Content, Message};

/// The roles that templates write into control tokens, as in `<|user|>`.
const ROLES: &[&str] = &[
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "model",
    "ipython",
];

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
/// assert_eq!(prompt.as_str(), "<|user|>Hello!\n");
/// # Ok::<(), rustml_tokenizer::Error>(())
/// ```
pub struct ChatTemplate {
    source: String,
    bos: Option<String>,
    eos: Option<String>,
    /// Why it does not compile, if it does not.
    template: Result<Template, Fault>,
    abilities: OnceLock<Abilities>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of those tokens.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate> {
        let template = Self::deferred(source, bos, eos);
        match &template.template {
            Ok(_) => Ok(template),
            Err(fault) => Err(explain(fault)),
        }
    }

    /// Compiles a template and keeps an error for [`Self::render`]: a model
    /// whose template is broken can still complete plain text.
    pub(crate) fn deferred(source: &str, bos: Option<&str>, eos: Option<&str>) -> ChatTemplate {
        ChatTemplate {
            source: source.into(),
            bos: bos.map(Into::into),
            eos: eos.map(Into::into),
            template: Template::new(source),
            abilities: OnceLock::new(),
        }
    }

    /// The template as it came.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes a conversation the way the model was trained on. The result knows
    /// which of its bytes the conversation brought in.
    ///
    /// Messages are put as this template takes them. What it cannot write by
    /// itself is not lost: a system message becomes the beginning of the user's,
    /// where there is none; messages of one role are joined, where turns are
    /// demanded; parts become lines, and arguments text or an object.
    ///
    /// `add_generation_prompt` also writes the beginning of the model's answer.
    /// `extra` is an object whose entries the template sees as variables:
    /// `tools`, `documents`, `enable_thinking`, `date_string`...
    ///
    /// # Errors
    /// If the template is broken, refuses the conversation, or asks for more
    /// work, memory or time than a conversation of this length is worth.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: Value,
    ) -> Result<Rendered> {
        let template = self.template.as_ref().map_err(explain)?;
        let extra = match extra {
            Value::Null => Default::default(),
            Value::Object(map) => map,
            _ => {
                return Err(Error::Template(
                    "was given extra variables that are no object".into(),
                ))
            }
        };
        let messages = self.abilities(template).fit(messages);
        let limits = limits(extra.values().map(size).sum::<usize>() + size(&messages));
        let rendered = self.run(template, &messages, add_generation_prompt, &extra, limits);
        rendered.map_err(|fault| explain(&fault))
    }

    /// What the template takes, which is asked once.
    fn abilities(&self, template: &Template) -> &Abilities {
        self.abilities.get_or_init(|| {
            let ask = |messages: Value, tools: Value| {
                let extra = [("tools".to_owned(), tools)].into_iter().collect();
                match self.run(template, &messages, true, &extra, ASKING) {
                    Ok(rendered) => Ok(Some(rendered.as_str().to_owned())),
                    Err(Fault::Limit(_)) => Err(()),
                    Err(_) => Ok(None),
                }
            };
            Abilities::of(&self.source, &ask)
        })
    }

    fn run(
        &self,
        template: &Template,
        messages: &Value,
        answer: bool,
        extra: &Map<String, Value>,
        limits: Limits,
    ) -> Result<Rendered, Fault> {
        let (answer, none) = (Value::Bool(answer), Value::Null);
        let variable = |name, value, origin| Variable {
            name,
            value,
            origin,
        };
        let trusted: fn(&str) -> bool = |role| ROLES.contains(&role);
        let mut variables = vec![
            variable("messages", messages, Origin::Messages(trusted)),
            variable("add_generation_prompt", &answer, Origin::Template),
            variable("tools", &none, Origin::Template),
            variable("documents", &none, Origin::Template),
        ];
        let text = |token: &Option<String>| token.clone().map(Value::from);
        let (bos, eos) = (text(&self.bos), text(&self.eos));
        for (name, token) in [("bos_token", &bos), ("eos_token", &eos)] {
            let token = token.as_ref();
            variables.extend(token.map(|token| variable(name, token, Origin::Template)));
        }
        let extra = extra.iter();
        variables.extend(extra.map(|(name, value)| variable(name, value, Origin::Input)));
        template.render(&variables, limits)
    }
}

/// What a question of what a template takes is worth. The first that takes more
/// is the last.
const ASKING: Limits = Limits {
    work: 1_000_000,
    memory: 16 << 20,
    // The work bounds it, and gives the same answer on a busy machine.
    time: Duration::MAX,
};

/// What a conversation of so many bytes is worth.
fn limits(size: usize) -> Limits {
    let base = Limits::default();
    Limits {
        work: base.work.saturating_add(size as u64),
        memory: base.memory.saturating_add(size.saturating_mul(16)),
        time: base.time + Duration::from_nanos(size as u64 * 250),
    }
}

/// About as many bytes as a value has in JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 2,
        Value::Object(entries) => entries.iter().map(|(k, v)| k.len() + size(v) + 4).sum(),
        _ => 4,
    }
}

fn explain(fault: &Fault) -> Error {
    Error::Template(fault.to_string())
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

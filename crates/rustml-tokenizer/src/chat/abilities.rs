//! What a template can write, found out by letting it write something.
//!
//! Templates do not say what they take: some know no system message, some want
//! a call's arguments as text, some a list of parts for content. Each question
//! is a short conversation with words that occur nowhere else, and the answer
//! is whether they are in what comes out.

use serde_json::{json, Value};

use super::message::part;

/// What a template makes of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// It writes system messages.
    pub system: bool,
    /// It takes two messages of one role after another.
    pub repeats: bool,
    /// It takes content as text.
    pub text: bool,
    /// It takes a user's content as a list of parts.
    pub parts: bool,
    /// What the content of a call without words has to be.
    pub empty: Empty,
    /// It wants the arguments of calls as text.
    pub text_arguments: bool,
    /// Where it looks for the thoughts of the assistant.
    pub thoughts: &'static str,
}

/// Content of which there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// As it was given: the template takes both.
    AsGiven,
    /// `none`: the template forgets the call otherwise.
    None,
    /// An empty text: the template cannot do with `none`.
    Text,
}

/// A template that could not be asked is taken for an ordinary one.
impl Default for Abilities {
    fn default() -> Abilities {
        Abilities {
            system: true,
            repeats: true,
            text: true,
            parts: false,
            empty: Empty::Text,
            text_arguments: false,
            thoughts: THOUGHTS,
        }
    }
}

/// What the API calls the thoughts of the assistant.
pub(super) const THOUGHTS: &str = "reasoning_content";

/// Words that no template has of its own.
const USER: &str = "xqzuser";
const MORE: &str = "xqzmore";
const SYSTEM: &str = "xqzsystem";
const NAME: &str = "xqzcall";
const KEY: &str = "xqzkey";
const VALUE: &str = "xqzvalue";
const THOUGHT: &str = "xqzthought";

/// Renders messages with these tools; none if the template refuses them, and
/// an error if it is not to be asked again.
pub(super) type Render<'a> = &'a dyn Fn(Value, Value) -> Result<Option<String>, ()>;

impl Abilities {
    pub fn of(source: &str, render: Render) -> Abilities {
        Asking { source, render }.all().unwrap_or_default()
    }
}

struct Asking<'a> {
    source: &'a str,
    render: Render<'a>,
}

impl Asking<'_> {
    fn all(&self) -> Result<Abilities, ()> {
        let mut found = Abilities::default();
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        found.text = self.writes(user(json!(USER)), &[USER])?;
        let parts = self.ask(user(json!([part(USER), part(MORE)])))?;
        found.parts = parts.is_some_and(|text| {
            let listed = text.contains("'text'") || text.contains("\"text\"");
            text.contains(USER) && text.contains(MORE) && !listed
        });
        if !found.text && !found.parts {
            // Nothing is to be learnt from a template that writes no messages.
            return Ok(Abilities::default());
        }
        let takes_text = found.text;
        let say = |role: &str, text: &str| {
            let content = match takes_text {
                true => json!(text),
                false => json!([part(text)]),
            };
            json!({"role": role, "content": content})
        };
        let system = json!([say("system", SYSTEM), say("user", USER)]);
        found.system = self.writes(system, &[SYSTEM])?;
        let twice = json!([say("user", USER), say("user", MORE)]);
        if !self.writes(twice, &[USER, MORE])? {
            let turns = [say("user", USER), say("assistant", "x"), say("user", MORE)];
            found.repeats = !self.writes(json!(turns), &[USER, MORE])?;
        }
        if self.source.contains("tool_call") {
            self.calls(say("user", USER), &mut found)?;
        }
        self.thoughts(say("user", USER), &mut found)?;
        Ok(found)
    }

    fn calls(&self, user: Value, found: &mut Abilities) -> Result<(), ()> {
        let arguments = [json!({KEY: VALUE}), json!(json!({KEY: VALUE}).to_string())];
        let empty = match found.text {
            true => json!(""),
            false => json!([part("")]),
        };
        for (text_arguments, arguments) in arguments.into_iter().enumerate() {
            let mut none = self.ask(talk(&user, call(&Value::Null, &arguments)))?;
            let text = self.ask(talk(&user, call(&empty, &arguments)))?;
            let nones =
                |text: &Option<String>| text.as_deref().unwrap_or("").matches("None").count();
            if nones(&none) > nones(&text) {
                none = None;
            }
            found.text_arguments = text_arguments == 1;
            found.empty = match (none.is_some_and(written), text.is_some_and(written)) {
                (true, true) => Empty::AsGiven,
                (true, false) => Empty::None,
                (false, true) => Empty::Text,
                (false, false) => continue,
            };
            return Ok(());
        }
        (found.text_arguments, found.empty) = (false, Empty::Text);
        Ok(())
    }

    /// Thoughts before a call, or before the last answer: others are dropped
    /// by many.
    fn thoughts(&self, user: Value, found: &mut Abilities) -> Result<(), ()> {
        for key in [THOUGHTS, "thinking", "reasoning"] {
            if !self.source.contains(key) {
                continue;
            }
            let content = match found.empty {
                Empty::None => Value::Null,
                _ if found.text => json!(""),
                _ => json!([part("")]),
            };
            let arguments = match found.text_arguments {
                true => json!("{}"),
                false => json!({}),
            };
            let mut called = call(&content, &arguments);
            called[key] = json!(THOUGHT);
            let answer = json!({"role": "assistant", "content": "x", key: THOUGHT});
            let last = json!([user.clone(), answer]);
            if self.writes(talk(&user, called), &[THOUGHT])? || self.writes(last, &[THOUGHT])? {
                found.thoughts = key;
                return Ok(());
            }
        }
        Ok(())
    }

    fn ask(&self, messages: Value) -> Result<Option<String>, ()> {
        let parameters = json!({"type": "object", "properties": {}});
        let function = json!({"name": "f", "description": "f", "parameters": parameters});
        (self.render)(
            messages,
            json!([{"type": "function", "function": function}]),
        )
    }

    fn writes(&self, messages: Value, words: &[&str]) -> Result<bool, ()> {
        let text = self.ask(messages)?;
        Ok(text.is_some_and(|text| words.iter().all(|word| text.contains(word))))
    }
}

fn call(content: &Value, arguments: &Value) -> Value {
    let function = json!({"name": NAME, "arguments": arguments});
    let calls = json!([{"id": "abcdefgh1", "type": "function", "function": function}]);
    json!({"role": "assistant", "content": content, "tool_calls": calls})
}

/// A question, a call, and what it came to.
fn talk(user: &Value, call: Value) -> Value {
    let result = json!({"role": "tool", "content": "x", "tool_call_id": "abcdefgh1", "name": NAME});
    json!([user, call, result])
}

/// Whether a call is there, with arguments that are neither quoted once more
/// nor written as Python does.
fn written(text: String) -> bool {
    let all = [NAME, KEY, VALUE].iter().all(|word| text.contains(word));
    all && ["\\\"xqzkey", "'xqzkey'"]
        .iter()
        .all(|wrong| !text.contains(wrong))
}

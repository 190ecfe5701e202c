//! Messages as a template takes them.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::abilities::{Abilities, Empty, THOUGHTS};
use super::message::{part, Content, Message};

/// Between what was two messages.
const BETWEEN: &str = "\n\n";

impl Abilities {
    /// The messages in JSON, so that the template loses none of them.
    pub fn fit(&self, messages: &[Message]) -> Value {
        let mut fitting: Vec<Cow<Message>> = messages.iter().map(Cow::Borrowed).collect();
        if !self.system {
            fitting = systems_to_users(fitting);
        }
        if !self.repeats {
            fitting = joined(fitting);
        }
        fitting
            .iter()
            .map(|message| self.message(message))
            .collect()
    }

    fn message(&self, message: &Message) -> Value {
        let mut map = Map::new();
        map.insert("role".into(), message.role.clone().into());
        map.insert("content".into(), self.content(message));
        for (key, value) in &message.extra {
            let key = match key.as_str() {
                THOUGHTS => self.thoughts,
                other => other,
            };
            let value = match (key, value) {
                ("tool_calls", Value::Array(calls)) => calls.iter().map(|c| self.call(c)).collect(),
                _ => value.clone(),
            };
            map.insert(key.into(), value);
        }
        Value::Object(map)
    }

    fn content(&self, message: &Message) -> Value {
        let calls = message.extra.get("tool_calls").and_then(Value::as_array);
        let calls = calls.is_some_and(|calls| !calls.is_empty());
        let text = match &message.content {
            Content::Parts(parts) if self.parts && message.role == "user" => {
                return parts.iter().map(|text| part(text)).collect();
            }
            Content::Nothing if calls && self.empty != Empty::Text => return Value::Null,
            other => other.text(),
        };
        if calls && text.is_empty() && self.empty == Empty::None {
            return Value::Null;
        }
        match self.text {
            true => Value::from(text),
            false => Value::from(vec![part(&text)]),
        }
    }

    /// A call with its arguments as the template wants them. What is no JSON
    /// stays as it is.
    fn call(&self, call: &Value) -> Value {
        let mut call = call.clone();
        let Some(arguments) = call.pointer_mut("/function/arguments") else {
            return call;
        };
        match &*arguments {
            Value::String(text) if !self.text_arguments => {
                if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
            Value::Object(_) if self.text_arguments => *arguments = arguments.to_string().into(),
            _ => {}
        }
        call
    }
}

/// For templates that know no system message: the user says it first.
fn systems_to_users(messages: Vec<Cow<Message>>) -> Vec<Cow<Message>> {
    let mut said = Vec::with_capacity(messages.len());
    let mut waiting: Option<Message> = None;
    for message in messages {
        if message.role == "system" {
            let mut system = message.into_owned();
            system.role = "user".into();
            waiting = Some(match waiting {
                Some(before) => both(before, &system),
                None => system,
            });
        } else if message.role == "user" {
            said.push(match waiting.take() {
                Some(system) => Cow::Owned(both(system, &message)),
                None => message,
            });
        } else {
            said.push(message);
        }
    }
    said.extend(waiting.map(Cow::Owned));
    said
}

/// For templates that demand turns: what one says in several messages is one.
fn joined(messages: Vec<Cow<Message>>) -> Vec<Cow<Message>> {
    let mut said: Vec<Cow<Message>> = Vec::with_capacity(messages.len());
    for message in messages {
        match said.last_mut() {
            Some(last) if last.role == message.role && message.role != "tool" => {
                let before = std::mem::replace(last, Cow::Owned(Message::new("", "")));
                *last = Cow::Owned(both(before.into_owned(), &message));
            }
            _ => said.push(message),
        }
    }
    said
}

/// Two messages as one.
fn both(mut a: Message, b: &Message) -> Message {
    a.content = match (&a.content, &b.content) {
        (first, Content::Nothing) => first.clone(),
        (Content::Nothing, second) => second.clone(),
        (first, second) => match (first.text(), second.text()) {
            (first, second) if first.is_empty() || second.is_empty() => {
                Content::Text(first.into_owned() + &second)
            }
            (first, second) => Content::Text(first.into_owned() + BETWEEN + &second),
        },
    };
    for (key, value) in &b.extra {
        match (a.extra.get_mut(key), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend(more.iter().cloned()),
            (Some(Value::String(text)), Value::String(more)) if key == THOUGHTS => {
                text.push_str(BETWEEN);
                text.push_str(more);
            }
            _ => drop(a.extra.insert(key.clone(), value.clone())),
        }
    }
    a
}

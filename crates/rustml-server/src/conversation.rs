//! Messages as a model's template takes them.

use crate::calls::{CLOSE, OPEN};
use crate::tools::Tools;
use crate::types::{ApiError, ChatMessage, Content, Part, ToolCall};
use crate::App;
use rustml_tokenizer::{ChatTemplate, Content as Said, Message};
use serde_json::{json, Value};

impl App {
    /// The model's template.
    pub fn template(&self) -> Result<&ChatTemplate, ApiError> {
        self.tokenizer.chat_template().ok_or_else(|| {
            let says =
                "this model has no chat template; it continues plain text, at /v1/completions";
            ApiError::field("messages", says).code("no_chat_template")
        })
    }

    /// The tokens of a conversation, as the model's template writes it.
    pub fn conversation(
        &self,
        messages: Vec<ChatMessage>,
        tools: Option<&Tools>,
        answer: bool,
    ) -> Result<Vec<u32>, ApiError> {
        if messages.is_empty() {
            return Err(ApiError::field(
                "messages",
                "messages is empty: there is nothing to answer",
            ));
        }
        let template = self.template()?;
        // A template that knows nothing of tools is told of calls as text.
        let native = template.source().contains("tool_calls");
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(i, m)| message(i, m, native));
        let mut messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
        let mut extra = Value::Null;
        if let Some(tools) = tools {
            tools.tell(&mut messages);
            extra = tools.extra();
        }
        let text = template.render(&messages, answer, extra).map(|mut text| {
            text.push_template(tools.map_or("", Tools::beginning));
            text
        });
        let ids = text.and_then(|text| self.tokenizer.encode_chat(&text));
        ids.map_err(|e| ApiError::field("messages", e.to_string()))
    }
}

fn message(i: usize, m: ChatMessage, native: bool) -> Result<Message, ApiError> {
    let field = |name: &str| format!("messages[{i}].{name}");
    let role = match m.role.as_str() {
        "developer" => "system",
        role @ ("system" | "user" | "assistant" | "tool") => role,
        other => {
            let says = format!(
                "there is no role {other:?}: it is system, developer, user, assistant or tool"
            );
            return Err(ApiError::field(field("role"), says));
        }
    };
    let calls = m.tool_calls.unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        return Err(ApiError::field(
            field("tool_calls"),
            "only the assistant calls tools",
        ));
    }
    let mut said = match m.content {
        None if role == "assistant" => Said::Nothing,
        None => {
            return Err(ApiError::field(
                field("content"),
                format!("a message of the {role} needs content"),
            ))
        }
        Some(Content::Text(text)) => Said::Text(text),
        Some(Content::Parts(parts)) => Said::Parts(texts(parts, &field("content"))?),
    };
    if !native && role == "tool" {
        let text = format!("<tool_response>\n{said}\n</tool_response>");
        return Ok(Message::new("user", text));
    }
    if !native && !calls.is_empty() {
        let mut text = said.text().into_owned();
        for call in &calls {
            text += &format!("{OPEN}\n{}\n{CLOSE}\n", called(call)["function"]);
        }
        said = Said::Text(text);
    }
    let mut message = Message::new(role, said);
    let mut add = |name: &str, value: Option<Value>| {
        message
            .extra
            .extend(value.map(|value| (name.to_owned(), value)));
    };
    add("name", m.name.map(Value::from));
    let thoughts = m.reasoning_content.or(m.reasoning);
    add("reasoning_content", thoughts.map(Value::from));
    if native {
        add("tool_call_id", m.tool_call_id.map(Value::from));
        let calls: Vec<_> = calls.iter().map(|call| json!(call)).collect();
        add(
            "tool_calls",
            (!calls.is_empty()).then_some(Value::from(calls)),
        );
    }
    Ok(message)
}

/// A call as a model without a template for it is shown it: with its arguments
/// as an object, if they are one.
fn called(call: &ToolCall) -> Value {
    let arguments: Value = match serde_json::from_str(&call.function.arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ => call.function.arguments.clone().into(),
    };
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    })
}

fn texts(parts: Vec<Part>, field: &str) -> Result<Vec<String>, ApiError> {
    let text = |(i, part): (usize, Part)| match part.text {
        Some(text) if part.kind == "text" => Ok(text),
        _ if part.kind == "text" => Err(ApiError::field(
            format!("{field}[{i}].text"),
            "a text part needs text",
        )),
        _ => {
            let says = format!(
                "the model reads text alone, no parts of type {:?}",
                part.kind
            );
            let field = format!("{field}[{i}].type");
            Err(ApiError::field(field, says).code("unsupported_content"))
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}

//! `POST /v1/responses`: OpenAI's newer form of conversations. Nothing is kept.

use crate::body::Fields;
use crate::chat::ask;
use crate::job::{self, Job};
use crate::spoken::{self, Answer, Block, Spoken, Wire};
use crate::sse::Pieces;
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde_json::{json, Map, Value};
use std::sync::Arc;

/// Answers a conversation, whose items come all with each request.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "createResponse",
    request_body(content = ResponsesRequest, example = json!({"input": "Name a river.", "max_output_tokens": 8})),
    responses(
        (status = 200, description = "The answer", content((ResponseObject = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    request: axum::http::Request<Body>,
) -> Result<Response, ApiError> {
    job::answer(app, request, "responses", read).await
}

fn read(app: Arc<App>, bytes: &[u8]) -> Result<Job<Answer<Written>>, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let (own, mut common): (ResponsesFields, CommonFields) = (fields.read()?, fields.read()?);
    fields.end()?;
    if own.previous_response_id.is_some() {
        let says = "no answer is kept here: send the whole conversation as input instead";
        return Err(ApiError::field("previous_response_id", says).code("unsupported_parameter"));
    }
    if common.n.is_some_and(|n| n != 1) {
        return Err(ApiError::field(
            "n",
            "a response is one answer: n has to be 1",
        ));
    }
    let text = own.text.unwrap_or_else(|| json!({}));
    if let Some(format) = format(&text)? {
        common.response_format = Some(format);
    }
    let given = own.tools.unwrap_or_default();
    let tools = tools(&app, &given)?;
    let choice = own.tool_choice.unwrap_or_else(|| json!("auto"));
    let parallel = own.parallel_tool_calls != Some(false);
    let asked = ChatFields {
        messages: messages(own.instructions.as_deref(), own.input)?,
        max_completion_tokens: None,
        logprobs: None,
        top_logprobs: None,
        tool_choice: Some(tool_choice(&choice)?).filter(|_| !tools.is_empty() || choice != "auto"),
        tools: Some(tools),
        parallel_tool_calls: Some(parallel),
    };
    let limit = match own.max_output_tokens {
        Some(n) => ("max_output_tokens", Some(n)),
        None => ("max_tokens", common.max_tokens),
    };
    let stream = common.stream == Some(true);
    let wire = Written {
        number: 0,
        instructions: own.instructions,
        parallel,
        choice,
        tools: given,
        text: match text.get("format") {
            Some(_) => text,
            None => json!({"format": {"type": "text"}}),
        },
    };
    Ok(spoken::job(
        ask(&app, "resp_", asked, common, limit)?,
        stream,
        wire,
    ))
}

/// What `text.format` asks for.
fn format(text: &Value) -> Result<Option<ResponseFormat>, ApiError> {
    let wrong = |says: &str| Err(ApiError::field("text.format", says).code("invalid_type"));
    let Some(object) = text.as_object() else {
        return Err(ApiError::field("text", "text has to be an object").code("invalid_type"));
    };
    known("text", object, &["format", "verbosity"])?;
    let Some(format) = object.get("format").filter(|f| !f.is_null()) else {
        return Ok(None);
    };
    let Some(object) = format.as_object() else {
        return wrong("text.format has to be an object");
    };
    let names = ["type", "name", "schema", "strict", "description"];
    known("text.format", object, &names)?;
    match format["type"].as_str() {
        Some("text") => Ok(Some(ResponseFormat::Text)),
        Some("json_object") => Ok(Some(ResponseFormat::JsonObject { schema: None })),
        Some("json_schema") if !format["schema"].is_null() => {
            Ok(Some(ResponseFormat::JsonSchema {
                json_schema: NamedSchema {
                    name: None,
                    description: None,
                    schema: format["schema"].clone(),
                    strict: None,
                },
            }))
        }
        Some("json_schema") => wrong("text.format: schema is missing"),
        _ => wrong("text.format.type has to be \"text\", \"json_object\" or \"json_schema\""),
    }
}

/// Refuses keys that are not these.
fn known(at: &str, object: &Map<String, Value>, names: &[&str]) -> Result<(), ApiError> {
    match object.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => {
            let key: String = key.chars().take(120).collect();
            let at = format!("{at}.{key}");
            let says = format!("{at} is no field of this request");
            Err(ApiError::field(at, says).code("unknown_parameter"))
        }
        None => Ok(()),
    }
}

/// The functions among tools.
fn tools(app: &App, given: &[Value]) -> Result<Vec<Tool>, ApiError> {
    let mut all = Vec::new();
    for (i, tool) in given.iter().enumerate() {
        let at = format!("tools[{i}]");
        let Some(object) = tool.as_object() else {
            return Err(
                ApiError::field(&at, format!("{at} has to be an object")).code("invalid_type")
            );
        };
        match tool["type"].as_str() {
            Some("function") => {
                let names = ["type", "name", "description", "parameters", "strict"];
                known(&at, object, &names)?;
                let Some(name) = tool["name"].as_str() else {
                    let at = format!("{at}.name");
                    let says = format!("{at} has to be a string");
                    return Err(ApiError::field(at, says).code("invalid_type"));
                };
                all.push(Tool {
                    kind: "function".into(),
                    function: Function {
                        name: name.into(),
                        description: tool["description"].as_str().map(str::to_owned),
                        parameters: Some(tool["parameters"].clone()).filter(|p| !p.is_null()),
                    },
                });
            }
            Some(other) => {
                let other: String = other.chars().take(60).collect();
                app.without_effect(&format!("{at}, of type {other:?},"));
            }
            None => {
                let at = format!("{at}.type");
                let says = format!("{at} has to be a string");
                return Err(ApiError::field(at, says).code("invalid_type"));
            }
        }
    }
    Ok(all)
}

fn tool_choice(choice: &Value) -> Result<ToolChoice, ApiError> {
    match (choice.as_str(), choice["name"].as_str()) {
        (Some("none"), _) => Ok(ToolChoice::Mode(ToolMode::None)),
        (Some("auto"), _) => Ok(ToolChoice::Mode(ToolMode::Auto)),
        (Some("required"), _) => Ok(ToolChoice::Mode(ToolMode::Required)),
        (None, Some(name)) if choice["type"] == "function" => Ok(ToolChoice::Named {
            kind: "function".into(),
            function: FunctionName { name: name.into() },
        }),
        _ => {
            let says = "tool_choice has to be \"none\", \"auto\", \"required\", or {\"type\": \"function\", \"name\": ...}";
            Err(ApiError::field("tool_choice", says).code("invalid_type"))
        }
    }
}

fn message(role: &str, content: Option<Content>) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content,
        name: None,
        tool_calls: None,
        tool_call_id: None,
        reasoning_content: None,
        reasoning: None,
    }
}

/// The conversation that items are.
fn messages(instructions: Option<&str>, input: Input) -> Result<Vec<ChatMessage>, ApiError> {
    let mut all = Vec::new();
    let system = instructions.map(|text| message("system", Some(Content::Text(text.into()))));
    all.extend(system);
    let items = match input {
        Input::Text(text) => {
            all.push(message("user", Some(Content::Text(text))));
            return Ok(all);
        }
        Input::Items(items) => items,
    };
    if items.is_empty() {
        return Err(ApiError::field(
            "input",
            "input is empty: there is nothing to answer",
        ));
    }
    for (i, item) in items.into_iter().enumerate() {
        let needs = |name: &str| {
            let at = format!("input[{i}].{name}");
            ApiError::field(&at, format!("{at} is missing")).code("missing_field")
        };
        match item.kind.as_deref().unwrap_or("message") {
            "message" => {
                let role = item.role.ok_or_else(|| needs("role"))?;
                if !matches!(&*role, "system" | "developer" | "user" | "assistant") {
                    let at = format!("input[{i}].role");
                    let says = format!("{at} has to be system, developer, user or assistant");
                    return Err(ApiError::field(at, says));
                }
                let content = item.content.ok_or_else(|| needs("content"))?;
                let content = parts(content, &format!("input[{i}].content"))?;
                all.push(message(&role, Some(content)));
            }
            "function_call" => {
                let call = ToolCall {
                    id: item.call_id.ok_or_else(|| needs("call_id"))?,
                    kind: "function".into(),
                    function: FunctionCall {
                        name: item.name.ok_or_else(|| needs("name"))?,
                        arguments: item.arguments.ok_or_else(|| needs("arguments"))?,
                    },
                };
                // Calls belong to the message of the assistant before them.
                match all.last_mut().filter(|m| m.role == "assistant") {
                    Some(before) => before.tool_calls.get_or_insert_default().push(call),
                    None => {
                        let mut calls = message("assistant", None);
                        calls.tool_calls = Some(vec![call]);
                        all.push(calls);
                    }
                }
            }
            "function_call_output" => {
                let output = item.output.ok_or_else(|| needs("output"))?;
                let output = parts(output, &format!("input[{i}].output"))?;
                let mut result = message("tool", Some(output));
                result.tool_call_id = Some(item.call_id.ok_or_else(|| needs("call_id"))?);
                all.push(result);
            }
            "reasoning" => {}
            other => {
                let at = format!("input[{i}].type");
                let other: String = other.chars().take(60).collect();
                let says = format!("{at}: items of type {other:?} are not read here");
                return Err(ApiError::field(at, says).code("unsupported_content"));
            }
        }
    }
    Ok(all)
}

/// Parts by the names that chats have.
fn parts(content: Content, at: &str) -> Result<Content, ApiError> {
    let Content::Parts(mut parts) = content else {
        return Ok(content);
    };
    for (i, part) in parts.iter_mut().enumerate() {
        match &*part.kind {
            "input_text" | "output_text" | "text" if part.text.is_some() => {
                part.kind = "text".into();
            }
            other => {
                let other: String = other.chars().take(60).collect();
                let at = format!("{at}[{i}].type");
                let says = format!("{at}: the model reads text alone, no parts of type {other:?}");
                return Err(ApiError::field(at, says).code("unsupported_content"));
            }
        }
    }
    Ok(Content::Parts(parts))
}

/// How an answer is written.
struct Written {
    /// Of the next event.
    number: usize,
    instructions: Option<String>,
    parallel: bool,
    choice: Value,
    tools: Vec<Value>,
    text: Value,
}

fn item(answer: &Spoken, i: usize, status: &str) -> Value {
    let over = status != "in_progress";
    let head = &answer.head.id;
    match &answer.blocks[i] {
        Block::Text(text) => {
            let content = match over {
                true => json!([part(text)]),
                false => json!([]),
            };
            json!({"id": format!("msg_{head}_{i}"), "type": "message", "status": status, "role": "assistant", "content": content})
        }
        Block::Call(call) => {
            let arguments = if over { &*call.function.arguments } else { "" };
            json!({"id": format!("fc_{head}_{i}"), "type": "function_call", "status": status, "call_id": call.id,
                "name": call.function.name, "arguments": arguments})
        }
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

impl Written {
    fn response(&self, answer: &Spoken) -> ResponseObject {
        let status = match answer.finish {
            None => "in_progress",
            Some(FinishReason::Length) => "incomplete",
            Some(_) => "completed",
        };
        let count = answer.blocks.len();
        let usage = &answer.usage;
        ResponseObject {
            id: answer.head.id.clone(),
            object: "response",
            created_at: answer.head.created,
            status,
            error: None,
            incomplete_details: (status == "incomplete")
                .then(|| json!({"reason": "max_output_tokens"})),
            model: answer.head.model.clone(),
            output: match status {
                "in_progress" => Vec::new(),
                _ => (0..count)
                    .map(|i| item(answer, i, if i + 1 == count { status } else { "completed" }))
                    .collect(),
            },
            instructions: self.instructions.clone(),
            parallel_tool_calls: self.parallel,
            tool_choice: self.choice.clone(),
            tools: self.tools.clone(),
            text: self.text.clone(),
            store: false,
            usage: answer.finish.map(|_| {
                json!({"input_tokens": usage.prompt_tokens, "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens},
                    "output_tokens": usage.completion_tokens, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": usage.total_tokens})
            }),
        }
    }

    fn send(&mut self, kind: &'static str, mut event: Value, out: &mut Pieces) {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        out.event(kind, &event);
    }

    fn part(&mut self, kind: &'static str, more: Value, answer: &Spoken, out: &mut Pieces) {
        let i = answer.blocks.len() - 1;
        let mut event = more;
        event["item_id"] = item(answer, i, "in_progress")["id"].take();
        event["output_index"] = json!(i);
        if let Block::Text(_) = answer.blocks[i] {
            event["content_index"] = json!(0);
        }
        self.send(kind, event, out);
    }
}

impl Wire for Written {
    type Whole = ResponseObject;

    fn begin(&mut self, answer: &Spoken, out: &mut Pieces) {
        let response = json!({"response": self.response(answer)});
        self.send("response.created", response.clone(), out);
        self.send("response.in_progress", response, out);
    }

    fn open(&mut self, answer: &Spoken, out: &mut Pieces) {
        let i = answer.blocks.len() - 1;
        let event = json!({"output_index": i, "item": item(answer, i, "in_progress")});
        self.send("response.output_item.added", event, out);
        if let Block::Text(_) = answer.blocks[i] {
            let more = json!({"part": part("")});
            self.part("response.content_part.added", more, answer, out);
        }
    }

    fn more(&mut self, text: String, answer: &Spoken, out: &mut Pieces) {
        match answer.blocks.last() {
            Some(Block::Text(_)) => {
                let more = json!({"delta": text, "logprobs": []});
                self.part("response.output_text.delta", more, answer, out);
            }
            _ => {
                let more = json!({"delta": text});
                self.part("response.function_call_arguments.delta", more, answer, out);
            }
        }
    }

    fn close(&mut self, answer: &Spoken, out: &mut Pieces) {
        let i = answer.blocks.len() - 1;
        match &answer.blocks[i] {
            Block::Text(text) => {
                let done = json!({"text": text, "logprobs": []});
                self.part("response.output_text.done", done, answer, out);
                let done = json!({"part": part(text)});
                self.part("response.content_part.done", done, answer, out);
            }
            Block::Call(call) => {
                let done =
                    json!({"arguments": call.function.arguments, "name": call.function.name});
                self.part("response.function_call_arguments.done", done, answer, out);
            }
        }
        let status = match answer.finish {
            Some(FinishReason::Length) => "incomplete",
            _ => "completed",
        };
        let event = json!({"output_index": i, "item": item(answer, i, status)});
        self.send("response.output_item.done", event, out);
    }

    fn end(&mut self, answer: &Spoken, out: &mut Pieces) {
        let response = json!({"response": self.response(answer)});
        let kind = match answer.finish {
            Some(FinishReason::Length) => "response.incomplete",
            _ => "response.completed",
        };
        self.send(kind, response, out);
    }

    fn fail(&mut self, e: ApiError, answer: &Spoken, out: &mut Pieces) {
        let mut response = self.response(answer);
        response.status = "failed";
        response.error =
            Some(json!({"code": e.body.code.unwrap_or("server_error"), "message": e.body.message}));
        self.send("response.failed", json!({ "response": response }), out);
    }

    fn whole(self, answer: Spoken) -> ResponseObject {
        self.response(&answer)
    }
}

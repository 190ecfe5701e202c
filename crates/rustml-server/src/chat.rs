//! `POST /v1/chat/completions`.

use crate::body::{self, Fields};
use crate::sse::{self, Pieces, Shape};
use crate::types::*;
use crate::worker::{Event, Running};
use crate::{blocking, App};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::Json;
use rustml_engine::{Finish, Request, Update};
use rustml_tokenizer::Message;
use std::sync::Arc;

/// Answers a conversation.
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    request: axum::http::Request<Body>,
) -> Result<Response, ApiError> {
    let bytes = body::read(request, &app.config).await?;
    let shared = app.clone();
    let job = blocking(move || prepare(&shared, &bytes)).await?;
    let running = app.worker.submit("chat", job.requests).await?;
    match job.stream {
        true => Ok(sse::respond(
            &app,
            running,
            Chunks::new(job.answer, job.include_usage),
        )),
        false => Ok(Json(whole(running, job.answer).await?).into_response()),
    }
}

/// What is the same in all pieces of an answer.
struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

struct Job {
    requests: Vec<Request>,
    stream: bool,
    include_usage: bool,
    answer: Answers,
}

fn prepare(app: &App, bytes: &[u8]) -> Result<Job, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let (own, common): (ChatFields, CommonFields) = (fields.read()?, fields.read()?);
    fields.end()?;
    let model = app.model(common.model.as_deref())?;
    let n = app.choices(common.n, 1)?;
    let mut request = app.request(&common)?;
    let (name, asked) = match own.max_completion_tokens {
        Some(n) => ("max_completion_tokens", Some(n)),
        None => ("max_tokens", common.max_tokens),
    };
    request.max_tokens = app.max_tokens(name, asked, app.context)?;
    for (name, given) in [
        ("tools", own.tools.is_some()),
        ("logprobs", own.logprobs == Some(true)),
    ] {
        if given {
            return Err(ApiError::unsupported(name, " yet"));
        }
    }
    request.prompt = prompt(app, own.messages)?;
    let prompt_tokens = request.prompt.len();
    let seed = request.sampling.seed;
    let requests = (0..n as u64).map(|i| {
        let mut request = request.clone();
        request.sampling.seed = seed.wrapping_add(i);
        request
    });
    Ok(Job {
        requests: requests.collect(),
        stream: common.stream == Some(true),
        include_usage: common.stream_options.is_some_and(|o| o.include_usage),
        answer: Answers {
            head: Head {
                id: app.answer_id("chatcmpl-"),
                created: app.now(),
                model,
                fingerprint: app.fingerprint.clone(),
            },
            answers: (0..n).map(|_| Growing::default()).collect(),
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
        },
    })
}

/// The tokens of a conversation, as the model's template writes it.
fn prompt(app: &App, messages: Vec<ChatMessage>) -> Result<Vec<u32>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field(
            "messages",
            "messages is empty: there is nothing to answer",
        ));
    }
    let template = app.tokenizer.chat_template().ok_or_else(|| {
        let says = "this model has no chat template; it continues plain text, at /v1/completions";
        ApiError::field("messages", says).code("no_chat_template")
    })?;
    let messages = messages.into_iter().enumerate().map(|(i, m)| message(i, m));
    let messages: Vec<Message> = messages.collect::<Result<_, _>>()?;
    let text = template.render(&messages, true, serde_json::Value::Null);
    let ids = text.and_then(|text| app.tokenizer.encode_chat(&text));
    ids.map_err(|e| ApiError::field("messages", e.to_string()))
}

fn message(i: usize, m: ChatMessage) -> Result<Message, ApiError> {
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
    let text = match m.content {
        None if role == "assistant" => String::new(),
        None => {
            return Err(ApiError::field(
                field("content"),
                format!("a message of the {role} needs content"),
            ))
        }
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => join(parts, &field("content"))?,
    };
    let mut message = Message::new(role, text);
    let name = m.name.map(|name| ("name".to_owned(), name.into()));
    message.extra.extend(name);
    Ok(message)
}

fn join(parts: Vec<Part>, field: &str) -> Result<String, ApiError> {
    let mut all = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        match part.text {
            Some(text) if part.kind == "text" => all += &text,
            _ if part.kind == "text" => {
                return Err(ApiError::field(
                    format!("{field}[{i}].text"),
                    "a text part needs text",
                ))
            }
            _ => {
                let says = format!(
                    "the model reads text alone, no parts of type {:?}",
                    part.kind
                );
                return Err(
                    ApiError::field(format!("{field}[{i}].type"), says).code("unsupported_content")
                );
            }
        }
    }
    Ok(all)
}

/// An answer as it grows.
#[derive(Default)]
struct Growing {
    begun: bool,
    text: String,
    finish: Option<FinishReason>,
}

/// All answers to a request.
struct Answers {
    head: Head,
    answers: Vec<Growing>,
    usage: Usage,
}

impl Answers {
    /// Takes an update; the new text, and why the answer ends if it does.
    fn take(&mut self, i: usize, update: Update) -> (String, Option<FinishReason>) {
        if update.token.is_some() {
            self.usage.completion_tokens += 1;
        }
        let finish = update.finish.map(|(why, _)| match why {
            Finish::Stop => FinishReason::Stop,
            _ => FinishReason::Length,
        });
        self.answers[i].finish = finish;
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        (update.text, finish)
    }

    fn left(&self) -> usize {
        self.answers.iter().filter(|a| a.finish.is_none()).count()
    }
}

/// Waits for all answers.
async fn whole(mut running: Running, mut answers: Answers) -> Result<ChatCompletion, ApiError> {
    while answers.left() > 0 {
        match running.next().await {
            Some(Event::Update(i, update)) => {
                if let Some(e) = update
                    .finish
                    .as_ref()
                    .and_then(|(why, _)| sse::failure(why))
                {
                    return Err(e);
                }
                let (text, _) = answers.take(i, update);
                answers.answers[i].text += &text;
            }
            other => return Err(sse::broken(other)),
        }
    }
    let choices = answers
        .answers
        .into_iter()
        .enumerate()
        .map(|(index, a)| ChatChoice {
            index,
            message: Answer {
                role: "assistant",
                content: Some(a.text),
                refusal: None,
                tool_calls: Vec::new(),
            },
            logprobs: None,
            finish_reason: a.finish.unwrap_or(FinishReason::Length),
        });
    Ok(ChatCompletion {
        id: answers.head.id,
        object: "chat.completion",
        created: answers.head.created,
        model: answers.head.model,
        choices: choices.collect(),
        usage: answers.usage,
        system_fingerprint: answers.head.fingerprint,
    })
}

/// The answers in pieces.
struct Chunks {
    answers: Answers,
    include_usage: bool,
}

impl Chunks {
    fn new(answers: Answers, include_usage: bool) -> Chunks {
        Chunks {
            answers,
            include_usage,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        let head = &self.answers.head;
        ChatChunk {
            id: head.id.clone(),
            object: "chat.completion.chunk",
            created: head.created,
            model: head.model.clone(),
            system_fingerprint: head.fingerprint.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        }
    }
}

impl Shape for Chunks {
    fn left(&self) -> usize {
        self.answers.left()
    }

    fn take(&mut self, index: usize, update: Update, out: &mut Pieces) {
        let mut send = |delta, finish_reason| {
            let choice = ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason,
            };
            out.push(&self.chunk(vec![choice], None));
        };
        if !self.answers.answers[index].begun {
            send(
                Delta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                    ..Delta::default()
                },
                None,
            );
        }
        self.answers.answers[index].begun = true;
        let (text, finish) = self.answers.take(index, update);
        let mut send = |delta, finish_reason| {
            let choice = ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason,
            };
            out.push(&self.chunk(vec![choice], None));
        };
        if !text.is_empty() {
            send(
                Delta {
                    content: Some(text),
                    ..Delta::default()
                },
                None,
            );
        }
        if finish.is_some() {
            send(Delta::default(), finish);
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.include_usage {
            out.push(&self.chunk(Vec::new(), Some(self.answers.usage)));
        }
    }
}

//! `POST /v1/chat/completions`.

use crate::body::Fields;
use crate::calls::{CallParser, Piece, THINK};
use crate::job::{self, Answers as _, Job};
use crate::prepare::{self, any_number, likeliest, tally, Head};
use crate::sse::{Pieces, Shape};
use crate::tools::Tools;
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use rustml_engine::{Finish, Request, Update};
use std::sync::Arc;

/// Answers a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "createChatCompletion",
    request_body(content = ChatRequest, example = json!({"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 8})),
    responses(
        (status = 200, description = "The answer", content((ChatCompletion = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    request: axum::http::Request<Body>,
) -> Result<Response, ApiError> {
    job::answer(app, request, "chat", read).await
}

fn read(app: Arc<App>, bytes: &[u8]) -> Result<Job<Answers>, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let (own, common): (ChatFields, CommonFields) = (fields.read()?, fields.read()?);
    fields.end()?;
    let stream = job::stream(&common);
    let limit = match own.max_completion_tokens {
        Some(n) => ("max_completion_tokens", Some(n)),
        None => ("max_tokens", common.max_tokens),
    };
    let Asked {
        head,
        requests,
        shape,
        prompt_tokens,
        tools,
        thinking,
    } = ask(&app, "chatcmpl-", own, common, limit)?;
    let answer = |_| Growing {
        parser: tools.as_ref().map(|t| t.parser(thinking)),
        ..Growing::default()
    };
    let answers = 0..requests.len();
    Ok(Job {
        requests,
        shape,
        stream,
        answers: Answers {
            head,
            answers: answers.map(answer).collect(),
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
            app: app.clone(),
        },
    })
}

/// A conversation that was read: what every wire format becomes.
pub(crate) struct Asked {
    pub head: Head,
    pub requests: Vec<Request>,
    pub shape: prepare::Shape,
    pub prompt_tokens: usize,
    pub tools: Option<Tools>,
    /// Whether the prompt ends within thoughts.
    pub thinking: bool,
}

/// What the engine is asked for. `limit` is the tokens of an answer, by the name of
/// the field that says so.
pub(crate) fn ask(
    app: &Arc<App>,
    prefix: &str,
    own: ChatFields,
    common: CommonFields,
    limit: (&str, Option<usize>),
) -> Result<Asked, ApiError> {
    let head = app.head(prefix, common.model.as_deref())?;
    let n = app.choices(common.n, 1)?;
    let max_tokens = app.max_tokens(limit.0, limit.1, app.context)?;
    let logprobs = logprobs(&own)?;
    let mut shape = app.shape(&common)?;
    let parallel = own.parallel_tool_calls != Some(false);
    let tools = own.tools.unwrap_or_default();
    let tools = Tools::new(tools, own.tool_choice, parallel, app.template()?)?;
    if let Some(tools) = tools.as_ref().filter(|t| t.forced) {
        if !matches!(shape, prepare::Shape::Any) {
            let says = "an answer that has to be a call cannot have another form as well";
            return Err(ApiError::field("response_format", says));
        }
        shape = prepare::Shape::Call(tools.schema());
    }
    let prompt = app.conversation(own.messages, tools.as_ref(), true)?;
    app.fits(&prompt)?;
    let max_tokens = app.told(app.room(max_tokens, prompt.len()), (n, 0), logprobs)?;
    let seed = common.seed.map_or_else(any_number, |s| s as u64);
    let request = |i| {
        Ok(Request {
            prompt: prompt.clone(),
            max_tokens,
            logprobs,
            ..app.request(&common, seed, i)?
        })
    };
    Ok(Asked {
        requests: (0..n).map(request).collect::<Result<_, ApiError>>()?,
        head,
        shape,
        prompt_tokens: prompt.len(),
        tools,
        thinking: app.ends_with(&prompt, THINK),
    })
}

/// Why an answer ended, in which tools were called or not.
pub(crate) fn finish(why: &Finish, called: bool) -> FinishReason {
    match why {
        Finish::Stop | Finish::StopString(_) if called => FinishReason::ToolCalls,
        Finish::Stop | Finish::StopString(_) => FinishReason::Stop,
        _ => FinishReason::Length,
    }
}

fn logprobs(own: &ChatFields) -> Result<Option<usize>, ApiError> {
    match (own.logprobs, own.top_logprobs) {
        (Some(true), top) => likeliest("top_logprobs", top.unwrap_or(0)).map(Some),
        (_, None | Some(0)) => Ok(None),
        _ => Err(ApiError::field(
            "top_logprobs",
            "top_logprobs needs logprobs to be true",
        )),
    }
}

/// An answer as it grows.
#[derive(Default)]
struct Growing {
    parser: Option<CallParser>,
    begun: bool,
    text: String,
    calls: Vec<ToolCall>,
    /// Those that were not sent yet.
    logprobs: Option<ChatLogprobs>,
    finish: Option<FinishReason>,
}

/// All answers to a request.
struct Answers {
    app: Arc<App>,
    head: Head,
    answers: Vec<Growing>,
    usage: Usage,
}

impl Answers {
    /// Takes an update; what is new. Logprobs and why it ended stay in the
    /// answer.
    fn take(&mut self, i: usize, update: Update) -> Vec<Piece> {
        tally(&mut self.usage, &update, i == 0);
        let answer = &mut self.answers[i];
        if let Some(l) = &update.logprobs {
            let logprob = logprob(&self.app, l);
            answer
                .logprobs
                .get_or_insert_default()
                .content
                .push(logprob);
        }
        let last = update.finish.is_some();
        let pieces = match &mut answer.parser {
            Some(parser) => parser.push(&update.text, last),
            None if update.text.is_empty() => Vec::new(),
            None => vec![Piece::Text(update.text)],
        };
        let called = answer.parser.as_ref().is_some_and(|p| p.calls() > 0);
        answer.finish = update.finish.map(|(why, _)| finish(&why, called));
        pieces
    }
}

fn logprob(app: &App, l: &rustml_engine::TokenLogprobs) -> TokenLogprob {
    let (token, bytes) = app.token(l.token);
    let top = l.top.iter().map(|&(id, logprob)| {
        let (token, bytes) = app.token(id);
        TopLogprob {
            token,
            logprob,
            bytes,
        }
    });
    TokenLogprob {
        token,
        logprob: l.logprob,
        bytes,
        top_logprobs: top.collect(),
    }
}

/// A name of a call.
pub(crate) fn call_id() -> String {
    format!("call_{:016x}", any_number())
}

impl job::Answers for Answers {
    type Whole = ChatCompletion;
    type Chunks = Chunks;

    fn left(&self) -> usize {
        self.answers.iter().filter(|a| a.finish.is_none()).count()
    }

    fn keep(&mut self, i: usize, update: Update) {
        for piece in self.take(i, update) {
            self.answers[i].keep(piece);
        }
    }

    fn whole(self) -> ChatCompletion {
        let choices = self.answers.into_iter().enumerate();
        ChatCompletion {
            id: self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: self.head.model,
            choices: choices.map(|(index, a)| a.choice(index)).collect(),
            usage: self.usage,
            system_fingerprint: self.head.fingerprint,
        }
    }

    fn chunks(self, include_usage: bool) -> Chunks {
        Chunks {
            answers: self,
            include_usage,
        }
    }
}

impl Growing {
    fn keep(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => self.text += &text,
            Piece::Call { name, .. } => self.calls.push(ToolCall {
                id: call_id(),
                kind: "function".into(),
                function: FunctionCall {
                    name,
                    arguments: String::new(),
                },
            }),
            Piece::Arguments { index, text } => self.calls[index].function.arguments += &text,
        }
    }

    fn choice(self, index: usize) -> ChatChoice {
        let silent = self.text.is_empty() && !self.calls.is_empty();
        ChatChoice {
            index,
            message: Answer {
                role: "assistant",
                content: (!silent).then_some(self.text),
                refusal: None,
                tool_calls: self.calls,
            },
            logprobs: self.logprobs,
            finish_reason: self.finish.unwrap_or(FinishReason::Length),
        }
    }
}

/// The answers in pieces.
struct Chunks {
    answers: Answers,
    include_usage: bool,
}

impl Chunks {
    fn send(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>, out: &mut Pieces) {
        let head = &self.answers.head;
        out.push(&ChatChunk {
            id: head.id.clone(),
            object: "chat.completion.chunk",
            created: head.created,
            model: head.model.clone(),
            system_fingerprint: head.fingerprint.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        });
    }

    fn delta(
        &mut self,
        index: usize,
        delta: Delta,
        finish_reason: Option<FinishReason>,
        out: &mut Pieces,
    ) {
        // What is known of tokens goes with the first piece after them.
        let logprobs = match delta.role {
            Some(_) => None,
            None => self.answers.answers[index].logprobs.take(),
        };
        let choice = ChunkChoice {
            index,
            delta,
            logprobs,
            finish_reason,
        };
        self.send(vec![choice], None, out);
    }
}

impl Shape for Chunks {
    fn left(&self) -> usize {
        self.answers.left()
    }

    fn take(&mut self, index: usize, update: Update, out: &mut Pieces) {
        if !std::mem::replace(&mut self.answers.answers[index].begun, true) {
            let first = Delta {
                role: Some("assistant"),
                content: Some(String::new()),
                ..Delta::default()
            };
            self.delta(index, first, None, out);
        }
        for piece in self.answers.take(index, update) {
            self.delta(index, Delta::from(piece), None, out);
        }
        let finish = self.answers.answers[index].finish;
        if finish.is_some() {
            self.delta(index, Delta::default(), finish, out);
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.include_usage {
            self.send(Vec::new(), Some(self.answers.usage), out);
        }
    }
}

impl From<Piece> for Delta {
    fn from(piece: Piece) -> Delta {
        let call = match piece {
            Piece::Text(text) => {
                return Delta {
                    content: Some(text),
                    ..Delta::default()
                }
            }
            Piece::Call { index, name } => ToolCallDelta {
                index,
                id: Some(call_id()),
                kind: Some("function"),
                function: FunctionDelta {
                    name: Some(name),
                    arguments: String::new(),
                },
            },
            Piece::Arguments { index, text } => ToolCallDelta {
                index,
                id: None,
                kind: None,
                function: FunctionDelta {
                    name: None,
                    arguments: text,
                },
            },
        };
        Delta {
            tool_calls: vec![call],
            ..Delta::default()
        }
    }
}

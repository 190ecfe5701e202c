//! `POST /v1/completions`.

use crate::body::Fields;
use crate::job::{self, Answers as _, Job};
use crate::prepare::{any_number, likeliest, tally, Head};
use crate::sse::{Pieces, Shape};
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use rustml_engine::{Finish, Request, TokenLogprobs, Update};
use rustml_tokenizer::{Decode, Encode};
use std::sync::Arc;

/// Tokens of an answer, unless the request says how many: OpenAI's number.
const MAX_TOKENS: usize = 16;

/// Continues texts.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "createCompletion",
    request_body(content = CompletionRequest, example = json!({"prompt": "The longest river is", "max_tokens": 8})),
    responses(
        (status = 200, description = "The answer", content((Completion = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    request: axum::http::Request<Body>,
) -> Result<Response, ApiError> {
    job::answer(app, request, "completions", read).await
}

fn read(app: Arc<App>, bytes: &[u8]) -> Result<Job<Answers>, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let (own, common): (CompletionFields, CommonFields) = (fields.read()?, fields.read()?);
    fields.end()?;
    let head = app.head("cmpl-", common.model.as_deref())?;
    let prompts = prompts(&app, own.prompt)?;
    let n = app.choices(common.n, prompts.len())?;
    if own.best_of.is_some_and(|best| best != n) {
        let says = "best_of is only supported where it is n: nothing is thrown away";
        return Err(ApiError::field("best_of", says).code("unsupported_parameter"));
    }
    let max_tokens = app.max_tokens("max_tokens", common.max_tokens, MAX_TOKENS)?;
    let logprobs = own.logprobs.map(|n| likeliest("logprobs", n)).transpose()?;
    let echo = own.echo == Some(true);
    let shape = app.shape(&common)?;
    let all = n * prompts.len();
    let seed = common.seed.map_or_else(any_number, |s| s as u64);
    let mut requests = Vec::new();
    let mut answers = Vec::new();
    for (p, (prompt, words)) in prompts.iter().enumerate() {
        let room = app.room(max_tokens, prompt.len());
        let echoed = if echo { prompt.len() } else { 0 };
        let max_tokens = app.told(room, (all, echoed), logprobs)?;
        for i in 0..n {
            requests.push(Request {
                prompt: prompt.clone(),
                max_tokens,
                logprobs,
                prompt_logprobs: echo && logprobs.is_some(),
                continues: true,
                ..app.request(&common, seed, p * n + i)?
            });
            let mut answer = Growing {
                first: i == 0,
                ..Growing::default()
            };
            if echo {
                answer.echo(&app, prompt, words, logprobs.is_some());
            }
            answers.push(answer);
        }
    }
    Ok(Job {
        requests,
        shape,
        stream: job::stream(&common),
        answers: Answers {
            head,
            answers,
            usage: Usage {
                prompt_tokens: prompts.iter().map(|p| p.0.len()).sum(),
                ..Usage::default()
            },
            app: app.clone(),
        },
    })
}

/// Prompts as tokens, and as text.
fn prompts(app: &App, prompt: Prompt) -> Result<Vec<(Vec<u32>, String)>, ApiError> {
    let encode = |text: String| {
        let options = Encode {
            add_special: true,
            parse_special: true,
        };
        match app.tokenizer.encode(&text, options) {
            Ok(ids) => app.fits(&ids).map(|()| (ids, text)),
            Err(e) => Err(ApiError::field("prompt", e.to_string())),
        }
    };
    let decode = |ids: Vec<u32>| {
        let options = Decode {
            control: true,
            continues: false,
        };
        app.fits(&ids)?;
        let text = app.tokenizer.decode_with(&ids, options);
        Ok((ids, text))
    };
    let prompts: Vec<_> = match prompt {
        Prompt::Text(text) => vec![encode(text)?],
        Prompt::Texts(texts) => {
            // Before work is done for nothing.
            app.choices(None, texts.len())?;
            texts.into_iter().map(encode).collect::<Result<_, _>>()?
        }
        Prompt::Tokens(ids) => vec![decode(ids)?],
        Prompt::Lists(lists) => {
            app.choices(None, lists.len())?;
            lists.into_iter().map(decode).collect::<Result<_, _>>()?
        }
    };
    match prompts.iter().any(|p| p.0.is_empty()) || prompts.is_empty() {
        true => Err(ApiError::field(
            "prompt",
            "the prompt is empty: there is nothing to continue",
        )),
        false => Ok(prompts),
    }
}

/// An answer as it grows.
#[derive(Default)]
struct Growing {
    /// Whether it is the first to its prompt.
    first: bool,
    /// What was not sent yet.
    text: String,
    logprobs: Option<TextLogprobs>,
    /// Characters of the tokens so far.
    offset: usize,
    finish: Option<FinishReason>,
}

impl Growing {
    /// Begins with the prompt.
    fn echo(&mut self, app: &App, prompt: &[u32], words: &str, logprobs: bool) {
        self.text = words.into();
        if let (true, Some(&first)) = (logprobs, prompt.first()) {
            self.add(app, first, None);
            // What texts begin with was added, and is not in this one.
            if !words.starts_with(&app.token(first).0) {
                self.offset = 0;
            }
        }
    }

    /// Adds what is known of a token.
    fn add(&mut self, app: &App, token: u32, known: Option<&TokenLogprobs>) {
        let l = self.logprobs.get_or_insert_default();
        let (text, _) = app.token(token);
        l.text_offset.push(self.offset);
        self.offset += text.chars().count();
        l.tokens.push(name(app, token));
        l.token_logprobs.push(known.map(|k| k.logprob));
        let named = |&(id, logprob): &(u32, f32)| (name(app, id), logprob);
        let top = |k: &TokenLogprobs| Likeliest::new(k.top.iter().map(named).collect());
        l.top_logprobs
            .push(known.map(top).filter(|top| !top.is_empty()));
    }

    /// What is new, as the client gets it.
    fn choice(&mut self, index: usize) -> TextChoice {
        TextChoice {
            text: std::mem::take(&mut self.text),
            index,
            logprobs: self.logprobs.take(),
            finish_reason: self.finish,
        }
    }
}

/// A token as text, or its bytes if they are no whole characters.
fn name(app: &App, token: u32) -> String {
    let (text, bytes) = app.token(token);
    match std::str::from_utf8(&bytes) {
        Ok(_) => text,
        Err(_) => bytes
            .iter()
            .fold("bytes:".to_owned(), |s, b| s + &format!("\\x{b:02x}")),
    }
}

/// All answers to a request.
struct Answers {
    app: Arc<App>,
    head: Head,
    answers: Vec<Growing>,
    usage: Usage,
}

impl Answers {
    fn take(&mut self, i: usize, update: Update) {
        let answer = &mut self.answers[i];
        tally(&mut self.usage, &update, answer.first);
        for l in update.prompt_logprobs.iter().chain(&update.logprobs) {
            answer.add(&self.app, l.token, Some(l));
        }
        answer.text += &update.text;
        answer.finish = update.finish.map(|(why, _)| match why {
            Finish::Stop | Finish::StopString(_) => FinishReason::Stop,
            _ => FinishReason::Length,
        });
    }

    fn completion(&self, choices: Vec<TextChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
            system_fingerprint: self.head.fingerprint.clone(),
        }
    }
}

impl job::Answers for Answers {
    type Whole = Completion;
    type Chunks = Chunks;

    fn left(&self) -> usize {
        self.answers.iter().filter(|a| a.finish.is_none()).count()
    }

    fn keep(&mut self, i: usize, update: Update) {
        self.take(i, update);
    }

    fn whole(mut self) -> Completion {
        let choices = self.answers.iter_mut().enumerate();
        let choices = choices.map(|(i, a)| a.choice(i)).collect();
        self.completion(choices, Some(Some(self.usage)))
    }

    fn chunks(self, include_usage: bool) -> Chunks {
        Chunks {
            answers: self,
            include_usage,
        }
    }
}

/// The answers in pieces.
struct Chunks {
    answers: Answers,
    include_usage: bool,
}

impl Shape for Chunks {
    fn left(&self) -> usize {
        self.answers.left()
    }

    fn take(&mut self, index: usize, update: Update, out: &mut Pieces) {
        // The prompt's tokens are told with the prompt, which comes whole.
        let reading = update.token.is_none() && update.finish.is_none();
        self.answers.take(index, update);
        let answer = &mut self.answers.answers[index];
        if reading || (answer.text.is_empty() && answer.finish.is_none()) {
            return;
        }
        let choice = answer.choice(index);
        let usage = self.include_usage.then_some(None);
        out.push(&self.answers.completion(vec![choice], usage));
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.include_usage {
            let usage = Some(Some(self.answers.usage));
            out.push(&self.answers.completion(Vec::new(), usage));
        }
    }
}

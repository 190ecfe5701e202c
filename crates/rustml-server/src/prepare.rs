//! From what a client asks for to requests for the engine.

use crate::lane::blocking;
use crate::limits::LOGPROBS;
use crate::types::{ApiError, CommonFields, ResponseFormat, Usage, NO_LIMIT};
use crate::worker::refused;
use crate::App;
use axum::http::StatusCode;
use rustml_engine::grammar::{Grammar, GrammarError, Grammars};
use rustml_engine::{Finish, Refusal, Request, Sampling, Update, MAX_LOGPROBS};
use serde_json::Value;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Strings at which an answer may end.
const MAX_STOPS: usize = 16;

/// A number that is another one every time.
pub(crate) fn any_number() -> u64 {
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish()
}

/// What all pieces of an answer say.
#[derive(Clone)]
pub(crate) struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
}

/// What an answer has to be like.
pub(crate) enum Shape {
    Any,
    Object,
    Schema(Value),
    /// A call of a tool, by its schema.
    Call(Value),
    Grammar(String),
    Regex(String),
}

impl App {
    /// Whether `name` is the model that is served; its name.
    pub fn model(&self, name: Option<&str>) -> Result<String, ApiError> {
        let Some(name) = name else {
            return Ok(self.names[0].clone());
        };
        match self.names.iter().find(|n| *n == name) {
            Some(name) => Ok(name.clone()),
            None => {
                let says = format!(
                    "there is no model {name:?} here; this server has {:?}",
                    self.names[0]
                );
                let e = ApiError::new(StatusCode::NOT_FOUND, says);
                Err(e.param("model").code("model_not_found"))
            }
        }
    }

    /// The head of an answer whose name begins so.
    pub fn head(&self, prefix: &str, model: Option<&str>) -> Result<Head, ApiError> {
        Ok(Head {
            id: format!("{prefix}{:016x}", any_number()),
            created: crate::now(),
            model: self.model(model)?,
            fingerprint: self.fingerprint.clone(),
        })
    }

    /// How many answers each prompt gets.
    pub fn choices(&self, n: Option<usize>, prompts: usize) -> Result<usize, ApiError> {
        let n = n.unwrap_or(1);
        let most = self.config.max_choices;
        match n.checked_mul(prompts) {
            _ if n == 0 => Err(ApiError::field("n", "n must be at least 1")),
            Some(all) if all <= most => Ok(n),
            _ => Err(ApiError::field(
                "n",
                format!("{n} answers to each of {prompts} prompts are more than this server gives to a request ({most})"),
            )),
        }
    }

    /// Tokens of an answer, where a request says how many.
    pub fn max_tokens(
        &self,
        field: &str,
        asked: Option<usize>,
        default: usize,
    ) -> Result<usize, ApiError> {
        let most = self.config.max_tokens.unwrap_or(self.context);
        match asked {
            Some(NO_LIMIT) => Ok(most),
            Some(asked) if self.config.max_tokens.is_some() && asked > most => {
                Err(ApiError::field(
                    field,
                    format!("{field} is {asked}, but this server gives {most} tokens at most"),
                ))
            }
            Some(asked) => Ok(asked),
            None => Ok(default.min(most)),
        }
    }

    /// Refuses prompts that do not fit, before every answer gets a copy.
    pub fn fits(&self, prompt: &[u32]) -> Result<(), ApiError> {
        let (prompt, context) = (prompt.len(), self.context);
        match prompt <= context {
            true => Ok(()),
            false => Err(refused(Refusal::PromptTooLong { prompt, context })),
        }
    }

    /// As many of these tokens as there is room for behind a prompt. One
    /// remains, so that a prompt without room for an answer is refused.
    pub fn room(&self, max_tokens: usize, prompt: usize) -> usize {
        max_tokens.min(self.context.saturating_sub(prompt).max(1))
    }

    /// The tokens of each of `answers` whose log probabilities are told with those
    /// of `likeliest` others, if they are; at most what a whole answer has room
    /// for, or [`crate::limits::LOGPROBS`] would be passed. What is echoed comes first.
    pub fn told(
        &self,
        max_tokens: usize,
        (answers, echoed): (usize, usize),
        likeliest: Option<usize>,
    ) -> Result<usize, ApiError> {
        let Some(likeliest) = likeliest else {
            return Ok(max_tokens);
        };
        let each = LOGPROBS / (answers.max(1) * (likeliest + 1));
        if echoed >= each && echoed > 0 {
            let says = format!(
                "logprobs of {answers} times {echoed} tokens of the prompt, with {likeliest} others each, \
                 are more than an answer holds ({LOGPROBS}); ask for fewer, or for fewer answers"
            );
            return Err(ApiError::field("logprobs", says).code("too_many_logprobs"));
        }
        Ok(max_tokens.min(each - echoed))
    }

    /// What the answer at `index` is asked for, but for its prompt and what it
    /// has to be like. Answers to one request get different dice.
    pub fn request(&self, c: &CommonFields, seed: u64, index: usize) -> Result<Request, ApiError> {
        let repetition_penalty = match (c.repetition_penalty, c.repeat_penalty) {
            (Some(a), Some(b)) if a != b => {
                let says = "repeat_penalty is another name of repetition_penalty, and differs";
                return Err(ApiError::field("repeat_penalty", says));
            }
            (a, b) => a.or(b).unwrap_or(1.0),
        };
        // The least of a probability that tokens can reach together is one token.
        let (top_k, top_p) = match c.top_p {
            Some(0.0) => (1, 1.0),
            top_p => (c.top_k.unwrap_or(0), top_p.unwrap_or(1.0)),
        };
        let sampling = Sampling {
            temperature: c.temperature.unwrap_or(1.0),
            top_k,
            top_p,
            min_p: c.min_p.unwrap_or(0.0),
            repetition_penalty,
            presence_penalty: c.presence_penalty.unwrap_or(0.0),
            frequency_penalty: c.frequency_penalty.unwrap_or(0.0),
            seed: seed.wrapping_add(index as u64),
        };
        sampling.validate().map_err(out_of_range)?;
        let stop = c.stop.clone().map_or(Vec::new(), |s| s.strings());
        match stop.len() {
            _ if stop.iter().any(String::is_empty) => {
                return Err(ApiError::field("stop", "a stop string must not be empty"))
            }
            n if n > MAX_STOPS => {
                let says = format!("{n} stop strings are too many; {MAX_STOPS} are the most");
                return Err(ApiError::field("stop", says));
            }
            _ => {}
        }
        Ok(Request {
            sampling,
            logit_bias: bias(c)?,
            stop,
            ignore_end: c.ignore_eos == Some(true),
            ..Request::default()
        })
    }

    /// What answers have to be like.
    pub fn shape(&self, c: &CommonFields) -> Result<Shape, ApiError> {
        let (format, grammar, regex) = (&c.response_format, &c.grammar, &c.regex);
        let formatted = format
            .as_ref()
            .is_some_and(|f| !matches!(f, ResponseFormat::Text));
        if usize::from(formatted) + usize::from(grammar.is_some()) + usize::from(regex.is_some())
            > 1
        {
            let says = "only one of response_format, grammar and regex can say what the answer has to be like";
            return Err(ApiError::field("response_format", says));
        }
        Ok(match (format, grammar, regex) {
            (_, Some(grammar), _) => Shape::Grammar(grammar.clone()),
            (_, _, Some(regex)) => Shape::Regex(regex.clone()),
            (Some(ResponseFormat::JsonObject { schema }), ..) => {
                let schema = schema.clone();
                schema.map_or(Shape::Object, Shape::Schema)
            }
            (Some(ResponseFormat::JsonSchema { json_schema }), ..) => {
                Shape::Schema(json_schema.schema.clone())
            }
            _ => Shape::Any,
        })
    }

    /// Makes answers be like that. What is asked for is compiled once, and each
    /// answer gets its own copy.
    pub async fn constrain(
        self: &Arc<App>,
        requests: &mut [Request],
        shape: Shape,
    ) -> Result<(), ApiError> {
        if matches!(shape, Shape::Any) {
            return Ok(());
        }
        let turn = self.compiling.turn().await?;
        let (app, n) = (self.clone(), requests.len());
        let made = blocking(Some(turn), move || {
            let grammar = app.grammar(&shape)?;
            Ok((0..n).map(|_| grammar.constraint()).collect::<Vec<_>>())
        });
        for (request, constraint) in requests.iter_mut().zip(made.await?) {
            request.constraint = Some(constraint);
        }
        Ok(())
    }

    /// What all answers have to be like.
    fn grammar(&self, shape: &Shape) -> Result<Grammar, ApiError> {
        let grammars = self.grammars()?;
        let (field, made) = match shape {
            Shape::Any | Shape::Object => ("response_format", grammars.json_object()),
            Shape::Schema(schema) => ("response_format", grammars.json_schema(schema)),
            Shape::Call(schema) => ("tools", grammars.json_schema(schema)),
            Shape::Grammar(text) => ("grammar", grammars.lark(text)),
            Shape::Regex(text) => ("regex", grammars.regex(text)),
        };
        made.map_err(|e| {
            let e = match (shape, e) {
                (Shape::Call(schema), GrammarError::Schema { at, why }) => {
                    let at = crate::tools::place(schema, &at);
                    GrammarError::Schema { at, why }
                }
                (_, e) => e,
            };
            ApiError::field(field, e.to_string()).code("invalid_grammar")
        })
    }

    /// What makes constraints; made when it is first asked for.
    fn grammars(&self) -> Result<&Grammars, ApiError> {
        let made = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer));
        made.as_ref().map_err(|e| ApiError::bad(e.to_string()))
    }

    /// Whether a prompt ends with this, but for white space.
    pub fn ends_with(&self, prompt: &[u32], mark: &str) -> bool {
        // Each token but the last few has a byte at least.
        let last = &prompt[prompt.len().saturating_sub(mark.len() + 8)..];
        let text: String = last.iter().map(|&id| self.token(id).0).collect();
        text.trim_end().ends_with(mark)
    }

    /// A token's text and bytes.
    pub fn token(&self, id: u32) -> (String, Vec<u8>) {
        let bytes = self
            .tokenizer
            .token_bytes(id)
            .unwrap_or_default()
            .into_owned();
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    }
}

/// Names the field that a sentence of the engine begins with.
fn out_of_range(says: String) -> ApiError {
    let words = says
        .strip_prefix("the ")
        .unwrap_or(&says)
        .split(" is ")
        .next();
    let field = words.unwrap_or_default().replace([' ', '-'], "_");
    ApiError::field(field, says)
}

fn bias(c: &CommonFields) -> Result<Vec<(u32, f32)>, ApiError> {
    let given = c.logit_bias.iter().flatten();
    let mut all = given
        .map(|(id, bias)| (id, *bias))
        .map(|(id, bias)| match id.parse::<u32>() {
            _ if !(-100.0..=100.0).contains(&bias) => Err(ApiError::field(
                "logit_bias",
                format!("logit_bias of token {id} is {bias}, but must be from -100 to 100"),
            )),
            Ok(id) => Ok((id, bias)),
            Err(_) => {
                let says = format!(
                    "logit_bias: {id:?} is no token; tokens are numbers, which /tokenize tells"
                );
                Err(ApiError::field("logit_bias", says))
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable_by_key(|b| b.0);
    match all.windows(2).find(|two| two[0].0 == two[1].0) {
        Some(two) => Err(ApiError::field(
            "logit_bias",
            format!("logit_bias has token {} twice", two[0].0),
        )),
        None => Ok(all),
    }
}

/// How many of the likeliest tokens to tell, if that many can be.
pub(crate) fn likeliest(field: &str, n: usize) -> Result<usize, ApiError> {
    match n {
        0..=MAX_LOGPROBS => Ok(n),
        _ => Err(ApiError::field(
            field,
            format!("{field} is {n}, but must be from 0 to {MAX_LOGPROBS}"),
        )),
    }
}

/// Counts what an update says of tokens. `first` is whether the answer is the
/// first to its prompt, which counts once.
pub(crate) fn tally(usage: &mut Usage, update: &Update, first: bool) {
    usage.completion_tokens += usize::from(update.token.is_some());
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    if let (Some((_, timings)), true) = (&update.finish, first) {
        usage.prompt_tokens_details.cached_tokens += timings.cached_tokens;
    }
}

/// Why an answer is none.
pub(crate) fn failure(why: &Finish) -> Option<ApiError> {
    match why {
        Finish::Stop | Finish::StopString(_) | Finish::Length | Finish::Context => None,
        // What it had to be like became too much, or impossible.
        Finish::Failed(why) => {
            Some(ApiError::bad(format!("the answer could not go on: {why}")).code("grammar_failed"))
        }
        Finish::NotFinite(why) => Some(ApiError::internal(why.clone())),
        Finish::Timeout | Finish::Cancelled => Some(ApiError::unavailable(
            "the server ended the answer before it was complete",
        )),
    }
}

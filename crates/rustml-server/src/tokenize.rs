//! `POST /tokenize` and `/detokenize`.

use crate::body::{self, Fields};
use crate::limits::TOKEN_TEXTS;
use crate::tools::Tools;
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::Json;
use rustml_tokenizer::{Decode, Encode};
use std::sync::Arc;

/// The tokens of a text or a conversation.
#[utoipa::path(
    post,
    path = "/tokenize",
    request_body(content = TokenizeRequest, example = json!({"prompt": "Name a river."})),
    responses(
        (status = 200, description = "The answer", body = TokenizeResponse),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let bytes = body::read(request, &app).await?;
    let shared = app.clone();
    app.reading(bytes.len(), move || {
        let app = shared;
        let mut fields = Fields::parse(&bytes)?;
        let asked: TokenizeRequest = fields.read()?;
        fields.end()?;
        app.model(asked.model.as_deref())?;
        let tokens = tokens(&app, &asked)?;
        let with_texts = asked.return_token_strs == Some(true);
        if with_texts {
            told(tokens.len(), "return_token_strs")?;
        }
        let strings = || tokens.iter().map(|&id| app.token(id).0).collect();
        Ok(Json(TokenizeResponse {
            count: tokens.len(),
            max_model_len: app.context,
            token_strs: with_texts.then(strings),
            tokens,
        }))
    })
    .await
}

/// Whether the texts of so many tokens fit into an answer.
fn told(tokens: usize, field: &str) -> Result<(), ApiError> {
    if tokens > TOKEN_TEXTS {
        let says = format!(
            "the texts of {tokens} tokens are asked for, but an answer holds those of \
             {TOKEN_TEXTS} at most; send fewer at a time"
        );
        return Err(ApiError::field(field, says));
    }
    Ok(())
}

fn tokens(app: &App, asked: &TokenizeRequest) -> Result<Vec<u32>, ApiError> {
    match (&asked.prompt, &asked.messages) {
        (Some(text), None) if asked.tools.is_none() => {
            let options = Encode {
                add_special: asked.add_special_tokens != Some(false),
                parse_special: asked.parse_special == Some(true),
            };
            let ids = app.tokenizer.encode(text, options);
            ids.map_err(|e| ApiError::field("prompt", e.to_string()))
        }
        (None, Some(messages)) => {
            let tools = asked.tools.clone().unwrap_or_default();
            let tools = Tools::new(tools, None, true, app.template()?)?;
            let answer = asked.add_generation_prompt != Some(false);
            app.conversation(messages.clone(), tools.as_ref(), answer)
        }
        _ => Err(ApiError::field(
            "prompt",
            "either prompt or messages has to be there, and tools only with messages",
        )),
    }
}

/// The text of tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    request_body(content = DetokenizeRequest, example = json!({"tokens": [1, 2, 3]})),
    responses(
        (status = 200, description = "The answer", body = DetokenizeResponse),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let bytes = body::read(request, &app).await?;
    let shared = app.clone();
    app.reading(bytes.len(), move || {
        let app = shared;
        let mut fields = Fields::parse(&bytes)?;
        let asked: DetokenizeRequest = fields.read()?;
        fields.end()?;
        app.model(asked.model.as_deref())?;
        told(asked.tokens.len(), "tokens")?;
        let vocab = app.tokenizer.vocab_size();
        if let Some(id) = asked.tokens.iter().find(|&&id| id as usize >= vocab) {
            let says = format!("there is no token {id}; the vocabulary has {vocab}");
            return Err(ApiError::field("tokens", says));
        }
        let options = Decode {
            control: true,
            continues: false,
        };
        Ok(Json(DetokenizeResponse {
            prompt: app.tokenizer.decode_with(&asked.tokens, options),
        }))
    })
    .await
}

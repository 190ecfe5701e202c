//! `POST /v1/embeddings`.

use crate::body::{self, Fields};
use crate::connections::Kept;
use crate::encoder::Encodes;
use crate::lane::blocking;
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::{header, Request};
use axum::response::{IntoResponse, Response};
use base64::prelude::{Engine as _, BASE64_STANDARD};
use rustml_tokenizer::{Encode, Input, Side, Truncate};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Values that the vectors of a request have at most.
pub(crate) const VALUES: usize = 1 << 22;

/// Tokens or values of a request that is not small; few such are at work at a time.
const MANY: usize = 1 << 16;

/// Texts as vectors.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "createEmbedding",
    request_body(content = EmbeddingsRequest, example = json!({"input": "Name a river."})),
    responses(
        (status = 200, description = "The answer", body = Embeddings),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let bytes = body::read(request, &app).await?;
    let shared = app.clone();
    let asked = app
        .reading(bytes.len(), move || read(&shared, &bytes))
        .await?;
    let encodes = app.embeds(&asked.model)?;
    let usage = TextUsage::of(&asked.texts);
    let cut: Vec<bool> = asked.texts.iter().map(|t| t.cut > 0).collect();
    let (dimensions, shorten) = (asked.dimensions, encodes.shorten);
    let (vectors, kept) = encode(&app, "embeddings", &asked.model, asked.texts).await?;
    let write = move || {
        let one = |(index, mut values): (usize, Vec<f32>)| {
            if let Some(n) = dimensions {
                shorten(&mut values, n);
            }
            Embedding {
                object: "embedding",
                index,
                embedding: match asked.base64 {
                    true => EmbeddingValues::Base64(base64(&values)),
                    false => EmbeddingValues::Floats(values),
                },
                truncated: cut[index],
            }
        };
        json(&Embeddings {
            object: "list",
            data: vectors.into_iter().enumerate().map(one).collect(),
            model: asked.model,
            usage,
        })
    };
    let mut response = blocking(None, write).await?;
    if let Some(kept) = kept {
        response.extensions_mut().insert::<Kept>(Arc::new(kept));
    }
    Ok(response)
}

/// What is asked for.
struct Asked {
    model: String,
    texts: Vec<Input>,
    base64: bool,
    dimensions: Option<usize>,
}

fn read(app: &App, bytes: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let asked: EmbeddingsRequest = fields.read()?;
    fields.end()?;
    let model = app.model(asked.model.as_deref())?;
    let encodes = app.embeds(&model)?;
    let base64 = match asked.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let says = format!("encoding_format is {other:?}, but must be float or base64");
            return Err(ApiError::field("encoding_format", says));
        }
    };
    let width = encodes.width;
    if let Some(n) = asked.dimensions.filter(|n| !(1..=width).contains(n)) {
        let says = format!("dimensions is {n}, but the model's vectors have {width} values");
        return Err(ApiError::field("dimensions", says));
    }
    let truncate = asked.truncate == Some(true);
    let texts = inputs(app, encodes, asked.input, truncate)?;
    Ok(Asked {
        model,
        texts,
        base64,
        dimensions: asked.dimensions,
    })
}

/// The texts of a request, as tokens.
pub(crate) fn inputs(
    app: &App,
    encodes: &Encodes,
    input: Prompt,
    truncate: bool,
) -> Result<Vec<Input>, ApiError> {
    let text = |app: &App, i: usize, text: &str| {
        tokens(app, encodes, text, None, truncate).map_err(|e| at(e, "input", i))
    };
    let list =
        |i: usize, ids: Vec<u32>| given(encodes, ids, truncate).map_err(|e| at(e, "input", i));
    let texts = match input {
        Prompt::Text(one) => vec![text(app, 0, &one)?],
        Prompt::Texts(all) => {
            count("input", all.len(), encodes.width)?;
            let all = all.iter().enumerate();
            all.map(|(i, t)| text(app, i, t))
                .collect::<Result<_, _>>()?
        }
        Prompt::Tokens(ids) => vec![list(0, ids)?],
        Prompt::Lists(all) => {
            count("input", all.len(), encodes.width)?;
            let all = all.into_iter().enumerate();
            all.map(|(i, ids)| list(i, ids)).collect::<Result<_, _>>()?
        }
    };
    Ok(texts)
}

/// Says which text an error is of.
pub(crate) fn at(mut e: ApiError, field: &str, i: usize) -> ApiError {
    e.body.message = format!("{field}[{i}]: {}", e.body.message);
    e.param(format!("{field}[{i}]"))
}

/// Refuses a request of no texts, or of more than an answer holds.
pub(crate) fn count(field: &str, texts: usize, width: usize) -> Result<(), ApiError> {
    let most = VALUES / width.max(1);
    match texts {
        0 => Err(ApiError::field(field, format!("{field} is empty"))),
        n if n > most => {
            let says = format!(
                "{field} has {n} texts, but an answer holds the numbers of {most}; send them in parts"
            );
            Err(ApiError::field(field, says).code("too_many_texts"))
        }
        _ => Ok(()),
    }
}

/// The tokens of a text or a pair.
pub(crate) fn tokens(
    app: &App,
    encodes: &Encodes,
    text: &str,
    second: Option<&str>,
    truncate: bool,
) -> Result<Input, ApiError> {
    let options = Encode {
        add_special: true,
        // What is compared is no conversation, in which somebody could forge a turn.
        parse_special: true,
    };
    let most = truncate.then_some(Truncate {
        tokens: encodes.most,
        side: Side::Right,
    });
    let input = app.tokenizer.encode_input(text, second, options, most);
    let input = input.map_err(|e| ApiError::bad(e.to_string()))?;
    fits(encodes, input)
}

/// Tokens that a client counted out itself.
fn given(encodes: &Encodes, ids: Vec<u32>, truncate: bool) -> Result<Input, ApiError> {
    let vocab = encodes.vocab;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        let says = format!("there is no token {id}; the vocabulary has {vocab}");
        return Err(ApiError::bad(says));
    }
    let mut input = Input {
        ids,
        ..Input::default()
    };
    if truncate && input.ids.len() > encodes.most {
        input.cut = input.ids.len() - encodes.most;
        input.ids.truncate(encodes.most);
    }
    fits(encodes, input)
}

fn fits(encodes: &Encodes, mut input: Input) -> Result<Input, ApiError> {
    let (length, most) = (input.ids.len(), encodes.most);
    if length == 0 {
        return Err(ApiError::bad("there are no tokens in it"));
    }
    if length > most {
        let says = format!(
            "the text is {length} tokens long, but the model reads {most} at most; shorten it, or say \"truncate\": true"
        );
        return Err(ApiError::bad(says).code("context_length_exceeded"));
    }
    // Many texts wait; what says nothing takes no memory.
    if input.types.iter().all(|&t| t == 0) {
        input.types = Vec::new();
    }
    Ok(input)
}

/// Has texts encoded; with a place that is to be kept until the answer is sent, if it is large.
pub(crate) async fn encode(
    app: &App,
    kind: &'static str,
    model: &str,
    texts: Vec<Input>,
) -> Result<(Vec<Vec<f32>>, Option<OwnedSemaphorePermit>), ApiError> {
    let (encodes, thread) = app.encodes(model)?;
    let tokens: usize = texts.iter().map(|t| t.ids.len()).sum();
    let large = tokens.max(texts.len() * encodes.width) > MANY;
    let kept = match large {
        true => Some(app.large.clone().acquire_owned().await),
        false => None,
    };
    let kept = kept.transpose().map_err(|_| ApiError::busy())?;
    Ok((thread.run(kind, texts).await?, kept))
}

/// Writes an answer, which may be long.
pub(crate) fn json(answer: &impl Serialize) -> Result<Response, ApiError> {
    let bytes = serde_json::to_vec(answer);
    let bytes = bytes.map_err(|_| ApiError::internal("cannot write the answer"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

/// Single precision, the lowest byte first, as OpenAI has it.
fn base64(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

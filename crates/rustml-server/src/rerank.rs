//! `POST /v1/rerank`, also at `/rerank` and `/v2/rerank`: documents by how well they fit.

use crate::body::{self, Fields};
use crate::connections::Kept;
use crate::embeddings::{at, count, encode, json, tokens};
use crate::lane::blocking;
use crate::prepare::any_number;
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use rustml_tokenizer::Input;
use std::sync::Arc;

/// Documents in the order in which they fit a query.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    request_body(content = RerankRequest, example = json!({"query": "Which river is long?", "documents": ["The Nile.", "A hill."]})),
    responses(
        (status = 200, description = "The answer", body = Reranked),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let bytes = body::read(request, &app).await?;
    let shared = app.clone();
    let (asked, model, pairs) = app
        .reading(bytes.len(), move || read(&shared, &bytes))
        .await?;
    let usage = TextUsage::of(&pairs);
    let cut: Vec<bool> = pairs.iter().map(|t| t.cut > 0).collect();
    let (scores, kept) = encode(&app, "rerank", &model, pairs).await?;
    let write = move || {
        let labels = app.labels(&model)?;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b][0].total_cmp(&scores[a][0]));
        order.truncate(asked.top_n.unwrap_or(usize::MAX));
        let ranked = |index: usize| RankedDocument {
            index,
            relevance_score: match asked.raw_scores {
                Some(true) => scores[index][0],
                _ => (labels.probabilities)(&scores[index])[0],
            },
            document: (asked.return_documents == Some(true)).then(|| DocumentText {
                text: asked.documents[index].text().into(),
            }),
            truncated: cut[index],
        };
        json(&Reranked {
            id: format!("rerank-{:016x}", any_number()),
            object: "list",
            results: order.into_iter().map(ranked).collect(),
            model,
            usage,
        })
    };
    let mut response = blocking(None, write).await?;
    if let Some(kept) = kept {
        response.extensions_mut().insert::<Kept>(Arc::new(kept));
    }
    Ok(response)
}

fn read(app: &App, bytes: &[u8]) -> Result<(RerankRequest, String, Vec<Input>), ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let asked: RerankRequest = fields.read()?;
    fields.end()?;
    let model = app.model(asked.model.as_deref())?;
    let labels = app.labels(&model)?.names.len();
    if labels != 1 {
        let says = format!(
            "the model {model} gives scores of {labels} labels, not one of how well two texts fit; ask it at /classify"
        );
        return Err(ApiError::field("model", says).code("model_does_not_rerank"));
    }
    let (encodes, _) = app.encodes(&model)?;
    count("documents", asked.documents.len(), 1)?;
    if asked.top_n == Some(0) {
        return Err(ApiError::field("top_n", "top_n must be at least 1"));
    }
    let truncate = asked.truncate == Some(true);
    let pair = |(i, document): (usize, &Document)| {
        let (first, second) = (&asked.query, Some(document.text()));
        tokens(app, encodes, first, second, truncate).map_err(|e| at(e, "documents", i))
    };
    let pairs = asked.documents.iter().enumerate().map(pair);
    let pairs = pairs.collect::<Result<_, _>>()?;
    Ok((asked, model, pairs))
}

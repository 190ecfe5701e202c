//! `POST /classify`: texts with labels.

use crate::body::{self, Fields};
use crate::connections::Kept;
use crate::embeddings::{encode, inputs, json};
use crate::lane::blocking;
use crate::prepare::any_number;
use crate::types::*;
use crate::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use std::sync::Arc;

/// How likely each label is for texts.
#[utoipa::path(
    post,
    path = "/classify",
    request_body(content = ClassifyRequest, example = json!({"input": "What a day!"})),
    responses(
        (status = 200, description = "The answer", body = Classified),
        (status = "4XX", body = ErrorResponse, description = "What was wrong with the request"),
        (status = "5XX", body = ErrorResponse, description = "What went wrong here"),
    ),
    security((), ("api_key" = [])),
)]
pub(crate) async fn classify(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let bytes = body::read(request, &app).await?;
    let shared = app.clone();
    let length = bytes.len();
    let read = move || {
        let app = shared;
        let mut fields = Fields::parse(&bytes)?;
        let asked: ClassifyRequest = fields.read()?;
        fields.end()?;
        let model = app.model(asked.model.as_deref())?;
        app.labels(&model)?;
        let (encodes, _) = app.encodes(&model)?;
        let truncate = asked.truncate == Some(true);
        let texts = inputs(&app, encodes, asked.input, truncate)?;
        Ok((model, texts))
    };
    let (model, texts) = app.reading(length, read).await?;
    let usage = TextUsage::of(&texts);
    let cut: Vec<bool> = texts.iter().map(|t| t.cut > 0).collect();
    let (scores, kept) = encode(&app, "classify", &model, texts).await?;
    let write = move || {
        let labels = app.labels(&model)?;
        let one = |(index, scores): (usize, &Vec<f32>)| {
            let probs = (labels.probabilities)(scores);
            let best = (0..probs.len()).max_by(|&a, &b| probs[a].total_cmp(&probs[b]));
            ClassifiedText {
                index,
                label: labels.names[best.unwrap_or(0)].clone(),
                num_classes: probs.len(),
                probs,
                truncated: cut[index],
            }
        };
        json(&Classified {
            id: format!("classify-{:016x}", any_number()),
            object: "list",
            created: crate::now(),
            labels: labels.names.clone(),
            data: scores.iter().enumerate().map(one).collect(),
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

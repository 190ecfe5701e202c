//! Serving what turns texts into vectors.

use super::ServeArgs;
use rustml_nlp::cli::{note, Failure};
use rustml_nlp::{EmbedSteps, Embedding, Input, Model, Pooling};
use rustml_server::{Encoder, Encodes, Labels, MakeEncoder};
use std::net::TcpListener;

/// Refuses flags that say how to generate, for a model that does not.
pub(super) fn check(args: &ServeArgs) -> Result<(), Failure> {
    let given = [
        ("--draft", args.draft.draft.is_some()),
        ("--speculate", args.speculate),
        ("--kv-memory", args.kv_memory.is_some()),
        ("--max-tokens", args.max_tokens.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Failure::Usage(format!(
            "{flag} is for models that generate; this one turns texts into vectors"
        ))),
    }
}

/// How the model turns texts into vectors, and what does.
pub(super) fn of(
    model: &Model,
    pooling: Option<Pooling>,
) -> Result<(Encodes, MakeEncoder), Failure> {
    let (embedder, labels) = match model.model().spec().classifier {
        Some(_) if pooling.is_some() => {
            let says = "--pooling is for vectors; this model gives scores of labels";
            return Err(Failure::Usage(says.into()));
        }
        Some(_) => {
            let scorer = model.scorer()?;
            let labels = Labels {
                names: scorer.labels().to_vec(),
                probabilities: {
                    let scorer = scorer.clone();
                    Box::new(move |logits| scorer.probabilities(logits))
                },
            };
            (scorer.embedder().clone(), Some(labels))
        }
        None => {
            let mut embedder = model.embedder()?;
            if let Some(pooling) = pooling {
                embedder.set_pooling(pooling);
            }
            (embedder, None)
        }
    };
    let encodes = Encodes {
        width: embedder.width(),
        vocab: embedder.vocab(),
        most: embedder.most(),
        rows: embedder.rows(),
        texts: EmbedSteps::TEXTS,
        shorten: Embedding::shorten_values,
        labels,
    };
    let make = move || {
        let mut steps = embedder.steps().map_err(|e| e.to_string())?;
        let run = move |texts: &[&Input]| {
            let all = steps.step(texts).map_err(|e| e.to_string())?;
            let values = all
                .into_iter()
                .map(|made| made.map(|e| e.values).map_err(|e| e.to_string()));
            Ok(values.collect())
        };
        Ok(Box::new(run) as Encoder)
    };
    Ok((encodes, Box::new(make)))
}

/// Says what is served, and where.
pub(super) fn tell(name: &str, listener: &TcpListener, model: &Model, encodes: &Encodes) {
    let at = listener
        .local_addr()
        .map_or(String::new(), |a| a.to_string());
    let (what, path) = match &encodes.labels {
        None => ("vectors of texts", "v1/embeddings"),
        Some(labels) if labels.names.len() == 1 => ("documents in order", "v1/rerank"),
        Some(_) => ("labels of texts", "classify"),
    };
    note(format_args!(
        "{name} at http://{at}: {what} at http://{at}/{path}"
    ));
    note(format_args!(
        "{} values for a text, which may have {} tokens; {} MiB of weights, {} threads",
        encodes.width,
        encodes.most,
        model.model().report().bytes >> 20,
        model.threads(),
    ));
}

//! Heads that give texts labels, as files describe them.

use crate::error::Result;
use crate::source::{Config, Gguf};
use crate::spec::{Activation, Classifier, ClassifierDense, Norm, Spec};

/// Whether a config.json is that of a classifier.
pub(super) fn classifies(c: &Config) -> Result<bool> {
    let names = c.need_strings("architectures")?;
    let ends = |name: &&str| name.ends_with("ForSequenceClassification");
    Ok(names.iter().any(ends))
}

/// How many labels a config.json names: two, where it does not say.
pub(super) fn labels(c: &Config) -> Result<usize> {
    let named = c.named("id2label")?;
    Ok(c.usize("num_labels")?.or(named).unwrap_or(2))
}

/// With a head as most have it, if it is a classifier's.
pub(super) fn classifier(c: &Config, mut spec: Spec, activation: Activation) -> Result<Spec> {
    if classifies(c)? {
        spec.classifier = Some(Classifier {
            labels: labels(c)?,
            mean: false,
            dense: Some(ClassifierDense {
                bias: true,
                activation,
                norm: None,
            }),
            bias: true,
        });
    }
    Ok(spec)
}

/// The pooling in GGUF files whose result is a rank.
const RANK: usize = 4;

/// The head of a GGUF file that ranks.
pub(super) fn ranks(
    g: &Gguf,
    activation: Activation,
    norm: Option<Norm>,
) -> Result<Option<Classifier>> {
    // Where no pooling is named, what there is to pool for says it.
    let pooling = g.usize("pooling_type")?;
    if pooling.unwrap_or(RANK) != RANK || pooling.is_none() && !g.has_tensor("cls.output.weight") {
        return Ok(None);
    }
    let dense = ClassifierDense {
        bias: g.has_tensor("cls.bias"),
        activation,
        norm: norm.filter(|_| g.has_tensor("cls.norm.weight")),
    };
    Ok(Some(Classifier {
        labels: g.tensor_rows("cls.output.weight")?,
        mean: match g.usize("classifier.pooling_type")? {
            Some(1) => true,
            Some(2) => false,
            // As llama.cpp has it: the mean for a head with a norm, else the first state.
            None => norm.is_some(),
            Some(other) => {
                return Err(g.error(format!(
                    "classifier.pooling_type is {other}; known are 1 (mean) and 2 (cls)"
                )))
            }
        },
        dense: g.has_tensor("cls.weight").then_some(dense),
        bias: g.has_tensor("cls.output.bias"),
    }))
}

//! Texts that get scores of labels: cross-encoders, which compare two texts, and classifiers.

use crate::embed::{read_json, EmbedSteps, Embedder};
use crate::error::{Error, Result};
use crate::model::Model;
use rustml_io::{FileFormat, Store};
use rustml_tokenizer::Input;

/// Gives texts, or pairs of texts, a score of each label.
#[derive(Clone)]
pub struct Scorer {
    embedder: Embedder,
    labels: Vec<String>,
    several: bool,
}

/// A document, and how well it fits a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Which document.
    pub index: usize,
    /// The model's score, as it comes from its last layer.
    pub logit: f32,
}

impl Ranked {
    /// The score between 0 and 1.
    pub fn relevance(&self) -> f32 {
        sigmoid(self.logit)
    }
}

/// A label, and how likely it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// What it is called.
    pub name: String,
    /// Between 0 and 1.
    pub probability: f32,
}

fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

impl Model {
    /// What gives texts scores of labels.
    ///
    /// # Errors
    /// If the model has no labels, or what is beside it is damaged.
    pub fn scorer(&self) -> Result<Scorer> {
        let Some(head) = self.model().spec().classifier else {
            return Err(Error::Embedding(format!(
                "{}: this model gives no scores of labels: it is no reranker and no classifier",
                self.path().display()
            )));
        };
        let store = Store::open(self.path())?;
        let (named, several) = match store.format() {
            FileFormat::Gguf { .. } => {
                let key = format!("{}.classifier.output_labels", self.model().arch());
                let named = store.metadata().strings(&key)?;
                let named = named.map(|all| all.iter().map(|s| s.to_string()).collect());
                (named.unwrap_or_default(), false)
            }
            FileFormat::Safetensors => labels(&store)?,
        };
        let labels = match named.len() {
            0 => (0..head.labels).map(|i| format!("LABEL_{i}")).collect(),
            n if n == head.labels => named,
            n => {
                return Err(Error::Embedding(format!(
                    "{}: {n} labels are named, but there are scores of {}",
                    self.path().display(),
                    head.labels
                )))
            }
        };
        Ok(Scorer {
            embedder: Embedder::plain(self),
            labels,
            several,
        })
    }

    /// The documents, the one that fits the query best first.
    ///
    /// # Errors
    /// If the model is no reranker, a pair is longer than it reads, or memory is lacking.
    pub fn rerank(&self, query: &str, documents: &[&str]) -> Result<Vec<Ranked>> {
        let scorer = self.scorer()?;
        scorer.ranks()?;
        let pairs = documents.iter().map(|d| scorer.pair(query, d, false));
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        scorer.rank(&pairs)
    }

    /// How likely each label is for each text.
    ///
    /// # Errors
    /// If the model has no labels, a text is longer than it reads, or memory is lacking.
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<Vec<Label>>> {
        let scorer = self.scorer()?;
        let all = texts.iter().map(|t| scorer.embedder.encode(t, false));
        let all = all.collect::<Result<Vec<_>>>()?;
        let scores = scorer.run(&all)?;
        let named = |logits: &Vec<f32>| {
            let all = scorer.labels.iter().zip(scorer.probabilities(logits));
            let label = |(name, probability): (&String, f32)| Label {
                name: name.clone(),
                probability,
            };
            all.map(label).collect()
        };
        Ok(scores.iter().map(named).collect())
    }
}

/// The labels that a config.json names, and whether a text may have several.
fn labels(store: &Store) -> Result<(Vec<String>, bool)> {
    let path = store.directory().join("config.json");
    let settings = read_json(&path)?.unwrap_or_default();
    let several = settings["problem_type"].as_str() == Some("multi_label_classification");
    let Some(map) = settings["id2label"].as_object() else {
        return Ok((Vec::new(), several));
    };
    let one = |i: usize| Some(map.get(&i.to_string())?.as_str()?.to_owned());
    let all: Option<Vec<String>> = (0..map.len()).map(one).collect();
    let wrong = || {
        let path = path.display();
        Error::Embedding(format!(
            "{path}: id2label does not name the labels from 0 on"
        ))
    };
    Ok((all.ok_or_else(wrong)?, several))
}

impl Scorer {
    /// The labels' names.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Whether a text may have several labels, each likely for itself.
    pub fn has_several(&self) -> bool {
        self.several || self.labels.len() == 1
    }

    /// What reads texts.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// Refuses a model that is no reranker.
    ///
    /// # Errors
    /// If it has several labels.
    pub fn ranks(&self) -> Result<()> {
        match self.labels.len() {
            1 => Ok(()),
            n => Err(Error::Embedding(format!(
                "the model gives scores of {n} labels, not one of how well two texts fit"
            ))),
        }
    }

    /// The tokens of a query and a document.
    ///
    /// # Errors
    /// If they are longer than the model reads, and may not be cut.
    pub fn pair(&self, query: &str, document: &str, truncate: bool) -> Result<Input> {
        self.embedder.encode_pair(query, Some(document), truncate)
    }

    /// What gives scores step by step.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn steps(&self) -> Result<EmbedSteps> {
        self.embedder.steps()
    }

    /// The scores of texts, as they come from the last layer.
    ///
    /// # Errors
    /// As [`Embedder::run`].
    pub fn run(&self, texts: &[Input]) -> Result<Vec<Vec<f32>>> {
        let all = self.embedder.run(texts)?;
        Ok(all.into_iter().map(|e| e.values).collect())
    }

    /// The pairs, the best one first; of equal ones in their order.
    ///
    /// # Errors
    /// As [`Embedder::run`].
    pub fn rank(&self, pairs: &[Input]) -> Result<Vec<Ranked>> {
        let scores = self.run(pairs)?.into_iter().enumerate();
        let mut all: Vec<Ranked> = scores
            .map(|(index, s)| Ranked { index, logit: s[0] })
            .collect();
        all.sort_by(|a, b| b.logit.total_cmp(&a.logit));
        Ok(all)
    }

    /// How likely each label is.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        if self.has_several() {
            return logits.iter().map(|&x| sigmoid(x)).collect();
        }
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp = |x: &f32| (f64::from(*x) - f64::from(most)).exp();
        let sum: f64 = logits.iter().map(exp).sum();
        logits.iter().map(|x| (exp(x) / sum) as f32).collect()
    }
}

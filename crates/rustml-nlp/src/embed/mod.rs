//! Texts as vectors.
//!
//! A directory of sentence-transformers says how: `modules.json` lists a pooling, dense
//! layers, and whether the result has length 1. GGUF files name a pooling. Where nothing
//! says, an encoder's states are averaged, a generating model's last one is taken, and
//! the result has length 1.

mod dense;
mod files;
mod run;

pub(crate) use files::json as read_json;
pub use run::EmbedSteps;

use crate::error::{Error, Result};
use crate::model::{Model, STEP_ROWS};
use dense::Dense;
use rustml_io::{FileFormat, Store};
use rustml_tokenizer::{Encode, Input, Side, Tokenizer, Truncate};
use std::path::PathBuf;
use std::sync::Arc;

/// Which of a text's states its vector is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first.
    First,
    /// The last.
    Last,
}

impl Pooling {
    /// The name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::First => "cls",
            Pooling::Last => "last",
        }
    }

    /// The pooling of that name.
    pub fn named(name: &str) -> Option<Pooling> {
        let all = [Pooling::Mean, Pooling::First, Pooling::Last];
        all.into_iter().find(|p| p.name() == name)
    }
}

/// A text's vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The vector.
    pub values: Vec<f32>,
    /// Tokens that were read.
    pub tokens: usize,
    /// Whether the text had more.
    pub truncated: bool,
}

/// What makes vectors of a model's states.
#[derive(Clone)]
pub struct Embedder {
    model: Arc<rustml_model::Model>,
    tokenizer: Arc<Tokenizer>,
    path: PathBuf,
    pooling: Pooling,
    dense: Vec<Dense>,
    normalise: bool,
    /// Tokens of a text at most.
    most: usize,
    /// By name, what is put before a text.
    prompts: Vec<(String, String)>,
}

impl Model {
    /// What makes vectors of texts, as the model's files say.
    ///
    /// # Errors
    /// If these files are damaged, or ask for what is not supported.
    pub fn embedder(&self) -> Result<Embedder> {
        let model = self.model();
        if model.spec().classifier.is_some() {
            return Err(Error::Embedding(format!(
                "{}: this model gives scores of labels and no vectors: it is a reranker or a classifier",
                self.path().display()
            )));
        }
        let mut e = Embedder::plain(self);
        let store = Store::open(self.path())?;
        match store.format() {
            FileFormat::Gguf { .. } => e.read_gguf(&store, model.arch())?,
            FileFormat::Safetensors => e.read_directory(store.directory(), model.spec().hidden)?,
        }
        Ok(e)
    }

    /// The vectors of texts, by the model's own pooling.
    ///
    /// # Errors
    /// If the files beside the model are damaged, a text is longer than the model reads, or
    /// memory is lacking.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Embedding>> {
        let embedder = self.embedder()?;
        let all = texts.iter().map(|text| embedder.encode(text, false));
        let all = all.collect::<Result<Vec<_>>>()?;
        embedder.run(&all)
    }
}

impl Embedder {
    /// By what is usual where no file says more.
    pub(crate) fn plain(model: &Model) -> Embedder {
        Embedder {
            model: model.model().clone(),
            tokenizer: model.tokenizer().clone(),
            path: model.path().to_owned(),
            pooling: match model.model().spec().is_encoder() {
                true => Pooling::Mean,
                false => Pooling::Last,
            },
            dense: Vec::new(),
            normalise: true,
            most: model.context(),
            prompts: Vec::new(),
        }
    }

    /// Takes another pooling.
    pub fn set_pooling(&mut self, pooling: Pooling) {
        self.pooling = pooling;
    }

    /// The pooling.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Tokens of a text at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Tokens that there are.
    pub fn vocab(&self) -> usize {
        self.model.spec().vocab
    }

    /// Tokens of a step, but for a text that alone has more.
    pub fn rows(&self) -> usize {
        /// The texts of most encoders are no longer.
        const USUAL: usize = 512;
        STEP_ROWS.max(self.most.min(USUAL))
    }

    /// Values of a vector, or scores.
    pub fn width(&self) -> usize {
        if let Some(head) = self.model.spec().classifier {
            return head.labels;
        }
        let hidden = self.model.spec().hidden;
        self.dense
            .iter()
            .fold(hidden, |width, d| d.weights.len() / width)
    }

    /// What is put before texts for a purpose.
    ///
    /// # Errors
    /// If the model knows no such purpose.
    pub fn prompt(&self, name: &str) -> Result<&str> {
        let found = self.prompts.iter().find(|(n, _)| n == name);
        found.map(|(_, prompt)| &prompt[..]).ok_or_else(|| {
            let names: Vec<&str> = self.prompts.iter().map(|(n, _)| &n[..]).collect();
            Error::Embedding(match names.is_empty() {
                true => "the model's files name no prompts".into(),
                false => format!("the model knows the prompts {}", names.join(", ")),
            })
        })
    }

    /// The tokens of a text. [`Input::cut`] says how many it had more.
    ///
    /// # Errors
    /// If it is longer than the model reads, and may not be cut.
    pub fn encode(&self, text: &str, truncate: bool) -> Result<Input> {
        self.encode_pair(text, None, truncate)
    }

    /// The same of a text, or of two that are compared.
    pub(crate) fn encode_pair(
        &self,
        text: &str,
        second: Option<&str>,
        truncate: bool,
    ) -> Result<Input> {
        let options = Encode {
            add_special: true,
            // As sentence-transformers reads texts; there are no turns to forge.
            parse_special: true,
        };
        let most = truncate.then_some(Truncate {
            tokens: self.most,
            side: Side::Right,
        });
        let input = self.tokenizer.encode_input(text, second, options, most);
        let input = input.map_err(|source| {
            let path = self.path.clone();
            Error::Tokenizer { path, source }
        })?;
        match input.ids.len() <= self.most {
            true => Ok(input),
            false => Err(Error::Embedding(format!(
                "the text is {} tokens long, but the model reads {} at most; shorten it, or have it truncated",
                input.ids.len(),
                self.most
            ))),
        }
    }

    /// Refuses what is no text that the model can read.
    fn check(&self, text: &Input) -> Result<()> {
        let (ids, known) = (&text.ids, self.model.token_types());
        if let Some(kind) = self.types(text).iter().find(|t| **t as usize >= known) {
            return Err(Error::Embedding(format!(
                "the tokenizer gives tokens the type {kind}, but the model has {known} types"
            )));
        }
        let vocab = self.model.spec().vocab;
        if ids.is_empty() {
            return Err(Error::Embedding("a text has no tokens".into()));
        }
        if ids.len() > self.most {
            let (len, most) = (ids.len(), self.most);
            return Err(Error::Embedding(format!(
                "a text is {len} tokens long, but the model reads {most} at most"
            )));
        }
        match ids.iter().find(|id| **id as usize >= vocab) {
            None => Ok(()),
            Some(id) => Err(Error::Embedding(format!(
                "there is no token {id}; the vocabulary has {vocab}"
            ))),
        }
    }

    /// The types of a text's tokens, where the model knows several.
    fn types<'t>(&self, text: &'t Input) -> &'t [u32] {
        match self.model.token_types() {
            0 | 1 => &[],
            _ => &text.types,
        }
    }

    /// Makes the vector of the states that are pooled, or the scores.
    fn finish(&self, states: &[&[f32]]) -> Vec<f32> {
        if let Some(scores) = self.model.scores(states) {
            return scores;
        }
        let mut x = match self.pooling {
            Pooling::First | Pooling::Last => states[0].to_vec(),
            Pooling::Mean => {
                let mut sums = vec![0f64; states[0].len()];
                for state in states {
                    sums.iter_mut()
                        .zip(*state)
                        .for_each(|(s, x)| *s += f64::from(*x));
                }
                sums.iter()
                    .map(|s| (s / states.len() as f64) as f32)
                    .collect()
            }
        };
        for dense in &self.dense {
            x = dense.run(&x);
        }
        if self.normalise {
            normalise(&mut x);
        }
        x
    }
}

/// Gives a vector length 1, if it has one.
fn normalise(x: &mut [f32]) {
    let length = x
        .iter()
        .map(|x| f64::from(*x) * f64::from(*x))
        .sum::<f64>()
        .sqrt();
    if length > 0.0 {
        x.iter_mut()
            .for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

impl Embedding {
    /// Keeps the first values alone, and gives them length 1: what models trained for that
    /// allow (Kusupati et al., "Matryoshka Representation Learning").
    pub fn shorten(&mut self, dimensions: usize) {
        Embedding::shorten_values(&mut self.values, dimensions);
    }

    /// The same of the values alone.
    pub fn shorten_values(values: &mut Vec<f32>, dimensions: usize) {
        if dimensions < values.len() {
            values.truncate(dimensions);
            normalise(values);
        }
    }
}

//! Texts as vectors.
//!
//! A directory of sentence-transformers says how: `modules.json` lists a pooling, dense
//! layers, and whether the result has length 1. GGUF files name a pooling. Where nothing
//! says, an encoder's states are averaged, a generating model's last one is taken, and
//! the result has length 1.

use crate::error::{Error, Result};
use crate::model::{Model, STEP_ROWS};
use rustml_io::{FileFormat, Store};
use rustml_kernels::formats::decode_row;
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, KvType, Output, KV_BLOCK};
use rustml_tokenizer::{Encode, Side, Truncate};
use rustml_trace::{Detail, Recorder};
use serde_json::Value;
use std::path::Path;

/// Outputs of a dense layer at most: far more than any has.
const WIDEST: usize = 1 << 16;

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
pub struct Embedder<'m> {
    model: &'m Model,
    pooling: Pooling,
    dense: Vec<Dense>,
    normalise: bool,
    /// Tokens of a text at most.
    most: usize,
    /// By name, what is put before a text.
    prompts: Vec<(String, String)>,
}

/// A layer after the pooling.
#[derive(Clone, Debug)]
struct Dense {
    /// `[outputs, inputs]`
    weights: Vec<f32>,
    bias: Vec<f32>,
    tanh: bool,
}

impl Dense {
    fn run(&self, x: &[f32]) -> Vec<f32> {
        let row = |(i, w): (usize, &[f32])| {
            let sum: f64 = w
                .iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum();
            let sum = sum as f32 + self.bias.get(i).copied().unwrap_or(0.0);
            if self.tanh {
                sum.tanh()
            } else {
                sum
            }
        };
        self.weights
            .chunks_exact(x.len())
            .enumerate()
            .map(row)
            .collect()
    }
}

impl Model {
    /// What makes vectors of texts, as the model's files say.
    ///
    /// # Errors
    /// If these files are damaged, or ask for what is not supported.
    pub fn embedder(&self) -> Result<Embedder<'_>> {
        let model = self.model();
        let encodes = model.spec().is_encoder();
        let mut e = Embedder {
            model: self,
            pooling: if encodes {
                Pooling::Mean
            } else {
                Pooling::Last
            },
            dense: Vec::new(),
            normalise: true,
            most: self.context(),
            prompts: Vec::new(),
        };
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

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Embedding(format!("{}: {what}", path.display()))
}

fn json(path: &Path) -> Result<Option<Value>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(damaged(path, e)),
    };
    let value = serde_json::from_slice(&text);
    value
        .map(Some)
        .map_err(|e| damaged(path, format_args!("is no JSON: {e}")))
}

impl Embedder<'_> {
    fn read_gguf(&mut self, store: &Store, arch: &str) -> Result<()> {
        let kind = store.metadata().usize(&format!("{arch}.pooling_type"))?;
        self.pooling = match kind {
            None => self.pooling,
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(3) => Pooling::Last,
            Some(0) => self.pooling,
            Some(other) => {
                return Err(damaged(
                    store.path(),
                    format_args!(
                        "{arch}.pooling_type is {other}; known are 1 (mean), 2 (cls) and 3 (last)"
                    ),
                ))
            }
        };
        let mut width = self.model.model().spec().hidden;
        for name in ["dense_2.weight", "dense_3.weight"] {
            if store.find(name).is_some() {
                let dense = dense(store, name, None, width, false)?;
                width = dense.weights.len() / width;
                self.dense.push(dense);
            }
        }
        Ok(())
    }

    fn read_directory(&mut self, directory: &Path, hidden: usize) -> Result<()> {
        if let Some(settings) = json(&directory.join("sentence_bert_config.json"))? {
            if let Some(most) = settings["max_seq_length"].as_u64() {
                self.most = self.most.min(most.max(1) as usize);
            }
        }
        if let Some(settings) = json(&directory.join("config_sentence_transformers.json"))? {
            if let Some(prompts) = settings["prompts"].as_object() {
                let text =
                    |(name, p): (&String, &Value)| Some((name.clone(), p.as_str()?.to_owned()));
                self.prompts = prompts.iter().filter_map(text).collect();
            }
        }
        let path = directory.join("modules.json");
        let Some(modules) = json(&path)? else {
            return Ok(());
        };
        let modules = modules
            .as_array()
            .ok_or_else(|| damaged(&path, "is no list of modules"))?;
        self.normalise = false;
        let mut width = hidden;
        for module in modules {
            let kind = module["type"].as_str().unwrap_or_default();
            let place = module["path"].as_str().unwrap_or_default();
            // It is a folder beside the file, and leads nowhere else.
            if Path::new(place)
                .components()
                .any(|c| !matches!(c, std::path::Component::Normal(_)))
            {
                return Err(damaged(
                    &path,
                    format_args!("the path {place:?} leads out of the model"),
                ));
            }
            let folder = directory.join(place);
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => self.pooling = pooling(&folder.join("config.json"), hidden)?,
                "Normalize" => self.normalise = true,
                "Dense" => {
                    let dense = dense_of(&folder, width)?;
                    width = dense.weights.len() / width;
                    self.dense.push(dense);
                }
                other => {
                    return Err(damaged(
                        &path,
                        format_args!("the module {other} is not supported"),
                    ))
                }
            }
        }
        Ok(())
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

    /// Values of a vector.
    pub fn width(&self) -> usize {
        let hidden = self.model.model().spec().hidden;
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

    /// The tokens of a text, and whether it had more.
    ///
    /// # Errors
    /// If it is longer than the model reads, and may not be cut.
    pub fn encode(&self, text: &str, truncate: bool) -> Result<(Vec<u32>, bool)> {
        let options = Encode {
            add_special: true,
            // As sentence-transformers reads texts; there are no turns to forge.
            parse_special: true,
        };
        let most = truncate.then_some(Truncate {
            tokens: self.most,
            side: Side::Right,
        });
        let tokenizer = self.model.tokenizer();
        let input = tokenizer.encode_input(text, None, options, most);
        let input = input.map_err(|source| {
            let path = self.model.path().to_owned();
            Error::Tokenizer { path, source }
        })?;
        match input.ids.len() <= self.most {
            true => Ok((input.ids, input.cut > 0)),
            false => Err(Error::Embedding(format!(
                "the text is {} tokens long, but the model reads {} at most; shorten it, or have it truncated",
                input.ids.len(),
                self.most
            ))),
        }
    }

    /// The vectors of texts, given their tokens. Texts share steps by their lengths.
    ///
    /// # Errors
    /// If a text has no token or too many, one is outside the vocabulary, memory is lacking,
    /// or a value is no finite number.
    pub fn run(&self, texts: &[(Vec<u32>, bool)]) -> Result<Vec<Embedding>> {
        let model = self.model.model();
        let vocab = model.spec().vocab;
        for (ids, _) in texts {
            if ids.is_empty() {
                return Err(Error::Embedding("a text has no tokens".into()));
            }
            if ids.len() > self.most {
                let (len, most) = (ids.len(), self.most);
                return Err(Error::Embedding(format!(
                    "a text is {len} tokens long, but the model reads {most} at most"
                )));
            }
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                return Err(Error::Embedding(format!(
                    "there is no token {id}; the vocabulary has {vocab}"
                )));
            }
        }
        let longest = texts.iter().map(|(ids, _)| ids.len()).max().unwrap_or(1);
        let total: usize = texts.iter().map(|(ids, _)| ids.len()).sum();
        let rows = longest.max(STEP_ROWS.min(total)).max(1);
        let capacity = Capacity {
            rows,
            logit_rows: rows,
        };
        // Each text begins a block of its own.
        let positions = rows + KV_BLOCK * rows.min(texts.len());
        let mut kv = KvPool::new(model.spec(), positions, KvType::F32)?;
        let mut exec = Exec::new(model, capacity, Recorder::new(Detail::Off));
        let mut out: Vec<Option<Embedding>> = vec![None; texts.len()];
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| texts[i].0.len());
        let mut rest = &order[..];
        while !rest.is_empty() {
            let mut left = rows;
            let fits = |&&i: &&usize| match left.checked_sub(texts[i].0.len()) {
                Some(less) => {
                    left = less;
                    true
                }
                None => false,
            };
            let count = rest.iter().take_while(fits).count();
            let step;
            (step, rest) = rest.split_at(count);
            self.step(texts, step, &mut kv, &mut exec, &mut out)?;
        }
        Ok(out
            .into_iter()
            .map(|e| e.expect("every text was in a step"))
            .collect())
    }

    fn step(
        &self,
        texts: &[(Vec<u32>, bool)],
        step: &[usize],
        kv: &mut KvPool,
        exec: &mut Exec,
        out: &mut [Option<Embedding>],
    ) -> Result<()> {
        let model = self.model.model();
        let caches: Vec<KvSequence> = step
            .iter()
            .map(|&i| {
                let mut cache = KvSequence::default();
                assert!(
                    kv.reserve(&mut cache, texts[i].0.len()),
                    "there is room for a step"
                );
                cache
            })
            .collect();
        let mut batch = Batch::default();
        for (cache, &i) in caches.iter().zip(step) {
            let ids = &texts[i].0;
            let wanted = match self.pooling {
                Pooling::Last => 1,
                Pooling::Mean | Pooling::First => ids.len(),
            };
            batch.push(cache, ids, ids.len(), Output::Hidden(wanted));
        }
        let outputs = model.forward(&batch, kv, exec);
        let mut rows = outputs.hidden();
        for &i in step {
            let (ids, truncated) = &texts[i];
            let count = if self.pooling == Pooling::Last {
                1
            } else {
                ids.len()
            };
            let mine: Vec<&[f32]> = rows.by_ref().take(count).collect();
            let values = self.finish(&mine);
            if values.iter().any(|x| !x.is_finite()) {
                return Err(Error::NotFinite(model.why_not_finite(ids)));
            }
            out[i] = Some(Embedding {
                values,
                tokens: ids.len(),
                truncated: *truncated,
            });
        }
        drop(rows);
        caches.into_iter().for_each(|c| kv.release(c));
        Ok(())
    }

    /// Makes the vector of the states that are pooled.
    fn finish(&self, states: &[&[f32]]) -> Vec<f32> {
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
        if dimensions < self.values.len() {
            self.values.truncate(dimensions);
            normalise(&mut self.values);
        }
    }
}

/// The pooling that a config.json says.
fn pooling(path: &Path, hidden: usize) -> Result<Pooling> {
    let settings = json(path)?.ok_or_else(|| damaged(path, "is missing"))?;
    if let Some(width) = settings["word_embedding_dimension"].as_u64() {
        if width != hidden as u64 {
            let says = format_args!("says {width} values, but the model has {hidden}");
            return Err(damaged(path, says));
        }
    }
    let is = |key: &str| settings[key].as_bool().unwrap_or(false);
    let all = [
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_cls_token", Some(Pooling::First)),
        ("pooling_mode_lasttoken", Some(Pooling::Last)),
        ("pooling_mode_max_tokens", None),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_weightedmean_tokens", None),
    ];
    let mut named = all.iter().filter(|(key, _)| is(key));
    let found = match settings["pooling_mode"].as_str() {
        Some(name) => Pooling::named(name).or((name == "lasttoken").then_some(Pooling::Last)),
        None => named.next().and_then(|(_, p)| *p),
    };
    match (found, named.next()) {
        (Some(pooling), None) => Ok(pooling),
        _ => Err(damaged(
            path,
            "asks for a pooling other than mean, cls or lasttoken alone, which is not supported",
        )),
    }
}

/// The dense layer in a folder.
fn dense_of(folder: &Path, inputs: usize) -> Result<Dense> {
    let path = folder.join("config.json");
    let settings = json(&path)?.ok_or_else(|| damaged(&path, "is missing"))?;
    let function = settings["activation_function"]
        .as_str()
        .unwrap_or("Identity");
    let tanh = match function.rsplit('.').next().unwrap_or_default() {
        "Identity" => false,
        "Tanh" => true,
        other => {
            return Err(damaged(
                &path,
                format_args!("activation_function is {other}; known are Identity and Tanh"),
            ))
        }
    };
    let store = Store::open(&folder.join("model.safetensors"))?;
    let bias = settings["bias"]
        .as_bool()
        .unwrap_or(true)
        .then_some("linear.bias");
    dense(&store, "linear.weight", bias, inputs, tanh)
}

fn dense(
    store: &Store,
    weights: &str,
    bias: Option<&str>,
    inputs: usize,
    tanh: bool,
) -> Result<Dense> {
    let t = store.tensor(weights)?;
    let wrong = |what: &str| damaged(store.path(), format_args!("the tensor {weights} {what}"));
    let outputs = match t.info.shape[..] {
        [outputs, n] if n == inputs && (1..=WIDEST).contains(&outputs) => outputs,
        _ => {
            return Err(wrong(&format!(
                "has the shape {:?}, but {inputs} values are put in",
                t.info.shape
            )))
        }
    };
    let Some(bytes) = t.dtype.row_bytes(inputs) else {
        return Err(wrong("has rows of no whole number of blocks"));
    };
    let mut values = vec![0.0; outputs * inputs];
    for (row, out) in t
        .data
        .chunks_exact(bytes)
        .zip(values.chunks_exact_mut(inputs))
    {
        decode_row(t.dtype, row, out);
    }
    let bias = match bias {
        None => Vec::new(),
        Some(name) => {
            let t = store.tensor(name)?;
            if t.info.shape[..] != [outputs] {
                return Err(wrong("and its bias have different sizes"));
            }
            let mut out = vec![0.0; outputs];
            decode_row(t.dtype, t.data, &mut out);
            out
        }
    };
    Ok(Dense {
        weights: values,
        bias,
        tanh,
    })
}

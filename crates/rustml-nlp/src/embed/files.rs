//! What the files of a model say of its vectors.

use super::dense::{dense, dense_of};
use super::{Embedder, Pooling};
use crate::error::{Error, Result};
use rustml_io::Store;
use serde_json::Value;
use std::path::Path;

pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Embedding(format!("{}: {what}", path.display()))
}

pub(crate) fn json(path: &Path) -> Result<Option<Value>> {
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
impl Embedder {
    pub(super) fn read_gguf(&mut self, store: &Store, arch: &str) -> Result<()> {
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
        let mut width = self.model.spec().hidden;
        for name in ["dense_2.weight", "dense_3.weight"] {
            if store.find(name).is_some() {
                let dense = dense(store, name, None, width, false)?;
                width = dense.weights.len() / width;
                self.dense.push(dense);
            }
        }
        Ok(())
    }

    pub(super) fn read_directory(&mut self, directory: &Path, hidden: usize) -> Result<()> {
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

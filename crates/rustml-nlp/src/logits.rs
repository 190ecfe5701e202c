//! The logits of every position of a text, for comparing and measuring.

use crate::error::{Error, Result};
use crate::model::{
    available_threads, context, has_memory, load_weights, LoadOptions, Model, STEP_ROWS,
};
use rustml_engine::Refusal;
use rustml_io::Store;
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, KvType, Output};
use rustml_trace::{Detail, Recorder};
use std::path::Path;

/// Bytes of logits that are computed at a time, if one row is not more.
const LOGIT_BYTES: usize = 32 << 20;

/// The weights of a model without its tokenizer, for tokens that are known by
/// their ids.
pub struct Weights {
    model: rustml_model::Model,
    context: usize,
    kv_type: KvType,
}

impl Weights {
    /// Loads the model at `path`, which needs no tokenizer.
    ///
    /// # Errors
    /// If it cannot be read, or not be run here.
    pub fn open(
        path: &Path,
        options: &LoadOptions,
        progress: rustml_model::Progress,
    ) -> Result<Weights> {
        let store = Store::open(path)?;
        has_memory(&store, options)?;
        let threads = options.threads.unwrap_or_else(available_threads);
        let team = rustml_model::team(threads)?;
        let model = load_weights(&store, options.quantize, team, progress)?;
        Ok(Weights {
            context: context(path, options.context, model.spec())?,
            kv_type: options.kv_type.unwrap_or(KvType::F16),
            model,
        })
    }

    /// Weights and architecture.
    pub fn model(&self) -> &rustml_model::Model {
        &self.model
    }

    /// Rows and columns of what [`Weights::logits`] gives for so many tokens: for each the
    /// vocabulary, or for all of them the labels of a classifier.
    pub fn shape(&self, tokens: usize) -> [usize; 2] {
        let spec = self.model.spec();
        let labels = spec.classifier.map(|c| [1, c.labels]);
        labels.unwrap_or([tokens, spec.vocab])
    }

    /// As [`Model::logits`].
    ///
    /// # Errors
    /// As there.
    pub fn logits(&self, ids: &[u32], sink: &mut dyn FnMut(&[f32]) -> bool) -> Result<()> {
        logits(&self.model, self.context, self.kv_type, ids, sink)
    }
}

impl Model {
    /// Computes the logits that follow each of `ids`, or of a classifier's labels. `sink` gets them in
    /// order, `[some rows, vocabulary]` at a time; when it returns false, the
    /// rest is not computed.
    ///
    /// With keys and values in single precision
    /// ([`LoadOptions::kv_type`](crate::LoadOptions)) and weights as they are
    /// in the file, these are the model's own numbers; they are computed as a
    /// prompt's, where that makes a difference. Large vocabularies need no
    /// large memory: rows are computed in chunks.
    ///
    /// # Errors
    /// If there are no ids, more than the context holds, or one that is outside the
    /// vocabulary, if the logits are no finite numbers, or the memory cannot be had.
    pub fn logits(&self, ids: &[u32], sink: &mut dyn FnMut(&[f32]) -> bool) -> Result<()> {
        logits(self.model(), self.context(), self.kv_type(), ids, sink)
    }
}

fn logits(
    model: &rustml_model::Model,
    context: usize,
    kv_type: KvType,
    ids: &[u32],
    sink: &mut dyn FnMut(&[f32]) -> bool,
) -> Result<()> {
    let (spec, prompt) = (model.spec(), ids.len());
    let vocab = spec.vocab;
    if spec.head.is_none() && spec.classifier.is_none() {
        let (path, arch) = (model.path().to_owned(), model.arch());
        return Err(rustml_model::Error::NoHead { path, arch }.into());
    }
    if prompt == 0 {
        return Err(Refusal::EmptyPrompt.into());
    }
    if prompt > context {
        return Err(Refusal::PromptTooLong { prompt, context }.into());
    }
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Refusal::UnknownToken { id, vocab }.into());
    }
    let rows = match spec.classifier {
        Some(_) => prompt,
        None => (LOGIT_BYTES / (4 * vocab)).clamp(1, STEP_ROWS).min(prompt),
    };
    let mut kv = KvPool::new(spec, prompt, kv_type)?;
    let capacity = Capacity {
        rows,
        logit_rows: rows,
    };
    let mut exec = Exec::new(model, capacity, Recorder::new(Detail::Off));
    let mut sequence = KvSequence::default();
    let fits = kv.reserve(&mut sequence, prompt);
    assert!(fits, "the pool was made for this sequence");
    sequence.set_text_len(prompt);
    for chunk in ids.chunks(rows) {
        let mut batch = Batch::default();
        let output = match spec.classifier {
            Some(_) => Output::Hidden(prompt),
            None => Output::Logits(chunk.len()),
        };
        batch.push(&sequence, chunk, prompt, output);
        let outputs = model.forward(&batch, &mut kv, &mut exec);
        let mut finite = true;
        let mut give = |logits: &[f32]| {
            finite = logits.iter().all(|x| x.is_finite());
            finite && sink(logits)
        };
        let states: Vec<&[f32]> = outputs.hidden().collect();
        let more = match model.scores(&states) {
            Some(scores) => give(&scores),
            None => outputs.logits().all(give),
        };
        if !finite {
            return Err(Error::NotFinite(model.why_not_finite(ids)));
        }
        sequence.advance(chunk.len());
        if !more {
            break;
        }
    }
    kv.release(sequence);
    Ok(())
}

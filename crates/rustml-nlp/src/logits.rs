//! The logits of every position of a text, for comparing and measuring.

use crate::error::Result;
use crate::model::{Model, STEP_ROWS};
use rustml_engine::Refusal;
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence};
use rustml_trace::{Detail, Recorder};

/// Bytes of logits that are computed at a time, if one row is not more.
const LOGIT_BYTES: usize = 32 << 20;

impl Model {
    /// Computes the logits that follow each of `ids`. `sink` gets them in
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
    /// If there are no ids, more than the context holds, or one that is
    /// outside the vocabulary, or the memory cannot be had.
    pub fn logits(&self, ids: &[u32], sink: &mut dyn FnMut(&[f32]) -> bool) -> Result<()> {
        let (model, context) = (self.model(), self.context());
        let (spec, prompt) = (model.spec(), ids.len());
        let vocab = spec.vocab;
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt.into());
        }
        if prompt > context {
            return Err(Refusal::PromptTooLong { prompt, context }.into());
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Refusal::UnknownToken { id, vocab }.into());
        }
        let rows = (LOGIT_BYTES / (4 * vocab)).clamp(1, STEP_ROWS).min(prompt);
        let mut kv = KvPool::new(spec, prompt, self.kv_type())?;
        let capacity = Capacity {
            rows,
            logit_rows: rows,
        };
        let mut exec = Exec::new(model, capacity, Recorder::new(Detail::Off));
        let mut sequence = KvSequence::default();
        let fits = kv.reserve(&mut sequence, prompt);
        assert!(fits, "the pool was made for this sequence");
        for chunk in ids.chunks(rows) {
            let mut batch = Batch::default();
            batch.push_as(true, &sequence, chunk, chunk.len());
            let more = sink(model.forward(&batch, &mut kv, &mut exec));
            sequence.advance(chunk.len());
            if !more {
                break;
            }
        }
        kv.release(sequence);
        Ok(())
    }
}

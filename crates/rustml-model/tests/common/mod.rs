//! What the tests of whole models share.
#![allow(dead_code)]

use rustml_io::Store;
use rustml_model::{team, Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model, Quantize};
use rustml_trace::{Detail, Recorder};
use std::path::{Path, PathBuf};

/// A file of the repository.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// A model with its cache, ready to step.
pub struct Runner {
    pub model: Model,
    pub kv: KvPool,
    pub exec: Exec,
}

impl Runner {
    pub fn open(path: &Path, quantize: Quantize, kv_type: KvType, threads: usize) -> Runner {
        let store = Store::open(path).unwrap_or_else(|e| panic!("{e}"));
        let team = team(threads).unwrap();
        let model =
            Model::load(&store, quantize, team, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
        let positions = model.spec().context.min(1024);
        let kv = KvPool::new(model.spec(), positions, kv_type).unwrap();
        let capacity = Capacity {
            rows: 256,
            logit_rows: 256,
        };
        let exec = Exec::new(&model, capacity, Recorder::new(Detail::Off));
        Runner { model, kv, exec }
    }

    /// One sequence's next tokens; the logits of all of them.
    pub fn feed(&mut self, sequence: &mut KvSequence, ids: &[u32]) -> Vec<f32> {
        assert!(self.kv.reserve(sequence, ids.len()));
        let mut batch = Batch::default();
        batch.push(sequence, ids, ids.len());
        let logits = self
            .model
            .forward(&batch, &mut self.kv, &mut self.exec)
            .to_vec();
        sequence.advance(ids.len());
        logits
    }

    /// Logits of every position of a new sequence, fed in chunks.
    pub fn logits(&mut self, ids: &[u32], chunk: usize) -> Vec<f32> {
        let mut sequence = KvSequence::default();
        let mut out = Vec::new();
        for ids in ids.chunks(chunk) {
            out.extend(self.feed(&mut sequence, ids));
        }
        self.kv.release(sequence);
        out
    }

    /// Greedy continuation, with the logits each token was chosen from.
    pub fn greedy(&mut self, prompt: &[u32], tokens: usize) -> Vec<(u32, Vec<f32>)> {
        let vocab = self.model.spec().vocab;
        let mut sequence = KvSequence::default();
        let mut logits = self.feed(&mut sequence, prompt);
        let mut out = Vec::new();
        for _ in 0..tokens {
            let last = logits[logits.len() - vocab..].to_vec();
            let id = argmax(&last);
            out.push((id, last));
            logits = self.feed(&mut sequence, &[id]);
        }
        self.kv.release(sequence);
        out
    }
}

pub fn argmax(x: &[f32]) -> u32 {
    let best = x.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

//! Where a model's values stop being finite numbers.
//!
//! Nothing is looked for until logits are no numbers; then time does not matter.

use crate::batch::{Batch, Output};
use crate::error::show;
use crate::exec::{Capacity, Exec};
use crate::kv::{KvPool, KvSequence};
use crate::model::Model;
use rustml_io::{Store, TensorInfo};
use rustml_kernels::attention::KvType;
use rustml_kernels::formats::decode_row;
use rustml_trace::{Detail, Recorder};
use std::path::Path;

/// Tokens of a text that are computed again at most.
const MOST: usize = 512;

impl Model {
    /// One sentence about why the logits after `ids` are no finite numbers: the first
    /// tensor of the file that holds such a value, or the first layer that gives one.
    pub fn why_not_finite(&self, ids: &[u32]) -> String {
        if let Some(name) = bad_tensor(self.path()) {
            return format!(
                "{}: the tensor {} holds a value that is not a finite number; the file is damaged",
                self.path().display(),
                show(&name)
            );
        }
        let path = self.path().display();
        match self.first_not_finite(ids) {
            Some((layer, part)) => format!(
                "{path}: in layer {layer}, values are not finite numbers any more after the {part}, \
                 though all weights are"
            ),
            None => format!("{path}: the logits are not finite numbers, though all layers' values are"),
        }
    }

    /// The first layer, and its part, after which a value of the stream is no finite number.
    fn first_not_finite(&self, ids: &[u32]) -> Option<(usize, &'static str)> {
        let ids = &ids[..ids.len().min(MOST)];
        let capacity = Capacity {
            rows: ids.len(),
            logit_rows: 1,
        };
        let mut kv = KvPool::new(self.spec(), ids.len(), KvType::F32).ok()?;
        let mut exec = Exec::new(self, capacity, Recorder::new(Detail::Off));
        exec.watch_finite();
        let mut cache = KvSequence::default();
        if !kv.reserve(&mut cache, ids.len()) {
            return None;
        }
        let mut batch = Batch::default();
        // All of the last layer's rows, too.
        batch.push(&cache, ids, 0, Output::Hidden(ids.len().min(1)));
        self.forward(&batch, &mut kv, &mut exec);
        kv.release(cache);
        exec.not_finite()
    }
}

/// The first tensor with a value that is no finite number, in the order of layers.
fn bad_tensor(path: &Path) -> Option<String> {
    let store = Store::open(path).ok()?;
    let mut all: Vec<&TensorInfo> = store.tensors().iter().collect();
    all.sort_by_key(|t| layer_of(&t.name));
    let bad = all.into_iter().find(|info| {
        let Ok(tensor) = store.tensor(&info.name) else {
            return false;
        };
        let cols = info.shape.last().copied().unwrap_or(1);
        let Some(bytes) = tensor.dtype.row_bytes(cols).filter(|b| *b > 0) else {
            return false;
        };
        let mut row = vec![0.0; cols];
        tensor.data.chunks_exact(bytes).any(|data| {
            decode_row(tensor.dtype, data, &mut row);
            row.iter().any(|x| !x.is_finite())
        })
    });
    bad.map(|info| info.name.clone())
}

/// The number in a name, which is that of the layer; what has none comes first if it is
/// read before the layers, else last.
fn layer_of(name: &str) -> usize {
    let number = name.split('.').find_map(|part| part.parse::<usize>().ok());
    let first = ["token_embd", "embed", "wte", "wpe", "position"];
    match number {
        Some(layer) => layer + 1,
        None if first.iter().any(|f| name.contains(f)) => 0,
        None => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::layer_of;

    #[test]
    fn tensors_are_searched_in_the_order_of_layers() {
        let names = [
            "token_embd.weight",
            "model.layers.0.mlp.up_proj.weight",
            "blk.1.ffn_up.weight",
            "h.12.ln_1.weight",
            "output_norm.weight",
        ];
        let order = names.map(layer_of);
        assert!(order.is_sorted() && order[0] == 0, "{order:?}");
    }
}

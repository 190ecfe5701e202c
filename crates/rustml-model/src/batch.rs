//! What one step computes.

use crate::kv::KvSequence;

/// Rows of many sequences together: chunks of prompts and single tokens.
///
/// The batch is *ragged*: matrix products see all rows alike, only attention
/// looks at the spans. A row's position is that of its sequence's cache.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Which rows belong to which sequence, in order, without gaps.
    pub spans: Vec<Span<'a>>,
    /// The rows whose logits are wanted, ascending.
    pub logit_rows: Vec<usize>,
}

/// The rows of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Its cache, with room reserved for the rows; the first row's position
    /// is the number of positions it holds.
    pub cache: &'a KvSequence,
    /// How many rows.
    pub rows: usize,
    /// Whether they are of a prompt, and may be computed as such; see
    /// [`Model::prompts_apart`](crate::Model::prompts_apart).
    pub prompt: bool,
}

impl<'a> Batch<'a> {
    /// Adds the next tokens of a sequence, and asks for the logits of the
    /// last `logits` of them.
    pub fn push(&mut self, cache: &'a KvSequence, ids: &[u32], logits: usize) {
        self.push_as(false, cache, ids, logits);
    }

    /// The same of tokens that are a prompt's, or not.
    pub fn push_as(&mut self, prompt: bool, cache: &'a KvSequence, ids: &[u32], logits: usize) {
        self.spans.push(Span {
            cache,
            rows: ids.len(),
            prompt,
        });
        self.ids.extend_from_slice(ids);
        let end = self.ids.len();
        self.logit_rows.extend(end - logits.min(ids.len())..end);
    }
}

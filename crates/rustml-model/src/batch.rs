//! What one step computes, and what it gives.

use crate::kv::KvSequence;

/// Rows of many sequences together: prefill rows and decode rows.
///
/// The batch is *ragged*: matrix products see all rows alike, only attention
/// looks at the spans. A row's position is that of its sequence's cache.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Type of each row, as far as there are any; the others are of the first type.
    pub types: Vec<u32>,
    /// Which rows belong to which sequence, in order, without gaps.
    pub spans: Vec<Span<'a>>,
}

/// The rows of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Its cache, with room reserved for the rows; the first row's position
    /// is the number of positions it holds.
    pub cache: &'a KvSequence,
    /// How many rows.
    pub rows: usize,
    /// Tokens of the sequence's prompt. Rows at positions below it are prefill
    /// rows, however the prompt is cut into steps; all others are decode rows.
    pub prompt_len: usize,
    /// What the step gives for these rows.
    pub output: Output,
}

/// What a step gives for the rows of a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Nothing but what the cache holds then.
    #[default]
    None,
    /// The logits of the last so many rows.
    Logits(usize),
    /// The hidden states of the last so many rows, after the final norm.
    Hidden(usize),
}

impl Output {
    /// How many of `rows` rows are wanted.
    pub(crate) fn wanted(self, rows: usize) -> usize {
        match self {
            Output::None => 0,
            Output::Logits(n) | Output::Hidden(n) => n.min(rows),
        }
    }
}

impl<'a> Batch<'a> {
    /// Adds the next tokens of a sequence with a prompt of `prompt_len` tokens.
    pub fn push(&mut self, cache: &'a KvSequence, ids: &[u32], prompt_len: usize, output: Output) {
        self.spans.push(Span {
            cache,
            rows: ids.len(),
            prompt_len,
            output,
        });
        self.ids.extend_from_slice(ids);
    }

    /// The same of a whole text whose tokens have these types; none are all of the first.
    pub fn push_typed(
        &mut self,
        cache: &'a KvSequence,
        (ids, types): (&[u32], &[u32]),
        output: Output,
    ) {
        if !types.is_empty() {
            self.types.resize(self.ids.len(), 0);
            self.types.extend_from_slice(types);
        }
        self.push(cache, ids, ids.len(), output);
    }

    /// The type of a row.
    pub(crate) fn type_of(&self, row: usize) -> usize {
        self.types.get(row).map_or(0, |&t| t as usize)
    }

    /// Rows for which something is given.
    pub fn outputs(&self) -> usize {
        self.spans.iter().map(|s| s.output.wanted(s.rows)).sum()
    }
}

/// What a step gave, row by row in the order of the batch.
#[derive(Clone, Debug)]
pub struct Outputs<'e> {
    /// `[rows, vocabulary]`, in the order in which they were computed.
    pub(crate) logits: &'e [f32],
    pub(crate) vocab: usize,
    /// Which row of `logits` is the next one's.
    pub(crate) logit_order: Vec<usize>,
    /// `[rows, hidden]`, likewise.
    pub(crate) hidden: &'e [f32],
    pub(crate) width: usize,
    pub(crate) hidden_order: Vec<usize>,
}

impl<'e> Outputs<'e> {
    /// The logits of each row whose logits were wanted.
    pub fn logits(&self) -> impl ExactSizeIterator<Item = &'e [f32]> + '_ {
        let (all, width) = (self.logits, self.vocab);
        self.logit_order
            .iter()
            .map(move |i| &all[i * width..][..width])
    }

    /// The hidden states of each row whose hidden states were wanted.
    pub fn hidden(&self) -> impl ExactSizeIterator<Item = &'e [f32]> + '_ {
        let (all, width) = (self.hidden, self.width);
        self.hidden_order
            .iter()
            .map(move |i| &all[i * width..][..width])
    }
}

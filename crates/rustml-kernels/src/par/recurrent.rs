//! Operations on the states of sequences.

use super::{Shared, Team};
use crate::recurrent::{Convolve, Rule, Scan, STATE_COLUMNS};
use rustml_simd::with_isa;
use std::cell::Cell;
use std::marker::PhantomData;

/// One sequence's rows in a step, and where its state is.
#[derive(Clone, Copy, Debug)]
pub struct StateSpan {
    /// First row in the step.
    pub row: usize,
    /// Rows.
    pub rows: usize,
    /// The slot of its state.
    pub slot: usize,
}

/// A layer's part of the states of all sequences, borrowed for one operation.
///
/// Operations write through a shared reference, one at a time.
pub struct States<'a> {
    memory: *mut f32,
    slots: usize,
    /// Values from one slot to the next.
    stride: usize,
    /// Values of the layer.
    len: usize,
    _memory: PhantomData<(&'a mut [u8], Cell<()>)>,
}

impl<'a> States<'a> {
    /// A layer's part of `memory`, which holds slots of `stride` bytes: `len` values
    /// that begin `at` bytes into each.
    ///
    /// # Panics
    /// If the memory is no whole slots, or the part does not lie within one or does not
    /// begin on a cache line.
    pub fn new(memory: &'a mut [u8], stride: usize, at: usize, len: usize) -> Self {
        let end = len.checked_mul(4).and_then(|n| n.checked_add(at));
        assert!(end.is_some_and(|end| end <= stride));
        assert!(memory.len().is_multiple_of(stride));
        let lines = [memory.as_ptr() as usize, stride, at];
        assert!(lines.iter().all(|n| n.is_multiple_of(64)));
        States {
            slots: memory.len() / stride,
            memory: memory.as_mut_ptr().wrapping_add(at).cast(),
            stride: stride / 4,
            len,
            _memory: PhantomData,
        }
    }

    /// Asserts that the spans lie within the rows, follow each other, and have slots of
    /// their own that exist. Rows of one sequence may be in two spans, one after the other.
    fn check(&self, spans: &[StateSpan], rows: usize) {
        let mut next = 0;
        for (i, s) in spans.iter().enumerate() {
            assert_eq!(s.row, next, "spans follow each other");
            assert!(s.rows <= rows - next, "spans are no longer than the step");
            next += s.rows;
            assert!(s.slot < self.slots, "a slot that exists");
            let others = spans[..i].iter().filter(|o| o.rows > 0 && s.rows > 0);
            assert!(
                others.clone().all(|o| o.slot != s.slot),
                "a sequence's rows are one span"
            );
        }
        assert_eq!(next, rows, "every row is in a span");
    }
}

/// A convolution over the last inputs of each channel.
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    /// `[taps, channels]`, the oldest input's first.
    pub weights: &'a [f32],
    /// One for each channel, or nothing.
    pub bias: &'a [f32],
    /// Inputs that count, the row's own included.
    pub taps: usize,
    /// Whether the result goes through SiLU.
    pub silu: bool,
}

/// Values of a layer's state that a convolution takes.
pub fn convolution_state(taps: usize, channels: usize) -> usize {
    (taps - 1) * channels.next_multiple_of(STATE_COLUMNS)
}

/// Channels that a thread takes at a time.
const CHANNELS: usize = 256;

/// Convolves rows of `channels` values with those before them, the last of which are the
/// first values of the layer's state.
///
/// # Panics
/// If lengths do not fit, or two spans have one slot.
pub fn convolve_rows(
    team: &Team,
    states: &States,
    spans: &[StateSpan],
    conv: &Convolution,
    x: &[f32],
    out: &mut [f32],
) {
    assert!(conv.taps > 0 && conv.weights.len().is_multiple_of(conv.taps));
    let channels = conv.weights.len() / conv.taps;
    let rows = x.len() / channels.max(1);
    assert!(x.len() == rows * channels && out.len() == x.len());
    assert!(conv.bias.is_empty() || conv.bias.len() == channels);
    assert!(convolution_state(conv.taps, channels) <= states.len);
    states.check(spans, rows);
    let state_stride = channels.next_multiple_of(STATE_COLUMNS);
    let blocks = channels.div_ceil(CHANNELS);
    let out = Shared(out.as_mut_ptr());
    let (slots, states_stride) = (Shared(states.memory), states.stride);
    team.pool.run(spans.len() * blocks, &|task, _| {
        let (span, block) = (&spans[task / blocks], task % blocks);
        let first = block * CHANNELS;
        let n = CHANNELS.min(channels - first);
        // SAFETY: each task has its own channels of its own sequence, and all lengths
        // were checked above.
        let kernel = unsafe {
            Convolve {
                x: x.as_ptr().add(span.row * channels + first),
                out: out.at(span.row * channels + first),
                stride: channels,
                rows: span.rows,
                state: slots.at(span.slot * states_stride + first),
                state_stride,
                weights: conv.weights.as_ptr().add(first),
                weight_stride: channels,
                taps: conv.taps,
                bias: match conv.bias {
                    [] => &[],
                    bias => &bias[first..first + n],
                },
                silu: conv.silu,
                channels: n,
            }
        };
        if span.rows > 0 {
            with_isa(team.isa, kernel);
        }
    });
}

/// The heads of a scan, each with a matrix of `key_dim` by `value_dim`.
#[derive(Clone, Copy, Debug)]
pub struct ScanShape {
    /// Heads, which each have values of their own.
    pub heads: usize,
    /// Heads of keys and queries, which several heads share.
    pub key_heads: usize,
    /// Values of a key, and of a query.
    pub key_dim: usize,
    /// Values of a value.
    pub value_dim: usize,
    /// Whether head `h` has the key head `h % key_heads`; else neighbours share one.
    pub tiled: bool,
}

impl ScanShape {
    /// Values of a layer's state that these heads take.
    pub fn state(&self) -> usize {
        let columns = self.value_dim.next_multiple_of(STATE_COLUMNS);
        self.heads * self.key_dim * columns
    }

    fn key_head(&self, head: usize) -> usize {
        match self.tiled {
            true => head % self.key_heads,
            false => head / (self.heads / self.key_heads),
        }
    }
}

/// What a scan reads.
#[derive(Clone, Copy)]
pub struct ScanInput<'a> {
    /// `[rows, width]`
    pub x: &'a [f32],
    /// Values of a row.
    pub width: usize,
    /// Where in a row the keys begin, `[key_heads, key_dim]`.
    pub keys: usize,
    /// The queries, likewise.
    pub queries: usize,
    /// The values, `[heads, value_dim]`.
    pub values: usize,
    /// What a matrix is multiplied by, `[rows, heads]`.
    pub decay: &'a [f32],
    /// What the value is multiplied by, likewise.
    pub rate: &'a [f32],
    /// Factor of the value in each head's result, or nothing.
    pub skip: &'a [f32],
    /// What is added to a matrix.
    pub rule: Rule,
}

/// Takes the rows of each sequence through its heads' matrices, which lie `at` values into
/// the layer's state: a matrix decays, the key by the value is added, and the result is
/// what the matrix then has for the query. `out` is `[rows, heads * value_dim]`.
///
/// # Panics
/// If lengths do not fit, or two spans have one slot.
pub fn scan_rows(
    team: &Team,
    (states, at): (&States, usize),
    spans: &[StateSpan],
    shape: &ScanShape,
    input: &ScanInput,
    out: &mut [f32],
) {
    let ScanShape {
        heads,
        key_heads,
        key_dim,
        value_dim,
        ..
    } = *shape;
    assert!(key_heads > 0 && heads.is_multiple_of(key_heads));
    let rows = input.x.len() / input.width.max(1);
    assert_eq!(input.x.len(), rows * input.width);
    let ends = [
        (input.keys, key_heads * key_dim),
        (input.queries, key_heads * key_dim),
        (input.values, heads * value_dim),
    ];
    assert!(ends.iter().all(|(first, n)| first + n <= input.width));
    assert!(input.decay.len() == rows * heads && input.rate.len() == rows * heads);
    assert!(input.skip.is_empty() || input.skip.len() == heads);
    assert_eq!(out.len(), rows * heads * value_dim);
    assert!(at.is_multiple_of(STATE_COLUMNS) && at + shape.state() <= states.len);
    states.check(spans, rows);
    let blocks = value_dim.div_ceil(STATE_COLUMNS);
    let out = Shared(out.as_mut_ptr());
    let (slots, states_stride) = (Shared(states.memory), states.stride);
    team.pool.run(spans.len() * heads * blocks, &|task, _| {
        let (span, head, block) = (
            &spans[task / (heads * blocks)],
            task / blocks % heads,
            task % blocks,
        );
        if span.rows == 0 {
            return;
        }
        let (row, first) = (span.row, block * STATE_COLUMNS);
        let key = shape.key_head(head) * key_dim;
        let each = row * heads + head;
        // SAFETY: each task has its own columns of its own head of its own sequence, and
        // all lengths were checked above.
        let kernel = unsafe {
            let x = input.x.as_ptr().add(row * input.width);
            Scan {
                state: slots.at(span.slot * states_stride
                    + at
                    + (head * blocks + block) * key_dim * STATE_COLUMNS),
                key: x.add(input.keys + key),
                query: x.add(input.queries + key),
                value: x.add(input.values + head * value_dim + first),
                stride: input.width,
                key_dim,
                columns: STATE_COLUMNS.min(value_dim - first),
                decay: &input.decay[each..],
                rate: &input.rate[each..],
                heads,
                rule: input.rule,
                skip: input.skip.get(head).copied().unwrap_or(0.0),
                out: out.at(row * heads * value_dim + head * value_dim + first),
                out_stride: heads * value_dim,
                rows: span.rows,
            }
        };
        with_isa(team.isa, kernel);
    });
}

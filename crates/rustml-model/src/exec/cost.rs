//! What operations have to do, from their shapes alone.
//!
//! Bytes are those of weights and cache: every byte of a weight counts once a
//! step, however many rows share it, and every cached position once for each
//! sequence that sees it. Activations stay in the processor's caches and do
//! not count; nor do the few operations that are not in a product.

use crate::spec::Attention;
use crate::weights::NormWeights;
use rustml_io::DType;
use rustml_kernels::par::{self, Cache, SpanView};
use rustml_kernels::{Acts, Forms, Matrix, Phase};
use rustml_trace::Cost;

/// Bytes alone.
pub fn bytes(bytes: usize) -> Cost {
    Cost {
        bytes: bytes as u64,
        ..Cost::default()
    }
}

/// The sum.
pub fn total(costs: impl IntoIterator<Item = Cost>) -> Cost {
    let mut total = Cost::default();
    costs.into_iter().for_each(|cost| total += cost);
    total
}

/// All rows of `acts` times a matrix, plus a bias.
pub fn product(acts: &Acts, m: &Matrix, bias: Option<&[f32]>) -> Cost {
    let operations = 2 * (acts.rows() * m.rows() * m.cols()) as u64;
    let mut cost = bytes(m.bytes() + bias.map_or(0, size_of_val));
    let tiles = acts.forms().contains(Forms::TILES) && m.prefill_forms() == Forms::TILES;
    *match m.dtype() {
        _ if tiles => &mut cost.bf16_ops,
        DType::BF16 => &mut cost.bf16_ops,
        dtype if dtype.is_float() => &mut cost.flops,
        _ => &mut cost.int_ops,
    } = operations;
    cost
}

/// The products of `pairs` of a row and an expert, of which so many bytes were read.
pub fn experts(e: &par::Experts, read: usize, pairs: usize, phase: Phase) -> Cost {
    let matrices = e.gate.into_iter().chain([e.up, e.down]);
    let mut cost = bytes(read);
    for m in matrices {
        let operations = 2 * (pairs * m.rows() * m.cols()) as u64;
        *match m.dtype() {
            _ if m.forms(phase) == Forms::TILES => &mut cost.bf16_ops,
            DType::BF16 => &mut cost.bf16_ops,
            dtype if dtype.is_float() => &mut cost.flops,
            _ => &mut cost.int_ops,
        } += operations;
    }
    cost
}

/// Any number of rows, normalised.
pub fn norm(w: &NormWeights) -> Cost {
    bytes(size_of_val(&*w.weight) + size_of_val(&*w.bias))
}

/// Rows of a table, looked up.
pub fn look_up(rows: usize, m: &Matrix) -> Cost {
    Cost {
        bytes: (rows * m.dtype().row_bytes(m.cols()).unwrap_or(0)) as u64,
        flops: (rows * m.cols()) as u64,
        ..Cost::default()
    }
}

/// Keys and values of `rows` positions, stored.
pub fn store(rows: usize, cache: &Cache) -> Cost {
    bytes(rows * cache.position_bytes())
}

/// The scores, or just as well the weighted sums, of attention; of prompts in bfloat16.
pub fn half_of_attention(a: &Attention, cache: &Cache, spans: &[SpanView]) -> Cost {
    let mut cost = Cost::default();
    for s in spans.iter().filter(|s| s.rows > 0) {
        let (read, pairs) = seen(s.first, s.rows, a.window);
        cost += bytes(read * cache.position_bytes() / 2);
        *match s.phase {
            Phase::Prefill => &mut cost.bf16_ops,
            Phase::Decode => &mut cost.flops,
        } += (2 * pairs * a.heads * a.head_dim) as u64;
    }
    cost
}

/// Positions that any of `rows` queries from position `first` on sees, and
/// pairs of a query and a position it sees.
fn seen(first: usize, rows: usize, window: Option<usize>) -> (usize, usize) {
    let last = first + rows;
    let window = window.unwrap_or(usize::MAX);
    let read = last.min(window.saturating_add(rows - 1));
    let pairs = (first..last).map(|p| (p + 1).min(window)).sum();
    (read, pairs)
}

#[cfg(test)]
mod tests {
    use super::seen;

    #[test]
    fn positions_seen() {
        // Against counting one by one.
        for first in [0, 1, 5, 63, 200] {
            for rows in [1, 2, 8, 70] {
                for window in [None, Some(1), Some(8), Some(100), Some(usize::MAX)] {
                    let sees = |p: usize| (p + 1).saturating_sub(window.unwrap_or(usize::MAX))..=p;
                    let read = (0..first + rows)
                        .filter(|k| (first..first + rows).any(|p| sees(p).contains(k)));
                    let pairs: usize = (first..first + rows).map(|p| sees(p).count()).sum();
                    assert_eq!(seen(first, rows, window), (read.count(), pairs));
                }
            }
        }
    }
}

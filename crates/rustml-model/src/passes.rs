//! A step as one or two passes over the weights.
//!
//! Some CPUs compute prefill rows in another arithmetic than decode rows, since
//! that is faster and no less exact. Which rows are which follows from their
//! positions alone, so the bits of a row never depend on how its prompt was cut
//! into steps or on who shares them. This module decides; nobody outside this
//! crate needs to know.

use crate::batch::Span;
use rustml_kernels::par::Team;
use rustml_kernels::Phase;

/// Which operations compute prefill rows in an arithmetic of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefillNumerics {
    /// None: prefill and decode are the same.
    Same,
    /// Attention, in bfloat16. Products are the same, so a pass holds both.
    Attention,
    /// Attention and products, in bfloat16. A pass holds rows of one phase.
    Everything,
}

impl PrefillNumerics {
    /// Those of a model; `precise` says that all weights are in single or half
    /// precision, and nothing should be rounded more than these.
    pub fn of(team: &Team, precise: bool) -> PrefillNumerics {
        match (
            precise,
            team.prefill_attention_bf16(),
            team.prefill_products_bf16(),
        ) {
            (true, ..) | (_, false, _) => PrefillNumerics::Same,
            (_, true, false) => PrefillNumerics::Attention,
            (_, true, true) => PrefillNumerics::Everything,
        }
    }
}

/// Rows that are computed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The arithmetic of the products.
    pub phase: Phase,
    /// Pieces of the spans.
    pub pieces: Vec<Piece>,
}

/// Consecutive rows of one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The span's index in the batch.
    pub span: usize,
    /// The first row, within the span.
    pub first: usize,
    /// Rows.
    pub rows: usize,
    /// The arithmetic of attention.
    pub phase: Phase,
}

/// The part of a [`Span`] that decides.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Position of the first row.
    pub position: usize,
    /// Rows.
    pub rows: usize,
    /// Tokens of the prompt.
    pub prompt_len: usize,
}

impl From<&Span<'_>> for Extent {
    fn from(s: &Span) -> Extent {
        Extent {
            position: s.cache.len(),
            rows: s.rows,
            prompt_len: s.prompt_len,
        }
    }
}

/// The passes of a step: prefill before decode, since decode rows of a sequence
/// attend to its prefill rows. A pass without rows is left out.
pub fn plan(spans: &[Extent], numerics: PrefillNumerics) -> Vec<Pass> {
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for (span, s) in spans.iter().enumerate() {
        let of_prompt = match numerics {
            PrefillNumerics::Same => 0,
            _ => s.prompt_len.saturating_sub(s.position).min(s.rows),
        };
        let piece = |first, rows, phase, to: &mut Vec<Piece>| {
            if rows > 0 {
                to.push(Piece {
                    span,
                    first,
                    rows,
                    phase,
                });
            }
        };
        let apart = numerics == PrefillNumerics::Everything;
        let to = if apart { &mut prefill } else { &mut decode };
        piece(0, of_prompt, Phase::Prefill, to);
        piece(of_prompt, s.rows - of_prompt, Phase::Decode, &mut decode);
    }
    let passes = [(Phase::Prefill, prefill), (Phase::Decode, decode)];
    let passes = passes.into_iter().filter(|(_, pieces)| !pieces.is_empty());
    passes
        .map(|(phase, pieces)| Pass { phase, pieces })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::{Decode, Prefill};
    use PrefillNumerics::{Attention, Everything, Same};

    /// Passes as `(phase, [(span, first, rows, phase)])`.
    type Flat = Vec<(Phase, Vec<(usize, usize, usize, Phase)>)>;

    fn flat(spans: &[(usize, usize, usize)], numerics: PrefillNumerics) -> Flat {
        let extent = |&(position, rows, prompt_len): &(usize, usize, usize)| Extent {
            position,
            rows,
            prompt_len,
        };
        let spans: Vec<_> = spans.iter().map(extent).collect();
        let piece = |p: &Piece| (p.span, p.first, p.rows, p.phase);
        let passes = plan(&spans, numerics).into_iter();
        let pass = |p: Pass| (p.phase, p.pieces.iter().map(piece).collect());
        passes.map(pass).collect()
    }

    #[test]
    fn a_row_is_prefill_by_its_position_alone() {
        // (position, rows, prompt): a decode row, a chunk of a prompt, the last
        // rows of a prompt with two that were generated, and no rows at all.
        let spans = [(9, 1, 5), (64, 32, 200), (8, 4, 10), (3, 0, 8)];
        let whole = [(0, 0, 1, Decode), (1, 0, 32, Decode), (2, 0, 4, Decode)];
        assert_eq!(flat(&spans, Same), [(Decode, whole.to_vec())]);
        let mixed = [
            (0, 0, 1, Decode),
            (1, 0, 32, Prefill),
            (2, 0, 2, Prefill),
            (2, 2, 2, Decode),
        ];
        assert_eq!(flat(&spans, Attention), [(Decode, mixed.to_vec())]);
        let prefill = vec![(1, 0, 32, Prefill), (2, 0, 2, Prefill)];
        let decode = vec![(0, 0, 1, Decode), (2, 2, 2, Decode)];
        let apart = [(Prefill, prefill), (Decode, decode)];
        assert_eq!(flat(&spans, Everything), apart);
    }

    #[test]
    fn passes_without_rows_are_left_out() {
        for numerics in [Same, Attention, Everything] {
            assert_eq!(flat(&[], numerics), []);
            assert_eq!(flat(&[(4, 0, 4)], numerics), []);
        }
        assert_eq!(flat(&[(0, 3, 3)], Everything).len(), 1);
        assert_eq!(flat(&[(7, 1, 3), (5, 8, 2)], Everything).len(), 1);
    }
}

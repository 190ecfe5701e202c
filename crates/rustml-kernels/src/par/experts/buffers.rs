//! What the experts of a step write.

use crate::acts::{Acts, Forms, MOST_ROWS};
use crate::par::Team;

/// Rows up to which experts that compute one of them share what is prepared of it.
pub(super) const FEW_ROWS: usize = 4;

/// Values that a thread may have in hand: as many as are near.
const ROOM: usize = 32 << 10;

/// Outputs of all rows that it may have in hand at least.
const OUTPUTS: usize = 64;

/// Sizes of the largest step.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Rows.
    pub rows: usize,
    /// Experts there are.
    pub experts: usize,
    /// Experts that compute a row.
    pub chosen: usize,
    /// Values of a row.
    pub hidden: usize,
    /// Values between an expert's projections.
    pub inner: usize,
}

/// Memory for the experts of a step: made once, for the largest. What is not used takes no
/// pages.
pub struct ExpertBuffers {
    /// Of single rows.
    pub(super) singles: Vec<Acts>,
    /// Of each expert that is touched, that with the most rows first: so the `i`th needs
    /// room for no more than that part of them.
    pub(super) inputs: Vec<Acts>,
    /// Between the projections, likewise.
    pub(super) inner: Vec<Acts>,
    /// Of each thread.
    pub(super) scratch: Vec<f32>,
    pub(super) room: usize,
    sizes: ExpertSizes,
}

impl ExpertBuffers {
    /// For steps of these sizes at most, in these forms of the input and of what is between
    /// the projections.
    pub fn new(team: &Team, sizes: ExpertSizes, input: Forms, inner: Forms) -> ExpertBuffers {
        let pairs = sizes.rows * sizes.chosen;
        let slots = 0..sizes.experts.min(pairs);
        let capacity = |slot: usize| sizes.rows.min(pairs / (slot + 1));
        let of = |cols: usize, forms: Forms| {
            let slots = slots.clone();
            slots.map(move |slot| Acts::new(capacity(slot), cols, forms))
        };
        let near = ROOM.max(2 * OUTPUTS * sizes.rows);
        let room = near.max(MOST_ROWS * sizes.hidden);
        ExpertBuffers {
            singles: (0..sizes.rows.min(FEW_ROWS))
                .map(|_| Acts::new(1, sizes.hidden, input))
                .collect(),
            inputs: of(sizes.hidden, input).collect(),
            inner: of(sizes.inner, inner).collect(),
            scratch: vec![0.0; team.pool.threads() * room],
            room,
            sizes,
        }
    }

    /// Asserts that there is room for a step.
    pub(super) fn check(&self, team: &Team, rows: usize, chosen: usize, widths: (usize, usize)) {
        let most = &self.sizes;
        assert!(rows <= most.rows && chosen <= most.chosen, "more rows");
        assert!(widths.0 <= most.hidden && widths.1 <= most.inner);
        assert!(self.scratch.len() >= team.pool.threads() * self.room);
    }
}

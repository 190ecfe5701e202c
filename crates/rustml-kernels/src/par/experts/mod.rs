//! The feed-forwards of a mixture: every row is computed by a few experts.
//!
//! The rows of a step are sorted by their experts. Each expert that is touched gets its
//! rows' activations, and its weights are read once for all of them; those of others are
//! never read. What a row gets is added up in the order of its experts' numbers, so its
//! bits depend neither on the other rows nor on the number of threads.
//!
//! There are two regions. In the first a thread computes some outputs of an expert's gate
//! and up, activates them and prepares them for the next product. In the second it computes
//! some outputs of all experts' down, one expert after the other, and adds them up.

mod buffers;
mod matrix;
mod region;

pub use buffers::{ExpertBuffers, ExpertSizes};
pub use matrix::{pack_expert, ExpertMatrix, ReadExpertRow};

use super::{Phase, Team, Timing};
use crate::acts::Forms;
use crate::ops::Activation;
use crate::router::{Choice, Router};
use region::{Region, Sorted};

/// The experts of a layer: `down(f(gate x) * up x)`, or `down(f(up x))` without a gate.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    /// The function.
    pub activation: Activation,
    /// `[experts, inner, hidden]`
    pub gate: Option<&'a ExpertMatrix>,
    /// `[experts, inner, hidden]`
    pub up: &'a ExpertMatrix,
    /// `[experts, hidden, inner]`
    pub down: &'a ExpertMatrix,
    /// Whether a row is multiplied by its weight before the expert, not what comes of it.
    pub weight_on_input: bool,
}

impl Experts<'_> {
    /// The forms of the input, and of what is between the projections; see
    /// [`Team::prefill_products_bf16`].
    pub fn forms(&self, phase: Phase) -> [Forms; 2] {
        let gate = self.gate.map_or(Forms::default(), |g| g.forms(phase));
        let input = gate.union(self.up.forms(phase));
        [input, self.down.forms(phase)]
    }
}

/// The rows of a step.
#[derive(Clone, Copy)]
pub struct ExpertRows<'a> {
    /// `[rows, hidden]`, normalised.
    pub x: &'a [f32],
    /// The experts of every row, as many for each: `[rows, chosen]`. Those of a row differ.
    pub choices: &'a [Choice],
    /// Number of them for each row.
    pub chosen: usize,
    /// Whose arithmetic their products take.
    pub phase: Phase,
    /// Factor of the sum.
    pub factor: f32,
    /// Whether the result is added to what there is.
    pub accumulate: bool,
}

/// What a step read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Experts.
    pub experts: usize,
    /// Bytes of their weights.
    pub bytes: usize,
}

/// Parts of the time of [`expert_rows`].
pub const EXPERT_PARTS: usize = 6;

/// Indices of the parts.
pub(super) mod part {
    pub const PREPARE: usize = 0;
    pub const GATE: usize = 1;
    pub const UP: usize = 2;
    pub const ACTIVATE: usize = 3;
    pub const DOWN: usize = 4;
    pub const COMBINE: usize = 5;
}

/// `out[row] = factor * sum of weight * down(f(gate x, up x))` over the row's experts.
/// `timing` receives the thread time of preparing rows, gate, up, activation, down, and
/// adding up: six parts.
///
/// # Panics
/// If shapes, lengths or numbers of experts do not fit together, an expert is named twice
/// for a row, or the step is larger than the buffers; if there are fewer times.
pub fn expert_rows(
    team: &Team,
    experts: &Experts,
    rows: &ExpertRows,
    buffers: &mut ExpertBuffers,
    out: &mut [f32],
    timing: Timing,
) -> Touched {
    let (up, down) = (experts.up, experts.down);
    let (hidden, inner) = (up.cols(), up.rows());
    let shape = (up.experts(), inner, hidden);
    let gate = experts.gate.map(|g| (g.experts(), g.rows(), g.cols()));
    assert!(gate.is_none_or(|gate| gate == shape));
    assert_eq!(
        (down.experts(), down.rows(), down.cols()),
        (shape.0, hidden, inner)
    );
    let n = rows.x.len() / hidden;
    assert!(rows.x.len() == n * hidden && out.len() == rows.x.len());
    assert_eq!(Some(rows.choices.len()), n.checked_mul(rows.chosen));
    assert!(timing.is_none_or(|t| t.len() >= EXPERT_PARTS));
    buffers.check(team, n, rows.chosen, (hidden, inner));
    let sorted = Sorted::new(rows.choices, rows.chosen, shape.0);
    let bytes = experts.gate.map_or(0, ExpertMatrix::bytes_of_one);
    let bytes = bytes + up.bytes_of_one() + down.bytes_of_one();
    let touched = Touched {
        experts: sorted.touched.len(),
        bytes: sorted.touched.len() * bytes,
    };
    Region::run(team, experts, rows, sorted, buffers, out, timing);
    touched
}

/// Chooses the experts of every row from its logits, `[rows, experts]`; see
/// [`Router::route`].
///
/// # Panics
/// If the lengths do not fit.
pub fn route_rows(
    team: &Team,
    router: &Router,
    logits: &[f32],
    correction: &[f32],
    choices: &mut [Choice],
) {
    let (experts, chosen) = (router.experts, router.chosen);
    let rows = logits.len() / experts;
    assert!(logits.len() == rows * experts && choices.len() == rows * chosen);
    let to = super::Shared(choices.as_mut_ptr());
    super::for_rows(team, rows, experts * chosen, &|row, _| {
        // SAFETY: row by row, within the length checked above.
        let choices = unsafe { to.slice(row * chosen, chosen) };
        let logits = &logits[row * experts..][..experts];
        router.route(logits, correction, choices);
    });
}

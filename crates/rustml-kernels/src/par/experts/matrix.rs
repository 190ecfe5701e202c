//! The weights of all experts for one of their layers, as one packed matrix.

use crate::acts::Forms;
use crate::panel::Matrix;
use crate::par::{lock, Phase, Team};
use rustml_io::DType;
use rustml_simd::Isa;
use std::sync::{Mutex, PoisonError};

/// Weights of `[experts, rows, cols]`. Each expert's rows are padded to whole panels, so
/// that an expert is a range of panels.
pub struct ExpertMatrix {
    matrix: Matrix,
    /// `[experts, padded rows]`, or nothing.
    bias: Vec<f32>,
    experts: usize,
    rows: usize,
}

/// Writes a row of an expert's tensor into the bytes, in the type of the weights: it is
/// told the expert and the row.
pub type ReadExpertRow<'a, E> = dyn Fn(usize, usize, &mut [u8]) -> Result<(), E> + Sync + 'a;

impl ExpertMatrix {
    /// Zeros of the given shape; `None` if the memory cannot be had.
    ///
    /// # Panics
    /// As [`Matrix::zeroed`].
    pub fn zeroed(
        dtype: DType,
        experts: usize,
        rows: usize,
        cols: usize,
        isa: Isa,
    ) -> Option<ExpertMatrix> {
        let padded = rows.checked_next_multiple_of(isa.lanes())?;
        Some(ExpertMatrix {
            matrix: Matrix::zeroed(dtype, experts.checked_mul(padded)?, cols, isa)?,
            bias: Vec::new(),
            experts,
            rows,
        })
    }

    /// Gives every expert's outputs a bias: `[experts, rows]`.
    ///
    /// # Panics
    /// If the length differs.
    pub fn set_bias(&mut self, bias: &[f32]) {
        assert_eq!(bias.len(), self.experts * self.rows);
        let padded = self.padded();
        self.bias = vec![0.0; self.experts * padded];
        for expert in 0..self.experts {
            let to = &mut self.bias[expert * padded..][..self.rows];
            to.copy_from_slice(&bias[expert * self.rows..][..self.rows]);
        }
    }

    /// All experts' rows, those of padding among them.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }
    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.experts
    }
    /// Outputs of an expert.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Inputs.
    pub fn cols(&self) -> usize {
        self.matrix.cols()
    }
    /// Type of the weights.
    pub fn dtype(&self) -> DType {
        self.matrix.dtype()
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes() + size_of_val(&self.bias[..])
    }
    /// Bytes of one expert, which a step that touches it reads.
    pub fn bytes_of_one(&self) -> usize {
        self.panels() * self.matrix.panel_bytes()
    }
    /// The forms of activations a product reads; see [`Phase`].
    pub fn forms(&self, phase: Phase) -> Forms {
        match phase {
            Phase::Prefill => self.matrix.prefill_forms(),
            Phase::Decode => self.matrix.forms(),
        }
    }

    fn padded(&self) -> usize {
        self.rows.next_multiple_of(self.matrix.lanes())
    }
    /// Panels of an expert.
    pub(super) fn panels(&self) -> usize {
        self.padded() / self.matrix.lanes()
    }
    pub(super) fn bias(&self) -> Option<&[f32]> {
        (!self.bias.is_empty()).then_some(&self.bias[..])
    }
    /// Where a panel of an expert begins.
    pub(super) fn start(&self, expert: usize, panel: usize) -> *const u8 {
        let panel = expert * self.panels() + panel;
        self.matrix.since_panel(panel).as_ptr()
    }
}

/// Fills the weights of an expert from rows that `read` produces: it is called once for
/// every row, from all threads, and the result is packed at once.
///
/// # Errors
/// The first error of `read`; the weights are then packed in part.
///
/// # Panics
/// If there is no such expert.
pub fn pack_expert<E: Send>(
    team: &Team,
    weights: &mut ExpertMatrix,
    expert: usize,
    read: &ReadExpertRow<E>,
) -> Result<(), E> {
    assert!(expert < weights.experts);
    let (rows, panels) = (weights.rows, weights.panels());
    let (dtype, lanes) = (weights.dtype(), weights.matrix.lanes());
    let row_bytes = dtype.row_bytes(weights.cols()).expect("whole blocks");
    let packer = weights.matrix.packer();
    let failed = Mutex::new(None);
    team.pool.run(panels, &|panel, _| {
        if lock(&failed).is_some() {
            return;
        }
        let first = expert * panels + panel;
        packer.begin(first);
        let mut bytes = vec![0u8; row_bytes];
        for row in panel * lanes..((panel + 1) * lanes).min(rows) {
            if let Err(e) = read(expert, row, &mut bytes) {
                lock(&failed).get_or_insert(e);
                return;
            }
            // SAFETY: a panel is filled by its own chunk, row by row.
            unsafe { packer.put_row(expert * panels * lanes + row, &bytes) };
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}

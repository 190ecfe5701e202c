//! A stored tensor as the forward pass wants it.

use super::Loader;
use crate::arch::{Repair, Role};
use crate::error::{show, Result};
use crate::spec::Layer;
use rustml_io::{DType, Tensor};
use rustml_kernels::formats::convert_row;
use std::ops::Range;

/// Bytes of a file that are read before they are given back: few beside the
/// weights, and many beside what giving them back costs.
const STRETCH: usize = 4 << 20;

/// Which stored row is which.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rows {
    /// Rows of other parts of a fused tensor before these.
    pub first: usize,
    /// Values of a head, and how many of them are rotated as neighbours.
    pub interleaved: Option<(usize, usize)>,
}

impl Rows {
    /// Where row `row` is stored.
    ///
    /// Neighbours `2 i`, `2 i + 1` of the rotated values become `i` and
    /// `i + dims / 2`, which is how `rope` pairs them; what is not rotated
    /// follows in its order.
    pub fn stored(&self, row: usize) -> usize {
        let row = match self.interleaved {
            Some((head_dim, dims)) if row % head_dim < dims => {
                let (head, i, pairs) = (row / head_dim, row % head_dim, dims / 2);
                head * head_dim + (i % pairs) * 2 + i / pairs
            }
            _ => row,
        };
        self.first + row
    }
}

/// A matrix in a file, `[rows, cols]` after all repairs.
pub struct View<'a> {
    pub tensor: Tensor<'a>,
    transposed: bool,
    order: Rows,
    pub rows: usize,
    pub cols: usize,
    /// Whether no later part of a fused tensor is still to be read.
    pub is_last_part: bool,
}

impl View<'_> {
    /// Bytes of these rows in the file.
    pub fn bytes(&self) -> usize {
        self.tensor.dtype.row_bytes(self.cols).unwrap_or(0) * self.rows
    }

    /// The bytes of the tensor that have probably been read for good when `row`
    /// is the last one read, if it ends a stretch of them. Rows are read by
    /// several threads, each nearly in order; what is given back too early is
    /// read again.
    pub fn through(&self, row: usize) -> Option<Range<usize>> {
        let size = self.tensor.dtype.row_bytes(self.cols)?;
        let stretch = (STRETCH / size.max(1)).max(1);
        let ends = !self.transposed && (row + 1).is_multiple_of(stretch);
        let end = (self.order.stored(row) + 1) * size;
        ends.then(|| end.saturating_sub(stretch * size)..end)
    }

    /// Writes row `row` in type `to`.
    pub fn read(&self, row: usize, to: DType, out: &mut [u8]) {
        let (row, from) = (self.order.stored(row), self.tensor.dtype);
        let size = from.row_bytes(self.cols).expect("whole blocks");
        if !self.transposed {
            let bytes = &self.tensor.data[row * size..][..size];
            convert_row(from, bytes, to, out, self.cols);
            return;
        }
        let (value, stride) = (from.block_bytes(), self.tensor.info.shape[1]);
        let mut gathered = vec![0u8; size];
        for (i, v) in gathered.chunks_exact_mut(value).enumerate() {
            v.copy_from_slice(&self.tensor.data[(i * stride + row) * value..][..value]);
        }
        convert_row(from, &gathered, to, out, self.cols);
    }
}

impl<'a> Loader<'a> {
    /// Which of the stored rows are this role's `rows`, and all there are.
    pub fn order(&self, role: Role, repair: Repair, layer: Option<&Layer>) -> (Rows, usize) {
        let rows = role.shape(self.spec, layer).0;
        match (repair, layer) {
            (Repair::Fused | Repair::FusedTransposed, Some(_)) => {
                let q = Role::Query.shape(self.spec, layer).0;
                let kv = Role::Key.shape(self.spec, layer).0;
                let first = match role {
                    Role::Query => 0,
                    Role::Key => q,
                    _ => q + kv,
                };
                let interleaved = None;
                (Rows { first, interleaved }, q + 2 * kv)
            }
            (Repair::Interleaved, Some(layer)) => {
                let rope = layer.attention.rope.map(|r| &self.spec.ropes[r]);
                let interleaved = rope.map(|r| (layer.attention.head_dim, r.dims));
                let first = 0;
                (Rows { first, interleaved }, rows)
            }
            _ => (Rows::default(), rows),
        }
    }

    /// The matrix for `role`, its shape checked.
    pub fn view(&mut self, role: Role, layer: Option<usize>) -> Result<View<'a>> {
        let (tensor, repair) = self.tensor(role, layer, ".weight")?;
        let layer = layer.map(|i| &self.spec.layers[i]);
        let (rows, cols) = role.shape(self.spec, layer);
        let (order, all_rows) = self.order(role, repair, layer);
        let transposed = matches!(repair, Repair::Transposed | Repair::FusedTransposed);
        let expected = match transposed {
            true => [cols, all_rows],
            false => [all_rows, cols],
        };
        self.check_shape(&tensor, &expected)?;
        let name = || show(&tensor.info.name);
        if transposed && !tensor.dtype.is_float() {
            return Err(self.error(format!(
                "the tensor {} is stored transposed and in {}; only float types can be",
                name(),
                tensor.dtype
            )));
        }
        if tensor.dtype.row_bytes(cols).is_none() {
            return Err(self.error(format!(
                "the tensor {} has rows of {cols} values, no whole number of {} blocks",
                name(),
                tensor.dtype
            )));
        }
        Ok(View {
            tensor,
            transposed,
            order,
            rows,
            cols,
            is_last_part: order.first + rows == all_rows,
        })
    }

    pub fn check_shape(&self, tensor: &Tensor, expected: &[usize]) -> Result<()> {
        match tensor.info.shape == expected {
            true => Ok(()),
            false => Err(self.error(format!(
                "the tensor {} has the shape {:?}, but by the configuration it is {expected:?}",
                show(&tensor.info.name),
                tensor.info.shape
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_halves() {
        let rows = |interleaved, n| {
            let order = Rows {
                first: 100,
                interleaved,
            };
            (0..n).map(|r| order.stored(r) - 100).collect::<Vec<_>>()
        };
        assert_eq!(rows(None, 3), [0, 1, 2]);
        assert_eq!(rows(Some((4, 4)), 8), [0, 2, 1, 3, 4, 6, 5, 7]);
        // Partly rotated heads, of odd size too.
        assert_eq!(
            rows(Some((6, 4)), 12),
            [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]
        );
        assert_eq!(rows(Some((5, 4)), 10), [0, 2, 1, 3, 4, 5, 7, 6, 8, 9]);
        assert_eq!(rows(Some((2, 2)), 4), [0, 1, 2, 3]);
    }
}

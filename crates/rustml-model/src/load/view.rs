//! A stored tensor as the forward pass wants it.

use super::quantised::Quantised;
use super::Loader;
use crate::arch::{Repair, Role};
use crate::error::{show, Result};
use crate::spec::{Attention, Layer};
use rustml_io::{DType, Tensor, TensorInfo};
use rustml_kernels::formats::convert_row;
use std::ops::Range;

/// Bytes of a file that are read before they are given back: few beside the
/// weights, and many beside what giving them back costs.
const STRETCH: usize = 4 << 20;

/// Which stored row is which.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Rows of other parts of a fused tensor before these.
    pub first: usize,
    /// Of how many of these rows one after the other, and how many rows later the
    /// next as many follow, if they are not all together.
    pub groups: Option<(usize, usize)>,
    /// Values of a head, and how many of them are rotated as neighbours.
    pub interleaved: Option<(usize, usize)>,
    /// Where each row is, if none of this says it.
    pub table: Option<Vec<u32>>,
}

impl Rows {
    /// Where row `row` is stored.
    ///
    /// Neighbours `2 i`, `2 i + 1` of the rotated values become `i` and
    /// `i + dims / 2`, which is how `rope` pairs them; what is not rotated
    /// follows in its order.
    pub fn stored(&self, row: usize) -> usize {
        if let Some(table) = &self.table {
            return table[row] as usize;
        }
        let row = match self.interleaved {
            Some((head_dim, dims)) if row % head_dim < dims => {
                let (head, i, pairs) = (row / head_dim, row % head_dim, dims / 2);
                head * head_dim + (i % pairs) * 2 + i / pairs
            }
            _ => row,
        };
        let row = match self.groups {
            Some((width, stride)) => row / width * stride + row % width,
            None => row,
        };
        self.first + row
    }
}

/// What holds a matrix.
pub enum Held<'a> {
    /// A tensor of a type that is computed with.
    Plain(Tensor<'a>),
    /// Several tensors.
    Quantised(Quantised<'a>),
}

impl Held<'_> {
    /// The type of its rows.
    pub fn dtype(&self) -> DType {
        match self {
            Held::Plain(tensor) => tensor.dtype,
            Held::Quantised(q) => q.kept.dtype,
        }
    }

    /// Whether rows are in this type already.
    pub fn is_copied(&self, to: DType) -> bool {
        match self {
            Held::Plain(tensor) => tensor.dtype == to,
            Held::Quantised(q) => q.kept.exact && q.kept.dtype == to,
        }
    }

    /// The tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        let (plain, several) = match self {
            Held::Plain(tensor) => (Some(tensor.info), &[][..]),
            Held::Quantised(q) => (None, &q.tensors[..]),
        };
        plain.into_iter().chain(several.iter().copied())
    }
}

/// A matrix in a file, `[rows, cols]` after all repairs.
pub struct View<'a> {
    pub held: Held<'a>,
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
        match &self.held {
            Held::Plain(tensor) => tensor.dtype.row_bytes(self.cols).unwrap_or(0) * self.rows,
            Held::Quantised(q) => q.bytes() / q.rows * self.rows,
        }
    }

    /// The bytes of the tensor that have probably been read for good when `row`
    /// is the last one read, if it ends a stretch of them. Rows are read by
    /// several threads, each nearly in order; what is given back too early is
    /// read again.
    pub fn through(&self, row: usize) -> Option<(&TensorInfo, Range<usize>)> {
        let Held::Plain(tensor) = &self.held else {
            return None;
        };
        let size = tensor.dtype.row_bytes(self.cols)?;
        let stretch = (STRETCH / size.max(1)).max(1);
        let ends = !self.transposed && (row + 1).is_multiple_of(stretch);
        let end = (self.order.stored(row) + 1) * size;
        ends.then(|| (tensor.info, end.saturating_sub(stretch * size)..end))
    }

    /// Writes row `row` in type `to`.
    pub fn read(&self, row: usize, to: DType, out: &mut [u8]) {
        let row = self.order.stored(row);
        let tensor = match &self.held {
            Held::Plain(tensor) => tensor,
            Held::Quantised(q) => return q.read(row, to, out),
        };
        let from = tensor.dtype;
        let size = from.row_bytes(self.cols).expect("whole blocks");
        if !self.transposed {
            let bytes = &tensor.data[row * size..][..size];
            convert_row(from, bytes, to, out, self.cols);
            return;
        }
        let (value, stride) = (from.block_bytes(), tensor.info.shape[1]);
        let mut gathered = vec![0u8; size];
        for (i, v) in gathered.chunks_exact_mut(value).enumerate() {
            v.copy_from_slice(&tensor.data[(i * stride + row) * value..][..value]);
        }
        convert_row(from, &gathered, to, out, self.cols);
    }
}

impl<'a> Loader<'a> {
    /// Which of the stored rows are this role's `rows`, and all there are.
    pub fn order(&self, role: Role, repair: Repair, layer: Option<&Layer>) -> (Rows, usize) {
        let rows = role.shape(self.spec, layer).0;
        if let Some(order) = layer
            .and_then(Layer::recurrent)
            .and_then(|r| super::recurrent::order(r, role, repair))
        {
            return order;
        }
        if let Some(order) = layer
            .and_then(Layer::attention)
            .and_then(|a| super::latent::order(a, role, repair))
        {
            return (order, rows);
        }
        match (repair, layer) {
            (Repair::Fused, Some(_)) if is_of_feed_forward(role) => {
                let second = matches!(role, Role::Up | Role::SharedUp);
                let first = if second { rows } else { 0 };
                let order = Rows {
                    first,
                    ..Rows::default()
                };
                (order, 2 * rows)
            }
            (Repair::QueryAndGate, Some(layer)) => {
                let d = layer.attention().map_or(1, |a| a.head_dim);
                let order = Rows {
                    first: if role == Role::AttnGate { d } else { 0 },
                    groups: Some((d, 2 * d)),
                    ..Rows::default()
                };
                (order, 2 * rows)
            }
            (Repair::FusedByGroup, Some(layer)) => {
                let Some(a) = layer.attention() else {
                    return (Rows::default(), rows);
                };
                let (of_queries, d) = (a.heads / a.kv_heads * a.head_dim, a.head_dim);
                let stride = of_queries + 2 * d;
                let (first, width) = match role {
                    Role::Query => (0, of_queries),
                    Role::Key => (of_queries, d),
                    _ => (of_queries + d, d),
                };
                let order = Rows {
                    first,
                    groups: Some((width, stride)),
                    ..Rows::default()
                };
                (order, a.kv_heads * stride)
            }
            (Repair::Fused | Repair::FusedTransposed, Some(_)) => {
                let q = Role::Query.shape(self.spec, layer).0;
                let kv = Role::Key.shape(self.spec, layer).0;
                let first = match role {
                    Role::Query => 0,
                    Role::Key => q,
                    _ => q + kv,
                };
                let order = Rows {
                    first,
                    ..Rows::default()
                };
                (order, q + 2 * kv)
            }
            (Repair::Interleaved, Some(layer)) => {
                let rotated = |a: &Attention| {
                    let rope = a.rope.map(|r| &self.spec.ropes[r]);
                    rope.map(|r| (a.head_dim, r.dims))
                };
                let interleaved = layer.attention().and_then(rotated);
                let order = Rows {
                    interleaved,
                    ..Rows::default()
                };
                (order, rows)
            }
            _ => (Rows::default(), rows),
        }
    }

    /// The matrix for `role`, its shape checked.
    pub fn view(&mut self, role: Role, layer: Option<usize>) -> Result<View<'a>> {
        let (base, repair) = self.base_name(role, layer)?;
        let layer = layer.map(|i| &self.spec.layers[i]);
        let (rows, cols) = role.shape(self.spec, layer);
        let (order, all_rows) = self.order(role, repair, layer);
        let transposed = matches!(repair, Repair::Transposed | Repair::FusedTransposed);
        let is_last_part = order.stored(rows - 1) + 1 == all_rows;
        if let Some(quantised) = self.quantised(role, &base, (all_rows, cols), None)? {
            if transposed {
                let name = show(&base);
                return Err(self.error(format!(
                    "{name} is stored transposed and quantised; only float types can be"
                )));
            }
            return Ok(View {
                held: Held::Quantised(quantised),
                transposed,
                order,
                rows,
                cols,
                is_last_part,
            });
        }
        let tensor = self.tensor_named(role, &base, ".weight")?;
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
            held: Held::Plain(tensor),
            transposed,
            order,
            rows,
            cols,
            is_last_part,
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

fn is_of_feed_forward(role: Role) -> bool {
    matches!(
        role,
        Role::Gate | Role::Up | Role::SharedGate | Role::SharedUp
    )
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
                ..Rows::default()
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

    #[test]
    fn groups_lie_apart() {
        let order = Rows {
            first: 4,
            groups: Some((2, 6)),
            ..Rows::default()
        };
        let rows: Vec<_> = (0..5).map(|r| order.stored(r)).collect();
        assert_eq!(rows, [4, 5, 10, 11, 16]);
    }
}

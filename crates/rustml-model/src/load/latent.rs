//! Weights of latent attention.

use super::view::{Held, Rows};
use super::Loader;
use crate::arch::{Repair, Role};
use crate::error::{Error, Result};
use crate::spec::{Attention, Latent};
use crate::weights::{AttentionWeights, LatentWeights, Linear};
use rustml_io::DType;
use rustml_kernels::formats::{convert_row, decode_row};
use rustml_kernels::par::pack_rows;
use rustml_kernels::Matrix;

impl Loader<'_> {
    pub(super) fn latent_attention(
        &mut self,
        i: usize,
        a: &Attention,
        l: &Latent,
    ) -> Result<AttentionWeights> {
        let at = Some(i);
        let down = l
            .query
            .map(|_| self.linear(Role::QueryDown, at, a.qkv_bias));
        let query_down = down.transpose()?;
        let norm = l
            .query
            .map(|rank| self.norm_of(Role::QueryNorm, at, rank, false));
        let latent = LatentWeights {
            query_down,
            query_norm: norm.transpose()?,
            norm: self.norm_of(Role::KeyNorm, at, l.rank, false)?,
        };
        let (keys, _) = self.base_name(Role::LatentKeys, at)?;
        let is_split = self.find(Role::LatentKeys, &keys, ".weight").is_some();
        self.caches += 1;
        Ok(AttentionWeights {
            cache: self.caches - 1,
            query: self.linear(Role::Query, at, false)?,
            key: Some(self.linear(Role::Key, at, a.qkv_bias)?),
            value: Some(match is_split {
                true => self.split_values(i, a, l)?,
                false => self.linear(Role::Value, at, false)?,
            }),
            value_norm: None,
            query_norm: None,
            key_norm: None,
            out: self.linear(Role::AttnOut, at, a.out_bias)?,
            gate: None,
            slopes: Vec::new(),
            relative: Vec::new(),
            sinks: Vec::new(),
            latent: Some(latent),
        })
    }

    /// Keys and values of the latent where they are two tensors of a matrix for each head,
    /// `[rank, size of a key]` and `[size of a value, rank]`.
    fn split_values(&mut self, i: usize, a: &Attention, l: &Latent) -> Result<Linear> {
        let plain = a.head_dim - l.rotated;
        let (keys, _) = self.tensor(Role::LatentKeys, Some(i), ".weight")?;
        let (values, _) = self.tensor(Role::Value, Some(i), ".weight")?;
        self.check_shape(&keys, &[a.heads, l.rank, plain])?;
        self.check_shape(&values, &[a.heads, l.value, l.rank])?;
        let stored = values.dtype;
        let (Some(key_bytes), Some(value_bytes)) =
            (keys.dtype.row_bytes(plain), stored.row_bytes(l.rank))
        else {
            return Err(self.error(format!(
                "the rows of {} and {} are no whole number of blocks",
                keys.info.name, values.info.name
            )));
        };
        let mut of_keys = vec![0.0; a.heads * l.rank * plain];
        for (row, out) in of_keys.chunks_exact_mut(plain).enumerate() {
            decode_row(keys.dtype, &keys.data[row * key_bytes..][..key_bytes], out);
        }
        let (rows, held) = (a.heads * (plain + l.value), Held::Plain(values));
        let dtype = match self.choose(&held, rows, l.rank) {
            // Keys lie across, so they are rounded anew; not more than they need be.
            dtype if dtype.is_float() => dtype,
            _ if l.rank.is_multiple_of(32) => DType::Q8_0,
            _ => DType::F16,
        };
        let Held::Plain(values) = &held else {
            unreachable!("it was just made");
        };
        let matrix = Matrix::zeroed(dtype, rows, l.rank, self.team.isa);
        let mut matrix = matrix.ok_or_else(|| Error::Memory {
            what: format!(
                "the keys and values of layer {i} of {}",
                self.store.path().display()
            ),
            bytes: dtype.row_bytes(l.rank).unwrap_or(0).saturating_mul(rows),
        })?;
        pack_rows(self.team, &mut matrix, &|row, out| {
            let (head, at) = (row / (plain + l.value), row % (plain + l.value));
            match at.checked_sub(plain) {
                Some(at) => {
                    let row = head * l.value + at;
                    let bytes = &values.data[row * value_bytes..][..value_bytes];
                    convert_row(stored, bytes, dtype, out, l.rank);
                }
                None => {
                    let across = (0..l.rank).map(|r| of_keys[(head * l.rank + r) * plain + at]);
                    let bytes: Vec<u8> = across.flat_map(f32::to_le_bytes).collect();
                    convert_row(DType::F32, &bytes, dtype, out, l.rank);
                }
            }
            Ok::<(), Error>(())
        })?;
        self.report.parameters += rows * l.rank;
        self.done += keys.data.len() + values.data.len();
        (self.progress)(self.done.min(self.total), self.total);
        Ok(Linear {
            weights: matrix,
            bias: None,
        })
    }
}

/// Which stored row is which of queries, and of the latent with the rotated part.
pub(super) fn order(a: &Attention, role: Role, repair: Repair) -> Option<Rows> {
    let l = a.latent.filter(|_| repair == Repair::Latent)?;
    let plain = a.head_dim - l.rotated;
    // Neighbours become halves.
    let rotated = |i: usize| match l.interleaved {
        true => 2 * i % l.rotated + 2 * i / l.rotated,
        false => i,
    };
    let table: Vec<u32> = match role {
        Role::Query => (0..a.heads)
            .flat_map(|h| {
                let first = (0..l.rotated).map(move |i| plain + rotated(i));
                first
                    .chain(0..plain)
                    .map(move |i| (h * a.head_dim + i) as u32)
            })
            .collect(),
        Role::Key => (0..l.rank)
            .chain((0..l.rotated).map(|i| l.rank + rotated(i)))
            .map(|i| i as u32)
            .collect(),
        _ => return None,
    };
    Some(Rows {
        table: Some(table),
        ..Rows::default()
    })
}

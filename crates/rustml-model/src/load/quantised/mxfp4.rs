//! gpt-oss's blocks of 32 floats of 4 bits. GGML has the same numbers in another order.

use super::parts::Parts;
use super::{Coded, Kept};
use crate::error::{show, Result};
use rustml_io::DType;
use rustml_kernels::formats::decode_row;

/// Values of a block, and bytes that they take.
const LEN: usize = 32;
const BYTES: usize = LEN / 2;

struct Mxfp4 {
    blocks: Vec<u8>,
    scales: Vec<u8>,
    /// Blocks of a row.
    width: usize,
}

pub(super) fn open(p: &mut Parts) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let width = cols.div_ceil(LEN);
    let blocks = p.need("_blocks", &["U8"], &[&[rows, width, BYTES]])?;
    let scales = p.need("_scales", &["U8"], &[&[rows, width]])?;
    if !cols.is_multiple_of(LEN) {
        return Err(p.loader.error(format!(
            "the tensor {} has rows of {cols} values, no whole number of blocks of {LEN}",
            show(&blocks.info.name)
        )));
    }
    if let Some(at) = scales.data.iter().position(|e| *e == 255) {
        return Err(p.loader.error(format!(
            "the tensor {} holds 255 at {at}, which stands for no number; the file is damaged",
            show(&scales.info.name)
        )));
    }
    Ok(Box::new(Mxfp4 {
        blocks: blocks.data,
        scales: scales.data,
        width,
    }))
}

impl Coded for Mxfp4 {
    fn kept(&self) -> Kept {
        Kept {
            dtype: DType::MXFP4,
            direct: true,
            exact: true,
        }
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        let dtype = DType::MXFP4;
        let mut bytes = vec![0; self.width * dtype.block_bytes()];
        self.pack(row, dtype, &mut bytes);
        decode_row(dtype, &bytes, out);
    }

    /// A byte holds two neighbours here, and there a value and the one 16 later.
    fn pack(&self, row: usize, dtype: DType, out: &mut [u8]) {
        let first = row * self.width;
        for (b, out) in out.chunks_exact_mut(dtype.block_bytes()).enumerate() {
            let block = &self.blocks[(first + b) * BYTES..][..BYTES];
            let value = |i: usize| block[i / 2] >> (i % 2 * 4) & 15;
            out[0] = self.scales[first + b];
            for (i, out) in out[1..].iter_mut().enumerate() {
                *out = value(i) | value(i + BYTES) << 4;
            }
        }
    }
}

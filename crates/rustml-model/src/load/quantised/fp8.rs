//! Floats of 8 bits with a scale: of a block (DeepSeek, Qwen), a row or the tensor.

use super::parts::{Parts, Raw, FLOATS};
use super::{Coded, Kept};
use crate::error::{show, Result};

struct Fp8 {
    data: Vec<u8>,
    cols: usize,
    scales: Vec<f32>,
    /// Rows and columns that share a scale.
    block: (usize, usize),
    /// Scales of a row of blocks.
    stride: usize,
    /// The number each byte stands for.
    table: [f32; 256],
}

/// The matrix in the tensor with this suffix; blocks are as large as the configuration says.
pub(super) fn open(p: &mut Parts, suffix: &str, block: (usize, usize)) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let weight = p.need(suffix, &["F8_E4M3"], &[&[rows, cols]])?;
    let types = [FLOATS, &["F8_E8M0"]].concat();
    let mut scale: Option<Raw> = None;
    for name in ["_scale_inv", "_scale"] {
        if scale.is_none() {
            scale = p.optional(&format!("{suffix}{name}"), &types)?;
        }
    }
    let Some(scale) = scale else {
        return Err(p.loader.error(format!(
            "the tensor {} has no scale beside it: {}{}_scale_inv is missing",
            show(&weight.info.name),
            p.base,
            suffix
        )));
    };
    let grid = [rows.div_ceil(block.0), cols.div_ceil(block.1)];
    let whole: [&[usize]; 3] = [&[], &[1], &[1, 1]];
    let shape = scale.shape.as_slice();
    let (block, stride) = if shape == grid {
        (block, grid[1])
    } else if whole.contains(&shape) {
        ((rows, cols), 1)
    } else if shape == [rows] || shape == [rows, 1] {
        ((1, cols), 1)
    } else {
        return Err(p.misshapen(&scale, &[&grid, &[rows, 1], &[]]));
    };
    // What activations were rounded by, and caches; here they are not.
    p.skip(&[
        ".input_scale",
        ".activation_scale",
        ".input_scale_ub",
        ".k_scale",
        ".v_scale",
    ]);
    let table: [f32; 256] = std::array::from_fn(|byte| number(byte as u8));
    if let Some(at) = weight.data.iter().position(|b| b & 0x7f == 0x7f) {
        return Err(p.loader.error(format!(
            "the tensor {} holds no number at {at}; the file is damaged",
            show(&weight.info.name)
        )));
    }
    Ok(Box::new(Fp8 {
        data: weight.data,
        cols,
        scales: p.floats(&scale)?,
        block,
        stride,
        table,
    }))
}

impl Coded for Fp8 {
    fn kept(&self) -> Kept {
        Kept::nearest(self.cols)
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        let bytes = &self.data[row * self.cols..][..self.cols];
        let scales = &self.scales[row / self.block.0 * self.stride..];
        let blocks = out.chunks_mut(self.block.1).zip(bytes.chunks(self.block.1));
        for ((out, bytes), scale) in blocks.zip(scales) {
            for (out, &byte) in out.iter_mut().zip(bytes) {
                *out = self.table[usize::from(byte)] * scale;
            }
        }
    }
}

/// A sign, four bits of exponent and three of fraction (Micikevicius et al., "FP8 Formats
/// for Deep Learning", E4M3).
fn number(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (byte & 0x7f, exponent) {
        (0x7f, _) => f32::NAN,
        (_, 0) => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 {
        size
    } else {
        -size
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn bytes_are_numbers() {
        let known = [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        for (byte, value) in known {
            assert_eq!(number(byte), value, "{byte:#x}");
        }
        assert!(number(0x7f).is_nan() && number(0xff).is_nan());
    }
}

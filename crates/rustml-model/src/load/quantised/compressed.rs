//! Integers as compressed-tensors packs them.

use super::integers::{Codes, Groups, Integers, Offsets};
use super::parts::{word, Parts, Raw, FLOATS};
use super::Coded;
use crate::error::{show, Result};

/// Codes in words along the row, with half of their range added.
pub(super) fn packed(p: &mut Parts, sizes: &[usize]) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let words = [4, 8].map(|bits| [rows, (cols * bits).div_ceil(32)]);
    let codes = p.need(".weight_packed", &["I32"], &[&words[0], &words[1]])?;
    let bits = if codes.shape == words[0] { 4 } else { 8 };
    if !(cols * bits).is_multiple_of(32) {
        return Err(p.loader.error(format!(
            "the tensor {} has rows of {cols} values, which fill no whole number of words",
            show(&codes.info.name)
        )));
    }
    let middle = 1 << (bits - 1);
    let codes = Codes::Along {
        data: codes.data,
        bits,
    };
    p.skip(&[".weight_shape"]);
    let stored = p.optional(".weight_zero_point", &["I32", "I8"])?;
    finish(p, sizes, codes, stored, (bits, middle))
}

/// A byte for each code.
pub(super) fn bytes(p: &mut Parts, sizes: &[usize]) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let codes = p.need(".weight", &["I8"], &[&[rows, cols]])?;
    let codes = Codes::Bytes { data: codes.data };
    let stored = p.optional(".weight_zero_point", &["I8"])?;
    finish(p, sizes, codes, stored, (8, 0))
}

fn finish(
    p: &mut Parts,
    sizes: &[usize],
    codes: Codes,
    stored: Option<Raw>,
    (bits, middle): (usize, i32),
) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    // Groups of each size that config.json names, a scale for a row, or one for all.
    let mut shapes = vec![vec![rows, 1], vec![rows], vec![1], vec![]];
    for size in sizes.iter().filter(|s| **s > 0) {
        shapes.insert(0, vec![rows, cols.div_ceil(*size)]);
    }
    let all: Vec<&[usize]> = shapes.iter().map(|s| &s[..]).collect();
    let scales = p.need(".weight_scale", FLOATS, &all)?;
    let groups = scales.shape.get(1).copied().unwrap_or(1);
    let of_rows = scales.shape.first() == Some(&rows);
    let even = sizes
        .iter()
        .find(|s| **s > 0 && cols.div_ceil(**s) == groups);
    let size = match (groups, even) {
        (1, _) | (_, None) => cols,
        (_, Some(size)) => *size,
    };
    let strides = (if of_rows { groups } else { 0 }, 1);
    let offsets = match stored {
        None => Offsets::Zero(middle),
        Some(raw) if raw.info.type_name == "I8" => {
            if raw.shape != scales.shape {
                return Err(p.misshapen(&raw, &[&scales.shape]));
            }
            let zero = |b: &u8| i32::from(*b as i8) + middle;
            Offsets::Zeros(raw.data.iter().map(zero).collect())
        }
        Some(raw) => {
            let per_word = 32 / bits;
            let shape = [rows.div_ceil(per_word), groups];
            if raw.shape != shape || !of_rows {
                return Err(p.misshapen(&raw, &[&shape]));
            }
            let zero = |i: usize| {
                let (row, group) = (i / groups, i % groups);
                let word = word(&raw.data, row / per_word * groups + group);
                (word >> (row % per_word * bits) & ((1 << bits) - 1)) as i32
            };
            Offsets::Zeros((0..rows * groups).map(zero).collect())
        }
    };
    let listed = super::gptq::sorted(p, ".weight_g_idx", groups, size)?;
    p.skip(&[
        ".input_scale",
        ".input_zero_point",
        ".output_scale",
        ".k_scale",
        ".v_scale",
    ]);
    Ok(Box::new(Integers {
        rows,
        cols,
        codes,
        scales: p.floats(&scales)?,
        offsets,
        groups: listed.map_or(Groups::Even(size), Groups::Listed),
        strides,
    }))
}

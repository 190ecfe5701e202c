//! GPTQ, AutoRound and AWQ: `qweight`, `qzeros`, `scales`, and perhaps `g_idx`.

use super::integers::{Codes, Groups, Integers, Offsets};
use super::parts::{word, Parts, FLOATS};
use super::scheme::Packing;
use super::Coded;
use crate::error::{show, Result};

/// Codes down the columns; what is added to stored zero points differs by version.
pub(super) fn gptq(p: &mut Parts, layout: Packing, zeros: i32) -> Result<Box<dyn Coded>> {
    let ((rows, cols), bits) = (p.shape, layout.bits);
    let (groups, size) = groups(p, layout)?;
    let words = (cols * bits).div_ceil(32);
    let codes = p.need(".qweight", &["I32"], &[&[words, rows]])?;
    let stored = p.need(
        ".qzeros",
        &["I32"],
        &[&[groups, (rows * bits).div_ceil(32)]],
    )?;
    let scales = p.need(".scales", FLOATS, &[&[groups, rows]])?;
    let scales = p.floats(&scales)?;
    let per_group = stored.data.len() / groups;
    let zeros = (0..groups * rows).map(|i| {
        let data = &stored.data[i / rows * per_group..];
        Codes::one(data, bits, i % rows) as i32 + zeros
    });
    let zeros = zeros.collect();
    let listed = sorted(p, ".g_idx", groups, size)?;
    Ok(Box::new(Integers {
        rows,
        cols,
        codes: Codes::Down {
            data: codes.data,
            bits,
        },
        scales,
        offsets: Offsets::Zeros(zeros),
        groups: listed.map_or(Groups::Even(size), Groups::Listed),
        strides: (1, rows),
    }))
}

/// Codes of 4 bits, eight rows in a word.
pub(super) fn awq(p: &mut Parts, layout: Packing) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let (groups, size) = groups(p, layout)?;
    let words = rows.div_ceil(8);
    let codes = p.need(".qweight", &["I32"], &[&[cols, words]])?;
    let stored = p.need(".qzeros", &["I32"], &[&[groups, words]])?;
    let scales = p.need(".scales", FLOATS, &[&[groups, rows]])?;
    if !rows.is_multiple_of(8) {
        return Err(p.loader.error(format!(
            "the tensor {} is of {rows} rows, no multiple of 8, so its words cannot be told apart",
            show(&codes.info.name)
        )));
    }
    let scales = p.floats(&scales)?;
    let zero = |i: usize| {
        let (group, row) = (i / rows, i % rows);
        let word = word(&stored.data, group * words + row / 8);
        (word >> (4 * super::integers::AWQ[row % 8]) & 15) as i32
    };
    Ok(Box::new(Integers {
        rows,
        cols,
        codes: Codes::Awq { data: codes.data },
        scales,
        offsets: Offsets::Zeros((0..groups * rows).map(zero).collect()),
        groups: Groups::Even(size),
        strides: (1, rows),
    }))
}

/// How many groups a row has, and of how many values.
fn groups(p: &Parts, layout: Packing) -> Result<(usize, usize)> {
    let cols = p.shape.1;
    let size = if layout.group == 0 {
        cols
    } else {
        layout.group
    };
    Ok((cols.div_ceil(size), size))
}

/// The group of each column, where they are not in order.
pub(super) fn sorted(
    p: &mut Parts,
    suffix: &str,
    groups: usize,
    size: usize,
) -> Result<Option<Vec<u32>>> {
    let cols = p.shape.1;
    let Some(raw) = p.optional(suffix, &["I32"])? else {
        return Ok(None);
    };
    if raw.shape != [cols] {
        return Err(p.misshapen(&raw, &[&[cols]]));
    }
    let all: Vec<u32> = (0..cols).map(|i| word(&raw.data, i)).collect();
    if let Some(at) = all.iter().position(|g| *g as usize >= groups) {
        return Err(p.loader.error(format!(
            "the tensor {} says that column {at} is of group {}, but there are {groups} groups",
            show(&raw.info.name),
            all[at] as i32
        )));
    }
    let in_order = all.iter().enumerate().all(|(i, g)| *g as usize == i / size);
    Ok((!in_order).then_some(all))
}

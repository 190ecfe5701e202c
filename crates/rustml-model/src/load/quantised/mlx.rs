//! MLX: codes along the row, with a scale and an offset for each group.

use super::integers::{Codes, Groups, Integers, Offsets};
use super::parts::{Parts, FLOATS};
use super::scheme::Packing;
use super::Coded;
use crate::error::{show, Result};

pub(super) fn open(
    p: &mut Parts,
    layout: Packing,
    layers: &[(String, Packing)],
) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let name = p.loader.find(p.role, &p.base, ".weight");
    let name = name.as_deref().and_then(|n| n.strip_suffix(".weight"));
    let own = layers.iter().find(|(layer, _)| Some(&layer[..]) == name);
    let Packing { bits, group } = own.map_or(layout, |(_, own)| *own);
    let codes = p.need(".weight", &["U32"], &[&[rows, (cols * bits).div_ceil(32)]])?;
    if group == 0 || !cols.is_multiple_of(group) || !(cols * bits).is_multiple_of(32) {
        return Err(p.loader.error(format!(
            "the tensor {} has rows of {cols} values, no whole number of groups of {group}",
            show(&codes.info.name)
        )));
    }
    let groups = cols / group;
    let scales = p.need(".scales", FLOATS, &[&[rows, groups]])?;
    let biases = match p.type_of(".qbiases") {
        Some(_) => ".qbiases",
        None => ".biases",
    };
    let added = p.need(biases, FLOATS, &[&[rows, groups]])?;
    Ok(Box::new(Integers {
        rows,
        cols,
        codes: Codes::Along {
            data: codes.data,
            bits,
        },
        scales: p.floats(&scales)?,
        offsets: Offsets::Added(p.floats(&added)?),
        groups: Groups::Even(group),
        strides: (groups, 1),
    }))
}

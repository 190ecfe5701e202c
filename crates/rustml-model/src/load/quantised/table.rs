//! bitsandbytes in 4 bits: numbers of a table, times the largest of their block.

use super::parts::{Parts, Raw};
use super::{Coded, Kept};
use crate::error::{show, Result};
use serde_json::Value;

struct Table {
    data: Vec<u8>,
    cols: usize,
    numbers: [f32; 16],
    /// The largest of each block, and values of a block.
    largest: Vec<f32>,
    block: usize,
}

/// The tensor whose suffix begins so says how the rest is to be read.
const STATE: &str = ".weight.quant_state.bitsandbytes__";

pub(super) fn open(p: &mut Parts) -> Result<Box<dyn Coded>> {
    let (rows, cols) = p.shape;
    let len = rows * cols;
    let data = p.need(".weight", &["U8"], &[&[len.div_ceil(2), 1]])?;
    let mut state = None;
    for kind in ["nf4", "fp4"] {
        if state.is_none() {
            state = p.optional(&format!("{STATE}{kind}"), &["U8"])?;
        }
    }
    let name = show(&data.info.name);
    let Some(state) = state else {
        return Err(p.loader.error(format!(
            "the tensor {name} is of the type `U8`, but no {}{STATE}nf4 says how to read it",
            p.base
        )));
    };
    let wrong = |p: &Parts, what: &str| {
        p.loader.error(format!(
            "the tensor {} {what}; the file is damaged",
            show(&state.info.name)
        ))
    };
    let json: Value = serde_json::from_slice(&state.data).map_err(|_| wrong(p, "holds no JSON"))?;
    let number = |key: &str| json[key].as_u64().and_then(|n| usize::try_from(n).ok());
    if json["shape"] != serde_json::json!([rows, cols]) {
        let shape = json["shape"].to_string();
        return Err(wrong(
            p,
            &format!("says the shape {}, not {:?}", show(&shape), p.shape),
        ));
    }
    let block = number("blocksize").filter(|n| *n > 0);
    let block = block.ok_or_else(|| wrong(p, "says no blocksize"))?;
    let numbers = p.need(".weight.quant_map", &["F32"], &[&[16]])?;
    let numbers = p.floats(&numbers)?;
    let blocks = len.div_ceil(block);
    let stored = p.need(".weight.absmax", &["U8", "F32"], &[&[blocks]])?;
    let largest = match stored.info.type_name.as_str() {
        "U8" => {
            let size = number("nested_blocksize").filter(|n| *n > 0);
            let size = size.ok_or_else(|| wrong(p, "says no nested_blocksize"))?;
            let offset = json["nested_offset"].as_f64().unwrap_or(f64::NAN) as f32;
            if !offset.is_finite() {
                return Err(wrong(p, "says no nested_offset"));
            }
            nested(p, &stored, blocks.div_ceil(size), size, offset)?
        }
        _ => p.floats(&stored)?,
    };
    Ok(Box::new(Table {
        data: data.data,
        cols,
        numbers: std::array::from_fn(|i| numbers[i]),
        largest,
        block,
    }))
}

/// Largest numbers that are quantised themselves.
fn nested(p: &mut Parts, stored: &Raw, outer: usize, size: usize, offset: f32) -> Result<Vec<f32>> {
    let numbers = p.need(".weight.nested_quant_map", &["F32"], &[&[256]])?;
    let numbers = p.floats(&numbers)?;
    let scales = p.need(".weight.nested_absmax", &["F32"], &[&[outer]])?;
    let scales = p.floats(&scales)?;
    let all = stored.data.iter().enumerate();
    Ok(all
        .map(|(i, code)| numbers[usize::from(*code)] * scales[i / size] + offset)
        .collect())
}

impl Coded for Table {
    fn kept(&self) -> Kept {
        Kept::nearest(self.cols)
    }

    /// The first of two is in the upper half of a byte.
    fn values(&self, row: usize, out: &mut [f32]) {
        let first = row * self.cols;
        for (i, out) in out.iter_mut().enumerate() {
            let at = first + i;
            let code = self.data[at / 2] >> (4 * (1 - at % 2)) & 15;
            *out = self.numbers[usize::from(code)] * self.largest[at / self.block];
        }
    }
}

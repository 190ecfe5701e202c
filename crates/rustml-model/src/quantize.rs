//! Which format a linear layer is computed in.
//!
//! Only float weights are converted: those that a file has quantised already
//! would lose by it and gain nothing.

use rustml_io::DType;
use std::fmt;
use std::str::FromStr;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// A format for each shape, as it pays.
    Auto,
    /// The types in the file.
    None,
    /// This format, for every linear layer that the file holds in floats.
    To(DType),
}

impl Quantize {
    /// The words of the command line.
    pub const NAMES: [&'static str; 6] = ["auto", "none", "q8_0", "q4_0", "f16", "bf16"];
}

impl FromStr for Quantize {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Quantize::Auto),
            "none" => Ok(Quantize::None),
            "q8_0" => Ok(Quantize::To(DType::Q8_0)),
            "q4_0" => Ok(Quantize::To(DType::Q4_0)),
            "f16" => Ok(Quantize::To(DType::F16)),
            "bf16" => Ok(Quantize::To(DType::BF16)),
            _ => Err(format!("'{s}' is none of {}", Quantize::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quantize::Auto => f.write_str("auto"),
            Quantize::None => f.write_str("none"),
            Quantize::To(t) => f.write_str(&t.name().to_lowercase()),
        }
    }
}

/// The format to compute a linear layer of this shape in, that the file holds
/// in `stored`. Layers the file has quantised already stay as they are.
pub fn choose(quantize: Quantize, stored: DType, _outputs: usize, inputs: usize) -> DType {
    let wanted = match quantize {
        Quantize::None => stored,
        Quantize::To(t) => t,
        // Reading a quarter of the bytes pays for every shape that the packed
        // layout holds, since nothing is summed across lanes.
        Quantize::Auto => DType::Q8_0,
    };
    let fits = inputs.is_multiple_of(wanted.block_len());
    if stored.is_float() && fits {
        wanted
    } else {
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_say() {
        for name in Quantize::NAMES {
            assert_eq!(name.parse::<Quantize>().unwrap().to_string(), name);
        }
        let error = "q3_k".parse::<Quantize>().unwrap_err();
        assert_eq!(error, "'q3_k' is none of auto, none, q8_0, q4_0, f16, bf16");
    }

    #[test]
    fn floats_are_converted_where_blocks_fit() {
        let q8 = Quantize::To(DType::Q8_0);
        for stored in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(choose(q8, stored, 7, 64), DType::Q8_0);
            assert_eq!(choose(Quantize::Auto, stored, 7, 64), DType::Q8_0);
            assert_eq!(choose(Quantize::None, stored, 7, 64), stored);
            assert_eq!(choose(q8, stored, 7, 63), stored);
            assert_eq!(choose(Quantize::To(DType::F16), stored, 7, 63), DType::F16);
            assert_eq!(choose(Quantize::To(DType::Q4_K), stored, 7, 64), stored);
        }
        for to in [q8, Quantize::Auto, Quantize::To(DType::F32)] {
            assert_eq!(choose(to, DType::Q4_0, 7, 64), DType::Q4_0);
        }
    }
}

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
    /// For each shape the one that is fastest here, by measurement: Q8_0, BF16,
    /// or what the file holds.
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

/// Whether rows of so many inputs are whole blocks of the format.
pub fn fits(to: DType, inputs: usize) -> bool {
    inputs.is_multiple_of(to.block_len())
}

/// The format to compute a linear layer in that the file holds in `stored`,
/// unless that is to be measured. Layers the file has quantised already stay as
/// they are.
pub fn wanted(quantize: Quantize, stored: DType, inputs: usize) -> DType {
    match quantize {
        Quantize::To(to) if stored.is_float() && fits(to, inputs) => to,
        _ => stored,
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
            assert_eq!(wanted(q8, stored, 64), DType::Q8_0);
            assert_eq!(wanted(Quantize::None, stored, 64), stored);
            assert_eq!(wanted(q8, stored, 63), stored);
            assert_eq!(wanted(Quantize::To(DType::F16), stored, 63), DType::F16);
            assert_eq!(wanted(Quantize::To(DType::Q4_K), stored, 64), stored);
        }
        for to in [q8, Quantize::Auto, Quantize::To(DType::F32)] {
            assert_eq!(wanted(to, DType::Q4_0, 64), DType::Q4_0);
        }
    }
}

//! Which format a linear layer is computed in.

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

//! What loading did.

use crate::calibrate::Timings;
use rustml_io::DType;
use std::time::Duration;

/// What loading did with the linear layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Linear layers converted: from, to, how many.
    pub quantised: Vec<(DType, DType, usize)>,
    /// Matrices of a quantised checkpoint.
    pub recoded: Vec<Recoded>,
    /// Linear layers that were to be converted but whose width does not
    /// allow it: type kept, width, how many.
    pub kept: Vec<(DType, usize, usize)>,
    /// Bytes of packed weights.
    pub bytes: usize,
    /// Parameters of the model.
    pub parameters: usize,
    /// Formats of linear layers that were chosen by measurement.
    pub choices: Vec<Choice>,
    /// Whether the settings call head and embedding one matrix, but the file
    /// holds two that differ. Both are used.
    pub untied: bool,
    /// What the packed matrices took.
    pub times: LoadTimes,
}

/// A format that was chosen for linear layers of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Outputs of a layer.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Layers of that shape.
    pub layers: usize,
    /// Type in the file.
    pub stored: DType,
    /// Type in memory.
    pub chosen: DType,
    /// Time of a product of one row, in the type of the file and in those that
    /// were tried.
    pub timings: Timings,
}

/// Wall time of loading matrices. Threads read and pack side by side; the time
/// is divided as theirs is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTimes {
    /// Reading rows that keep their type.
    pub read: Duration,
    /// Reading rows and converting them.
    pub quantise: Duration,
    /// Packing.
    pub pack: Duration,
    /// Measuring formats.
    pub calibrate: Duration,
}

/// What became of matrices that the checkpoint has quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Recoded {
    /// As the checkpoint has them.
    pub from: &'static str,
    /// The format they were put into.
    pub to: DType,
    /// How many.
    pub matrices: usize,
    /// Squares of what was rounded off, and of the weights.
    missed: (f64, f64),
}

impl Recoded {
    /// The root mean square of what was rounded off, as a part of that of the weights: 0 if
    /// the weights are those of the checkpoint, number for number.
    pub fn error(&self) -> f64 {
        match self.missed {
            (_, 0.0) => 0.0,
            (missed, all) => (missed / all).sqrt(),
        }
    }
}

impl LoadReport {
    /// Notes one more matrix of a quantised checkpoint.
    pub(super) fn recode(&mut self, from: &'static str, to: DType, missed: (f64, f64)) {
        let mut all = self.recoded.iter_mut();
        match all.find(|r| (r.from, r.to) == (from, to)) {
            Some(r) => {
                r.matrices += 1;
                r.missed.0 += missed.0;
                r.missed.1 += missed.1;
            }
            None => self.recoded.push(Recoded {
                from,
                to,
                matrices: 1,
                missed,
            }),
        }
    }
}

//! A loaded model.

use crate::arch::Arch;
use crate::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::load::{load, LoadReport, Progress};
use crate::passes::PrefillNumerics;
use crate::quantize::Quantize;
use crate::spec::{Block, Part, Spec};
use crate::weights::Weights;
use rustml_io::Store;
use rustml_kernels::par::Team;
use rustml_kernels::Pool;
use rustml_simd::Isa;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Weights in memory, ready to run.
pub struct Model {
    arch: &'static Arch,
    path: PathBuf,
    spec: Spec,
    weights: Weights,
    frequencies: Vec<Vec<f32>>,
    team: Arc<Team>,
    numerics: PrefillNumerics,
    /// Layer and block of the last part that reads earlier positions.
    last_mixer: Option<(usize, usize)>,
    report: LoadReport,
}

/// Starts the compute threads, on the instruction set that `RUSTML_ISA` names
/// or the best this CPU has; with `RUSTML_PIN=1` each on a CPU of its own.
///
/// # Errors
/// If `RUSTML_ISA` names none of this CPU's, or `RUSTML_PIN` is neither 0 nor 1; if
/// the system refuses a thread, or to keep it on a CPU.
pub fn team(threads: usize) -> Result<Arc<Team>> {
    let isa = Isa::from_env().map_err(Error::Isa)?;
    let pin = std::env::var("RUSTML_PIN").unwrap_or_default();
    let pool = match &pin[..] {
        "" | "0" => Pool::new(threads),
        "1" => Pool::pinned(threads),
        _ => return Err(Error::Pin(pin)),
    };
    let pool = pool.map_err(Error::Threads)?;
    Ok(Arc::new(Team { isa, pool }))
}

impl Model {
    /// Loads an open model's weights.
    ///
    /// # Errors
    /// If the architecture is unknown, a setting or tensor is missing or
    /// wrong, or the memory cannot be had.
    pub fn load(
        store: &Store,
        quantize: Quantize,
        team: Arc<Team>,
        progress: Progress,
    ) -> Result<Model> {
        Model::load_with(store, quantize, &mut Calibration::default(), team, progress)
    }

    /// Loads an open model's weights; for [`Quantize::Auto`] with what was
    /// measured before.
    ///
    /// # Errors
    /// As for [`Model::load`].
    pub fn load_with(
        store: &Store,
        quantize: Quantize,
        calibration: &mut Calibration,
        team: Arc<Team>,
        progress: Progress,
    ) -> Result<Model> {
        let arch = Arch::of(store)?;
        let mut spec = arch.spec(store)?;
        let how = (quantize, calibration);
        let (weights, report) = load(store, arch, &mut spec, how, &team, progress)?;
        let frequencies = spec.ropes.iter().map(|r| r.frequencies()).collect();
        Ok(Model {
            numerics: PrefillNumerics::of(&team, weights.are_precise()),
            last_mixer: last_mixer(&spec),
            arch,
            path: store.path().to_owned(),
            spec,
            weights,
            frequencies,
            team,
            report,
        })
    }

    /// The file or directory it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The architecture's name in GGUF.
    pub fn arch(&self) -> &'static str {
        self.arch.gguf
    }
    /// The architecture as data.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
    /// What loading did.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }
    /// Threads and instruction set.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }
    /// How prefill rows are computed.
    pub(crate) fn numerics(&self) -> PrefillNumerics {
        self.numerics
    }
    /// Whether prefill rows differ from decode rows by rounding. Then what is
    /// cached of a position depends on which it was.
    pub fn phases_differ(&self) -> bool {
        self.numerics != PrefillNumerics::Same
    }
    /// Layer and block after whose reading of earlier positions a row is needed
    /// only if something is given for it. None where all are needed to the end, since every
    /// position sees all others.
    pub(crate) fn last_mixer(&self) -> Option<(usize, usize)> {
        self.last_mixer
    }
    /// Frequencies of each rope.
    pub(crate) fn frequencies(&self) -> &[Vec<f32>] {
        &self.frequencies
    }
}

/// Layer and block of the last part that reads earlier positions; the first
/// block if none does.
fn last_mixer(spec: &Spec) -> Option<(usize, usize)> {
    if spec.is_encoder() {
        return None;
    }
    let layers = spec.layers.iter().enumerate();
    let mut blocks =
        layers.flat_map(|(i, l)| l.blocks.iter().enumerate().map(move |(j, b)| ((i, j), b)));
    let mixers = |b: &Block| {
        let mixes = |p: &&Part| matches!(p, Part::Attention(_) | Part::Recurrent(_));
        b.parts().filter(mixes).count()
    };
    let last = blocks.rfind(|(_, b)| mixers(b) > 0);
    match last {
        // Each of them needs all rows.
        Some((_, b)) if mixers(b) > 1 => None,
        Some((at, _)) => Some(at),
        None => Some((0, 0)),
    }
}

//! `--profile`: a trace of every step, for the usual viewers.

use super::args::ProfileArgs;
use super::file::{cannot_write, spare_model};
use super::output::Failure;
use crate::Model;
use rustml_io::Output;
use rustml_trace::chrome::Trace;
use rustml_trace::Detail;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The trace, and what went wrong with it, if anything did.
struct State {
    trace: Trace<BufWriter<Output>>,
    failed: Option<io::Error>,
}

/// A trace that is being written: Chrome's JSON, which <https://ui.perfetto.dev>
/// opens.
pub struct Profile {
    path: PathBuf,
    state: Arc<Mutex<Option<State>>>,
}

impl Profile {
    /// Begins the file at `path` with what `model` does from now on.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn begin(path: &Path, model: &mut Model) -> Result<Profile, Failure> {
        spare_model(path, model.path())?;
        let out = BufWriter::with_capacity(1 << 18, Output::create(path)?);
        let trace = Trace::new(out).map_err(|e| cannot_write(path, e))?;
        let state = State {
            trace,
            failed: None,
        };
        let state = Arc::new(Mutex::new(Some(state)));
        let shared = state.clone();
        // Whole operations: their times are as the clock saw them, not shares.
        model.observe(
            Detail::Operations,
            Arc::new(move |step| {
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = state.as_mut().filter(|s| s.failed.is_none()) {
                    state.failed = state.trace.step(step).err();
                }
            }),
        );
        Ok(Profile {
            path: path.to_owned(),
            state,
        })
    }

    /// Ends the file, which then takes its name.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn finish(self) -> Result<(), Failure> {
        let failed = |e| cannot_write(&self.path, e);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.take() else {
            return Ok(());
        };
        if let Some(e) = state.failed {
            return Err(failed(e));
        }
        let out = state.trace.finish().map_err(failed)?;
        let out = out.into_inner().map_err(|e| failed(e.into_error()))?;
        Ok(out.finish()?)
    }
}

impl ProfileArgs {
    /// Begins the profile, if one is asked for.
    ///
    /// # Errors
    /// As for [`Profile::begin`].
    pub fn begin(&self, model: &mut Model) -> Result<Option<Profile>, Failure> {
        let path = self.profile.as_deref();
        path.map(|path| Profile::begin(path, model)).transpose()
    }

    /// Whether the file can be written: to be asked before work that takes
    /// long.
    ///
    /// # Errors
    /// A sentence if it cannot.
    pub fn check(&self) -> Result<(), Failure> {
        Ok(self.profile.as_deref().map_or(Ok(()), Output::check)?)
    }
}

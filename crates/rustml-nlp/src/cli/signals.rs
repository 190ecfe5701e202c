//! Ctrl-C, and the request to end that systems send.

use super::output::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// What SIGINT (Ctrl-C) and SIGTERM do.
///
/// At first they end the process at once, with the exit status that shells
/// use, 128 and the signal's number. Between [`Signals::begin`] and
/// [`Signals::end`] the first one only sets a flag, so that what was generated
/// until then can be printed; a second one does not wait for that.
pub struct Signals {
    at_once: Arc<AtomicBool>,
    cancel: Arc<AtomicBool>,
    /// The signal that set `cancel`.
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// The number of the signal that Ctrl-C sends.
    pub const INTERRUPT: i32 = SIGINT;

    /// Takes over from the system. Call it once, and early.
    pub fn install() -> Signals {
        let signals = Signals {
            at_once: Arc::new(AtomicBool::new(true)),
            cancel: Arc::default(),
            number: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM] {
            if let Err(e) = signals.register(signal) {
                tracing::warn!("signal {signal} will not stop cleanly: {e}");
            }
        }
        signals
    }

    /// The order counts: they act in it.
    fn register(&self, signal: i32) -> io::Result<()> {
        flag::register_conditional_shutdown(signal, 128 + signal, self.at_once.clone())?;
        flag::register_usize(signal, self.number.clone(), signal as usize)?;
        flag::register(signal, self.cancel.clone())?;
        flag::register(signal, self.at_once.clone())?;
        Ok(())
    }

    /// Work begins that looks at the flag returned, and stops when it is set.
    pub fn begin(&self) -> Arc<AtomicBool> {
        self.cancel.store(false, Ordering::SeqCst);
        self.number.store(0, Ordering::SeqCst);
        self.at_once.store(false, Ordering::SeqCst);
        self.cancel.clone()
    }

    /// The work is over.
    ///
    /// # Errors
    /// [`Failure::Signal`] if a signal came meanwhile.
    pub fn end(&self) -> Result<(), Failure> {
        self.at_once.store(true, Ordering::SeqCst);
        match self.number.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Failure::Signal(signal as i32)),
        }
    }
}

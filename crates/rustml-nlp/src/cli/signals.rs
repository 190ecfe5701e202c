//! Ctrl-C, and the request to end that systems send.

use super::output::Failure;
use rustml_io::Output;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals as Incoming;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// SIGTERM that follows another one so soon is the same request.
const TWIN: Duration = Duration::from_secs(1);

/// What SIGINT (Ctrl-C), SIGTERM and SIGHUP (a terminal that is closed) do.
///
/// At first they end the process at once, with the exit status that shells
/// use, 128 and the signal's number; files that are not finished are removed.
/// Between [`Signals::begin`] and [`Signals::end`] the first one only sets a
/// flag, so that what was generated until then can be printed; a second one does
/// not wait for that.
pub struct Signals {
    state: Arc<State>,
    cancel: Arc<AtomicBool>,
}

/// What a signal changes.
struct State {
    at_once: AtomicBool,
    /// The signal that set `cancel`.
    number: AtomicUsize,
    /// Milliseconds after the first signal in which others are the same one.
    patience: AtomicU64,
}

impl Signals {
    /// The number of the signal that Ctrl-C sends.
    pub const INTERRUPT: i32 = SIGINT;

    /// Takes over from the system. Call it once, and early.
    pub fn install() -> Signals {
        #[cfg(unix)]
        rustml_io::report_torn_files();
        let signals = Signals {
            state: Arc::new(State {
                at_once: AtomicBool::new(true),
                number: AtomicUsize::new(0),
                patience: AtomicU64::new(0),
            }),
            cancel: Arc::default(),
        };
        if let Err(e) = signals.listen() {
            tracing::warn!("signals will not stop cleanly: {e}");
            // Without a thread of their own they still stop.
            for signal in [SIGINT, SIGTERM] {
                let _ = flag::register(signal, signals.cancel.clone());
            }
        }
        signals
    }

    /// A thread waits for them: it may do what a handler may not, such as
    /// removing files.
    fn listen(&self) -> io::Result<()> {
        // A shell's `nohup` has it ignored, and so it stays.
        let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        let wanted = [SIGINT, SIGTERM].into_iter().chain(hang_up);
        let mut incoming = Incoming::new(wanted)?;
        let (state, cancel) = (self.state.clone(), self.cancel.clone());
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(move || {
            let mut first: Option<(i32, Instant)> = None;
            for signal in incoming.forever() {
                let now = Instant::now();
                let patience = Duration::from_millis(state.patience.load(Ordering::SeqCst));
                // `timeout` sends SIGTERM to its child and again to the group.
                let is_same = first.is_some_and(|(number, at)| {
                    let twins = number == SIGTERM && signal == SIGTERM;
                    let same = if twins { TWIN.max(patience) } else { patience };
                    now.saturating_duration_since(at) < same
                });
                if is_same {
                    continue;
                }
                first = Some((signal, now));
                if state.at_once.swap(true, Ordering::SeqCst) {
                    Output::abandon_all();
                    signal_hook::low_level::exit(128 + signal);
                }
                state.number.store(signal as usize, Ordering::SeqCst);
                cancel.store(true, Ordering::SeqCst);
            }
        })?;
        Ok(())
    }

    /// Work begins that looks at the flag returned, and stops when it is set.
    pub fn begin(&self) -> Arc<AtomicBool> {
        self.cancel.store(false, Ordering::SeqCst);
        self.state.number.store(0, Ordering::SeqCst);
        self.state.at_once.store(false, Ordering::SeqCst);
        self.cancel.clone()
    }

    /// As [`Signals::begin`], but signals that follow the first one within `patience`
    /// are taken for the same, and only a later one ends the process at once. For the
    /// rest of the process.
    pub fn begin_patiently(&self, patience: Duration) -> Arc<AtomicBool> {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.state.patience.store(patience, Ordering::SeqCst);
        self.begin()
    }

    /// The work is over.
    ///
    /// # Errors
    /// [`Failure::Signal`] if a signal came meanwhile.
    pub fn end(&self) -> Result<(), Failure> {
        self.state.at_once.store(true, Ordering::SeqCst);
        match self.state.number.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Failure::Signal(signal as i32)),
        }
    }
}

/// Whether whoever started us had a signal ignored; where the system does not
/// tell, it counts as such.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << (signal - 1)) != 0)
}

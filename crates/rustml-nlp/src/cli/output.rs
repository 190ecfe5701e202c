//! Printing, logging, failing and being interrupted.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// How a command ends, other than well.
#[derive(Debug)]
pub enum Failure {
    /// The command line makes no sense: exit status 2.
    Usage(String),
    /// Something else: exit status 1.
    Other(String),
    /// Ctrl-C: exit status 130, and nothing more to say.
    Interrupted,
    /// Nobody reads what we print, as in `| head`: nothing to say.
    BrokenPipe,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::Other(e.to_string())
    }
}

/// Says on standard error what went wrong; the exit status for it.
pub fn fail(failure: Failure) -> ExitCode {
    let (message, status) = match failure {
        Failure::Usage(message) => (message, 2),
        Failure::Other(message) => (message, 1),
        Failure::Interrupted => return ExitCode::from(130),
        Failure::BrokenPipe => return ExitCode::SUCCESS,
    };
    let red = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if red {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    // Standard error may be closed; there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{label} {message}");
    ExitCode::from(status)
}

/// Writes to standard output at once.
///
/// # Errors
/// If it cannot be written; a closed pipe is told apart.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    done.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Other(format!("cannot write to standard output: {e}")),
    })
}

/// Sends log lines to standard error, as `RUST_LOG` asks; warnings by default.
pub fn init_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours);
    // Already set where several commands run in one process, as in tests.
    let _ = logging.try_init();
}

/// A flag that Ctrl-C sets, so that work ends after the current step; a
/// second Ctrl-C ends the process.
pub fn interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    let handler = move || {
        if set.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not stop cleanly: {e}");
    }
    flag
}

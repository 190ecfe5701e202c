//! Printing, logging, failing.

use rustml_io::stdout_is_closed;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// How a command ends, other than well.
#[derive(Debug)]
pub enum Failure {
    /// The command line makes no sense: exit status 2.
    Usage(String),
    /// Something else: exit status 1.
    Other(String),
    /// It did what it should, and found that something became slower than is
    /// allowed: exit status 3.
    Slower(String),
    /// A signal ended it: exit status 128 and its number, thus 130 after
    /// Ctrl-C, and nothing more to say.
    Signal(i32),
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
        Failure::Slower(message) => (message, 3),
        Failure::Signal(number) => return ExitCode::from(128u8.saturating_add(number as u8)),
        Failure::BrokenPipe => return ExitCode::SUCCESS,
    };
    complain(message);
    ExitCode::from(status)
}

/// Says on standard error that something went wrong.
pub fn complain(message: impl Display) {
    match colours(&io::stderr()) {
        true => note(format_args!("\x1b[1;31merror:\x1b[0m {message}")),
        false => note(format_args!("error: {message}")),
    }
}

/// Whether colours are welcome there: on a terminal, unless `NO_COLOR` is set
/// to anything (<https://no-color.org>).
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Writes to standard output at once.
///
/// # Errors
/// If it cannot be written; a closed pipe is told apart.
pub fn print(text: &str) -> Result<(), Failure> {
    if stdout_is_closed() {
        let text = "cannot write to standard output: it was closed from the start";
        return Err(Failure::Other(text.into()));
    }
    let mut out = io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    done.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Other(format!("cannot write to standard output: {e}")),
    })
}

/// Writes a model's text to standard output at once: as it is, but on a
/// terminal without what could steer that.
///
/// # Errors
/// As for [`print()`].
pub fn print_text(text: &str) -> Result<(), Failure> {
    match io::stdout().is_terminal() {
        true => print(&tame(text)),
        false => print(text),
    }
}

/// Lines and tabs are kept, other control characters are shown.
fn tame(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(['\n', '\t']) {
        let end = part.strip_suffix(['\n', '\t']).map_or(part.len(), str::len);
        // The system's own end of a line.
        let kept = part[..end]
            .strip_suffix('\r')
            .filter(|_| part.ends_with('\n'));
        out += &harmless(kept.unwrap_or(&part[..end]));
        out += &part[end..];
    }
    out
}

/// Writes a line to standard error. That may be closed or full; then there is
/// nobody left to tell, which is no reason to stop, as `eprintln!` would.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Text from a file or a stranger, fit for a terminal: control characters are
/// escaped, so that it cannot steer it.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Sends log lines to standard error, as `RUST_LOG` asks, else as `default`
/// does in the same notation.
pub fn init_logging(default: &str) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, complaint) = match EnvFilter::try_new(&wanted) {
        _ if wanted.is_empty() => (EnvFilter::new(default), None),
        Ok(filter) => (filter, None),
        Err(e) => (EnvFilter::new(default), Some(e)),
    };
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours(&io::stderr()))
        // It would report them on standard error, which is what failed.
        .log_internal_errors(false);
    // Already set where several commands run in one process, as in tests.
    let _ = logging.try_init();
    if let Some(e) = complaint {
        tracing::warn!(target: "rustml", "RUST_LOG is ignored: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_text_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2J\r\nü\u{9b}"), "a\\u{1b}[2J\\r\\nü\\u{9b}");
        assert_eq!(tame("a\tb\r\n\n\rc\x08"), "a\tb\n\n\\rc\\u{8}");
        assert_eq!(tame("\n"), "\n");
    }
}

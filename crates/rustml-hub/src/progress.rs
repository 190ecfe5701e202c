//! What a person sees while bytes are coming in.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text::bytes;

/// How downloads show themselves, always on stderr: stdout belongs to results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Progress {
    /// A bar if stderr is a terminal, otherwise a line per file.
    #[default]
    Auto,
    /// A plain line per file.
    Lines,
    /// Nothing.
    Quiet,
}

/// The progress of one model's download: one bar over all its bytes, because
/// "when can I start" is the question, not how each file is doing.
pub(crate) struct Meter {
    look: Look,
    /// Bytes of the files that are done.
    done: u64,
}

enum Look {
    Bar(ProgressBar),
    Lines { from: String, since: Instant },
    Quiet,
}

impl Meter {
    /// For `total` bytes, of which `present` are on disk already.
    pub fn new(progress: Progress, total: u64, present: u64, from: &str) -> Meter {
        let look = match progress {
            Progress::Quiet => Look::Quiet,
            Progress::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
                    .with_style(style())
                    .with_position(present);
                // The speed counts from here, not from an empty disk.
                bar.reset_eta();
                bar.enable_steady_tick(Duration::from_millis(200));
                Look::Bar(bar)
            }
            Progress::Auto | Progress::Lines => Look::Lines {
                from: from.to_owned(),
                since: Instant::now(),
            },
        };
        Meter { look, done: 0 }
    }

    /// A file begins (or goes on after `present` bytes).
    pub fn file(&self, name: &str, size: u64, present: u64) {
        match &self.look {
            Look::Bar(bar) => {
                bar.set_message(name.to_owned());
                bar.set_position(self.done.saturating_add(present));
            }
            Look::Lines { from, .. } => {
                let size = bytes(size);
                say(&match present {
                    0 => format!("downloading {name} ({size}) from {from}"),
                    _ => format!(
                        "downloading {name} ({size}) from {from}, {} of it are here",
                        bytes(present)
                    ),
                });
            }
            Look::Quiet => {}
        }
    }

    /// The current file has this many bytes on disk.
    pub fn at(&self, position: u64) {
        if let Look::Bar(bar) = &self.look {
            bar.set_position(self.done.saturating_add(position));
        }
    }

    /// The current file is complete.
    pub fn file_done(&mut self, size: u64) {
        self.done = self.done.saturating_add(size);
        self.at(0);
    }

    /// Something worth a line of its own.
    pub fn note(&self, text: &str) {
        match &self.look {
            Look::Bar(bar) => bar.println(text),
            Look::Lines { .. } => say(text),
            Look::Quiet => {}
        }
    }

    /// All files are here.
    pub fn finish(self, name: &str) {
        match &self.look {
            Look::Bar(bar) => bar.finish_and_clear(),
            Look::Lines { since, .. } => {
                let seconds = since.elapsed().as_secs_f64();
                say(&format!("downloaded {name} in {seconds:.1} s"));
            }
            Look::Quiet => {}
        }
    }
}

impl Drop for Meter {
    /// A failed download leaves no half-drawn bar above its error message.
    fn drop(&mut self) {
        if let Look::Bar(bar) = &self.look {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str =
    "{wide_msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

fn style() -> ProgressStyle {
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// A closed stderr must not end a download, so its error is dropped.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}

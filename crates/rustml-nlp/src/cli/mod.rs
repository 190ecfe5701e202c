//! Flags and conduct of the command line: what goes where, and which exit
//! status says what.
//!
//! Standard output holds results alone, standard error everything else. The
//! exit status is 0 for success, 2 for a command line that makes no sense,
//! 130 after Ctrl-C, and 1 for everything else that fails.

mod args;
mod infer;
mod output;

pub use args::{Format, InferArgs, LoadArgs, ModelArgs, SamplingArgs};
pub use infer::{infer, open};
pub use output::{fail, init_logging, interrupt, print, Failure};

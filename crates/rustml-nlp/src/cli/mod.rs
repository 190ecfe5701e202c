//! Flags and conduct of the command line: what goes where, and which exit
//! status says what.
//!
//! Standard output holds results alone, standard error everything else. The
//! exit status is 0 for success, 2 for a command line that makes no sense,
//! 130 after Ctrl-C, 143 after SIGTERM, 3 where a report finds that something
//! became slower, and 1 for everything else that fails.

mod args;
mod file;
mod help;
mod infer;
mod open;
mod output;
mod profile;
mod signals;

pub use rustml_io::Output;

pub use args::{
    DraftArgs, Format, InferArgs, LoadArgs, ModelArgs, ProfileArgs, SamplingArgs, SourceArgs,
    SystemArgs,
};
pub use file::{cannot_write, spare_model};
pub use help::{environment, examples, VARIABLES};
pub use infer::{infer, stdin};
pub use open::{locate, locate_weights, open, open_draft, open_tokenizer, open_weights};
pub use output::{
    colours, complain, fail, harmless, init_logging, note, print, print_text, Failure,
};
pub use profile::Profile;
pub use signals::Signals;

//! The classic command: a prompt in, text out. The same as `rustml infer`.

#![forbid(unsafe_code)]

use clap::Parser;
use rustml_nlp::cli::{fail, infer, init_logging, InferArgs, Signals};
use std::process::ExitCode;

/// Generate text from a prompt with a language model on the CPU
///
/// The model is a GGUF file, a directory with safetensors, or a name on the
/// hub. The text goes to standard output, everything else to standard error.
#[derive(Parser)]
#[command(
    name = "rustml-infer",
    version,
    max_term_width = 100,
    after_help = InferArgs::examples("rustml-infer"),
    after_long_help = InferArgs::long_help("rustml-infer"),
)]
struct Cli {
    #[command(flatten)]
    args: InferArgs,
}

fn main() -> ExitCode {
    let args = Cli::parse().args;
    init_logging("warn");
    match infer(&args, &Signals::install()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure),
    }
}

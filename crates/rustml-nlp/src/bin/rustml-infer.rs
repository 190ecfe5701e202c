//! The classic command: a prompt in, text out. The same as `rustml infer`.

use clap::Parser;
use rustml_nlp::cli::{fail, infer, init_logging, InferArgs};
use std::process::ExitCode;

/// Generate text from a prompt with a language model on the CPU
///
/// The model is a GGUF file, a directory with safetensors, or a name on the
/// hub. The text goes to standard output, everything else to standard error.
/// RUST_LOG=rustml=debug shows where each step's time goes, RUST_LOG=rustml=trace
/// each layer's; RUSTML_ISA=avx2 (sse4.1, avx512-vnni, ...) forces an
/// instruction set.
#[derive(Parser)]
#[command(name = "rustml-infer", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    args: InferArgs,
}

fn main() -> ExitCode {
    init_logging();
    match infer(&Cli::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure),
    }
}

//! The `rustml` command: one subcommand a file.
//!
//! The flags that several of them have, and how commands behave (what goes to
//! standard output, which exit status says what), are defined once, in
//! [`rustml_nlp::cli`]; `rustml infer` is `rustml-infer`.

#![forbid(unsafe_code)]

mod bench;
mod bench_serve;
mod chat;
mod embed;
mod fingerprint;
mod hub;
mod input;
mod inspect;
mod logits;
mod memory;
mod report;
mod rerank;
mod serve;
mod summary;
mod synth;
mod text;
mod tokenize;

use clap::{CommandFactory, Parser, Subcommand};
use rustml_nlp::cli::{
    environment, examples, fail, infer, init_logging, print, Failure, InferArgs, Signals,
};
use std::process::ExitCode;

/// Run open language models on the CPU
///
/// Models are GGUF files, directories with safetensors, or names on the
/// Hugging Face hub. Results go to standard output, everything else to
/// standard error.
#[derive(Parser)]
#[command(
    name = "rustml",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = overview(),
    after_long_help = format!("{}\n\n{}", overview(), environment()),
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(
        after_help = InferArgs::examples("rustml infer"),
        after_long_help = InferArgs::long_help("rustml infer"),
    )]
    Infer(InferArgs),
    Chat(chat::ChatArgs),
    Serve(serve::ServeArgs),
    Inspect(inspect::InspectArgs),
    Tokenize(tokenize::TokenizeArgs),
    Embed(embed::EmbedArgs),
    Rerank(rerank::RerankArgs),
    Logits(logits::LogitsArgs),
    Bench(bench::BenchArgs),
    BenchServe(bench_serve::BenchServeArgs),
    Synth(synth::SynthArgs),
    Report(report::ReportArgs),
    Pull(hub::PullArgs),
    List(hub::ListArgs),
    Rm(hub::RmArgs),
    Completions(CompletionsArgs),
}

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = examples(&[
    ("Complete with Tab in bash, from the next login on",
     "rustml completions bash > ~/.local/share/bash-completion/completions/rustml"),
    ("The same in fish",
     "rustml completions fish > ~/.config/fish/completions/rustml.fish"),
]))]
struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

fn overview() -> String {
    examples(&[
        (
            "Talk with the default model, which is downloaded once (270 MB)",
            "rustml chat",
        ),
        (
            "Continue a text",
            "rustml infer model.gguf --prompt \"Once upon a time\"",
        ),
        ("See what is in a file", "rustml inspect model.gguf"),
    ])
}

fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rustml", &mut script);
    print(&String::from_utf8_lossy(&script))
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // With RUST_BACKTRACE set, each error on its way up through a deep grammar
    // would walk the whole stack: seconds of a server's time for a request.
    // Panics still tell theirs.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
    }
    init_logging(match command {
        // A server tells of each request.
        Command::Serve(_) => "warn,rustml_server=info",
        _ => "warn",
    });
    let signals = Signals::install();
    let done = match &command {
        Command::Infer(args) => infer(args, &signals),
        Command::Chat(args) => chat::run(args, &signals),
        Command::Serve(args) => serve::run(args, &signals),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Rerank(args) => rerank::run(args),
        Command::Logits(args) => logits::run(args, &signals),
        Command::Bench(args) => bench::run(args),
        Command::BenchServe(args) => bench_serve::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Report(args) => report::run(args, &signals),
        Command::Pull(args) => hub::pull(args),
        Command::List(args) => hub::list(args),
        Command::Rm(args) => hub::rm(args),
        Command::Completions(args) => completions(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

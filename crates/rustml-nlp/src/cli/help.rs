//! What stands below the flags in the help.

use super::args::InferArgs;

/// Bold and underlined like the other headings; left out where clap leaves
/// out colours.
fn heading(title: &str) -> String {
    format!("\x1b[1m\x1b[4m{title}:\x1b[0m")
}

/// Examples for the end of a command's help: what it does, and the line.
pub fn examples(all: &[(&str, &str)]) -> String {
    let mut out = heading("Examples");
    for (what, line) in all {
        out += &format!("\n  \x1b[2m# {what}\x1b[0m\n  {line}");
    }
    out
}

/// The variables that every command listens to.
pub const ENVIRONMENT: &str = "\
\x1b[1m\x1b[4mEnvironment:\x1b[0m
  RUST_LOG          rustml=debug: where each step's time goes; rustml=trace: each layer's
  RUSTML_ISA        force an instruction set: scalar, sse4.1, avx2, avx2-vnni, avx512-vnni,
                    neon, neon-dotprod
  RUSTML_PIN        1: each compute thread stays on a CPU of its own
  HF_HOME           where models are cached [default: ~/.cache/huggingface]
  HF_HUB_OFFLINE    1: download nothing
  HF_TOKEN          an access token, for models that need one
  NO_COLOR          no colours";

impl InferArgs {
    /// Examples for the command, which is called `program`.
    pub fn examples(program: &str) -> String {
        examples(&[
            (
                "Continue a text, with a model of the hub",
                &format!("{program} --safetensors openai-community/gpt2 --prompt \"Hello\""),
            ),
            (
                "Answer a question, word by word as they come",
                &format!("{program} model.gguf --chat --stream --prompt \"Why is the sky blue?\""),
            ),
            (
                "A prompt from a file, always the likeliest words, the result as JSON",
                &format!("{program} model.gguf --temperature 0 --format json < prompt.txt"),
            ),
            (
                "Many prompts together, one a line",
                &format!("{program} model.gguf --batch-file prompts.txt --max-tokens 50"),
            ),
        ])
    }

    /// The examples, and the environment.
    pub fn long_help(program: &str) -> String {
        format!("{}\n\n{ENVIRONMENT}", InferArgs::examples(program))
    }
}

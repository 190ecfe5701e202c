//! What stands below the flags in the help.

use super::args::InferArgs;
use rustml_simd::Isa;

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

/// The variables that every command listens to, and what each does.
/// docs/command-line.md has the same, and says more; a test compares them.
pub const VARIABLES: [(&str, &str); 12] = [
    (
        "RUST_LOG",
        "rustml=debug: where each step's time goes; rustml=trace: each layer's",
    ),
    ("RUSTML_ISA", "force an instruction set: "),
    (
        "RUSTML_PIN",
        "1: each compute thread stays on a CPU of its own",
    ),
    (
        "RUSTML_HUGE_PAGES",
        "0: keep weights and cache on small pages",
    ),
    (
        "HF_HOME",
        "where models are cached [default: ~/.cache/huggingface]",
    ),
    ("HF_HUB_CACHE", "the directory of the models alone"),
    ("HF_ENDPOINT", "another server than https://huggingface.co"),
    ("HF_TOKEN", "an access token, for models that need one"),
    ("HF_HUB_OFFLINE", "1: download nothing"),
    (
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "seconds that the server may be silent [default: 30]",
    ),
    (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "1: no progress bars for downloads",
    ),
    ("NO_COLOR", "set to anything: no colours"),
];

/// The variables, for the end of a command's long help.
pub fn environment() -> String {
    let mut out = heading("Environment");
    for (name, what) in VARIABLES {
        let more = match name {
            "RUSTML_ISA" => Isa::ALL.map(Isa::name).join(", "),
            _ => String::new(),
        };
        let width = VARIABLES
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        out += &format!("\n  {name:width$}  {what}{more}");
    }
    out
}

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
        format!("{}\n\n{}", InferArgs::examples(program), environment())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The help and the docs list the same variables and instruction sets.
    #[test]
    fn the_docs_say_what_the_help_says() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/command-line.md");
        let docs = std::fs::read_to_string(docs).unwrap();
        let rows: Vec<&str> = docs
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let row = |name: &str| {
            let found = rows.iter().find(|row| row.contains(&format!("`{name}`")));
            found.unwrap_or_else(|| panic!("docs/command-line.md has no row for {name}"))
        };
        for (name, _) in VARIABLES {
            row(name);
        }
        let sets = row("RUSTML_ISA");
        for isa in Isa::ALL {
            assert!(
                sets.contains(&format!("`{}`", isa.name())),
                "{}",
                isa.name()
            );
            assert!(environment().contains(isa.name()));
        }
        let is_ours = |word: &&str| {
            ["RUSTML_", "HF_"]
                .iter()
                .any(|start| word.starts_with(start))
        };
        let first = rows.iter().filter_map(|row| row.split('`').nth(1));
        for name in first.filter(is_ours) {
            assert!(
                VARIABLES.iter().any(|v| v.0 == name),
                "--help has no {name}"
            );
        }
    }
}

//! The flags, and what they come to.

use rustml_nlp::cli::{examples, Failure, SourceArgs};
use rustml_nlp::{KvType, Model, Quantize, DEFAULT_MODEL};
use rustml_trace::round::Setup;
use std::path::{Path, PathBuf};

/// Show where the time goes, and what would make it less
///
/// Measures a prompt and the tokens after it, several times, and the most that
/// this machine can do; says of every operation what it takes, moves and
/// computes, and how far it is from what binds it. Markdown goes to standard
/// output; every figure is measured or follows from what was measured.
///
/// A round that was kept with --save can be compared with a later one. With one
/// round to compare, the model is measured again as in that round, unless
/// flags say otherwise; with two, nothing is measured.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    mut_arg("safetensors", |a| a.conflicts_with("shape")),
    after_help = examples(&[
        ("A report to read in a browser",
         "rustml report model.gguf --html report.html --output report.md"),
        ("What a machine is worth, without a model at hand",
         "rustml report --shape llama-3.2-1b --quantize q4_0"),
        ("Has it become slower? The exit status says so",
         "rustml report model.gguf --save before.json > before.md\n  \
          # ... change something ...\n  \
          rustml report --compare before.json --fail-over 5%"),
    ]),
)]
pub struct ReportArgs {
    #[command(flatten)]
    pub source: SourceArgs,

    /// Random weights of this shape, in place of a model: gemma-3-1b-it, gpt2,
    /// llama-3.2-1b and others (see rustml synth), or a config.json
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "model")]
    pub shape: Option<String>,

    /// Write the report to this file [default: standard output]
    #[arg(long, short, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Write all figures, too, as docs/report.schema.json says
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,

    /// Write the report, too, as one HTML file with its charts
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    /// Keep the measurements for comparing
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub save: Option<PathBuf>,

    /// Compare with a kept round; or compare two, and measure nothing
    #[arg(long, value_name = "FILE", num_args = 1..=2, help_heading = "Comparing")]
    pub compare: Vec<PathBuf>,

    /// Exit with 3 if something really became slower by more than this, as 5%
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, requires = "compare",
          help_heading = "Comparing")]
    pub fail_over: Option<Percent>,

    /// Compare even different models or machines, and load even a model that there
    /// seems to be no memory for
    #[arg(long, help_heading = "Comparing")]
    pub force: bool,

    /// Tokens of the prompt [default: 128, or what fits]
    #[arg(long, value_name = "N", value_parser = parse_positive, help_heading = "Measuring")]
    pub prompt_tokens: Option<usize>,

    /// Tokens to generate [default: 64, or what fits]
    #[arg(long, value_name = "N", value_parser = parse_positive, help_heading = "Measuring")]
    pub max_tokens: Option<usize>,

    /// Repetitions, for each of which the model is loaded anew [default: 5]
    #[arg(long, value_name = "N", value_parser = parse_positive, help_heading = "Measuring")]
    pub repeat: Option<usize>,

    /// Compute threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024),
          help_heading = "Measuring")]
    pub threads: Option<u16>,

    /// Convert linear layers that the file holds as floats: auto, none, q8_0,
    /// q4_0, f16 or bf16 [default: q8_0 for safetensors and shapes, none for
    /// GGUF]
    ///
    /// auto measures which of q8_0, bf16 and the file's type is fastest here for
    /// each shape of layers, and keeps what it found for this CPU and build in
    /// rustml/formats.json of $XDG_CACHE_HOME or ~/.cache.
    #[arg(long, value_name = "FORMAT", help_heading = "Measuring")]
    pub quantize: Option<Quantize>,

    /// How keys and values are cached: f16, q8_0 or f32 [default: f16]
    #[arg(long, value_name = "TYPE", help_heading = "Measuring")]
    pub kv_type: Option<KvType>,

    /// Load without a warm-up
    #[arg(long, help_heading = "Measuring")]
    pub no_warmup: bool,
}

/// A share, written as a percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

fn parse_percent(text: &str) -> Result<Percent, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    match number.parse::<f64>() {
        Ok(p) if p.is_finite() && p >= 0.0 => Ok(Percent(p / 100.0)),
        _ => Err("it must be a percentage like 5%".into()),
    }
}

fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(n) if n > 1 << 24 => Err("that is more than any model takes".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

const PROMPT_TOKENS: usize = 128;
const MAX_TOKENS: usize = 64;
const REPEAT: usize = 5;

impl ReportArgs {
    /// The files that are to be written.
    pub fn outputs(&self) -> impl Iterator<Item = &Path> {
        let all = [&self.output, &self.json, &self.html, &self.save];
        all.into_iter().flatten().map(PathBuf::as_path)
    }

    /// What is to be measured: as the flags say, else as the earlier round was.
    pub fn setup(&self, before: Option<&Setup>) -> Setup {
        let named = self.source.model.is_some() || self.source.safetensors.is_some();
        let (source, synthetic) = match (&self.shape, before) {
            (Some(shape), _) => (shape.clone(), true),
            (None, Some(before)) if !named => (before.source.clone(), before.synthetic),
            (None, _) if named => (self.source.shown(), false),
            (None, _) => (DEFAULT_MODEL.to_owned(), false),
        };
        let threads = self.threads.map(usize::from);
        Setup {
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("RUSTML_COMMIT").map(str::to_owned),
            source,
            synthetic,
            prompt_tokens: pick(
                self.prompt_tokens,
                before.map(|b| b.prompt_tokens),
                PROMPT_TOKENS,
            ),
            max_tokens: pick(self.max_tokens, before.map(|b| b.max_tokens), MAX_TOKENS),
            repeat: pick(self.repeat, before.map(|b| b.repeat), REPEAT),
            quantize: match self.quantize {
                Some(q) => Some(q.to_string()),
                None => before.and_then(|b| b.quantize.clone()),
            },
            kv_type: match self.kv_type {
                Some(t) => Some(t.to_string()),
                None => before.and_then(|b| b.kv_type.clone()),
            },
            threads: threads.or(before.and_then(|b| b.threads)),
            warm_up: !self.no_warmup && before.is_none_or(|b| b.warm_up),
        }
    }

    /// Makes what was not asked for fit the model's context.
    ///
    /// # Errors
    /// If what was asked for does not.
    pub fn fit(&self, setup: &mut Setup, model: &Model) -> Result<(), Failure> {
        let context = model.context();
        if self.prompt_tokens.is_none() {
            setup.prompt_tokens = setup.prompt_tokens.min(context / 2).max(1);
        }
        if self.max_tokens.is_none() {
            let left = context.saturating_sub(setup.prompt_tokens);
            setup.max_tokens = setup.max_tokens.min(left).max(1);
        }
        match setup.prompt_tokens.saturating_add(setup.max_tokens) > context {
            true => Err(Failure::Other(format!(
                "{} tokens of prompt and {} to generate are more than the model's context of \
                 {context}; lower --prompt-tokens or --max-tokens",
                setup.prompt_tokens, setup.max_tokens
            ))),
            false => Ok(()),
        }
    }
}

fn pick(asked: Option<usize>, before: Option<usize>, default: usize) -> usize {
    asked.or(before).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(parse_percent("5%"), Ok(Percent(0.05)));
        assert_eq!(parse_percent(" 2.5 % "), Ok(Percent(0.025)));
        for wrong in ["", "%", "-1%", "x", "inf"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }
}

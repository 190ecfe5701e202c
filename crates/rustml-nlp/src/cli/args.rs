//! The flags, each defined once.

use crate::{Context, KvType, LoadOptions, Options, Quantize, Sampling, DEFAULT_MODEL};
use clap::{Args, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// Which model, and how it is loaded.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Which.
    #[command(flatten)]
    pub source: SourceArgs,

    /// How.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Which model.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// A GGUF file, a directory with safetensors, or a name on the hub
    ///
    /// A local path of that name, else a model of the Hugging Face hub, from
    /// the local cache or downloaded to it: org/name, org/name:Q4_K_M for one of
    /// its GGUF files, org/name/file.gguf, org/name@revision. Without it, and
    /// without --safetensors, the model is HuggingFaceTB/SmolLM2-135M-Instruct.
    #[arg(value_name = "GGUF_PATH", conflicts_with = "safetensors")]
    pub model: Option<OsString>,

    /// A model in safetensors: a name on the hub (org/name) or a directory
    #[arg(long, value_name = "ID|DIR", help_heading = "Model")]
    pub safetensors: Option<OsString>,
}

impl SourceArgs {
    /// The model's name or path.
    pub fn name(&self) -> &OsStr {
        let name = self.model.as_deref().or(self.safetensors.as_deref());
        name.unwrap_or(OsStr::new(DEFAULT_MODEL))
    }

    /// The same for people to read.
    pub fn shown(&self) -> String {
        self.name().to_string_lossy().into_owned()
    }
}

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Compute threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = parse_threads, help_heading = "Model")]
    pub threads: Option<usize>,

    /// Convert linear layers that the file holds as floats: auto, none, q8_0,
    /// q4_0, f16 or bf16 [default: q8_0 for safetensors, none for GGUF]
    ///
    /// auto measures which of q8_0, bf16 and the file's type is fastest here for
    /// each shape of layers, and keeps what it found for this CPU and build in
    /// rustml/formats.json of $XDG_CACHE_HOME or ~/.cache; none keeps the file's types. Layers that the file
    /// holds quantised stay as they are.
    #[arg(long, value_name = "FORMAT", value_parser = parse_quantize, help_heading = "Model")]
    pub quantize: Option<Quantize>,

    /// Tokens that prompt and answer may take together [default: what the
    /// model was made for]
    #[arg(long, value_name = "N", value_parser = parse_positive, help_heading = "Model")]
    pub ctx_size: Option<usize>,

    /// How keys and values are cached: f16, q8_0 (nearly half of its memory,
    /// and less to read in a long context) or f32 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = parse_kv_type, help_heading = "Model")]
    pub kv_type: Option<KvType>,

    /// Load without a warm-up, so that the first step is slower
    #[arg(long, help_heading = "Model")]
    pub no_warmup: bool,

    /// Load also if there seems to be no memory for it
    #[arg(long, help_heading = "Model")]
    pub force: bool,
}

impl LoadArgs {
    /// As the library takes them.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            threads: self.threads,
            quantize: self.quantize,
            context: self.ctx_size.map_or(Context::Model, Context::Exactly),
            kv_type: self.kv_type,
            warm_up: !self.no_warmup,
            force: self.force,
        }
    }
}

/// What guesses tokens ahead.
#[derive(Args, Clone, Debug)]
pub struct DraftArgs {
    /// A smaller model of the same vocabulary that guesses tokens ahead, as
    /// MODEL is named
    ///
    /// The model checks several guesses at a time, and the text stays the
    /// same. What is gained is measured for each request, and where nothing is,
    /// no more guesses are made.
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub draft: Option<OsString>,
}

/// How tokens are chosen, and how many.
#[derive(Args, Clone, Debug)]
pub struct SamplingArgs {
    /// Tokens to generate at most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        help_heading = "Generation"
    )]
    pub max_tokens: usize,

    /// How freely tokens are chosen; 0 always takes the likeliest
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true,
        help_heading = "Generation"
    )]
    pub temperature: f32,

    /// Choose among the K likeliest tokens only; 0 is all
    #[arg(
        long,
        value_name = "K",
        default_value_t = 0,
        help_heading = "Generation"
    )]
    pub top_k: usize,

    /// Choose among the likeliest tokens that together reach probability P
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Generation"
    )]
    pub top_p: f32,

    /// Choose among tokens at least P times as likely as the likeliest
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Generation"
    )]
    pub min_p: f32,

    /// Make tokens that already occurred less likely; 1 does nothing
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Generation"
    )]
    pub repetition_penalty: f32,

    /// Start of the random numbers; the same seed gives the same text
    /// [default: another one every time]
    #[arg(long, value_name = "N", help_heading = "Generation")]
    pub seed: Option<u64>,

    /// Stop after this many seconds of computing with what there is by then
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Generation")]
    pub timeout: Option<Duration>,
}

impl SamplingArgs {
    /// As the library takes them; `Err` is a sentence that names the flag.
    pub fn options(&self) -> Result<Options, String> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or_else(any_seed),
            ..Sampling::default()
        };
        sampling.validate()?;
        Ok(Options {
            sampling,
            max_tokens: self.max_tokens,
            timeout: self.timeout,
            ignore_end: false,
            cancel: None,
        })
    }
}

/// A seed that is another one every time.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish()
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text alone
    Text,
    /// An object with text, token ids, finish reason and timings
    Json,
}

/// Where a profile goes.
#[derive(Args, Clone, Debug)]
pub struct ProfileArgs {
    /// Write what every operation took to FILE, a trace in JSON for
    /// ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

/// What a conversation begins with.
#[derive(Args, Clone, Debug)]
pub struct SystemArgs {
    /// What the model is told before the conversation
    #[arg(
        id = "system",
        long = "system",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub text: Option<String>,
}

/// Generate text from a prompt
#[derive(Args, Clone, Debug)]
#[command(mut_arg("system", |a| a.requires("chat")))]
pub struct InferArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// What guesses ahead.
    #[command(flatten)]
    pub draft: DraftArgs,

    /// The text to continue, or with --chat to answer [default: standard input]
    #[arg(
        long,
        short,
        value_name = "TEXT",
        conflicts_with = "batch_file",
        allow_hyphen_values = true
    )]
    pub prompt: Option<String>,

    /// A file of prompts, one a line, that are decoded together; the answers
    /// come in the file's order
    #[arg(long, value_name = "FILE", conflicts_with = "stream")]
    pub batch_file: Option<PathBuf>,

    /// Write the prompt as a conversation, by the model's own chat template
    #[arg(long)]
    pub chat: bool,

    /// What comes before.
    #[command(flatten)]
    pub system: SystemArgs,

    /// Print the text as it comes; JSON waits for the end all the same
    #[arg(long)]
    pub stream: bool,

    /// How the result is printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,

    /// Where a profile goes.
    #[command(flatten)]
    pub profile: ProfileArgs,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

fn parse_quantize(s: &str) -> Result<Quantize, String> {
    s.parse()
}

fn parse_kv_type(s: &str) -> Result<KvType, String> {
    s.parse()
}

fn parse_positive(s: &str) -> Result<usize, String> {
    match s.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

fn parse_threads(s: &str) -> Result<usize, String> {
    match parse_positive(s)? {
        n if n > 1024 => Err("more than 1024 threads make no sense here".into()),
        n => Ok(n),
    }
}

fn parse_seconds(s: &str) -> Result<Duration, String> {
    let seconds: f64 = s
        .parse()
        .map_err(|_| "it is no number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if d > Duration::ZERO => Ok(d),
        _ => Err("it must be a number of seconds above 0".into()),
    }
}

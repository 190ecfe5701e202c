//! `rustml synth`: a model's shape with random weights.

use crate::text;
use indicatif::{ProgressBar, ProgressStyle};
use rustml_io::{DType, Store};
use rustml_model::synth::{Shape, Synth};
use rustml_nlp::cli::{examples, note, spare_model, Failure, Output};
use std::path::{Path, PathBuf};

/// Write a GGUF file with the shape of a model and random weights
///
/// Such a file is as fast or slow as the real one, and needs no download; what
/// it generates is nonsense. Shapes known by name: gpt2, gpt2-medium,
/// gpt2-large, gpt2-xl, smollm2-135m, smollm2-360m, smollm2-1.7b,
/// tinyllama-1.1b, llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, gemma-3-270m,
/// gemma-3-1b-it, gemma-3-4b-it, qwen2.5-0.5b, qwen2.5-1.5b, qwen3-0.6b,
/// qwen3-1.7b, qwen3-4b. Every other one is the path of a config.json.
/// Matrices too narrow for blocks of the type take another, as in llama.cpp;
/// norms, biases and learned positions are F32.
#[derive(clap::Args)]
#[command(after_help = examples(&[
    ("How fast would Gemma 3 1B be here?",
     "rustml synth --shape gemma-3-1b-it --type q4_0 --output x.gguf && rustml bench x.gguf"),
    ("A file that other engines load too, with the vocabulary of a real one",
     "rustml synth --shape gemma-3-1b-it --type q8_0 --like gemma.gguf --output x.gguf"),
]))]
pub struct SynthArgs {
    /// The name of a shape, or the path of a config.json
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_shape)]
    shape: Shape,

    /// Type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k,
    /// q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs or mxfp4
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    dtype: DType,

    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// A GGUF file whose vocabulary is taken, and its size
    #[arg(long, value_name = "GGUF")]
    like: Option<PathBuf>,

    /// Start of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// A shape by its name, or of a config.json.
pub fn parse_shape(text: &str) -> Result<Shape, String> {
    match Shape::named(text) {
        Some(shape) => Ok(shape),
        None if Path::new(text).exists() => {
            Shape::from_file(Path::new(text)).map_err(|e| e.to_string())
        }
        None => Err(format!(
            "it is neither a file nor one of {}",
            Shape::names().join(", ")
        )),
    }
}

fn parse_type(text: &str) -> Result<DType, String> {
    let found = DType::ALL
        .into_iter()
        .find(|t| t.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let names = DType::ALL.map(|t| t.name().to_lowercase());
        format!("it is none of {}", names.join(", "))
    })
}

/// Runs the command.
pub fn run(args: &SynthArgs) -> Result<(), Failure> {
    // Before the work, which may take long.
    Output::check(&args.output)?;
    let mut synth = Synth::new(args.shape.clone(), args.dtype).seed(args.seed);
    if let Some(path) = &args.like {
        spare_model(&args.output, path)?;
        let store = Store::open(path)?;
        let like = synth.like(store.metadata());
        synth = like.map_err(|e| Failure::Other(format!("{}: {e}", path.display())))?;
    }
    let bar = ProgressBar::no_length().with_message("Writing");
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    let bytes = synth.write(&args.output, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    note(format_args!(
        "{}: {}, {} parameters, {} of random weights",
        args.output.display(),
        synth.shape().arch(),
        text::count(synth.shape().spec().parameters()),
        text::bytes(bytes? as u64)
    ));
    Ok(())
}

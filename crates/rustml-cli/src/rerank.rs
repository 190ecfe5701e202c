//! `rustml rerank`: texts in the order in which they fit a query.

use rustml_nlp::cli::{examples, open, print, Failure, ModelArgs};
use rustml_nlp::Quantize;
use serde::Serialize;
use std::path::PathBuf;

/// Put texts in the order in which they fit a query
///
/// Texts come from a file, or standard input, one a line; of a .jsonl file, the field
/// `text` of each line. The model is a cross-encoder, which reads query and text
/// together. Weights stay as they are unless --quantize says otherwise.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    after_help = examples(&[
        ("The three lines that fit best",
         "rustml rerank BAAI/bge-reranker-v2-m3 --query \"Which river is long?\" --file texts.txt --top 3"),
    ]),
)]
pub struct RerankArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// What the texts have to fit
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    query: String,

    /// A file with a text on each line, or an object with `text` where it ends in .jsonl
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// How many of the best are printed [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,

    /// What is printed: text is a line with score and text, json an object a line with
    /// index, score, logit and text
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Cut what is longer than the model reads; without it that is an error
    #[arg(long)]
    truncate: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// An object of `--format json`.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    score: f32,
    logit: f32,
    text: &'a str,
}

/// Runs the command.
pub fn run(args: &RerankArgs) -> Result<(), Failure> {
    let texts = crate::embed::lines(args.file.as_deref())?;
    let mut load = args.model.load.options();
    load.quantize.get_or_insert(Quantize::None);
    let model = open(args.model.source.name(), &load)?;
    let scorer = model.scorer()?;
    scorer.ranks()?;
    let pair = |(i, text): (usize, &String)| {
        let pair = scorer.pair(&args.query, text, args.truncate);
        pair.map_err(|e| Failure::Other(format!("text {i}: {e}")))
    };
    let pairs = texts.iter().enumerate().map(pair);
    let ranked = scorer.rank(&pairs.collect::<Result<Vec<_>, _>>()?)?;
    let top = args.top.map_or(ranked.len(), |n| n as usize);
    let mut out = String::new();
    for r in ranked.iter().take(top) {
        let text = &texts[r.index];
        match args.format {
            Format::Text => out += &format!("{:.6}\t{text}\n", r.relevance()),
            Format::Json => {
                let line = Line {
                    index: r.index,
                    score: r.relevance(),
                    logit: r.logit,
                    text,
                };
                let json = serde_json::to_string(&line);
                out += &json.map_err(|e| Failure::Other(e.to_string()))?;
                out.push('\n');
            }
        }
    }
    print(&out)
}

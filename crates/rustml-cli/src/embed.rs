//! `rustml embed`: texts as vectors.

use crate::logits::Ids;
use rustml_nlp::cli::{examples, open, print, stdin, Failure, ModelArgs};
use rustml_nlp::{Embedding, Input, Pooling, Quantize};
use serde::Serialize;
use serde_json::{json, Value};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Turn texts into vectors, for search and comparison
///
/// Texts come from --text, a file, or standard input, one a line; of a .jsonl file,
/// the field `text` of each line. Pooling, dense layers and length are those that the
/// model's files say. Weights stay as they are unless --quantize says otherwise.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    after_help = examples(&[
        ("The vector of a text", "rustml embed sentence-transformers/all-MiniLM-L6-v2 --text \"Hello\""),
        ("A file of texts as a NumPy array", "rustml embed model --file texts.txt --format npy > vectors.npy"),
    ]),
)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// A text; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["file", "tokens"])]
    text: Vec<String>,

    /// A file with a text on each line, or an object with `text` where it ends in .jsonl
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    file: Option<PathBuf>,

    /// Token ids in place of a text, as 1,2,3
    #[arg(long, value_name = "IDS", value_parser = crate::logits::parse_ids)]
    tokens: Option<Ids>,

    /// What is printed: json is an object a line, text a vector a line, npy and
    /// safetensors one file of single precision
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,

    /// Put before each text what the model's files name for a purpose, as query
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,

    /// Keep only the first values, with length 1 again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    dimensions: Option<u32>,

    /// Cut texts that are longer than the model reads; without it they are an error
    #[arg(long)]
    truncate: bool,

    /// Another pooling than the model's files say: mean, cls or last
    #[arg(long, value_name = "KIND", value_parser = parse_pooling)]
    pooling: Option<Pooling>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Text,
    Npy,
    Safetensors,
}

/// A pooling by its name.
pub(crate) fn parse_pooling(name: &str) -> Result<Pooling, String> {
    Pooling::named(name).ok_or_else(|| "known are mean, cls and last".to_owned())
}

/// Runs the command.
pub fn run(args: &EmbedArgs) -> Result<(), Failure> {
    let binary = matches!(args.format, Format::Npy | Format::Safetensors);
    if binary && std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "a terminal cannot show this format; send it to a file".into(),
        ));
    }
    let texts = match &args.tokens {
        Some(_) => Vec::new(),
        None => texts(args)?,
    };
    let mut load = args.model.load.options();
    load.quantize.get_or_insert(Quantize::None);
    let model = open(args.model.source.name(), &load)?;
    let mut embedder = model.embedder()?;
    if let Some(pooling) = args.pooling {
        embedder.set_pooling(pooling);
    }
    let before = match &args.prompt_name {
        Some(name) => embedder.prompt(name)?.to_owned(),
        None => String::new(),
    };
    let width = embedder.width();
    if let Some(n) = args.dimensions.filter(|n| *n as usize > width) {
        let says = format!("--dimensions is {n}, but the model's vectors have {width} values");
        return Err(Failure::Usage(says));
    }
    let inputs = match &args.tokens {
        Some(Ids(ids)) => vec![Input {
            ids: ids.clone(),
            ..Input::default()
        }],
        None => {
            let encode = |(i, text): (usize, &String)| {
                let ids = embedder.encode(&format!("{before}{text}"), args.truncate);
                ids.map_err(|e| Failure::Other(format!("text {i}: {e}")))
            };
            texts
                .iter()
                .enumerate()
                .map(encode)
                .collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut all = embedder.run(&inputs)?;
    if let Some(n) = args.dimensions {
        all.iter_mut().for_each(|e| e.shorten(n as usize));
    }
    write(args.format, &all)
}

/// The texts, of the flags, a file or standard input.
fn texts(args: &EmbedArgs) -> Result<Vec<String>, Failure> {
    if !args.text.is_empty() {
        return Ok(args.text.clone());
    }
    lines(args.file.as_deref())
}

/// The texts of a file, or of standard input: a line each, or the field `text` of each
/// line's object.
pub(crate) fn lines(file: Option<&Path>) -> Result<Vec<String>, Failure> {
    let (text, objects) = match file {
        None => (stdin()?, false),
        Some(path) => {
            let read = std::fs::read_to_string(path);
            let text =
                read.map_err(|e| Failure::Other(format!("cannot read {}: {e}", path.display())))?;
            (text, path.extension().is_some_and(|e| e == "jsonl"))
        }
    };
    let lines = text.lines().enumerate();
    let text = |(i, line): (usize, &str)| match objects {
        false => Ok(line.to_owned()),
        true => {
            let object = serde_json::from_str::<Value>(line).ok();
            let text = object
                .as_ref()
                .and_then(|o| o["text"].as_str())
                .map(str::to_owned);
            text.ok_or_else(|| {
                Failure::Other(format!("line {}: there is no object with a `text`", i + 1))
            })
        }
    };
    let all = lines.map(text).collect::<Result<Vec<_>, _>>()?;
    match all.is_empty() {
        true => Err(Failure::Usage("there are no texts".into())),
        false => Ok(all),
    }
}

/// An object of `--format json`. Its values are the shortest that read as the same single
/// precision.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    embedding: &'a [f32],
    tokens: usize,
    truncated: bool,
}

fn write(format: Format, all: &[Embedding]) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let mut out = String::new();
            for (i, e) in all.iter().enumerate() {
                let line = Line {
                    index: i,
                    embedding: &e.values,
                    tokens: e.tokens,
                    truncated: e.truncated,
                };
                let json = serde_json::to_string(&line);
                out += &json.map_err(|e| Failure::Other(e.to_string()))?;
                out.push('\n');
            }
            print(&out)
        }
        Format::Text => {
            let line = |e: &Embedding| {
                let values: Vec<String> = e.values.iter().map(f32::to_string).collect();
                values.join(" ") + "\n"
            };
            print(&all.iter().map(line).collect::<String>())
        }
        Format::Npy => binary(&npy(all), all),
        Format::Safetensors => binary(&safetensors(all), all),
    }
}

fn shape(all: &[Embedding]) -> [usize; 2] {
    [all.len(), all.first().map_or(0, |e| e.values.len())]
}

/// The beginning of NumPy's format, version 1, padded to a multiple of 64.
fn npy(all: &[Embedding]) -> Vec<u8> {
    let [rows, cols] = shape(all);
    let says = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let len = (10 + says.len() + 1).next_multiple_of(64) - 10;
    let text = format!("{says:<width$}\n", width = len - 1);
    let len = u16::try_from(len).expect("a short text");
    [
        b"\x93NUMPY\x01\x00",
        &len.to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

/// The beginning of a safetensors file with one tensor.
fn safetensors(all: &[Embedding]) -> Vec<u8> {
    let [rows, cols] = shape(all);
    let tensor =
        json!({ "dtype": "F32", "shape": [rows, cols], "data_offsets": [0, 4 * rows * cols] });
    let mut text = json!({ "embeddings": tensor }).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), &text[..]].concat()
}

fn binary(header: &[u8], all: &[Embedding]) -> Result<(), Failure> {
    let values = all
        .iter()
        .flat_map(|e| &e.values)
        .flat_map(|x| x.to_le_bytes());
    let bytes: Vec<u8> = header.iter().copied().chain(values).collect();
    let mut out = std::io::stdout().lock();
    let written = out.write_all(&bytes).and_then(|()| out.flush());
    written.map_err(|e| Failure::Other(format!("cannot write: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_begin_at_a_multiple_of_64() {
        let e = Embedding {
            values: vec![1.0, 2.0],
            tokens: 1,
            truncated: false,
        };
        let header = npy(&[e.clone(), e]);
        assert!(header.len().is_multiple_of(64) && header.ends_with(b"\n"));
        let text = String::from_utf8_lossy(&header[10..]).into_owned();
        assert!(text.contains("'shape': (2, 2)"), "{text}");
    }
}

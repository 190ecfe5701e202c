//! `rustml logits`: the numbers behind the text.

use rustml_nlp::cli::{
    cannot_write, examples, locate_weights, open_weights, spare_model, stdin, Failure, ModelArgs,
    Output, Signals,
};
use rustml_nlp::{KvType, Quantize};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Write the logits of every position to a safetensors file
///
/// The file holds one tensor, `logits`: F32, [tokens, vocabulary]; row i are
/// the logits of what follows token i. Of a classifier it is [1, labels]. Keys and values are kept in F32, and
/// weights in the file's types unless --quantize says otherwise. An existing
/// file is replaced when the new one is complete.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    mut_arg("quantize", |a| {
        let help = "Convert linear layers that the file holds as floats: auto, none, q8_0, q4_0, \
                    f16 or bf16 [default: none]";
        a.help(help).long_help(help)
    }),
    mut_arg("kv_type", |a| {
        let help = "How keys and values are cached: f16, q8_0 or f32 [default: f32]";
        a.help(help).long_help(help)
    }),
    after_help = examples(&[
        ("Logits for comparing with another implementation",
         "rustml logits model.gguf --tokens 1,345,2 --output logits.safetensors"),
        ("Of a text",
         "rustml tokenize model.gguf --json < text.txt | jq -c .ids \\\n    \
          | rustml logits model.gguf --output logits.safetensors"),
    ]),
)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Ids with commas between [default: standard input, with commas, spaces
    /// or lines between]
    #[arg(long, value_name = "IDS", value_parser = parse_ids)]
    tokens: Option<Ids>,

    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

/// Ids with anything usual between them, also as a list in JSON.
pub(crate) fn parse_ids(text: &str) -> Result<Ids, String> {
    let text = text.trim();
    let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let separator = |c: char| c == ',' || c.is_whitespace();
    let ids = list.unwrap_or(text).split(separator);
    let ids = ids.filter(|id| !id.is_empty()).map(|id| {
        id.parse()
            .map_err(|_| format!("`{}` is no token id", crate::text::cut(id, 40)))
    });
    let ids = ids.collect::<Result<Vec<u32>, String>>()?;
    match ids.is_empty() {
        true => Err("there are no tokens".into()),
        false => Ok(Ids(ids)),
    }
}

/// Runs the command.
pub fn run(args: &LogitsArgs, signals: &Signals) -> Result<(), Failure> {
    let Ids(ids) = match &args.tokens {
        Some(ids) => ids.clone(),
        None => parse_ids(&stdin()?)
            .map_err(|e| Failure::Usage(format!("standard input: {e}; or give --tokens")))?,
    };
    let mut load = args.model.load.options();
    load.quantize.get_or_insert(Quantize::None);
    load.kv_type.get_or_insert(KvType::F32);
    // Before the work, which may take long.
    Output::check(&args.output)?;
    let path = locate_weights(args.model.source.name())?;
    spare_model(&args.output, &path)?;
    let model = open_weights(&path, &load)?;

    let cancel = signals.begin();
    let failed = |e| cannot_write(&args.output, e);
    let mut output = Output::create(&args.output)?;
    let shape = model.shape(ids.len());
    let mut written = output.write_all(&header(shape));
    model.logits(&ids, &mut |logits| {
        if written.is_ok() {
            let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
            written = output.write_all(&bytes);
        }
        written.is_ok() && !cancel.load(Ordering::Relaxed)
    })?;
    written.map_err(failed)?;
    // Nothing half done takes the file's name.
    signals.end()?;
    Ok(output.finish()?)
}

/// The beginning of a safetensors file with one tensor: the length of the
/// description, and that, with spaces up to a multiple of 8.
fn header(shape: [usize; 2]) -> Vec<u8> {
    let bytes = 4 * shape[0] as u64 * shape[1] as u64;
    let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": [0, bytes] });
    let mut text = json!({ "logits": tensor }).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), &text[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_any_usual_form() {
        for text in ["1,2,3", " 1, 2,\n3\n", "[1,2,3]", "1 2 3", "1\n2\n3\n"] {
            assert_eq!(parse_ids(text), Ok(Ids(vec![1, 2, 3])), "{text:?}");
        }
        for text in ["", "[]", " \n", "1,x", "-1", "4294967296", "1.5"] {
            assert!(parse_ids(text).is_err(), "{text:?}");
        }
    }
}

//! `rustml tokenize`: a text as tokens.

use crate::text::{table, Align};
use rustml_nlp::cli::{examples, open_tokenizer, print, stdin, Failure, SourceArgs};
use rustml_tokenizer::{Encode, Tokenizer};
use serde_json::json;

/// Show the tokens of a text
///
/// One token a line: its id, and the text it stands for, quoted as in Rust
/// with \xNN for bytes that are no whole character. Control tokens written in
/// the text count as such. Only the tokenizer is loaded, no weights.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    after_help = examples(&[
        ("Tokens and their ids", "rustml tokenize model.gguf --text \"Hello world\""),
        ("Count the tokens of a file", "rustml tokenize model.gguf < file.txt | wc -l"),
    ]),
)]
pub struct TokenizeArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The text [default: standard input, to the last byte, but without
    /// a byte order mark]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,

    /// Add nothing at the beginning or the end, even where the model's rule
    /// says so
    #[arg(long)]
    no_special_tokens: bool,

    /// Print one object: ids, and tokens as the vocabulary writes them
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<(), Failure> {
    let tokenizer = open_tokenizer(args.source.name())?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => stdin()?,
    };
    let options = Encode {
        add_special: !args.no_special_tokens,
        parse_special: true,
    };
    let ids = tokenizer.encode(&text, options)?;
    if args.json {
        let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token_str(id)).collect();
        return print(&format!("{}\n", json!({ "ids": ids, "tokens": tokens })));
    }
    let row = |&id: &u32| vec![id.to_string(), quoted(&tokenizer, id)];
    let rows: Vec<_> = ids.iter().map(row).collect();
    print(&table(&rows, &[Align::Right, Align::Left]))
}

/// The text of a token, such that no two look alike and none steers the
/// terminal.
fn quoted(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        // As in Debug, but a single quote needs no escape in double ones.
        for c in chunk.valid().chars() {
            match c {
                '\'' => out.push(c),
                c => out.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            out += &format!("\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

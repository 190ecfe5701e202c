//! Continues a text, printing it as it comes.
//!
//!     cargo run --release -p rustml-nlp --example generate -- MODEL "Once upon a time"

use rustml_nlp::{LoadOptions, Model, Options, Result};
use std::io::Write;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or(rustml_nlp::DEFAULT_MODEL.into());
    let text = args.next().unwrap_or("Once upon a time".into());

    let model = Model::load(&name, &LoadOptions::default())?;
    print!("{text}");
    let prompts = vec![model.encode(&text)?];
    let results = model.generate_all(prompts, &Options::default(), &mut |piece| {
        print!("{}", piece.text);
        std::io::stdout().flush().is_ok()
    })?;

    let timings = &results[0].timings;
    let speed = timings.decode_tokens() as f64 / timings.decode.as_secs_f64();
    println!("\n\n{} tokens, {speed:.1} a second", results[0].ids.len());
    Ok(())
}

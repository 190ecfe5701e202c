//! How long loading a tokenizer takes, and how fast it is.
//!
//! `cargo run --release -p rustml-tokenizer --example speed -- model.gguf|directory [text-file]`

use std::path::Path;
use std::time::{Duration, Instant};

use rustml_io::Store;
use rustml_tokenizer::{Encode, Tokenizer};

fn best(mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..5).map(time).min().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which model.gguf or directory?")?;
    let path = Path::new(&path);
    let load = || -> Result<Tokenizer, Box<dyn std::error::Error>> {
        if path.is_dir() {
            return Ok(Tokenizer::from_dir(path)?);
        }
        let start = Instant::now();
        let store = Store::open(path)?;
        let opened = start.elapsed();
        let tokenizer = Tokenizer::from_gguf(store.metadata())?;
        println!(
            "open {opened:.1?}, tokenizer {:.1?}",
            start.elapsed() - opened
        );
        Ok(tokenizer)
    };
    let start = Instant::now();
    let tokenizer = load()?;
    println!("first load {:.1?}", start.elapsed());
    println!("best load {:.1?}", best(|| drop(load())));
    let texts = [
        (
            "prose",
            match arguments.next() {
                Some(file) => std::fs::read_to_string(file)?,
                None => {
                    "The quick brown fox jumps over the lazy dog, 42 times; naïve. ".repeat(16_000)
                }
            },
        ),
        ("one letter", "a".repeat(1_000_000)),
        ("spaces", " ".repeat(1_000_000)),
        ("newlines", "\n".repeat(1_000_000)),
        ("emoji", "🦀".repeat(250_000)),
    ];
    for (name, text) in &texts {
        let mut tokens = 0;
        let options = Encode {
            add_special: true,
            parse_special: true,
        };
        let time = best(|| tokens = tokenizer.encode(text, options).map_or(0, |ids| ids.len()));
        let speed = text.len() as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{name}: {} bytes, {tokens} tokens, {time:.1?}, {speed:.1} MB/s",
            text.len()
        );
    }
    Ok(())
}

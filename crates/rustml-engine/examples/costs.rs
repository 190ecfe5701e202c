//! What choosing a token costs beside computing its logits:
//!
//! ```sh
//! cargo run --release -p rustml-engine --example costs -- MODEL.gguf
//! ```
//!
//! Medians of a pick from 262,144 logits under several settings; then, with the
//! vocabulary of the model, what arranging it for grammars costs once, and a
//! mask for each token of a JSON text by a schema.

use rustml_engine::grammar::Grammars;
use rustml_engine::{Sampler, Sampling, TokenMask};
use rustml_io::Store;
use rustml_tokenizer::{Encode, Tokenizer};
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Logits as models have them: most far below a few.
fn logits(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    // The sum of some is nearly normal.
    (0..n)
        .map(|_| (0..6).map(|_| next()).sum::<f32>() * 6.0 - 18.0)
        .collect()
}

fn picks() {
    let logits = logits(262_144);
    let plain = Sampling::default();
    let rows = [
        ("greedy", Sampling::greedy()),
        ("top-k 40", Sampling { top_k: 40, ..plain }),
        (
            "top-k 40, top-p 0.95",
            Sampling {
                top_k: 40,
                top_p: 0.95,
                ..plain
            },
        ),
        (
            "top-p 0.95",
            Sampling {
                top_p: 0.95,
                ..plain
            },
        ),
        (
            "min-p 0.05",
            Sampling {
                min_p: 0.05,
                ..plain
            },
        ),
        ("plain", plain),
        (
            "greedy, penalised",
            Sampling {
                presence_penalty: 0.5,
                ..Sampling::greedy()
            },
        ),
    ];
    for (name, sampling) in rows {
        let mut sampler = Sampler::new(sampling, Vec::new());
        (0..500).for_each(|id| sampler.observe(id));
        let time = |_| {
            let start = Instant::now();
            sampler.pick(&logits, None);
            start.elapsed()
        };
        println!("{name:<22} {:>9.1?}", median((0..101).map(time).collect()));
    }
}

fn masks(path: &str) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(path.as_ref())?;
    let tokenizer = Tokenizer::from_gguf(store.metadata())?;
    let start = Instant::now();
    let grammars = Grammars::new(&tokenizer)?;
    let vocab = tokenizer.vocab_size();
    println!("arranging {vocab} tokens: {:.1?}", start.elapsed());
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "email": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
                "required": ["street", "zip"]
            }
        },
        "required": ["name", "age", "email", "tags", "address"],
        "additionalProperties": false
    });
    let text = r#"{"name": "Ada Lovelace, Countess", "age": 36, "email": "ada@example.com", "tags": ["mathematics", "the analytical engine", "poetry"], "address": {"street": "12 St James's Square", "zip": "12345"}}"#;
    let start = Instant::now();
    grammars.json_schema(&schema)?;
    println!("compiling the schema: {:.1?}", start.elapsed());
    let ids = tokenizer.encode(text, Encode::default())?;
    let mut mask = TokenMask::default();
    for round in ["first", "second"] {
        let mut constraint = grammars.json_schema(&schema)?.constraint();
        let mut times = Vec::new();
        for &id in &ids {
            let start = Instant::now();
            mask.fill(vocab);
            constraint.mask(&mut mask)?;
            let allowed = mask.contains(id);
            constraint.accept(id)?;
            times.push(start.elapsed());
            assert!(allowed, "{:?} is not allowed", tokenizer.token_str(id));
        }
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        let most = times.iter().max().copied().unwrap_or_default();
        let tokens = times.len();
        println!(
            "{round} text, {tokens} masks: mean {mean:.1?}, median {:.1?}, most {most:.1?}",
            median(times)
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    picks();
    std::env::args().nth(1).map_or(Ok(()), |path| masks(&path))
}

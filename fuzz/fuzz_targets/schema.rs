//! Any text as a schema, a grammar in Lark or GBNF, and a regular expression: an
//! error in a sentence, or constraints that let some tokens be written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustml_engine::grammar::{Grammar, Grammars};
use rustml_engine::TokenMask;
use rustml_tokenizer::Tokenizer;
use std::path::Path;
use std::sync::OnceLock;

struct Setup {
    tokenizer: Tokenizer,
    grammars: Grammars,
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/tiny/llama");
        let tokenizer = Tokenizer::from_dir(&folder).unwrap();
        let grammars = Grammars::new(&tokenizer).unwrap();
        Setup {
            tokenizer,
            grammars,
        }
    })
}

/// Writes the first token that is allowed, some times.
fn write(grammar: Grammar, size: usize) {
    let mut constraint = grammar.constraint();
    for _ in 0..8 {
        let mut mask = TokenMask::all(size);
        if constraint.is_complete() || constraint.mask(&mut mask).is_err() {
            return;
        }
        let first = (0..size as u32).find(|&id| mask.contains(id));
        if first.is_none_or(|id| constraint.accept(id).is_err()) {
            return;
        }
    }
}

fuzz_target!(|text: &str| {
    let Setup {
        tokenizer,
        grammars,
    } = setup();
    let schema = serde_json::from_str(text).ok();
    let all = [
        schema.map(|schema| grammars.json_schema(&schema)),
        Some(grammars.lark(text)),
        Some(grammars.regex(text)),
    ];
    for grammar in all.into_iter().flatten().flatten() {
        write(grammar, tokenizer.vocab_size());
    }
});

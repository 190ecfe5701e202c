//! Whether guessing ahead pays, on a text that repeats itself and on one that
//! does not:
//!
//! ```sh
//! cargo run --release -p rustml-engine --example guesses -- MODEL.gguf
//! ```
//!
//! Tokens a second without and with guesses, in turns; their tokens are
//! compared.

use rustml_engine::{Engine, EngineConfig, Request, Sampling};
use rustml_io::Store;
use rustml_model::{team, Model, Quantize};
use rustml_tokenizer::{Encode, Tokenizer};
use std::sync::Arc;

const TEXTS: [(&str, &str); 2] = [
    (
        "a list to be copied",
        "Names: Ada Lovelace, Charles Babbage, Alan Turing, Grace Hopper, John von Neumann.\n\
         Copy: Ada Lovelace, Charles Babbage, Alan Turing, Grace Hopper, John von Neumann.\n\
         Copy: Ada Lovelace, Charles",
    ),
    (
        "a story, sampled",
        "Once upon a time, far away in the mountains,",
    ),
];

const ROUNDS: usize = 5;
const TOKENS: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a GGUF file")?;
    let store = Store::open(path.as_ref())?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(store.metadata())?);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let quantize = Quantize::None;
    let model = Model::load(&store, quantize, team(threads)?, &mut |_, _| {})?;
    let model = Arc::new(model);
    for (i, (name, text)) in TEXTS.into_iter().enumerate() {
        let add_special = true;
        let prompt = tokenizer.encode(
            text,
            Encode {
                add_special,
                ..Encode::default()
            },
        )?;
        let mut speeds = [Vec::new(), Vec::new()];
        let mut ids: [Vec<u32>; 2] = Default::default();
        let mut guesses = (0, 0);
        for _ in 0..ROUNDS {
            for speculate in [false, true] {
                let config = EngineConfig {
                    speculate,
                    ..EngineConfig::default()
                };
                let mut engine = Engine::new(model.clone(), tokenizer.clone(), config)?;
                engine.submit(Request {
                    prompt: prompt.clone(),
                    sampling: Sampling {
                        temperature: i as f32,
                        ..Sampling::default()
                    },
                    max_tokens: TOKENS,
                    continues: true,
                    ignore_end: true,
                    ..Request::default()
                })?;
                let which = usize::from(speculate);
                ids[which].clear();
                while !engine.is_idle() {
                    for update in engine.step() {
                        ids[which].extend(update.token);
                        if let Some((_, t)) = update.finish {
                            let speed = t.decode_tokens() as f64 / t.decode.as_secs_f64();
                            speeds[which].push(speed);
                        }
                    }
                }
                let stats = engine.stats();
                guesses = (stats.accepted, stats.proposed);
            }
        }
        assert_eq!(ids[0], ids[1], "guesses change the text");
        let [off, on] = speeds.map(|mut s| {
            s.sort_by(f64::total_cmp);
            s[s.len() / 2]
        });
        println!(
            "{name}: {off:.1} tokens/s, with guesses {on:.1}; {} of {} were right",
            guesses.0, guesses.1
        );
    }
    Ok(())
}

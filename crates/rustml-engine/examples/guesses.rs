//! Whether guessing ahead pays, on texts that repeat their prompt and on free
//! ones:
//!
//! ```sh
//! cargo run --release -p rustml-engine --example guesses -- MODEL.gguf [DRAFT.gguf] [ROUNDS [TOKENS [SKIP]]]
//! ```
//!
//! Tokens a second without guesses, with those from the text, and with those of
//! a draft model if one is named, in turns; their tokens are compared. A share
//! is that of all rounds together, with the range of the rounds. The first SKIP
//! texts are left out; 3 leaves the free ones.

use rustml_engine::{same_vocabulary, Engine, EngineConfig, Request, Sampling, Timings};
use rustml_io::Store;
use rustml_model::{team, Model, Quantize, Team};
use rustml_tokenizer::{Encode, Tokenizer};
use std::error::Error;
use std::sync::Arc;

/// What it is, how freely it is continued, and its beginning.
const TEXTS: [(&str, f32, &str); 6] = [
    (
        "copying a list",
        0.0,
        "Names: Ada Lovelace, Charles Babbage, Alan Turing, Grace Hopper, John von Neumann.\n\
         Copy: Ada Lovelace, Charles Babbage, Alan Turing, Grace Hopper, John von Neumann.\n\
         Copy: Ada Lovelace, Charles",
    ),
    (
        "editing code",
        0.0,
        "def total(items):\n    result = 0\n    for item in items:\n        if item.price > 0:\n            \
         result += item.price * item.count\n    return result\n\n\
         def average(items):\n    count = 0\n    for item in items:\n        count += item.count\n    \
         return total(items) / count\n\n\
         # The same two functions, with \"items\" renamed to \"goods\":\n\ndef total(goods):\n",
    ),
    (
        "summarising",
        0.0,
        "The river rises in the hills above the town and runs south for ninety kilometres before it \
         reaches the sea. For most of its length it is shallow, and only small boats can use it. In \
         spring, when the snow melts, it floods the meadows on both banks, and the farmers move their \
         cattle to higher ground. A dam was planned in 1962 but never built.\n\nIn short: The river",
    ),
    (
        "a story",
        1.0,
        "Once upon a time, far away in the mountains,",
    ),
    (
        "an essay",
        0.8,
        "Why do people travel? There are many reasons, and the first of them is",
    ),
    (
        "an answer, the likeliest",
        0.0,
        "Question: What is photosynthesis, and why does it matter?\nAnswer:",
    ),
];

/// Ways to guess.
const WAYS: [&str; 3] = ["from the text", "by the draft", "both"];

/// An engine, which lives on from request to request as a server's does.
struct Runner(Engine);

fn load(path: &str, team: &Arc<Team>) -> Result<(Arc<Model>, Tokenizer), Box<dyn Error>> {
    let store = Store::open(path.as_ref())?;
    let tokenizer = Tokenizer::from_gguf(store.metadata())?;
    let model = Model::load(&store, Quantize::None, team.clone(), &mut |_, _| {})?;
    Ok((Arc::new(model), tokenizer))
}

impl Runner {
    fn new(
        model: &Arc<Model>,
        tokenizer: &Arc<Tokenizer>,
        speculate: bool,
        draft: Option<&Arc<Model>>,
    ) -> Result<Runner, Box<dyn Error>> {
        let config = EngineConfig {
            speculate,
            ..EngineConfig::default()
        };
        let mut engine = Engine::new(model.clone(), tokenizer.clone(), config)?;
        if let Some(draft) = draft {
            engine.set_draft(draft.clone())?;
        }
        Ok(Runner(engine))
    }

    /// The tokens of a run, and its times.
    fn run(&mut self, request: Request) -> Result<(Vec<u32>, Timings), Box<dyn Error>> {
        self.0.submit(request)?;
        let (mut ids, mut timings) = (Vec::new(), Timings::default());
        while !self.0.is_idle() {
            for update in self.0.step() {
                ids.extend(update.token);
                if let Some((_, t)) = update.finish {
                    timings = t;
                }
            }
        }
        Ok((ids, timings))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (paths, numbers): (Vec<_>, Vec<_>) = args.iter().partition(|a| a.parse::<usize>().is_err());
    let number = |i: usize, or| numbers.get(i).map_or(Ok(or), |n| n.parse::<usize>());
    let (rounds, tokens) = (number(0, 5)?.max(1), number(1, 128)?.max(2));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let team = team(threads)?;
    let (model, tokenizer) = load(paths.first().ok_or("name a GGUF file")?, &team)?;
    let draft = paths.get(1).map(|path| load(path, &team)).transpose()?;
    if let Some((_, other)) = &draft {
        same_vocabulary(&tokenizer, other)?;
    }
    let tokenizer = Arc::new(tokenizer);
    let draft = draft.map(|d| d.0);
    let runner = |speculate, draft| Runner::new(&model, &tokenizer, speculate, draft);
    let mut bare = runner(false, None)?;
    let mut guessing = vec![runner(true, None)?];
    if draft.is_some() {
        guessing.push(runner(false, draft.as_ref())?);
        guessing.push(runner(true, draft.as_ref())?);
    }
    let ways = guessing.len();
    for (name, temperature, text) in TEXTS.into_iter().skip(number(2, 0)?) {
        let options = Encode {
            add_special: true,
            ..Encode::default()
        };
        let prompt = tokenizer.encode(text, options)?;
        let request = |seed| Request {
            prompt: prompt.clone(),
            sampling: Sampling {
                temperature,
                seed,
                ..Sampling::default()
            },
            max_tokens: tokens,
            continues: true,
            ignore_end: true,
            ..Request::default()
        };
        let mut plain = 0.0;
        let mut times = vec![0.0; ways];
        let mut shares = vec![Vec::new(); ways];
        let mut guesses = vec![(0, 0); ways];
        for seed in 0..rounds as u64 {
            // Before and after, so that neither has the warmer machine.
            let (ids, before) = bare.run(request(seed))?;
            let mut round = Vec::new();
            for (way, runner) in guessing.iter_mut().enumerate() {
                let (got, t) = runner.run(request(seed))?;
                assert_eq!(got, ids, "guesses change the text");
                guesses[way].0 += t.right;
                guesses[way].1 += t.guessed;
                round.push(t.decode.as_secs_f64());
            }
            let (_, after) = bare.run(request(seed))?;
            let mean = (before.decode + after.decode).as_secs_f64() / 2.0;
            plain += mean;
            for (way, time) in round.into_iter().enumerate() {
                times[way] += time;
                shares[way].push(mean / time);
            }
        }
        let all = (rounds * (tokens - 1)) as f64;
        println!("{name}: {:.1} tokens/s without guesses", all / plain);
        for (way, mut shares) in shares.into_iter().enumerate() {
            shares.sort_by(f64::total_cmp);
            println!(
                "  {:<14} x {:.3} ({:.3} to {:.3}), {} of {} right",
                WAYS[way],
                plain / times[way],
                shares[0],
                shares[rounds - 1],
                guesses[way].0,
                guesses[way].1
            );
        }
    }
    Ok(())
}

//! `rustml bench`: how fast a model runs here.

mod measure;
mod output;

use crate::memory;
use crate::text::Format;
use indicatif::{ProgressBar, ProgressStyle};
use measure::{Bench, Kind, Test};
use output::{Row, Subject};
use rustml_io::Store;
use rustml_model::arch::Arch;
use rustml_model::{gather_pages, team, KvType, Model, Quantize};
use rustml_nlp::cli::{examples, locate_weights, print, Failure, SourceArgs};
use rustml_nlp::{available_threads, check_memory, default_quantize};
use rustml_trace::lost::Sample;
use std::path::Path;
use std::time::{Duration, Instant};

/// Measure how fast a model reads prompts and generates
///
/// Tests have the field's usual names: pp512 is a prompt of 512 tokens, tg128
/// are 128 tokens generated one by one. They run for every combination of
/// --depth, --batch and --threads, once to warm up and then --repeat times.
/// GB/s counts the weights and the cache that a step has to read, and is held
/// against what all threads together read from a working set of that size;
/// Gop/s counts multiplications and additions, and is held against the peak of
/// the byte dot product, or for float weights of the fused multiply-add. Both
/// roofs are measured, just after the test.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| a.value_name("MODEL")),
    after_help = examples(&[
        ("Reading a prompt of 512 tokens, and generating 128", "rustml bench model.gguf"),
        ("Generating alone, with an empty and a long context, for 1 and 8 at a time",
         "rustml bench model.gguf --prompt-tokens 0 --depth 0,4096 --batch 1,8"),
        ("One number", "rustml bench model.gguf --prompt-tokens 0 --output json \\\n    \
          | jq '.[0].tokens_per_second'"),
    ]),
)]
pub struct BenchArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Lengths of the prompts to read; 0 leaves that out
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "512"
    )]
    prompt_tokens: Vec<usize>,

    /// How many tokens to generate; 0 leaves that out
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "128"
    )]
    max_tokens: Vec<usize>,

    /// Tokens that are in the context already
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,

    /// Sequences that are computed together; their tokens are added up
    #[arg(
        long, value_name = "N,...", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    batch: Vec<u16>,

    /// Compute threads [default: the CPUs this process may use]
    #[arg(
        long, value_name = "N,...", value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    threads: Vec<u16>,

    /// Runs of each test
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,

    /// Convert linear layers that the file holds as floats: auto, none, q8_0,
    /// q4_0, f16 or bf16 [default: q8_0 for safetensors, none for GGUF]
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<Quantize>,

    /// How keys and values are cached: f16, q8_0 or f32
    #[arg(long, value_name = "TYPE", default_value_t = KvType::F16)]
    kv_type: KvType,

    /// Load also if there seems to be no memory for the model
    #[arg(long)]
    force: bool,

    /// How results are printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl BenchArgs {
    fn tests(&self) -> Vec<Test> {
        let of = |kind, counts: &[usize]| -> Vec<Test> {
            let tokens = counts.iter().filter(|&&n| n > 0);
            tokens.map(|&tokens| Test { kind, tokens }).collect()
        };
        let mut tests = of(Kind::Prompt, &self.prompt_tokens);
        tests.extend(of(Kind::Generate, &self.max_tokens));
        tests
    }

    /// Nothing is computed if a test could not be.
    fn check(&self, tests: &[Test], path: &Path, context: usize) -> Result<(), Failure> {
        let Some(longest) = tests.iter().map(|t| t.tokens).max() else {
            return Err(Failure::Usage(
                "--prompt-tokens and --max-tokens are 0, so there is nothing to measure".into(),
            ));
        };
        let deepest = self.depth.iter().copied().max().unwrap_or(0);
        match deepest.saturating_add(longest) > context {
            true => Err(Failure::Other(format!(
                "{}: {longest} tokens at a depth of {deepest} are more than the model's context \
                 of {context}; lower --depth, --prompt-tokens or --max-tokens",
                path.display()
            ))),
            false => Ok(()),
        }
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let tests = args.tests();
    let path = locate_weights(args.source.name())?;
    let store = Store::open(&path)?;
    let spec = Arch::of(&store)?.spec(&store)?;
    args.check(&tests, &path, spec.context)?;
    drop(store);

    let threads = match &args.threads[..] {
        [] => vec![available_threads()],
        list => list.iter().map(|&n| n.into()).collect(),
    };
    let runs = threads.len() * args.depth.len() * args.batch.len() * tests.len();
    let bar = progress(runs * (usize::from(args.repeat) + 1));
    let mut rows = Vec::new();
    for threads in threads {
        rows.extend(with_threads(args, &tests, &path, threads, &bar)?);
    }
    bar.finish_and_clear();
    print(&match args.output {
        Format::Table => output::table(&rows),
        Format::Csv => output::csv(&rows),
        Format::Json => output::json(&rows),
        Format::Md => output::markdown(&rows),
    })
}

/// Loads the model for so many threads, and runs all tests.
fn with_threads(
    args: &BenchArgs,
    tests: &[Test],
    path: &Path,
    threads: usize,
    bar: &ProgressBar,
) -> Result<Vec<Row>, Failure> {
    bar.set_message(format!("loading with {threads} threads"));
    memory::reset_peak();
    let start = Instant::now();
    let store = Store::open(path)?;
    let quantize = args.quantize.unwrap_or(default_quantize(store.format()));
    if !args.force {
        check_memory(&store, quantize)?;
    }
    let model = Model::load(&store, quantize, team(threads)?, &mut |_, _| {})?;
    let load_seconds = start.elapsed().as_secs_f64();
    let load_peak = memory::peak();
    drop(store);

    let largest = args.batch.iter().copied().max().unwrap_or(1);
    let mut bench = Bench::new(model, largest.into(), args.kv_type);
    let subject = Subject::of(&bench.model, &args.source.shown(), load_seconds);
    let longest = tests.iter().map(|t| t.tokens).max().unwrap_or(0);
    let mut rows = Vec::new();
    for &depth in &args.depth {
        for &batch in &args.batch {
            let what = format!("{threads} threads, depth {depth}, batch {batch}");
            bar.set_message(format!("{what}: filling the context"));
            memory::reset_peak();
            let mut context = bench.context(depth, batch.into(), longest)?;
            for &test in tests {
                bar.set_message(format!("{what}: {test}"));
                let work = bench.count(&mut context, test);
                // As it is some seconds after loading.
                gather_pages(Duration::MAX);
                bar.inc(1);
                let mut samples = Vec::new();
                let before = Sample::now(true);
                for _ in 0..args.repeat {
                    samples.push(bench.run(&mut context, test));
                    bar.inc(1);
                }
                let after = Sample::now(true);
                let lost = before.zip(after).map(|(a, b)| b.since(&a).share());
                let peak_rss = memory::peak().max(load_peak);
                let roofs = bench.roofs(&work);
                // The roofs' memory is no part of the next test's.
                memory::reset_peak();
                rows.push(Row {
                    subject: subject.clone(),
                    test,
                    depth,
                    batch: batch.into(),
                    threads,
                    kv_type: args.kv_type,
                    samples,
                    lost,
                    work,
                    roofs,
                    cache_bytes: context.cache_bytes(),
                    peak_rss,
                });
            }
        }
    }
    Ok(rows)
}

/// Drawn between runs only, so that nothing disturbs them.
fn progress(runs: usize) -> ProgressBar {
    let bar = ProgressBar::new(runs as u64);
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

//! `rustml bench-serve`: how a server holds up under load.

mod client;
mod load;
mod output;
mod prompts;

use crate::text::Format;
use client::{Client, Reply};
use indicatif::{ProgressBar, ProgressStyle};
use load::{Level, Limit, Pace};
use output::Row;
use prompts::Prompts;
use rustml_nlp::cli::{examples, note, print, Failure};
use serde_json::{Map, Value};
use std::time::Duration;

/// Measure a server that speaks OpenAI's API, under load
///
/// Requests are chats that are answered in pieces, greedily, with prompts of
/// random words in lengths drawn from --prompt-tokens; the same --seed asks the
/// same. With --clients, each client sends its next request when the one before
/// is answered. With --rate, requests come at random times whether or not the
/// server keeps up, as those of strangers do, and every time counts from when
/// its request was meant to be sent: a server that stalls cannot hide that by
/// holding up its own measurement.
///
/// FIRST TOKEN is the time until something of the answer is there, PER TOKEN
/// that between tokens after it, WHOLE that until the answer is complete; of
/// requests that succeeded, at percentiles 50, 90, 99 and the longest. Tokens
/// are those that the server counts. The exit status is 1 if any request
/// failed.
#[derive(clap::Args)]
#[command(after_help = examples(&[
    ("1, 4, 16 and 64 clients, each level with at least 16 requests",
     "rustml bench-serve http://127.0.0.1:8080"),
    ("Two requests a second, for a minute",
     "rustml bench-serve http://127.0.0.1:8080 --rate 2 --duration 60"),
    ("Does company change anybody's answer?",
     "rustml bench-serve http://127.0.0.1:8080 --clients 16 --check"),
    ("Tokens per second of 16 clients, as a number",
     "rustml bench-serve http://127.0.0.1:8080 --clients 16 --output json \\\n    \
      | jq '.[0].completion_tokens_per_second'"),
]))]
pub struct BenchServeArgs {
    /// The server, as http://127.0.0.1:8080; /v1 at the end is allowed
    #[arg(value_name = "URL")]
    url: String,

    /// How many clients at a time, each a level of its own
    #[arg(
        long, value_name = "N,...", value_delimiter = ',', default_value = "1,4,16,64",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    clients: Vec<u16>,

    /// Requests per second instead, at random times; each rate is a level
    #[arg(long, value_name = "R,...", value_delimiter = ',', value_parser = parse_positive, conflicts_with = "clients")]
    rate: Vec<f64>,

    /// Connections at most with --rate; a request that finds none waits, and
    /// the wait counts
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024), requires = "rate")]
    connections: u16,

    /// Requests of each level [default: 4 for each client and 16 at least; 64
    /// with --rate; no limit with --duration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: Option<u32>,

    /// Seconds in which requests are sent, in each level; those under way are
    /// waited for
    #[arg(long, value_name = "SECONDS", value_parser = parse_positive)]
    duration: Option<f64>,

    /// Lengths of the prompts, in words, each of which is about a token
    #[arg(
        long, value_name = "N,...", value_delimiter = ',', default_value = "16,128,512",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    prompt_tokens: Vec<u32>,

    /// Tokens of each answer at most
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,

    /// Where the random numbers start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Ask to continue plain texts, as for models that know no chats
    #[arg(long)]
    plain: bool,

    /// Ask each request once more with nothing beside it, and compare the
    /// answers
    #[arg(long)]
    check: bool,

    /// The model to ask for [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// The key to send
    #[arg(
        long,
        value_name = "KEY",
        env = "RUSTML_API_KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,

    /// More fields of each request, as '{"ignore_eos": true}' for servers that
    /// know it
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    body: Option<Map<String, Value>>,

    /// Time for a request; one that takes longer failed
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_positive)]
    timeout: f64,

    /// How results are printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl BenchServeArgs {
    fn levels(&self) -> Vec<Level> {
        let paces: Vec<Pace> = match &self.rate[..] {
            [] => self.clients.iter().map(|&n| Pace::Clients(n)).collect(),
            rates => rates.iter().map(|&r| Pace::Rate(r)).collect(),
        };
        let levels = paces.into_iter().zip(0..).map(|(pace, number)| {
            let usual = match (self.duration, pace) {
                (Some(_), _) => u32::MAX,
                (None, Pace::Clients(n)) => (4 * u32::from(n)).max(16),
                (None, Pace::Rate(_)) => 64,
            };
            Level {
                number,
                pace,
                connections: self.connections,
                limit: Limit {
                    requests: self.requests.unwrap_or(usual),
                    duration: self.duration.map(Duration::from_secs_f64),
                },
            }
        });
        levels.collect()
    }
}

/// Runs the command.
pub fn run(args: &BenchServeArgs) -> Result<(), Failure> {
    let mut client = Client::new(
        &args.url,
        args.api_key.as_deref(),
        Duration::from_secs_f64(args.timeout),
    )?;
    let model = match &args.model {
        Some(name) => name.clone(),
        None => client.first_model().map_err(Failure::Other)?,
    };
    client.ask_for(&model, args.max_tokens, args.body.clone());
    if args.plain {
        client.plain();
    }
    let prompts = Prompts::new(args.seed, &args.prompt_tokens);
    // The first request of all pays for what is set up once. It is also the
    // one whose error is told in full.
    let first = client.send("Say hello.");
    if let Some(problem) = first.problem {
        return Err(Failure::Other(format!(
            "{}: a first request failed: {}",
            client.base(),
            problem.in_full()
        )));
    }
    let mut rows = Vec::new();
    for level in args.levels() {
        rows.push(measure(args, &level, &client, &prompts));
    }
    print(&match args.output {
        Format::Table => output::table(client.base(), &model, &rows),
        Format::Csv => output::csv(&rows),
        Format::Json => output::json(&rows),
        Format::Md => output::markdown(&rows),
    })?;
    verdict(&rows)
}

/// Runs a level, and checks its answers if asked to.
fn measure(args: &BenchServeArgs, level: &Level, client: &Client, prompts: &Prompts) -> Row {
    let bar = progress(level);
    let run = load::run(level, client, prompts, &bar);
    let mut row = Row::of(level, &run);
    if args.check {
        bar.reset();
        bar.set_length(run.replies.len() as u64);
        bar.set_message(format!("{}: each alone", level.pace));
        row.mismatches = Some(check(level, client, prompts, &run.replies, &bar));
    }
    bar.finish_and_clear();
    row
}

/// Asks alone what was asked in company; the requests whose answers differ.
fn check(
    level: &Level,
    client: &Client,
    prompts: &Prompts,
    replies: &[(u32, Reply)],
    bar: &ProgressBar,
) -> Vec<u32> {
    let mut wrong = Vec::new();
    for (i, reply) in replies {
        if reply.problem.is_none() {
            let alone = client.send(&prompts.text(level.number, *i));
            if alone.problem.is_some() || alone.text != reply.text {
                note(format_args!(
                    "{}, request {i}: {}",
                    level.pace,
                    output::difference(reply, &alone)
                ));
                wrong.push(*i);
            }
        }
        bar.inc(1);
    }
    wrong
}

/// The exit status for what was found.
fn verdict(rows: &[Row]) -> Result<(), Failure> {
    let of = |count: &dyn Fn(&Row) -> usize| rows.iter().map(count).sum::<usize>();
    let sent = of(&|r| r.ok + r.failed());
    let failed = of(&|r| r.failed());
    let wrong = of(&|r| r.mismatches.as_ref().map_or(0, Vec::len));
    match (failed, wrong) {
        (0, 0) => Ok(()),
        (0, n) => Err(Failure::Other(format!(
            "{n} of {sent} answers are not those that the same requests get alone"
        ))),
        (n, _) => {
            let mut all = output::Problems::new();
            for (what, n) in rows.iter().flat_map(|r| &r.problems) {
                *all.entry(what.clone()).or_default() += n;
            }
            Err(Failure::Other(format!(
                "{n} of {sent} requests failed: {}",
                output::list(&all)
            )))
        }
    }
}

fn progress(level: &Level) -> ProgressBar {
    let bar = match level.limit.duration {
        Some(_) => ProgressBar::new_spinner(),
        None => ProgressBar::new(level.limit.requests.into()),
    };
    bar.set_message(level.pace.to_string());
    match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
        Ok(style) if level.limit.duration.is_none() => bar.with_style(style),
        _ => bar,
    }
}

fn parse_positive(s: &str) -> Result<f64, String> {
    match s.parse() {
        Ok(n) if (0.001..=86_400.0).contains(&n) => Ok(n),
        _ => Err("it must be a number from 0.001 to 86400".into()),
    }
}

fn parse_object(s: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(s).map_err(|e| format!("it must be a JSON object: {e}"))
}

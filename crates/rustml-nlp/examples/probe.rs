//! What looking at steps costs: `probe MODEL [LOADS] [OTHER_BUILD]`.
//!
//! Decodes with the probe off, with whole operations and with their parts, in
//! turn, so that what changes meanwhile changes for all of them; and loads the
//! model anew some times, since where memory happens to lie makes a difference.
//! Off runs in a second process, too: what that seems to cost is how far two
//! processes of one program differ, below which nothing is shown. Another build
//! of this program, as one from which the probe is compiled out, takes part:
//! `scripts/probe-cost` does that.

use rustml_nlp::{LoadOptions, Model, Options, Sampling};
use rustml_trace::stats::{median, Spread};
use rustml_trace::Detail;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const KINDS: [(&str, Detail); 3] = [
    ("off", Detail::Off),
    ("operations", Detail::Operations),
    ("parts", Detail::Parts),
];

/// Texts of each kind for each time that the model is loaded.
const TURNS: usize = 4;

/// Tokens of a text: some tenths of a second.
const TOKENS: usize = 64;

/// Milliseconds a token for every line of standard input that names a kind.
fn serve(path: &str) -> Result<()> {
    let mut model = Model::load(path, &LoadOptions::default())?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let kind = KINDS.iter().find(|k| k.0 == line);
        model.observe(kind.ok_or("no such kind")?.1, Arc::new(|_| {}));
        let options = Options {
            sampling: Sampling::greedy(),
            max_tokens: TOKENS,
            ignore_end: true,
            ..Options::default()
        };
        let timings = model.generate("Once upon a time", &options)?.timings;
        let ms = timings.decode.as_secs_f64() * 1e3;
        println!("{}", ms / timings.decode_tokens() as f64);
    }
    Ok(())
}

/// A process that [`serve`]s.
struct Server(Child, BufReader<std::process::ChildStdout>);

impl Server {
    fn start(program: &str, model: &str) -> Result<Server> {
        let mut command = Command::new(program);
        let command = command.args([model, "serve"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        Ok(Server(child, BufReader::new(out)))
    }

    fn ask(&mut self, kind: &str) -> Result<f64> {
        let mut line = String::new();
        writeln!(self.0.stdin.as_mut().ok_or("no input")?, "{kind}")?;
        self.1.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

/// Times of each load, one vector each.
type Loads = Vec<Vec<f64>>;

/// How the medians of the loads differ from those of `first`, load by load: the
/// middle of their ratios, and between which of them the true one lies with
/// 99 %, however they are distributed (each is above it or below it as a coin
/// falls).
fn difference(first: &Loads, own: &Loads) -> [f64; 3] {
    let middle = |v: &Vec<f64>| median(v.iter().copied());
    let ratios = own.iter().zip(first);
    let mut ratios: Vec<f64> = ratios.map(|(a, b)| middle(a) / middle(b) - 1.0).collect();
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    // So many of them lie outside, on either side.
    let (mut outside, mut chance, mut all) = (0, 0.5f64.powi(n as i32), 0.0);
    while outside < n && all + chance <= 0.005 {
        all += chance;
        chance *= (n - outside) as f64 / (outside + 1) as f64;
        outside += 1;
    }
    let Some(low) = outside.checked_sub(1) else {
        return [median(ratios), -1.0, f64::INFINITY];
    };
    let interval = [ratios[low], ratios[n - 1 - low]];
    [median(ratios), interval[0], interval[1]]
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let usage = "usage: probe MODEL [LOADS] [OTHER_BUILD]";
    let model = args.get(1).ok_or(usage)?;
    if args.get(2).is_some_and(|a| a == "serve") {
        return serve(model);
    }
    let loads: usize = args.get(2).map_or(Ok(5), |n| n.parse())?;
    let me = std::env::current_exe()?.display().to_string();
    let programs: Vec<&String> = [&me, &me].into_iter().chain(args.get(3)).collect();
    // Program, name and kind; the first is what the others are compared with.
    let other = (programs.len() > 2).then_some((2, "compiled out", "off"));
    let again = (1, "off, in a process of its own", "off");
    let mine = KINDS.iter().map(|&(name, _)| (0, name, name));
    let all: Vec<_> = other.into_iter().chain(mine).chain([again]).collect();
    let mut times: Vec<Loads> = vec![Vec::new(); all.len()];
    for _ in 0..loads {
        let servers = programs.iter().map(|program| Server::start(program, model));
        let mut servers = servers.collect::<Result<Vec<_>>>()?;
        times.iter_mut().for_each(|t| t.push(Vec::new()));
        for turn in 0..=TURNS {
            for i in 0..all.len() {
                // Nobody is always first, or always after the same one.
                let at = (i * (1 + turn % 2 * (all.len() - 2)) + turn) % all.len();
                let ms = servers[all[at].0].ask(all[at].2)?;
                if let Some(own) = times[at].last_mut().filter(|_| turn > 0) {
                    own.push(ms);
                }
            }
        }
        servers.into_iter().try_for_each(Server::end)?;
    }
    let rounds = loads * TURNS;
    println!(
        "| probe | ms a token, median of {rounds} | p5 | p95 | to the first | 99 % interval |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for ((_, name, _), own) in all.iter().zip(&times) {
        let s = Spread::of(own.iter().flatten().copied());
        print!("| {name} | {:.4} | {:.4} | {:.4} |", s.median, s.p5, s.p95);
        let [change, low, high] = difference(&times[0], own).map(|d| 100.0 * d);
        println!(" {change:+.2} % | {low:+.2} to {high:+.2} % |");
    }
    Ok(())
}

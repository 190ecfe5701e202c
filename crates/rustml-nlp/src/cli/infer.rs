//! `rustml infer`, which is `rustml-infer`.

use super::args::{Format, InferArgs, LoadArgs};
use super::output::{interrupt, print, Failure};
use crate::{Finish, Generation, Message, Model, Prompt};
use indicatif::{ProgressBar, ProgressStyle};
use rustml_hub::Hub;
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Finds and loads a model, saying on standard error what was done to it.
///
/// # Errors
/// If it cannot be found, read, or run here.
pub fn open(name: &str, load: &LoadArgs) -> Result<Model, Failure> {
    let path = Hub::from_env()?.resolve(name)?;
    let bar = ProgressBar::no_length().with_message("Loading");
    let style = "{msg} {wide_bar} {bytes}/{total_bytes}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let model = Model::open(&path, &load.options(), &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let model = model?;
    let report = model.model().report();
    for (from, to, count) in &report.quantised {
        eprintln!("Quantized {count} linear layers {from} -> {to}");
    }
    for (kept, width, count) in &report.kept {
        eprintln!(
            "Kept {count} linear layers in {kept}: their width of {width} is no whole number of blocks"
        );
    }
    tracing::info!(
        target: "rustml::load",
        "{} loaded in {:.2} s: {} parameters, {} MiB of weights, {} on {} threads",
        model.path().display(),
        model.load_time().as_secs_f64(),
        report.parameters,
        report.bytes >> 20,
        model.model().team().isa.name(),
        model.model().team().pool.threads(),
    );
    Ok(model)
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be loaded, the prompt not be run, or the result not be
/// printed.
pub fn infer(args: &InferArgs) -> Result<(), Failure> {
    let mut options = args.sampling.options().map_err(Failure::Usage)?;
    let texts = prompts(args)?;
    let cancel = interrupt();
    options.cancel = Some(cancel.clone());
    let model = open(args.model.name(), &args.model.load)?;
    let encode = |text: &String| -> Result<Prompt, crate::Error> {
        if !args.chat {
            return model.encode(text);
        }
        let system = args.system.as_deref().map(|s| Message::new("system", s));
        let messages: Vec<_> = system
            .into_iter()
            .chain([Message::new("user", text.as_str())])
            .collect();
        model.encode_chat(&messages)
    };
    let prompts = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let streams = args.stream && args.format == Format::Text;
    let start = Instant::now();
    let mut printed = Ok(());
    let results = model.generate_all(prompts, &options, &mut |piece| {
        if streams {
            printed = print(piece.text);
        }
        printed.is_ok()
    })?;
    let elapsed = start.elapsed();
    printed?;
    match args.format {
        Format::Text => print_texts(&results, streams)?,
        Format::Json => {
            for (result, prompt) in results.iter().zip(&texts) {
                print(&format!("{}\n", to_json(result, prompt)))?;
            }
        }
    }
    conclude(&results, elapsed, args);
    match cancel.load(Ordering::SeqCst) {
        true => Err(Failure::Interrupted),
        false => Ok(()),
    }
}

/// The prompts: of the flag, the file, or standard input.
fn prompts(args: &InferArgs) -> Result<Vec<String>, Failure> {
    if let Some(prompt) = &args.prompt {
        if prompt.is_empty() {
            return Err(Failure::Usage(
                "--prompt is empty: there is nothing to continue".into(),
            ));
        }
        return Ok(vec![prompt.clone()]);
    }
    if let Some(path) = &args.batch_file {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::Other(format!("cannot read --batch-file {}: {e}", path.display()))
        })?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        return match lines.iter().position(|l| l.is_empty()) {
            _ if lines.is_empty() => Err(Failure::Other(format!(
                "{} holds no prompts",
                path.display()
            ))),
            Some(i) => Err(Failure::Other(format!(
                "{}, line {}: the prompt is empty",
                path.display(),
                i + 1
            ))),
            None => Ok(lines),
        };
    }
    if std::io::stdin().is_terminal() {
        eprintln!("Type the prompt, then Ctrl-D:");
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|e| Failure::Other(format!("cannot read the prompt from standard input: {e}")))?;
    // The newline that a shell or an editor puts at the end is not meant.
    let text = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    match text.is_empty() {
        true => Err(Failure::Usage(
            "standard input holds no prompt; give one there or with --prompt".into(),
        )),
        false => Ok(vec![text.to_owned()]),
    }
}

/// One text as it is; of several, each on lines of its own.
fn print_texts(results: &[Generation], streamed: bool) -> Result<(), Failure> {
    for result in results {
        if !streamed {
            print(&result.text)?;
        }
        if !result.text.ends_with('\n') {
            print("\n")?;
        }
    }
    Ok(())
}

fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

fn to_json(g: &Generation, prompt: &str) -> serde_json::Value {
    let t = &g.timings;
    let rate = |tokens: usize, time: Duration| match time.is_zero() {
        true => None,
        false => Some((tokens as f64 / time.as_secs_f64() * 100.0).round() / 100.0),
    };
    json!({
        "prompt": prompt,
        "text": g.text,
        "ids": g.ids,
        "finish_reason": g.finish.name(),
        "prompt_tokens": g.prompt_tokens,
        "generated_tokens": g.ids.len(),
        "timings": {
            "prompt_ms": ms(t.prompt),
            "prompt_tokens_per_second": rate(t.prompt_tokens, t.prompt),
            "decode_ms": ms(t.decode),
            "decode_tokens_per_second": rate(t.decode_tokens, t.decode),
        },
    })
}

/// The closing lines on standard error.
fn conclude(results: &[Generation], elapsed: Duration, args: &InferArgs) {
    let cut = |why| results.iter().filter(|r| r.finish == why).count();
    if cut(Finish::Timeout) > 0 {
        let limit = args.sampling.timeout.unwrap_or_default().as_secs_f64();
        eprintln!("Stopped by --timeout after {limit} s, before the end of the text");
    }
    if cut(Finish::Cancelled) > 0 {
        eprintln!("Interrupted before the end of the text");
    }
    if cut(Finish::Context) > 0 {
        eprintln!(
            "The context is full; a larger --ctx-size gives room for more, if the model does"
        );
    }
    let tokens: usize = results.iter().map(|r| r.ids.len()).sum();
    let seconds = elapsed.as_secs_f64();
    eprintln!(
        "Generated in {seconds:.2}s ({tokens} tokens, {:.2} tokens/s)",
        tokens as f64 / seconds.max(1e-9)
    );
}

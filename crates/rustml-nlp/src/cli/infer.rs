//! `rustml infer`, which is `rustml-infer`.

use super::args::{Format, InferArgs};
use super::open::{open, open_draft};
use super::output::{note, print, print_text, Failure};
use super::profile::Profile;
use super::signals::Signals;
use crate::{Finish, Generation, Message, Model, Prompt};
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::time::{Duration, Instant};

/// Runs the command.
///
/// # Errors
/// If the model cannot be loaded, the prompt not be run, or the result not be
/// printed.
pub fn infer(args: &InferArgs, signals: &Signals) -> Result<(), Failure> {
    let mut options = args.sampling.options().map_err(Failure::Usage)?;
    let texts = prompts(args)?;
    args.profile.check()?;
    let load = args.model.load.options();
    let mut model = open(args.model.source.name(), &load)?;
    open_draft(&mut model, &args.draft, &load)?;
    let profile = args.profile.begin(&mut model)?;
    let encode = |text: &String| -> Result<Prompt, crate::Error> {
        if !args.chat {
            return model.encode(text);
        }
        let system = args
            .system
            .text
            .as_deref()
            .map(|s| Message::new("system", s));
        let messages: Vec<_> = system
            .into_iter()
            .chain([Message::new("user", text.as_str())])
            .collect();
        model.encode_chat(&messages)
    };
    let prompts = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let streams = args.stream && args.format == Format::Text;
    options.cancel = Some(signals.begin());
    let start = Instant::now();
    let mut printed = Ok(());
    let results = model.generate_all(prompts, &options, &mut |piece| {
        if streams {
            printed = print_text(piece.text);
        }
        printed.is_ok()
    })?;
    let elapsed = start.elapsed();
    printed?;
    match args.format {
        Format::Text => print_texts(&results, streams)?,
        Format::Json => {
            for (result, prompt) in results.iter().zip(&texts) {
                print(&format!("{}\n", to_json(&model, result, prompt)))?;
            }
        }
    }
    conclude(&results, elapsed, args);
    profile.map_or(Ok(()), Profile::finish)?;
    signals.end()?;
    // What there is was printed; that it is not all must not look like success.
    let failed = results.iter().find_map(|r| match &r.finish {
        Finish::Failed(why) | Finish::NotFinite(why) => Some(why.clone()),
        _ => None,
    });
    failed.map_or(Ok(()), |why| Err(Failure::Other(why)))
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
        let text = std::fs::read(path).map_err(|e| {
            Failure::Other(format!("cannot read --batch-file {}: {e}", path.display()))
        })?;
        let text = utf8(text, &path.display().to_string())?;
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
        note("Type the prompt, then Ctrl-D:");
    }
    let text = stdin()?;
    if std::io::stdin().is_terminal() && !text.ends_with('\n') {
        // The cursor still stands where Ctrl-D was typed.
        note("");
    }
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

/// All of standard input.
///
/// # Errors
/// If it cannot be read, or is no text.
pub fn stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.map_err(|e| Failure::Other(format!("cannot read standard input: {e}")))?;
    utf8(bytes, "standard input")
}

/// The text, without the byte order mark that some editors put before one.
fn utf8(mut bytes: Vec<u8>, from: &str) -> Result<String, Failure> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        Failure::Other(format!(
            "{from} is not UTF-8: the byte 0x{:02x} in line {line} belongs to no character; convert it, for instance with iconv",
            e.as_bytes()[at]
        ))
    })
}

/// One text as it is; of several, each on lines of its own.
fn print_texts(results: &[Generation], streamed: bool) -> Result<(), Failure> {
    for result in results {
        if !streamed {
            print_text(&result.text)?;
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

fn to_json(model: &Model, g: &Generation, prompt: &str) -> serde_json::Value {
    let t = &g.timings;
    let rate = |tokens: usize, time: Duration| match time.is_zero() {
        true => None,
        false => Some((tokens as f64 / time.as_secs_f64() * 100.0).round() / 100.0),
    };
    let mut json = json!({
        "prompt": prompt,
        "text": g.text,
        "ids": g.ids,
        "finish_reason": g.finish.name(),
        "prompt_tokens": g.prompt_tokens,
        "generated_tokens": g.ids.len(),
        "threads": model.threads(),
        "timings": {
            "prompt_tokens": t.computed_tokens(),
            "prompt_ms": ms(t.prefill),
            "prompt_tokens_per_second": rate(t.computed_tokens(), t.prefill),
            "decode_tokens": t.decode_tokens(),
            "decode_ms": ms(t.decode),
            "decode_tokens_per_second": rate(t.decode_tokens(), t.decode),
        },
    });
    if model.draft().is_some() {
        json["guesses"] = json!({
            "made": t.guessed,
            "right": t.right,
            "switched_off": t.guesses_off,
        });
    }
    json
}

/// The closing lines on standard error.
fn conclude(results: &[Generation], elapsed: Duration, args: &InferArgs) {
    let cut = |why: &Finish| results.iter().filter(|r| &r.finish == why).count();
    if cut(&Finish::Timeout) > 0 {
        let limit = args.sampling.timeout.unwrap_or_default().as_secs_f64();
        note(format_args!(
            "Stopped by --timeout after {limit} s, before the end of the text"
        ));
    }
    if cut(&Finish::Cancelled) > 0 {
        note("Interrupted before the end of the text");
    }
    if cut(&Finish::Context) > 0 {
        note("The context is full; a larger --ctx-size gives room for more, if the model does");
    }
    let tokens: usize = results.iter().map(|r| r.ids.len()).sum();
    let seconds = elapsed.as_secs_f64();
    note(format_args!(
        "Generated in {seconds:.2}s ({tokens} tokens, {:.2} tokens/s)",
        tokens as f64 / seconds.max(1e-9)
    ));
}

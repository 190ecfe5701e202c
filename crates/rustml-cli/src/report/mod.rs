//! `rustml report`: where the time goes.

mod args;
mod machine;
mod measure;

pub use args::ReportArgs;

use crate::synth::parse_shape;
use indicatif::{ProgressBar, ProgressStyle};
use measure::Known;
use rustml_io::{Array, DType, FileFormat, Metadata, Store, Strings, Value};
use rustml_model::synth::{Shape, Synth};
use rustml_nlp::cli::{locate, note, open, print, spare_model, Failure, Output, Signals};
use rustml_nlp::{default_quantize, Model};
use rustml_trace::compare::unlike;
use rustml_trace::document::Document;
use rustml_trace::render::{html, markdown, markdown_of_comparison};
use rustml_trace::round::{Round, Run, Setup};
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(args: &ReportArgs, signals: &Signals) -> Result<(), Failure> {
    // All that can be said before the work, which takes long.
    for path in args.outputs() {
        Output::check(path)?;
    }
    let mut rounds = args.compare.iter().map(|path| read_round(path));
    let before = rounds.next().transpose()?;
    let measured = match rounds.next().transpose()? {
        Some(after) => after,
        None => measure(args, before.as_ref(), signals)?,
    };
    if let Some(before) = &before {
        alike(args, before, &measured)?;
    }
    if let Some(path) = &args.save {
        Output::put(path, &Document::saved(measured.clone()).to_json())?;
    }
    let document = Document::report(measured, before.as_ref());
    if let Some(path) = &args.json {
        Output::put(path, &document.to_json())?;
    }
    if let Some(path) = &args.html {
        Output::put(path, &html(&document))?;
    }
    let text = match &document.comparison {
        Some(comparison) if args.compare.len() == 2 => markdown_of_comparison(comparison),
        _ => markdown(&document),
    };
    match &args.output {
        Some(path) => Output::put(path, &text)?,
        None => print(&text)?,
    }
    judge(args, &document)
}

/// Whether something became slower than is allowed.
fn judge(args: &ReportArgs, document: &Document) -> Result<(), Failure> {
    let (Some(limit), Some(comparison)) = (args.fail_over, &document.comparison) else {
        return Ok(());
    };
    let slower = comparison.slower(limit.0);
    let name = |r: &&rustml_trace::compare::Row| {
        let change = r.change.map_or(0.0, |c| c.change);
        format!("{}, {}: {:+.1} %", r.of.name(), r.name, change * 100.0)
    };
    let names: Vec<String> = slower.iter().map(name).collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(Failure::Slower(format!(
            "slower by more than {} %: {}",
            limit.0 * 100.0,
            names.join("; ")
        ))),
    }
}

fn read_round(path: &Path) -> Result<Round, Failure> {
    let fail =
        |what: String| Failure::Other(format!("cannot compare with {}: {what}", path.display()));
    let text = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
    let document = Document::from_json(text).map_err(|e| fail(e.to_string()))?;
    Ok(document.round)
}

fn alike(args: &ReportArgs, before: &Round, after: &Round) -> Result<(), Failure> {
    let unlike = unlike(before, after);
    match unlike.is_empty() || args.force {
        true => Ok(()),
        false => Err(Failure::Other(format!(
            "the rounds are not alike ({}); --force compares them all the same",
            unlike.join("; ")
        ))),
    }
}

/// What is to be measured, and where it lies.
struct Subject {
    setup: Setup,
    name: String,
    path: PathBuf,
    /// Where a synthetic model lies, as long as it is needed.
    _folder: Option<tempfile::TempDir>,
}

fn measure(args: &ReportArgs, before: Option<&Round>, signals: &Signals) -> Result<Round, Failure> {
    let mut subject = subject(args, before)?;
    let setup = &mut subject.setup;
    let options = measure::load_options(setup, args.force)?;
    // The first one says what was done to it.
    let mut model = open(&subject.path, &options)?;
    args.fit(setup, &model)?;
    let format = Store::open(&subject.path)?.format();
    let quantize = options.quantize.unwrap_or(default_quantize(format));
    setup.quantize.get_or_insert(quantize.to_string());
    let known = Known::of(&model, &subject.name, &format_name(format))?;
    let mut round = Round {
        setup: setup.clone(),
        machine: known.machine,
        model: known.model,
        roofs: known.roofs,
        runs: Vec::new(),
        text: String::new(),
    };
    if let Some(before) = before {
        alike(args, before, &round)?;
    }
    let bar = ProgressBar::new(setup.repeat as u64).with_message("Measuring");
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.tick();
    for repetition in 0..setup.repeat {
        if repetition > 0 {
            // Loaded anew, since where memory happens to lie matters, too.
            drop(model);
            model = Model::open(&subject.path, &options, &mut |_, _| {})?;
        }
        let (run, text): (Run, String) = measure::run(&mut model, setup, signals)?;
        round.runs.push(run);
        if repetition == 0 {
            round.text = text;
        }
        bar.inc(1);
    }
    // Memory is not as fast in one minute as in the next.
    round.roofs = round.roofs.or(&measure::roofs(&model)?);
    bar.finish_and_clear();
    Ok(round)
}

fn format_name(format: FileFormat) -> String {
    match format {
        FileFormat::Gguf { version } => format!("GGUF {version}"),
        FileFormat::Safetensors => "safetensors".into(),
    }
}

/// The model that the flags name, or that the earlier round was of.
fn subject(args: &ReportArgs, before: Option<&Round>) -> Result<Subject, Failure> {
    let mut setup = args.setup(before.map(|b| &b.setup));
    if setup.synthetic {
        return synthetic(setup);
    }
    let path = locate(&setup.source)?;
    for output in args.outputs() {
        spare_model(output, &path)?;
    }
    // Of a path, the last part says what it is; of the hub's, all.
    let mut name = setup.source.clone();
    if let Ok(whole) = Path::new(&setup.source).canonicalize() {
        let last = whole.file_name();
        name = last.map_or(name, |n| n.to_string_lossy().into_owned());
        setup.source = whole.display().to_string();
    }
    Ok(Subject {
        setup,
        name,
        path,
        _folder: None,
    })
}

/// Writes a model of the shape.
fn synthetic(setup: Setup) -> Result<Subject, Failure> {
    let shape = parse_shape(&setup.source);
    let shape = shape.map_err(|e| Failure::Usage(format!("--shape {}: {e}", setup.source)))?;
    // What is to be quantised, or to be left as it is, is stored in halves.
    let dtype = match setup.quantize.as_deref() {
        Some("q4_0") => DType::Q4_0,
        Some("bf16") => DType::BF16,
        Some("f16" | "none" | "auto") => DType::F16,
        _ => DType::Q8_0,
    };
    let folder = tempfile::tempdir()?;
    let name = shape.name().to_owned();
    let path = folder.path().join(format!("{name}.gguf"));
    let synth = Synth::new(shape.clone(), dtype).like(&vocabulary(&shape));
    let synth = synth.map_err(Failure::Other)?;
    note(format_args!(
        "Writing random weights of the shape {name} in {dtype} to {}",
        folder.path().display()
    ));
    synth.write(&path, &mut |_, _| {})?;
    Ok(Subject {
        setup,
        name,
        path,
        _folder: Some(folder),
    })
}

/// Words for the tokens of a shape, of which nothing is known but their number.
fn vocabulary(shape: &Shape) -> Metadata {
    let tokens = (0..shape.spec().vocab).map(|id| format!("<{id}>"));
    let mut words = Metadata::new();
    words.insert("tokenizer.ggml.model", "gpt2");
    words.insert(
        "tokenizer.ggml.tokens",
        Value::Array(Array::String(tokens.collect())),
    );
    words.insert(
        "tokenizer.ggml.merges",
        Value::Array(Array::String(Strings::default())),
    );
    words
}

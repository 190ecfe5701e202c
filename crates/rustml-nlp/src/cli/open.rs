//! From a name on the command line to a loaded model.

use super::args::DraftArgs;
use super::output::{note, Failure};
use crate::{Error, LoadOptions, Model, Weights};
use indicatif::{ProgressBar, ProgressStyle};
use rustml_hub::Hub;
use rustml_io::Store;
use rustml_tokenizer::Tokenizer;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The model's file or directory: a local path of that name, else the cache,
/// else the hub. A file is taken as it is, whatever it holds.
///
/// # Errors
/// If it cannot be found or downloaded.
pub fn locate(name: impl AsRef<OsStr>) -> Result<PathBuf, Failure> {
    let name = name.as_ref();
    if name.is_empty() {
        return Err(Failure::Usage("the name of the model is empty".into()));
    }
    if Path::new(name).is_file() {
        return Ok(name.into());
    }
    match name.to_str() {
        Some(name) => Ok(Hub::from_env()?.resolve(name)?),
        // What is no text can be nothing but a path.
        None if Path::new(name).is_dir() => Ok(name.into()),
        None => Err(Failure::Other(format!(
            "there is no file or directory {}",
            Path::new(name).display()
        ))),
    }
}

/// The same for weights alone: a local directory may lack a tokenizer.
///
/// # Errors
/// As for [`locate`].
pub fn locate_weights(name: impl AsRef<OsStr>) -> Result<PathBuf, Failure> {
    let path = Path::new(name.as_ref());
    match path.is_dir() && Store::open(path).is_ok() {
        true => Ok(path.to_owned()),
        false => locate(name),
    }
}

/// Loads the weights at `path` alone, saying on standard error what was done to
/// them.
///
/// # Errors
/// If they cannot be read, or run here.
pub fn open_weights(path: &Path, options: &LoadOptions) -> Result<Weights, Failure> {
    let weights = with_bar("Loading", |progress| Weights::open(path, options, progress))?;
    tell(weights.model().report());
    Ok(weights)
}

/// Finds and loads a model, saying on standard error what was done to it.
///
/// # Errors
/// If it cannot be found, read, or run here.
pub fn open(name: impl AsRef<OsStr>, options: &LoadOptions) -> Result<Model, Failure> {
    let path = locate(name)?;
    let model = with_bar("Loading", |progress| Model::open(&path, options, progress))?;
    let report = model.model().report();
    tell(report);
    tracing::info!(
        target: "rustml::load",
        "{} loaded in {:.2} s: {} parameters, {} MiB of weights, {} on {} threads",
        model.path().display(),
        model.load_time().as_secs_f64(),
        report.parameters,
        report.bytes >> 20,
        model.model().team().isa.name(),
        model.threads(),
    );
    Ok(model)
}

/// Finds and loads a smaller model that is to guess tokens for `model`, if one
/// is named.
///
/// # Errors
/// If it cannot be found, read, or run here, or has another vocabulary.
pub fn open_draft(
    model: &mut Model,
    draft: &DraftArgs,
    options: &LoadOptions,
) -> Result<(), Failure> {
    let Some(name) = &draft.draft else {
        return Ok(());
    };
    let path = locate(name)?;
    with_bar("Loading the draft model", |progress| {
        model.set_draft(&path, options, progress)
    })?;
    model.draft().into_iter().for_each(|d| tell(d.report()));
    Ok(())
}

/// Loads with a progress bar.
fn with_bar<T>(what: &'static str, load: impl FnOnce(rustml_model::Progress) -> T) -> T {
    let bar = ProgressBar::no_length().with_message(what);
    let style = "{msg} {wide_bar} {bytes}/{total_bytes}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let loaded = load(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    loaded
}

/// Says what was done to a model.
fn tell(report: &rustml_model::LoadReport) {
    if report.untied {
        note(
            "warning: the configuration says that the head is tied to the embedding \
             (tie_word_embeddings), but the file holds another one; it is used",
        );
    }
    for (from, to, count) in &report.quantised {
        note(format_args!(
            "Quantized {count} linear layers {from} -> {to}"
        ));
    }
    for recoded in &report.recoded {
        let (from, to, count) = (recoded.from, recoded.to, recoded.matrices);
        note(format_args!(
            "Read {count} matrices {from} -> {to}, {}",
            match recoded.error() {
                0.0 => "exactly".into(),
                error => format!("rounded by {:.2} % (root mean square)", 100.0 * error),
            }
        ));
    }
    for (kept, width, count) in &report.kept {
        note(format_args!(
            "Kept {count} linear layers in {kept}: their width of {width} is no whole number of blocks"
        ));
    }
}

/// Finds a model and loads its tokenizer alone. A directory without weights
/// will do.
///
/// # Errors
/// If it cannot be found or read.
pub fn open_tokenizer(name: impl AsRef<OsStr>) -> Result<Tokenizer, Failure> {
    let name = name.as_ref();
    let dir = Path::new(name);
    if dir.join("tokenizer.json").is_file() {
        return Tokenizer::from_dir(dir).map_err(|source| {
            Failure::from(Error::Tokenizer {
                path: dir.to_owned(),
                source,
            })
        });
    }
    Ok(Model::tokenizer_of(&Store::open(&locate(name)?)?)?)
}

//! `rustml pull`, `list` and `rm`: models in the local cache.

use crate::text::{bytes, table, Align};
use jiff::Timestamp;
use rustml_hub::{CachedModel, Hub};
use rustml_nlp::cli::{examples, harmless, note, print, Failure};
use serde_json::{json, Value};
use std::io::{self, IsTerminal};
use std::time::SystemTime;

/// Download a model from the hub, or bring it up to date
///
/// Prints the path of what was downloaded. A download that broke off goes on
/// where it was. Models are kept where Hugging Face's own tools keep them.
#[derive(clap::Args)]
#[command(after_help = examples(&[
    ("A model in safetensors", "rustml pull HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("One of the GGUF files of a repository", "rustml pull org/name-GGUF:Q4_K_M"),
]))]
pub struct PullArgs {
    /// org/name, org/name:Q4_K_M, org/name/file.gguf or org/name@revision
    #[arg(value_name = "NAME")]
    name: String,
}

/// Show the models in the local cache
#[derive(clap::Args)]
#[command(after_help = examples(&[
    ("All models and their sizes", "rustml list"),
    ("The names alone", "rustml list --json | jq -r '.[].name'"),
]))]
pub struct ListArgs {
    /// Print a list of objects: name, path, bytes, last_used, problem (null if
    /// it can be loaded) and revisions with their files
    #[arg(long)]
    json: bool,
}

/// Remove a model from the local cache
///
/// Removes a model with all its revisions, or the one revision or GGUF file
/// that the name names. Nothing outside the cache is touched.
#[derive(clap::Args)]
#[command(after_help = examples(&[
    ("A whole model, without being asked", "rustml rm HuggingFaceTB/SmolLM2-135M-Instruct --yes"),
    ("One GGUF file of several", "rustml rm org/name-GGUF:Q4_K_M"),
]))]
pub struct RmArgs {
    /// org/name, org/name:Q4_K_M, org/name/file.gguf or org/name@revision
    #[arg(value_name = "NAME")]
    name: String,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Runs `rustml pull`.
pub fn pull(args: &PullArgs) -> Result<(), Failure> {
    let path = Hub::from_env()?.pull(&args.name)?;
    print(&format!("{}\n", path.display()))
}

/// Runs `rustml list`.
pub fn list(args: &ListArgs) -> Result<(), Failure> {
    let hub = Hub::from_env()?;
    let models = hub.list()?;
    if args.json {
        let models: Vec<Value> = models.iter().map(to_json).collect();
        return print(&format!("{:#}\n", Value::from(models)));
    }
    if models.is_empty() {
        note(format_args!(
            "No models in {}; `rustml pull org/name` gets one",
            hub.cache().display()
        ));
        return Ok(());
    }
    let now = SystemTime::now();
    let mut rows = vec![["NAME", "SIZE", "USED", ""].map(String::from).to_vec()];
    for model in &models {
        rows.push(vec![
            harmless(&model.name),
            bytes(model.bytes),
            model.last_used.map_or(String::new(), |then| ago(now, then)),
            model
                .problem
                .as_deref()
                .map_or(String::new(), |why| format!("unusable: {}", harmless(why))),
        ]);
    }
    print(&table(
        &rows,
        &[Align::Left, Align::Right, Align::Left, Align::Left],
    ))
}

fn to_json(model: &CachedModel) -> Value {
    let last_used = model.last_used.and_then(|t| Timestamp::try_from(t).ok());
    json!({
        "name": model.name,
        "path": model.path.to_string_lossy(),
        "bytes": model.bytes,
        "unfinished_bytes": model.unfinished,
        "last_used": last_used.map(|t| format!("{t:.0}")),
        "problem": model.problem,
        "revisions": model.revisions,
    })
}

/// `3 days ago`
fn ago(now: SystemTime, then: SystemTime) -> String {
    let Ok(past) = now.duration_since(then) else {
        return "just now".into();
    };
    let minutes = past.as_secs() / 60;
    let (n, unit) = match minutes {
        0 => return "just now".into(),
        m if m < 60 => (m, "minute"),
        m if m < 48 * 60 => (m / 60, "hour"),
        m => (m / (24 * 60), "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

/// Runs `rustml rm`.
pub fn rm(args: &RmArgs) -> Result<(), Failure> {
    let hub = Hub::from_env()?;
    if !args.yes && !confirmed(&hub, &args.name)? {
        note("Nothing was removed");
        return Ok(());
    }
    let removed = hub.remove(&args.name)?;
    note(format_args!(
        "Removed {}: {} freed",
        harmless(&removed.name),
        bytes(removed.bytes)
    ));
    Ok(())
}

/// Asks whoever is there.
fn confirmed(hub: &Hub, name: &str) -> Result<bool, Failure> {
    // Asking about what is not there would be silly.
    let models = hub.list()?;
    let of = |model: &&CachedModel| {
        let rest = name.strip_prefix(model.name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@', '/']))
    };
    let Some(model) = models.iter().find(of) else {
        return Err(rustml_hub::Error::NotCached {
            name: harmless(name),
            cache: hub.cache().to_owned(),
        }
        .into());
    };
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "nobody is there to be asked; --yes removes {} without",
            harmless(name)
        )));
    }
    let what = match name == model.name {
        true => format!("{name} ({})", bytes(model.bytes)),
        false => harmless(name),
    };
    // Not a result, and to be seen even where those go elsewhere.
    eprint_now(&format!(
        "Remove {what} from {}? [y/N] ",
        hub.cache().display()
    ));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|e| Failure::Other(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn eprint_now(text: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_in_words() {
        let now = SystemTime::now();
        for (seconds, words) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (3 * 3600 + 59, "3 hours ago"),
            (48 * 3600, "2 days ago"),
        ] {
            assert_eq!(ago(now, now - Duration::from_secs(seconds)), words);
        }
        assert_eq!(ago(now, now + Duration::from_secs(9)), "just now");
    }
}

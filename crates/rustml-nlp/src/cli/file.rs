//! What is written, and what must not be written over.

use super::output::Failure;
use rustml_io::Output;
use std::io;
use std::path::Path;

/// The sentence for a file that could not be written.
pub fn cannot_write(path: &Path, e: io::Error) -> Failure {
    Output::failed(path, e).into()
}

/// Refuses to write over a file of the model that is read: the model would be
/// lost, and it is never what was meant.
///
/// # Errors
/// If `path` leads to the model's file, to another part of a split one, or to
/// a file of the model's directory.
pub fn spare_model(path: &Path, model: &Path) -> Result<(), Failure> {
    let Ok(target) = path.canonicalize() else {
        // Nothing is there yet.
        return Ok(());
    };
    let is_target = |file: &Path| file.canonicalize().is_ok_and(|file| file == target);
    let belongs = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let parts = [".gguf", ".json", ".jinja", ".safetensors"];
        parts.iter().any(|end| name.ends_with(end)) && is_target(file)
    };
    let beside = |directory: &Path, of: &dyn Fn(&Path) -> bool| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|file| of(&file))
    };
    let hit = match (model.is_dir(), stem_of_parts(model)) {
        (true, _) => beside(model, &belongs),
        (false, Some(stem)) => beside(model.parent().unwrap_or(Path::new(".")), &|file| {
            stem_of_parts(file) == Some(stem) && is_target(file)
        }),
        (false, None) => is_target(model),
    };
    match hit {
        true => Err(Failure::Other(format!(
            "cannot write {}: it belongs to the model that is read; name another file",
            path.display()
        ))),
        false => Ok(()),
    }
}

/// Of a part of a split GGUF file, what all parts are called.
fn stem_of_parts(file: &Path) -> Option<&str> {
    let name = file.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, _) = name.rsplit_once("-of-")?;
    rest.rsplit_once('-').map(|(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_of_the_model_are_spared_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("model")).unwrap();
        for name in [
            "one.gguf",
            "two.gguf",
            "s-00001-of-00002.gguf",
            "s-00002-of-00002.gguf",
            "model/config.json",
            "model/model.safetensors",
            "model/notes.txt",
        ] {
            fs::write(at(name), "").unwrap();
        }
        for (path, model, refused) in [
            ("one.gguf", "one.gguf", true),
            ("model/../one.gguf", "one.gguf", true),
            ("two.gguf", "one.gguf", false),
            ("new.gguf", "one.gguf", false),
            ("s-00002-of-00002.gguf", "s-00001-of-00002.gguf", true),
            ("one.gguf", "s-00001-of-00002.gguf", false),
            ("model/config.json", "model", true),
            ("model/model.safetensors", "model", true),
            ("model/notes.txt", "model", false),
            ("model/logits.safetensors", "model", false),
            ("one.gguf", "model", false),
        ] {
            let done = spare_model(&at(path), &at(model));
            assert_eq!(done.is_err(), refused, "{path} {model}");
        }
    }
}

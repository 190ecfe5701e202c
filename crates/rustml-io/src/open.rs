//! From a path to a [`Store`]: which files make up the model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value as Json;

use crate::error::{malformed, show, Problem};
use crate::mmap::Bytes;
use crate::small::read_small;
use crate::store::{FileFormat, Opened, Store};
use crate::{gguf, recognise, safetensors, Error, Result};

/// Bytes a configuration or a shard index may take.
const MAX_JSON: u64 = 64 << 20;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";

impl Store {
    /// Opens a model: a GGUF file, a safetensors file (or the index of a
    /// sharded one), or a directory that holds `config.json` with
    /// `model.safetensors` or its shards, or exactly one GGUF model.
    ///
    /// Files are told apart by their contents, not by their names. The first
    /// of several GGUF parts (`...-00001-of-00003.gguf`) opens all of them.
    ///
    /// # Errors
    /// If anything is missing, damaged or of another kind; the message says
    /// what and which.
    pub fn open(path: &Path) -> Result<Store> {
        let about = fs::metadata(path).map_err(Error::io("open", path))?;
        if about.is_dir() {
            return open_directory(path);
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        if name.ends_with(".safetensors.index.json") {
            return open_shards(path, path);
        }
        open_file(path, path)
    }

    /// A store of one file whose bytes are already in memory; `name` stands
    /// for its path in messages.
    pub fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<Store> {
        let opened = read_header(name, Bytes::Owned(bytes))?;
        Store::assemble(name.into(), parent(name), None, vec![opened])
    }
}

/// The directory a file is in.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => Path::new(".").into(),
    }
}

/// Reads the header of whichever kind of file this is. Only what is neither by
/// its first bytes is looked at by its name, for a message that fits.
fn read_header(path: &Path, bytes: Bytes) -> Result<Opened> {
    let wrong = Error::file(path);
    let path = path.to_owned();
    let is_safetensors = safetensors::looks_like_safetensors(&bytes);
    if !gguf::is_gguf(&bytes) && !is_safetensors {
        let other = recognise::impostor(&bytes).or_else(|| recognise::text(&bytes));
        if let Some(problem) = other {
            return Err(wrong(problem));
        }
    }
    let named = |end| path.extension().is_some_and(|extension| extension == end);
    if gguf::is_gguf(&bytes) || (named("gguf") && !is_safetensors) {
        let header = gguf::parse(&bytes).map_err(wrong)?;
        let format = FileFormat::Gguf {
            version: header.version,
        };
        let (metadata, tensors) = (header.metadata, header.tensors);
        return Ok(Opened {
            path,
            bytes,
            format,
            metadata,
            tensors,
        });
    }
    if !is_safetensors && !named("safetensors") {
        return Err(wrong(recognise::neither()));
    }
    let header = safetensors::parse(&bytes).map_err(wrong)?;
    let (metadata, tensors) = (header.metadata, header.tensors);
    Ok(Opened {
        path,
        bytes,
        format: FileFormat::Safetensors,
        metadata,
        tensors,
    })
}

fn open_file(path: &Path, file: &Path) -> Result<Store> {
    let directory = parent(file);
    let opened = read_header(file, Bytes::map(file)?)?;
    let (config, opened) = match opened.format {
        FileFormat::Gguf { .. } => (None, open_parts(opened)?),
        FileFormat::Safetensors => (read_config(&directory)?, vec![opened]),
    };
    Store::assemble(path.into(), directory, config, opened)
}

/// Opens the other parts of a GGUF model that `gguf-split` cut up.
fn open_parts(first: Opened) -> Result<Vec<Opened>> {
    let number = |opened: &Opened, key| {
        let wrong = |error: Error| Error::file(&opened.path)(Problem::Malformed(error.to_string()));
        opened.metadata.u32(key).map_err(wrong)
    };
    let count = number(&first, "split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![first]);
    }
    let wrong = Error::file(&first.path);
    let part = |number: u32| format!("-{number:05}-of-{count:05}.gguf");
    let name = first
        .path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    let (Some(stem), Ok(Some(0))) = (name.strip_suffix(&part(1)), number(&first, "split.no"))
    else {
        return Err(wrong(Problem::Unsupported(format!(
            "this is one of {count} parts of a model; open the first, whose name ends in `{}`",
            part(1)
        ))));
    };
    let beside = |number| {
        let name = format!("{stem}{}", part(number));
        first.path.with_file_name(name)
    };
    let mut others = Vec::new();
    // Parts are numbered from 1 in names, from 0 in metadata.
    for i in 1..count {
        let path = &beside(i + 1);
        if !path.exists() {
            return Err(wrong(Problem::NotAModel(format!(
                "this is the first of {count} parts, and {} is missing",
                path.display()
            ))));
        }
        let opened = read_header(path, Bytes::map(path)?)?;
        if number(&opened, "split.no")? != Some(i) {
            let text = format!("this is not part {} of its model, as its name says", i + 1);
            return Err(Error::file(path)(Problem::Malformed(text)));
        }
        agree(&first, &opened)?;
        others.push(opened);
    }
    others.insert(0, first);
    let tensors: usize = others.iter().map(|part| part.tensors.len()).sum();
    match others[0].metadata.usize("split.tensors.count") {
        Ok(Some(said)) if said != tensors => {
            Err(Error::file(&others[0].path)(Problem::Malformed(format!(
                "this is the first part of a model of {said} tensors (split.tensors.count), but \
                 its {count} parts hold {tensors}: they do not belong together"
            ))))
        }
        _ => Ok(others),
    }
}

/// Whether a later part says the same as the first about whatever both speak
/// of. Only the first has all metadata; but its number, a part has none of its
/// own.
fn agree(first: &Opened, part: &Opened) -> Result<()> {
    let differs = part.metadata.iter().find(|(key, value)| {
        *key != "split.no" && first.metadata.get(key).is_some_and(|v| v != *value)
    });
    match differs {
        None => Ok(()),
        Some((key, _)) => Err(Error::file(&part.path)(Problem::Malformed(format!(
            "this part has another value of {} than {}: they are parts of different models",
            show(key),
            first.path.display()
        )))),
    }
}

fn open_directory(path: &Path) -> Result<Store> {
    let single = path.join(SINGLE);
    let index = path.join(INDEX);
    if single.exists() || index.exists() {
        if !path.join(CONFIG).exists() {
            let text = format!(
                "there are weights but no {CONFIG}, which says how to compute with them; \
                 copy it from where the weights came from"
            );
            return Err(Error::file(path)(Problem::NotAModel(text)));
        }
        return match single.exists() {
            true => open_file(path, &single),
            false => open_shards(path, &index),
        };
    }
    let names = list(path)?;
    let ggufs: Vec<&String> = names
        .iter()
        .filter(|name| name.to_lowercase().ends_with(".gguf"))
        .filter(|name| !is_later_part(name))
        .collect();
    match ggufs[..] {
        [one] => open_file(path, &path.join(one)),
        _ => Err(Error::file(path)(recognise::directory(&names))),
    }
}

/// Whether `name` is that of a part of a GGUF model other than the first.
fn is_later_part(name: &str) -> bool {
    let parts = || {
        let (rest, of) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (_, number) = rest.rsplit_once('-')?;
        Some((number.parse::<u32>().ok()?, of.parse::<u32>().ok()?))
    };
    parts().is_some_and(|(number, of)| number > 1 && number <= of)
}

/// The names in a directory, sorted.
fn list(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let entry = entry.map_err(Error::io("list", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn open_shards(path: &Path, index: &Path) -> Result<Store> {
    let directory = parent(index);
    let wrong = Error::file(index);
    let json = read_json(index)?;
    let Some(map) = json.get("weight_map").and_then(Json::as_object) else {
        return malformed!("there is no `weight_map`, so this is no index of shards")
            .map_err(wrong);
    };
    // Which tensors each shard must hold.
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in map {
        let file = shard.as_str().filter(|shard| is_plain_name(shard));
        let Some(file) = file else {
            let shard = shard.to_string();
            return malformed!(
                "tensor {} is said to be in {}, which is not the name of a file beside the index",
                show(tensor),
                show(&shard)
            )
            .map_err(wrong);
        };
        shards.entry(file).or_default().push(tensor);
    }
    if shards.is_empty() {
        return malformed!("`weight_map` is empty").map_err(wrong);
    }
    let missing: Vec<&str> = shards
        .keys()
        .copied()
        .filter(|shard| !directory.join(shard).exists())
        .collect();
    if !missing.is_empty() {
        let text = format!(
            "of the {} files the weights are in, {} missing: {}; download the rest",
            shards.len(),
            if missing.len() == 1 {
                "1 is".into()
            } else {
                format!("{} are", missing.len())
            },
            recognise::some_of(&missing)
        );
        return Err(wrong(Problem::NotAModel(text)));
    }
    let mut opened = Vec::new();
    for (shard, tensors) in shards {
        let file = directory.join(shard);
        let one = read_header(&file, Bytes::map(&file)?)?;
        if one.format != FileFormat::Safetensors {
            return Err(Error::file(&file)(Problem::Malformed(
                "this is GGUF, but a shard must be safetensors".into(),
            )));
        }
        let mut names: Vec<&str> = one.tensors.iter().map(|info| info.name.as_str()).collect();
        names.sort_unstable();
        if let Some(absent) = tensors
            .iter()
            .find(|name| names.binary_search(name).is_err())
        {
            return malformed!(
                "tensor {} is not in {}, where this index says it is",
                show(absent),
                file.display()
            )
            .map_err(wrong);
        }
        opened.push(one);
    }
    Store::assemble(
        path.into(),
        directory.clone(),
        read_config(&directory)?,
        opened,
    )
}

/// Whether `name` leads nowhere but to a file of that name right here.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only.to_str() == Some(name)
    )
}

fn read_config(directory: &Path) -> Result<Option<Json>> {
    let path = directory.join(CONFIG);
    match path.exists() {
        false => Ok(None),
        true => read_json(&path).map(Some),
    }
}

/// The same text where `Infinity`, `-Infinity` and `NaN`, which Python writes and reads
/// though JSON has no such numbers, are spelled as transformers 5 does. None if there
/// are none.
fn with_named_numbers(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest, mut in_string) = (Vec::with_capacity(text.len()), text, false);
    let mut found = false;
    while let Some(&byte) = rest.first() {
        let names = ["-Infinity", "Infinity", "NaN"].iter();
        let name = names
            .copied()
            .find(|n| !in_string && rest.starts_with(n.as_bytes()));
        if let Some(name) = name {
            found = true;
            out.extend_from_slice(format!(r#"{{"__float__":"{name}"}}"#).as_bytes());
            rest = &rest[name.len()..];
            continue;
        }
        let taken = if in_string && byte == b'\\' { 2 } else { 1 };
        in_string ^= byte == b'"';
        let (taken, left) = rest.split_at(taken.min(rest.len()));
        out.extend_from_slice(taken);
        rest = left;
    }
    found.then_some(out)
}

fn read_json(path: &Path) -> Result<Json> {
    let wrong = Error::file(path);
    let text = read_small(path, MAX_JSON)?;
    if let Some(problem) = recognise::impostor(&text) {
        return Err(wrong(problem));
    }
    serde_json::from_slice(&text)
        .or_else(|error| match with_named_numbers(&text) {
            Some(text) => serde_json::from_slice(&text),
            None => Err(error),
        })
        .map_err(|error| Problem::Malformed(format!("this is not valid JSON: {error}")))
        .map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::with_named_numbers;

    #[test]
    fn numbers_that_json_lacks_get_their_names() {
        let named = |text: &str| {
            let named = with_named_numbers(text.as_bytes());
            named.map(|t| String::from_utf8(t).unwrap())
        };
        let given = r#"{"a": [0.0, Infinity], "b\"": "NaN \" Infinity", "c": -Infinity, "d": NaN}"#;
        let expected = r#"{"a": [0.0, {"__float__":"Infinity"}], "b\"": "NaN \" Infinity", "c": {"__float__":"-Infinity"}, "d": {"__float__":"NaN"}}"#;
        assert_eq!(named(given).as_deref(), Some(expected));
        assert_eq!(named(r#"{"a": "Infinity", "b": 1}"#), None);
    }
}

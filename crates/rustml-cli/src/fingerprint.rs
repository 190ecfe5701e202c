//! What a `system_fingerprint` covers: whatever may change the tokens for a seed.

use rustml_io::{FileFormat, Store};
use rustml_nlp::Model;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Pieces of a large file or tensor that are looked at, at even distances.
const SAMPLES: usize = 64;

/// Bytes of each.
const SAMPLE: usize = 64;

/// Files beside safetensors that say how text becomes tokens.
const BESIDE: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];

/// The fingerprint of a model as it is loaded, and of this program.
///
/// # Errors
/// If the model's files cannot be read any more.
pub fn of(model: &Model, draft: Option<&OsStr>) -> Result<String, rustml_io::Error> {
    let mut h = DefaultHasher::new();
    program(&mut h);
    numerics(model, draft, &mut h);
    files(&Store::open(model.path())?, &mut h);
    Ok(format!("fp_{:012x}", h.finish() >> 16))
}

/// The program: its version, and samples of itself, as two builds of a version may
/// compute differently.
fn program(h: &mut DefaultHasher) {
    env!("CARGO_PKG_VERSION").hash(h);
    if let Ok(mut file) = std::env::current_exe().and_then(File::open) {
        let length = file.metadata().map_or(0, |m| m.len());
        length.hash(h);
        for i in 0..SAMPLES as u64 {
            let mut piece = [0; SAMPLE];
            let at = SeekFrom::Start(length / SAMPLES as u64 * i);
            if file.seek(at).and_then(|_| file.read(&mut piece)).is_ok() {
                piece.hash(h);
            }
        }
    }
}

/// How it computes here.
fn numerics(model: &Model, draft: Option<&OsStr>, h: &mut DefaultHasher) {
    let (loaded, team) = (model.model(), model.model().team());
    (team.isa.name(), team.isa.dots_bf16()).hash(h);
    (team.prefill_attention_bf16(), team.prefill_products_bf16()).hash(h);
    loaded.phases_differ().hash(h);
    format!("{:?} {:?}", model.kv_type(), loaded.spec()).hash(h);
    let sizes = |m: &rustml_model::Model| (m.report().parameters, m.report().bytes);
    sizes(loaded).hash(h);
    draft.hash(h);
    if let Some(draft) = model.draft() {
        (sizes(draft), format!("{:?}", draft.spec())).hash(h);
    }
}

/// Weights, tokenizer and template.
fn files(store: &Store, h: &mut DefaultHasher) {
    for info in store.tensors() {
        (&info.name, &info.type_name, &info.shape).hash(h);
        if let Ok(tensor) = store.tensor(&info.name) {
            sample(tensor.data, h);
        }
    }
    match store.format() {
        // What is before the tensors is metadata, with the tokenizer.
        FileFormat::Gguf { .. } => {
            let first = store.tensors().iter().map(|t| t.range().start).min();
            for file in store.files() {
                whole(file, first.unwrap_or(0) as u64, h);
            }
        }
        _ => {
            for name in BESIDE {
                whole(&store.directory().join(name), u64::MAX, h);
            }
        }
    }
}

fn sample(data: &[u8], h: &mut DefaultHasher) {
    data.len().hash(h);
    let step = (data.len() / SAMPLES).max(SAMPLE);
    for piece in data.chunks(step) {
        piece[..piece.len().min(SAMPLE)].hash(h);
    }
}

/// The first bytes of a file, if it is there.
fn whole(path: &Path, most: u64, h: &mut DefaultHasher) {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(most).read_to_end(&mut bytes));
    (read.ok(), bytes).hash(h);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn print(dir: &Path) -> u64 {
        let mut h = DefaultHasher::new();
        files(&Store::open(dir).unwrap(), &mut h);
        h.finish()
    }

    /// Two models of one shape once had the same fingerprint.
    #[test]
    fn other_weights_tokenizers_and_templates_are_other_models() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/llama");
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(tiny).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let first = print(dir.path());
        assert_eq!(first, print(dir.path()));
        let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let path = dir.path().join(name);
            let before = fs::read(&path).unwrap();
            let mut bytes = before.clone();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
            assert_ne!(first, print(dir.path()), "{name}");
            fs::write(path, before).unwrap();
        };
        // The last value of the last tensor's first sample would do; all change here.
        change("model.safetensors", &|bytes| {
            let from = bytes.len() / 2;
            bytes[from..].iter_mut().for_each(|b| *b ^= 1);
        });
        change("tokenizer.json", &|bytes| bytes.push(b'\n'));
        change("tokenizer_config.json", &|bytes| bytes.push(b' '));
        assert_eq!(first, print(dir.path()));
    }
}

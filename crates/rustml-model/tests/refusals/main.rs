//! Models that are not what they say: every one is refused by one sentence
//! that names the file and the culprit, before memory is asked for.

#[path = "../common/mod.rs"]
mod common;
mod settings;
mod tensors;

use common::{team, Copy};
use rustml_io::Store;
use rustml_model::{Model, Quantize};
use rustml_simd::Isa;
use std::path::Path;

const MODELS: [&str; 3] = ["gpt2", "llama", "gemma3"];

fn load(path: &Path) -> Result<Model, String> {
    let store = Store::open(path).map_err(|e| e.to_string())?;
    let team = team(Isa::best(), 1);
    Model::load(&store, Quantize::None, team, &mut |_, _| {}).map_err(|e| e.to_string())
}

/// Asserts that the model is refused with a message that names its file and
/// says `expected`: all the parts between ` .. `. Returns the message.
#[track_caller]
fn refused(copy: &Copy, expected: &str) -> String {
    let written = copy.write();
    let Err(message) = load(&written.path()) else {
        panic!("loaded, but should be refused: {expected}");
    };
    assert!(!message.contains('\n'), "{message:?} is more than a line");
    let directory = written.directory().to_str().unwrap();
    for part in expected.split(" .. ").chain([directory]) {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    message
}

#[test]
fn untouched_copies_load() {
    for model in MODELS {
        load(&Copy::of(model).write().path()).unwrap();
        load(&Copy::of(&format!("{model}/model.gguf")).write().path()).unwrap();
    }
}

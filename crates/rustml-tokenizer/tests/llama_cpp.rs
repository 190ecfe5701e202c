//! llama.cpp's own cases for its tokenizers: `models/ggml-vocab-*.gguf` with
//! their `.inp` and `.out`, in the folder that `RUSTML_LLAMA_CPP_MODELS` names.
//!
//! They are too large for this repository; a copy of llama.cpp has them, as has
//! the source distribution of the Python package llama-cpp-python.

mod common;

use std::path::Path;

use common::{from_gguf, BARE};

#[test]
fn vocabularies() {
    let Some(folder) = std::env::var_os("RUSTML_LLAMA_CPP_MODELS") else {
        return;
    };
    let (mut cases, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(Path::new(&folder)).unwrap() {
        let path = entry.unwrap().path();
        let beside = |end: &str| std::fs::read_to_string(format!("{}.{end}", path.display()));
        let (Ok(texts), Ok(ids)) = (beside("inp"), beside("out")) else {
            continue;
        };
        let tokenizer = from_gguf(&path);
        let texts = texts.split("\n__ggml_vocab_test__\n");
        for (text, ids) in texts.zip(ids.lines()) {
            let ids: Vec<u32> = ids
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let found = tokenizer.encode(text, BARE).unwrap();
            cases += 1;
            if found != ids {
                wrong.push(format!(
                    "{}: {text:?}: {found:?}, not {ids:?}",
                    path.display()
                ));
            }
        }
    }
    assert!(cases > 0, "no cases in {}", Path::new(&folder).display());
    assert!(
        wrong.is_empty(),
        "{} of {cases} cases: {wrong:#?}",
        wrong.len()
    );
}

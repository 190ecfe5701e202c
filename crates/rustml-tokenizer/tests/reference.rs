//! The ids that llama.cpp and `transformers` give to hard texts, for the real
//! vocabularies of SmolLM2, Gemma 3 and GPT-2.
//!
//! The expected ids are in `testdata/tokenizers` (its README says how they were
//! made), the vocabularies in `models`, where `scripts/fetch-models all` puts
//! them. A missing vocabulary is reported on stderr, loudly, and its test
//! checks nothing.

mod common;

use common::{check, from_gguf, model, read, root, Fixture, EVERYTHING};
use rustml_io::Metadata;
use rustml_tokenizer::{Message, Rendered, Tokenizer};
use serde_json::{json, Value};

fn fixture(name: &str) -> Fixture {
    read(&root().join("testdata/tokenizers").join(name))
}

#[test]
fn smollm2_from_gguf() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let tokenizer = from_gguf(&path);
    check(&tokenizer, &fixture("smollm2.json"));
    // As llama.cpp: the end of a turn, of a document, and of a repository's name.
    assert_eq!(tokenizer.end_tokens(), [0, 2, 4]);
    let template = tokenizer.chat_template().unwrap();
    let prompt = template
        .render(&[Message::new("user", "Hi!")], true, Value::Null)
        .unwrap();
    assert_eq!(
        prompt.as_str(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
         Face<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    );
    let ids = tokenizer.encode_chat(&prompt).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 2);
    assert_eq!(tokenizer.decode_with(&ids, EVERYTHING), prompt.as_str());
}

#[test]
fn gemma3_from_gguf() {
    let Some(path) = model("gemma-3-270m-Q4_K_M.gguf") else {
        return;
    };
    let tokenizer = from_gguf(&path);
    check(&tokenizer, &fixture("gemma3.json"));
    // llama.cpp adds 212, `</s>`: here it is HTML.
    assert_eq!(tokenizer.end_tokens(), [1, 106]);
    assert_eq!(
        tokenizer
            .encode_chat(&Rendered::template("<bos><start_of_turn>"))
            .unwrap(),
        [2, 105]
    );
    assert_eq!(
        tokenizer
            .encode_chat(&Rendered::template("<start_of_turn>"))
            .unwrap(),
        [2, 105]
    );
}

/// GPT-2's original files as tokens and merges.
fn gpt2_files() -> Option<(Vec<String>, Vec<String>)> {
    let encoder: serde_json::Map<String, Value> = read(&model("gpt2-vocab/encoder.json")?);
    let mut tokens = vec![String::new(); encoder.len()];
    for (token, id) in encoder {
        tokens[id.as_u64().unwrap() as usize] = token;
    }
    let merges = std::fs::read_to_string(model("gpt2-vocab/vocab.bpe")?).unwrap();
    let merges = merges.lines().skip(1).filter(|line| !line.is_empty());
    Some((tokens, merges.map(String::from).collect()))
}

#[test]
fn gpt2_from_metadata() {
    let Some((tokens, merges)) = gpt2_files() else {
        return;
    };
    let mut types = vec![1i32; tokens.len()];
    types[50256] = 3;
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.merges", merges);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.bos_token_id", 50256u32);
    metadata.insert("tokenizer.ggml.eos_token_id", 50256u32);
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    check(&tokenizer, &fixture("gpt2.json"));
    assert_eq!(tokenizer.end_tokens(), [50256]);
}

#[test]
fn gpt2_from_directory() {
    let Some((tokens, merges)) = gpt2_files() else {
        return;
    };
    let tokens = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, id.into()));
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let tokenizer = json!({
        "version": "1.0", "normalizer": null, "padding": null,
        // For training; encoding must not cut anything off.
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [{
            "id": 50256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": serde_json::Map::from_iter(tokens), "merges": merges},
    });
    let config = json!({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}});
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    check(&tokenizer, &fixture("gpt2.json"));
    assert_eq!(tokenizer.end_tokens(), [50256]);
}

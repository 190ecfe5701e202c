//! The ids that llama.cpp and `transformers` give to hard texts, for the real
//! vocabularies of SmolLM2, Gemma 3 and GPT-2.
//!
//! The expected ids are in `testdata/tokenizers` (its README says how they were
//! made), the vocabularies in `models`, where `scripts/fetch-models all` puts
//! them. A missing vocabulary is reported on stderr, loudly, and its test
//! checks nothing.

use std::path::{Path, PathBuf};

use rustml_io::{Metadata, Store};
use rustml_tokenizer::{Decode, Detokenizer, Encode, Tokenizer};
use serde::Deserialize;
use serde_json::{json, Value};

#[derive(Deserialize)]
struct Fixture {
    n_vocab: usize,
    bos: u32,
    eos: u32,
    add_bos: bool,
    pieces_sha256: String,
    cases: Vec<Case>,
    #[serde(default)]
    disputed: Vec<Disputed>,
    pieces: Vec<Pieces>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    special: bool,
    ids: Vec<u32>,
}

/// A text whose ids the references disagree about.
#[derive(Deserialize)]
struct Disputed {
    text: String,
    special: bool,
    llama_cpp: Vec<u32>,
    tokenizers: Vec<u32>,
}

/// A text and the bytes, in hexadecimal, of each of its tokens.
#[derive(Deserialize)]
struct Pieces {
    text: String,
    ids: Vec<u32>,
    bytes: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn fixture(name: &str) -> Fixture {
    let path = root().join("testdata/tokenizers").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// A file under models/, or a loud complaint.
fn model(name: &str) -> Option<PathBuf> {
    let path = root().join("models").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("\n*** SKIPPED: models/{name} is missing; run `scripts/fetch-models all` ***\n");
    None
}

fn plain(special: bool) -> Encode {
    Encode {
        add_special: false,
        parse_special: special,
    }
}

/// Everything that a fixture says, and that streams and round trips are exact.
fn check(tokenizer: &Tokenizer, fixture: &Fixture) {
    assert_eq!(tokenizer.vocab_size(), fixture.n_vocab);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos()),
        (Some(fixture.bos), Some(fixture.eos))
    );
    let begins = tokenizer
        .encode(
            "a",
            Encode {
                add_special: true,
                parse_special: false,
            },
        )
        .unwrap();
    assert_eq!(begins[0] == fixture.bos, fixture.add_bos);

    for Case { text, special, ids } in &fixture.cases {
        let found = tokenizer.encode(text, plain(*special)).unwrap();
        assert_eq!(&found, ids, "{text:?}, special {special}");
    }
    for Disputed {
        text,
        special,
        llama_cpp,
        tokenizers,
    } in &fixture.disputed
    {
        let found = tokenizer.encode(text, plain(*special)).unwrap();
        assert!(
            &found == tokenizers || &found == llama_cpp,
            "{text:?}, special {special}: {found:?}"
        );
    }
    for Pieces { text, ids, bytes } in &fixture.pieces {
        assert_eq!(
            &tokenizer.encode(text, plain(false)).unwrap(),
            ids,
            "{text:?}"
        );
        for (&id, bytes) in ids.iter().zip(bytes) {
            let found: String = tokenizer
                .token_bytes(id)
                .unwrap()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(&found, bytes, "token {id}");
        }
    }
    let texts = fixture.cases.iter().map(|c| &c.text);
    for text in texts.chain(fixture.disputed.iter().map(|d| &d.text)) {
        for special in [false, true] {
            let ids = tokenizer.encode(text, plain(special)).unwrap();
            let options = Decode {
                control: true,
                continues: false,
            };
            let whole = tokenizer.decode_with(&ids, options);
            if !text.contains('▁') {
                assert_eq!(&whole, text, "round trip, special {special}");
            }
            let mut stream = Detokenizer::new(options);
            let mut pieces: Vec<String> = ids
                .iter()
                .filter_map(|&id| stream.push(tokenizer, id))
                .collect();
            assert!(pieces.iter().all(|p| !p.is_empty()));
            if !text.contains('\u{fffd}') {
                assert!(!pieces.concat().contains('\u{fffd}'), "{text:?}");
            }
            pieces.extend(stream.finish());
            assert_eq!(pieces.concat(), whole);
        }
    }
    assert_eq!(pieces_sha256(tokenizer), fixture.pieces_sha256);
}

/// Of every token's bytes in order of id, each after its length as a
/// little-endian u32.
fn pieces_sha256(tokenizer: &Tokenizer) -> String {
    use sha2::{Digest, Sha256};
    let mut digest = Sha256::new();
    for id in 0..tokenizer.vocab_size() as u32 {
        let bytes = tokenizer.token_bytes(id).unwrap();
        digest.update((bytes.len() as u32).to_le_bytes());
        digest.update(&bytes);
    }
    digest
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn from_gguf(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf(Store::open(path).unwrap().metadata()).unwrap()
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
    let messages = [rustml_tokenizer::Message::new("user", "Hi!")];
    let prompt = template.render(&messages, true, Value::Null).unwrap();
    assert_eq!(
        prompt,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    );
    let ids = tokenizer.encode_chat(&prompt).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 2);
    assert_eq!(
        tokenizer.decode_with(
            &ids,
            Decode {
                control: true,
                continues: false
            }
        ),
        prompt
    );
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
        tokenizer.encode_chat("<bos><start_of_turn>").unwrap(),
        [2, 105]
    );
    assert_eq!(tokenizer.encode_chat("<start_of_turn>").unwrap(), [2, 105]);
}

/// GPT-2's original files as (tokens, merges).
fn gpt2_files() -> Option<(Vec<String>, Vec<String>)> {
    let encoder: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(model("gpt2-vocab/encoder.json")?).unwrap()).unwrap();
    let mut tokens = vec![String::new(); encoder.len()];
    for (token, id) in encoder {
        tokens[id.as_u64().unwrap() as usize] = token;
    }
    let merges = std::fs::read_to_string(model("gpt2-vocab/vocab.bpe")?).unwrap();
    let merges = merges
        .lines()
        .skip(1)
        .filter(|l| !l.is_empty())
        .map(String::from)
        .collect();
    Some((tokens, merges))
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
    let vocab: serde_json::Map<String, Value> = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": 50256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", tokenizer);
    write(
        "tokenizer_config.json",
        json!({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    );
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    check(&tokenizer, &fixture("gpt2.json"));
    assert_eq!(tokenizer.end_tokens(), [50256]);
}

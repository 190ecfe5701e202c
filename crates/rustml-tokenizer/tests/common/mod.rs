//! Fixtures and the checks that are the same for all of them.

#![allow(dead_code)] // Each test binary uses its part.

use std::io::Write;
use std::path::{Path, PathBuf};

use rustml_io::Store;
use rustml_tokenizer::{Decode, Detokenizer, Encode, Message, Tokenizer};
use serde::de::DeserializeOwned;
use serde::Deserialize;

/// What every set of cases says about its vocabulary.
#[derive(Deserialize)]
pub struct Fixture {
    pub n_vocab: usize,
    pub bos: u32,
    pub eos: u32,
    pub add_bos: bool,
    pub pieces_sha256: Option<String>,
    pub cases: Vec<Case>,
    #[serde(default)]
    pub disputed: Vec<Disputed>,
    #[serde(default)]
    pub pieces: Vec<Pieces>,
    #[serde(default)]
    pub chats: Vec<Chat>,
}

#[derive(Deserialize)]
pub struct Case {
    pub text: String,
    pub special: bool,
    pub ids: Vec<u32>,
}

/// A text whose ids the references disagree about.
#[derive(Deserialize)]
pub struct Disputed {
    pub text: String,
    pub special: bool,
    pub llama_cpp: Vec<u32>,
    pub tokenizers: Vec<u32>,
}

/// A text and the bytes, in hexadecimal, of each of its tokens.
#[derive(Deserialize)]
pub struct Pieces {
    pub text: String,
    pub ids: Vec<u32>,
    pub bytes: Vec<String>,
}

/// A conversation and what the model's template makes of it.
#[derive(Deserialize)]
pub struct Chat {
    pub messages: Vec<Message>,
    pub add_generation_prompt: bool,
    pub text: String,
    pub ids: Option<Vec<u32>>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn read<T: DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of models/. Without it the test is skipped, which is said past the
/// test harness, or fails where `RUSTML_REQUIRE_MODELS` is 1.
pub fn model(name: &str) -> Option<PathBuf> {
    let path = root().join("models").join(name);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("models/{name} is missing; run scripts/fetch-models all");
    let required = std::env::var_os("RUSTML_REQUIRE_MODELS").is_some_and(|v| v == "1");
    assert!(!required, "{missing}");
    #[allow(clippy::explicit_write)] // The harness swallows what eprintln! says.
    writeln!(std::io::stderr(), "\n*** SKIPPED: {missing} ***\n").unwrap();
    None
}

pub fn from_gguf(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf(Store::open(path).unwrap().metadata()).unwrap()
}

pub const BARE: Encode = Encode {
    add_special: false,
    parse_special: false,
};
pub const PARSED: Encode = Encode {
    add_special: false,
    parse_special: true,
};
pub const EVERYTHING: Decode = Decode {
    control: true,
    continues: false,
};

fn options(special: bool) -> Encode {
    Encode {
        add_special: false,
        parse_special: special,
    }
}

/// The ids of all cases; of disputed ones, either answer.
pub fn check_cases(tokenizer: &Tokenizer, cases: &[Case], disputed: &[Disputed]) {
    assert!(cases.len() > 100);
    for Case { text, special, ids } in cases {
        let found = tokenizer.encode(text, options(*special)).unwrap();
        let dispute = disputed
            .iter()
            .find(|d| (&d.text, d.special) == (text, *special));
        match dispute {
            None => assert_eq!(&found, ids, "{text:?}, special {special}"),
            Some(d) => assert!(
                [&d.llama_cpp, &d.tokenizers].contains(&&found),
                "{text:?}: {found:?}"
            ),
        }
    }
}

/// Decoding undoes encoding, and a stream is the whole in pieces.
pub fn check_round_trip(tokenizer: &Tokenizer, text: &str) {
    for special in [false, true] {
        let ids = tokenizer.encode(text, options(special)).unwrap();
        let whole = tokenizer.decode_with(&ids, EVERYTHING);
        // SentencePiece cannot tell "▁" from a space.
        if tokenizer.token_id("▁").is_none() || !text.contains('▁') {
            assert_eq!(whole, text, "special {special}");
        }
        let mut stream = Detokenizer::new(EVERYTHING);
        let mut pieces: Vec<String> = ids
            .iter()
            .filter_map(|&id| stream.push(tokenizer, id))
            .collect();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        if !text.contains('\u{fffd}') {
            assert!(!pieces.concat().contains('\u{fffd}'), "{text:?}");
        }
        pieces.extend(stream.finish());
        assert_eq!(pieces.concat(), whole);
    }
}

pub fn check_chats(tokenizer: &Tokenizer, chats: &[Chat]) {
    for chat in chats {
        let template = tokenizer.chat_template().expect("a chat template");
        let text = template.render(
            &chat.messages,
            chat.add_generation_prompt,
            Default::default(),
        );
        let text = text.unwrap();
        assert_eq!(text.as_str(), chat.text);
        let ids = tokenizer.encode_chat(&text).unwrap();
        if let Some(expected) = &chat.ids {
            assert_eq!(&ids, expected);
        }
        assert_eq!(tokenizer.decode_with(&ids, EVERYTHING), chat.text);
    }
}

/// Everything that a fixture says.
pub fn check(tokenizer: &Tokenizer, fixture: &Fixture) {
    assert_eq!(tokenizer.vocab_size(), fixture.n_vocab);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos()),
        (Some(fixture.bos), Some(fixture.eos))
    );
    let ids = tokenizer
        .encode(
            "a",
            Encode {
                add_special: true,
                ..BARE
            },
        )
        .unwrap();
    assert_eq!(ids[0] == fixture.bos, fixture.add_bos);
    check_cases(tokenizer, &fixture.cases, &fixture.disputed);
    for case in &fixture.cases {
        check_round_trip(tokenizer, &case.text);
    }
    for disputed in &fixture.disputed {
        check_round_trip(tokenizer, &disputed.text);
    }
    check_chats(tokenizer, &fixture.chats);
    for Pieces { text, ids, bytes } in &fixture.pieces {
        assert_eq!(&tokenizer.encode(text, BARE).unwrap(), ids, "{text:?}");
        for (&id, bytes) in ids.iter().zip(bytes) {
            assert_eq!(
                &hex(&tokenizer.token_bytes(id).unwrap()),
                bytes,
                "token {id}"
            );
        }
    }
    if let Some(sum) = &fixture.pieces_sha256 {
        assert_eq!(&pieces_sha256(tokenizer), sum);
    }
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
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

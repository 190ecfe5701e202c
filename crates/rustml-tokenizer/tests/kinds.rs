//! A small tokenizer of each kind against what `tokenizers` makes of odd texts,
//! from tokenizer.json and, where GGUF has such a kind, from its metadata.
//!
//! `scripts/reference/tokenizer_kinds.py` made `testdata/tokenizers/kinds`.

mod common;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use common::{read, root, BARE};
use proptest::prelude::*;
use rustml_io::Metadata;
use rustml_tokenizer::{Encode, Input, Side, Tokenizer, Truncate};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    pairs: Vec<(String, Option<String>, usize, String)>,
    kinds: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
    pairs: Vec<(Vec<u32>, Vec<u32>)>,
}

fn cases() -> Cases {
    read(&root().join("testdata/tokenizers/kinds/cases.json"))
}

fn json(kind: &str) -> Value {
    let folder = root().join("testdata/tokenizers/kinds").join(kind);
    read(&folder.join("tokenizer.json"))
}

/// All pairs and the texts of which `same` says so. Where `tokenizers` lets text
/// become a control token, no text may become one here.
fn check(
    name: &str,
    tokenizer: &Tokenizer,
    cases: &Cases,
    unknown: Option<u32>,
    same: impl Fn(&str) -> bool,
) {
    let expected = &cases.kinds[name];
    let all = cases.texts.iter().zip(&expected.ids).zip(&expected.decoded);
    for ((text, ids), decoded) in all.filter(|((text, _), _)| same(text)) {
        let found = tokenizer.encode(text, BARE).unwrap();
        let control = |&id: &u32| tokenizer.is_control(id) && Some(id) != unknown;
        if ids.iter().any(control) {
            assert!(!found.iter().any(control), "{name}, {text:?}: {found:?}");
            continue;
        }
        assert_eq!(&found, ids, "{name}, {text:?}");
        assert_eq!(&tokenizer.decode(ids), decoded, "{name}, {text:?}");
    }
    for ((first, second, most, side), (ids, types)) in cases.pairs.iter().zip(&expected.pairs) {
        let options = Encode {
            add_special: true,
            ..BARE
        };
        let side = match &**side {
            "left" => Side::Left,
            _ => Side::Right,
        };
        let tokens = *most;
        let most = Some(Truncate { tokens, side });
        let input = |most| tokenizer.encode_input(first, second.as_deref(), options, most);
        let Input {
            ids: found,
            types: kinds,
            cut,
        } = input(most).unwrap();
        let whole = input(None).unwrap();
        assert_eq!(
            (&found, &kinds),
            (ids, types),
            "{name}, {first:?} and {second:?}"
        );
        assert_eq!((cut, whole.cut), (whole.ids.len() - ids.len(), 0));
    }
}

#[test]
fn tokenizer_json() {
    let cases = cases();
    assert!(cases.kinds.len() == 9 && cases.texts.len() > 30);
    for kind in cases.kinds.keys() {
        let folder = root().join("testdata/tokenizers/kinds").join(kind);
        let tokenizer = Tokenizer::from_dir(&folder).unwrap();
        let unknown = ["[UNK]", "<unk>"]
            .iter()
            .find_map(|t| tokenizer.token_id(t));
        check(kind, &tokenizer, &cases, unknown, |_| true);
    }
}

fn set(metadata: &mut Metadata, key: &str, value: impl Into<rustml_io::Value>) {
    metadata.insert(format!("tokenizer.ggml.{key}"), value);
}

/// GGUF's metadata of a WordPiece vocabulary, as the converters write it.
fn wordpiece(kind: &str, lowercase: bool) -> Metadata {
    let json = json(kind);
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (token, id) in vocab {
        let special = token.starts_with('[') && token.ends_with(']') && token.len() > 2;
        let text = match token.strip_prefix("##") {
            _ if special => token.clone(),
            Some(rest) => rest.to_owned(),
            None => format!("▁{token}"),
        };
        tokens[id.as_u64().unwrap() as usize] = text;
    }
    let mut types = vec![1i32; tokens.len()];
    types[..5].fill(3);
    let mut metadata = Metadata::new();
    set(&mut metadata, "model", "bert");
    set(&mut metadata, "tokens", tokens);
    set(&mut metadata, "token_type", types);
    set(&mut metadata, "unknown_token_id", 1u32);
    set(&mut metadata, "bos_token_id", 2u32);
    set(&mut metadata, "eos_token_id", 3u32);
    set(&mut metadata, "seperator_token_id", 3u32);
    for flag in ["add_bos_token", "add_eos_token", "add_sep_token"] {
        set(&mut metadata, flag, true);
    }
    if !lowercase {
        set(&mut metadata, "normalizer.lowercase", false);
    }
    metadata
}

#[test]
fn gguf_bert() {
    let cases = cases();
    for (kind, lowercase) in [("bert", true), ("bert-cased", false)] {
        let tokenizer = Tokenizer::from_gguf(&wordpiece(kind, lowercase)).unwrap();
        check(kind, &tokenizer, &cases, Some(1), |_| true);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), Some(3)));
    }
}

/// GGUF's metadata of a Unigram vocabulary.
fn unigram(kind: &str, special: &[u32]) -> Metadata {
    let json = json(kind);
    let vocab = json["model"]["vocab"].as_array().unwrap();
    let token = |pair: &Value| pair[0].as_str().unwrap().to_owned();
    let score = |pair: &Value| pair[1].as_f64().unwrap() as f32;
    let mut types = vec![1i32; vocab.len()];
    special.iter().for_each(|&id| types[id as usize] = 3);
    let mut metadata = Metadata::new();
    set(&mut metadata, "model", "t5");
    set(
        &mut metadata,
        "tokens",
        vocab.iter().map(token).collect::<Vec<_>>(),
    );
    set(
        &mut metadata,
        "scores",
        vocab.iter().map(score).collect::<Vec<_>>(),
    );
    set(&mut metadata, "token_type", types);
    metadata
}

/// XLM-RoBERTa's, as GGUF has it.
fn xlm_roberta() -> Metadata {
    let json = json("xlmr");
    let rules = &json["normalizer"]["normalizers"][0]["precompiled_charsmap"];
    let rules = base64::engine::general_purpose::STANDARD.decode(rules.as_str().unwrap());
    let mut metadata = unigram("xlmr", &[0, 1, 2, 3, 242]);
    set(&mut metadata, "precompiled_charsmap", rules.unwrap());
    set(&mut metadata, "bos_token_id", 0u32);
    set(&mut metadata, "eos_token_id", 2u32);
    set(&mut metadata, "unknown_token_id", 3u32);
    set(&mut metadata, "add_bos_token", true);
    set(&mut metadata, "remove_extra_whitespaces", true);
    metadata
}

#[test]
fn gguf_t5() {
    let tokenizer = Tokenizer::from_gguf(&xlm_roberta()).unwrap();
    // SentencePiece drops white space at the end, and `tokenizers` keeps it.
    let same = |text: &str| text.trim_end() == text;
    check("xlmr", &tokenizer, &cases(), Some(3), same);
    assert_eq!(tokenizer.end_tokens(), [2]);
}

/// The library's way and this crate's, for one vocabulary.
fn both(kind: &str, metadata: &Metadata) -> (Tokenizer, Tokenizer) {
    let folder = root().join("testdata/tokenizers/kinds").join(kind);
    let json = Tokenizer::from_dir(&folder).unwrap();
    (json, Tokenizer::from_gguf(metadata).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn gguf_equals_tokenizer_json_on_any_text(
        which in 0usize..3,
        text in "([a-z ]{1,8}|\\PC|[\\x00-\\x7f\u{80}-\u{a0}]|[ \n\t0-9'▁]{1,4}|(the |time|ing){1,3}|é|[一-丠]|\\p{M}){0,12}",
    ) {
        static ALL: LazyLock<[(Tokenizer, Tokenizer); 3]> = LazyLock::new(|| [
            both("bert", &wordpiece("bert", true)),
            both("bert-cased", &wordpiece("bert-cased", false)),
            both("xlmr", &xlm_roberta()),
        ]);
        // SentencePiece drops what becomes white space at a text's ends, and
        // `tokenizers` keeps some of it: within a text they agree.
        let text = if which == 2 { format!("a{text}a") } else { text };
        let (json, gguf) = &ALL[which];
        prop_assert_eq!(gguf.encode(&text, BARE).unwrap(), json.encode(&text, BARE).unwrap());
    }
}

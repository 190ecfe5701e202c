//! tokenizer.json without `tokenizers`, for the kinds that language models use.
//!
//! `tokenizers` takes its time to build a BPE model, and files with half a
//! million merges are common: Gemma 3's takes 7 times as long there as here. So
//! files that ask for nothing but plain BPE, over bytes as GPT-2, Llama 3 and
//! Qwen do or over characters as Gemma and Llama 2 do, are read here. Everything
//! else, every setting not known to be harmless, and everything suspicious is
//! left to `tokenizers`: [`load`] then says `None`, never an error.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::added::{complete, AddedToken};
use crate::bpe::{halves, Bpe, Units};
use crate::encoder::{Encoder, Model, Own, Prepare};
use crate::hf::{decoder, guard, surroundings, Extra, Loaded};
use crate::limits::Small;
use crate::partition::{Order, Partition};
use crate::pretokenize::PreTokenizer;
use crate::steps::{Normalizers, MAX_STEPS};
use crate::vocab::{parse_byte, Alphabet, Vocab};
use crate::words::Glue;

#[derive(Deserialize)]
struct File<'a> {
    version: String,
    added_tokens: Vec<AddedToken>,
    normalizer: Small,
    pre_tokenizer: Small,
    post_processor: Small,
    decoder: Small,
    #[serde(borrow)]
    model: BpeModel<'a>,
}

/// A model of another type has other fields, and so is no `BpeModel`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BpeModel<'a> {
    r#type: String,
    /// For training only.
    #[serde(rename = "dropout")]
    _dropout: Option<f32>,
    /// What these two say only concerns text that has no tokens.
    #[serde(rename = "unk_token")]
    _unk_token: Option<String>,
    #[serde(default, rename = "fuse_unk")]
    _fuse_unk: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Ids<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// Reads a tokenizer.json, which lacks the `extra` tokens, if it is of the kind
/// described above.
pub(crate) fn load(json: &[u8], extra: &[Extra]) -> Option<Loaded> {
    let mut file: File = serde_json::from_slice(json).ok()?;
    let vocab = file.model.vocab.0.iter();
    let vocab = vocab.map(|(text, id)| (&**text, *id));
    complete(&mut file.added_tokens, extra, vocab.len(), vocab)?;
    let model = file.model;
    let plain = model.continuing_subword_prefix.is_none() && model.end_of_word_suffix.is_none();
    if file.version != "1.0" || model.r#type != "BPE" || !plain {
        return None;
    }
    let (alphabet, drops_space) = decoder(&file.decoder.0).ok()?;
    let prepare = prepare(&file.normalizer.0)?;
    let vocab = Vocab::arrange(
        alphabet,
        model.vocab.0.into_iter(),
        file.added_tokens
            .iter()
            .map(|t| (t.content.clone(), t.id, t.special)),
    )
    .ok()?;

    // Tokens that are looked for after normalisation, or with conditions.
    let normalized = file.added_tokens.iter().filter(|t| t.normalized).count();
    let as_is = matches!(prepare, Prepare::Nothing) && normalized == file.added_tokens.len();
    let conditions = file
        .added_tokens
        .iter()
        .any(|t| t.single_word || t.lstrip || t.rstrip);
    if conditions || (normalized > 0 && !as_is) {
        return None;
    }
    let tokens = file
        .added_tokens
        .into_iter()
        .map(|t| (t.content, t.id, t.special));
    let first = Partition::new(Order::Leftmost, tokens).ok()?;

    let bytes = matches!(prepare, Prepare::Nothing | Prepare::Normalize(_));
    let units = if bytes && alphabet == Alphabet::ByteLevel && !model.byte_fallback {
        let patterns = byte_level_patterns(&file.pre_tokenizer.0)?;
        let pre = PreTokenizer::from_patterns(patterns.iter().map(|p| &**p))?;
        Units::Bytes {
            pre,
            ignore_merges: model.ignore_merges,
        }
    } else if !bytes && alphabet == Alphabet::Spaced && model.byte_fallback {
        let of_bytes = |m: &Merge| parse_byte(&m.0).is_some() || parse_byte(&m.1).is_some();
        if !no_pre_tokenizer(&file.pre_tokenizer.0)
            || model.ignore_merges
            || model.merges.iter().any(of_bytes)
        {
            return None;
        }
        Units::Characters {
            pre: PreTokenizer::from_patterns(std::iter::empty())?,
            glue: Glue::new(&vocab),
            drops_white: false,
        }
    } else {
        return None;
    };
    let merges = model
        .merges
        .iter()
        .map(|Merge(left, right)| Ok((&**left, &**right)));
    let bpe = Bpe::new(&vocab, units, merges).ok()?;
    if !bpe.knows_all_bytes() {
        return None;
    }
    let around = guard(|| surroundings(&file.post_processor.0)).ok()?;
    let encoder = Encoder::Own(Box::new(Own {
        first,
        prepare,
        model: Model::Bpe(bpe),
    }));
    Some(Loaded {
        encoder,
        vocab,
        drops_space,
        around,
        warnings: Vec::new(),
    })
}

fn prepare(normalizer: &Value) -> Option<Prepare> {
    let spaces = |v: &Value| {
        v["type"] == "Replace" && v["pattern"]["String"] == " " && v["content"] == "\u{2581}"
    };
    let prepend = |v: &Value| v["type"] == "Prepend" && v["prepend"] == "\u{2581}";
    match (
        normalizer["type"].as_str(),
        normalizer["normalizers"].as_array().map(Vec::as_slice),
    ) {
        (None, _) => normalizer.is_null().then_some(Prepare::Nothing),
        (Some("NFC" | "NFD" | "NFKC" | "NFKD"), _) => {
            Some(Prepare::Normalize(Normalizers::new(normalizer).ok()?))
        }
        (Some("Sequence"), Some([first, second])) if prepend(first) && spaces(second) => {
            Some(Prepare::Spaces { prefix: true })
        }
        (Some("Sequence"), Some([only])) if spaces(only) => Some(Prepare::Spaces { prefix: false }),
        _ => spaces(normalizer).then_some(Prepare::Spaces { prefix: false }),
    }
}

/// Whether a pre-tokenizer leaves text without spaces alone. Gemma's cuts at
/// spaces, which have become "▁" by then.
fn no_pre_tokenizer(value: &Value) -> bool {
    let at_spaces = value["type"] == "Split" && value["pattern"]["String"] == " ";
    value.is_null() || at_spaces
}

/// The regular expressions of a pre-tokenizer that ends in the byte-level one.
fn byte_level_patterns(value: &Value) -> Option<Vec<Cow<'_, str>>> {
    let steps = match value["type"].as_str()? {
        "Sequence" => value["pretokenizers"].as_array()?.as_slice(),
        _ => std::slice::from_ref(value),
    };
    let (last, steps) = steps.split_last()?;
    if steps.len() > MAX_STEPS {
        return None;
    }
    let mut patterns = Vec::new();
    for step in steps {
        patterns.push(match step["type"].as_str()? {
            "Digits" if step["individual_digits"].as_bool()? => Cow::Borrowed(r"\p{N}"),
            "Digits" => Cow::Borrowed(r"\p{N}+"),
            "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
                Cow::Borrowed(step["pattern"]["Regex"].as_str()?)
            }
            _ => return None,
        });
    }
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    if last["use_regex"].as_bool().unwrap_or(true) {
        patterns.push(Cow::Borrowed(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        ));
    }
    Some(patterns)
}

/// Text, borrowed from the file where it has no escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A map from tokens to ids, as a list.
struct Ids<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Ids<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Ids<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from tokens to ids")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut ids = Vec::new();
                while let Some((Text(token), id)) = map.next_entry()? {
                    ids.push((token, id));
                }
                Ok(Ids(ids))
            }
        }
        deserializer.deserialize_map(List)
    }
}

/// `["left", "right"]`, or "left right" in older files.
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge")
            }

            fn visit_str<E: de::Error>(self, merge: &str) -> Result<Self::Value, E> {
                let (left, right) = halves(merge).map_err(E::custom)?;
                Ok(Merge(left.to_owned().into(), right.to_owned().into()))
            }

            fn visit_borrowed_str<E: de::Error>(self, merge: &'de str) -> Result<Self::Value, E> {
                let (left, right) = halves(merge).map_err(E::custom)?;
                Ok(Merge(left.into(), right.into()))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut pair: S) -> Result<Self::Value, S::Error> {
                match (
                    pair.next_element()?,
                    pair.next_element()?,
                    pair.next_element::<Text>()?,
                ) {
                    (Some(Text(left)), Some(Text(right)), None) => Ok(Merge(left, right)),
                    _ => Err(de::Error::custom("a merge is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf;
    use proptest::prelude::*;
    use std::path::{Path, PathBuf};
    use std::sync::LazyLock;

    const TINY: [&str; 4] = ["gpt2", "llama", "llama-tied", "gemma3"];

    fn testdata() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
    }

    fn tiny(name: &str) -> Vec<u8> {
        std::fs::read(testdata().join("tiny").join(name).join("tokenizer.json")).unwrap()
    }

    fn ids(loaded: &Loaded, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        let special = match parse_special {
            true => crate::encoder::Special::Parsed,
            false => crate::encoder::Special::Text,
        };
        loaded
            .encoder
            .encode(&loaded.vocab, text, &special, &mut ids)
            .unwrap();
        ids
    }

    /// Both ways, which must be one.
    fn both(json: &[u8]) -> (Loaded, Loaded) {
        let direct = load(json, &[]).expect("a file for the direct way");
        let tokenizers = hf::load(json, &[]).unwrap();
        assert_eq!(direct.vocab.len(), tokenizers.vocab.len());
        for id in 0..direct.vocab.len() as u32 {
            assert_eq!(direct.vocab.text(id), tokenizers.vocab.text(id));
            assert_eq!(direct.vocab.kind(id), tokenizers.vocab.kind(id));
        }
        assert_eq!(direct.around, tokenizers.around);
        assert_eq!(direct.drops_space, tokenizers.drops_space);
        (direct, tokenizers)
    }

    fn assert_same(direct: &Loaded, tokenizers: &Loaded, text: &str) {
        for special in [false, true] {
            let expected = ids(tokenizers, text, special);
            assert_eq!(
                ids(direct, text, special),
                expected,
                "{text:?}, special {special}"
            );
        }
    }

    /// A file with parts replaced.
    fn changed(name: &str, changes: &[(&str, Value)]) -> Vec<u8> {
        let mut json: Value = serde_json::from_slice(&tiny(name)).unwrap();
        for (pointer, value) in changes {
            *json.pointer_mut(pointer).unwrap() = value.clone();
        }
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn equals_tokenizers_on_hard_texts() {
        let texts = std::fs::read(testdata().join("tokenizers/hard.json")).unwrap();
        let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
        assert!(texts.len() > 150);
        for name in TINY {
            let (direct, tokenizers) = both(&tiny(name));
            for text in &texts {
                assert_same(&direct, &tokenizers, text);
            }
        }
    }

    #[test]
    fn equals_tokenizers_with_other_settings() {
        let nfc = serde_json::json!({"type": "NFC"});
        let llama2 = serde_json::json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
        let files = [
            changed("llama", &[("/normalizer", nfc)]),
            changed("llama", &[("/model/ignore_merges", false.into())]),
            changed(
                "gemma3",
                &[("/normalizer", llama2), ("/pre_tokenizer", Value::Null)],
            ),
        ];
        for file in files {
            let (direct, tokenizers) = both(&file);
            for text in ["", "a", " a  b", "e\u{301} Å", "<bos>a<|eot_id|> b", "🦀 x"] {
                assert_same(&direct, &tokenizers, text);
            }
        }
    }

    #[test]
    fn what_is_not_known_to_be_harmless_is_left_alone() {
        let no = |name: &str, pointer: &str, value: Value| {
            assert!(
                load(&changed(name, &[(pointer, value)]), &[]).is_none(),
                "{pointer}"
            );
        };
        no("gpt2", "/version", "2.0".into());
        no("gpt2", "/model/type", "WordPiece".into());
        no("gpt2", "/model/end_of_word_suffix", "</w>".into());
        no("gpt2", "/model/byte_fallback", true.into());
        no("gpt2", "/model/vocab", serde_json::json!({"a": 0}));
        no("gpt2", "/added_tokens/0/lstrip", true.into());
        no("gpt2", "/pre_tokenizer/add_prefix_space", true.into());
        no("gpt2", "/pre_tokenizer", Value::Null);
        no("gpt2", "/decoder", Value::Null);
        no(
            "gpt2",
            "/normalizer",
            serde_json::json!({"type": "Lowercase"}),
        );
        no(
            "llama",
            "/pre_tokenizer/pretokenizers/0/behavior",
            "Removed".into(),
        );
        no(
            "llama",
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            r"(?<=a)b|\s++".into(),
        );
        no("gemma3", "/added_tokens/3/normalized", true.into());
        no("gemma3", "/model/byte_fallback", false.into());
    }

    proptest! {
        #[test]
        fn equals_tokenizers_on_any_text(
            name in prop::sample::select(&TINY[..]),
            text in "([a-z ]{1,8}|\\PC|[ \n\t\r0-9'▁]{1,4}|<bos>|<h1>|<\\|eot_id\\|>|\n\n){0,8}",
        ) {
            static LOADED: LazyLock<Vec<(Loaded, Loaded)>> =
                LazyLock::new(|| TINY.map(|name| both(&tiny(name))).into());
            let at = TINY.iter().position(|&tiny| tiny == name).unwrap();
            let (direct, tokenizers) = &LOADED[at];
            assert_same(direct, tokenizers, &text);
        }

        /// Files that are damaged where it does not show. (Tokens do not become
        /// control tokens: `tokenizers` lets text be merged into them.)
        #[test]
        fn equals_tokenizers_on_damaged_files(
            name in prop::sample::select(&TINY[..]),
            merges in prop::collection::vec((0usize..400, 0usize..400), 0..8),
            flags in prop::collection::vec((0usize..400, 0usize..4), 0..3),
            text in "[a-z A-Z<>0-9\n▁é]{0,30}",
        ) {
            let mut json: Value = serde_json::from_slice(&tiny(name)).unwrap();
            let list = json["model"]["merges"].as_array_mut().unwrap();
            for (a, b) in merges {
                let len = list.len();
                list.swap(a % len, b % len);
            }
            let added = json["added_tokens"].as_array_mut().unwrap();
            for (token, flag) in flags {
                let len = added.len();
                let flag = ["single_word", "lstrip", "rstrip", "normalized"][flag];
                let value = &mut added[token % len][flag];
                *value = (!value.as_bool().unwrap()).into();
            }
            let json = serde_json::to_vec(&json).unwrap();
            if load(&json, &[]).is_some() {
                let (direct, tokenizers) = both(&json);
                assert_same(&direct, &tokenizers, &text);
            }
        }
    }
}

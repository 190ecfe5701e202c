//! tokenizer.json with a Unigram model, without `tokenizers`.
//!
//! The library puts every piece into a tree of hash maps: XLM-RoBERTa's 250 002
//! take it 15 times as long as this. As in [`crate::direct`], what is not known to
//! be the same is left to the library.

use serde::Deserialize;
use serde_json::Value;

use crate::added::{complete, AddedToken};
use crate::direct::Text;
use crate::encoder::{Encoder, Model, Own, Prepare};
use crate::error::Error;
use crate::hf::{decoder, guard, surroundings, Extra, Loaded};
use crate::limits::Small;
use crate::partition::{Order, Partition};
use crate::steps::Normalizers;
use crate::unigram::{Cut, Unigram};
use crate::vocab::{Kind, Vocab};

#[derive(Deserialize)]
struct File<'a> {
    version: String,
    added_tokens: Vec<AddedToken>,
    normalizer: Small,
    pre_tokenizer: Small,
    post_processor: Small,
    decoder: Small,
    #[serde(borrow)]
    model: Pieces<'a>,
}

/// A model of another type has other fields, and so is not this.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pieces<'a> {
    r#type: String,
    unk_id: u32,
    /// In order of their ids.
    #[serde(borrow)]
    vocab: Vec<(Text<'a>, f64)>,
    #[serde(default)]
    byte_fallback: bool,
}

/// Reads a tokenizer.json, which lacks the `extra` tokens, if it is of this kind.
pub(crate) fn load(json: &[u8], extra: &[Extra]) -> Option<Loaded> {
    let mut file: File = serde_json::from_slice(json).ok()?;
    let model = file.model;
    if file.version != "1.0" || model.r#type != "Unigram" || model.byte_fallback {
        return None;
    }
    let texts = model.vocab.iter().map(|(Text(text), _)| &**text);
    complete(
        &mut file.added_tokens,
        extra,
        model.vocab.len(),
        texts.zip(0..),
    )?;
    let other = |t: &AddedToken| t.single_word || t.rstrip || t.normalized;
    if file.added_tokens.iter().any(other) {
        return None;
    }
    let cut = cut(&file.pre_tokenizer.0)?;
    let (alphabet, drops_space) = decoder(&file.decoder.0).ok()?;
    let prepare = match &file.normalizer.0 {
        Value::Null => Prepare::Nothing,
        value => {
            Prepare::Normalize(guard(|| Normalizers::new(value).map_err(Error::Vocabulary)).ok()?)
        }
    };

    let scores: Vec<f64> = model.vocab.iter().map(|(_, score)| *score).collect();
    let added = file
        .added_tokens
        .iter()
        .map(|t| (t.content.clone(), t.id, t.special));
    let texts = model.vocab.into_iter().map(|(Text(text), _)| text);
    let vocab = Vocab::arrange(alphabet, texts.zip(0..), added).ok()?;
    // The library also finds these within a text, and counts their scores.
    let kinds = (0..scores.len() as u32).map(|id| vocab.kind(id));
    let lowest = |kind: fn(Option<Kind>) -> bool| {
        let scores = kinds.clone().zip(&scores).filter(|(k, _)| kind(*k));
        scores.map(|(_, score)| *score).fold(0.0, f64::min)
    };
    let normal = lowest(|kind| kind == Some(Kind::Normal));
    if kinds.clone().any(|kind| kind == Some(Kind::Byte)) || lowest(|_| true) < normal {
        return None;
    }
    let mut first = Partition::new(
        Order::Leftmost,
        file.added_tokens
            .iter()
            .map(|t| (t.content.clone(), t.id, t.special)),
    )
    .ok()?;
    let strips = |text: &str| {
        let token = file.added_tokens.iter().find(|t| t.content == text);
        token.is_some_and(|t| t.lstrip)
    };
    first.strip_before(strips);
    let unknown = vocab.kind(model.unk_id).is_some().then_some(model.unk_id)?;
    let unigram = Unigram::new(&vocab, scores, Some(unknown), cut).ok()?;
    let around = guard(|| surroundings(&file.post_processor.0)).ok()?;
    let encoder = Encoder::Own(Box::new(Own {
        first,
        prepare,
        model: Model::Unigram(unigram),
    }));
    Some(Loaded {
        encoder,
        vocab,
        drops_space,
        around,
        warnings: Vec::new(),
    })
}

/// How a pre-tokenizer cuts, if it makes spaces visible and puts one before each text.
fn cut(value: &Value) -> Option<Cut> {
    let (white, last) = match value["pretokenizers"].as_array().map(Vec::as_slice) {
        Some([first, last]) if first["type"] == "WhitespaceSplit" => (true, last),
        Some([last]) => (false, last),
        Some(_) => return None,
        None => (false, value),
    };
    let visible = last["type"] == "Metaspace" && last["replacement"] == "\u{2581}";
    // Before 0.15 the file had a flag in place of a scheme.
    let always = match last["prepend_scheme"].as_str() {
        Some(scheme) => scheme == "always",
        None => last["add_prefix_space"] == true,
    };
    let split = last["split"].as_bool().unwrap_or(true);
    (visible && always && split).then_some(match white {
        true => Cut::WhiteSpace,
        false => Cut::Spaces,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Special;
    use crate::hf;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::LazyLock;

    fn kind(name: &str) -> Value {
        let folder = "../../testdata/tokenizers/kinds";
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let bytes = std::fs::read(folder.join(name).join("tokenizer.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn ids(loaded: &Loaded, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        let encoder = &loaded.encoder;
        let special = match parse_special {
            true => Special::Parsed,
            false => Special::Text,
        };
        let done = encoder.encode(&loaded.vocab, text, &special, &mut ids);
        done.unwrap();
        ids
    }

    /// This way and the library's.
    static BOTH: LazyLock<Vec<(Loaded, Loaded)>> = LazyLock::new(|| {
        let mut old = kind("xlmr");
        old["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "▁", "add_prefix_space": true},
        ]});
        let mut plain = kind("xlmr");
        plain["normalizer"] = Value::Null;
        let files = [kind("xlmr"), kind("t5"), old, plain];
        let both = files.map(|json| {
            let json = serde_json::to_vec(&json).unwrap();
            let own = load(&json, &[]).expect("a file for this way");
            (own, hf::load(&json, &[]).unwrap())
        });
        both.into()
    });

    #[test]
    fn loads_what_the_library_loads() {
        for (own, library) in BOTH.iter() {
            assert_eq!(own.around, library.around);
            assert_eq!(own.drops_space, library.drops_space);
            assert_eq!(own.vocab.len(), library.vocab.len());
            for id in 0..own.vocab.len() as u32 {
                assert_eq!(own.vocab.text(id), library.vocab.text(id));
                assert_eq!(own.vocab.kind(id), library.vocab.kind(id));
            }
        }
    }

    #[test]
    fn leaves_the_rest_to_the_library() {
        let no = |pointer: &str, value: Value| {
            let mut json = kind("xlmr");
            *json.pointer_mut(pointer).unwrap() = value;
            let json = serde_json::to_vec(&json).unwrap();
            assert!(load(&json, &[]).is_none(), "{pointer}");
        };
        no("/model/byte_fallback", true.into());
        no("/model/unk_id", Value::Null);
        no("/pre_tokenizer/prepend_scheme", "first".into());
        no("/pre_tokenizer/split", false.into());
        no("/pre_tokenizer", Value::Null);
        no("/added_tokens/0/normalized", true.into());
        no("/added_tokens/0/rstrip", true.into());
        no("/added_tokens/0/id", 7.into());
        no("/model/vocab/5/0", "<s>".into());
        no("/model/vocab/0/1", (-100).into());
        no("/decoder", json!({"type": "CTC"}));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn equals_the_library_on_any_text(
            which in 0usize..4,
            text in "([a-z ]{1,8}|\\PC|[\\x00-\\x1f]|[ \n\t0-9'▁\u{a0}\u{3000}]{1,4}|(the |time|ing){1,3}|é|[一-丠]|\\p{M}){0,12}",
            mask in any::<bool>(),
        ) {
            let (own, library) = &BOTH[which];
            // Which control tokens are left out of the text is tested elsewhere.
            let text = text.replace('<', "");
            let text = if mask { format!("{text} <mask>\n<mask> {text}</s>{text}") } else { text };
            prop_assert_eq!(ids(own, &text, true), ids(library, &text, true));
            if !mask {
                prop_assert_eq!(ids(own, &text, false), ids(library, &text, false));
            }
        }
    }
}

//! Tokenizers from directories: the configuration files around tokenizer.json,
//! its decoders, and damaged files.

mod common;

use common::{read, root, BARE, EVERYTHING, PARSED};
use proptest::prelude::*;
use rustml_tokenizer::{Encode, Error, Message, Rendered, Tokenizer};
use serde_json::{json, Value};

const SPECIAL: Encode = Encode {
    add_special: true,
    parse_special: false,
};

/// `<s> </s> <unk>`, bytes if asked for, and some pieces.
fn bpe(pieces: &[&str], merges: &[[&str; 2]], decoder: Value) -> Value {
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let names = ["<s>", "</s>", "<unk>"]
        .into_iter()
        .chain(pieces.iter().copied());
    let vocab: serde_json::Map<_, _> = names
        .enumerate()
        .map(|(id, piece)| (piece.to_string(), id.into()))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [added(0, "<s>"), added(1, "</s>"), added(2, "<unk>")],
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": merges},
    })
}

fn load(files: &[(&str, Value)]) -> Result<Tokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let text = content
            .as_str()
            .map_or_else(|| content.to_string(), String::from);
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Tokenizer::from_dir(dir.path())
}

#[test]
fn configuration_files_have_their_say() {
    let model = bpe(&["a", "b"], &[], json!(null));
    let names = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    let t = load(&[
        ("tokenizer.json", model.clone()),
        ("special_tokens_map.json", names.clone()),
    ])
    .unwrap();
    assert_eq!(
        (t.bos(), t.eos(), t.end_tokens()),
        (Some(0), Some(1), &[1][..])
    );
    assert_eq!(t.encode("a", SPECIAL).unwrap(), [3]);

    // Flags add BOS and EOS...
    let mut config = names.clone();
    config["add_bos_token"] = true.into();
    config["add_eos_token"] = true.into();
    let t = load(&[
        ("tokenizer.json", model.clone()),
        ("tokenizer_config.json", config),
    ])
    .unwrap();
    assert_eq!(t.encode("a", SPECIAL).unwrap(), [0, 3, 1]);
    assert_eq!(t.encode_chat(&Rendered::template("a")).unwrap(), [0, 3]);
    assert_eq!(t.encode_chat(&Rendered::template("<s>a")).unwrap(), [0, 3]);
    assert_eq!(t.encode("<s>", PARSED).unwrap(), [0]);
    assert_ne!(t.encode("<s>", BARE).unwrap(), [0]);

    // ...and take them away again from what the post-processor adds.
    let mut with_bos = model.clone();
    with_bos["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    });
    let t = load(&[
        ("tokenizer.json", with_bos.clone()),
        ("tokenizer_config.json", names.clone()),
    ])
    .unwrap();
    assert_eq!(t.encode("a", SPECIAL).unwrap(), [0, 3]);
    assert_eq!(t.encode("", SPECIAL).unwrap(), [0]);
    let mut config = names.clone();
    config["add_bos_token"] = false.into();
    let t = load(&[
        ("tokenizer.json", with_bos),
        ("tokenizer_config.json", config),
    ])
    .unwrap();
    assert_eq!(t.encode("a", SPECIAL).unwrap(), [3]);

    let mut no_token = model.clone();
    no_token["post_processor"] = json!({"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 99], "trim_offsets": true, "add_prefix_space": true});
    let e = load(&[("tokenizer.json", no_token)])
        .unwrap_err()
        .to_string();
    assert!(e.contains("adds the id 99, which is no token"), "{e}");

    // generation_config.json names ends, and config.json if it does not exist.
    let files = [
        ("tokenizer.json", model.clone()),
        (
            "config.json",
            json!({"bos_token_id": 0, "eos_token_id": [4, 3]}),
        ),
    ];
    let t = load(&files).unwrap();
    assert_eq!(
        (t.bos(), t.eos(), t.end_tokens()),
        (Some(0), Some(4), &[1, 3, 4][..])
    );
    let mut files = files.to_vec();
    files.push(("generation_config.json", json!({"eos_token_id": 3})));
    assert_eq!(load(&files).unwrap().end_tokens(), [1, 3]);
    assert!(!load(&files).unwrap().is_control(3));
}

#[test]
fn templates_come_from_three_places() {
    let model = bpe(&["a", "b"], &[], json!(null));
    let template = |config: Value, jinja: Option<&str>| {
        let mut files = vec![
            ("tokenizer.json", model.clone()),
            ("tokenizer_config.json", config),
        ];
        files.extend(jinja.map(|jinja| ("chat_template.jinja", jinja.into())));
        let t = load(&files).unwrap();
        t.chat_template().map(|t| {
            t.render(&[Message::new("user", "x")], true, Value::Null)
                .unwrap()
                .as_str()
                .to_owned()
        })
    };
    assert_eq!(template(json!({}), None), None);
    let one = json!({"chat_template": "one{{ bos_token }}{{ eos_token }}", "bos_token": "<s>"});
    assert_eq!(template(one.clone(), None).unwrap(), "one<s>");
    assert_eq!(template(one, Some("file")).unwrap(), "file");
    let named = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"},
    ]});
    assert_eq!(template(named, None).unwrap(), "default");
    let only = json!({"chat_template": [{"name": "rag", "template": "rag"}]});
    assert_eq!(template(only, None).unwrap(), "rag");
}

#[test]
fn a_broken_template_does_not_break_the_tokenizer() {
    let model = bpe(&["a", "b"], &[], json!(null));
    let config = json!({"chat_template": "{% for %}"});
    let t = load(&[("tokenizer.json", model), ("tokenizer_config.json", config)]).unwrap();
    assert_eq!(t.encode("ab", BARE).unwrap(), [3, 4]);
    let error = t
        .chat_template()
        .unwrap()
        .render(&[], true, Value::Null)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the chat template failed in line 1: syntax error"),
        "{error}"
    );
}

#[test]
fn decoders() {
    let decode = |decoder: Value, text: &str, pieces: &[&str]| {
        let merges: &[[&str; 2]] = if pieces.contains(&"##") {
            &[]
        } else {
            &[["▁", "a"]]
        };
        let t = load(&[("tokenizer.json", bpe(pieces, merges, decoder))]).unwrap();
        let ids = t.encode(text, BARE).unwrap();
        t.decode_with(&ids, EVERYTHING)
    };
    let pieces = ["a", "b", "▁", "▁a", "<0xC3>", "<0xA9>"];
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let fallback = json!({"type": "ByteFallback"});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let sequence = |list: &[&Value]| json!({"type": "Sequence", "decoders": list});
    assert_eq!(
        decode(sequence(&[&replace, &fallback]), "▁a▁bé", &pieces),
        " a bé"
    );
    assert_eq!(
        decode(sequence(&[&replace, &fallback, &strip]), "▁a▁b", &pieces),
        "a b"
    );
    let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    assert_eq!(decode(metaspace("always"), "▁a▁b", &pieces), "a b");
    assert_eq!(decode(metaspace("never"), "▁a▁b", &pieces), " a b");
    assert_eq!(decode(Value::Null, "ab", &pieces), "a b");
    assert_eq!(decode(json!({"type": "Fuse"}), "ab", &pieces), "ab");

    let error = load(&[(
        "tokenizer.json",
        bpe(
            &pieces,
            &[],
            json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
        ),
    )]);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("CTC") && error.contains("not supported"),
        "{error}"
    );
}

#[test]
fn wordpiece() {
    let vocab = json!({"[UNK]": 0, "un": 1, "##able": 2, "hello": 3, ",": 4, "'": 5, "s": 6});
    let model = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let t = load(&[("tokenizer.json", model)]).unwrap();
    let ids = t.encode("Hello, unable", BARE).unwrap();
    assert_eq!(ids, [3, 4, 1, 2]);
    assert_eq!(t.decode(&ids), "hello, unable");
}

#[test]
fn long_words_finish() {
    for name in ["llama", "gpt2", "gemma3", "gpt2 by tokenizers"] {
        let folder = name.split(' ').next().unwrap_or_default();
        let path = root()
            .join("testdata/tiny")
            .join(folder)
            .join("tokenizer.json");
        let mut json: Value = read(&path);
        if folder != name {
            // A setting that is left to the library.
            json["added_tokens"][0]["lstrip"] = true.into();
        }
        let t = load(&[("tokenizer.json", json)]).unwrap();
        for unit in ["a", " ", "é", "\n", "A1"] {
            let text = unit.repeat(200_000 / unit.len());
            let ids = t.encode(&text, BARE).unwrap();
            assert!(t.decode(&ids) == text, "{name} {unit:?}");
        }
    }
}

#[test]
fn damaged_files_are_named() {
    let model = bpe(&["a"], &[], json!(null));
    let e = load(&[("tokenizer.json", "{\"version\":".into())])
        .unwrap_err()
        .to_string();
    assert!(e.contains("tokenizer.json is malformed"), "{e}");
    let e = load(&[("tokenizer.json", json!([]))])
        .unwrap_err()
        .to_string();
    assert!(e.contains("tokenizer.json is malformed"), "{e}");
    for name in [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "config.json",
    ] {
        let e = load(&[("tokenizer.json", model.clone()), (name, "{".into())])
            .unwrap_err()
            .to_string();
        assert!(e.contains(name) && e.contains("is malformed"), "{e}");
    }
    let e = load(&[
        ("tokenizer.json", model.clone()),
        ("tokenizer_config.json", json!({"bos_token": "<x>"})),
    ]);
    assert!(e
        .unwrap_err()
        .to_string()
        .contains("bos_token is \"<x>\", which is not in tokenizer.json"));
    let e = load(&[
        ("tokenizer.json", model.clone()),
        ("generation_config.json", json!({"eos_token_id": -1})),
    ]);
    assert!(e.unwrap_err().to_string().contains("-1 is not a token id"));
    let e = load(&[("tokenizer.model", "x".into())])
        .unwrap_err()
        .to_string();
    assert!(e.contains("SentencePiece's tokenizer.model"), "{e}");

    let mut far = model.clone();
    far["model"]["vocab"]["a"] = json!(4_000_000_000u32);
    let e = load(&[("tokenizer.json", far)]).unwrap_err().to_string();
    assert!(e.contains("\"a\" has the id 4000000000"), "{e}");
    let mut twice = model.clone();
    twice["model"]["vocab"]["b"] = json!(3);
    let e = load(&[("tokenizer.json", twice)]).unwrap_err().to_string();
    assert!(e.contains("both have the id 3"), "{e}");
    let mut shifted = model.clone();
    shifted["added_tokens"][1]["id"] = json!(7);
    let e = load(&[("tokenizer.json", shifted)])
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("the added token \"</s>\" the id 7, but it can only be 1"),
        "{e}"
    );
    let mut half = model.clone();
    half["model"]["merges"] = json!([["a", ""]]);
    half["model"]["continuing_subword_prefix"] = json!("##");
    half["model"]["vocab"][""] = json!(4);
    let e = load(&[("tokenizer.json", half)]).unwrap_err().to_string();
    assert!(e.contains("contradicts itself"), "{e}");
    let mut empty = model;
    empty["model"]["vocab"] = json!({});
    empty["added_tokens"] = json!([]);
    assert!(load(&[("tokenizer.json", empty)]).is_err());
}

/// Replaces one value somewhere in a JSON document.
fn mutate(value: &mut Value, path: &mut impl Iterator<Item = usize>, new: Value) {
    let step = path.next();
    match (step, value) {
        (Some(step), Value::Object(map)) if !map.is_empty() && step % 8 > 0 => {
            let at = step / 8 % map.len();
            mutate(map.values_mut().nth(at).unwrap(), path, new);
        }
        (Some(step), Value::Array(list)) if !list.is_empty() && step % 8 > 0 => {
            let at = step / 8 % list.len();
            mutate(&mut list[at], path, new);
        }
        (_, value) => *value = new,
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u32..400).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,3}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!("<unk>")),
        Just(json!("[")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damaged_tokenizers_never_panic(
        name in prop::sample::select(&["llama", "gemma3", "llama-tied"][..]),
        damage in prop::collection::vec((prop::collection::vec(any::<usize>(), 1..7), any_value()), 1..4),
        text in "[ab 1<>é\n▁]{0,12}",
    ) {
        let mut json: Value = read(&root().join("testdata/tiny").join(name).join("tokenizer.json"));
        for (path, new) in damage {
            mutate(&mut json, &mut path.into_iter(), new);
        }
        if let Ok(tokenizer) = load(&[("tokenizer.json", json)]) {
            for options in [BARE, PARSED, SPECIAL] {
                if let Ok(ids) = tokenizer.encode(&text, options) {
                    tokenizer.decode(&ids);
                }
            }
        }
    }
}

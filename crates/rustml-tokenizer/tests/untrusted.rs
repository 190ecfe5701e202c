//! Files of a tokenizer that cost too much, or are not what their names say:
//! refused in a sentence, before the time and the memory are spent.

mod common;

use std::path::Path;

use common::{read, root, BARE, PARSED};
use rustml_io::Metadata;
use rustml_tokenizer::{Encode, Tokenizer};
use serde_json::{json, Value};

/// Far more than anything here needs; what asks for more aborts the test.
#[global_allocator]
static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 768 << 20);

/// A tokenizer.json of `testdata`.
fn tiny(name: &str) -> Value {
    let folder = root().join("testdata/tiny").join(name);
    read(&folder.join("tokenizer.json"))
}

fn load(json: &Value) -> Result<Tokenizer, String> {
    raw(&[("tokenizer.json", json.to_string().as_bytes())])
}

fn raw(files: &[(&str, &[u8])]) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    Tokenizer::from_dir(dir.path()).map_err(|e| e.to_string())
}

fn changed(name: &str, changes: &[(&str, Value)]) -> Value {
    let mut json = tiny(name);
    for (pointer, value) in changes {
        *json.pointer_mut(pointer).unwrap() = value.clone();
    }
    json
}

#[test]
fn patterns_that_match_nothing_cut_everywhere() {
    let empty = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    for special in [false, true] {
        let mut json = changed("llama", &[("/pre_tokenizer", empty.clone())]);
        // The way of the library.
        json["added_tokens"][0]["lstrip"] = special.into();
        let t = load(&json).unwrap();
        let ids = t.encode(&"word ".repeat(20_000), BARE);
        // Either it is done within the limits, or it is said.
        if let Ok(ids) = ids {
            assert_eq!(ids.len(), 100_000);
        }
    }
}

#[test]
fn replacements_may_not_blow_texts_up() {
    let replace = |pattern: Value, content: &str| {
        let step = json!({"type": "Replace", "pattern": pattern, "content": content});
        load(&changed("llama", &[("/normalizer", step)])).unwrap()
    };
    let text = "word ".repeat(20_000);
    let long = "x".repeat(10_000);
    for pattern in [
        json!({"String": ""}),
        json!({"Regex": ""}),
        json!({"String": "o"}),
    ] {
        let e = replace(pattern, &long)
            .encode(&text, BARE)
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("the normalizer of tokenizer.json makes it too long"),
            "{e}"
        );
    }
    let steps: Vec<Value> = (0..30)
        .map(|_| json!({"type": "Prepend", "prepend": long}))
        .collect();
    let many = json!({"type": "Sequence", "normalizers": steps});
    let e = load(&changed("llama", &[("/normalizer", many)])).unwrap();
    let e = e.encode("a", BARE).unwrap_err().to_string();
    assert!(e.contains("may make it too long"), "{e}");
    let steps: Vec<Value> = (0..40).map(|_| json!({"type": "NFC"})).collect();
    let many = json!({"type": "Sequence", "normalizers": steps});
    let e = load(&changed("llama", &[("/normalizer", many)])).unwrap_err();
    assert!(e.contains("more than 32 normalizers"), "{e}");
}

#[test]
fn expressions_that_go_back_and_forth_end() {
    let slow = json!({"type": "Split", "pattern": {"Regex": r"(?=(a+)+$)(a|a)*\1b"}, "behavior": "Isolated", "invert": false});
    let t = load(&changed(
        "llama",
        &[("/pre_tokenizer/pretokenizers/0", slow)],
    ))
    .unwrap();
    let e = t.encode(&"a".repeat(5_000), BARE).unwrap_err().to_string();
    assert!(e.starts_with("the text cannot be tokenized: "), "{e}");
    let large = json!({"Regex": r"(\p{L}{1,500}){1,500}"});
    let e = load(&changed(
        "llama",
        &[("/pre_tokenizer/pretokenizers/0/pattern", large)],
    ));
    assert!(e.unwrap_err().contains("the pattern"));
}

#[test]
fn added_tokens_are_few_and_short() {
    let token = |id: usize, content: String| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let with = |tokens: Vec<String>| {
        let mut json = tiny("llama");
        let list = json["added_tokens"].as_array_mut().unwrap();
        let next = list.last().unwrap()["id"].as_u64().unwrap() as usize + 1;
        list.extend(
            tokens
                .into_iter()
                .enumerate()
                .map(|(i, t)| token(next + i, t)),
        );
        load(&json)
    };
    let e = with(vec!["a".repeat(20_000)]).unwrap_err();
    assert!(
        e.contains("\"aaaaaaaaaaaaaaaaaaaa\"... has 20000 bytes, more than 1024"),
        "{e}"
    );
    let e = with(
        (0..6000)
            .map(|i| format!("{i}{}", "a".repeat(900)))
            .collect(),
    )
    .unwrap_err();
    assert!(e.contains("too long together"), "{e}");
    // As many as real files have.
    let t = with((0..6000).map(|i| format!("<|reserved_{i}|>")).collect()).unwrap();
    assert_eq!(t.encode("<|reserved_77|>", PARSED).unwrap().len(), 1);
}

#[test]
fn control_tokens_of_gguf_files_are_few_and_short() {
    let with = |mut texts: Vec<String>| {
        let mut types = vec![3i32; texts.len()];
        texts.push("a".into());
        types.push(1);
        let mut metadata = Metadata::new();
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", "gpt-2");
        metadata.insert("tokenizer.ggml.tokens", texts);
        metadata.insert("tokenizer.ggml.token_type", types);
        metadata.insert("tokenizer.ggml.merges", Vec::<String>::new());
        Tokenizer::from_gguf(&metadata).map_err(|e| e.to_string())
    };
    let e = with(vec!["a".repeat(20_000)]).unwrap_err();
    assert!(e.contains("token 0 has 20000 bytes, more than 2048"), "{e}");
    let e = with(
        (0..20_000)
            .map(|i| format!("{i}{}", "a".repeat(900)))
            .collect(),
    )
    .unwrap_err();
    assert!(e.contains("too long together"), "{e}");
    let texts: Vec<String> = (0..20_000).map(|i| format!("<{i}>")).collect();
    let text = texts.concat();
    assert_eq!(
        with(texts).unwrap().encode(&text, PARSED).unwrap().len(),
        20_000
    );
}

#[test]
fn nesting_and_numbers_are_bounded() {
    let deep = |n: usize| {
        let mut json = tiny("llama").to_string();
        let steps = format!(
            "{}{}",
            r#"{"type":"Sequence","normalizers":["#.repeat(n),
            "]}".repeat(n)
        );
        json = json.replacen(
            r#""normalizer":null"#,
            &format!(r#""normalizer":{steps}"#),
            1,
        );
        raw(&[("tokenizer.json", json.as_bytes())])
    };
    assert!(deep(3).is_ok());
    for n in [40, 100_000] {
        let e = deep(n).unwrap_err();
        assert!(e.contains("malformed") || e.contains("nested"), "{e}");
    }
    let words = json!({"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "#".repeat(1000),
                       "max_input_chars_per_word": 1_000_000, "vocab": {"a": 0}});
    let mut json = changed("llama", &[("/model", words), ("/added_tokens", json!([]))]);
    json["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    json["post_processor"] = Value::Null;
    let e = load(&json).unwrap_err();
    assert!(
        e.contains("max_input_chars_per_word is 1000000, more than 1000"),
        "{e}"
    );
}

#[test]
fn files_that_are_something_else_say_so() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 12998\n";
    let e = raw(&[("tokenizer.json", pointer)]).unwrap_err();
    assert!(
        e.contains("tokenizer.json` is a Git LFS pointer") && e.contains("git lfs pull"),
        "{e}"
    );
    for page in ["<!DOCTYPE html><html></html>", "\n <html lang=\"en\">"] {
        let e = raw(&[("tokenizer.json", page.as_bytes())]).unwrap_err();
        assert!(
            e.contains("tokenizer.json` is an HTML page and not JSON"),
            "{e}"
        );
    }
    let json = tiny("llama").to_string();
    let e = raw(&[
        ("tokenizer.json", json.as_bytes()),
        ("tokenizer_config.json", pointer),
    ]);
    assert!(e
        .unwrap_err()
        .contains("tokenizer_config.json` is a Git LFS pointer"));
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let marked = |text: &str| format!("\u{feff}{text}").into_bytes();
    let json = marked(&tiny("llama").to_string());
    let config = marked(r#"{"bos_token": "<|begin_of_text|>"}"#);
    let files = [
        ("tokenizer.json", &*json),
        ("tokenizer_config.json", &config),
        ("special_tokens_map.json", &marked("{}")),
        (
            "generation_config.json",
            &marked(r#"{"eos_token_id": 348}"#),
        ),
        ("config.json", &marked("{}")),
        ("chat_template.jinja", &marked("hi")),
    ];
    let t = raw(&files).unwrap();
    assert_eq!((t.bos(), t.eos()), (Some(347), Some(348)));
    assert_eq!(t.chat_template().unwrap().source(), "hi");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_read() {
    let at = |target: &Path| {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(target, dir.path().join("tokenizer.json")).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap_err().to_string()
    };
    for device in ["/dev/zero", "/dev/stdin", "/dev"] {
        let e = at(Path::new(device));
        assert!(
            e.contains("is not a regular file") || device == "/dev/stdin",
            "{e}"
        );
    }
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len(1 << 40).unwrap();
    let e = at(large.path());
    assert!(e.contains("has 1099511627776 bytes, more than"), "{e}");
}

/// Files with tokens that only tokenizer_config.json lists, as transformers reads them.
#[test]
fn added_tokens_of_tokenizer_config_are_tokens() {
    let mut json = tiny("llama");
    let added = json["added_tokens"].as_array_mut().unwrap();
    let described: serde_json::Map<_, _> = added
        .iter()
        .map(|token| {
            let mut token = token.clone();
            let id = token["id"].take().to_string();
            token.as_object_mut().unwrap().remove("id");
            (id, token)
        })
        .collect();
    added.truncate(2);
    let config = json!({"added_tokens_decoder": described}).to_string();
    let text = "<|start_header_id|>user<|end_header_id|>";
    let parsed = |files: &[(&str, &[u8])]| raw(files).unwrap().encode(text, PARSED).unwrap();
    let model = json.to_string();
    let tokenizer = ("tokenizer.json", model.as_bytes());
    let without = parsed(&[tokenizer]);
    let with = parsed(&[tokenizer, ("tokenizer_config.json", config.as_bytes())]);
    let whole = tiny("llama").to_string();
    assert_eq!(with, parsed(&[("tokenizer.json", whole.as_bytes())]));
    assert_eq!((with[0], *with.last().unwrap()), (349, 350));
    assert!(without.len() > with.len() + 10, "{without:?}");
    // Also by the way of the library.
    json["added_tokens"][0]["rstrip"] = true.into();
    let model = json.to_string();
    let files = [
        ("tokenizer.json", model.as_bytes()),
        ("tokenizer_config.json", config.as_bytes()),
    ];
    assert_eq!(parsed(&files), with);

    // Ids that cannot be theirs: they get the next ones.
    let config = config.replace("\"351\"", "\"990\"");
    let files = [tokenizer, ("tokenizer_config.json", config.as_bytes())];
    let t = raw(&files).unwrap();
    assert_eq!(t.encode("<|eot_id|>", PARSED).unwrap(), [351]);
    let warning = "gives the added token \"<|eot_id|>\" the id 990, but it can only be 351";
    assert!(t.warnings()[0].contains(warning), "{:?}", t.warnings());
}

/// The library lets text become control tokens that its model spells.
#[test]
fn text_does_not_become_control_tokens() {
    for kind in ["xlmr", "t5", "unigram-bytes", "word-level"] {
        let folder = root().join("testdata/tokenizers/kinds").join(kind);
        let t = Tokenizer::from_dir(&folder).unwrap();
        let unknown = ["<unk>", "[UNK]"]
            .into_iter()
            .find_map(|text| t.token_id(text));
        for id in (0..t.vocab_size() as u32).filter(|&id| t.is_control(id)) {
            let token = t.token_str(id).unwrap();
            for text in [token.to_owned(), format!("a {token} b{token}")] {
                let ids = t.encode(&text, Encode::default()).unwrap();
                let control = ids
                    .iter()
                    .find(|&&id| t.is_control(id) && Some(id) != unknown);
                assert_eq!(control, None, "{kind}, {text:?}: {ids:?}");
            }
            assert!(
                t.encode(token, PARSED).unwrap().contains(&id),
                "{kind}, {token:?}"
            );
        }
    }
}

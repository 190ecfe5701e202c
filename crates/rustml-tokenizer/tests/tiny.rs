//! The tiny models of `testdata/tiny`: a tokenizer in the manner of each
//! family, as tokenizer.json and inside a GGUF file. Both must be one.

mod common;

use std::path::Path;

use common::{check_cases, check_chats, check_round_trip, from_gguf, read, root};
use common::{Chat, Disputed, Fixture, BARE, PARSED};
use rustml_tokenizer::{Encode, Tokenizer};

fn check_folder(name: &str) -> (Tokenizer, Tokenizer) {
    let folder = root().join("testdata/tiny").join(name);
    let fixture: Fixture = read(&folder.join("tokenizer_cases.json"));
    let optional = |file: &str| Some(folder.join(file)).filter(|path| path.exists());
    let disputed: Vec<Disputed> =
        optional("tokenizer_disputed.json").map_or_else(Vec::new, |path| read(&path));
    let chats: Vec<Chat> = optional("chat_cases.json").map_or_else(Vec::new, |path| read(&path));

    let json = Tokenizer::from_dir(&folder).unwrap();
    let gguf = from_gguf(&folder.join("model.gguf"));
    check_cases(&json, &fixture.cases, &[]);
    check_cases(&gguf, &fixture.cases, &disputed);
    for tokenizer in [&json, &gguf] {
        assert_eq!(tokenizer.vocab_size(), fixture.n_vocab);
        assert_eq!(tokenizer.bos(), Some(fixture.bos));
        assert_eq!(tokenizer.eos(), Some(fixture.eos));
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
        for case in &fixture.cases {
            check_round_trip(tokenizer, &case.text);
        }
        check_chats(tokenizer, &chats);
    }
    check_same(&json, &gguf);
    (json, gguf)
}

fn check_same(json: &Tokenizer, gguf: &Tokenizer) {
    assert_eq!(json.vocab_size(), gguf.vocab_size());
    assert_eq!(json.end_tokens(), gguf.end_tokens());
    let special = Encode {
        add_special: true,
        ..PARSED
    };
    assert_eq!(
        json.encode("", special).unwrap(),
        gguf.encode("", special).unwrap()
    );
    assert_eq!(
        json.chat_template().map(|t| t.source()),
        gguf.chat_template().map(|t| t.source())
    );
    for id in 0..json.vocab_size() as u32 {
        assert_eq!(json.token_bytes(id), gguf.token_bytes(id), "token {id}");
        assert_eq!(json.is_control(id), gguf.is_control(id), "token {id}");
    }
}

#[test]
fn gpt2() {
    let (json, _) = check_folder("gpt2");
    assert_eq!(json.end_tokens(), [320]);
    let hub = Tokenizer::from_dir(&root().join("testdata/tiny/gpt2-hub")).unwrap();
    check_same(&json, &hub);
}

#[test]
fn llama3() {
    let (json, _) = check_folder("llama");
    assert_eq!(json.end_tokens(), [348, 351]);
    // The same tokenizer with its template in a file of its own.
    let sharded = Tokenizer::from_dir(&root().join("testdata/tiny/llama-sharded")).unwrap();
    check_same(&json, &sharded);
}

#[test]
fn smollm() {
    let (json, _) = check_folder("llama-tied");
    assert_eq!(json.end_tokens(), [0, 2]);
}

#[test]
fn gemma3() {
    let (json, _) = check_folder("gemma3");
    assert_eq!(json.end_tokens(), [1, 6]);
}

#[test]
fn a_folder_without_tokenizer_says_so() {
    let error = Tokenizer::from_dir(Path::new("no/such/folder"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read `no/such/folder/tokenizer.json`"),
        "{error}"
    );
}

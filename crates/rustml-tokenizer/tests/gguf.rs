//! Tokenizers from made-up GGUF metadata: the rules that the real files do not
//! exercise, and files that contradict themselves.

use proptest::prelude::*;
use rustml_io::Metadata;
use rustml_tokenizer::{Decode, Detokenizer, Encode, Rendered, Tokenizer};

const BARE: Encode = Encode {
    add_special: false,
    parse_special: false,
};
const PARSED: Encode = Encode {
    add_special: false,
    parse_special: true,
};
const SPECIAL: Encode = Encode {
    add_special: true,
    parse_special: false,
};

/// In the manner of Llama 2: `<unk> <s> </s>`, the bytes, then `pieces` with
/// falling scores.
fn llama2(pieces: &[&str]) -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut scores = vec![0f32; tokens.len()];
    let mut types = vec![2i32, 3, 3];
    types.resize(tokens.len(), 6);
    for (i, piece) in pieces.iter().enumerate() {
        tokens.push(piece.to_string());
        scores.push(-(i as f32));
        types.push(1);
    }
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.scores", scores);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata
}

/// In the manner of GPT-2: the byte alphabet, then `<|end|>`, then what the
/// merges make.
fn gpt2(merges: &[&str]) -> Metadata {
    let shown = (33..127).chain(161..173).chain(174..=255);
    let mut tokens: Vec<String> = shown
        .chain(256..324)
        .map(|c| char::from_u32(c).unwrap().to_string())
        .collect();
    tokens.push("<|end|>".into());
    tokens.extend(merges.iter().map(|merge| merge.replacen(' ', "", 1)));
    let mut types = vec![1i32; tokens.len()];
    types[256] = 3;
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.token_type", types);
    let merges: Vec<String> = merges.iter().map(|m| m.to_string()).collect();
    metadata.insert("tokenizer.ggml.merges", merges);
    metadata
}

fn load(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_gguf(metadata).unwrap()
}

fn tokens(tokenizer: &Tokenizer, text: &str, options: Encode) -> Vec<String> {
    let ids = tokenizer.encode(text, options).unwrap();
    ids.into_iter()
        .map(|id| tokenizer.token_str(id).unwrap().to_string())
        .collect()
}

fn error(metadata: &Metadata) -> String {
    Tokenizer::from_gguf(metadata).unwrap_err().to_string()
}

#[test]
fn llama2_puts_a_space_before_texts() {
    fn shared<T: Send + Sync>(_: &T) {}
    let t = load(&llama2(&["▁a", "▁", "a", "b", "ab", "▁▁", "▁ab"]));
    shared(&t);
    assert_eq!(tokens(&t, "a ab", SPECIAL), ["<s>", "▁a", "▁ab"]);
    assert_eq!(tokens(&t, " a", SPECIAL), ["<s>", "▁", "▁a"]);
    assert_eq!(tokens(&t, "", SPECIAL), ["<s>"]);
    assert_eq!(tokens(&t, "", BARE), [""; 0]);
    // Also after a control token, as llama.cpp does it.
    assert_eq!(
        tokens(&t, "<s>a</s>b", PARSED),
        ["<s>", "▁a", "</s>", "▁", "b"]
    );
    assert_eq!(tokens(&t, "é", BARE), ["▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(
        (t.bos(), t.eos(), t.end_tokens()),
        (Some(1), Some(2), &[2][..])
    );
    assert!(t.is_control(0) && t.is_control(1) && !t.is_control(3));
}

#[test]
fn llama2_drops_that_space_when_decoding() {
    let t = load(&llama2(&["▁a", "▁", "a", "b"]));
    let ids = t.encode("a b", SPECIAL).unwrap();
    assert_eq!(t.decode(&ids), "a b");
    assert_eq!(t.decode(&t.encode("  a", BARE).unwrap()), "  a");
    // In the middle of a text the space is meant.
    let continues = Decode {
        continues: true,
        control: false,
    };
    assert_eq!(t.decode_with(&ids, continues), " a b");
    let mut stream = Detokenizer::new(continues);
    assert_eq!(stream.push(&t, ids[1]).as_deref(), Some(" a"));
    let control = Decode {
        continues: false,
        control: true,
    };
    assert_eq!(t.decode_with(&ids, control), "<s> a b");
}

#[test]
fn a_stream_waits_for_whole_characters() {
    let t = load(&llama2(&["▁", "a"]));
    let crab = t.encode("🦀a", BARE).unwrap();
    let mut stream = Detokenizer::new(Decode::default());
    let pieces: Vec<_> = crab.iter().map(|&id| stream.push(&t, id)).collect();
    let expected = [None, None, None, None, Some("🦀"), Some("a")];
    assert_eq!(
        pieces.iter().map(Option::as_deref).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(stream.finish(), None);

    // A character that is never completed, in the middle and at the end.
    let mut stream = Detokenizer::new(Decode::default());
    assert_eq!(stream.push(&t, crab[1]), None);
    assert_eq!(stream.push(&t, 1), None, "control tokens write nothing");
    assert_eq!(
        stream.push(&t, 999_999),
        None,
        "ids that are no token write nothing"
    );
    assert_eq!(
        stream.push(&t, *crab.last().unwrap()).as_deref(),
        Some("\u{fffd}a")
    );
    assert_eq!(stream.push(&t, crab[1]), None);
    assert_eq!(stream.clone().finish().as_deref(), Some("\u{fffd}"));
    assert_eq!(t.decode(&[crab[1], crab[5], crab[1]]), "\u{fffd}a\u{fffd}");
}

#[test]
fn control_tokens_are_never_made_of_text() {
    // "<s>" could be joined from its characters, and must not be.
    let t = load(&llama2(&["▁", "<", "s", ">", "<s", "s>"]));
    assert_eq!(tokens(&t, "<s>", BARE), ["▁", "<s", ">"]);
    assert_eq!(tokens(&t, "<0x0A>", BARE)[..2], ["▁", "<"]);
    let mut metadata = gpt2(&["a b"]);
    metadata.insert("tokenizer.ggml.pre", "llama-bpe");
    metadata.insert("tokenizer.ggml.bos_token_id", 256u32);
    let t = load(&metadata);
    assert!(!t.encode("<|end|>", BARE).unwrap().contains(&256));
    assert_eq!(t.encode("<|end|>", PARSED).unwrap(), [256]);
}

#[test]
fn rules_about_bos_and_eos() {
    let mut metadata = gpt2(&["a b"]);
    assert_eq!(load(&metadata).bos(), None);
    assert_eq!(tokens(&load(&metadata), "ab", SPECIAL), ["ab"]);
    metadata.insert("tokenizer.ggml.bos_token_id", 256u32);
    metadata.insert("tokenizer.ggml.eos_token_id", 256u32);
    assert_eq!(tokens(&load(&metadata), "ab", SPECIAL), ["ab"]);
    metadata.insert("tokenizer.ggml.add_bos_token", true);
    assert_eq!(tokens(&load(&metadata), "ab", SPECIAL), ["<|end|>", "ab"]);
    metadata.insert("tokenizer.ggml.add_eos_token", true);
    assert_eq!(
        tokens(&load(&metadata), "ab", SPECIAL),
        ["<|end|>", "ab", "<|end|>"]
    );
    // A prompt is where the model goes on, so nothing is added at its end.
    assert_eq!(
        load(&metadata)
            .encode_chat(&Rendered::template("ab"))
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        load(&metadata)
            .encode_chat(&Rendered::template("<|end|>ab"))
            .unwrap()
            .len(),
        2
    );

    // Llama 3 begins with BOS, unless the file says no.
    let mut metadata = gpt2(&["a b"]);
    metadata.insert("tokenizer.ggml.pre", "llama-bpe");
    metadata.insert("tokenizer.ggml.bos_token_id", 256u32);
    assert_eq!(tokens(&load(&metadata), "ab", SPECIAL), ["<|end|>", "ab"]);
    metadata.insert("tokenizer.ggml.add_bos_token", false);
    assert_eq!(tokens(&load(&metadata), "ab", SPECIAL), ["ab"]);
}

#[test]
fn ignore_merges_keeps_whole_words() {
    // "abc" is a token that the merges do not reach.
    let mut metadata = gpt2(&["a b", "b c", "a bc"]);
    assert_eq!(tokens(&load(&metadata), "abc", BARE), ["ab", "c"]);
    metadata.insert("tokenizer.ggml.pre", "llama-bpe");
    assert_eq!(tokens(&load(&metadata), "abc", BARE), ["abc"]);
}

#[test]
fn phi3_tokens_take_white_space() {
    let mut metadata = llama2(&["▁", "a", "\n"]);
    metadata.insert("tokenizer.ggml.add_space_prefix", false);
    assert_eq!(
        tokens(&load(&metadata), "</s>\n a", PARSED),
        ["</s>", "\n", "▁", "a"]
    );
    metadata.insert("general.name", "Phi-3 Mini");
    assert_eq!(tokens(&load(&metadata), "</s>\n a", PARSED), ["</s>", "a"]);
    assert_eq!(
        tokens(&load(&metadata), "<s>\na", PARSED),
        ["<s>", "\n", "a"]
    );
}

#[test]
fn long_words_take_no_longer_than_short_ones() {
    let n = 200_000;
    let spm = load(&llama2(&["▁", "a", "aa", "aaaa", "▁a"]));
    let bpe = load(&gpt2(&["a a", "aa aa", "Ġ Ġ"]));
    for unit in ["a", " ", "é", "\n"] {
        let text = unit.repeat(n);
        for tokenizer in [&spm, &bpe] {
            let ids = tokenizer.encode(&text, BARE).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

#[test]
fn bytes_without_a_token_are_left_out() {
    let mut metadata = llama2(&["▁", "a"]);
    metadata.insert(
        "tokenizer.ggml.tokens",
        ["▁", "a"].map(String::from).to_vec(),
    );
    metadata.insert("tokenizer.ggml.scores", vec![0f32, 0.0]);
    metadata.insert("tokenizer.ggml.token_type", vec![1i32, 1]);
    let t = load(&metadata);
    assert_eq!(tokens(&t, "aéa", BARE), ["▁", "a", "a"]);
    assert_eq!(tokens(&load(&llama2(&["▁", "a"])), "é", BARE).len(), 3);

    // SmolLM2 has no token for six bytes.
    let mut metadata = gpt2(&[]);
    metadata.insert(
        "tokenizer.ggml.tokens",
        ["a", "b", "Ġ"].map(String::from).to_vec(),
    );
    metadata.insert("tokenizer.ggml.token_type", vec![1i32; 3]);
    let t = load(&metadata);
    assert_eq!(
        tokens(&t, "a\x04b c\u{1d}é a", BARE),
        ["a", "b", "Ġ", "Ġ", "a"]
    );
    assert_eq!(t.encode("\x04", BARE).unwrap(), [0u32; 0]);
}

#[test]
fn contradictions_are_named() {
    let broken = |change: &dyn Fn(&mut Metadata)| {
        let mut metadata = llama2(&["▁", "a"]);
        change(&mut metadata);
        error(&metadata)
    };
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.scores", vec![0f32; 3])));
    assert_eq!(
        e,
        "the vocabulary is unusable: tokenizer.ggml.scores has 3 entries for 261 tokens"
    );
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.token_type", vec![1i32; 262])));
    assert!(
        e.contains("tokenizer.ggml.token_type has 262 entries for 261 tokens"),
        "{e}"
    );
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.token_type", vec![9i32; 261])));
    assert!(e.contains("token 0 has the unknown type 9"), "{e}");
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.token_type", vec![6i32; 261])));
    assert!(
        e.contains("token 0 is marked as a byte but reads \"<unk>\""),
        "{e}"
    );
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.scores", vec![f32::NAN; 261])));
    assert!(e.contains("the score of token 0 is not a number"), "{e}");
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.bos_token_id", 261u32)));
    assert!(
        e.contains("tokenizer.ggml.bos_token_id is 261, but there are only 261 tokens"),
        "{e}"
    );
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.eos_token_id", u64::MAX)));
    assert!(
        e.contains("tokenizer.ggml.eos_token_id is 18446744073709551615"),
        "{e}"
    );
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.tokens", Vec::<String>::new())));
    assert!(e.contains("it has no tokens"), "{e}");
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.model", "rwkv")));
    assert!(e.contains("\"rwkv\" is not supported"), "{e}");
    let e = broken(&|m| drop(m.insert("tokenizer.ggml.tokens", 5u32)));
    assert!(e.contains("`tokenizer.ggml.tokens` is u32 5"), "{e}");
    assert!(error(&Metadata::new()).contains("tokenizer.ggml.model is missing"));

    let mut empty = Metadata::new();
    empty.insert("tokenizer.ggml.model", "gpt2");
    assert_eq!(
        error(&empty),
        "the vocabulary is unusable: it has no tokens"
    );

    let broken = |merges: &[&str]| {
        let mut metadata = gpt2(&[]);
        let merges: Vec<String> = merges.iter().map(|m| m.to_string()).collect();
        metadata.insert("tokenizer.ggml.merges", merges);
        error(&metadata)
    };
    assert!(broken(&["ab"]).contains("the merge \"ab\" is not two tokens"));
    assert!(broken(&[""]).contains("the merge \"\" is not two tokens"));
    assert!(broken(&["a b"]).contains("the merge of \"a\" and \"b\" needs the token \"ab\""));
    assert!(broken(&["xy a"]).contains("needs the token \"xy\""));
    let mut metadata = gpt2(&[]);
    metadata.insert("tokenizer.ggml.pre", "from-the-future");
    assert!(error(&metadata).contains("`from-the-future`"));
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.add_bos_token", true);
    assert!(error(&metadata).contains("add_bos_token is true, but"));
}

/// llama.cpp reads both of these.
#[test]
fn equal_tokens_and_a_far_unknown_token_are_warned_of() {
    let mut metadata = gpt2(&["a b"]);
    let mut texts: Vec<String> = metadata
        .strings("tokenizer.ggml.tokens")
        .unwrap()
        .unwrap()
        .iter()
        .map(String::from)
        .collect();
    texts.push("ab".into());
    let count = texts.len() as u32;
    metadata.insert("tokenizer.ggml.tokens", texts);
    metadata.insert("tokenizer.ggml.token_type", vec![1i32; count as usize]);
    metadata.insert("tokenizer.ggml.unknown_token_id", 99_999u32);
    let t = load(&metadata);
    assert_eq!(t.encode("ab", BARE).unwrap(), [count - 1]);
    assert_eq!(t.decode(&[count - 2, count - 1]), "abab");
    let warnings = t.warnings();
    assert!(
        warnings[0].contains(&format!(
            "tokens {} and {} are both \"ab\"",
            count - 2,
            count - 1
        )),
        "{warnings:?}"
    );
    assert!(
        warnings[1].contains(&format!(
            "unknown_token_id is 99999, but there are only {count} tokens"
        )),
        "{warnings:?}"
    );
    // Where text needs it, the default is used.
    let mut metadata = llama2(&["▁", "a"]);
    metadata.insert("tokenizer.ggml.unknown_token_id", 99_999u32);
    assert_eq!(load(&metadata).warnings().len(), 1);
}

#[test]
fn gemma4_merges_characters_with_visible_spaces() {
    let mut texts: Vec<String> = ["<pad>", "<eos>", "<bos>", "<unk>"]
        .map(String::from)
        .to_vec();
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut types = vec![3i32; 4];
    types.resize(texts.len(), 6);
    let pieces = ["▁", "a", "b", "▁▁", "▁a", "ab", "\n", "\n\n"];
    texts.extend(pieces.map(String::from));
    types.resize(texts.len(), 1);
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gemma4");
    metadata.insert("tokenizer.ggml.tokens", texts);
    metadata.insert("tokenizer.ggml.token_type", types);
    let merges = ["▁ ▁", "▁ a", "a b", "\n \n"].map(String::from).to_vec();
    metadata.insert("tokenizer.ggml.merges", merges);
    metadata.insert("tokenizer.ggml.bos_token_id", 2u32);
    let t = load(&metadata);
    assert_eq!(
        tokens(&t, "a ab  b\n\n\né", SPECIAL),
        ["<bos>", "a", "▁a", "b", "▁▁", "b", "\n\n", "\n", "<0xC3>", "<0xA9>"]
    );
    assert_eq!(t.decode(&t.encode("a  b é", SPECIAL).unwrap()), "a  b é");
}

/// As jina-embeddings-v2-base-zh has it.
#[test]
fn whitespace_merges_characters_of_words() {
    let texts = ["a", "b", "ab", " ", "中", "文", "中文"].map(String::from);
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "whitespace");
    metadata.insert("tokenizer.ggml.pre", "whitespace");
    metadata.insert("tokenizer.ggml.tokens", texts.to_vec());
    metadata.insert("tokenizer.ggml.token_type", vec![1i32; 7]);
    let merges = ["a b", "中 文"].map(String::from).to_vec();
    metadata.insert("tokenizer.ggml.merges", merges);
    let t = load(&metadata);
    assert_eq!(
        tokens(&t, " ab a\n\nb中文 Ab", BARE),
        ["ab", "a", "b", "中文", "b"]
    );
    metadata.insert("tokenizer.ggml.normalizer.lowercase", true);
    assert_eq!(tokens(&load(&metadata), "Ab A", BARE), ["ab", "a"]);
}

/// SentencePiece's definition, as slow as can be.
fn naive(pieces: &[String], text: &str) -> Vec<String> {
    let score = |piece: &str| pieces.iter().position(|p| p == piece);
    let spaced = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<String> = spaced.chars().map(String::from).collect();
    loop {
        let pairs = (1..symbols.len())
            .filter_map(|i| Some((score(&(symbols[i - 1].clone() + &symbols[i]))?, i)));
        let Some((_, i)) = pairs.min() else { break };
        let right = symbols.remove(i);
        symbols[i - 1] += &right;
    }
    let bytes = |symbol: String| match score(&symbol) {
        Some(_) => vec![symbol],
        None => symbol.bytes().map(|b| format!("<0x{b:02X}>")).collect(),
    };
    symbols.into_iter().flat_map(bytes).collect()
}

proptest! {
    #[test]
    fn sentencepiece_equals_its_definition(
        pieces in prop::collection::hash_set("[ab▁é]{1,4}", 1..30),
        text in "[ab é▁]{0,24}",
    ) {
        let pieces: Vec<String> = pieces.into_iter().collect();
        let names: Vec<&str> = pieces.iter().map(|p| p.as_str()).collect();
        let tokenizer = load(&llama2(&names));
        let expected = if text.is_empty() { vec![] } else { naive(&pieces, &text) };
        prop_assert_eq!(tokens(&tokenizer, &text, BARE), expected);
    }

    /// Whatever is done to the metadata: an error or a tokenizer that works,
    /// never a panic.
    #[test]
    fn damaged_metadata_never_panics(
        spm in any::<bool>(),
        damage in prop::collection::vec((0usize..12, 0usize..400, any::<i32>(), "\\PC{0,6}"), 1..6),
        text in "\\PC{0,20}",
    ) {
        let mut metadata = if spm { llama2(&["▁", "a", "▁a"]) } else { gpt2(&["a b", "Ġ t"]) };
        for (what, at, number, string) in damage {
            let key = |name: &str| format!("tokenizer.ggml.{name}");
            let strings = |m: &Metadata, name: &str| m.strings(&key(name)).ok().flatten().map(|all| all.iter().map(str::to_owned).collect::<Vec<_>>());
            match what {
                0 | 1 => if let Some(mut tokens) = strings(&metadata, "tokens") {
                    if what == 0 { tokens.truncate(at); }
                    let len = tokens.len();
                    if len > 0 { tokens[at % len] = string; }
                    metadata.insert(key("tokens"), tokens);
                },
                2 => if let Some(types) = metadata.i32s(&key("token_type")).ok().flatten() {
                    let mut types = types.to_vec();
                    let len = types.len();
                    if len > 0 { types[at % len] = number.rem_euclid(7); }
                    metadata.insert(key("token_type"), types);
                },
                3 => if let Some(mut merges) = strings(&metadata, "merges") {
                    merges.push(string);
                    metadata.insert(key("merges"), merges);
                },
                4 => drop(metadata.insert(key("scores"), vec![f32::from_bits(number as u32); at])),
                5 => drop(metadata.insert(key("token_type"), vec![number.rem_euclid(8); at])),
                6 => drop(metadata.insert(key("bos_token_id"), number)),
                7 => drop(metadata.insert(key("eos_token_id"), at as u64)),
                8 => drop(metadata.insert(key("pre"), string)),
                9 => drop(metadata.insert(key("model"), if number > 0 { "llama" } else { "gpt2" })),
                10 => drop(metadata.insert("tokenizer.chat_template", string)),
                _ => drop(metadata.insert(key("add_bos_token"), number > 0)),
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_gguf(&metadata) {
            for options in [BARE, PARSED, SPECIAL] {
                if let Ok(ids) = tokenizer.encode(&text, options) {
                    tokenizer.decode(&ids);
                }
            }
            for id in 0..tokenizer.vocab_size() as u32 + 2 {
                prop_assert_eq!(tokenizer.token_bytes(id).is_some(), tokenizer.token_str(id).is_some());
            }
        }
    }
}

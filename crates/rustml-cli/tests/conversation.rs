//! `rustml chat` without a terminal: each line is a turn.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{real, tiny, trace, Done, Line, SMOLLM2};
use rustml_nlp::{KvType, LoadOptions, Message, Model, Options, Quantize, Sampling};

fn chat(args: &[&str]) -> Line {
    let all = [&["chat"], args, &["--temperature", "0"]].concat();
    Line::new(env!("CARGO_BIN_EXE_rustml"), &all)
}

fn tiny_chat(model: &str, args: &[&str]) -> Line {
    let model = tiny(model);
    chat(&[&[model.as_str(), "--quantize", "none"], args].concat())
}

/// What the library answers to these, one after the other.
fn answers(model: &str, system: Option<&str>, lines: &[&str]) -> Vec<String> {
    let load = LoadOptions {
        quantize: Some(Quantize::None),
        kv_type: Some(KvType::F16),
        ..LoadOptions::default()
    };
    let options = Options {
        sampling: Sampling::greedy(),
        max_tokens: 8,
        ..Options::default()
    };
    let model = Model::load(&tiny(model), &load).unwrap();
    let mut said: Vec<Message> = Vec::new();
    said.extend(system.map(|s| Message::new("system", s)));
    let mut texts = Vec::new();
    for line in lines {
        said.push(Message::new("user", *line));
        let text = model.chat(&said, &options).unwrap().text;
        said.push(Message::new("assistant", text.as_str()));
        texts.push(text);
    }
    texts
}

/// Answers as they are printed: each ends its line.
fn printed(answers: &[String]) -> String {
    let lines = answers.iter().map(|a| match a.ends_with('\n') {
        true => a.clone(),
        false => format!("{a}\n"),
    });
    lines.collect()
}

const EIGHT: [&str; 2] = ["--max-tokens", "8"];

#[test]
fn a_profile_shows_the_steps_of_all_turns() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("profile.json");
    let path = file.display().to_string();
    let turns = "Who are you?\nAnd who am I?\n";
    let plain = tiny_chat("llama", &EIGHT).stdin(turns).run().ok();
    let args = [&EIGHT[..], &["--profile", &path]].concat();
    assert_eq!(tiny_chat("llama", &args).stdin(turns).run().ok(), plain);
    let slices = trace(&file);
    let caller = slices.iter().filter(|e| e["tid"] == 0);
    let named = |start: &str| {
        let named = caller.clone().map(|e| e["name"].as_str().unwrap());
        named.filter(|n| n.starts_with(start)).collect::<Vec<_>>()
    };
    // Steps are numbered through; each gives a token, and two read prompts.
    let expected: Vec<String> = (1..=named("step ").len())
        .map(|n| format!("step {n}"))
        .collect();
    assert_eq!(named("step "), expected);
    assert_eq!(named("sampling").len(), expected.len());
    let prompts = caller
        .clone()
        .filter(|e| e["args"]["rows"].as_u64() > Some(1));
    assert_eq!(prompts.count(), 2);
    // What cannot be written is said before the model is looked for.
    let nowhere = dir.path().join("no/such").display().to_string();
    let err = chat(&["no-such-model.gguf", "--profile", &nowhere])
        .run()
        .failed(1);
    assert!(err.contains("there is no directory"), "{err}");
}

#[test]
fn each_line_is_a_turn_of_one_conversation() {
    let lines = ["Who are you?", "And who am I?"];
    for model in ["llama", "llama-tied/model.gguf", "gemma3"] {
        let done = tiny_chat(model, &EIGHT)
            .stdin(lines.join("\n") + "\n")
            .run();
        let speeds = done.err.lines().filter(|l| l.starts_with("[8 tokens, "));
        assert_eq!(speeds.count(), 2, "{}", done.err);
        assert_eq!(done.ok(), printed(&answers(model, None, &lines)), "{model}");
    }
}

#[test]
fn a_turn_computes_only_what_is_new() {
    let line = tiny_chat("llama", &EIGHT).stdin("Who are you?\nAnd?\n");
    let done = line.env("RUST_LOG", "rustml=debug").run();
    let turns = done.err.lines().filter(|l| l.contains("of the prompt"));
    // "... 31 of the prompt's 31 tokens were computed"
    let numbers = |line: &str| -> Vec<usize> {
        let words = line.split(|c: char| !c.is_ascii_digit());
        let all: Vec<usize> = words.filter_map(|w| w.parse().ok()).collect();
        all[all.len() - 2..].to_vec()
    };
    let turns: Vec<Vec<usize>> = turns.map(numbers).collect();
    assert_eq!(turns.len(), 2, "{}", done.err);
    assert_eq!(turns[0][0], turns[0][1]);
    assert!(turns[1][0] + turns[0][1] <= turns[1][1], "{turns:?}");
}

#[test]
fn lines_go_on_after_a_backslash() {
    let done = tiny_chat("llama", &EIGHT)
        .stdin("Who are\\\nyou?\r\n")
        .run();
    assert_eq!(
        done.ok(),
        printed(&answers("llama", None, &["Who are\nyou?"]))
    );
    // Also where nothing follows, and where the last line does not end.
    let done = tiny_chat("llama", &EIGHT).stdin("Who?\\").run();
    assert_eq!(done.ok(), printed(&answers("llama", None, &["Who?"])));
}

#[test]
fn commands_are_not_said() {
    let script =
        "\n/help\nWho?\n/clear\nWho?\n/system Be brief.\nWho?\n/system\n /exit\n/exit\nWho?\n";
    let done = tiny_chat("llama", &EIGHT).stdin(script).run();
    let (plain, brief) = (
        answers("llama", None, &["Who?"]),
        answers("llama", Some("Be brief."), &["Who?", "/exit"]),
    );
    assert!(done.err.contains("/system TEXT"), "{}", done.err);
    assert!(done.err.lines().any(|l| l == "Be brief."), "{}", done.err);
    let all = [plain.clone(), plain, brief].concat();
    assert_eq!(done.ok(), printed(&all));
}

#[test]
fn the_system_message_stays_after_clear() {
    let args = [&EIGHT[..], &["--system", "Be brief."]].concat();
    let done = tiny_chat("llama", &args).stdin("Who?\n/clear\nWho?").run();
    let answer = answers("llama", Some("Be brief."), &["Who?"]);
    assert_eq!(done.ok(), printed(&[answer.clone(), answer].concat()));
}

#[test]
fn a_conversation_that_no_longer_fits_can_begin_anew() {
    let args = ["--ctx-size", "60", "--max-tokens", "100"];
    let script = "Who are you?\nWhat?\n/clear\nWho are you?\n";
    let done = tiny_chat("llama", &args).stdin(script).run();
    // A script hears of it in the end.
    assert_eq!(done.status, Some(1), "{}", done.err);
    assert!(done.err.contains("the context is full"), "{}", done.err);
    let sentence = "the context holds 60; /clear begins a new one";
    assert!(done.err.contains(sentence), "{}", done.err);
    let half = done.out.len() / 2;
    assert!(half > 10);
    assert_eq!(done.out[..half], done.out[half..]);
}

#[test]
fn commands_that_are_none_are_complaints() {
    let done = tiny_chat("llama", &EIGHT).stdin("/foo\nWho?\n").run();
    assert_eq!(done.status, Some(1));
    assert!(done.err.contains("no command /foo"), "{}", done.err);
    assert_eq!(done.out, printed(&answers("llama", None, &["Who?"])));
}

#[test]
fn what_cannot_be_is_refused() {
    let err = tiny_chat("gpt2", &[]).stdin("Hi\n").run().failed(1);
    assert!(err.contains("no chat template"), "{err}");
    let err = tiny_chat("llama", &["--top-p", "2"]).run().failed(2);
    assert!(err.contains("top-p"), "{err}");
    let done = tiny_chat("llama", &EIGHT).stdin(b"Who?\n\xff\n").run();
    assert_eq!(done.status, Some(1));
    assert!(
        done.err.contains("line 2 of standard input"),
        "{}",
        done.err
    );
    // Nothing said, nothing answered.
    assert_eq!(tiny_chat("llama", &[]).run().ok(), "");
}

#[test]
fn the_context_is_bounded_by_default() {
    let Some(model) = real(SMOLLM2) else { return };
    let speak = |args: &[&str]| -> Done {
        let line = chat(&[&[model.as_str(), "--max-tokens", "12"], args].concat());
        line.stdin("What is the capital of Germany?\nAnd its largest river?\n")
            .run()
    };
    let done = speak(&[]);
    assert!(done.out.contains("Berlin"), "{}", done.out);
    assert!(done.out.lines().count() >= 2);
    let done = speak(&["--ctx-size", "45"]);
    assert!(done.err.contains("the context holds 45"), "{}", done.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_script_with_what_there_is() {
    use std::io::Write;
    let long = ["--ctx-size", "200000", "--max-tokens", "200000"];
    let mut running = tiny_chat("llama", &long).start();
    let stdin = running.0.stdin.as_mut().unwrap();
    stdin.write_all(b"Who are you?\nAnd?\n").unwrap();
    let first = running.first_output();
    assert!(!first.is_empty());
    running.signal("INT");
    let done = running.end();
    assert_eq!(done.status, Some(130), "{}", done.err);
    assert!(done.out.ends_with('\n'));
    // One answer, however few tokens it had by then; the second never began.
    assert_eq!(done.err.matches("; stopped]").count(), 1, "{}", done.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_between_turns_ends_at_once() {
    use std::io::Write;
    let mut running = tiny_chat("llama", &EIGHT).start();
    let stdin = running.0.stdin.as_mut().unwrap();
    stdin.write_all(b"Who are you?\n").unwrap();
    running.wait_for("tokens/s");
    running.signal("INT");
    assert_eq!(running.0.wait().unwrap().code(), Some(130));
}

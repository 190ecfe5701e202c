//! `rustml chat` and `rustml rm` on a terminal.
#![cfg(unix)]

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::tiny;
use rexpect::process::WaitStatus;
use rexpect::session::{spawn_command, PtySession};
use std::path::Path;
use std::process::Command;

fn start(home: &Path, args: &[&str]) -> PtySession {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rustml"));
    command.args(args);
    command.env("HOME", home).env("XDG_STATE_HOME", home);
    command.env("HF_HUB_CACHE", home).env("HF_HUB_OFFLINE", "1");
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    command.env_remove("RUST_LOG");
    spawn_command(command, Some(30_000)).unwrap()
}

fn chat(home: &Path, args: &[&str]) -> PtySession {
    let model = tiny("llama");
    let fixed = ["chat", &model, "--quantize", "none", "--temperature", "0"];
    let mut session = start(home, &[&fixed[..], args].concat());
    session.exp_string("/help lists commands").unwrap();
    session.exp_string("> ").unwrap();
    session
}

/// Keys alone, without the end of a line.
fn key(s: &mut PtySession, keys: &str) {
    s.send(keys).unwrap();
    s.flush().unwrap();
}

#[track_caller]
fn left(session: PtySession, status: i32) {
    let mut session = session;
    session.exp_eof().unwrap();
    match session.process().wait().unwrap() {
        WaitStatus::Exited(_, code) => assert_eq!(code, status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_conversation_and_its_history() {
    let home = tempfile::tempdir().unwrap();
    let mut s = chat(home.path(), &["--max-tokens", "8"]);
    s.send_line("Who are you?").unwrap();
    s.exp_string("[8 tokens, ").unwrap();
    s.exp_string("> ").unwrap();
    // The line before comes back, and so do commands.
    key(&mut s, "\x1b[A");
    s.exp_string("Who are you?").unwrap();
    s.send_line("").unwrap();
    s.exp_string("[8 tokens, ").unwrap();
    key(&mut s, "/cl\t");
    s.exp_string("ear").unwrap();
    s.send_line("").unwrap();
    s.exp_string("A new conversation.").unwrap();
    s.exp_string("> ").unwrap();
    s.send_control('d').unwrap();
    left(s, 0);
    let history = home.path().join("rustml/chat-history");
    let kept = std::fs::read_to_string(history).unwrap();
    assert!(kept.contains("Who are you?\n/clear\n"), "{kept}");

    // Another one knows it, and is left by Ctrl-C.
    let mut s = chat(home.path(), &[]);
    key(&mut s, "\x1b[A\x1b[A");
    s.exp_string("Who are you?").unwrap();
    s.send_control('c').unwrap();
    left(s, 0);
}

#[test]
fn ctrl_c_stops_the_answer_alone() {
    let home = tempfile::tempdir().unwrap();
    let long = ["--ctx-size", "200000", "--max-tokens", "200000"];
    let mut s = chat(home.path(), &long);
    s.send_line("Who are you?").unwrap();
    // Past the echo of the line, and into the answer.
    s.exp_string("\n").unwrap();
    s.exp_regex("[a-z]{2}").unwrap();
    s.send_control('c').unwrap();
    s.exp_string("; stopped]").unwrap();
    s.exp_string("> ").unwrap();
    s.send_line("/exit").unwrap();
    left(s, 0);
}

#[test]
fn nothing_is_removed_without_a_yes() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("models--org--name");
    std::fs::create_dir_all(model.join("snapshots/0123")).unwrap();
    for (answer, goes) in [("n", false), ("", false), ("y", true)] {
        let mut s = start(home.path(), &["rm", "org/name"]);
        s.exp_string("[y/N] ").unwrap();
        s.send_line(answer).unwrap();
        let said = if goes {
            "Removed"
        } else {
            "Nothing was removed"
        };
        s.exp_string(said).unwrap();
        left(s, 0);
        assert_eq!(model.exists(), !goes);
    }
}

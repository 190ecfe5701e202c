//! The flags of `rustml serve`, and how it ends. What it answers is tested
//! where it is made.

use assert_cmd::Command;
use std::net::TcpListener;

/// Serves a tiny model with these flags, until it fails.
fn serve(flags: &[&str]) -> assert_cmd::assert::Assert {
    let model = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/tiny/llama/model.gguf"
    );
    let mut command = Command::cargo_bin("rustml").unwrap();
    command
        .env_remove("RUSTML_API_KEY")
        .args(["serve", model])
        .args(flags)
        .assert()
}

fn complaint(assert: assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn others_are_let_in_only_on_purpose() {
    let said = complaint(serve(&["--host", "0.0.0.0", "--port", "0"]).code(2));
    assert!(
        said.contains("--api-key") && said.contains("--allow-anonymous"),
        "{said}"
    );
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for flags in [
        &["--slots", "0"][..],
        &["--kv-memory", "lots"],
        &["--kv-memory", "1"],
        &["--kv-type", "q3"],
        &["--api-key", ""],
        &["--cors-origin", "example.org"],
        &["--drain-timeout", "-1"],
        &["--port", "70000"],
    ] {
        serve(&[flags, &["--threads", "1"]].concat()).code(2);
    }
    let said = complaint(serve(&["--api-key", "@/nowhere/keys"]).code(1));
    assert!(said.contains("/nowhere/keys"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_said_before_the_model_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = complaint(serve(&["--port", &port]).code(1));
    assert!(said.contains(&port) && !said.contains("slots"), "{said}");
}

/// It starts, says where, and ends with status 0 when asked to.
#[cfg(unix)]
#[test]
fn it_ends_when_asked_to() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("profile.json");
    let mut server = Command::new(env!("CARGO_BIN_EXE_rustml"))
        .args([
            "serve",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tiny/llama"),
            "--port",
            "0",
            "--threads",
            "1",
            "--draft",
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../testdata/tiny/llama-sharded"
            ),
            "--profile",
        ])
        .arg(&profile)
        .env_remove("RUSTML_API_KEY")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    let at = loop {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended too early");
        if let Some((_, rest)) = line.split_once(" at http://") {
            break rest.split(": ").next().unwrap().to_owned();
        }
    };
    let body = r#"{"prompt": "Hello", "max_tokens": 3}"#;
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"finish_reason\""),
        "{answer}"
    );
    let asked = Command::new("kill")
        .arg(server.id().to_string())
        .status()
        .unwrap();
    assert!(asked.success());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0), "{rest}");
    assert!(
        rest.contains("llama-sharded guesses tokens ahead"),
        "{rest}"
    );
    assert!(rest.contains("guessed="), "{rest}");
    assert!(
        rest.contains("prompt_tokens="),
        "a line for the request: {rest}"
    );
    assert!(std::fs::read_to_string(profile)
        .unwrap()
        .contains("traceEvents"));
}

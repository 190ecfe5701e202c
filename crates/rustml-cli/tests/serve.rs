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

#[cfg(unix)]
fn testdata(model: &str) -> String {
    format!("{}/../../testdata/{model}", env!("CARGO_MANIFEST_DIR"))
}

/// A server that runs, and what it says.
#[cfg(unix)]
struct Running {
    process: std::process::Child,
    lines: std::io::BufReader<std::process::ChildStderr>,
    /// Where it listens, as it says.
    at: String,
}

#[cfg(unix)]
impl Running {
    fn start(flags: &[&str]) -> Running {
        Running::of("tiny/llama", flags)
    }

    /// Of a model of the test data.
    fn of(model: &str, flags: &[&str]) -> Running {
        use std::io::BufRead;
        let model = &testdata(model);
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_rustml"))
            .args(["serve", model, "--port", "0", "--threads", "1"])
            .args(flags)
            .env_remove("RUSTML_API_KEY")
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let at = loop {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended too early");
            if let Some((_, rest)) = line.split_once(" at http://") {
                break rest.split(": ").next().unwrap().to_owned();
            }
        };
        Running { process, lines, at }
    }

    /// Sends a request, whose answer is to be read.
    fn ask(&self, at: &str, host: &str, body: &str) -> std::net::TcpStream {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        write!(stream, "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    }

    /// Asks it to end, so many times.
    fn kill(&self, times: usize) {
        let id = self.process.id().to_string();
        let asked = std::process::Command::new("kill")
            .args(vec![id; times])
            .status();
        assert!(asked.unwrap().success());
    }

    /// Its exit status, and what else it said.
    fn end(mut self) -> (Option<i32>, String) {
        let rest = text(&mut self.lines);
        (self.process.wait().unwrap().code(), rest)
    }
}

#[cfg(unix)]
fn text(from: &mut impl std::io::Read) -> String {
    let mut all = String::new();
    from.read_to_string(&mut all).unwrap();
    all
}

/// It starts, says where, and ends with status 0 when asked to.
#[cfg(unix)]
#[test]
fn it_ends_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("profile.json");
    let draft = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/tiny/llama-sharded"
    );
    let server = Running::start(&["--draft", draft, "--profile", profile.to_str().unwrap()]);
    let body = r#"{"prompt": "Hello", "max_tokens": 3}"#;
    let answer = text(&mut server.ask(&server.at, "localhost", body));
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"finish_reason\""),
        "{answer}"
    );
    server.kill(1);
    let (code, rest) = server.end();
    assert_eq!(code, Some(0), "{rest}");
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

/// `timeout` signals a process and then its group.
#[cfg(unix)]
#[test]
fn signals_that_come_together_are_one() {
    use std::io::Read;
    let server = Running::start(&[]);
    let body =
        r#"{"prompt": "Hello", "max_tokens": 1500, "ignore_eos": true, "stream": true, "seed": 1}"#;
    let mut stream = server.ask(&server.at, "localhost", body);
    stream.read_exact(&mut [0; 400]).unwrap();
    server.kill(3);
    let answer = text(&mut stream);
    assert!(answer.contains("[DONE]") && !answer.contains("\"error\""));
    let (code, rest) = server.end();
    assert_eq!(code, Some(0), "{rest}");
}

#[cfg(unix)]
#[test]
fn localhost_is_at_both_its_addresses_and_has_no_other_name() {
    let server = Running::start(&["--host", "localhost", "--allow-host", "chat.lan"]);
    let port = server.at.rsplit(':').next().unwrap().to_owned();
    let body = r#"{"prompt": "Hello", "max_tokens": 1}"#;
    let mut places = vec!["127.0.0.1"];
    if TcpListener::bind("[::1]:0").is_ok() {
        places.push("[::1]");
    }
    for place in places {
        let at = format!("{place}:{port}");
        for (host, status) in [
            (&*at, 200),
            ("localhost", 200),
            ("chat.lan", 200),
            ("evil.example", 403),
        ] {
            let answer = text(&mut server.ask(&at, host, body));
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{at} as {host}: {answer}"
            );
        }
    }
    server.kill(1);
    assert_eq!(server.end().0, Some(0));
}

/// What is served is what the command prints, to the last digit; of a model that generates,
/// beside its answers.
#[test]
#[cfg(unix)]
fn vectors_are_those_of_the_command() {
    use std::io::Write;
    for (model, flags) in [
        ("families/bert", &[][..]),
        ("tiny/llama", &["--pooling", "mean"]),
    ] {
        let mut command = Command::cargo_bin("rustml").unwrap();
        let exact = ["--quantize", "none"];
        let printed = command
            .args([
                "embed",
                &testdata(model),
                "--text",
                "Hello",
                "--threads",
                "1",
            ])
            .args(flags)
            .assert()
            .success();
        let printed = String::from_utf8(printed.get_output().stdout.clone()).unwrap();
        let vector = printed.split_once("\"embedding\":").unwrap().1;
        let vector = &vector[..=vector.find(']').unwrap()];
        let running = Running::of(model, &[flags, &exact].concat());
        let ask = |path: &str, body: &str| {
            let mut stream = std::net::TcpStream::connect(&running.at).unwrap();
            write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            text(&mut stream)
        };
        let answer = ask("/v1/embeddings", r#"{"input": "Hello"}"#);
        assert!(answer.contains(vector), "{vector} is not in {answer}");
        let answer = ask("/v1/completions", r#"{"prompt": "Hello", "max_tokens": 1}"#);
        let says = if flags.is_empty() {
            "HTTP/1.1 400"
        } else {
            "HTTP/1.1 200"
        };
        assert!(answer.starts_with(says), "{answer}");
        running.kill(1);
        assert_eq!(running.end().0, Some(0));
    }
}

/// What is served is what the command prints, to the last digit.
#[test]
#[cfg(unix)]
fn scores_are_those_of_the_command() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    std::fs::write(&file, "a river\nthe sea\n").unwrap();
    let model = "classifiers/bert";
    let mut command = Command::cargo_bin("rustml").unwrap();
    command.args(["rerank", &testdata(model), "--query", "which river"]);
    command.args(["--format", "json", "--threads", "1", "--file"]);
    let printed = command.arg(&file).assert().success();
    let printed = String::from_utf8(printed.get_output().stdout.clone()).unwrap();
    let running = Running::of(model, &["--quantize", "none"]);
    let ask = |path: &str, body: &str| {
        let mut stream = std::net::TcpStream::connect(&running.at).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        text(&mut stream)
    };
    let body = r#"{"query": "which river", "documents": ["a river", "the sea"]}"#;
    let answer = ask("/v1/rerank", body);
    assert_eq!(printed.lines().count(), 2);
    for line in printed.lines() {
        let (index, rest) = line.split_once(",\"score\":").unwrap();
        let score = rest.split_once(',').unwrap().0;
        let served = format!("{index},\"relevance_score\":{score}}}");
        assert!(answer.contains(&served), "{served} is not in {answer}");
    }
    let answer = ask("/v1/completions", r#"{"prompt": "Hello", "max_tokens": 1}"#);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    running.kill(1);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn flags_for_generating_are_refused_where_nothing_is_generated() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/families/bert");
    for flags in [&["--speculate"][..], &["--max-tokens", "4"]] {
        let mut command = Command::cargo_bin("rustml").unwrap();
        let said = command.args(["serve", model, "--port", "0", "--threads", "1"]);
        let said = complaint(said.args(flags).assert().code(2));
        assert!(said.contains(flags[0]), "{said}");
    }
}

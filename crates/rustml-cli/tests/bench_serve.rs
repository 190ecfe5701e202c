//! `rustml bench-serve` against a server that does what it is told: answers,
//! stalls, refuses, breaks off, mixes answers up.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{Done, Line};
use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the server does with a chat.
#[derive(Clone, Copy)]
enum Act {
    /// Answers in pieces, which take so many milliseconds each.
    Answer(u64),
    /// Answers as its prompt does not ask for.
    Strange,
    /// Answers without counting.
    Uncounted,
    Refuse,
    /// Sends a piece, and then nothing for so many milliseconds.
    Stall(u64),
    /// Closes the connection after a piece.
    Cut,
    /// Ends the stream as HTTP wants it, but before the answer is complete.
    End,
    /// Sends an error in the middle.
    Fail,
    /// Sends what is no JSON.
    Babble,
}

#[derive(Default)]
struct Seen {
    chats: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    requests: Mutex<Vec<Value>>,
}

struct Server {
    url: String,
    seen: Arc<Seen>,
}

/// A server on a free port; `act` says what to do with each chat, whose
/// numbers begin at 0. The first is the one that comes before the levels.
fn server(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Seen::default());
    let (shared, act) = (seen.clone(), Arc::new(act));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (seen, act) = (shared.clone(), act.clone());
            // Whatever goes wrong with a connection is the client's to tell.
            thread::spawn(move || drop(connection(stream.unwrap(), &seen, &*act)));
        }
    });
    Server { url, seen }
}

/// Answers requests until the client is gone or is to be left.
fn connection(mut out: TcpStream, seen: &Seen, act: &dyn Fn(usize) -> Act) -> std::io::Result<()> {
    out.set_nodelay(true)?;
    let mut input = BufReader::new(out.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if input.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        input.read_exact(&mut body)?;
        if head.starts_with("get /v1/models ") {
            plain(&mut out, "200 OK", r#"{"data": [{"id": "fake"}]}"#)?;
            continue;
        }
        let request: Value = serde_json::from_slice(&body)?;
        let path = match request.get("prompt") {
            Some(_) => "post /v1/completions ",
            None => "post /v1/chat/completions ",
        };
        assert!(head.starts_with(path), "{head}");
        let answer = answer_to(&request);
        seen.requests.lock().unwrap().push(request);
        let n = seen.chats.fetch_add(1, Ordering::SeqCst);
        let now = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_at_once.fetch_max(now, Ordering::SeqCst);
        let done = perform(&mut out, act(n), &answer, path.contains("chat"));
        seen.at_once.fetch_sub(1, Ordering::SeqCst);
        if !done? {
            return Ok(());
        }
    }
}

/// Three words that depend on all of the prompt.
fn answer_to(request: &Value) -> [String; 3] {
    let chat = request["messages"][0]["content"].as_str();
    let prompt = chat.or(request["prompt"].as_str()).unwrap();
    let sum = prompt
        .bytes()
        .fold(7u32, |h, b| h.wrapping_mul(31) ^ u32::from(b));
    [0, 8, 16].map(|shift| format!("{} ", (sum >> shift) & 255))
}

fn plain(out: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Whether the connection may be used again.
fn perform(
    out: &mut TcpStream,
    act: Act,
    answer: &[String; 3],
    chat: bool,
) -> std::io::Result<bool> {
    if let Act::Refuse = act {
        let says = r#"{"error": {"message": "all places are taken"}}"#;
        plain(out, "429 Too Many Requests", says)?;
        return Ok(true);
    }
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let mut event = |data: &str| {
        let text = format!("data: {data}\r\n\r\n");
        write!(out, "{:x}\r\n{text}\r\n", text.len())
    };
    let piece = |text: &str| match chat {
        true => json!({"choices": [{"index": 0, "delta": {"content": text}}], "usage": null}),
        false => json!({"choices": [{"index": 0, "text": text}], "usage": null}),
    };
    event(
        &json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            .to_string(),
    )?;
    let (pause, words) = match act {
        Act::Answer(ms) => (ms, answer.clone()),
        Act::Strange => (0, ["something".into(), " ".into(), "else".into()]),
        _ => (0, answer.clone()),
    };
    event(&piece(&words[0]).to_string())?;
    match act {
        Act::Stall(ms) => thread::sleep(Duration::from_millis(ms)),
        Act::Cut => return Ok(false),
        Act::End => {
            write!(out, "0\r\n\r\n")?;
            return Ok(true);
        }
        Act::Fail => event(r#"{"error": {"message": "out of order"}}"#)?,
        Act::Babble => event("{]")?,
        _ => {}
    }
    for word in &words[1..] {
        thread::sleep(Duration::from_millis(pause));
        event(&piece(word).to_string())?;
    }
    if !matches!(act, Act::Uncounted) {
        // A token more than there are pieces, so that it shows what is counted.
        let details = json!({"cached_tokens": 2});
        let usage =
            json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": details});
        event(&json!({"choices": [], "usage": usage}).to_string())?;
    }
    event("[DONE]")?;
    write!(out, "0\r\n\r\n")?;
    Ok(true)
}

fn bench(url: &str, args: &str) -> Done {
    let args: Vec<_> = args.split_whitespace().collect();
    let line = ["bench-serve", url, "--prompt-tokens", "3,30"];
    Line::new(env!("CARGO_BIN_EXE_rustml"), &[&line, &args[..]].concat()).run()
}

fn rows(done: &Done) -> Vec<Value> {
    serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"))
}

/// The only row of a run that failed, with what standard error says.
fn failed(server: &Server, args: &str) -> (Value, String) {
    let done = bench(&server.url, &format!("{args} --output json")).no_panic();
    assert_eq!(done.status, Some(1), "{done:?}");
    (rows(&done).remove(0), done.err)
}

#[test]
fn plain_texts_can_be_asked_for() {
    let server = server(|_| Act::Answer(0));
    let done = bench(&server.url, "--plain --check --clients 2 --output json");
    let rows = rows(&done);
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(rows[0]["completion_tokens"], json!(64), "{done:?}");
}

#[test]
fn clients_ask_one_after_the_other_and_levels_are_told_apart() {
    let server = server(|_| Act::Answer(5));
    let done = bench(
        &server.url,
        "--clients 1,3 --requests 6 --max-tokens 9 --output json",
    );
    let rows = rows(&done);
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(rows.len(), 2);
    for (row, clients) in rows.iter().zip([1, 3]) {
        assert_eq!(
            (&row["clients"], &row["ok"], &row["failed"]),
            (&json!(clients), &json!(6), &json!(0))
        );
        let tokens = ["prompt_tokens", "cached_tokens", "completion_tokens"]
            .map(|key| row[key].as_u64().unwrap());
        assert_eq!(tokens, [60, 12, 24], "{row}");
        assert_eq!(row["counted_by"], "usage");
        let time = |what: &str, p: &str| row[what][p].as_f64().unwrap();
        for what in ["first_token_ms", "per_token_ms", "whole_ms"] {
            let all = ["p50", "p90", "p99", "max"].map(|p| time(what, p));
            assert!(all.is_sorted() && all[0] > 0.0, "{what}: {all:?}");
        }
        // Two pauses of 5 ms after the first of four tokens.
        assert!(time("per_token_ms", "p50") >= 10.0 / 3.0, "{row}");
        assert!(
            time("whole_ms", "p50") >= time("first_token_ms", "p50") + 10.0,
            "{row}"
        );
        let seconds = row["seconds"].as_f64().unwrap();
        let rate = row["completion_tokens_per_second"].as_f64().unwrap();
        assert!((rate * seconds - 24.0).abs() < 1e-6, "{row}");
    }
    assert_eq!(server.seen.most_at_once.load(Ordering::SeqCst), 3);

    let requests = server.seen.requests.lock().unwrap();
    assert_eq!(requests.len(), 1 + 6 + 6);
    let mut prompts: Vec<_> = requests.iter().map(|r| r["messages"].to_string()).collect();
    for r in requests.iter() {
        let fields = ["model", "temperature", "max_tokens", "stream"].map(|key| &r[key]);
        assert_eq!(fields, [&json!("fake"), &json!(0), &json!(9), &json!(true)]);
        assert_eq!(r["stream_options"]["include_usage"], true);
    }
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), 13, "no prompt occurs twice");
}

#[test]
fn what_is_refused_or_cut_off_is_counted_by_reason() {
    // The first is the request before the level.
    let acts = [
        Act::Answer(0),
        Act::Refuse,
        Act::Cut,
        Act::Answer(0),
        Act::End,
        Act::Fail,
        Act::Babble,
        Act::Refuse,
    ];
    let server = server(move |n| *acts.get(n).unwrap_or(&Act::Answer(0)));
    let (row, err) = failed(&server, "--clients 1 --requests 9");
    assert_eq!(
        (&row["requests"], &row["ok"], &row["failed"]),
        (&json!(9), &json!(3), &json!(6))
    );
    let problems = json!({
        "a piece that is no JSON object": 1, "cut off": 2, "error in the stream": 1, "status 429": 2,
    });
    assert_eq!(row["problems"], problems);
    assert!(err.contains("6 of 9 requests failed: "), "{err}");
    assert!(err.contains("status 429 (2)"), "{err}");
    // What failed is in no sum.
    assert_eq!(row["completion_tokens"], 12);
}

#[test]
fn a_server_that_stalls_is_left_after_the_timeout() {
    let server = server(|n| {
        if n == 2 {
            Act::Stall(60_000)
        } else {
            Act::Answer(0)
        }
    });
    let (row, err) = failed(&server, "--clients 1 --requests 3 --timeout 0.5");
    assert_eq!(
        (&row["ok"], &row["problems"]),
        (&json!(2), &json!({"timed out": 1}))
    );
    assert!(
        err.contains("1 of 3 requests failed: timed out (1)"),
        "{err}"
    );
}

/// All but one of the requests are answered at once; but there is only one
/// connection, on which a request takes a second. Had times counted from when
/// requests were really sent, the stall would show in one of them only.
#[test]
fn a_stall_shows_in_all_requests_that_were_due_meanwhile() {
    let server = server(|n| {
        if n == 1 {
            Act::Stall(1000)
        } else {
            Act::Answer(0)
        }
    });
    let args = "--rate 50 --requests 20 --connections 1 --output json";
    let done = bench(&server.url, args);
    let row = rows(&done).remove(0);
    assert_eq!(
        (&row["rate"], &row["clients"], &row["ok"]),
        (&json!(50.0), &json!(null), &json!(20))
    );
    let p50 = row["first_token_ms"]["p50"].as_f64().unwrap();
    // Twenty requests are due within 400 ms on average, so that half of them
    // had to wait for hundreds.
    assert!(p50 > 200.0, "{row}");
}

#[test]
fn answers_that_depend_on_company_are_found() {
    // The request before, four in company, four alone.
    let args = "--clients 1 --requests 4 --check --output json";
    let honest = server(|_| Act::Answer(0));
    let row = rows(&bench(&honest.url, args)).remove(0);
    assert_eq!(row["mismatches"], json!([]));
    assert_eq!(honest.seen.chats.load(Ordering::SeqCst), 9);

    let mixed = server(|n| if n == 3 { Act::Strange } else { Act::Answer(0) });
    let (row, err) = failed(&mixed, "--clients 1 --requests 4 --check");
    assert_eq!(row["mismatches"], json!([2]));
    assert!(
        err.contains("1 client, request 2: after 0 characters it goes on with \"something else\""),
        "{err}"
    );
    assert!(err.contains("1 of 4 answers are not those"), "{err}");
}

#[test]
fn without_usage_pieces_are_counted_and_it_says_so() {
    let server = server(|_| Act::Uncounted);
    let row = rows(&bench(
        &server.url,
        "--clients 2 --requests 4 --output json",
    ))
    .remove(0);
    assert_eq!(
        (&row["counted_by"], &row["completion_tokens"]),
        (&json!("pieces"), &json!(12))
    );
    let table = bench(&server.url, "--clients 2 --requests 4").ok();
    assert!(
        table.contains("2 clients") && table.contains("counts no tokens"),
        "{table}"
    );
}

#[test]
fn results_come_in_every_form() {
    let server = server(|n| {
        if n % 5 == 0 && n > 0 {
            Act::Refuse
        } else {
            Act::Answer(0)
        }
    });
    let csv = bench(&server.url, "--clients 1,2 --requests 4 --output csv").out;
    let lines: Vec<Vec<_>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(
        lines.iter().all(|line| line.len() == lines[0].len()),
        "{csv}"
    );
    let column = |name: &str| {
        let i = lines[0].iter().position(|n| *n == name);
        i.unwrap_or_else(|| panic!("{name} in {csv}"))
    };
    assert_eq!(lines[2][column("clients")], "2");
    assert!(
        lines[1][column("first_token_ms_p99")]
            .parse::<f64>()
            .unwrap()
            > 0.0
    );
    let md = bench(&server.url, "--clients 1 --requests 4 --output md").out;
    assert!(md.starts_with("| load | ok | failed |"), "{md}");
}

#[test]
fn a_duration_ends_a_level() {
    let server = server(|_| Act::Answer(5));
    let row = rows(&bench(
        &server.url,
        "--clients 2 --duration 0.3 --output json",
    ))
    .remove(0);
    let (ok, seconds) = (
        row["ok"].as_u64().unwrap(),
        row["seconds"].as_f64().unwrap(),
    );
    assert!(ok >= 2 && seconds >= 0.3, "{row}");
}

#[test]
fn what_cannot_begin_is_told_in_a_sentence() {
    let refusing = server(|_| Act::Refuse);
    let err = bench(&refusing.url, "").failed(1);
    assert!(
        err.contains("a first request failed: status 429: all places are taken"),
        "{err}"
    );
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let err = bench(&format!("http://{nobody}"), "").failed(1);
    assert!(err.contains("no connection"), "{err}");
    for (url, args) in [
        ("127.0.0.1:1", ""),
        ("http://127.0.0.1:1", "--clients 0"),
        ("http://127.0.0.1:1", "--rate 0"),
        ("http://127.0.0.1:1", "--rate 1 --clients 1"),
        ("http://127.0.0.1:1", "--connections 4"),
        ("http://127.0.0.1:1", "--body []"),
    ] {
        bench(url, args).failed(2);
    }
}

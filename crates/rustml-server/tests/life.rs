//! Who is let in, what is granted at most, and how things end.

mod common;

use common::{request, until, Answer, Knobs, Server, CHAT, TEXT};
use rustml_server::Config;
use serde_json::{json, Value};
use socket2::SockRef;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// A request that takes a while: its end tokens are forbidden.
fn long(stream: bool) -> Value {
    json!({"prompt": "Hello there", "max_tokens": 480, "stream": stream, "seed": 1, "logit_bias": {"348": -100, "351": -100}})
}

fn running(s: &Server) -> f64 {
    s.metric("rustml_num_requests_running")
}

#[test]
fn keys_open_the_api_and_nothing_else_does() {
    let s = Server::start(Config {
        api_keys: vec!["one".into(), "two".into()],
        ..Config::default()
    });
    let ask = |path: &str, header: &str| {
        s.raw(
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n")
                .as_bytes(),
        )
    };
    for path in ["/v1/models", "/metrics", "/v1/models/tiny"] {
        for header in [
            "",
            "Authorization: Bearer on\r\n",
            "Authorization: Bearer one1\r\n",
            "Authorization: Basic one\r\n",
            "Authorization: one\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: \u{fc}bearer one\r\n",
        ] {
            let answer = ask(path, header);
            assert_eq!(
                answer.error(),
                (401, String::new(), "invalid_api_key".into()),
                "{path} {header}"
            );
            assert!(answer.head.contains("www-authenticate: bearer"));
        }
        for header in [
            "Authorization: Bearer one\r\n",
            "authorization: bearer two\r\n",
        ] {
            assert_eq!(ask(path, header).status, 200);
        }
    }
    // A body is not even read.
    assert_eq!(
        s.raw(&request(CHAT, "Content-Type: application/json\r\n", b"{"))
            .status,
        401
    );
    for path in ["/health", "/ready", "/", "/openapi.json"] {
        assert_eq!(ask(path, "").status, 200, "{path}");
    }
}

#[test]
fn pages_of_other_origins_are_let_in_by_name() {
    let s = Server::start(Config {
        cors_origins: vec!["https://chat.example.org".into()],
        ..Config::default()
    });
    let ask = |origin: &str| {
        let head = format!("OPTIONS {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: {origin}\r\n\
            Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n\r\n");
        s.raw(head.as_bytes()).head
    };
    let allowed = ask("https://chat.example.org");
    assert!(
        allowed.contains("access-control-allow-origin: https://chat.example.org"),
        "{allowed}"
    );
    assert!(allowed.contains("x-stainless-os"));
    assert!(!ask("https://evil.example.org").contains("access-control-allow-origin"));
}

#[test]
fn limits_are_kept_and_named() {
    let s = Server::start(Config {
        max_body: 1000,
        max_choices: 2,
        max_tokens: Some(5),
        ..Config::default()
    });
    let text = |more: Value| {
        let mut body = json!({"prompt": "Hello", "temperature": 0});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        s.post(TEXT, &body)
    };
    assert_eq!(
        text(json!({"max_tokens": 6})).error(),
        (400, "max_tokens".into(), String::new())
    );
    assert_eq!(
        text(json!({"n": 3})).error(),
        (400, "n".into(), String::new())
    );
    assert_eq!(text(json!({"user": "x".repeat(1000)})).error().0, 413);
    assert!(text(json!({})).ok()["usage"]["completion_tokens"].as_u64() <= Some(5));
    // Without saying how long it is.
    let chunks = format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        format!("400\r\n{}\r\n", " ".repeat(1024)).repeat(2));
    assert_eq!(s.raw(chunks.as_bytes()).error().0, 413);
}

#[test]
fn those_who_find_the_queue_full_are_told_to_come_again() {
    let s = Server::slow(Config {
        slots: 1,
        queue: 1,
        ..Config::default()
    });
    let _first = s.begin(TEXT, &long(true));
    until("it runs", || running(&s) == 1.0);
    let mut second = s.begin(TEXT, &json!({"prompt": "Hello", "max_tokens": 2}));
    until("it waits", || {
        s.metric("rustml_num_requests_waiting") == 1.0
    });
    let third = s.post(TEXT, &long(false));
    assert_eq!(third.error(), (429, String::new(), "queue_full".into()));
    assert!(third.head.contains("retry-after: 1"), "{}", third.head);
    assert_eq!(
        s.post(TEXT, &json!({"prompt": "x", "n": 2})).status,
        429,
        "all or none"
    );
    assert_eq!(
        Answer::read(&mut second).status,
        200,
        "who waits gets an answer"
    );
}

#[test]
fn who_leaves_is_not_computed_for() {
    let s = Server::slow(Config::default());
    for stream in [true, false] {
        let began = s.begin(TEXT, &long(stream));
        until("it runs", || running(&s) == 1.0);
        drop(began);
        until("it is cancelled", || running(&s) == 0.0);
        // It was 0.0039.. until the next step, if there ever was one.
        assert_eq!(s.metric("rustml_kv_cache_usage_perc"), 0.0);
    }
    assert!(s
        .get("/metrics")
        .body
        .contains("finished_reason=\"cancelled\"} 2"));
}

#[test]
fn who_does_not_read_is_cancelled() {
    let s = Server::start(Config {
        backlog: 64,
        write_timeout: Duration::from_millis(100),
        ..Config::default()
    });
    // Large pieces, which soon fill the sockets' buffers; the system would make
    // the client's as large as all of them.
    let body = json!({"prompt": "Hello", "max_tokens": 400, "stream": true, "n": 16, "logprobs": 20, "seed": 1, "logit_bias": {"348": -100, "351": -100}});
    let mut slow = s.connect();
    SockRef::from(&slow).set_recv_buffer_size(4096).unwrap();
    Server::send(&mut slow, TEXT, &body);
    until("it is cancelled", || {
        s.get("/metrics")
            .body
            .contains("finished_reason=\"cancelled\"}")
            && running(&s) == 0.0
    });
    drop(slow);
    assert_eq!(
        s.post(TEXT, &json!({"prompt": "Hello", "max_tokens": 2}))
            .status,
        200
    );
}

#[test]
fn the_end_waits_for_those_who_run() {
    let s = Server::slow(Config::default());
    let mut stream = s.begin(TEXT, &long(true));
    until("it runs", || running(&s) == 1.0);
    s.stop();
    until("it says so", || s.get("/ready").status == 503);
    assert_eq!(s.post(TEXT, &long(false)).error().0, 503);
    assert_eq!(s.get("/health").status, 200);
    let answer = Answer::read(&mut stream);
    assert_eq!(
        answer.events().last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    s.wait();
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let s = Server::slow(Config {
        drain_timeout: Duration::from_millis(1),
        ..Config::default()
    });
    let mut stream = s.begin(TEXT, &json!({"prompt": "Hello", "max_tokens": 480, "stream": true, "n": 16, "seed": 1, "logit_bias": {"348": -100, "351": -100}}));
    until("they run", || running(&s) == 16.0);
    s.stop();
    let events = Answer::read(&mut stream).events();
    assert_eq!(events.last().unwrap()["error"]["code"], "unavailable");
    s.wait();
}

#[test]
fn a_panic_ends_a_request_and_not_the_server() {
    let knobs = Arc::<Knobs>::default();
    let s = Server::with(Config::default(), knobs.clone());
    let before = s
        .post(TEXT, &json!({"prompt": "Hello", "temperature": 0}))
        .ok()["choices"]
        .clone();
    knobs.panic.store(true, Ordering::SeqCst);
    assert_eq!(
        s.post(TEXT, &long(false)).error(),
        (500, String::new(), "internal_error".into())
    );
    knobs.panic.store(true, Ordering::SeqCst);
    let events = s.post(TEXT, &long(true)).events();
    assert_eq!(events.last().unwrap()["error"]["type"], "server_error");
    assert_eq!(
        s.post(TEXT, &json!({"prompt": "Hello", "temperature": 0}))
            .ok()["choices"],
        before
    );
    assert_eq!(s.get("/ready").status, 200);
}

#[test]
fn an_engine_without_progress_is_not_ready() {
    let knobs = Arc::<Knobs>::default();
    let config = Config {
        stuck_after: Duration::from_millis(50),
        ..Config::default()
    };
    let s = Server::with(config, knobs.clone());
    knobs.slow.store(500, Ordering::SeqCst);
    let stream = s.begin(TEXT, &long(true));
    until("it says so", || s.get("/ready").status == 503);
    assert_eq!(s.get("/health").status, 200);
    drop(stream);
    knobs.slow.store(0, Ordering::SeqCst);
    until("it goes on", || s.get("/ready").status == 200);
}

#[test]
fn the_slow_are_not_waited_for() {
    let s = Server::start(Config {
        read_timeout: Duration::from_millis(200),
        ..Config::default()
    });
    let mut head = s.connect();
    head.write_all(b"POST /v1/chat").unwrap();
    let mut body = s.connect();
    body.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{").unwrap();
    assert_eq!(
        Answer::read(&mut body).error(),
        (408, String::new(), "timeout".into())
    );
    let mut rest = Vec::new();
    let _ = head.read_to_end(&mut rest);
}

#[test]
fn waiting_streams_are_kept_alive() {
    let s = Server::slow(Config {
        slots: 1,
        keep_alive: Duration::from_millis(1),
        ..Config::default()
    });
    let _first = s.begin(TEXT, &long(true));
    until("it runs", || running(&s) == 1.0);
    let answer = s.post(
        TEXT,
        &json!({"prompt": "Hello", "max_tokens": 1, "stream": true}),
    );
    assert!(answer.body.contains(": keep-alive\n\n"));
    assert!(!answer.events().is_empty());
}

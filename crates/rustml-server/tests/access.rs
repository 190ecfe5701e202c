//! Who reaches the server: addresses, names, keys, and those who come when it is
//! full.

mod common;

use common::{request, until, Answer, Server, CHAT, TEXT};
use rustml_server::Config;
use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const JSON: &str = "Content-Type: application/json\r\n";

fn get(s: &Server, path: &str, headers: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    s.raw(head.as_bytes())
}

#[test]
fn addresses_are_taken_as_they_are_meant() {
    let s = Server::start(Config::default());
    for path in [
        "/v1/models",
        "//v1/models",
        "/v1/models/",
        "/models",
        "//v1//models//",
    ] {
        let answer = s.get(path);
        assert_eq!(answer.ok()["data"][0]["id"], "tiny", "{path}");
    }
    assert_eq!(s.get("/models/org/other-name").ok()["id"], "org/other-name");
    let body = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1});
    for path in [CHAT, "/chat/completions", "//v1/chat/completions/"] {
        assert_eq!(s.post(path, &body).status, 200, "{path}");
    }
    for path in ["/v2/models", "/completion", "/v1/v1/models"] {
        assert_eq!(s.get(path).error().0, 404, "{path}");
    }
}

#[test]
fn keys_are_read_from_either_header() {
    let s = Server::start(Config {
        api_keys: vec!["one".into()],
        ..Config::default()
    });
    let ask = |headers: &str| get(&s, "/v1/models", &format!("Host: x\r\n{headers}")).status;
    assert_eq!(ask("X-Api-Key: one\r\n"), 200);
    assert_eq!(ask("X-Api-Key: one\r\nAuthorization: Bearer none\r\n"), 200);
    assert_eq!(ask("X-Api-Key: two\r\n"), 401);
    assert_eq!(ask("X-Api-Key: \r\n"), 401);
    assert_eq!(get(&s, "//v1/models/", "Host: x\r\n").status, 401);
}

/// A web page can have its own name lead to this machine.
#[test]
fn only_names_that_are_the_servers_are_answered() {
    let s = Server::start(Config {
        hosts: Some(vec!["chat.lan".into()]),
        ..Config::default()
    });
    let ask = |path: &str, host: &str| get(&s, path, &format!("Host: {host}\r\n"));
    for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "chat.lan:8080"] {
        assert_eq!(ask("/v1/models", host).status, 200, "{host}");
    }
    for path in ["/v1/models", "/", "/metrics", "/nothing"] {
        let answer = ask(path, "evil.example");
        assert_eq!(
            answer.error(),
            (403, String::new(), "host_not_allowed".into()),
            "{path}"
        );
        assert!(answer.body.contains("--allow-host"), "{}", answer.body);
    }
    let absolute = "GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(s.raw(absolute.as_bytes()).status, 403);
    // What does not come from a browser may have no name for it.
    assert_eq!(s.raw(b"GET /health HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn pages_that_are_let_in_may_send_any_header() {
    let s = Server::start(Config {
        cors_origins: vec!["https://chat.example.org".into()],
        ..Config::default()
    });
    let ask = |origin: &str| {
        let headers = format!(
            "Host: x\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: x-of-tomorrow,content-type\r\n"
        );
        let head = format!("OPTIONS {CHAT} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        s.raw(head.as_bytes())
    };
    let allowed = ask("https://chat.example.org");
    assert_eq!(allowed.status, 200);
    assert!(allowed.head.contains("x-of-tomorrow"), "{}", allowed.head);
    let denied = ask("https://evil.example.org");
    assert!(!denied.head.contains("access-control-allow-origin"));
}

fn cached(s: &Server, key: &str) -> u64 {
    let body = json!({"prompt": "Once upon a time ".repeat(40), "max_tokens": 1, "temperature": 0});
    let headers = format!("{JSON}Authorization: Bearer {key}\r\n");
    let answer = s.raw(&request(TEXT, &headers, body.to_string().as_bytes()));
    answer.ok()["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap()
}

/// From what was cached, and from times, one key could learn what others asked.
#[test]
fn a_key_finds_in_the_cache_what_it_asked_itself() {
    let keys = || vec!["one".into(), "two".into()];
    let s = Server::start(Config {
        api_keys: keys(),
        ..Config::default()
    });
    assert_eq!(cached(&s, "one"), 0);
    assert!(cached(&s, "one") > 0);
    assert_eq!(cached(&s, "two"), 0);
    assert!(cached(&s, "two") > 0);
    assert!(cached(&s, "one") > 0);
    let s = Server::start(Config {
        api_keys: keys(),
        share_prefixes: true,
        ..Config::default()
    });
    assert_eq!(cached(&s, "one"), 0);
    assert!(cached(&s, "two") > 0);
}

/// Asks on a connection that stays open, and reads the answer.
fn ask_and_stay(stream: &mut TcpStream) -> bool {
    let asked = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut from = BufReader::new(stream);
    let (mut line, mut head) = (String::new(), String::new());
    while from.read_line(&mut line).is_ok_and(|n| n > 2) {
        head += &line;
        line.clear();
    }
    let mut body = [0; 15];
    asked.is_ok() && head.contains("200 OK") && from.read_exact(&mut body).is_ok()
}

/// Connections that ask now and then once kept everybody else out.
#[test]
fn idle_connections_give_way() {
    let s = Server::start(Config {
        connections: 4,
        ..Config::default()
    });
    let mut crowd: Vec<TcpStream> = (0..4).map(|_| s.connect()).collect();
    assert!(crowd.iter_mut().all(ask_and_stay));
    for _ in 0..3 {
        assert_eq!(s.get("/health").status, 200);
    }
    // Those that gave way are closed, and the others still served.
    let left = crowd
        .iter_mut()
        .filter_map(|c| ask_and_stay(c).then_some(()));
    assert!((1..4).contains(&left.count()));
}

#[test]
fn requests_that_run_do_not_give_way() {
    let s = Server::slow(Config {
        connections: 3,
        ..Config::default()
    });
    let long = json!({"prompt": "Hello there", "max_tokens": 200, "stream": true, "seed": 1, "logit_bias": {"348": -100, "351": -100}});
    let mut streams: Vec<_> = (0..2).map(|_| s.begin(TEXT, &long)).collect();
    until("they run", || {
        s.metric("rustml_num_requests_running") == 2.0
    });
    for _ in 0..5 {
        let _idle = s.connect();
        assert_eq!(s.get("/health").status, 200);
    }
    for stream in &mut streams {
        let events = Answer::read(stream).events();
        let last = &events.last().unwrap()["choices"][0];
        assert_eq!(last["finish_reason"], json!("length"));
    }
}

#[test]
fn answers_are_named_by_who_asks() {
    let s = Server::start(Config::default());
    let named = get(&s, "/health", "Host: x\r\nX-Request-Id: abc-1\r\n");
    assert!(named.head.contains("x-request-id: abc-1"), "{}", named.head);
    for strange in ["x".repeat(500), "a b".into()] {
        let headers = format!("Host: x\r\nX-Request-Id: {strange}\r\n");
        let other = get(&s, "/health", &headers);
        assert!(other.head.contains("x-request-id: req_"), "{}", other.head);
    }
    let _: Value = s.get("/health").ok();
}

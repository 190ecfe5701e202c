//! A thousand requests that are broken in all ways there are, beside honest
//! ones. Some minutes. The only test of its process, whose memory it watches.

mod common;

use cap::Cap;
use common::{request, until, Answer, Server, CHAT, TEXT};
use rustml_server::Config;
use serde_json::{json, Value};
use socket2::SockRef;
use std::alloc::System;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const JSON: &str = "Content-Type: application/json\r\n";

/// Broken requests, and threads that send them.
const BROKEN: usize = 1000;
const SENDERS: usize = 10;

/// Bytes that may be allocated beyond those after the first of them, some
/// hundred for each: what is kept of a request is found.
const ALLOWED: usize = 384 << 10;

/// What the allocator's arenas may come and go by: 137 MB were seen beside other
/// compilations, with nothing kept.
const ARENAS: usize = 256 << 20;

/// Time in which a request and its body have to be there.
const READ: Duration = Duration::from_millis(300);

#[test]
fn the_broken_do_not_disturb_the_honest() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
    let s = Server::start(Config {
        max_body: 1 << 20,
        read_timeout: READ,
        write_timeout: READ,
        backlog: 64,
        queue: 1000,
        ..Config::default()
    });
    let alone: Vec<Value> = HONEST.iter().map(|ask| answer(&s, ask())).collect();
    // The first one takes what a server keeps: its cache, threads, grammars.
    round(&s, &alone, BROKEN / 4);
    let before = ALLOCATOR.allocated();
    let resident_before = resident();
    round(&s, &alone, BROKEN - BROKEN / 4);
    let kept = ALLOCATOR.allocated().saturating_sub(before);
    assert!(kept <= ALLOWED, "{kept} bytes more than before");
    let grown = resident().saturating_sub(resident_before);
    assert!(grown <= ARENAS, "{} KiB more than before", grown >> 10);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "something panicked");
    assert_eq!(s.get("/health").status, 200);
    assert_eq!(s.get("/ready").status, 200);
    for (ask, alone) in HONEST.iter().zip(&alone) {
        assert_eq!(&answer(&s, ask()), alone);
    }
}

/// `broken` requests, and honest ones for as long as those take. A client here
/// waits 30 s for an answer, and takes none for a wrong one.
fn round(s: &Server, alone: &[Value], broken: usize) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (ask, alone) in HONEST.iter().zip(alone) {
            let over = &over;
            scope.spawn(move || {
                let mut asked = 0;
                while asked < 3 || !over.load(Ordering::SeqCst) {
                    assert_eq!(&answer(s, ask()), alone);
                    asked += 1;
                }
            });
        }
        let sender = |t| scope.spawn(move || send(s, (t..broken).step_by(SENDERS)));
        let senders: Vec<_> = (0..SENDERS).map(sender).collect();
        let kept: Vec<_> = senders.into_iter().map(|t| t.join()).collect();
        over.store(true, Ordering::SeqCst);
        assert!(kept.iter().all(Result::is_ok), "see above");
    });
    until("nothing is left", || {
        s.metric("rustml_num_requests_running") == 0.0
    });
}

/// Sends broken requests; the connections that it leaves as they are.
fn send(s: &Server, all: impl Iterator<Item = usize>) -> Vec<TcpStream> {
    let mut kept = Vec::new();
    for i in all {
        let (name, fault) = FAULTS[i % FAULTS.len()];
        let fault = std::panic::AssertUnwindSafe(|| fault(s, i, &mut kept));
        let sent = std::panic::catch_unwind(fault);
        assert!(sent.is_ok(), "{name}, request {i}");
    }
    kept
}

/// Bytes that this process has in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.map_or(0, |kib| kib.parse::<usize>().unwrap() << 10)
}

/// What is asked honestly: each with its tokens and their logprobs.
const HONEST: [fn() -> Value; 6] = [
    || json!({"prompt": "Number one", "temperature": 0}),
    || json!({"prompt": "Number two ".repeat(40), "temperature": 0}),
    || json!({"prompt": "Number three", "seed": 3, "temperature": 1.3, "n": 3}),
    || json!({"prompt": "Number four", "temperature": 0, "regex": "[a-z ]{5,30}"}),
    || {
        json!({"prompt": "Number five", "seed": 5, "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}})
    },
    || json!({"prompt": "Number six", "temperature": 0, "presence_penalty": 1.5, "stop": ["qqq"]}),
];

/// The choices that an honest request gets.
fn answer(s: &Server, mut ask: Value) -> Value {
    ask["max_tokens"] = json!(12);
    ask["logprobs"] = json!(2);
    s.post(TEXT, &ask).ok()["choices"].clone()
}

/// Something broken: the server, which of all requests it is, and where
/// connections are kept that stay open.
type Fault = fn(&Server, usize, &mut Vec<TcpStream>);

const FAULTS: [(&str, Fault); 20] = [
    ("cut off anywhere", |s, i, _| {
        let whole = honest(i);
        drop(s.connect().write_all(&whole[..i * 7919 % whole.len()]));
    }),
    ("a byte changed anywhere", |s, i, _| {
        let mut bytes = honest(i);
        let at = i * 7919 % bytes.len();
        bytes[at] = bytes[at].wrapping_add(1 + i as u8 % 255);
        let status = s.raw(&bytes).status;
        assert!(status < 500 || status == 505, "{status}");
    }),
    ("no HTTP", |s, i, _| {
        let noise: Vec<u8> = (0..200).map(|k| (k * i * 31 + i) as u8).collect();
        let status = s.raw(&[&noise[..], b"\r\n\r\n"].concat()).status;
        assert!(matches!(status, 0 | 400), "{status}");
    }),
    ("other HTTP", |s, i, _| {
        let long = "x".repeat(200_000);
        let head = match i / FAULTS.len() % 8 {
            0 => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            1 => format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
            2 => format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}{long}{long}\r\n\r\n"),
            3 => format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500)),
            4 => format!("POST {TEXT} HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: -1\r\n\r\n"),
            5 => format!("POST {TEXT} HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{{}}"),
            6 => format!("POST {TEXT} HTTP/1.1\r\nHost: x\r\n{JSON}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
            _ => format!("BREW {TEXT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        };
        let status = s.raw(head.as_bytes()).status;
        assert!(status < 500 || status == 505, "{status}");
    }),
    ("nested deeply", |s, i, _| {
        let (open, close) = [("[", "]"), ("{\"a\":", "}")][i / FAULTS.len() % 2];
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let body = match i / FAULTS.len() % 4 {
            0 | 1 => deep,
            2 => format!("{{\"prompt\": \"x\", \"logit_bias\": {deep}}}"),
            _ => format!("{{\"prompt\": \"x\", \"response_format\": {{\"type\": \"json_schema\", \"json_schema\": {{\"name\": \"x\", \"schema\": {deep}}}}}}}"),
        };
        refused(s, TEXT, body.as_bytes());
    }),
    ("too large", |s, i, _| {
        let body = vec![b' '; (1 << 20) + 1 + i];
        let status = s.raw(&request(CHAT, JSON, &body)).status;
        // It may have closed while more was being sent.
        assert!(matches!(status, 0 | 413), "{status}");
    }),
    ("a text without an end to its words", |s, i, _| {
        let text = ["a", " ", "\n", "\u{4e2d}", "<|im_start|>"][i / FAULTS.len() % 5];
        let body = json!({"prompt": text.repeat(300_000 / text.len()), "n": 16});
        refused(s, TEXT, body.to_string().as_bytes());
    }),
    ("more is promised than comes", |s, _, kept| {
        let mut stream = s.connect();
        let head =
            format!("POST {TEXT} HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 1000\r\n\r\n{{");
        let _ = stream.write_all(head.as_bytes());
        kept.push(stream);
    }),
    ("half open", |s, i, kept| {
        let mut stream = s.connect();
        let whole = honest(i);
        let _ = stream.write_all(&whole[..[0, 1, 30, whole.len()][i / FAULTS.len() % 4]]);
        let _ = stream.shutdown(Shutdown::Write);
        kept.push(stream);
    }),
    ("sent byte for byte", |s, i, _| {
        let mut stream = s.connect();
        let _ = stream.set_nodelay(true);
        // So slowly that it cannot be through in time.
        let pause = READ / honest(i).len() as u32 * 2;
        let all = honest(i).into_iter().all(|byte| {
            std::thread::sleep(pause);
            stream.write_all(&[byte]).is_ok()
        });
        let status = Answer::read(&mut stream).status;
        assert!(!all || matches!(status, 0 | 408), "{status}");
    }),
    ("nothing is read", |s, i, kept| {
        kept.push(slow_reader(s, i));
    }),
    ("read byte for byte", |s, i, _| {
        let mut stream = slow_reader(s, i);
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(4));
            let _ = stream.read(&mut [0]);
        }
    }),
    ("asks and leaves", |s, i, _| {
        drop(s.begin(TEXT, &long(i % 2 == 0)));
    }),
    ("no JSON", |s, i, _| {
        let bodies: [&[u8]; 8] = [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{\"prompt\": \"x\",}",
            b"{'prompt': 1}",
            b"{\"a\": 1}{\"b\": 2}",
            b"{\"a\": 1e999}",
        ];
        refused(s, TEXT, bodies[i / FAULTS.len() % bodies.len()]);
    }),
    ("no UTF-8", |s, i, _| {
        let texts: [&[u8]; 6] = [
            &[0xff, 0xfe],
            &[0xc0, 0xaf],
            &[0xed, 0xa0, 0x80],
            b"\\ud800",
            b"\\udc00\\ud800",
            &[b'a', 0, b'b'],
        ];
        let text = texts[i / FAULTS.len() % texts.len()];
        refused(s, TEXT, &[b"{\"prompt\": \"", text, b"\"}"].concat());
    }),
    ("numbers that cannot be", |s, i, _| {
        let numbers = [
            "-1",
            "1e400",
            "99999999999999999999",
            "-0.5",
            "1e38",
            "[]",
            "true",
            "\"1\"",
            "-9223372036854775809",
        ];
        let fields = [
            "max_tokens",
            "temperature",
            "top_p",
            "min_p",
            "n",
            "logprobs",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "best_of",
            "top_k",
        ];
        let number = numbers[i / FAULTS.len() % numbers.len()];
        let field = fields[i / FAULTS.len() % fields.len()];
        let body = format!("{{\"prompt\": \"x\", {field:?}: {number}}}");
        let status = s.raw(&request(TEXT, JSON, body.as_bytes())).status;
        // A penalty may be a reward; what is beyond the largest that means
        // something may be that one.
        let fits = match field {
            "presence_penalty" | "frequency_penalty" => ["-1", "-0.5"].contains(&number),
            "top_k" => status == 200,
            // As much as there is room for.
            "max_tokens" => number == "-1",
            _ => false,
        };
        assert_eq!(status, if fits { 200 } else { 400 }, "{body}");
    }),
    ("tokens that are none", |s, i, _| {
        let id = [5_000 + i, usize::MAX, u32::MAX as usize][i / FAULTS.len() % 3];
        let (path, body) = match i / FAULTS.len() % 4 {
            0 => (TEXT, json!({"prompt": [1, id]})),
            1 => (TEXT, json!({"prompt": [[1], [id]]})),
            2 => (
                TEXT,
                json!({"prompt": "x", "logit_bias": {id.to_string(): 1}}),
            ),
            _ => ("/detokenize", json!({"tokens": [id]})),
        };
        refused(s, path, body.to_string().as_bytes());
    }),
    ("too many of everything", |s, i, _| {
        let many = 30_000;
        let body = match i / FAULTS.len() % 5 {
            0 => json!({"messages": [], "stop": vec!["x"; many]}),
            1 => json!({"messages": vec![json!({"role": "user", "content": "x"}); many / 4]}),
            2 => {
                json!({"messages": [{"role": "user", "content": vec![json!({"type": "text", "text": "x "}); many / 2]}]})
            }
            3 => {
                json!({"messages": [{"role": "user", "content": "x"}], "tools": vec![json!({"type": "function", "function": {"name": "x"}}); many / 4], "n": 10_000})
            }
            _ => Value::Object((0..many).map(|k| (format!("field{k}"), json!(k))).collect()),
        };
        refused(s, CHAT, body.to_string().as_bytes());
    }),
    ("a grammar that is too much", |s, i, _| {
        let many = 60_000;
        let grammar = match i / FAULTS.len() % 6 {
            0 => format!("start: {}", "(\"a\") ".repeat(many)),
            1 => format!("start: {}\"a\"{}", "(".repeat(many), ")".repeat(many)),
            2 => format!("start: {}\"a\"", "(\"a\")? ".repeat(8_000)),
            3 => "start: start start | \"a\" start".to_owned(),
            4 => (0..3_000).fold("start: x0\n".to_owned(), |g, k| {
                format!("{g}x{k}: x{}\n", k + 1)
            }),
            _ => "start: \"a".to_owned(),
        };
        let body = json!({"prompt": "x", "max_tokens": 2, "grammar": grammar});
        let status = s.post(TEXT, &body).status;
        assert!(matches!(status, 200 | 400), "{status}");
    }),
    ("a regular expression that explodes", |s, i, _| {
        let regex = match i / FAULTS.len() % 6 {
            0 => "(".repeat(2_000),
            1 => "(a{1,900}){1,900}{1,900}".to_owned(),
            2 => "(a|b)*a(a|b){5000}".to_owned(),
            3 => "[a-z]{1,100000}".to_owned(),
            4 => "(".repeat(60_000) + &")".repeat(60_000),
            _ => "(?=x)y(?<!z)\\1".to_owned(),
        };
        let body = json!({"prompt": "x", "max_tokens": 2, "regex": regex});
        let status = s.post(TEXT, &body).status;
        assert!(matches!(status, 200 | 400), "{status}");
    }),
];

/// A request as bytes, of which nothing is wrong.
fn honest(i: usize) -> Vec<u8> {
    let ask = HONEST[i % HONEST.len()]();
    request(TEXT, JSON, ask.to_string().as_bytes())
}

#[track_caller]
fn refused(s: &Server, path: &str, body: &[u8]) {
    let answer = s.raw(&request(path, JSON, body));
    let shown = String::from_utf8_lossy(&body[..body.len().min(100)]);
    assert_eq!(answer.error().0, 400, "{shown}: {}", answer.body);
}

/// An answer that goes on until somebody ends it.
fn long(stream: bool) -> Value {
    json!({"prompt": "Hello there", "max_tokens": 480, "stream": stream, "seed": 1, "logit_bias": {"348": -100, "351": -100}})
}

/// Is sent large pieces, and has room for few.
fn slow_reader(s: &Server, i: usize) -> TcpStream {
    let mut ask = long(true);
    ask["logprobs"] = json!(20);
    ask["n"] = json!(1 + i % 4);
    let mut stream = s.connect();
    let _ = SockRef::from(&stream).set_recv_buffer_size(4096);
    Server::send(&mut stream, TEXT, &ask);
    stream
}

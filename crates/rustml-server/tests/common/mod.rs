//! A server with a tiny model, and a client that shows what is on the wire.

#![allow(dead_code)] // Not every test uses all of it.

use rustml_engine::{Engine, EngineConfig};
use rustml_io::Store;
use rustml_model::{team, KvType, Model, Quantize};
use rustml_server::{serve, Config, Encoder, Encodes, Labels, MakeEncoder, Served};
use rustml_tokenizer::{Input, Tokenizer};
use rustml_trace::Detail;
use serde_json::{json, Value};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Positions of a sequence.
pub const CONTEXT: usize = 2048;

pub const CHAT: &str = "/v1/chat/completions";
pub const TEXT: &str = "/v1/completions";

/// A chat of a few greedy tokens, with `more` fields.
pub fn chat(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 12});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// The same of a plain completion.
pub fn text(more: Value) -> Value {
    let mut body = json!({"prompt": "Hello there", "temperature": 0, "max_tokens": 12});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// A server; dropped, it ends.
pub struct Server {
    pub at: SocketAddr,
    stop: &'static AtomicBool,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// What happens to steps of an engine.
#[derive(Default)]
pub struct Knobs {
    /// The next one panics.
    pub panic: AtomicBool,
    /// Each takes so many milliseconds longer.
    pub slow: AtomicU64,
    /// How many an encoder took.
    pub steps: AtomicU64,
}

impl Server {
    pub fn start(config: Config) -> Server {
        Server::with(config, Arc::default())
    }

    /// With steps that take 2 ms longer, so that nothing is over at once.
    pub fn slow(config: Config) -> Server {
        let knobs = Knobs::default();
        knobs.slow.store(2, Ordering::SeqCst);
        Server::with(config, Arc::new(knobs))
    }

    pub fn with(config: Config, knobs: Arc<Knobs>) -> Server {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/llama");
        let store = Store::open(&dir).unwrap();
        let team = team(1).unwrap();
        let model = Arc::new(Model::load(&store, Quantize::None, team, &mut |_, _| {}).unwrap());
        let tokenizer = Arc::new(Tokenizer::from_dir(&dir).unwrap());
        let sizes = EngineConfig {
            context: CONTEXT,
            cache_positions: CONTEXT * config.slots,
            sequences: config.slots,
            rows: 64,
            kv_type: KvType::F32,
            detail: Detail::Operations,
            ..EngineConfig::default()
        };
        let words = tokenizer.clone();
        let make = move || {
            let engine = Engine::new(model.clone(), words.clone(), sizes);
            let mut engine = engine.map_err(|e| e.to_string())?;
            let knobs = knobs.clone();
            engine.set_observer(Arc::new(move |_| {
                std::thread::sleep(Duration::from_millis(knobs.slow.load(Ordering::SeqCst)));
                assert!(
                    !knobs.panic.swap(false, Ordering::SeqCst),
                    "it was asked to"
                );
            }));
            Ok(engine)
        };
        let served = Served {
            names: vec!["tiny".into(), "org/other-name".into()],
            tokenizer,
            context: CONTEXT,
            fingerprint: "fp_test".into(),
            roof: None,
            engine: Some(Box::new(make)),
            encodes: None,
        };
        Server::of(served, config)
    }

    /// A server of what turns texts into vectors of three values: how many tokens a text
    /// has, its first one, and its last one, each a third.
    pub fn encoding(config: Config, knobs: Arc<Knobs>) -> Server {
        Server::of_numbers(config, knobs, None)
    }

    /// The same numbers as scores of labels, each as likely as it is of them together. One
    /// alone is the first: how many tokens a text has.
    pub fn scoring(config: Config, names: &[&str]) -> Server {
        let labels = Labels {
            names: names.iter().map(|&n| n.to_owned()).collect(),
            probabilities: Box::new(|scores| {
                let sum: f32 = scores.iter().sum();
                let all = scores.iter().map(|s| s / sum.max(64.0));
                all.collect()
            }),
        };
        Server::of_numbers(config, Arc::default(), Some(labels))
    }

    fn of_numbers(config: Config, knobs: Arc<Knobs>, labels: Option<Labels>) -> Server {
        let width = labels.as_ref().map_or(3, |l| l.names.len());
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/llama");
        let vector = move |text: &Input| {
            let values = [
                text.ids.len() as u32,
                text.ids[0],
                text.ids[text.ids.len() - 1],
            ];
            values.map(|x| x as f32 / 3.0)[..width].to_vec()
        };
        let make: MakeEncoder = Box::new(move || {
            let knobs = knobs.clone();
            let run = move |texts: &[&Input]| {
                let rows: usize = texts.iter().map(|t| t.ids.len()).sum();
                assert!(texts.len() == 1 || texts.len() <= 4 && rows <= 32);
                std::thread::sleep(Duration::from_millis(knobs.slow.load(Ordering::SeqCst)));
                knobs.steps.fetch_add(1, Ordering::SeqCst);
                assert!(
                    !knobs.panic.swap(false, Ordering::SeqCst),
                    "it was asked to"
                );
                Ok(texts.iter().map(|t| Ok(vector(t))).collect())
            };
            Ok(Box::new(run) as Encoder)
        });
        let tokenizer = Arc::new(Tokenizer::from_dir(&dir).unwrap());
        let encodes = Encodes {
            width,
            vocab: tokenizer.vocab_size(),
            most: 64,
            rows: 32,
            texts: 4,
            shorten: |values, n| values.truncate(n),
            labels,
        };
        let served = Served {
            names: vec!["tiny".into()],
            tokenizer,
            context: 64,
            fingerprint: "fp_test".into(),
            roof: None,
            engine: None,
            encodes: Some((encodes, make)),
        };
        Server::of(served, config)
    }

    fn of(served: Served, config: Config) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let thread = std::thread::spawn(move || serve(vec![listener], served, config, stop));
        let server = Server {
            at,
            stop,
            thread: Some(thread),
        };
        until("the server is ready", || server.get("/ready").status == 200);
        server
    }

    /// Asks it to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits until it has ended.
    pub fn wait(mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// Sends bytes as they are, and reads what comes until the end.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may close before it has read all.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(&request(
            path,
            "Content-Type: application/json\r\n",
            body.to_string().as_bytes(),
        ))
    }

    /// Begins a request, whose answer is not read.
    pub fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = self.connect();
        Server::send(&mut stream, path, body);
        stream
    }

    /// Sends a request.
    pub fn send(stream: &mut TcpStream, path: &str, body: &Value) {
        let bytes = request(
            path,
            "Content-Type: application/json\r\n",
            body.to_string().as_bytes(),
        );
        stream.write_all(&bytes).unwrap();
    }

    /// A metric without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// The bytes of a POST.
pub fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Waits until something is so, for a time that is never needed.
pub fn until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// 0 if nothing came.
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(stream: &mut TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A reset after the answer is no matter.
        let _ = stream.read_to_end(&mut bytes);
        let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Answer {
                status: 0,
                head: String::new(),
                body: String::new(),
            };
        };
        let head = String::from_utf8(bytes[..at].to_vec())
            .unwrap()
            .to_lowercase();
        let mut body = bytes[at + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        Answer {
            status: head[9..12].parse().unwrap(),
            body: String::from_utf8(body).unwrap(),
            head,
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The JSON of a request that went well.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// The events of a stream, without the `[DONE]` that it has to end with.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.head.contains("text/event-stream"), "{}", self.head);
        let all: Vec<&str> = self
            .body
            .split("\n\n")
            .filter(|e| !e.is_empty() && !e.starts_with(':'))
            .collect();
        let (last, events) = all.split_last().unwrap();
        assert_eq!(*last, "data: [DONE]");
        let json = |e: &&str| serde_json::from_str(e.strip_prefix("data: ").unwrap()).unwrap();
        events.iter().map(json).collect()
    }

    /// Status, field and code of an error, whose shape is checked.
    #[track_caller]
    pub fn error(&self) -> (u16, String, String) {
        let json = self.json();
        let error = json["error"]
            .as_object()
            .unwrap_or_else(|| panic!("{self:?}"));
        let keys: Vec<_> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(
            error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["type"].is_string()
        );
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (self.status, text("param"), text("code"))
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(at) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..at]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let from = at + 2;
        if size == 0 || bytes.len() < from + size {
            break;
        }
        all.extend_from_slice(&bytes[from..from + size]);
        bytes = &bytes[(from + size + 2).min(bytes.len())..];
    }
    all
}

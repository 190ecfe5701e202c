//! A small hub on localhost: the endpoints that downloading uses, with the
//! headers the real one sends, and a second port that plays its storage.

#![allow(dead_code)] // Each test program uses a part of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustml_hub::{Error, Hub, Progress};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const NEWER: &str = "89abcdef0123456789abcdef0123456789abcdef";
/// Files above this are in the "storage", as LFS and Xet files are.
const LARGE: usize = 1000;

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// Whether it went to the storage and not to the hub.
    pub storage: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether only the headers are wanted, which are asked for with one byte.
    pub fn looks(&self) -> bool {
        self.header("range") == Some("bytes=0-0")
    }

    /// First byte of `Range: bytes=N-`.
    pub fn range(&self) -> Option<usize> {
        let range = self
            .header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?;
        range.parse().ok()
    }
}

/// An answer to be sent.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send only so much of the body, then close.
    pub cut: Option<usize>,
    /// Do not say how long the body is; close at its end.
    pub unsized_body: bool,
    /// Wait before answering.
    pub delay: Duration,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            cut: None,
            unsized_body: false,
            delay: Duration::ZERO,
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers
            .retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.to_string()));
        self
    }
}

/// A repository as the server has it.
#[derive(Clone)]
pub struct Repo {
    pub commit: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Looks at a request and the usual answer; may change the answer.
pub type Hook = Box<dyn FnMut(&Request, Reply) -> Reply + Send>;

#[derive(Default)]
pub struct State {
    pub repos: BTreeMap<String, Repo>,
    pub requests: Vec<Request>,
    pub hook: Option<Hook>,
    hub: String,
    storage: String,
}

/// The running server; ends with the test program.
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Server {
        let state = Arc::new(Mutex::new(State::default()));
        let listen = |storage: bool| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || serve(stream, &state, storage));
                }
            });
            url
        };
        let (hub, storage) = (listen(false), listen(true));
        {
            let mut state = state.lock().unwrap();
            (state.hub, state.storage) = (hub.clone(), storage);
        }
        Server { url: hub, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts a repository on the server.
    pub fn put(&self, name: &str, commit: &str, files: &[(&str, &[u8])]) {
        let files = files
            .iter()
            .map(|(name, content)| (name.to_string(), content.to_vec()));
        let repo = Repo {
            commit: commit.into(),
            files: files.collect(),
        };
        self.state().repos.insert(name.into(), repo);
    }

    /// Changes answers from now on.
    pub fn hook(&self, hook: impl FnMut(&Request, Reply) -> Reply + Send + 'static) {
        self.state().hook = Some(Box::new(hook));
    }

    pub fn unhook(&self) {
        self.state().hook = None;
    }

    /// Takes the requests so far.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// A hub that asks this server, with an empty token and no patience.
    pub fn hub(&self, cache: &Path) -> Hub {
        quiet(Hub::from_env().unwrap())
            .cache_dir(cache)
            .endpoint(&self.url)
            .unwrap()
    }
}

/// Settings that do not depend on the environment of the test.
pub fn quiet(hub: Hub) -> Hub {
    hub.progress(Progress::Quiet)
        .retries(2, Duration::from_millis(1))
        .timeout(Duration::from_secs(5))
        .offline(false)
        .token(None)
        .unwrap()
}

/// Content that is large enough to be in the storage and nowhere repeats.
pub fn large(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let step = || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (x >> 33) as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The ETag of a file: its SHA-256 if large, git's id of the blob if not.
pub fn etag(content: &[u8]) -> String {
    if content.len() > LARGE {
        return sha256(content);
    }
    let hash = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    let hash = hash.chain_update(content).finalize();
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn cache() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The file of [`gguf`].
pub const FILE: &str = "m-Q4_K_M.gguf";

/// A server with one GGUF file of `len` bytes.
pub fn gguf(len: usize) -> (Server, Vec<u8>) {
    let server = Server::start();
    let content = large(7, len);
    server.put("org/name", COMMIT, &[(FILE, &content)]);
    (server, content)
}

/// The sentence must name what matters and what to do.
#[track_caller]
pub fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains('\x1b'), "{text:?}");
}

/// Nothing below the directory but directories and empty lock files.
pub fn holds_nothing(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return true;
    };
    entries
        .flatten()
        .all(|entry| match entry.file_type().unwrap().is_dir() {
            true => holds_nothing(&entry.path()),
            false => entry.path().extension().is_some_and(|e| e == "lock"),
        })
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, storage: bool) {
    // Head and body are two writes; they must not wait for each other.
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader, storage) {
        let reply = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.clone());
            let reply = answer(&state, &request);
            let mut hook = state.hook.take();
            let reply = match &mut hook {
                Some(hook) => hook(&request, reply),
                None => reply,
            };
            state.hook = hook;
            reply
        };
        if !send(&mut stream, &request, &reply) {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead, storage: bool) -> Option<Request> {
    let mut line = String::new();
    reader.by_ref().take(8192).read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.by_ref().take(8192).read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request {
        method,
        path,
        headers,
        storage,
    })
}

/// What the real hub would answer.
fn answer(state: &State, request: &Request) -> Reply {
    let not_found = |code: &str| Reply::new(404, b"").with("X-Error-Code", code);
    if let Some(rest) = request.path.strip_prefix("/api/models/") {
        let Some((name, revision)) = rest.split_once("/revision/") else {
            return not_found("RepoNotFound");
        };
        let Some(repo) = state.repos.get(name) else {
            return not_found("RepoNotFound").with("X-Error-Message", "Repository not found");
        };
        if revision != "main" && revision != repo.commit {
            return not_found("RevisionNotFound");
        }
        let siblings: Vec<_> = repo
            .files
            .keys()
            .map(|file| serde_json::json!({ "rfilename": file }))
            .collect();
        let info = serde_json::json!({ "id": name, "sha": repo.commit, "siblings": siblings });
        return Reply::new(200, info.to_string().as_bytes())
            .with("Content-Type", "application/json");
    }
    if let Some(sha) = request.path.strip_prefix("/storage/") {
        let mut all = state.repos.values().flat_map(|repo| repo.files.values());
        return match all.find(|content| sha256(content) == sha) {
            Some(content) => ranged(request, content),
            None => Reply::new(404, b""),
        };
    }
    let Some((name, rest)) = request.path[1..].split_once("/resolve/") else {
        return Reply::new(404, b"");
    };
    let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
    let Some(repo) = state.repos.get(name) else {
        return not_found("RepoNotFound");
    };
    if revision != "main" && revision != repo.commit {
        return not_found("RevisionNotFound");
    }
    let Some(content) = repo.files.get(&file.replace("%20", " ")) else {
        return not_found("EntryNotFound").with("X-Repo-Commit", &repo.commit);
    };
    if content.len() <= LARGE {
        return ranged(request, content)
            .with("X-Repo-Commit", &repo.commit)
            .with("ETag", format!("\"{}\"", etag(content)));
    }
    Reply::new(302, b"Found. Redirecting to the storage")
        .with(
            "Location",
            format!("{}/storage/{}", state.storage, sha256(content)),
        )
        .with("X-Repo-Commit", &repo.commit)
        .with("X-Linked-Size", content.len())
        .with("X-Linked-ETag", format!("\"{}\"", sha256(content)))
        .with("ETag", "\"of-the-redirect\"")
}

fn ranged(request: &Request, content: &[u8]) -> Reply {
    match request.range() {
        None if request.looks() && content.is_empty() => {
            Reply::new(416, b"").with("Content-Range", "bytes */0")
        }
        None if request.looks() => Reply::new(206, &content[..1])
            .with("Content-Range", format!("bytes 0-0/{}", content.len())),
        Some(start) if start < content.len() => Reply::new(206, &content[start..]).with(
            "Content-Range",
            format!("bytes {start}-{}/{}", content.len() - 1, content.len()),
        ),
        Some(_) => Reply::new(416, b""),
        None => Reply::new(200, content),
    }
}

/// False if the connection is to be closed.
fn send(stream: &mut TcpStream, request: &Request, reply: &Reply) -> bool {
    std::thread::sleep(reply.delay);
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    let sized = reply
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !sized && !reply.unsized_body {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    if reply.unsized_body {
        head += "Connection: close\r\n";
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return false;
    }
    if request.method != "HEAD" {
        let end = reply.cut.unwrap_or(reply.body.len());
        if stream.write_all(&reply.body[..end]).is_err() || reply.cut.is_some() {
            return false;
        }
    }
    !reply.unsized_body
}

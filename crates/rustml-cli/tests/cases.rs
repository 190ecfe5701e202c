//! Inputs that once went wrong, each with what is right: `testdata/cases`.
//!
//! A case is a directory with a `case.json`; `testdata/cases/README.md` says
//! what stands in it. Adding one needs no change here.

#[path = "../../rustml-nlp/tests/common/mod.rs"]
mod common;

use common::{repo, Line, Running};
use rustml_io::{write_safetensors, DType, Store};
use serde_json::{Map, Value};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a case may say; a word that is none would be a check that is not made.
const KEYS: [&str; 13] = [
    "about", "model", "files", "tensors", "cached", "run", "stdin", "post", "body", "status",
    "out", "err", "not",
];

struct Case {
    at: PathBuf,
    json: Map<String, Value>,
    /// Where its model is made.
    room: tempfile::TempDir,
}

impl Case {
    fn read(at: PathBuf) -> Case {
        let text = fs::read_to_string(at.join("case.json")).unwrap();
        let json: Map<String, Value> = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{}: {e}", at.join("case.json").display()));
        for key in json.keys() {
            assert!(KEYS.contains(&key.as_str()), "{}: {key}", at.display());
        }
        assert!(json["about"].is_string(), "{}", at.display());
        let room = tempfile::tempdir().unwrap();
        Case { at, json, room }
    }

    fn list(&self, key: &str) -> Vec<&str> {
        let list = self.json.get(key).map(|list| list.as_array().unwrap());
        let text = |v| Value::as_str(v).unwrap();
        list.map_or(vec![], |list| list.iter().map(text).collect())
    }

    /// The files of the model it starts from, and its own over them.
    fn files(&self) -> Vec<PathBuf> {
        let base = self.json.get("model").map(|m| m.as_str().unwrap());
        let of = |dir: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).unwrap();
            entries.map(|e| e.unwrap().path()).collect()
        };
        let own = of(&self.at);
        let is_own = |file: &PathBuf| own.iter().any(|o| o.file_name() == file.file_name());
        let mut files = base.map_or(vec![], |base| of(&repo("testdata").join(base)));
        files.retain(|file| !is_own(file) && !file.ends_with("model.gguf"));
        files.extend(own.into_iter().filter(|f| !f.ends_with("case.json")));
        files
    }

    /// The directory, or the cache, that the command gets.
    fn make_model(&self) -> PathBuf {
        let cached = self.json.contains_key("cached");
        let dir = match cached {
            false => self.room.path().join("model"),
            true => {
                let repository = self.room.path().join("models--org--name");
                fs::create_dir_all(repository.join("refs")).unwrap();
                fs::write(repository.join("refs/main"), COMMIT).unwrap();
                repository.join("snapshots").join(COMMIT)
            }
        };
        fs::create_dir_all(&dir).unwrap();
        for file in self.files() {
            let name = file.file_name().unwrap();
            let all = !self.json.contains_key("files");
            if all || self.list("files").iter().any(|wanted| *wanted == name) {
                fs::copy(&file, dir.join(name)).unwrap();
            }
        }
        if let Some(changes) = self.json.get("tensors") {
            change(&dir.join("model.safetensors"), changes.as_object().unwrap());
        }
        match cached {
            false => dir,
            true => "org/name".into(),
        }
    }

    fn line(&self, args: &[&str], model: &Path) -> Line {
        let model = model.display().to_string();
        let place = |arg: &&str| {
            let arg = arg.replace("{model}", &model);
            arg.replace("{case}", &self.at.display().to_string())
        };
        let args: Vec<String> = args.iter().map(place).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let cache = self.room.path().display().to_string();
        Line::new(env!("CARGO_BIN_EXE_rustml"), &args).env("HF_HUB_CACHE", &cache)
    }

    /// What is wrong, if anything.
    fn check(&self) -> Result<(), String> {
        let model = self.make_model();
        let (status, out, err) = match self.json.get("post") {
            Some(path) => {
                let body = self.json["body"].to_string();
                let (status, answer) = self.post(&model, path.as_str().unwrap(), &body);
                (status, answer, String::new())
            }
            None => {
                let line = self.line(&self.list("run"), &model);
                let stdin = self.json.get("stdin").map_or("", |s| s.as_str().unwrap());
                let done = line.stdin(stdin).run();
                (done.status.unwrap_or(-1), done.out, done.err)
            }
        };
        let all = format!("{out}\n{err}");
        let lacks = |text: &str, key| self.list(key).into_iter().find(|p| !text.contains(*p));
        let expected = self.json["status"].as_i64().unwrap();
        let problem = match () {
            _ if i64::from(status) != expected => format!("the status is {status}"),
            _ if lacks(&out, "out").is_some() => format!("not in it: {:?}", lacks(&out, "out")),
            _ if lacks(&err, "err").is_some() => format!("not said: {:?}", lacks(&err, "err")),
            _ => match self.list("not").into_iter().find(|p| all.contains(*p)) {
                Some(found) => format!("in it, but should not be: {found:?}"),
                None => return Ok(()),
            },
        };
        Err(format!("{}: {problem}\n{all}", self.at.display()))
    }

    /// Serves the model for one request.
    fn post(&self, model: &Path, path: &str, body: &str) -> (i32, String) {
        let args = ["serve", "{model}", "--port", "0", "--threads", "1"];
        let Running(mut server) = self.line(&args, model).start();
        let (mut said, mut bytes) = (String::new(), [0; 4096]);
        let stderr = server.stderr.as_mut().unwrap();
        let at = loop {
            let whole = said.split_once(" at http://").map(|(_, rest)| rest);
            if let Some((at, _)) = whole.and_then(|rest| rest.split_once(": ")) {
                break at.to_owned();
            }
            let n = stderr.read(&mut bytes).unwrap();
            assert!(n > 0, "{}: {said}", self.at.display());
            said += &String::from_utf8_lossy(&bytes[..n]);
        };
        let mut stream = TcpStream::connect(&at).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        let (head, content) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        (status.parse().unwrap(), content.to_owned())
    }
}

/// Changes tensors of a file: each is removed (`null`), or made from another of
/// the file, its values times a number.
fn change(path: &Path, changes: &Map<String, Value>) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    {
        let store = Store::open(path).unwrap();
        let get = |name: &str| {
            let tensor = store.tensor(name).unwrap();
            assert_eq!(tensor.dtype, DType::F32);
            (tensor.info.shape.clone(), tensor.data.to_vec())
        };
        for info in store.tensors() {
            if !changes.contains_key(&info.name) {
                let (shape, data) = get(&info.name);
                tensors.push((info.name.clone(), shape, data));
            }
        }
        for (name, change) in changes.iter().filter(|(_, change)| !change.is_null()) {
            let (shape, data) = get(change["from"].as_str().unwrap());
            let times = match &change["times"] {
                Value::String(text) => text.parse::<f32>().unwrap(),
                number => number.as_f64().unwrap() as f32,
            };
            let words = data.as_chunks().0.iter();
            let scaled = words.flat_map(|b| (f32::from_le_bytes(*b) * times).to_le_bytes());
            tensors.push((name.clone(), shape, scaled.collect()));
        }
    }
    let parts: Vec<_> = tensors
        .iter()
        .map(|(name, shape, data)| (name.as_str(), DType::F32, &shape[..], &data[..]))
        .collect();
    write_safetensors(path, &parts, &[("format", "pt")]).unwrap();
}

#[test]
fn what_once_went_wrong_is_right() {
    let mut cases: Vec<PathBuf> = fs::read_dir(repo("testdata/cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() > 5);
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|at| Case::read(at).check().err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

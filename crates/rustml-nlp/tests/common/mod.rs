//! What the tests of the library and of both commands share.
#![allow(dead_code)]

use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

/// A file of the repository.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// A tiny model's folder, or a file in it.
pub fn tiny(path: &str) -> String {
    repo("testdata/tiny").join(path).display().to_string()
}

/// A file of models/. Without it the test is skipped, which is said past the
/// test harness, or fails where `RUSTML_REQUIRE_MODELS` is 1.
pub fn real(name: &str) -> Option<String> {
    let path = repo("models").join(name);
    if path.exists() {
        return Some(path.display().to_string());
    }
    let missing = format!("models/{name} is missing; run scripts/fetch-models all");
    let required = std::env::var_os("RUSTML_REQUIRE_MODELS").is_some_and(|v| v == "1");
    assert!(!required, "{missing}");
    #[allow(clippy::explicit_write)] // The harness swallows what eprintln! says.
    writeln!(std::io::stderr(), "\n*** SKIPPED: {missing} ***\n").unwrap();
    None
}

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-Q4_K_M.gguf";

/// The slices of a trace, if it follows the rules that viewers rely on, those of
/// the "Trace Event Format": a slice has a name, a process, a thread, and times
/// that are no less than nothing; each thread has a name; and slices of one
/// thread contain each other or lie apart.
pub fn trace(path: &Path) -> Vec<Value> {
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (slices, names): (Vec<Value>, Vec<Value>) = json["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .cloned()
        .partition(|e| e["ph"] == "X");
    let number = |e: &Value, key: &str| e[key].as_f64().unwrap_or_else(|| panic!("{key}: {e}"));
    for e in slices.iter().chain(&names) {
        assert!(e["pid"].is_u64() && e["tid"].is_u64(), "{e}");
        assert!(e["name"].as_str().is_some_and(|n| !n.is_empty()), "{e}");
    }
    let mut threads: Vec<u64> = Vec::new();
    let mut processes = 0;
    for e in &names {
        assert_eq!(e["ph"], "M", "{e}");
        match e["name"].as_str().unwrap() {
            "process_name" => processes += 1,
            "thread_sort_index" => assert_eq!(e["args"]["sort_index"], e["tid"]),
            "thread_name" => {
                assert!(e["args"]["name"].is_string(), "{e}");
                threads.push(e["tid"].as_u64().unwrap());
            }
            _ => panic!("{e}"),
        }
    }
    assert_eq!(processes, 1, "the process has one name");
    let count = threads.len();
    threads.sort();
    threads.dedup();
    assert_eq!(threads.len(), count, "a thread has one name");
    for thread in &threads {
        let row = slices.iter().filter(|e| e["tid"] == *thread);
        let mut spans: Vec<(f64, f64)> = row.map(|e| (number(e, "ts"), number(e, "dur"))).collect();
        assert!(spans.iter().all(|s| s.0 >= 0.0 && s.1 >= 0.0));
        spans.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<f64> = Vec::new();
        for (start, length) in spans {
            // Parts of a microsecond are rounded.
            open.retain(|&end| end > start + 0.002);
            assert!(open.iter().all(|&end| start + length <= end + 0.002));
            open.push(start + length);
        }
    }
    let named = |e: &Value| threads.contains(&e["tid"].as_u64().unwrap());
    assert!(slices.iter().all(named), "every thread has a name");
    slices
}

/// What a tiny model should say; `testdata/tiny/*/reference.json`.
pub struct Reference {
    pub prompt: String,
    pub tokens: Vec<u32>,
    pub greedy: Vec<u32>,
    pub greedy_text: String,
}

impl Reference {
    pub fn of(model: &str) -> Reference {
        let json = std::fs::read(tiny(&format!("{model}/reference.json"))).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let text = |key: &str| json[key].as_str().unwrap().to_owned();
        Reference {
            prompt: text("prompt"),
            tokens: ids(&json["tokens"]),
            greedy: ids(&json["greedy"]),
            greedy_text: text("greedy_text"),
        }
    }

    /// As many tokens as the reference has.
    pub fn max_tokens(&self) -> String {
        self.greedy.len().to_string()
    }
}

/// Numbers of a JSON list.
pub fn ids(v: &Value) -> Vec<u32> {
    let list = v.as_array().unwrap();
    list.iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub struct Done {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Standard output of a command that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{}", self.err);
        self.out
    }

    /// Standard error of a command that failed with this status, in one
    /// sentence and without a result.
    #[track_caller]
    pub fn failed(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.out, "", "{}", self.err);
        assert!(self.err.contains("error: "), "{}", self.err);
        self.no_panic().err
    }

    #[track_caller]
    pub fn no_panic(self) -> Done {
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// The object on each line.
    #[track_caller]
    pub fn json_lines(self) -> Vec<Value> {
        let out = self.ok();
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// No test may touch the user's files, or the network.
fn environment() -> Vec<(&'static str, String)> {
    static HOME: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let home = |path: &str| HOME.path().join(path).display().to_string();
    vec![
        ("HOME", home("")),
        ("HF_HOME", home("hf")),
        ("HF_HUB_CACHE", home("hf/hub")),
        ("XDG_CACHE_HOME", home("cache")),
        ("XDG_STATE_HOME", home("state")),
        ("HF_HUB_OFFLINE", "1".into()),
        ("RUST_LOG", String::new()),
    ]
}

/// A command line that is to be run.
pub struct Line {
    bin: &'static str,
    args: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
}

impl Line {
    pub fn new(bin: &'static str, args: &[&str]) -> Line {
        let env = environment().into_iter();
        Line {
            bin,
            args: args.iter().map(|a| a.to_string()).collect(),
            env: env.map(|(k, v)| (k.to_owned(), v)).collect(),
            stdin: Vec::new(),
        }
    }

    pub fn env(mut self, key: &str, value: &str) -> Line {
        self.env.push((key.into(), value.into()));
        self
    }

    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Line {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Runs it to the end, which must come within a minute.
    #[track_caller]
    pub fn run(self) -> Done {
        let output = assert_cmd::Command::new(self.bin)
            .args(&self.args)
            .envs(self.env)
            .write_stdin(self.stdin)
            .timeout(Duration::from_secs(60))
            .output()
            .unwrap_or_else(|e| panic!("{:?}: {e}", self.args));
        let text = |bytes| String::from_utf8(bytes).expect("output is text");
        Done {
            status: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
        .no_panic()
    }

    /// Through a shell, in which `"$@"` is the command.
    #[track_caller]
    pub fn shell(mut self, script: &str) -> Done {
        let args = std::mem::take(&mut self.args);
        let command = ["-c".into(), script.into(), "sh".into(), self.bin.into()];
        self.args = command.into_iter().chain(args).collect();
        self.bin = "sh";
        self.run()
    }

    /// Starts it with pipes.
    pub fn start(self) -> Running {
        let child = std::process::Command::new(self.bin)
            .args(&self.args)
            .envs(self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(child.unwrap())
    }
}

/// A command at work.
pub struct Running(pub Child);

impl Running {
    /// Waits until something came to standard output.
    pub fn first_output(&mut self) -> String {
        let mut bytes = [0; 64];
        let n = self.0.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    /// Waits until standard error holds this.
    pub fn wait_for(&mut self, text: &str) {
        let (mut seen, mut bytes) = (String::new(), [0; 4096]);
        while !seen.contains(text) {
            let n = self.0.stderr.as_mut().unwrap().read(&mut bytes).unwrap();
            assert!(n > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    }

    pub fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.0.id());
        let sent = std::process::Command::new("sh")
            .args(["-c", &script])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, reading what is left.
    pub fn end(mut self) -> Done {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done {
            status: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
        .no_panic()
    }
}

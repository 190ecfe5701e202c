//! One request and its answer, with the time of each piece.

use rustml_nlp::cli::{harmless, Failure};
use serde_json::{json, Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// Bytes of an answer, and of a line of it, at most; a server may be anything.
const LONGEST: u64 = 64 << 20;

/// Characters of a server's error that are shown.
const SHOWN: usize = 300;

/// A client with its own connections.
pub struct Client {
    agent: Agent,
    base: String,
    key: Option<String>,
    timeout: Duration,
    /// The request but for its prompt.
    fields: Map<String, Value>,
    /// Whether texts are continued, instead of chats.
    plain: bool,
}

impl Clone for Client {
    fn clone(&self) -> Client {
        Client {
            agent: agent(self.timeout),
            base: self.base.clone(),
            key: self.key.clone(),
            timeout: self.timeout,
            fields: self.fields.clone(),
            plain: self.plain,
        }
    }
}

fn agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        // A server may close a connection that nobody uses, just as it is used.
        .max_idle_age(Duration::from_secs(1))
        // The way to a proxy is not what is measured.
        .proxy(None);
    config.build().new_agent()
}

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// A status, and what the server says to it.
    Status(u16, String),
    /// It took too long.
    Timeout,
    /// The stream ended before the answer did.
    Cut,
    /// An error in the middle of the stream.
    Error(String),
    /// No connection, or what came is no HTTP, or no answer.
    Other(String),
}

impl Problem {
    /// What such problems are counted under.
    pub fn name(&self) -> String {
        match self {
            Problem::Status(status, _) => format!("status {status}"),
            Problem::Timeout => "timed out".into(),
            Problem::Cut => "cut off".into(),
            Problem::Error(_) => "error in the stream".into(),
            Problem::Other(what) => what.clone(),
        }
    }

    /// With what the server says.
    pub fn in_full(&self) -> String {
        match self {
            Problem::Status(_, says) | Problem::Error(says) if !says.is_empty() => {
                format!("{}: {says}", self.name())
            }
            _ => self.name(),
        }
    }
}

impl From<ureq::Error> for Problem {
    fn from(e: ureq::Error) -> Problem {
        match e {
            ureq::Error::Timeout(_) => Problem::Timeout,
            ureq::Error::Io(e) => e.into(),
            e => Problem::Other(harmless(&e.to_string())),
        }
    }
}

impl From<std::io::Error> for Problem {
    fn from(e: std::io::Error) -> Problem {
        use std::io::ErrorKind::*;
        // Errors of ureq's come in io errors while a body is read.
        if e.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) {
            return ureq::Error::from(e).into();
        }
        match e.kind() {
            TimedOut | WouldBlock => Problem::Timeout,
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => Problem::Cut,
            ConnectionRefused => Problem::Other("no connection".into()),
            _ => Problem::Other(harmless(&e.to_string())),
        }
    }
}

/// What came of a request. Times count from when it was meant to be sent.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub problem: Option<Problem>,
    pub text: String,
    /// Pieces with text, which is one token or more.
    pub pieces: usize,
    /// As the server counts.
    pub usage: Option<Usage>,
    pub first: Option<Duration>,
    pub last: Option<Duration>,
    pub end: Duration,
}

/// Tokens as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
}

impl Client {
    /// A client of the server at `url`.
    ///
    /// # Errors
    /// If that is no address.
    pub fn new(url: &str, key: Option<&str>, timeout: Duration) -> Result<Client, Failure> {
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let uri = base.parse::<Uri>().ok();
        let known = |u: &Uri| matches!(u.scheme_str(), Some("http" | "https"));
        if !uri.is_some_and(|u| known(&u) && u.host().is_some() && u.query().is_none()) {
            return Err(Failure::Usage(format!(
                "{url}: that is no server's address; one is as http://127.0.0.1:8080"
            )));
        }
        Ok(Client {
            agent: agent(timeout),
            base: base.into(),
            key: key.map(|key| format!("Bearer {key}")),
            timeout,
            fields: Map::new(),
            plain: false,
        })
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What all requests have.
    pub fn ask_for(&mut self, model: &str, max_tokens: u32, more: Option<Map<String, Value>>) {
        let fields = json!({
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        self.fields = fields.as_object().cloned().unwrap_or_default();
        self.fields.extend(more.unwrap_or_default());
    }

    /// Asks to continue plain texts.
    pub fn plain(&mut self) {
        self.plain = true;
    }

    /// The first model that the server lists.
    pub fn first_model(&self) -> Result<String, String> {
        let at = format!("{}/v1/models", self.base);
        let found = || -> Result<Value, Problem> {
            let mut request = self.agent.get(&at);
            if let Some(key) = &self.key {
                request = request.header("authorization", key);
            }
            Ok(parse(&read(accepted(request.call()?)?)?))
        };
        let list = found().map_err(|p| format!("{at}: {}", p.in_full()))?;
        let id = list["data"][0]["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| format!("{at} lists no model; name one by --model"))
    }

    /// Asks now.
    pub fn send(&self, prompt: &str) -> Reply {
        self.send_at(prompt, Instant::now())
    }

    /// Asks now what was meant to be asked at `meant`.
    pub fn send_at(&self, prompt: &str, meant: Instant) -> Reply {
        let mut reply = Reply::default();
        let problem = self.stream(prompt, meant, &mut reply).err();
        let end = meant.elapsed();
        Reply {
            problem,
            end,
            ..reply
        }
    }

    fn stream(&self, prompt: &str, meant: Instant, reply: &mut Reply) -> Result<(), Problem> {
        let mut fields = self.fields.clone();
        let (path, name, asked) = match self.plain {
            true => ("completions", "prompt", prompt.into()),
            false => {
                let message = json!([{"role": "user", "content": prompt}]);
                ("chat/completions", "messages", message)
            }
        };
        fields.insert(name.into(), asked);
        let at = format!("{}/v1/{path}", self.base);
        let mut request = self
            .agent
            .post(&at)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", key);
        }
        let response = request.send(Value::from(fields).to_string())?;
        let mut lines = BufReader::new(body(accepted(response)?));
        let mut line = Vec::new();
        let mut done = false;
        loop {
            line.clear();
            // The end of the stream is waited for, so that the connection can
            // be used again.
            if lines.read_until(b'\n', &mut line)? == 0 {
                return if done { Ok(()) } else { Err(Problem::Cut) };
            }
            let Some(data) = line.strip_prefix(b"data:") else {
                continue;
            };
            match data.trim_ascii() {
                b"[DONE]" => done = true,
                data => reply.take(&parse(data), meant)?,
            }
        }
    }
}

impl Reply {
    fn take(&mut self, chunk: &Value, meant: Instant) -> Result<(), Problem> {
        if let Some(error) = chunk.get("error").filter(|e| !e.is_null()) {
            return Err(Problem::Error(says(error)));
        }
        if !chunk.is_object() {
            return Err(Problem::Other("a piece that is no JSON object".into()));
        }
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        // Some servers send what a model thinks in a field of its own.
        for text in [
            &delta["reasoning_content"],
            &delta["content"],
            &choice["text"],
        ] {
            let Some(text) = text.as_str().filter(|text| !text.is_empty()) else {
                continue;
            };
            let now = meant.elapsed();
            self.text += text;
            self.pieces += 1;
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
        if let Some(usage) = chunk.get("usage").filter(|u| u.is_object()) {
            let n = |v: &Value| v.as_u64().unwrap_or(0);
            self.usage = Some(Usage {
                prompt: n(&usage["prompt_tokens"]),
                cached: n(&usage["prompt_tokens_details"]["cached_tokens"]),
                completion: n(&usage["completion_tokens"]),
            });
        }
        Ok(())
    }

    /// Tokens of the answer, at least.
    pub fn tokens(&self) -> u64 {
        self.usage.map_or(self.pieces as u64, |u| u.completion)
    }
}

fn body(response: Response<Body>) -> impl Read {
    response
        .into_body()
        .into_with_config()
        .limit(LONGEST)
        .reader()
}

fn read(response: Response<Body>) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    body(response).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A response of status 200.
fn accepted(response: Response<Body>) -> Result<Response<Body>, Problem> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let answer = parse(&read(response).unwrap_or_default());
    Err(Problem::Status(status.as_u16(), says(&answer["error"])))
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// The words of an error in OpenAI's shape.
fn says(error: &Value) -> String {
    let message = error["message"].as_str().or(error.as_str());
    crate::text::cut(message.unwrap_or(""), SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let base = |url| Client::new(url, None, Duration::from_secs(1)).map(|c| c.base);
        for url in [
            "http://[::1]:8080",
            "http://[::1]:8080/",
            "http://[::1]:8080/v1/",
        ] {
            assert_eq!(base(url).unwrap(), "http://[::1]:8080");
        }
        assert_eq!(
            base("https://a.example/x/v1").unwrap(),
            "https://a.example/x"
        );
        for url in [
            "",
            "localhost:8080",
            "ftp://a.example",
            "http://",
            "/v1",
            "http://a?b=c",
        ] {
            assert!(base(url).is_err(), "{url}");
        }
    }
}

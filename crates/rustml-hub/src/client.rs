//! The hub's HTTP, as far as downloading needs it: list a repository, look at
//! a file, open a file from some byte on.
//!
//! Redirects are followed here and not by the HTTP library, because what the
//! hub says about a file stands on the redirect (`X-Linked-Size`,
//! `X-Linked-ETag`) and because the token must go to the hub alone, never to
//! the storage it points to.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use percent_encoding::{utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use serde::Deserialize;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, BodyReader};

use crate::config::{Config, Endpoint, Origin, Token};
use crate::error::{Error, Result, Unreachable};
use crate::name::{is_safe_path, Name};
use crate::text::harmless;

/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const MOST_REDIRECTS: usize = 10;
/// A listing is some 100 bytes a file; this leaves room for any real one.
const LARGEST_LISTING: u64 = 32 << 20;
/// A server may ask for more patience than this; then the person decides.
const LONGEST_PAUSE: u64 = 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks one server on behalf of one person.
pub(crate) struct Client {
    endpoint: Endpoint,
    token: Option<Token>,
    agent: OnceLock<Agent>,
    timeout: Duration,
    certificates: Option<std::path::PathBuf>,
    /// Attempts after the first.
    pub retries: u32,
    pub retry_wait: Duration,
}

/// A repository at one commit.
pub(crate) struct Listing {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// Names as the server gave them: not to be trusted.
    pub files: Vec<String>,
}

/// What the hub says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub etag: Etag,
    pub size: u64,
}

/// The name of a blob, fit to be a file name. For large files it is the
/// SHA-256 of the content, for small ones git's blob id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Etag(String);

impl Etag {
    /// From a header; `None` if it could not be a file name.
    pub fn parse(header: &str) -> Option<Etag> {
        let text = header.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=' | b'+');
        let good = text.len() <= 128 && is_safe_path(text) && text.bytes().all(plain);
        // Our own suffix for unfinished blobs must not be forged.
        (good && !text.ends_with(".incomplete")).then(|| Etag(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The content's SHA-256 in lower case, if that is what this is.
    pub fn sha256(&self) -> Option<String> {
        (self.0.len() == 64 && self.0.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| self.0.to_ascii_lowercase())
    }
}

/// A file's bytes on their way.
pub(crate) struct Download {
    pub reader: BodyReader<'static>,
    /// Offset of the first byte: what was asked for, or 0 if the server does
    /// not do ranges.
    pub start: u64,
    /// Who sends.
    pub host: String,
}

/// What is being asked for, to say so when it fails.
#[derive(Clone, Copy)]
struct Ask<'a> {
    name: &'a Name,
    file: Option<&'a str>,
}

impl Ask<'_> {
    fn what(&self) -> String {
        match self.file {
            Some(file) => format!("'{}' of '{}'", harmless(file), self.name.repo),
            None => format!("'{}'", self.name.repo),
        }
    }
}

/// An answer after all redirects that were to be followed.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Body,
    origin: Origin,
    linked: Linked,
}

/// What the hub says about the file behind a redirect; the first word counts.
#[derive(Default)]
struct Linked {
    etag: Option<String>,
    size: Option<u64>,
    commit: Option<String>,
}

impl Linked {
    fn read(&mut self, headers: &HeaderMap) {
        let get = |name: &str| text_header(headers, name).map(str::to_owned);
        self.etag = self.etag.take().or_else(|| get("x-linked-etag"));
        self.size = self.size.or_else(|| get("x-linked-size")?.parse().ok());
        self.commit = self.commit.take().or_else(|| get("x-repo-commit"));
    }
}

impl Client {
    pub fn new(config: &Config) -> Client {
        Client {
            endpoint: config.endpoint.clone(),
            token: config.token.clone(),
            agent: OnceLock::new(),
            timeout: config.timeout,
            certificates: config.certificates.clone(),
            retries: config.retries,
            retry_wait: config.retry_wait,
        }
    }

    /// The server as people write it.
    pub fn host(&self) -> String {
        self.endpoint.origin().show()
    }

    /// The newest commit of the named revision and its files.
    pub fn list(&self, name: &Name) -> Result<Listing> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }

        let revision = utf8_percent_encode(name.revision(), ESCAPED);
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.endpoint.url(),
            name.repo
        );
        let ask = Ask { name, file: None };
        let bad = |why: String| self.bad_answer(ask, why);
        let (text, origin) = self.with_retries(|| {
            let mut answer = self.send(ask, false, &url, 0)?;
            if answer.status != 200 {
                return Err(self.refused(ask, &answer));
            }
            let body = answer
                .body
                .with_config()
                .limit(LARGEST_LISTING)
                .read_to_vec();
            let body = body.map_err(|e| failed(&answer.origin, e))?;
            Ok((body, answer.origin))
        })?;
        if origin != *self.endpoint.origin() {
            return Err(bad(format!("it sent us on to {}", origin.show())));
        }
        let info: Info = serde_json::from_slice(&text).map_err(|e| {
            bad(format!(
                "it is not the JSON of a model ({})",
                harmless(&e.to_string())
            ))
        })?;
        if !is_commit(&info.sha) {
            return Err(bad("its commit id is not one".into()));
        }
        Ok(Listing {
            commit: info.sha,
            files: info
                .siblings
                .into_iter()
                .map(|sibling| sibling.rfilename)
                .collect(),
        })
    }

    /// Size and etag of a file.
    pub fn look_at(&self, name: &Name, commit: &str, file: &str) -> Result<Remote> {
        let ask = Ask {
            name,
            file: Some(file),
        };
        let bad = |why: &str| self.bad_answer(ask, why.to_owned());
        let url = self.file_url(name, commit, file);
        self.with_retries(|| {
            let answer = self.send(ask, true, &url, 0)?;
            let Linked {
                etag,
                size,
                commit: sent,
            } = answer.linked;
            let found = etag.is_some() && size.is_some();
            let answer = Answer {
                linked: Linked::default(),
                ..answer
            };
            if answer.status != 200 && !(found && is_redirect(answer.status)) {
                return Err(self.refused(ask, &answer));
            }
            if sent.is_some_and(|sent| sent != commit) {
                return Err(bad("it is of another commit than the listing"));
            }
            let etag = etag
                .as_deref()
                .or_else(|| text_header(&answer.headers, "etag"));
            let etag = etag.ok_or_else(|| bad("it has no ETag"))?;
            let etag =
                Etag::parse(etag).ok_or_else(|| bad("its ETag is unusable as a file name"))?;
            let length = || text_header(&answer.headers, "content-length")?.parse().ok();
            let size = size.or_else(length).ok_or_else(|| bad("it has no size"))?;
            Ok(Remote { etag, size })
        })
    }

    /// Opens a file at byte `from` (less than its size).
    pub fn open(
        &self,
        name: &Name,
        commit: &str,
        file: &str,
        from: u64,
        size: u64,
    ) -> Result<Download> {
        let ask = Ask {
            name,
            file: Some(file),
        };
        let bad = |why: String| self.bad_answer(ask, why);
        let url = self.file_url(name, commit, file);
        let mut answer = self.send(ask, false, &url, from)?;
        let mut start = from;
        let as_asked = |answer: &Answer| {
            content_range(&answer.headers) == Some((from, Some(size)))
                || content_range(&answer.headers) == Some((from, None))
        };
        match answer.status {
            206 if from > 0 && as_asked(&answer) => {}
            200 => start = 0,
            // A range that is refused or answered with another one.
            206 | 416 if from > 0 => {
                answer = self.send(ask, false, &url, 0)?;
                start = 0;
                if answer.status != 200 {
                    return Err(self.refused(ask, &answer));
                }
            }
            _ => return Err(self.refused(ask, &answer)),
        }
        // None was allowed, and nothing could be resumed or compared by size.
        let encoding = text_header(&answer.headers, "content-encoding").unwrap_or("identity");
        if !encoding.eq_ignore_ascii_case("identity") {
            return Err(bad(format!(
                "it came with the encoding {}",
                harmless(encoding)
            )));
        }
        let length = text_header(&answer.headers, "content-length")
            .and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = length.filter(|length| *length != size - start) {
            return Err(bad(format!(
                "{size} bytes were announced, but {length} sent from byte {start} on"
            )));
        }
        Ok(Download {
            reader: answer.body.into_reader(),
            start,
            host: answer.origin.show(),
        })
    }

    /// Runs `attempt` again, later and later, as long as it fails for a
    /// passing reason.
    fn with_retries<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        for failures in 0.. {
            match attempt() {
                Err(e) if e.is_transient() && failures < self.retries => self.pause(failures, e)?,
                result => return result,
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Waits before attempt number `failures + 1`, or gives the error back if
    /// the server wants a longer pause than anybody would sit through.
    pub fn pause(&self, failures: u32, error: Error) -> Result<()> {
        let wait = match error {
            Error::RateLimited {
                wait: Some(seconds),
                ..
            } if seconds > LONGEST_PAUSE => return Err(error),
            Error::RateLimited {
                wait: Some(seconds),
                ..
            } => Duration::from_secs(seconds),
            _ => self.retry_wait.saturating_mul(1 << failures.min(6)),
        };
        std::thread::sleep(wait.min(Duration::from_secs(LONGEST_PAUSE)));
        Ok(())
    }

    fn file_url(&self, name: &Name, commit: &str, file: &str) -> String {
        let file: Vec<String> = file
            .split('/')
            .map(|part| utf8_percent_encode(part, ESCAPED).to_string())
            .collect();
        format!(
            "{}/{}/resolve/{commit}/{}",
            self.endpoint.url(),
            name.repo,
            file.join("/")
        )
    }

    /// One request and its redirects. A HEAD stops at the first answer that
    /// describes the file, a GET goes to the end.
    fn send(&self, ask: Ask, head: bool, url: &str, from: u64) -> Result<Answer> {
        let agent = self.agent()?;
        let bad = |why: String| self.bad_answer(ask, why);
        let mut url = url.to_owned();
        let mut linked = Linked::default();
        for _ in 0..MOST_REDIRECTS {
            let uri: Uri = url
                .parse()
                .map_err(|_| bad("it sent us to something that is no URL".into()))?;
            let origin = Origin::of(&uri)
                .ok_or_else(|| bad("it sent us to something that is not on the web".into()))?;
            let mut request = if head {
                agent.head(&url)
            } else {
                agent.get(&url)
            };
            request = request.header("accept-encoding", "identity");
            if let Some(token) = self
                .token
                .as_ref()
                .filter(|_| origin == *self.endpoint.origin())
            {
                request = request.header("authorization", token.header());
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| failed(&origin, e))?;
            let (parts, body) = response.into_parts();
            // Only the hub itself is believed.
            if origin == *self.endpoint.origin() {
                linked.read(&parts.headers);
            }
            let status = parts.status.as_u16();
            let described = head && linked.etag.is_some() && linked.size.is_some();
            if !is_redirect(status) || described {
                return Ok(Answer {
                    status,
                    headers: parts.headers,
                    body,
                    origin,
                    linked,
                });
            }
            let location = text_header(&parts.headers, "location").unwrap_or("");
            url = redirect(&origin, location)
                .ok_or_else(|| bad(format!("it sent us to '{}'", harmless(location))))?;
        }
        Err(bad(format!("it sent us on {MOST_REDIRECTS} times")))
    }

    fn agent(&self) -> Result<&Agent> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
        let mut config = Agent::config_builder()
            .user_agent(concat!("rustml-hub/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT.min(self.timeout)))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(self.timeout)))
            .timeout_recv_response(Some(self.timeout))
            .timeout_per_read(Some(self.timeout));
        if self.endpoint.origin().is_loopback() {
            config = config.proxy(None);
        }
        if let Some(file) = &self.certificates {
            let roots = RootCerts::Specific(Arc::new(certificates(file)?));
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(self.agent.get_or_init(|| config.build().new_agent()))
    }

    fn bad_answer(&self, ask: Ask, why: String) -> Error {
        Error::BadAnswer {
            host: self.host(),
            what: ask.what(),
            why,
        }
    }

    /// The error for an answer that is not the thing asked for.
    fn refused(&self, ask: Ask, answer: &Answer) -> Error {
        let status = answer.status;
        let host = answer.origin.show();
        let name = ask.name.repo.clone();
        let code = text_header(&answer.headers, "x-error-code").unwrap_or("");
        let said = text_header(&answer.headers, "x-error-message").map(harmless);
        let detail = said.map(|said| format!(", \"{said}\"")).unwrap_or_default();
        let page = format!("{}/{name}", self.endpoint.url());
        let token_sent = self.token.is_some();
        if status == 429 {
            let wait = wait_seconds(&answer.headers);
            return Error::RateLimited { host, wait };
        }
        // What the storage behind the hub answers says nothing about models.
        if answer.origin != *self.endpoint.origin() {
            return Error::Server {
                host,
                status,
                detail,
                what: ask.what(),
            };
        }
        match (status, code, ask.file) {
            (401 | 403, "GatedRepo", _) => Error::Gated {
                name,
                status,
                page,
                token_sent,
            },
            (_, "RevisionNotFound", _) => Error::NoRevision {
                name,
                revision: ask.name.revision().to_owned(),
            },
            (404, "RepoNotFound", _) => Error::NotFound { name, host },
            (404, _, Some(file)) => Error::NoFile {
                name,
                file: harmless(file),
                available: Vec::new(),
            },
            (404, _, None) => Error::NotFound { name, host },
            (401 | 403, _, _) => Error::Unauthorized {
                name,
                host,
                status,
                detail,
                page,
                token_sent,
            },
            (400.., _, _) => Error::Server {
                host,
                status,
                detail,
                what: ask.what(),
            },
            _ => self.bad_answer(ask, format!("HTTP {status}")),
        }
    }
}

/// Whether this is a full git commit id (SHA-1, or SHA-256 one day).
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Why reading a body failed, in a few words.
pub(crate) fn read_failure(error: std::io::Error) -> String {
    match ureq::Error::from(error) {
        ureq::Error::Timeout(_) => "it stopped sending".into(),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed".into()
        }
        e => harmless(&e.to_string()),
    }
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// First byte and total of `Content-Range: bytes 10-99/100` (or `/*`).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = text_header(headers, "content-range")?
        .trim()
        .strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.trim().parse().ok()?, total))
}

/// Seconds to wait, from `Retry-After: 30` or `RateLimit: "api";r=0;t=30`.
fn wait_seconds(headers: &HeaderMap) -> Option<u64> {
    let retry = text_header(headers, "retry-after").and_then(|text| text.trim().parse().ok());
    retry.or_else(|| {
        let limit = text_header(headers, "ratelimit")?;
        limit
            .split(';')
            .find_map(|part| part.trim().strip_prefix("t=")?.trim().parse().ok())
    })
}

/// The URL a `Location` means. `None` if it means none, or if it leads from
/// https to http.
fn redirect(origin: &Origin, location: &str) -> Option<String> {
    let scheme = if origin.https { "https" } else { "http" };
    let url = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", origin.show())
    } else {
        location.to_owned()
    };
    let target = Origin::of(&url.parse().ok()?)?;
    (target.https || !origin.https).then_some(url)
}

/// What a failed exchange means.
fn failed(origin: &Origin, error: ureq::Error) -> Error {
    use std::io::ErrorKind as Kind;
    let why = match error {
        ureq::Error::HostNotFound => Unreachable::Name,
        ureq::Error::Timeout(ureq::Timeout::Resolve) => Unreachable::Name,
        ureq::Error::Timeout(ureq::Timeout::Connect) => Unreachable::Timeout,
        ureq::Error::Timeout(_) => Unreachable::Broken("it stopped answering".into()),
        ureq::Error::ConnectionFailed => Unreachable::Refused,
        ureq::Error::InvalidProxyUrl => Unreachable::Proxy("its URL is invalid".into()),
        ureq::Error::ConnectProxyFailed(why) => Unreachable::Proxy(harmless(&why)),
        ureq::Error::Tls(why) => Unreachable::Tls(why.into()),
        ureq::Error::Rustls(why) => Unreachable::Tls(harmless(&why.to_string())),
        ureq::Error::Io(e) => match e.kind() {
            Kind::ConnectionRefused => Unreachable::Refused,
            Kind::TimedOut => Unreachable::Timeout,
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable => Unreachable::NoRoute,
            _ if is_lookup_failure(&e) => Unreachable::Name,
            // rustls reports a bad certificate as invalid data.
            Kind::InvalidData if origin.https => Unreachable::Tls(harmless(&e.to_string())),
            Kind::UnexpectedEof => Unreachable::Broken("it closed the connection".into()),
            _ => Unreachable::Broken(harmless(&e.to_string())),
        },
        ureq::Error::Protocol(e) => {
            return Error::BadAnswer {
                host: origin.show(),
                what: "a page".into(),
                why: format!("it does not speak HTTP ({})", harmless(&e.to_string())),
            }
        }
        ureq::Error::BodyExceedsLimit(_) => {
            return Error::BadAnswer {
                host: origin.show(),
                what: "a listing".into(),
                why: "it is far too long".into(),
            }
        }
        e => Unreachable::Broken(harmless(&e.to_string())),
    };
    Error::Unreachable {
        host: origin.show(),
        why,
    }
}

/// std has no error kind for a name that does not resolve: on Unix the text
/// tells, on Windows the codes 11001 to 11004 of Winsock.
fn is_lookup_failure(error: &std::io::Error) -> bool {
    error.to_string().contains("failed to lookup address")
        || (cfg!(windows)
            && error
                .raw_os_error()
                .is_some_and(|code| (11001..=11004).contains(&code)))
}

/// The certificates in a PEM bundle; other items are skipped.
fn certificates(file: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>> {
    let bad = |why: String| Error::BadSetting {
        variable: "SSL_CERT_FILE",
        why: format!("'{}' {why}", file.display()),
    };
    let mut pem = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(64 << 20).read_to_end(&mut pem))
        .map_err(|e| bad(format!("cannot be read: {e}")))?;
    let found: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(bad("holds no certificates".into())),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn etags_become_file_names_or_nothing() {
        let sha = "A".repeat(64);
        for (header, etag) in [
            ("\"abc123\"", Some("abc123")),
            ("W/\"abc-1\"", Some("abc-1")),
            (sha.as_str(), Some(sha.as_str())),
            ("\"../../evil\"", None),
            ("\"/etc/passwd\"", None),
            ("\"a\\b\"", None),
            ("\"..\"", None),
            ("\"x.incomplete\"", None),
            ("\"\"", None),
        ] {
            assert_eq!(
                Etag::parse(header).as_ref().map(Etag::as_str),
                etag,
                "{header}"
            );
        }
        assert_eq!(Etag::parse(&sha).unwrap().sha256(), Some("a".repeat(64)));
        assert_eq!(Etag::parse("abc123").unwrap().sha256(), None);
    }

    #[test]
    fn redirects_stay_on_the_web_and_never_drop_encryption() {
        let hub = origin("https://hub.example/x");
        let to = |location: &str| redirect(&hub, location);
        assert_eq!(to("/a/b?c").as_deref(), Some("https://hub.example/a/b?c"));
        assert_eq!(
            to("//cdn.example/a").as_deref(),
            Some("https://cdn.example/a")
        );
        assert_eq!(
            to("https://cdn.example/a").as_deref(),
            Some("https://cdn.example/a")
        );
        for bad in [
            "http://cdn.example/a",
            "ftp://x/y",
            "file:///etc/passwd",
            "a/b",
            "",
            "javascript:1",
        ] {
            assert_eq!(to(bad), None, "{bad}");
        }
        let plain = origin("http://localhost:80/");
        assert!(redirect(&plain, "https://cdn.example/a").is_some());
    }

    #[test]
    fn ranges_and_waits_are_read() {
        let headers = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        let range = |value| content_range(&headers("content-range", value));
        assert_eq!(range("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(range("bytes 10-99/*"), Some((10, None)));
        assert_eq!(range("bytes */100"), None);
        assert_eq!(range("items 1-2/3"), None);
        assert_eq!(wait_seconds(&headers("retry-after", "12")), Some(12));
        assert_eq!(
            wait_seconds(&headers("ratelimit", "\"api\";r=0;t=55")),
            Some(55)
        );
        assert_eq!(
            wait_seconds(&headers("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")),
            None
        );
    }
}

//! What downloading asks of a hub: list a repository, look at a file, open a
//! file from some byte on; and what its refusals mean.

use std::time::Duration;

use hf_hub::api::RepoInfo;
use ureq::http::HeaderMap;
use ureq::BodyReader;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::{drain, failed, is_redirect, text_header, Answer, Ask, Http, Part};
use crate::name::{is_safe_path, Name};
use crate::text::harmless;

/// A listing is some 100 bytes a file; this leaves room for any real one.
const LARGEST_LISTING: u64 = 32 << 20;
/// A server may ask for more patience than this; then the person decides.
const LONGEST_PAUSE: u64 = 30;

/// Asks one server on behalf of one person.
pub(crate) struct Client {
    http: Http,
    /// Attempts after the first.
    pub retries: u32,
    pub retry_wait: Duration,
    /// The longest silence of a server.
    pub timeout: Duration,
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
        self.digits(64)
    }

    /// Git's id of the content as a blob, in lower case, if that is what this
    /// is: the SHA-1 of a header and the content.
    pub fn git_blob(&self) -> Option<String> {
        self.digits(40)
    }

    fn digits(&self, count: usize) -> Option<String> {
        (self.0.len() == count && self.0.bytes().all(|b| b.is_ascii_hexdigit()))
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

impl Client {
    pub fn new(config: &Config) -> Client {
        Client {
            http: Http::new(config),
            retries: config.retries,
            retry_wait: config.retry_wait,
            timeout: config.timeout,
        }
    }

    /// The server as people write it.
    pub fn host(&self) -> String {
        self.http.endpoint.origin().show()
    }

    /// The newest commit of the named revision and its files.
    pub fn list(&self, name: &Name) -> Result<Listing> {
        let ask = Ask {
            name,
            revision: name.revision(),
            file: None,
        };
        let bad = |why: String| self.http.bad_answer(ask, why);
        let (text, origin) = self.with_retries(|| {
            let mut answer = self.http.send(ask, Part::Whole)?;
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
        if origin != *self.http.endpoint.origin() {
            return Err(bad(format!("it sent us on to {}", origin.show())));
        }
        let info: RepoInfo = serde_json::from_slice(&text).map_err(|e| {
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
            revision: commit,
            file: Some(file),
        };
        let bad = |why: &str| self.http.bad_answer(ask, why.to_owned());
        self.with_retries(|| {
            let mut answer = self.http.send(ask, Part::Look)?;
            if answer.status == 416 {
                // An empty file has no first byte.
                answer = self.http.send(ask, Part::Whole)?;
            }
            let linked = &answer.linked;
            let found = linked.etag.is_some() && linked.size.is_some();
            let size = match answer.status {
                200 => text_header(&answer.headers, "content-length")
                    .and_then(|text| text.parse().ok()),
                206 => content_range(&answer.headers).and_then(|(_, total)| total),
                status if found && is_redirect(status) => None,
                _ => return Err(self.refused(ask, &answer)),
            };
            if linked.commit.as_ref().is_some_and(|sent| sent != commit) {
                return Err(bad("it is of another commit than the listing"));
            }
            let etag = linked.etag.as_deref();
            let etag = etag.or_else(|| text_header(&answer.headers, "etag"));
            let etag = etag.ok_or_else(|| bad("it has no ETag"))?;
            let etag =
                Etag::parse(etag).ok_or_else(|| bad("its ETag is unusable as a file name"))?;
            let size = linked.size.or(size).ok_or_else(|| bad("it has no size"))?;
            drain(answer.body);
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
            revision: commit,
            file: Some(file),
        };
        let bad = |why: String| self.http.bad_answer(ask, why);
        let part = match from {
            0 => Part::Whole,
            from => Part::From(from),
        };
        let mut answer = self.http.send(ask, part)?;
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
                answer = self.http.send(ask, Part::Whole)?;
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

    /// The error for an answer that is not the thing asked for.
    fn refused(&self, ask: Ask, answer: &Answer) -> Error {
        let status = answer.status;
        let host = answer.origin.show();
        let name = ask.name.repo.clone();
        let code = text_header(&answer.headers, "x-error-code").unwrap_or("");
        let said = text_header(&answer.headers, "x-error-message").map(harmless);
        let detail = said.map(|said| format!(", \"{said}\"")).unwrap_or_default();
        let page = format!("{}/{name}", self.http.endpoint.url());
        let token_sent = self.http.token.is_some();
        if status == 429 {
            let wait = wait_seconds(&answer.headers);
            return Error::RateLimited { host, wait };
        }
        // What the storage behind the hub answers says nothing about models.
        if answer.origin != *self.http.endpoint.origin() {
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
            _ => self.http.bad_answer(ask, format!("HTTP {status}")),
        }
    }
}

/// Whether this is a full git commit id (SHA-1, or SHA-256 one day).
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
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

#[cfg(test)]
mod tests {
    use super::*;

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

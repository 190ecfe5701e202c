//! One exchange with the hub: its redirects, its failures, who may see the token.
//!
//! The requests are `hf-hub`'s: its connections, its URLs, its credentials.
//! Redirects are followed here, because what the hub says about a file stands
//! on the redirect (`X-Linked-Size`, `X-Linked-ETag`) and because the token
//! must go to the hub alone, never to the storage it points to.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use percent_encoding::{utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::typestate::WithoutBody;
use ureq::{Body, RequestBuilder};

use crate::config::{Config, Endpoint, Origin, Token};
use crate::error::{Error, Result, Unreachable};
use crate::name::Name;
use crate::text::harmless;

const MOST_REDIRECTS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Talks to one hub on behalf of one person.
pub(crate) struct Http {
    pub endpoint: Endpoint,
    pub token: Option<Token>,
    cache: PathBuf,
    timeout: Duration,
    certificates: Option<PathBuf>,
    api: OnceLock<(Api, Option<TlsConfig>)>,
}

/// What is being asked for: a file at a commit, or the listing at a revision.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub name: &'a Name,
    pub revision: &'a str,
    pub file: Option<&'a str>,
}

impl Ask<'_> {
    pub fn what(&self) -> String {
        match self.file {
            Some(file) => format!("'{}' of '{}'", harmless(file), self.name.repo),
            None => format!("'{}'", self.name.repo),
        }
    }
}

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// From this byte on.
    From(u64),
    /// Only what the hub says about it. `hf-hub` makes no HEAD requests, so
    /// this is a GET of one byte, as in `hf-hub`'s own look at a file.
    Look,
}

/// An answer after all redirects that were to be followed.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
    pub origin: Origin,
    pub linked: Linked,
}

/// What the hub says about the file behind a redirect; the first word counts.
#[derive(Default)]
pub(crate) struct Linked {
    pub etag: Option<String>,
    pub size: Option<u64>,
    pub commit: Option<String>,
}

impl Linked {
    fn read(&mut self, headers: &HeaderMap) {
        let get = |name: &str| text_header(headers, name).map(str::to_owned);
        self.etag = self.etag.take().or_else(|| get("x-linked-etag"));
        self.size = self.size.or_else(|| get("x-linked-size")?.parse().ok());
        self.commit = self.commit.take().or_else(|| get("x-repo-commit"));
    }
}

impl Http {
    pub fn new(config: &Config) -> Http {
        Http {
            endpoint: config.endpoint.clone(),
            token: config.token.clone(),
            cache: config.cache.clone(),
            timeout: config.timeout,
            certificates: config.certificates.clone(),
            api: OnceLock::new(),
        }
    }

    /// One request and its redirects. A look stops at the first answer that
    /// describes the file, anything else goes to the end.
    pub fn send(&self, ask: Ask, part: Part) -> Result<Answer> {
        let (api, tls) = self.api()?;
        let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let repo = api.repo(Repo::with_revision(
            ask.name.repo.clone(),
            RepoType::Model,
            escape(ask.revision),
        ));
        let mut url = match ask.file {
            Some(file) => repo.url(&file.split('/').map(escape).collect::<Vec<_>>().join("/")),
            None => repo
                .info_request()
                .uri_ref()
                .map(Uri::to_string)
                .unwrap_or_default(),
        };
        let bad = |why: String| self.bad_answer(ask, why);
        let mut linked = Linked::default();
        for _ in 0..MOST_REDIRECTS {
            let uri: Uri = url
                .parse()
                .map_err(|_| bad("it sent us to something that is no URL".into()))?;
            let origin = Origin::of(&uri)
                .ok_or_else(|| bad("it sent us to something that is not on the web".into()))?;
            let request = self.request(&repo, tls.as_ref(), uri, &origin, part);
            let response = request.call().map_err(|e| failed(&origin, e))?;
            let (parts, body) = response.into_parts();
            // Only the hub itself is believed.
            if origin == *self.endpoint.origin() {
                linked.read(&parts.headers);
            }
            let status = parts.status.as_u16();
            let described = part == Part::Look && linked.etag.is_some() && linked.size.is_some();
            if !is_redirect(status) || described {
                return Ok(Answer {
                    status,
                    headers: parts.headers,
                    body,
                    origin,
                    linked,
                });
            }
            drain(body);
            let location = text_header(&parts.headers, "location").unwrap_or("");
            url = redirect(&origin, location).ok_or_else(|| {
                let location = harmless(location);
                bad(format!(
                    "it sent us to '{location}', which is no URL or gives up https"
                ))
            })?;
        }
        Err(bad(format!("it sent us on {MOST_REDIRECTS} times")))
    }

    /// `hf-hub`'s request, for this URL, with the limits it lacks.
    fn request(
        &self,
        repo: &ApiRepo,
        tls: Option<&TlsConfig>,
        uri: Uri,
        origin: &Origin,
        part: Part,
    ) -> RequestBuilder<WithoutBody> {
        let mut request = repo
            .info_request()
            .uri(uri)
            // Compressed, a file could be neither resumed nor compared by size.
            .header("accept-encoding", "identity");
        match part {
            Part::Whole => {}
            Part::From(byte) => request = request.header("range", format!("bytes={byte}-")),
            Part::Look => request = request.header("range", "bytes=0-0"),
        }
        if *origin != *self.endpoint.origin() {
            if let Some(headers) = request.headers_mut() {
                headers.remove("authorization");
            }
        }
        let mut config = request
            .config()
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
        if let Some(tls) = tls {
            config = config.tls_config(tls.clone());
        }
        config.build()
    }

    /// The client of `hf-hub`, and what to trust if not the usual certificates.
    fn api(&self) -> Result<&(Api, Option<TlsConfig>)> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let tls = self.certificates.as_deref().map(|file| {
            let roots = RootCerts::Specific(Arc::new(certificates(file)?));
            Ok(TlsConfig::builder().root_certs(roots).build())
        });
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.url().to_owned())
            .with_token(self.token.as_ref().map(|token| token.text().to_owned()))
            .with_user_agent("rustml-hub", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| Error::Unreachable {
                host: self.endpoint.origin().show(),
                why: Unreachable::Tls(harmless(&e.to_string())),
            })?;
        let tls = tls.transpose()?;
        Ok(self.api.get_or_init(|| (api, tls)))
    }

    pub fn bad_answer(&self, ask: Ask, why: String) -> Error {
        Error::BadAnswer {
            host: self.endpoint.origin().show(),
            what: ask.what(),
            why,
        }
    }
}

/// Reads a short body that nobody wants: only then can the connection be used
/// again. A long or slow one is not worth it.
pub(crate) fn drain(body: Body) {
    let (mut reader, mut buffer) = (body.into_reader(), [0; 4096]);
    for _ in 0..3 {
        if !matches!(reader.read(&mut buffer), Ok(1..)) {
            return;
        }
    }
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

pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

pub(crate) fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
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
pub(crate) fn failed(origin: &Origin, error: ureq::Error) -> Error {
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
}

//! Where the cache is, which server to ask and as whom: the environment that
//! Hugging Face's own tools read, so that one setting serves them all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use crate::error::{Error, Result};
use crate::progress::Progress;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// All settings of a [`Hub`](crate::Hub).
#[derive(Clone)]
pub(crate) struct Config {
    pub cache: PathBuf,
    pub endpoint: Endpoint,
    pub token: Option<Token>,
    pub offline: bool,
    pub progress: Progress,
    /// Attempts after the first one that failed for a passing reason.
    pub retries: u32,
    /// Wait before the first of them; doubled each time.
    pub retry_wait: Duration,
    /// Longest silence of the server.
    pub timeout: Duration,
    /// Certificates to trust instead of the built-in ones (`SSL_CERT_FILE`).
    pub certificates: Option<PathBuf>,
}

impl Config {
    /// Reads the settings through `get`, so that tests need no real environment.
    pub fn from_lookup(
        get: impl Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Config> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let path =
            |name: &str| get(name).map(|value| expand_home(PathBuf::from(value), home.as_deref()));
        let text = |name: &'static str| {
            get(name)
                .map(|value| {
                    value.into_string().map_err(|_| Error::BadSetting {
                        variable: name,
                        why: "it is not valid UTF-8".into(),
                    })
                })
                .transpose()
        };

        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| Error::BadSetting {
                variable: "HF_HOME",
                why: "there is no home directory to put a cache in; set HF_HOME to a directory"
                    .into(),
            })?;
        let endpoint = text("HF_ENDPOINT")?;
        let token = match (text("HF_TOKEN")?, text("HUGGING_FACE_HUB_TOKEN")?) {
            (Some(token), _) => Some(Token::new(&token, "HF_TOKEN")?),
            (None, Some(token)) => Some(Token::new(&token, "HUGGING_FACE_HUB_TOKEN")?),
            (None, None) => {
                let file = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
                file.map(|file| Token::read(&file)).transpose()?.flatten()
            }
        };
        let timeout = match text("HF_HUB_DOWNLOAD_TIMEOUT")? {
            None => 30,
            Some(value) => match value.parse() {
                Ok(seconds) if seconds > 0 => seconds,
                _ => {
                    return Err(Error::BadSetting {
                        variable: "HF_HUB_DOWNLOAD_TIMEOUT",
                        why: "it is a whole number of seconds, as in 30".into(),
                    })
                }
            },
        };
        let offline = text("HF_HUB_OFFLINE")?.is_some_and(|value| is_true(&value));
        let quiet = text("HF_HUB_DISABLE_PROGRESS_BARS")?.is_some_and(|value| is_true(&value));
        Ok(Config {
            cache,
            endpoint: Endpoint::parse(endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?,
            token,
            offline,
            progress: if quiet {
                Progress::Quiet
            } else {
                Progress::Auto
            },
            retries: 4,
            retry_wait: Duration::from_millis(500),
            timeout: Duration::from_secs(timeout),
            certificates: path("SSL_CERT_FILE"),
        })
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

fn expand_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// An access token. It has no `Debug` and no `Display`: it belongs into one
/// header and nowhere else.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    pub fn new(text: &str, variable: &'static str) -> Result<Token> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::BadSetting {
                variable,
                why: "a token is one word of plain letters and digits, as in hf_abc123".into(),
            });
        }
        Ok(Token(text.to_owned()))
    }

    /// The token in a file, as `hf auth login` leaves it; a missing or empty
    /// file is no token, an unreadable one is an error.
    fn read(file: &Path) -> Result<Option<Token>> {
        match std::fs::read_to_string(file) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Token::new(&text, "the token file in HF_HOME").map(Some),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(Error::io("read the token in", file, e)),
        }
    }

    /// For the `Authorization` header, and for nothing else.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The server: `https://huggingface.co` or a mirror, perhaps below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without a slash at the end.
    url: String,
    origin: Origin,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Endpoint> {
        let bad = |why: &str| Error::BadSetting {
            variable: "HF_ENDPOINT",
            why: format!("'{}' {why}", crate::text::harmless(text)),
        };
        let url = text.trim().trim_end_matches('/');
        let uri: Uri = url
            .parse()
            .map_err(|_| bad("is not a URL such as https://huggingface.co"))?;
        if uri.query().is_some() || url.contains('#') {
            return Err(bad("must not have '?' or '#'"));
        }
        let origin = Origin::of(&uri).ok_or_else(|| bad("must begin with https:// or http://"))?;
        Ok(Endpoint {
            url: url.to_owned(),
            origin,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// Scheme, host and port: what a token may be shown to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub https: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// `None` unless the URL is absolute, and http or https.
    pub fn of(uri: &Uri) -> Option<Origin> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Origin {
            https,
            host: uri
                .host()
                .filter(|host| !host.is_empty())?
                .to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        })
    }

    /// Whether the server is this very machine, which no proxy can reach.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }

    /// As people write it: the port only if it is not the usual one.
    pub fn show(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: &[(&str, &str)]) -> Result<Config> {
        let get = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Config::from_lookup(get, Some("/home/me".into()))
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        for (set, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (
                &[("XDG_CACHE_HOME", "/c"), ("HF_HOME", "~/hf")],
                "/home/me/hf/hub",
            ),
            (
                &[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/old",
            ),
            (
                &[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")],
                "/new",
            ),
            (&[("HF_HUB_CACHE", ""), ("HF_HOME", "/hf")], "/hf/hub"),
        ] {
            assert_eq!(config(set).unwrap().cache, Path::new(cache), "{set:?}");
        }
        let homeless = Config::from_lookup(|_| None, None);
        assert!(matches!(
            homeless,
            Err(Error::BadSetting {
                variable: "HF_HOME",
                ..
            })
        ));
    }

    #[test]
    fn the_token_comes_from_the_environment_or_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let token = |set: &[(&str, &str)]| {
            config(set)
                .unwrap()
                .token
                .map(|token| token.text().to_owned())
        };
        assert_eq!(token(&[("HF_HOME", home)]), None);
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env ")]).as_deref(),
            Some("hf_env")
        );
        let bad = config(&[("HF_TOKEN", "two words\r\nX-Evil: 1")])
            .err()
            .unwrap();
        assert!(!bad.to_string().contains("two words"), "{bad}");
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds() {
        let timeout = |value: &str| {
            config(&[("HF_HUB_DOWNLOAD_TIMEOUT", value)]).map(|config| config.timeout.as_secs())
        };
        assert_eq!(timeout("").unwrap(), 30);
        assert_eq!(timeout("90").unwrap(), 90);
        for bad in ["0", "-1", "1.5", "soon"] {
            assert!(
                matches!(timeout(bad), Err(Error::BadSetting { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn offline_and_endpoint() {
        for (value, offline) in [
            ("1", true),
            ("true", true),
            ("YES", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                config(&[("HF_HUB_OFFLINE", value)]).unwrap().offline,
                offline
            );
        }
        let endpoint =
            |value: &str| config(&[("HF_ENDPOINT", value)]).map(|config| config.endpoint);
        assert_eq!(endpoint("").unwrap().url(), DEFAULT_ENDPOINT);
        let mirror = endpoint("http://localhost:8080/hf/").unwrap();
        assert_eq!(mirror.url(), "http://localhost:8080/hf");
        assert_eq!(mirror.origin().show(), "localhost:8080");
        assert!(mirror.origin().is_loopback());
        for bad in [
            "huggingface.co",
            "ftp://x",
            "https://",
            "https://x/?a",
            "https:// x",
            "/path",
        ] {
            assert!(
                matches!(endpoint(bad), Err(Error::BadSetting { .. })),
                "{bad}"
            );
        }
    }
}

//! What people write for a model, taken apart; and which foreign names are safe.

use std::fmt;

use crate::error::{Error, Result};

/// A model of the hub as written by a person:
/// `org/name[@revision][:TAG]` or `org/name/dir/file.gguf[@revision]`.
///
/// The revision may also come last (`org/name:Q8_0@main`); a model's page
/// (`https://huggingface.co/org/name/tree/main`) is understood too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// `org/name`, or `name` for the few models without an owner.
    pub repo: String,
    /// Branch, tag or commit, if one was given.
    pub revision: Option<String>,
    /// What is wanted of the repository.
    pub want: Want,
}

/// What is wanted of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// Whatever suits best.
    Any,
    /// The GGUF file of this quantisation, such as `Q4_K_M`.
    Tag(String),
    /// This GGUF file.
    File(String),
}

impl Name {
    /// Takes a name apart; says what is wrong with it if that is impossible.
    pub fn parse(text: &str) -> Result<Name> {
        let bad = |why: &str| Error::BadName {
            name: crate::text::harmless(text),
            why: why.to_owned(),
        };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if looks_like_path(text) {
            return Err(Error::NoSuchPath { path: text.into() });
        }
        let text = match text.split_once("://") {
            Some((_, page)) => from_page(page).ok_or_else(|| bad("it is no model's page"))?,
            // As Ollama and llama.cpp write names of the hub.
            None => match ["hf.co/", "huggingface.co/"]
                .iter()
                .find_map(|host| text.strip_prefix(host))
            {
                Some(page) => page.to_owned(),
                None => text.to_owned(),
            },
        };

        let (left, right) = match text.split_once('@') {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        // A colon cannot occur in a git ref, so the tag may stand on either side.
        let (left, tag_left) = split_tag(left);
        let (revision, tag_right) = match right {
            Some(right) => {
                let (revision, tag) = split_tag(right);
                (Some(revision), tag)
            }
            None => (None, None),
        };
        if tag_left.is_some() && tag_right.is_some() {
            return Err(bad("it has two tags"));
        }
        let tag = tag_left.or(tag_right);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad(
                "what follows ':' must be a quantisation such as Q4_K_M",
            ));
        }
        if let Some(revision) = revision {
            if !is_safe_path(revision) {
                return Err(bad("what follows '@' must be a branch, a tag or a commit"));
            }
        }

        let mut parts = left.splitn(3, '/');
        let (owner, name, file) = (parts.next(), parts.next(), parts.next());
        let repo = match (owner, name) {
            (Some(owner), Some(name)) => format!("{owner}/{name}"),
            _ => left.to_owned(),
        };
        if !repo.split('/').all(is_repo_part) {
            return Err(bad(
                "owner and name are letters, digits, '-', '_' and '.', at most 96, without '--' or '..'",
            ));
        }
        let want = match (file, tag) {
            (Some(_), Some(_)) => return Err(bad("it names a file and a tag")),
            (Some(file), None) if !is_safe_path(file) => {
                return Err(bad("the file is not a plain relative path"))
            }
            (Some(file), None) if !has_extension(file, "gguf") => {
                return Err(bad("of a model only a .gguf file can be named"))
            }
            (Some(file), None) => Want::File(file.to_owned()),
            (None, Some(tag)) => Want::Tag(tag.to_owned()),
            (None, None) => Want::Any,
        };
        Ok(Name {
            repo,
            revision: revision.map(str::to_owned),
            want,
        })
    }

    /// The revision to ask for: the one given, or `main`.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The folder of this repository in a cache: `models--org--name`.
    pub fn folder(&self) -> String {
        format!("models--{}", self.repo.replace('/', "--"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Want::File(file) = &self.want {
            write!(f, "/{file}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Want::Tag(tag) = &self.want {
            write!(f, ":{tag}")?;
        }
        Ok(())
    }
}

/// The repository of a cache folder, the inverse of [`Name::folder`]; `--` is
/// not allowed in names, so there is one.
pub(crate) fn repo_of_folder(folder: &str) -> Option<String> {
    let repo = folder.strip_prefix("models--")?.replace("--", "/");
    let mut parts = 0;
    let good = repo.split('/').all(|part| {
        parts += 1;
        is_repo_part(part)
    });
    (good && parts <= 2).then_some(repo)
}

/// Whether text can only mean a path: `./x`, `/x`, `~/x`, `x\y`, `C:/x`, `x.gguf`.
fn looks_like_path(text: &str) -> bool {
    let drive = text.as_bytes().get(1) == Some(&b':')
        && matches!(text.as_bytes().get(2), Some(b'/' | b'\\'));
    let model_file = (has_extension(text, "gguf") || has_extension(text, "safetensors"))
        && text.split('/').count() < 3;
    text.starts_with(['.', '/', '~']) || text.contains('\\') || drive || model_file
}

/// `host/org/name[/(tree|blob|resolve)/revision[/file]]` as our own notation.
fn from_page(page: &str) -> Option<String> {
    let page = page.split(['?', '#']).next()?.trim_end_matches('/');
    let mut parts = page.splitn(6, '/').skip(1);
    let mut text = format!("{}/{}", parts.next()?, parts.next()?);
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => {}
        (Some("tree" | "blob" | "resolve"), Some(revision), None) => {
            text += &format!("@{revision}");
        }
        (Some("blob" | "resolve"), Some(revision), Some(file)) => {
            text += &format!("/{file}@{revision}");
        }
        _ => return None,
    }
    Some(text)
}

fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((text, tag)) => (text, Some(tag)),
        None => (text, None),
    }
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= 64
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// The hub's own rule for owners and names.
fn is_repo_part(part: &str) -> bool {
    (1..=96).contains(&part.len())
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether a name from elsewhere stays inside the directory it is joined to,
/// on every system: plain components, no `..`, no root, no drive, no stream,
/// nothing a terminal or a file system would read as more than a name.
pub(crate) fn is_safe_path(path: &str) -> bool {
    path.len() <= 1024 && path.split('/').all(is_safe_component)
}

fn is_safe_component(part: &str) -> bool {
    const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];
    let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
    let numbered = stem.len() == 4
        && (stem.starts_with("com") || stem.starts_with("lpt"))
        && stem.ends_with(|c: char| c.is_ascii_digit());
    (1..=255).contains(&part.len())
        && part != "."
        && part != ".."
        && !part.ends_with(['.', ' '])
        && !part
            .chars()
            .any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
        && !DEVICES.contains(&stem.as_str())
        && !numbered
}

/// Case-insensitive test of what follows the last dot.
pub(crate) fn has_extension(file: &str, extension: &str) -> bool {
    file.rsplit_once('.')
        .is_some_and(|(stem, e)| !stem.is_empty() && e.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(repo: &str, revision: Option<&str>, want: Want) -> Name {
        Name {
            repo: repo.into(),
            revision: revision.map(Into::into),
            want,
        }
    }

    #[test]
    fn names_people_write() {
        let tag = |t: &str| Want::Tag(t.into());
        let file = |f: &str| Want::File(f.into());
        for (text, expected) in [
            ("gpt2", name("gpt2", None, Want::Any)),
            ("hf.co/org/name", name("org/name", None, Want::Any)),
            ("hf.co/org/name:Q8_0", name("org/name", None, tag("Q8_0"))),
            (
                "huggingface.co/org/name:Q8_0",
                name("org/name", None, tag("Q8_0")),
            ),
            (
                "hf.co/org/name/dir/x.gguf",
                name("org/name", None, file("dir/x.gguf")),
            ),
            ("org/name", name("org/name", None, Want::Any)),
            ("org/name@v1.0", name("org/name", Some("v1.0"), Want::Any)),
            (
                "org/name@refs/pr/1",
                name("org/name", Some("refs/pr/1"), Want::Any),
            ),
            ("org/name:Q4_K_M", name("org/name", None, tag("Q4_K_M"))),
            (
                "org/name@main:Q8_0",
                name("org/name", Some("main"), tag("Q8_0")),
            ),
            (
                "org/name:Q8_0@main",
                name("org/name", Some("main"), tag("Q8_0")),
            ),
            ("org/name/a.gguf", name("org/name", None, file("a.gguf"))),
            (
                "org/name/d/a.GGUF@x",
                name("org/name", Some("x"), file("d/a.GGUF")),
            ),
            (
                "https://huggingface.co/org/name",
                name("org/name", None, Want::Any),
            ),
            (
                "https://huggingface.co/org/name/tree/main/",
                name("org/name", Some("main"), Want::Any),
            ),
            (
                "https://huggingface.co/org/name/blob/main/d/a.gguf?download=true",
                name("org/name", Some("main"), file("d/a.gguf")),
            ),
        ] {
            assert_eq!(Name::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn names_are_written_as_they_are_read() {
        for text in ["gpt2", "org/name@refs/pr/1:Q8_0", "org/name/d/a.gguf@v1"] {
            assert_eq!(Name::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for text in [
            "",
            "org//name",
            "org/",
            "-org/name",
            "org/na--me",
            "org/..",
            "org/name@",
            "org/name@../x",
            "org/name:",
            "org/name:Q4 K",
            "org/name:a@b:c",
            "org/name/a.gguf:Q8_0",
            "org/name/a.bin",
            "org/name/../../etc/x.gguf",
            "org/name/",
            "o rg/name",
            "org/näme",
            "https://huggingface.co/org",
            "https://huggingface.co/datasets/org/name",
            "org/name@a b\n",
        ] {
            let error = Name::parse(text);
            assert!(
                matches!(error, Err(Error::BadName { .. })),
                "{text}: {error:?}"
            );
        }
        for text in [
            "./x",
            "../x",
            "/x/y",
            "~/m",
            "a\\b",
            "C:/m",
            "x.gguf",
            "dir/x.gguf",
            "m.safetensors",
        ] {
            assert!(
                matches!(Name::parse(text), Err(Error::NoSuchPath { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn folders_and_back() {
        for repo in ["gpt2", "org/name", "a.b/c-d_e"] {
            let folder = name(repo, None, Want::Any).folder();
            assert_eq!(repo_of_folder(&folder).as_deref(), Some(repo));
        }
        for folder in [
            "models--",
            "datasets--a--b",
            "models--a--b--c",
            "models--..--x",
            "models---a",
        ] {
            assert_eq!(repo_of_folder(folder), None, "{folder}");
        }
    }

    #[test]
    fn only_plain_relative_paths_are_safe() {
        for good in [
            "a",
            "a/b.gguf",
            ".gitattributes",
            "model-00001-of-00002.safetensors",
            "ü/x y",
            "a..b",
        ] {
            assert!(is_safe_path(good), "{good}");
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\\b",
            "C:x",
            "a\0b",
            "a\nb",
            "x:y",
            "nul",
            "COM1.txt",
            "dir/aux.json",
            "a.",
            "a ",
            "a?b",
            &long,
        ] {
            assert!(!is_safe_path(bad), "{bad:?}");
        }
    }
}

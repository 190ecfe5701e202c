//! A tokenizer from a directory as Hugging Face lays it out.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use crate::chat::ChatTemplate;
use crate::direct;
use crate::error::{bad_vocabulary, Error, Result};
use crate::hf::{self, Around, Extra};
use crate::input::{self, Place};
use crate::limits::MAX_FILE;
use crate::pieces;
use crate::special::end_tokens;
use crate::tokenizer::Tokenizer;
use crate::vocab::Vocab;

/// tokenizer_config.json and special_tokens_map.json.
#[derive(Deserialize, Default)]
struct Config {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<Templates>,
    /// Tokens by their ids, which tokenizer.json may lack.
    added_tokens_decoder: Option<BTreeMap<u32, Described>>,
    /// More control tokens: a list, or in transformers 5 also a map.
    additional_special_tokens: Option<Names>,
    extra_special_tokens: Option<Names>,
}

#[derive(Deserialize)]
struct Described {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<TokenText>),
    Map(BTreeMap<String, TokenText>),
}

impl Names {
    fn texts(self) -> Vec<String> {
        let tokens = match self {
            Names::List(list) => list,
            Names::Map(map) => map.into_values().collect(),
        };
        tokens.iter().map(|token| token.text().to_owned()).collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Token { content: String },
}

impl TokenText {
    fn text(&self) -> &str {
        match self {
            TokenText::Text(text) | TokenText::Token { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

impl Templates {
    /// The one for chats.
    fn default(self) -> Option<String> {
        match self {
            Templates::One(source) => Some(source),
            Templates::Named(mut list) => {
                let default = list.iter().position(|t| t.name == "default");
                let only = (list.len() == 1).then_some(0);
                default.or(only).map(|at| list.swap_remove(at).template)
            }
        }
    }
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// generation_config.json and config.json.
#[derive(Deserialize, Default)]
struct Generation {
    #[serde(default)]
    bos_token_id: Value,
    #[serde(default)]
    eos_token_id: Value,
}

pub(crate) fn load(dir: &Path) -> Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    let Some(json) = read(&path)? else {
        if dir.join("tokenizer.model").exists() {
            return Err(Error::Unsupported(format!(
                "`{}` has SentencePiece's tokenizer.model, which is not supported, and no \
                 tokenizer.json; convert it with transformers (AutoTokenizer, save_pretrained)",
                dir.display()
            )));
        }
        let source = std::io::Error::from(ErrorKind::NotFound);
        return Err(Error::Read { path, source });
    };
    let mut config: Config = parse(dir.join("tokenizer_config.json"))?;
    let mut map: Config = parse(dir.join("special_tokens_map.json"))?;
    let generation: Generation = parse(dir.join("generation_config.json"))?;
    let model: Generation = parse(dir.join("config.json"))?;
    let jinja_path = dir.join("chat_template.jinja");
    let jinja = match read(&jinja_path)? {
        Some(bytes) => Some(String::from_utf8(bytes).map_err(|_| Error::File {
            path: jinja_path,
            message: "is not UTF-8".into(),
        })?),
        None => None,
    };

    let bos_text = config.bos_token.take().or(map.bos_token.take());
    let eos_text = config.eos_token.take().or(map.eos_token.take());
    let (add_bos, add_eos) = (config.add_bos_token, config.add_eos_token);
    let source = match jinja {
        Some(jinja) => Some(jinja),
        None => {
            let beside: Config = parse(dir.join("chat_template.json"))?;
            let templates = config.chat_template.take().or(beside.chat_template);
            templates.and_then(Templates::default)
        }
    };
    let extra = extra(config, map);
    let own = direct::load(&json, &extra).or_else(|| pieces::load(&json, &extra));
    let loaded = own.map_or_else(|| hf::load(&json, &extra), Ok)?;
    let hf::Loaded {
        encoder,
        mut vocab,
        drops_space,
        around,
        warnings,
    } = loaded;
    let Around {
        mut prefix,
        mut suffix,
        mut pair,
    } = around;
    let inserted = pair.iter().filter_map(|place| match place {
        Place::Token { id, .. } => Some(id),
        Place::Text { .. } => None,
    });
    let mut inserted = inserted.chain(&prefix).chain(&suffix);
    if let Some(id) = inserted.find(|&&id| vocab.kind(id).is_none()) {
        return bad_vocabulary(format!(
            "the post-processor of tokenizer.json adds the id {id}, which is no token"
        ));
    }
    let named = |token: Option<TokenText>, what: &str| {
        token
            .map(|token| id_of(&vocab, token.text(), what))
            .transpose()
    };
    let mut bos = named(bos_text, "bos_token")?;
    if bos.is_none() {
        let ids = ids(&generation.bos_token_id)?
            .into_iter()
            .chain(ids(&model.bos_token_id)?);
        bos = ids.into_iter().find(|&id| vocab.kind(id).is_some());
    }
    let eos = named(eos_text, "eos_token")?;
    let mut ends = ids(&generation.eos_token_id)?;
    if ends.is_empty() {
        ends = ids(&model.eos_token_id)?;
    }
    let eos = eos.or(ends.iter().copied().find(|&id| vocab.kind(id).is_some()));

    // The post-processor has its say about BOS and EOS, and an explicit flag
    // has the last word, as when GGUF files are made.
    let before = (prefix.clone(), suffix.clone());
    match (add_bos, bos) {
        (Some(true), Some(bos)) if prefix.first() != Some(&bos) => prefix.insert(0, bos),
        (Some(false), Some(bos)) if prefix.first() == Some(&bos) => drop(prefix.remove(0)),
        _ => {}
    }
    match (add_eos, eos) {
        (Some(true), Some(eos)) if suffix.last() != Some(&eos) => suffix.push(eos),
        (Some(false), Some(eos)) if suffix.last() == Some(&eos) => drop(suffix.pop()),
        _ => {}
    }
    if before != (prefix.clone(), suffix.clone()) {
        pair = input::pair(&prefix, &suffix, &prefix, 1);
    }
    let end = end_tokens(&mut vocab, eos.into_iter().chain(ends));
    let template = source.map(|source| {
        let text = |id: Option<u32>| id.and_then(|id| vocab.text(id));
        ChatTemplate::deferred(&source, text(bos), text(eos))
    });
    Ok(Tokenizer {
        vocab,
        encoder,
        prefix,
        suffix,
        pair,
        bos,
        eos,
        end,
        drops_space,
        template,
        warnings,
    })
}

/// The tokens that tokenizer_config.json and its kin say are found before
/// everything else, as transformers adds them.
fn extra(config: Config, map: Config) -> Vec<Extra> {
    let decoder = config.added_tokens_decoder.unwrap_or_default();
    let tokens = decoder.into_iter().map(|(id, token)| Extra {
        id: Some(id),
        token: AddedToken {
            content: token.content,
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized.unwrap_or(!token.special),
            special: token.special,
        },
    });
    let lists = [
        config.additional_special_tokens,
        config.extra_special_tokens,
        map.additional_special_tokens,
        map.extra_special_tokens,
    ];
    let names = lists.into_iter().flatten().flat_map(Names::texts);
    let names = names.map(|text| Extra {
        id: None,
        token: AddedToken::from(text, true),
    });
    tokens.chain(names).collect()
}

fn id_of(vocab: &Vocab, token: &str, what: &str) -> Result<u32> {
    match vocab.id(token) {
        Some(id) => Ok(id),
        None => bad_vocabulary(format!(
            "{what} is {token:?}, which is not in tokenizer.json; correct the one or the other"
        )),
    }
}

/// An id, a list of ids, or nothing.
fn ids(value: &Value) -> Result<Vec<u32>> {
    let one = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| Error::Vocabulary(format!("{value} is not a token id")))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// The bytes of a file, if it exists and is what its name says.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let wrong = |message: String| {
        let path = path.into();
        Err(Error::File { path, message })
    };
    let failed = |source| Error::Read {
        path: path.into(),
        source,
    };
    // Asked before it is opened: opening a pipe waits for its other end.
    let found = match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(failed)?,
    };
    if !found.is_file() {
        return wrong("is not a regular file".into());
    }
    if found.len() > MAX_FILE {
        let len = found.len();
        return wrong(format!("has {len} bytes, more than {MAX_FILE}"));
    }
    let mut bytes = Vec::with_capacity(found.len() as usize);
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return wrong(
            "is a Git LFS pointer and not the file itself; fetch that with `git lfs pull`, or \
             download the model again"
                .into(),
        );
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3);
    }
    let start = bytes.trim_ascii_start();
    let html = |tag: &[u8]| {
        start
            .get(..tag.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(tag))
    };
    if path.extension().is_some_and(|e| e == "json") && (html(b"<!doctype") || html(b"<html")) {
        return wrong("is an HTML page and not JSON; download it again".into());
    }
    Ok(Some(bytes))
}

fn parse<T: for<'de> Deserialize<'de> + Default>(path: PathBuf) -> Result<T> {
    let Some(bytes) = read(&path)? else {
        return Ok(T::default());
    };
    serde_json::from_slice(&bytes).map_err(|e| Error::File {
        path,
        message: format!("is malformed: {e}"),
    })
}

//! A tokenizer from a directory as Hugging Face lays it out.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::chat::ChatTemplate;
use crate::direct;
use crate::error::{bad_vocabulary, Error, Result};
use crate::hf;
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
    let config: Config = parse(dir.join("tokenizer_config.json"))?;
    let map: Config = parse(dir.join("special_tokens_map.json"))?;
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

    let loaded = direct::load(&json).map_or_else(|| hf::load(&json), Ok)?;
    let hf::Loaded {
        encoder,
        mut vocab,
        drops_space,
        mut prefix,
        mut suffix,
    } = loaded;
    if let Some(id) = prefix
        .iter()
        .chain(&suffix)
        .find(|&&id| vocab.kind(id).is_none())
    {
        return bad_vocabulary(format!(
            "the post-processor of tokenizer.json adds the id {id}, which is no token"
        ));
    }
    let named = |of: fn(&Config) -> &Option<TokenText>, what: &str| {
        let token = of(&config).as_ref().or(of(&map).as_ref());
        token
            .map(|token| id_of(&vocab, token.text(), what))
            .transpose()
    };
    let mut bos = named(|c| &c.bos_token, "bos_token")?;
    if bos.is_none() {
        let ids = ids(&generation.bos_token_id)?
            .into_iter()
            .chain(ids(&model.bos_token_id)?);
        bos = ids.into_iter().find(|&id| vocab.kind(id).is_some());
    }
    let eos = named(|c| &c.eos_token, "eos_token")?;
    let mut ends = ids(&generation.eos_token_id)?;
    if ends.is_empty() {
        ends = ids(&model.eos_token_id)?;
    }
    let eos = eos.or(ends.iter().copied().find(|&id| vocab.kind(id).is_some()));

    // The post-processor has its say about BOS and EOS, and an explicit flag
    // has the last word, as when GGUF files are made.
    match (config.add_bos_token, bos) {
        (Some(true), Some(bos)) if prefix.first() != Some(&bos) => prefix.insert(0, bos),
        (Some(false), Some(bos)) if prefix.first() == Some(&bos) => drop(prefix.remove(0)),
        _ => {}
    }
    match (config.add_eos_token, eos) {
        (Some(true), Some(eos)) if suffix.last() != Some(&eos) => suffix.push(eos),
        (Some(false), Some(eos)) if suffix.last() == Some(&eos) => drop(suffix.pop()),
        _ => {}
    }
    let end = end_tokens(&mut vocab, eos.into_iter().chain(ends));
    let source = jinja.or_else(|| match config.chat_template {
        Some(Templates::One(source)) => Some(source),
        Some(Templates::Named(mut list)) => {
            let default = list.iter().position(|t| t.name == "default");
            let only = (list.len() == 1).then_some(0);
            default.or(only).map(|at| list.swap_remove(at).template)
        }
        None => None,
    });
    let template = source.map(|source| {
        let text = |id: Option<u32>| id.and_then(|id| vocab.text(id));
        ChatTemplate::deferred(&source, text(bos), text(eos))
    });
    Ok(Tokenizer {
        vocab,
        encoder,
        prefix,
        suffix,
        bos,
        eos,
        end,
        drops_space,
        template,
    })
}

fn id_of(vocab: &Vocab, token: &str, what: &str) -> Result<u32> {
    match vocab.id(token) {
        Some(id) => Ok(id),
        None => bad_vocabulary(format!(
            "{what} is {token:?}, which is not in tokenizer.json"
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

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read {
            path: path.into(),
            source,
        }),
    }
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

//! tokenizer.json, run by Hugging Face's `tokenizers`.
//!
//! The crate does the encoding, whatever the file asks for. Decoding is this
//! crate's own for both sources, so that text in one piece and text in a stream
//! are one code; the file's decoder only says which [`Alphabet`] it is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token,
    TokenizerImpl,
};

use crate::error::{bad_vocabulary, Error, Result};
use crate::vocab::{parse_byte, Alphabet, Kind, Vocab, MAX_TOKENS};

/// Whether control tokens in a text are recognised is a property of a
/// `tokenizers` tokenizer and not of a call, so there are two of them, which
/// share the model: it is nearly all of their size.
pub(crate) struct Pipeline {
    parsing: Tokenizers,
    plain: Tokenizers,
}

type Tokenizers = TokenizerImpl<
    Shared,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

#[derive(Clone)]
struct Shared(Arc<ModelWrapper>);

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut model = ModelWrapper::deserialize(deserializer)?;
        if let ModelWrapper::BPE(bpe) = &mut model {
            // Leaving merges out at random is for training.
            bpe.dropout = None;
        }
        Ok(Shared(Arc::new(model)))
    }
}

impl Model for Shared {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        self.0.tokenize(sequence)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.0.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }
    fn get_trainer(&self) -> TrainerWrapper {
        self.0.get_trainer()
    }
}

/// What the pipeline itself does not tell.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// What a tokenizer.json says.
pub(crate) struct Loaded {
    pub pipeline: Pipeline,
    pub vocab: Vocab,
    pub drops_space: bool,
    /// What it puts before and after a text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

/// Reads a tokenizer.json.
pub(crate) fn load(json: &[u8]) -> Result<Loaded> {
    guard(|| read(json))
}

/// Files are untrusted and `tokenizers` trusts them: a merge with an empty
/// half, for one, is a panic there. It is an error here.
fn guard<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    // Nothing that the closures see is changed before it can panic.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        bad_vocabulary("tokenizer.json contradicts itself: the tokenizer made from it panicked")
    })
}

fn read(json: &[u8]) -> Result<Loaded> {
    let outline: Outline = serde_json::from_slice(json)
        .map_err(|e| Error::Vocabulary(format!("tokenizer.json is malformed: {e}")))?;
    let (alphabet, drops_space) = decoder(&outline.decoder)?;
    let mut parsing: Tokenizers = serde_json::from_slice(json)
        .map_err(|e| Error::Vocabulary(format!("tokenizer.json is malformed: {e}")))?;
    // Cutting texts off and filling them up is for training.
    let truncation = parsing.with_truncation(None).map(drop);
    truncation.map_err(|e| Error::Vocabulary(e.to_string()))?;
    parsing.with_padding(None);
    for token in &outline.added_tokens {
        let id = parsing.token_to_id(&token.content);
        if id.is_some_and(|id| id != token.id) {
            return bad_vocabulary(format!(
                "tokenizer.json gives the added token {:?} the id {}, but it can only be {}",
                token.content,
                token.id,
                id.unwrap_or_default(),
            ));
        }
    }
    let vocab = vocab(&parsing, alphabet)?;
    let mut plain = TokenizerImpl::new(parsing.get_model().clone());
    plain
        .with_normalizer(parsing.get_normalizer().cloned())
        .with_pre_tokenizer(parsing.get_pre_tokenizer().cloned())
        .with_added_vocabulary(parsing.get_added_vocabulary().clone())
        .set_encode_special_tokens(true);
    let (prefix, suffix) = surroundings(&parsing);
    Ok(Loaded {
        pipeline: Pipeline { parsing, plain },
        vocab,
        drops_space,
        prefix,
        suffix,
    })
}

impl Pipeline {
    /// Appends the ids of `text`, without anything around them.
    pub fn encode(&self, text: &str, parse_special: bool, ids: &mut Vec<u32>) -> Result<()> {
        let tokenizers = if parse_special {
            &self.parsing
        } else {
            &self.plain
        };
        ids.extend(guard(|| run(tokenizers, text, false))?);
        Ok(())
    }
}

fn run(tokenizers: &Tokenizers, text: &str, add_special: bool) -> Result<Vec<u32>> {
    let encoding = tokenizers.encode_fast(text, add_special);
    let encoding = encoding.map_err(|e| Error::Encode(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// What the post-processor puts around texts, which it does not say; so look.
fn surroundings(tokenizers: &Tokenizers) -> (Vec<u32>, Vec<u32>) {
    for probe in ["a", "1", "\u{4e00}"] {
        let bare = run(tokenizers, probe, false).unwrap_or_default();
        let mut around = run(tokenizers, probe, true).unwrap_or_default();
        if bare.is_empty() {
            continue;
        }
        if let Some(at) = around.windows(bare.len()).position(|window| window == bare) {
            let suffix = around.split_off(at + bare.len());
            around.truncate(at);
            return (around, suffix);
        }
    }
    (Vec::new(), Vec::new())
}

fn vocab(tokenizers: &Tokenizers, alphabet: Alphabet) -> Result<Vocab> {
    let mut tokens: Vec<(Cow<str>, Kind)> = Vec::new();
    let mut put = |id: u32, text: String, kind| {
        let id = id as usize;
        if id >= MAX_TOKENS {
            return bad_vocabulary(format!("{text:?} has the id {id}, more than {MAX_TOKENS}"));
        }
        if id >= tokens.len() {
            tokens.resize(id + 1, (Cow::Borrowed(""), Kind::Absent));
        }
        let (old, old_kind) = &tokens[id];
        if *old_kind != Kind::Absent && *old != text {
            return bad_vocabulary(format!("tokens {old:?} and {text:?} both have the id {id}"));
        }
        tokens[id] = (Cow::Owned(text), kind);
        Ok(())
    };
    for (text, id) in tokenizers.get_model().get_vocab() {
        let byte = alphabet == Alphabet::Spaced && parse_byte(&text).is_some();
        put(id, text, if byte { Kind::Byte } else { Kind::Normal })?;
    }
    for (id, token) in tokenizers.get_added_tokens_decoder() {
        put(
            id,
            token.content,
            if token.special {
                Kind::Control
            } else {
                Kind::Added
            },
        )?;
    }
    Vocab::new(alphabet, tokens.into_iter())
}

/// The alphabet of a decoder, and whether it drops a space at the beginning.
fn decoder(decoder: &Value) -> Result<(Alphabet, bool)> {
    let is = |value: &Value, text: &str| value.as_str() == Some(text);
    let unsupported = || {
        let shown: String = decoder.to_string().chars().take(200).collect();
        Error::Unsupported(format!(
            "the decoder {shown} of tokenizer.json is not supported"
        ))
    };
    let steps = match decoder {
        // Without a decoder, `tokenizers` puts a space between tokens.
        Value::Null => return Ok((Alphabet::Words, true)),
        value if is(&value["type"], "Sequence") => value["decoders"]
            .as_array()
            .ok_or_else(unsupported)?
            .as_slice(),
        value => std::slice::from_ref(value),
    };
    let (mut alphabet, mut drops) = (Alphabet::Plain, false);
    for step in steps {
        match step["type"].as_str().unwrap_or_default() {
            "ByteLevel" => alphabet = Alphabet::ByteLevel,
            "ByteFallback" | "Fuse" => {}
            "Replace"
                if is(&step["pattern"]["String"], "\u{2581}") && is(&step["content"], " ") =>
            {
                alphabet = Alphabet::Spaced;
            }
            "Strip" if is(&step["content"], " ") && step["stop"] == 0 => {
                drops |= step["start"] != 0;
            }
            "Metaspace" if is(&step["replacement"], "\u{2581}") => {
                alphabet = Alphabet::Spaced;
                // Before 0.15 the file had a flag in place of a scheme.
                let flag = step["add_prefix_space"].as_bool().unwrap_or(true);
                drops |= step["prepend_scheme"]
                    .as_str()
                    .map_or(flag, |scheme| scheme != "never");
            }
            "WordPiece" if is(&step["prefix"], "##") => {
                let cleanup = step["cleanup"].as_bool().unwrap_or(true);
                (alphabet, drops) = (Alphabet::WordPiece { cleanup }, true);
            }
            _ => return Err(unsupported()),
        }
    }
    Ok((alphabet, drops))
}

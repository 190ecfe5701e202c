//! tokenizer.json, run by Hugging Face's `tokenizers`.
//!
//! The crate does the encoding, whatever the file asks for. Decoding is this
//! crate's own for both sources, so that text in one piece and text in a stream
//! are one code; the file's decoder only says which [`Alphabet`] it is.

use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    DecoderWrapper, Encoding, Model, NormalizerWrapper, PostProcessor, PostProcessorWrapper,
    PreTokenizerWrapper, Token, TokenizerImpl,
};

use crate::encoder::Encoder;
use crate::error::{bad_vocabulary, Error, Result};
use crate::vocab::{Alphabet, Vocab};

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
    pub encoder: Encoder,
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
pub(crate) fn guard<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
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
    let vocab = Vocab::arrange(
        alphabet,
        parsing
            .get_model()
            .get_vocab()
            .into_iter()
            .map(|(text, id)| (text.into(), id)),
        parsing
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| (token.content, id, token.special)),
    )?;
    let mut plain = TokenizerImpl::new(parsing.get_model().clone());
    plain
        .with_normalizer(parsing.get_normalizer().cloned())
        .with_pre_tokenizer(parsing.get_pre_tokenizer().cloned())
        .with_added_vocabulary(parsing.get_added_vocabulary().clone())
        .set_encode_special_tokens(true);
    let (prefix, suffix) = match parsing.get_post_processor() {
        Some(processor) => surroundings(processor)?,
        None => (Vec::new(), Vec::new()),
    };
    let encoder = Encoder::Pipeline(Box::new(Pipeline { parsing, plain }));
    Ok(Loaded {
        encoder,
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
        ids.extend(guard(|| run(tokenizers, text))?);
        Ok(())
    }
}

fn run(tokenizers: &Tokenizers, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizers.encode_fast(text, false);
    let encoding = encoding.map_err(|e| Error::Encode(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// What a post-processor puts before and after a text. It does not say, so it
/// gets a text of one token that does not exist.
pub(crate) fn surroundings(processor: &PostProcessorWrapper) -> Result<(Vec<u32>, Vec<u32>)> {
    const TEXT: u32 = u32::MAX;
    let text = Encoding::from_tokens(vec![Token::new(TEXT, "x".into(), (0, 1))], 0);
    let around = processor.process(text, None, true);
    let around = around.map_err(|e| Error::Vocabulary(e.to_string()))?;
    let mut prefix = around.get_ids().to_vec();
    let Some(at) = prefix.iter().position(|&id| id == TEXT) else {
        return bad_vocabulary("the post-processor of tokenizer.json drops the text");
    };
    let suffix = prefix.split_off(at + 1);
    prefix.truncate(at);
    Ok((prefix, suffix))
}

/// The alphabet of a decoder, and whether it drops a space at the beginning.
pub(crate) fn decoder(decoder: &Value) -> Result<(Alphabet, bool)> {
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

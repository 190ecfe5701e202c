//! tokenizer.json, run by Hugging Face's `tokenizers`.
//!
//! The crate does the encoding, whatever the file asks for. Decoding is this
//! crate's own for both sources, so that text in one piece and text in a stream
//! are one code; the file's decoder only says which [`Alphabet`] it is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{self, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    AddedToken, Decoder, Encoding, Model, PostProcessor, PostProcessorWrapper, Token, TokenizerImpl,
};

use crate::encoder::{Encoder, Special};
use crate::error::{bad_vocabulary, Error, Result};
use crate::input::{self, Place};
use crate::limits::{check_added, Counted, Small, MAX_PIECE};
use crate::partition::{Order, Partition};
use crate::quiet::quietly;
use crate::steps::{strictly, Normalizers, PreTokenizers};
use crate::vocab::{Alphabet, Kind, Vocab};

/// Whether control tokens in a text are recognised is a property of a
/// `tokenizers` tokenizer and not of a call, so there are two of them, which
/// share the model: it is nearly all of their size.
pub(crate) struct Pipeline {
    parsing: Tokenizers,
    plain: Tokenizers,
    /// The control tokens.
    first: Partition,
    /// Those of the control tokens that also stand for text without a token.
    unknown: Option<u32>,
    control: Arc<HashSet<u32>>,
}

type Tokenizers = TokenizerImpl<Shared, Normalizers, PreTokenizers, Unused, Unused>;

/// A part of tokenizer.json that encoding does not need.
#[derive(Clone)]
struct Unused;

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Unused)
    }
}

impl Decoder for Unused {
    fn decode_chain(&self, tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        Ok(tokens)
    }
}

impl PostProcessor for Unused {
    fn added_tokens(&self, _is_pair: bool) -> usize {
        0
    }
    fn process_encodings(
        &self,
        encodings: Vec<Encoding>,
        _add_special_tokens: bool,
    ) -> tokenizers::Result<Vec<Encoding>> {
        Ok(encodings)
    }
}

#[derive(Clone)]
struct Shared {
    model: Arc<ModelWrapper>,
    /// Tokens that no text may become.
    control: Option<Arc<HashSet<u32>>>,
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut model = ModelWrapper::deserialize(deserializer)?;
        if let ModelWrapper::BPE(bpe) = &mut model {
            // Leaving merges out at random is for training.
            bpe.dropout = None;
        }
        affordable(&model).map_err(de::Error::custom)?;
        Ok(Shared {
            model: Arc::new(model),
            control: None,
        })
    }
}

/// Settings that multiply what a word costs.
fn affordable(model: &ModelWrapper) -> Result<(), String> {
    const MAX_AFFIX: usize = 64;
    const MAX_WORD: usize = 1000;
    let affix = |text: &str| match text.len() {
        0..=MAX_AFFIX => Ok(()),
        len => Err(format!(
            "a prefix or suffix of {len} bytes, more than {MAX_AFFIX}"
        )),
    };
    match model {
        ModelWrapper::BPE(bpe) => {
            let affixes = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix];
            affixes.into_iter().flatten().try_for_each(|a| affix(a))
        }
        ModelWrapper::WordPiece(pieces) if pieces.max_input_chars_per_word > MAX_WORD => {
            let chars = pieces.max_input_chars_per_word;
            Err(format!(
                "max_input_chars_per_word is {chars}, more than {MAX_WORD}"
            ))
        }
        ModelWrapper::WordPiece(pieces) => affix(&pieces.continuing_subword_prefix),
        ModelWrapper::Unigram(unigram) => {
            match unigram.iter().map(|(piece, _)| piece.len()).max() {
                Some(len) if len > MAX_PIECE => {
                    Err(format!("a piece of {len} bytes, more than {MAX_PIECE}"))
                }
                _ => Ok(()),
            }
        }
        ModelWrapper::WordLevel(_) => Ok(()),
    }
}

impl Model for Shared {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let tokens = self.model.tokenize(sequence)?;
        let Some(control) = &self.control else {
            return Ok(tokens);
        };
        // Unknown text also becomes a control token, but does not spell it.
        let spelled = |token: &Token| {
            let (start, end) = token.offsets;
            control.contains(&token.id)
                && sequence.get(start..end) == Some(&*token.value)
                && self.model.token_to_id(&token.value) == Some(token.id)
        };
        let mut text = Vec::with_capacity(tokens.len());
        for token in tokens {
            let last = token.value.char_indices().next_back().map(|(at, _)| at);
            match last {
                Some(at) if at > 0 && spelled(&token) => {
                    let start = token.offsets.0;
                    let (first, last) = token.value.split_at(at);
                    for (part, start) in [(first, start), (last, start + at)] {
                        text.extend(self.tokenize(part)?.into_iter().map(|t| {
                            let at = (start + t.offsets.0, start + t.offsets.1);
                            Token { offsets: at, ..t }
                        }));
                    }
                }
                _ => text.push(token),
            }
        }
        Ok(text)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.model.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.model.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.model.save(folder, prefix)
    }
    fn get_trainer(&self) -> TrainerWrapper {
        self.model.get_trainer()
    }
}

/// What the pipeline itself does not tell, and what it costs.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<Extra>,
    #[serde(default)]
    decoder: Small,
    #[serde(default)]
    post_processor: Small,
    #[serde(rename = "model")]
    _model: Option<Counted>,
}

/// A token that is found before everything else.
#[derive(Deserialize, Clone)]
pub(crate) struct Extra {
    /// Without one, the token counts if the vocabulary has it.
    pub id: Option<u32>,
    #[serde(flatten)]
    pub token: AddedToken,
}

/// Those of `extra` that tokenizer.json does not list as `known`.
pub(crate) fn missing<'a, 'b>(
    extra: &'a [Extra],
    known: impl Iterator<Item = &'b str>,
) -> Vec<&'a Extra> {
    let mut texts: HashSet<&str> = HashSet::new();
    known.for_each(|text| {
        texts.insert(text);
    });
    let new = |extra: &&'a Extra| texts.insert(&extra.token.content);
    extra.iter().filter(new).collect()
}

/// What a tokenizer.json says.
pub(crate) struct Loaded {
    pub encoder: Encoder,
    pub vocab: Vocab,
    pub drops_space: bool,
    pub around: Around,
    pub warnings: Vec<String>,
}

/// What is put around texts.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Around {
    /// Before and after a single text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
    pub pair: Vec<Place>,
}

/// Reads a tokenizer.json, which lacks the `extra` tokens.
pub(crate) fn load(json: &[u8], extra: &[Extra]) -> Result<Loaded> {
    guard(|| read(json, extra))
}

/// Files are untrusted and `tokenizers` trusts them: a merge with an empty
/// half, for one, is a panic there. It is an error here.
pub(crate) fn guard<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    quietly(run).unwrap_or_else(|| {
        bad_vocabulary("tokenizer.json contradicts itself: the tokenizer made from it panicked")
    })
}

fn malformed(e: serde_json::Error) -> Error {
    Error::Vocabulary(format!("tokenizer.json is malformed: {e}"))
}

fn read(json: &[u8], extra: &[Extra]) -> Result<Loaded> {
    let outline: Outline = serde_json::from_slice(json).map_err(malformed)?;
    let known = outline.added_tokens.iter().map(|t| &*t.token.content);
    let extra = missing(extra, known);
    let added = || outline.added_tokens.iter().chain(extra.iter().copied());
    check_added(added().map(|t| (&*t.token.content, t.token.normalized)))?;
    let (alphabet, drops_space) = decoder(&outline.decoder.0)?;
    let around = surroundings(&outline.post_processor.0)?;
    let mut parsing: Tokenizers = serde_json::from_slice(json).map_err(malformed)?;
    // Cutting texts off and filling them up is for training.
    let truncation = parsing.with_truncation(None).map(drop);
    truncation.map_err(|e| Error::Vocabulary(e.to_string()))?;
    parsing.with_padding(None);
    let exists = |text: &str| parsing.token_to_id(text).is_some();
    let tokens = extra
        .iter()
        .filter(|e| e.id.is_some() || exists(&e.token.content));
    let tokens: Vec<AddedToken> = tokens.map(|extra| extra.token.clone()).collect();
    parsing.add_tokens(&tokens);
    let another = |Extra { id: wanted, token }: &Extra| {
        let id = parsing.token_to_id(&token.content)?;
        let wanted = wanted.filter(|&wanted| wanted != id)?;
        let token = &token.content;
        Some(format!(
            "gives the added token {token:?} the id {wanted}, but it can only be {id}"
        ))
    };
    if let Some(message) = outline.added_tokens.iter().find_map(another) {
        return bad_vocabulary(format!("tokenizer.json {message}"));
    }
    // transformers says nothing here.
    let warnings = extra.iter().filter_map(|extra| another(extra));
    let warnings = warnings.map(|message| format!("tokenizer_config.json {message}"));
    let warnings: Vec<String> = warnings.collect();
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
    let control = (0..vocab.len() as u32).filter(|&id| vocab.kind(id) == Some(Kind::Control));
    let control: Arc<HashSet<u32>> = Arc::new(control.collect());
    let mut plain = TokenizerImpl::new(Shared {
        control: Some(control.clone()),
        ..parsing.get_model().clone()
    });
    plain
        .with_normalizer(parsing.get_normalizer().cloned())
        .with_pre_tokenizer(parsing.get_pre_tokenizer().cloned())
        .with_added_vocabulary(parsing.get_added_vocabulary().clone())
        .set_encode_special_tokens(true);
    let special = parsing.get_added_tokens_decoder().into_iter();
    let special = special.filter(|(_, token)| token.special);
    let first = special.map(|(id, token)| (token.content, id, true));
    let first = Partition::new(Order::Leftmost, first)?;
    let encoder = Encoder::Pipeline(Box::new(Pipeline {
        unknown: unknown(parsing.get_model()),
        parsing,
        plain,
        first,
        control,
    }));
    Ok(Loaded {
        encoder,
        vocab,
        drops_space,
        around,
        warnings,
    })
}

/// The token for text that has none: what becomes of a character that is none.
fn unknown(model: &Shared) -> Option<u32> {
    let tokens = model.tokenize("\u{10ffff}").ok()?;
    match &tokens[..] {
        [token] if model.id_to_token(token.id)? != "\u{10ffff}" => Some(token.id),
        _ => None,
    }
}

impl Pipeline {
    /// Appends the ids of `text`, without anything around them.
    pub fn encode(&self, text: &str, special: &Special, ids: &mut Vec<u32>) -> Result<()> {
        match special {
            Special::Text => self.plain(text, ids),
            Special::Parsed | Special::Outside([]) => {
                ids.extend(guard(|| run(&self.parsing, text))?);
                Ok(())
            }
            Special::Outside(ranges) => self.apart(text, ranges, ids),
        }
    }

    fn plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        ids.extend(guard(|| run(&self.plain, text))?);
        Ok(())
    }

    /// Control tokens count only between these ranges. `tokenizers` does not
    /// know where texts come from. So what it makes of the whole is taken where
    /// the control tokens in it are just those between the ranges; otherwise the
    /// text is cut at these.
    fn apart(&self, text: &str, ranges: &[Range<usize>], ids: &mut Vec<u32>) -> Result<()> {
        let right = self.first.control_tokens(text, ranges);
        let whole = guard(|| placed(&self.parsing, text))?;
        let control = whole
            .iter()
            .filter(|(id, _)| self.control.contains(id) && self.unknown != Some(*id));
        let bare = control.map(|(id, range)| {
            // White space beside it may count as part of it.
            let found = text.get(range.clone()).unwrap_or_default();
            let start = range.start + found.len() - found.trim_start().len();
            (*id, start..start + found.trim().len())
        });
        if bare.eq(right.iter().cloned()) {
            ids.extend(whole.into_iter().map(|(id, _)| id));
            return Ok(());
        }
        let mut done = 0;
        for (id, range) in right {
            self.plain(&text[done..range.start], ids)?;
            ids.push(id);
            done = range.end;
        }
        self.plain(&text[done..], ids)
    }
}

fn run(tokenizers: &Tokenizers, text: &str) -> Result<Vec<u32>> {
    let encoding = strictly(|| tokenizers.encode_fast(text, false));
    let encoding = encoding.map_err(|e| Error::Encode(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// The same, with the bytes that each token stands for.
fn placed(tokenizers: &Tokenizers, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
    let encoding = strictly(|| tokenizers.encode(text, false));
    let encoding = encoding.map_err(|e| Error::Encode(e.to_string()))?;
    let ids = encoding.get_ids().iter().copied();
    let ranges = encoding
        .get_offsets()
        .iter()
        .map(|&(start, end)| start..end);
    Ok(ids.zip(ranges).collect())
}

/// What a post-processor puts around texts. It does not say, so it gets texts of
/// one token that does not exist.
pub(crate) fn surroundings(processor: &Value) -> Result<Around> {
    const TEXT: u32 = u32::MAX;
    const SECOND: u32 = u32::MAX - 1;
    const MOST: usize = 1000;
    if inserted(processor) > MOST {
        return bad_vocabulary(format!(
            "the post-processor of tokenizer.json adds more than {MOST} tokens"
        ));
    }
    if processor.is_null() {
        return Ok(Around {
            prefix: Vec::new(),
            suffix: Vec::new(),
            pair: input::pair(&[], &[], &[], 1),
        });
    }
    let processor = PostProcessorWrapper::deserialize(processor).map_err(malformed)?;
    let text = |id, kind| Encoding::from_tokens(vec![Token::new(id, "x".into(), (0, 1))], kind);
    let around = |second: Option<Encoding>| {
        let (first, kinds) = (text(TEXT, 0), 1 + usize::from(second.is_some()));
        let encoding = processor.process(first, second, true);
        let encoding = encoding.map_err(|e| Error::Vocabulary(e.to_string()))?;
        let places = encoding.get_ids().iter().zip(encoding.get_type_ids());
        let places = places.map(|(&id, &kind)| match id {
            TEXT | SECOND => Place::Text {
                second: id == SECOND,
                kind,
            },
            id => Place::Token { id, kind },
        });
        let places: Vec<Place> = places.collect();
        for second in [false, true].into_iter().take(kinds) {
            let here = |p: &&Place| matches!(p, Place::Text { second: s, .. } if *s == second);
            match places.iter().filter(here).count() {
                0 => return bad_vocabulary("the post-processor of tokenizer.json drops the text"),
                1 => {}
                _ => {
                    return bad_vocabulary("the post-processor of tokenizer.json repeats the text")
                }
            }
        }
        Ok(places)
    };
    let single = around(None)?;
    let pair = around(Some(text(SECOND, 1)))?;
    let ids = |places: &[Place]| -> Vec<u32> {
        let id = |place: &Place| match *place {
            Place::Token { id, .. } => Some(id),
            Place::Text { .. } => None,
        };
        places.iter().filter_map(id).collect()
    };
    let at = single.iter().position(|p| matches!(p, Place::Text { .. }));
    let (prefix, suffix) = single.split_at(at.unwrap_or_default());
    Ok(Around {
        prefix: ids(prefix),
        suffix: ids(suffix),
        pair,
    })
}

/// At most how many tokens a post-processor adds.
fn inserted(processor: &Value) -> usize {
    let list = |value: &Value| value.as_array().map_or(0, Vec::len);
    let inner = processor["processors"].as_array().into_iter().flatten();
    let tokens = processor["special_tokens"]
        .as_object()
        .into_iter()
        .flatten();
    let longest = tokens.map(|(_, token)| list(&token["ids"])).max();
    let pieces = list(&processor["single"]) + list(&processor["pair"]);
    let here = pieces * longest.unwrap_or(1).max(1);
    here + inner.map(inserted).sum::<usize>()
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

//! A tokenizer from the metadata of a GGUF file.
//!
//! The keys are specified in GGUF's own documentation; defaults for missing
//! ones are those of llama.cpp.

use std::borrow::Cow;

use base64::Engine;
use rustml_io::{Metadata, Strings};
use serde_json::{json, Value};

use crate::bpe::{halves, Bpe, Units};
use crate::chat::ChatTemplate;
use crate::encoder::{Encoder, Model, Own, Prepare};
use crate::error::{bad_vocabulary, Error, Result};
use crate::input;
use crate::partition::{Order, Partition};
use crate::pretokenize::PreTokenizer;
use crate::rules::{rule, Letters, Rule};
use crate::special::end_tokens;
use crate::spm::Spm;
use crate::steps::Normalizers;
use crate::tokenizer::Tokenizer;
use crate::unigram::{Cut, Unigram};
use crate::vocab::{Alphabet, Kind, Vocab};
use crate::wordpiece::WordPiece;
use crate::words::Glue;

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

/// `tokenizer.ggml.model`.
enum Family {
    /// `gpt2` and `gemma4`: merges of what the rule says.
    Bpe(Rule),
    /// `llama`: SentencePiece's BPE.
    Spm,
    /// `bert`: WordPiece.
    WordPiece,
    /// `t5`: SentencePiece's Unigram.
    Unigram,
}

/// What is assumed where the file does not say.
#[derive(Default)]
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl Family {
    fn of(meta: &Metadata) -> Result<Family> {
        let unsupported = |what: String| Err(Error::Unsupported(what));
        match meta.str("tokenizer.ggml.model")? {
            Some("gpt2" | "whitespace") => {
                let name = meta.str("tokenizer.ggml.pre")?.unwrap_or("default");
                Ok(Family::Bpe(rule(name)?))
            }
            Some("gemma4") => Ok(Family::Bpe(rule("gemma4")?)),
            Some("llama") => Ok(Family::Spm),
            Some("bert") => Ok(Family::WordPiece),
            Some("t5") => Ok(Family::Unigram),
            Some(other) => unsupported(format!(
                "the GGUF tokenizer model {other:?} is not supported, only \"gpt2\" and \"gemma4\" \
                 (BPE), \"llama\" (SentencePiece BPE), \"bert\" (WordPiece) and \"t5\" (Unigram) \
                 are; load the model from a directory with its tokenizer.json instead"
            )),
            None => unsupported(
                "the GGUF file has no tokenizer (tokenizer.ggml.model is missing); convert the \
                 model again together with its tokenizer"
                    .into(),
            ),
        }
    }

    fn alphabet(&self) -> Alphabet {
        match self {
            Family::Bpe(rule) => match rule.units {
                Letters::Bytes => Alphabet::ByteLevel,
                Letters::Plain => Alphabet::Plain,
                Letters::Spaced => Alphabet::Spaced,
            },
            Family::Spm | Family::Unigram => Alphabet::Spaced,
            Family::WordPiece => Alphabet::WordPiece { cleanup: true },
        }
    }

    fn defaults(&self) -> Defaults {
        match self {
            Family::Bpe(rule) => Defaults {
                add_bos: rule.add_bos,
                ..Defaults::default()
            },
            Family::Spm => Defaults {
                bos: Some(1),
                eos: Some(2),
                unknown: Some(0),
                separator: None,
                add_bos: true,
                add_eos: false,
            },
            Family::WordPiece => Defaults {
                bos: Some(101),
                eos: None,
                unknown: Some(100),
                separator: Some(102),
                add_bos: true,
                add_eos: false,
            },
            Family::Unigram => Defaults {
                bos: None,
                eos: Some(1),
                unknown: Some(2),
                separator: None,
                add_bos: false,
                add_eos: true,
            },
        }
    }
}

pub(crate) fn load(meta: &Metadata) -> Result<Tokenizer> {
    let family = Family::of(meta)?;
    let defaults = family.defaults();
    let mut vocab = vocabulary(meta, &family)?;
    let mut warnings: Vec<String> = vocab.repeats().into_iter().collect();

    let ids = SpecialIds {
        meta,
        vocab: &vocab,
    };
    let mut bos = ids.get(BOS, defaults.bos)?;
    if let (Family::WordPiece, None) = (&family, meta.get(BOS)) {
        bos = ids.get("tokenizer.ggml.cls_token_id", defaults.bos)?;
    }
    let eos = ids.get("tokenizer.ggml.eos_token_id", defaults.eos)?;
    let unknown = ids.get("tokenizer.ggml.unknown_token_id", defaults.unknown);
    // Most vocabularies never need it.
    let unknown = unknown.or_else(|e| match e {
        Error::Vocabulary(what) => {
            warnings.push(format!("{what}; it is ignored"));
            let default = defaults.unknown;
            Ok(default.filter(|&id| vocab.kind(id) == Some(Kind::Control)))
        }
        other => Err(other),
    })?;
    let eot = ids.get("tokenizer.ggml.eot_token_id", None)?;
    let eom = ids.get("tokenizer.ggml.eom_token_id", None)?;
    let prefix = added(meta, ADD_BOS, defaults.add_bos, bos)?;
    // The file's key has this spelling.
    let separator = ids.get("tokenizer.ggml.seperator_token_id", defaults.separator)?;
    let add_separator = meta.bool("tokenizer.ggml.add_sep_token")?;
    let (suffix, pair) = if let Family::WordPiece = family {
        // Whatever the file says about an end, this is it.
        let suffix: Vec<u32> = separator.into_iter().collect();
        let pair = input::pair(&prefix, &suffix, &[], 1);
        (suffix, pair)
    } else {
        let suffix = added(meta, ADD_EOS, defaults.add_eos, eos)?;
        let around = !prefix.is_empty() && !suffix.is_empty();
        let usual = match &family {
            Family::Bpe(rule) => rule.add_separator,
            // XLM-RoBERTa and its kin, whose older files do not say it.
            _ => matches!(family, Family::Unigram) && around,
        };
        let between = separator.or(eos).filter(|_| add_separator.unwrap_or(usual));
        let pair = match between {
            Some(id) => input::pair(&prefix, &suffix, &[id], 0),
            None => input::pair(&prefix, &suffix, &prefix, 0),
        };
        (suffix, pair)
    };
    let end = end_tokens(&mut vocab, [eos, eot, eom].into_iter().flatten());

    let first = found_first(meta, &vocab)?;
    let (prepare, model, drops_space) = model(meta, &family, &vocab, unknown)?;
    let encoder = Encoder::Own(Box::new(Own {
        first,
        prepare,
        model,
    }));
    let template = meta.str("tokenizer.chat_template")?.map(|source| {
        let text = |id: Option<u32>| id.and_then(|id| vocab.text(id));
        ChatTemplate::deferred(source, text(bos), text(eos))
    });
    Ok(Tokenizer {
        prefix,
        suffix,
        pair,
        vocab,
        encoder,
        bos,
        eos,
        end,
        drops_space,
        template,
        warnings,
    })
}

fn vocabulary(meta: &Metadata, family: &Family) -> Result<Vocab> {
    let tokens = tokens(meta)?;
    let types = meta.i32s(TYPES)?;
    same_length(TYPES, types.as_ref().map(|t| t.len()), tokens)?;
    let kinds = types.iter().flat_map(|types| types.iter()).enumerate();
    let kinds = match types {
        Some(_) => kinds.map(kind).collect::<Result<Vec<Kind>>>()?,
        None => vec![Kind::Normal; tokens.len()],
    };
    let pairs = tokens.iter().zip(kinds).enumerate();
    let named = pairs.map(|(id, (token, kind))| match (family, kind) {
        // An empty token can be neither written nor looked up.
        _ if token.is_empty() => (Cow::Owned(format!("[EMPTY_{id}]")), Kind::Control),
        // The file marks the tokens that begin words, the original the others.
        (Family::WordPiece, Kind::Normal) => match token.strip_prefix('\u{2581}') {
            Some(begins) if !begins.is_empty() => (Cow::Borrowed(begins), kind),
            _ => (Cow::Owned(format!("##{token}")), kind),
        },
        (_, kind) => (Cow::Borrowed(token), kind),
    });
    Vocab::new(family.alphabet(), named)
}

fn tokens(meta: &Metadata) -> Result<&Strings> {
    match meta.strings(TOKENS)? {
        Some(tokens) if !tokens.is_empty() => Ok(tokens),
        _ => bad_vocabulary("it has no tokens"),
    }
}

/// The tokens that are found before everything else.
fn found_first(meta: &Metadata, vocab: &Vocab) -> Result<Partition> {
    let tokens = (0..vocab.len() as u32).filter_map(|id| {
        let control = match vocab.kind(id)? {
            Kind::Control => true,
            Kind::Added => false,
            _ => return None,
        };
        Some((vocab.text(id)?.to_owned(), id, control))
    });
    let mut first = Partition::new(Order::Longest, tokens)?;
    // Phi-3's tokens take the white space after them, which GGUF cannot say.
    let name = meta.str("general.name")?.unwrap_or_default().to_lowercase();
    if name.contains("phi-3") || name.contains("phi3") {
        first.strip_after(|text| !matches!(text, "<unk>" | "<s>" | "<|endoftext|>"));
    }
    Ok(first)
}

/// What turns text into ids, and whether decoding drops a space.
fn model(
    meta: &Metadata,
    family: &Family,
    vocab: &Vocab,
    unknown: Option<u32>,
) -> Result<(Prepare, Model, bool)> {
    Ok(match family {
        Family::Bpe(rule) => {
            let Some(merges) = meta.strings(MERGES)? else {
                return bad_vocabulary(format!("{MERGES} is missing"));
            };
            let pre = PreTokenizer::new(rule);
            let ignore_merges = rule.ignore_merges;
            let units = match rule.units {
                Letters::Bytes => Units::Bytes { pre, ignore_merges },
                Letters::Plain | Letters::Spaced => Units::Characters {
                    pre,
                    glue: Glue::new(vocab),
                    drops_white: rule.units == Letters::Plain,
                },
            };
            let merges = merges.iter().map(halves);
            let bpe = Model::Bpe(Bpe::new(vocab, units, merges)?);
            match rule.units {
                Letters::Spaced => {
                    let prefix = meta.bool(ADD_SPACE)?.unwrap_or(false);
                    (Prepare::Spaces { prefix }, bpe, prefix)
                }
                Letters::Plain if lowercase(meta)? == Some(true) => {
                    (normalize(json!({"type": "Lowercase"}))?, bpe, false)
                }
                _ => (Prepare::Nothing, bpe, false),
            }
        }
        Family::Spm => {
            let prefix = meta.bool(ADD_SPACE)?.unwrap_or(true);
            let spm = Spm::new(vocab, &scores(meta)?, unknown)?;
            (Prepare::Spaces { prefix }, Model::Spm(spm), prefix)
        }
        Family::WordPiece => {
            let pieces = Model::WordPiece(WordPiece::new(unknown));
            (normalize(bert_normalizer(meta)?)?, pieces, true)
        }
        Family::Unigram => {
            let prefix = meta.bool(ADD_SPACE)?.unwrap_or(true);
            let scores = scores(meta)?
                .iter()
                .map(|&score| f64::from(score))
                .collect();
            let unigram = Unigram::new(vocab, scores, unknown, Cut::Nowhere)?;
            let prepare = normalize(sentencepiece_normalizer(meta, prefix)?)?;
            (prepare, Model::Unigram(unigram), prefix)
        }
    })
}

fn scores(meta: &Metadata) -> Result<Cow<'_, [f32]>> {
    let Some(scores) = meta.f32s(SCORES)? else {
        return bad_vocabulary(format!("{SCORES} is missing"));
    };
    same_length(SCORES, Some(scores.len()), tokens(meta)?)?;
    Ok(scores)
}

fn normalize(steps: Value) -> Result<Prepare> {
    let normalizers = Normalizers::new(&steps);
    Ok(Prepare::Normalize(normalizers.map_err(Error::Vocabulary)?))
}

fn lowercase(meta: &Metadata) -> Result<Option<bool>> {
    Ok(meta.bool("tokenizer.ggml.normalizer.lowercase")?)
}

fn bert_normalizer(meta: &Metadata) -> Result<Value> {
    let lowercase = lowercase(meta)?.unwrap_or(true);
    let strip_accents = meta.bool("tokenizer.ggml.normalizer.strip_accents")?;
    let strip_accents = strip_accents.unwrap_or(lowercase);
    Ok(json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": strip_accents, "lowercase": lowercase,
    }))
}

/// What SentencePiece does to a text before it looks for pieces.
fn sentencepiece_normalizer(meta: &Metadata, prefix: bool) -> Result<Value> {
    let mut steps = Vec::new();
    if let Some(rules) = meta.i32s("tokenizer.ggml.precompiled_charsmap")? {
        let bytes: Vec<u8> = rules.iter().map(|&byte| byte as u8).collect();
        let rules = base64::engine::general_purpose::STANDARD.encode(bytes);
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": rules}));
    }
    let extra = meta.bool("tokenizer.ggml.remove_extra_whitespaces")?;
    if extra.unwrap_or(false) {
        steps.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if prefix {
        steps.push(json!({"type": "Prepend", "prepend": " "}));
    }
    let spaces = json!({"String": " "});
    steps.push(json!({"type": "Replace", "pattern": spaces, "content": "\u{2581}"}));
    Ok(json!({"type": "Sequence", "normalizers": steps}))
}

fn same_length(key: &str, len: Option<usize>, tokens: &Strings) -> Result<()> {
    match len {
        Some(len) if len != tokens.len() => {
            let count = tokens.len();
            bad_vocabulary(format!("{key} has {len} entries for {count} tokens"))
        }
        _ => Ok(()),
    }
}

/// GGUF's token types: 0 undefined, 1 normal, 2 unknown, 3 control,
/// 4 user-defined, 5 unused, 6 byte.
fn kind((id, &value): (usize, &i32)) -> Result<Kind> {
    Ok(match value {
        0 | 1 | 5 => Kind::Normal,
        2 | 3 => Kind::Control,
        4 => Kind::Added,
        6 => Kind::Byte,
        _ => return bad_vocabulary(format!("token {id} has the unknown type {value}")),
    })
}

struct SpecialIds<'a> {
    meta: &'a Metadata,
    vocab: &'a Vocab,
}

impl SpecialIds<'_> {
    /// The id that `key` names. The default counts only if it is a control
    /// token: it is a convention, not a statement of this file.
    fn get(&self, key: &str, default: Option<u32>) -> Result<Option<u32>> {
        let Some(id) = self.meta.u64(key)? else {
            return Ok(default.filter(|&id| self.vocab.kind(id) == Some(Kind::Control)));
        };
        match u32::try_from(id) {
            Ok(id) if self.vocab.kind(id).is_some() => Ok(Some(id)),
            _ => {
                let count = self.vocab.len();
                bad_vocabulary(format!("{key} is {id}, but there are only {count} tokens"))
            }
        }
    }
}

/// The token that `key` says to add, where a default is not worth an error.
fn added(meta: &Metadata, key: &str, default: bool, id: Option<u32>) -> Result<Vec<u32>> {
    match (meta.bool(key)?, id) {
        (Some(true), None) => bad_vocabulary(format!(
            "{key} is true, but the id of that token is missing"
        )),
        (explicit, id) => Ok(id
            .filter(|_| explicit.unwrap_or(default))
            .into_iter()
            .collect()),
    }
}

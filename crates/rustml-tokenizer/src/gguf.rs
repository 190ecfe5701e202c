//! A tokenizer from the metadata of a GGUF file.
//!
//! The keys are specified in GGUF's own documentation; defaults for missing
//! ones are those of llama.cpp.

use std::borrow::Cow;

use rustml_io::{Metadata, Strings};

use crate::bpe::{halves, Bpe, Units};
use crate::chat::ChatTemplate;
use crate::encoder::{Encoder, Model, Own, Prepare};
use crate::error::{bad_vocabulary, Error, Result};
use crate::partition::{Order, Partition};
use crate::pretokenize::{rule, PreTokenizer};
use crate::special::end_tokens;
use crate::spm::Spm;
use crate::tokenizer::Tokenizer;
use crate::vocab::{Alphabet, Kind, Vocab};

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

pub(crate) fn load(meta: &Metadata) -> Result<Tokenizer> {
    let unsupported = |what: String| Err(Error::Unsupported(what));
    let spm =
        match meta.str("tokenizer.ggml.model")? {
            Some("gpt2") => false,
            Some("llama") => true,
            Some(other) => {
                return unsupported(format!(
                "the GGUF tokenizer model {other:?} is not supported, only \"gpt2\" (byte-level \
                 BPE) and \"llama\" (SentencePiece BPE) are; load the model from a directory with \
                 its tokenizer.json instead"
            ))
            }
            None => return unsupported(
                "the GGUF file has no tokenizer (tokenizer.ggml.model is missing); convert the \
                 model again together with its tokenizer"
                    .into(),
            ),
        };
    let tokens = meta.strings(TOKENS)?.unwrap_or_default();
    let types = meta.i32s(TYPES)?;
    same_length(TYPES, types.as_ref().map(|t| t.len()), tokens)?;
    let kinds = types
        .iter()
        .flat_map(|types| types.iter())
        .enumerate()
        .map(kind);
    let kinds = match types {
        Some(_) => kinds.collect::<Result<Vec<Kind>>>()?,
        None => vec![Kind::Normal; tokens.len()],
    };
    let alphabet = if spm {
        Alphabet::Spaced
    } else {
        Alphabet::ByteLevel
    };
    let named = tokens
        .iter()
        .zip(&kinds)
        .enumerate()
        .map(|(id, (token, &kind))| match kind {
            // An empty token can be neither written nor looked up.
            _ if token.is_empty() => (Cow::Owned(format!("[EMPTY_{id}]")), Kind::Control),
            kind => (Cow::Borrowed(token), kind),
        });
    let mut vocab = Vocab::new(alphabet, named)?;

    let ids = SpecialIds {
        meta,
        vocab: &vocab,
    };
    let bos = ids.get("tokenizer.ggml.bos_token_id", spm.then_some(1))?;
    let eos = ids.get("tokenizer.ggml.eos_token_id", spm.then_some(2))?;
    let unknown = ids.get("tokenizer.ggml.unknown_token_id", spm.then_some(0))?;
    let eot = ids.get("tokenizer.ggml.eot_token_id", None)?;
    let eom = ids.get("tokenizer.ggml.eom_token_id", None)?;
    let end = end_tokens(&mut vocab, [eos, eot, eom].into_iter().flatten());

    let found_first = (0..vocab.len() as u32).filter_map(|id| {
        let control = match vocab.kind(id)? {
            Kind::Control => true,
            Kind::Added => false,
            _ => return None,
        };
        Some((vocab.text(id)?.to_owned(), id, control))
    });
    let mut first = Partition::new(Order::Longest, found_first)?;
    // Phi-3's tokens take the white space after them, which GGUF cannot say.
    let name = meta.str("general.name")?.unwrap_or_default().to_lowercase();
    if name.contains("phi-3") || name.contains("phi3") {
        first.strip_after(|text| !matches!(text, "<unk>" | "<s>" | "<|endoftext|>"));
    }
    let (prepare, model, add_bos);
    let mut drops_space = false;
    if spm {
        let Some(scores) = meta.f32s(SCORES)? else {
            return bad_vocabulary(format!("{SCORES} is missing"));
        };
        same_length(SCORES, Some(scores.len()), tokens)?;
        let prefix = meta
            .bool("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        prepare = Prepare::Spaces { prefix };
        model = Model::Spm(Spm::new(&vocab, &scores, unknown)?);
        (add_bos, drops_space) = (true, prefix);
    } else {
        let Some(merges) = meta.strings(MERGES)? else {
            return bad_vocabulary(format!("{MERGES} is missing"));
        };
        let rule = rule(meta.str("tokenizer.ggml.pre")?.unwrap_or("default"))?;
        let pre = PreTokenizer::new(&rule);
        let units = Units::Bytes {
            pre,
            ignore_merges: rule.ignore_merges,
        };
        let merges = merges.iter().map(|merge| halves(merge));
        prepare = Prepare::Nothing;
        model = Model::Bpe(Bpe::new(&vocab, units, merges)?);
        add_bos = rule.add_bos;
    }
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
        prefix: added(meta, ADD_BOS, add_bos, bos)?,
        suffix: added(meta, ADD_EOS, false, eos)?,
        vocab,
        encoder,
        bos,
        eos,
        end,
        drops_space,
        template,
    })
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

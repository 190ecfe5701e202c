//! Text to ids by whichever means the files ask for.

use std::borrow::Cow;
use std::ops::Range;

use tokenizers::{NormalizedString, Normalizer};

use crate::bpe::Bpe;
use crate::error::{Error, Result};
use crate::hf::Pipeline;
use crate::partition::{Part, Partition};
use crate::spm::Spm;
use crate::steps::Normalizers;
use crate::unigram::Unigram;
use crate::vocab::{Vocab, SPACE};
use crate::wordpiece::WordPiece;

/// Two ways: this crate's own, for what nearly all language models use and for
/// all GGUF files, and Hugging Face's for whatever else a tokenizer.json asks for.
///
/// The own way pays off when loading: the 262 144 tokens of Gemma 3 take 30 ms
/// from GGUF metadata, and 7 times less from tokenizer.json than `tokenizers`
/// takes. It is also several times as fast afterwards.
pub(crate) enum Encoder {
    /// Tokens found first, then text made ready, then merged.
    Own(Box<Own>),
    /// All of it by `tokenizers`.
    Pipeline(Box<Pipeline>),
}

/// Where control tokens written in a text count as such.
pub(crate) enum Special<'a> {
    /// Nowhere.
    Text,
    /// Everywhere.
    Parsed,
    /// Outside of these ranges, which are in ascending order.
    Outside(&'a [Range<usize>]),
}

/// This crate's own way.
pub(crate) struct Own {
    /// Tokens found before everything else.
    pub first: Partition,
    /// What is done to the text between them.
    pub prepare: Prepare,
    /// What turns it into ids.
    pub model: Model,
}

/// What happens to a text before it becomes ids.
pub(crate) enum Prepare {
    Nothing,
    /// Spaces become "▁".
    Spaces {
        /// One more goes before every text, also before one that follows a
        /// token found first.
        prefix: bool,
    },
    /// Whatever a tokenizer.json says, NFC for one.
    Normalize(Normalizers),
}

pub(crate) enum Model {
    Bpe(Bpe),
    Spm(Spm),
    WordPiece(WordPiece),
    Unigram(Unigram),
}

impl Encoder {
    /// Appends the ids of `text`.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        special: &Special,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let own = match self {
            Encoder::Own(own) => own,
            Encoder::Pipeline(pipeline) => return pipeline.encode(text, special, ids),
        };
        let parts = match special {
            Special::Text => own.first.split(text, false),
            Special::Parsed => own.first.split(text, true),
            Special::Outside(ranges) => own.first.split_apart(text, ranges),
        };
        for part in parts {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(range) => {
                    let text = own.prepare.run(&text[range])?;
                    match &own.model {
                        Model::Bpe(bpe) => bpe.encode(vocab, &text, ids)?,
                        Model::Spm(spm) => spm.encode(vocab, &text, ids),
                        Model::WordPiece(pieces) => pieces.encode(vocab, &text, ids)?,
                        Model::Unigram(unigram) => unigram.encode(vocab, &text, ids),
                    }
                }
            }
        }
        Ok(())
    }
}

impl Prepare {
    fn run<'a>(&self, text: &'a str) -> Result<Cow<'a, str>> {
        Ok(match self {
            Prepare::Nothing => Cow::Borrowed(text),
            Prepare::Spaces { prefix } => {
                let mut spaced = String::with_capacity(text.len() * 3 / 2);
                if *prefix {
                    spaced.push(SPACE);
                }
                spaced.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
                Cow::Owned(spaced)
            }
            Prepare::Normalize(normalizer) => {
                let mut normalized = NormalizedString::from(text);
                normalizer
                    .normalize(&mut normalized)
                    .map_err(|e| Error::Encode(e.to_string()))?;
                Cow::Owned(normalized.get().to_owned())
            }
        })
    }
}

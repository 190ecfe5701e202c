//! Text to ids by whichever means the files ask for.

use crate::bpe::Bpe;
use crate::error::Result;
use crate::hf::Pipeline;
use crate::partition::{Part, Partition};
use crate::spm::Spm;
use crate::vocab::{Vocab, SPACE};

/// The three ways. The first two are this crate's own, for GGUF: its metadata
/// is a vocabulary without a pipeline, and they are built from it in a tenth of
/// the time that a general-purpose tokenizer takes to build.
pub(crate) enum Encoder {
    /// GGUF's tokenizer model `gpt2`.
    Bpe {
        /// Tokens found before everything else.
        first: Partition,
        /// For the text between them.
        bpe: Box<Bpe>,
    },
    /// GGUF's tokenizer model `llama`.
    Spm {
        /// Tokens found before everything else.
        first: Partition,
        /// For the text between them.
        spm: Box<Spm>,
        /// A space goes before every text, also before one that follows a
        /// token found first.
        prefix_space: bool,
    },
    /// tokenizer.json.
    Pipeline(Box<Pipeline>),
}

impl Encoder {
    /// Appends the ids of `text`.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        parse_special: bool,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        match self {
            Encoder::Bpe { first, bpe } => {
                for part in first.split(text, parse_special) {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(range) => bpe.encode(vocab, &text[range], ids)?,
                    }
                }
                Ok(())
            }
            Encoder::Spm {
                first,
                spm,
                prefix_space,
            } => {
                for part in first.split(text, parse_special) {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(range) => {
                            let mut spaced = String::with_capacity(range.len() * 3 / 2);
                            if *prefix_space {
                                spaced.push(SPACE);
                            }
                            spaced.extend(text[range].chars().map(|c| match c {
                                ' ' => SPACE,
                                c => c,
                            }));
                            spm.encode(vocab, &spaced, ids)?;
                        }
                    }
                }
                Ok(())
            }
            Encoder::Pipeline(pipeline) => pipeline.encode(text, parse_special, ids),
        }
    }
}
